// Latent noise z for whichever kernel draws it: latent.cu alone, batch.cu beside a batch.
#pragma once

#include "philox.cuh"
#include "types.cuh"

namespace {

// z[n][c] = element 4·first_block + n·channels + c of the stream (seed, purpose, *step): Philox4x32-10, then Box–Muller.
// A thread has four elements, those of Philox block number first_block + `block`; ceil(rows·channels / 4) of them make
// all of z. Each row has `stored` ≥ channels + count places: behind the noise go the row's `count` labels, or what is
// there stays where `labels` is null; the rest is zero.
template <typename T>
__device__ void draw_latent(T* z, uint32_t rows, uint32_t channels, uint32_t stored, uint64_t seed, uint32_t purpose,
                            const uint64_t* step, uint32_t first_block, uint32_t block, const int8_t* labels,
                            uint32_t count) {
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
            T* const behind = z + row * stored + channels;
            if (labels != nullptr) {
                for (uint32_t i = 0; i < count; ++i) {
                    behind[i] = from_float<T>(static_cast<float>(labels[uint64_t{row} * count + i]));
                }
            }
            for (uint32_t pad = channels + count; pad < stored; ++pad) z[row * stored + pad] = from_float<T>(0.0f);
        }
    }
}

}  // namespace
