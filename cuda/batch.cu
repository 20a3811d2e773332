// A training batch from u8 pixels on the device: gather, flip, normalise, pad, in one pass.
//
//   images[n][y][x][c] = pixels[index[s]][y][flips[s] ? w − 1 − x : x][c] / 127.5 − 1,
//   s = (iteration % slots)·each + offset + n
//
// Layout: NHWC; `pixels` has c channels, `images` has `stored` ≥ c, those behind c are zero. `flips` has a byte an
// image, `index` a u32, both in `slots` rows of `each`. `index` may be null: then `pixels` is not the whole set, but
// `slots` rows of `each` images one behind the other, and image s is taken. `flips` may be null (none). `iteration`
// is read from the device, and may be null where slots is 1.
// Types: u8 in, f32 arithmetic, T out. Launch: grid (ceil(h·w / THREADS), n), one pixel a thread.
// Bound: memory; c + stored·sizeof(T) bytes a pixel. At 64 px, batch 128, bf16, stored = 8: 10 MB.
// Neighbours: before the discriminator's first convolution.
#include "kernel.cuh"
#include "progress.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

template <typename T>
__device__ void load_batch(const uint8_t* pixels, const uint32_t* index, const uint8_t* flips, T* images, int h, int w,
                           int c, int stored, const uint64_t* iteration, uint32_t slots, uint32_t each,
                           uint32_t offset) {
    const int at = static_cast<int>(blockIdx.x * THREADS + threadIdx.x);
    if (at >= h * w) return;
    const uint32_t n = blockIdx.y;
    const int x = at % w, y = at / w;
    // The image's place in a ring of batches.
    const uint64_t place = uint64_t{ring_slot(iteration, slots)} * each + offset + n;
    const int source_x = flips != nullptr && flips[place] != 0 ? w - 1 - x : x;
    const uint64_t area = uint64_t(h) * uint64_t(w);
    const uint64_t source = index != nullptr ? index[place] : place;
    const uint8_t* from = pixels + (source * area + uint64_t(y) * uint64_t(w) + uint64_t(source_x)) * uint64_t(c);
    T* to = images + (n * area + uint64_t(at)) * uint64_t(stored);
    const bool aligned = stored % VECTOR<T> == 0;
    for (int first = 0; first < stored; first += VECTOR<T>) {
        float values[VECTOR<T>];
#pragma unroll
        for (int i = 0; i < VECTOR<T>; ++i) {
            values[i] = first + i < c ? static_cast<float>(from[first + i]) / 127.5f - 1.0f : 0.0f;
        }
        store_some(to + first, stored - first, aligned, values);
    }
}

}  // namespace

#define BATCH(T)                                                                                                 \
    KERNEL(batch_nhwc_##T, THREADS,                                                                              \
           (const uint8_t* pixels, const uint32_t* index, const uint8_t* flips, T* images, int h, int w, int c,  \
            int stored, const uint64_t* iteration, uint32_t slots, uint32_t each, uint32_t offset)) {            \
        load_batch(pixels, index, flips, images, h, w, c, stored, iteration, slots, each, offset);               \
    }
BATCH(f32)
BATCH(f16)
BATCH(bf16)
