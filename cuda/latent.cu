// Latent noise z: standard normal numbers, the same on every device.
//
//   z[n][c] = element 4·first_block + n·channels + c of the stream (seed, purpose, step): Philox4x32-10, then
//   Box–Muller (philox.cuh, latent.cuh)
//
// Layout: NHWC with h = w = 1; each row has `stored` ≥ channels + labels places: the `labels` behind the noise stay as
// they are, the rest is zero. `step` is read from the device, so that a captured graph draws new noise each time it runs.
// Types: drawn in f32, stored as T. Launch: ceil(rows·channels / (4·THREADS)) blocks of THREADS, one Philox block
// (four elements) a thread.
// Bound: launch latency (27 KB written at batch 128, 100 channels stored as 104, bf16).
// Neighbours: before the generator's first transposed convolution. Where a batch is loaded too, batch.cu draws it.
#include "dependency.cuh"
#include "kernel.cuh"
#include "latent.cuh"

namespace {

constexpr int THREADS = 256;

}  // namespace

#define LATENT(T)                                                                                              \
    KERNEL(latent_nhwc_##T, THREADS,                                                                           \
           (T* z, uint32_t rows, uint32_t channels, uint32_t stored, uint64_t seed, uint32_t purpose,          \
            uint32_t labels, const uint64_t* step, uint32_t first_block)) {                                                     \
        await_previous();                                                                                      \
        let_next_start();                                                                                      \
        const uint32_t block = blockIdx.x * THREADS + threadIdx.x;                                             \
        draw_latent(z, rows, channels, stored, seed, purpose, step, first_block, block, nullptr, labels);                       \
    }
LATENT(f32)
LATENT(f16)
LATENT(bf16)
