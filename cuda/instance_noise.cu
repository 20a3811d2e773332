// Instance noise: what the discriminator sees is blurred by noise that fades (Sønderby et al. 2016, arXiv 1610.04490).
//
//   y[i] = x[i] + σ·(1 − iteration / end)·normal(i)          (σ where `end` is 0, nothing from iteration `end` on)
//   normal(i) = element 4·first_block + i of the stream (seed, purpose, iteration): Philox4x32-10, then Box–Muller
//
// Layout: `count` elements i in rows of `channels`, NHWC here; a row is stored in `stored` ≥ channels places, of
// which the others stay. x and y may be the same. `iteration` is read from the device.
// Types: T in memory, f32 arithmetic. Launch: ceil(count / (VECTOR·THREADS)) blocks of THREADS; VECTOR is 4 for f32,
// else 8, elements a thread.
// Bound: memory; 2·sizeof(T) bytes an element. At 64 px, batch 128, bf16: 6.3 MB.
// Neighbours: behind batch.cu or the generator's last convolution; before the discriminator's first.
#include "dependency.cuh"
#include "kernel.cuh"
#include "philox.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

template <typename T>
__device__ void add_noise(const T* x, T* y, uint32_t count, uint32_t channels, uint32_t stored, double sigma,
                          uint64_t end, uint64_t seed, uint32_t purpose, const uint64_t* iteration, uint32_t first_block) {
    const uint32_t first = VECTOR<T> * (blockIdx.x * THREADS + threadIdx.x);
    if (first >= count) return;
    const uint64_t t = *iteration;
    double left = 1.0;
    if (end != 0) left = t < end ? static_cast<double>(end - t) / static_cast<double>(end) : 0.0;
    const float deviation = static_cast<float>(sigma * left);
    const int valid = static_cast<int>(min(count - first, static_cast<uint32_t>(VECTOR<T>)));
    // Where rows have nothing behind them, element i lies at i.
    const bool dense = channels == stored;
    uint32_t at[VECTOR<T>];
    float values[VECTOR<T>];
    if (dense) {
        load_some(x + first, valid, true, 0.0f, values);
    } else {
#pragma unroll
        for (int i = 0; i < VECTOR<T>; ++i) {
            const uint32_t row = (first + i) / channels;
            at[i] = row * stored + (first + i - row * channels);
            values[i] = i < valid ? to_float(x[at[i]]) : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < VECTOR<T>; i += 4) {
        const uint4 words = philox(seed, purpose, t, first_block + first / 4 + i / 4);
        const float2 a = box_muller(words.x, words.y), b = box_muller(words.z, words.w);
        const float normal[4] = {a.x, a.y, b.x, b.y};
#pragma unroll
        for (int j = 0; j < 4; ++j) values[i + j] = fmaf(deviation, normal[j], values[i + j]);
    }
    if (dense) {
        store_some(y + first, valid, true, values);
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) {
        if (i < valid) y[at[i]] = from_float<T>(values[i]);
    }
}

}  // namespace

#define INSTANCE_NOISE(T)                                                                                      \
    KERNEL(instance_noise_nhwc_##T, THREADS,                                                                   \
           (const T* x, T* y, uint32_t count, uint32_t channels, uint32_t stored, double sigma, uint64_t end,  \
            uint64_t seed, uint32_t purpose, const uint64_t* iteration, uint32_t first_block)) {               \
        await_previous();                                                                                      \
        let_next_start();                                                                                      \
        add_noise(x, y, count, channels, stored, sigma, end, seed, purpose, iteration, first_block);           \
    }
INSTANCE_NOISE(f32)
INSTANCE_NOISE(f16)
INSTANCE_NOISE(bf16)
