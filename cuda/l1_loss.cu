// How far generated images are from what they should be, and its gradient on top of the discriminator's.
//
//   distance = 1/m Σ |x − t|     gradient = through + weight/m·loss_scale·sign(x − t), sign(0) = 0     m = pixels·channels
//
// ring[iteration % slots].losses[slot][0] = distance; nothing else of the ring is written.
// Layout: NHWC, each map in rows of its own stored channels, whole 16-byte vectors; the first `channels` of a row count,
// at most a vector. Those behind them are 0 in gradient. `partial` has room for a double a block; `arrived` is 0 between
// launches. `loss_scale` and `iteration` are read from the device.
// Types: T in memory, f32 terms, f64 sums in a fixed order. Launch: at most 1024 blocks of THREADS, each of which takes
// EACH·THREADS pixels, and goes on where there are more; the last to arrive adds up.
// Bound: memory; 4 vectors of 16 bytes a pixel. At 64 px, batch 128, bf16: 34 MB.
// Neighbours: behind the discriminator's backward pass, before the generator's.
#include "arrival.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "progress.cuh"
#include "reduce.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;
constexpr uint32_t EACH = 4;

// A map in rows of `stored`.
template <typename T>
struct Rows {
    const T* rows;
    uint32_t stored;

    __device__ __forceinline__ void load(uint32_t pixel, float (&to)[VECTOR<T>]) const {
        load_vector(rows + uint64_t{pixel} * stored, to);
    }
};

template <typename T>
__device__ __forceinline__ void l1_loss(const Rows<T>& x, const Rows<T>& truth, const Rows<T>& through, T* gradient,
                                        uint32_t pixels, uint32_t channels, double weight, const float* loss_scale,
                                        double* partial, uint32_t* arrived, Metrics* ring, const uint64_t* iteration,
                                        uint32_t slots, uint32_t slot) {
    constexpr int V = VECTOR<T>;
    const double elements = static_cast<double>(pixels) * channels;
    const float factor = static_cast<float>(weight / elements) * *loss_scale;
    double sum = 0.0;
    for (uint64_t base = uint64_t{blockIdx.x} * (EACH * THREADS); base < pixels; base += uint64_t{gridDim.x} * EACH * THREADS) {
        for (uint32_t u = 0; u < EACH; ++u) {
            const uint64_t at = base + u * THREADS + threadIdx.x;
            if (at >= pixels) break;
            const uint32_t pixel = static_cast<uint32_t>(at);
            float is[V], should[V], values[V];
            x.load(pixel, is);
            truth.load(pixel, should);
            through.load(pixel, values);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const float difference = is[i] - should[i];
                if (i < static_cast<int>(channels)) {
                    sum += static_cast<double>(fabsf(difference));
                    // And where it is no number.
                    const float sign = difference > 0.0f ? 1.0f : difference < 0.0f ? -1.0f : difference;
                    values[i] += factor * sign;
                } else {
                    values[i] = 0.0f;
                }
            }
            store_vector(gradient + at * x.stored, values);
        }
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    if (!last_to_arrive(arrived, gridDim.x)) return;
    sum = 0.0;
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += THREADS) sum += __ldcg(partial + i);
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) ring[ring_slot(iteration, slots)].losses[slot][0] = static_cast<float>(sum / elements);
}

}  // namespace

#define L1_LOSS(T)                                                                                                   \
    KERNEL(l1_loss_nhwc_##T, THREADS,                                                                                \
           (const T* x, uint32_t stored, const T* truth, uint32_t truth_stored, const T* through,                    \
            uint32_t through_stored, T* gradient, uint32_t pixels, uint32_t channels, double weight,                 \
            const float* loss_scale, double* partial, uint32_t* arrived, Metrics* ring, const uint64_t* iteration,   \
            uint32_t slots, uint32_t slot)) {                                                                        \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        const Rows<T> images{x, stored}, wanted{truth, truth_stored}, on_top{through, through_stored};               \
        l1_loss(images, wanted, on_top, gradient, pixels, channels, weight, loss_scale, partial, arrived, ring,      \
                iteration, slots, slot);                                                                             \
    }
L1_LOSS(f32)
L1_LOSS(f16)
L1_LOSS(bf16)
