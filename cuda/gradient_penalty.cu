// Penalties on the gradient of the discriminator by its input (R1, R2: Mescheder et al. 2018, arXiv 1801.04406): what the
// passes of src/backend/cuda/penalty.rs need beside convolutions.
//
//   norm   ring[iteration % slots].losses[first + s][0] = Σ g² / (loss_scale · weight_s), where weight_s > 0
//   add    to[i] += from[i]
//
// g carries √(loss_scale · weight / n): the sum over the n images of segment s is loss_scale · weight · mean‖∇D‖².
// radial[s] += Σ g², unless null: under spectral norm the penalty is of the second degree in each weight, and Adam takes
// as much along its singular vectors (adam.cuh).
// Layout: g [segments][elements], whole 16-byte vectors, whose channels behind the image's are 0; to, from f32, aligned to
// 16 bytes. `partial` has room for a double a block; `arrived` is 0 between launches.
// Types: T in memory, f32 squares of a vector, f64 sums in a fixed order. Launch: norm segments·blocks of THREADS, at most
// 1024 in all, the last to arrive adds up; add ceil(count / (4·EACH·THREADS)) blocks of THREADS.
// Bound: memory; norm sizeof(T) bytes an element, add 12.
// Neighbours: norm behind the backward pass through the discriminator, before the forward pass of its result; add behind
// conv_wgrad.cu, before adam.cu.
#include "arrival.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "progress.cuh"
#include "reduce.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;
// Vectors that a thread has under way.
constexpr int EACH = 4;

template <typename T>
__device__ __forceinline__ void gradient_penalty_norm(const T* g, uint64_t elements, uint32_t blocks, double weight0,
                                                      double weight1, const float* loss_scale, double* partial,
                                                      uint32_t* arrived, Metrics* ring, const uint64_t* iteration,
                                                      uint32_t slots, uint32_t first, float* radial) {
    constexpr int V = VECTOR<T>;
    const uint32_t segment = blockIdx.x / blocks, block = blockIdx.x - segment * blocks;
    const T* const of = g + segment * elements;
    const uint64_t vectors = elements / V, step = uint64_t{blocks} * EACH * THREADS;
    double sum = 0.0;
    for (uint64_t base = uint64_t{block} * (EACH * THREADS); base < vectors; base += step) {
        float squares = 0.0f;
#pragma unroll
        for (int k = 0; k < EACH; ++k) {
            const uint64_t at = base + k * THREADS + threadIdx.x;
            if (at >= vectors) continue;
            float values[V];
            load_vector(of + at * V, values);
#pragma unroll
            for (int i = 0; i < V; ++i) squares += values[i] * values[i];
        }
        sum += static_cast<double>(squares);
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    if (!last_to_arrive(arrived, gridDim.x)) return;
    double sums[2] = {};
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += THREADS) {
        const double term = __ldcg(partial + i);
        sums[0] += i < blocks ? term : 0.0;
        sums[1] += i < blocks ? 0.0 : term;
    }
    const double total = block_sums<THREADS>(sums);
    const double weight = threadIdx.x == 0 ? weight0 : weight1;
    if (threadIdx.x >= gridDim.x / blocks) return;
    if (radial != nullptr) radial[threadIdx.x] += static_cast<float>(total);
    if (!(weight > 0.0)) return;
    const double factor = static_cast<double>(*loss_scale) * weight;
    ring[ring_slot(iteration, slots)].losses[first + threadIdx.x][0] = static_cast<float>(total / factor);
}

}  // namespace

#define GRADIENT_PENALTY(T)                                                                                          \
    KERNEL(gradient_penalty_norm_nhwc_##T, THREADS,                                                                  \
           (const T* g, uint64_t elements, uint32_t blocks, double weight0, double weight1, const float* loss_scale, \
            double* partial, uint32_t* arrived, Metrics* ring, const uint64_t* iteration, uint32_t slots,            \
            uint32_t first, float* radial)) {                                                                        \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        gradient_penalty_norm(g, elements, blocks, weight0, weight1, loss_scale, partial, arrived, ring, iteration,  \
                              slots, first, radial);                                                                 \
    }
GRADIENT_PENALTY(f32)
GRADIENT_PENALTY(f16)
GRADIENT_PENALTY(bf16)

KERNEL(gradient_penalty_add_f32, THREADS, (float* to, const float* from, uint64_t count)) {
    await_previous();
    let_next_start();
    const uint64_t first = uint64_t{blockIdx.x} * (4 * EACH * THREADS) + 4 * threadIdx.x;
    float values[EACH][4], extra[EACH][4];
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
        const uint64_t at = first + k * 4 * THREADS;
        const int valid = at < count ? static_cast<int>(min(count - at, uint64_t{4})) : 0;
        load_some(to + at, valid, true, 0.0f, values[k]);
        load_some(from + at, valid, true, 0.0f, extra[k]);
    }
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
        const uint64_t at = first + k * 4 * THREADS;
        const int valid = at < count ? static_cast<int>(min(count - at, uint64_t{4})) : 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) values[k][i] += extra[k][i];
        store_some(to + at, valid, true, values[k]);
    }
}
