// Latent noise z: standard normal numbers, the same on every device.
//
//   z[n][c] = element 4·first_block + n·channels + c of the stream (seed, purpose, step): Philox4x32-10, then
// Box–Muller (philox.cuh)
//
// Layout: NHWC with h = w = 1; each row has `stored` ≥ channels places, the rest is zero. `step` is read from the
// device, so that a captured graph draws new noise each time it runs.
// Types: drawn in f32, stored as T. Launch: ceil(rows·channels / (4·THREADS)) blocks of THREADS, one Philox block
// (four elements) a thread.
// Bound: launch latency (27 KB written at batch 128, 100 channels stored as 104, bf16).
// Neighbours: before the generator's first transposed convolution.
#include "kernel.cuh"
#include "philox.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

template <typename T>
__device__ void draw_latent(T* z, uint32_t rows, uint32_t channels, uint32_t stored, uint64_t seed, uint32_t purpose,
                            const uint64_t* step, uint32_t first_block) {
    const uint32_t block = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t first = 4 * block;
    if (first >= rows * channels) return;
    const uint4 words = philox(seed, purpose, *step, first_block + block);
    const float2 a = box_muller(words.x, words.y), b = box_muller(words.z, words.w);
    const float values[4] = {a.x, a.y, b.x, b.y};
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t element = first + i;
        if (element >= rows * channels) break;
        const uint32_t row = element / channels, channel = element % channels;
        z[row * stored + channel] = from_float<T>(values[i]);
        if (channel == channels - 1) {
            for (uint32_t pad = channels; pad < stored; ++pad) z[row * stored + pad] = from_float<T>(0.0f);
        }
    }
}

}  // namespace

#define LATENT(T)                                                                                              \
    KERNEL(latent_nhwc_##T, THREADS,                                                                           \
           (T* z, uint32_t rows, uint32_t channels, uint32_t stored, uint64_t seed, uint32_t purpose,          \
            const uint64_t* step, uint32_t first_block)) {                                                     \
        draw_latent(z, rows, channels, stored, seed, purpose, step, first_block);                              \
    }
LATENT(f32)
LATENT(f16)
LATENT(bf16)
