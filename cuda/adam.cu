// Adam over all tensors of a network in one launch, with all that goes with it (arXiv 1412.6980, as torch.optim.Adam).
//
//   g = gradient / loss_scale       m ← β₁m + (1 − β₁)g       v ← β₂v + (1 − β₂)g²
//   w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)            cast ← w as T
//   average ← d·average + (1 − d)·w, d = min(decay, (1 + iteration)/(10 + iteration))
//
// lr is the learning rate times state.rate; a rate of 0 leaves the step out. `not_finite` is not 0 where a gradient is
// not a finite number: whatever makes gradients sets it, or adam_finite does; then the step is skipped. Either way only
// the average moves, which starts with a low decay, so that a short run's forgets the initial weights; a decay of 0
// means that there is none.
//
// adam_<T> is all of a step: its last block counts it, moves the loss scale, prepares the next step's corrections,
// reports to the ring with the gradient's norm, resets `not_finite` and may end the iteration. All blocks have read
// what it changes before they arrive. adam_prepare makes the corrections fit `taken` after the host has set it.
//
// Layout: `tensors` describes each tensor; all arrays of one have `count` elements in the same order, 16-byte aligned.
// Block b takes elements CHUNK·(b − first_block) and on of the tensor with the last first_block ≤ b, and leaves the sum
// of its gradients' squares in squares[b]. `arrived` and `not_finite` are one u32 each, 0 between steps.
// Types: f32 state and gradient, T cast, f64 sums over blocks in a fixed order. Launch: Σ ceil(count / CHUNK) blocks of
// THREADS; adam_prepare one block.
// Bound: memory; 28 bytes an element (4 read, 3 written, f32) + sizeof(T), 8 for the average, and 4 for adam_finite. At
// width 64, 64 px (6.3 M parameters in both networks, 3.6 M averaged): 219 MB an iteration in bf16, and 25 for
// adam_finite.
// Neighbours: behind the weight gradients and batch norm's; before the next forward pass, which reads `cast`. The last
// step of an iteration is the last that reads its number.
#include "adam.cuh"
#include "arrival.cuh"
#include "kernel.cuh"
#include "progress.cuh"
#include "reduce.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;
constexpr uint32_t CHUNK = 4096;

struct Chunk {
    AdamTensor tensor;
    uint64_t first, end;
};

__device__ __forceinline__ Chunk find_chunk(const AdamTensor* tensors, uint32_t count) {
    STATIC_SHARED(uint32_t, found, [1]);
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        const bool begun = tensors[i].first_block <= blockIdx.x;
        const bool over = i + 1 < count && tensors[i + 1].first_block <= blockIdx.x;
        if (begun && !over) found[0] = i;
    }
    __syncthreads();
    Chunk chunk;
    chunk.tensor = tensors[found[0]];
    chunk.first = uint64_t{blockIdx.x - chunk.tensor.first_block} * CHUNK;
    chunk.end = min(chunk.tensor.count, chunk.first + CHUNK);
    return chunk;
}

// The same for all threads of a block: one of them makes them from what is read on the device.
struct Coefficients {
    float beta1, beta2, one_minus_beta1, one_minus_beta2, step_size, inverse_root, eps, unscale;
    // Of the average.
    float keep, take;
    bool moves;
};

__device__ __forceinline__ Coefficients coefficients(const AdamState* state, const uint32_t* not_finite, double lr,
                                                     double beta1, double beta2, double eps, double decay,
                                                     const uint64_t* iteration) {
    const double t = static_cast<double>(*iteration);
    const double d = min(decay, (1.0 + t) / (10.0 + t));
    return {static_cast<float>(beta1),
            static_cast<float>(beta2),
            static_cast<float>(1.0 - beta1),
            static_cast<float>(1.0 - beta2),
            static_cast<float>(lr) * state->rate / state->correction1,
            1.0f / state->correction2,
            static_cast<float>(eps),
            1.0f / state->loss_scale,
            static_cast<float>(d),
            static_cast<float>(1.0 - d),
            *not_finite == 0 && state->rate != 0.0f};
}

__device__ __forceinline__ void update(const Coefficients& k, float gradient, float& w, float& m, float& v) {
    const float g = gradient * k.unscale;
    m = k.beta1 * m + k.one_minus_beta1 * g;
    v = k.beta2 * v + k.one_minus_beta2 * g * g;
    w -= k.step_size * m / (sqrtf(v) * k.inverse_root + k.eps);
}

template <typename T>
struct alignas(4 * sizeof(T)) Four {
    T element[4];
};

template <typename T>
__device__ __forceinline__ void store_four(T* to, int valid, const float (&from)[4]) {
    if (valid >= 4) {
        Four<T> four;
#pragma unroll
        for (int j = 0; j < 4; ++j) four.element[j] = from_float<T>(from[j]);
        *reinterpret_cast<Four<T>*>(to) = four;
        return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        if (j < valid) to[j] = from_float<T>(from[j]);
    }
}

// The block's elements; returns the sum of the squares of the thread's gradients. At most 16: f32 is enough for them,
// and f64 is slow. WHOLE: the chunk has CHUNK elements, so that nothing stands between one load and the next.
template <typename T, bool WHOLE>
__device__ __forceinline__ float move_chunk(const Chunk& chunk, const Coefficients& k, bool averages) {
    constexpr uint32_t AT_ONCE = 2, STRIDE = 4 * THREADS;
    const AdamTensor& a = chunk.tensor;
    T* const cast = static_cast<T*>(a.cast);
    float sum = 0.0f;
    for (uint64_t first = chunk.first + 4 * threadIdx.x; first < chunk.end; first += AT_ONCE * STRIDE) {
        float g[AT_ONCE][4], w[AT_ONCE][4], m[AT_ONCE][4], v[AT_ONCE][4], average[AT_ONCE][4];
        int valid[AT_ONCE];
#pragma unroll
        for (uint32_t u = 0; u < AT_ONCE; ++u) {
            const uint64_t i = first + u * STRIDE;
            valid[u] = WHOLE ? 4 : i < chunk.end ? static_cast<int>(min(chunk.end - i, uint64_t{4})) : 0;
            load_some(a.gradient + i, valid[u], true, 0.0f, g[u]);
        }
        if (k.moves || averages) {
#pragma unroll
            for (uint32_t u = 0; u < AT_ONCE; ++u) load_some(a.weight + first + u * STRIDE, valid[u], true, 0.0f, w[u]);
        }
        if (k.moves) {
#pragma unroll
            for (uint32_t u = 0; u < AT_ONCE; ++u) {
                load_some(a.m + first + u * STRIDE, valid[u], true, 0.0f, m[u]);
                load_some(a.v + first + u * STRIDE, valid[u], true, 0.0f, v[u]);
            }
        }
        if (averages) {
#pragma unroll
            for (uint32_t u = 0; u < AT_ONCE; ++u) {
                load_some(a.average + first + u * STRIDE, valid[u], true, 0.0f, average[u]);
            }
        }
#pragma unroll
        for (uint32_t u = 0; u < AT_ONCE; ++u) {
            const uint64_t i = first + u * STRIDE;
#pragma unroll
            for (int j = 0; j < 4; ++j) sum += g[u][j] * g[u][j];
            if (k.moves) {
#pragma unroll
                for (int j = 0; j < 4; ++j) update(k, g[u][j], w[u][j], m[u][j], v[u][j]);
                store_some(a.weight + i, valid[u], true, w[u]);
                store_some(a.m + i, valid[u], true, m[u]);
                store_some(a.v + i, valid[u], true, v[u]);
                if (cast != nullptr) store_four(cast + i, valid[u], w[u]);
            }
            if (averages) {
#pragma unroll
                for (int j = 0; j < 4; ++j) average[u][j] = k.keep * average[u][j] + k.take * w[u][j];
                store_some(a.average + i, valid[u], true, average[u]);
            }
        }
    }
    return sum;
}

__device__ void prepare(AdamState* state, double beta1, double beta2) {
    const double t = static_cast<double>(state->taken + 1);
    state->correction1 = static_cast<float>(1.0 - pow(beta1, t));
    state->correction2 = static_cast<float>(sqrt(1.0 - pow(beta2, t)));
}

// What comes of a step. `growth_interval` steps without a skip double the loss scale and a skipped one halves it, within
// its bounds; 0 keeps it as it is. `sum` is that of all gradients' squares.
__device__ void finish(AdamState* state, bool skip, double sum, double beta1, double beta2, uint32_t growth_interval,
                       Metrics* ring, const uint64_t* iteration, uint32_t slots, uint32_t network) {
    const float norm = static_cast<float>(sqrt(sum) / static_cast<double>(state->loss_scale));
    const bool leave_out = state->rate == 0.0f;
    state->skipped += skip ? 1 : 0;
    state->left_out += !skip && leave_out ? 1 : 0;
    state->taken += skip || leave_out ? 0 : 1;
    if (growth_interval != 0 && (skip || !leave_out)) {
        state->steady = skip ? 0 : state->steady + 1;
        const bool grow = state->steady >= growth_interval;
        if (grow) state->steady = 0;
        const float scale = state->loss_scale * (skip ? 0.5f : grow ? 2.0f : 1.0f);
        // Without an end it comes to infinity, which no skip halves, or to zero, which nothing can be divided by.
        state->loss_scale = fminf(fmaxf(scale, LEAST_LOSS_SCALE), MOST_LOSS_SCALE);
    }
    prepare(state, beta1, beta2);
    Metrics& entry = ring[ring_slot(iteration, slots)];
    entry.iteration = *iteration;
    entry.steps[network][0] = state->taken;
    entry.steps[network][1] = state->skipped;
    entry.steps[network][2] = state->left_out;
    entry.loss_scale[network] = state->loss_scale;
    entry.gradient_norm[network] = norm;
    entry.rate[network] = state->rate;
}

template <typename T>
__device__ void adam(const AdamTensor* tensors, uint32_t count, AdamState* state, uint32_t* not_finite, double lr,
                     double beta1, double beta2, double eps, double decay, uint32_t growth_interval, double* squares,
                     uint32_t* arrived, Metrics* ring, uint64_t* iteration, uint32_t slots, uint32_t network,
                     uint32_t advance) {
    STATIC_SHARED(Coefficients, shared, [1]);
    // The barrier is find_chunk's.
    if (threadIdx.x == 0) shared[0] = coefficients(state, not_finite, lr, beta1, beta2, eps, decay, iteration);
    const Chunk chunk = find_chunk(tensors, count);
    const Coefficients k = shared[0];
    const bool averages = decay > 0.0 && chunk.tensor.average != nullptr;
    const bool whole = chunk.end - chunk.first == CHUNK;
    const float own = whole ? move_chunk<T, true>(chunk, k, averages) : move_chunk<T, false>(chunk, k, averages);
    const double total = block_sum<THREADS>(static_cast<double>(own));
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
    if (!last_to_arrive(arrived, gridDim.x)) return;
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += THREADS) sum += __ldcg(squares + i);
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x != 0) return;
    finish(state, *not_finite != 0, sum, beta1, beta2, growth_interval, ring, iteration, slots, network);
    *not_finite = 0;
    if (advance != 0) *iteration += 1;
}

}  // namespace

// For gradients that none of our kernels has made: sets `not_finite` where one of them is not a finite number. Every
// block that finds one writes the same 1: the order does not matter.
KERNEL(adam_finite, THREADS, (const AdamTensor* tensors, uint32_t count, uint32_t* not_finite)) {
    const Chunk chunk = find_chunk(tensors, count);
    bool finite = true;
#pragma unroll 4
    for (uint64_t i = chunk.first + 4 * threadIdx.x; i < chunk.end; i += 4 * THREADS) {
        float g[4];
        load_some(chunk.tensor.gradient + i, static_cast<int>(min(chunk.end - i, uint64_t{4})), true, 0.0f, g);
#pragma unroll
        for (int j = 0; j < 4; ++j) finite = finite && isfinite(g[j]);
    }
    if (!finite) *not_finite = 1;
}

KERNEL(adam_prepare, 32, (AdamState* state, double beta1, double beta2)) {
    if (threadIdx.x == 0) prepare(state, beta1, beta2);
}

#define ADAM(T)                                                                                                     \
    KERNEL(adam_##T, THREADS,                                                                                       \
           (const AdamTensor* tensors, uint32_t count, AdamState* state, uint32_t* not_finite, double lr,           \
            double beta1, double beta2, double eps, double decay, uint32_t growth_interval, double* squares,        \
            uint32_t* arrived, Metrics* ring, uint64_t* iteration, uint32_t slots, uint32_t network,                \
            uint32_t advance)) {                                                                                    \
        adam<T>(tensors, count, state, not_finite, lr, beta1, beta2, eps, decay, growth_interval, squares, arrived, \
                ring, iteration, slots, network, advance);                                                          \
    }
ADAM(f32)
ADAM(f16)
ADAM(bf16)
