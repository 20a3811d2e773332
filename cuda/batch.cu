// A training batch from u8 pixels on the device, and the noise that goes with it: gather, flip, normalise, pad; draw.
//
//   images[n][y][x][c] = pixels[index[s]][y][flips[s] ? w − 1 − x : x][c] / 127.5 − 1,
//   s = (iteration % slots)·each + offset + n
//   z as latent.cuh draws it, with `iteration` for its step, and behind it the labels of image s
//
// Layout: NHWC; `pixels` has c channels, `images` has `stored` ≥ c, those behind c are zero. `flips` has a byte an
// image, `labels` `count` i8 an image, `index` a u32, all in `slots` rows of `each`. `index` may be null: then `pixels` is not the whole set, but
// `slots` rows of `each` images one behind the other, and image s is taken. `flips` may be null (none), and `labels` where count is 0. `iteration`
// is read from the device, and may be null where slots is 1 and there is no noise.
// Types: u8 in, f32 arithmetic, T out. Launch: noise_blocks + n·ceil(h·w / PIXELS) blocks of THREADS. The first
// noise_blocks = ceil(rows·channels / (4·THREADS)), or 0, draw z: they take longest. Every other has PIXELS pixels of
// one image, a thread EACH of them.
// Bound: memory; c + stored·sizeof(T) bytes a pixel. At 64 px, batch 128, bf16, stored = 8: 10 MB.
// Neighbours: before the discriminator's first convolution and the generator's.
#include "dependency.cuh"
#include "kernel.cuh"
#include "latent.cuh"
#include "progress.cuh"

namespace {

constexpr uint32_t THREADS = 256, EACH = 2, PIXELS = EACH * THREADS;

template <typename T>
__device__ void load_batch(const uint8_t* pixels, const uint32_t* index, const uint8_t* flips, T* images, uint32_t h,
                           uint32_t w, uint32_t c, uint32_t stored, const uint64_t* iteration, uint32_t slots,
                           uint32_t each, uint32_t offset, uint32_t block) {
    constexpr uint32_t V = VECTOR<T>;
    const uint32_t area = h * w, blocks = (area + PIXELS - 1) / PIXELS;
    const uint32_t n = block / blocks, first = (block - n * blocks) * PIXELS + threadIdx.x;
    // The image's place in a ring of batches.
    const uint64_t place = uint64_t{ring_slot(iteration, slots)} * each + offset + n;
    const bool mirrored = flips != nullptr && flips[place] != 0;
    const uint64_t source = index != nullptr ? index[place] : place;
    const uint8_t* const from = pixels + source * area * c;
    T* const to = images + uint64_t{n} * area * stored;
    const bool aligned = stored % V == 0;
    for (uint32_t channel = 0; channel < stored; channel += V) {
        // All loads before the first store; a thread behind the last pixel loads that one.
        uint8_t loaded[EACH][V];
#pragma unroll
        for (uint32_t u = 0; u < EACH; ++u) {
            const uint32_t pixel = min(first + u * THREADS, area - 1), x = pixel % w;
            const uint64_t at = uint64_t{mirrored ? pixel - x + w - 1 - x : pixel} * c + channel;
#pragma unroll
            for (uint32_t i = 0; i < V; ++i) loaded[u][i] = channel + i < c ? from[at + i] : uint8_t{0};
        }
#pragma unroll
        for (uint32_t u = 0; u < EACH; ++u) {
            const uint32_t pixel = first + u * THREADS;
            if (pixel >= area) break;
            float values[V];
#pragma unroll
            for (uint32_t i = 0; i < V; ++i) {
                values[i] = channel + i < c ? static_cast<float>(loaded[u][i]) / 127.5f - 1.0f : 0.0f;
            }
            const int valid = static_cast<int>(stored - channel);
            store_some(to + uint64_t{pixel} * stored + channel, valid, aligned, values);
        }
    }
}

}  // namespace

#define BATCH(T)                                                                                                     \
    KERNEL_OCCUPANCY(batch_nhwc_##T, THREADS, 4,                                                                     \
           (const uint8_t* pixels, const uint32_t* index, const uint8_t* flips, T* images, uint32_t h, uint32_t w,   \
            uint32_t c, uint32_t stored, const uint64_t* iteration, uint32_t slots, uint32_t each, uint32_t offset,  \
            uint32_t noise_blocks, T* z, uint32_t rows, uint32_t channels, uint32_t z_stored, uint64_t seed,         \
            uint32_t purpose, uint32_t first_block, const int8_t* labels, uint32_t count)) {                                                               \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        if (blockIdx.x < noise_blocks) {                                                                             \
            const uint32_t block = blockIdx.x * THREADS + threadIdx.x;                                               \
            if (labels != nullptr) {                                                                                 \
                labels += (uint64_t{ring_slot(iteration, slots)} * each + offset) * count;                           \
            }                                                                                                        \
            draw_latent(z, rows, channels, z_stored, seed, purpose, iteration, first_block, block, labels, count);   \
        } else {                                                                                                     \
            load_batch(pixels, index, flips, images, h, w, c, stored, iteration, slots, each, offset,                \
                       blockIdx.x - noise_blocks);                                                                   \
        }                                                                                                            \
    }
BATCH(f32)
BATCH(f16)
BATCH(bf16)
