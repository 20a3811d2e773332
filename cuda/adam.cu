// Adam over all tensors of a network in one launch, with what goes with it (arXiv 1412.6980, as torch.optim.Adam).
//
//   g = gradient / loss_scale       m ← β₁m + (1 − β₁)g       v ← β₂v + (1 − β₂)g²
//   w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)            cast ← w as T
//
// lr is the learning rate times state.rate; a rate of 0 leaves the step out.
//
// A step: adam_finite (sets state.not_finite where a gradient is not a finite number, and sums squares for the norm),
// adam_<T> (leaves everything as it is then), adam_finish (counts, moves the loss scale, prepares the next step's
// corrections, reports to the ring).
// adam_average moves the average of the weights. adam_prepare makes the corrections fit `taken` after the host has set
// it.
//
// Layout: `tensors` describes each tensor; all arrays of one have `count` elements in the same order, 16-byte aligned.
// Block b takes elements CHUNK·(b − first_block) and on of the tensor with the last first_block ≤ b.
// Types: f32 state and gradient, T cast. Launch: Σ ceil(count / CHUNK) blocks of THREADS; adam_prepare and adam_finish
// one block.
// Bound: memory; 28 bytes an element (4 read, 3 written, f32) + sizeof(T), and 4 for the check. At width 64, 64 px
// (6.3 M parameters in both networks): 215 MB an iteration in bf16.
// Neighbours: behind the weight gradients and batch norm's; before the next forward pass, which reads `cast`.
#include "adam.cuh"
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

struct Coefficients {
    float beta1, beta2, one_minus_beta1, one_minus_beta2, step_size, root, eps, unscale;
};

__device__ __forceinline__ void update(const Coefficients& k, float gradient, float& w, float& m, float& v) {
    const float g = gradient * k.unscale;
    m = k.beta1 * m + k.one_minus_beta1 * g;
    v = k.beta2 * v + k.one_minus_beta2 * g * g;
    w -= k.step_size * m / (sqrtf(v) / k.root + k.eps);
}

template <typename T>
__device__ void adam(const AdamTensor* tensors, uint32_t count, const AdamState* state, double lr, double beta1,
                     double beta2, double eps) {
    const Chunk chunk = find_chunk(tensors, count);
    if (state->not_finite != 0 || state->rate == 0.0f) return;
    const AdamTensor& a = chunk.tensor;
    const Coefficients k = {static_cast<float>(beta1),
                            static_cast<float>(beta2),
                            static_cast<float>(1.0 - beta1),
                            static_cast<float>(1.0 - beta2),
                            static_cast<float>(lr) * state->rate / state->correction1,
                            state->correction2,
                            static_cast<float>(eps),
                            1.0f / state->loss_scale};
    T* const cast = static_cast<T*>(a.cast);
    for (uint64_t i = chunk.first + 4 * threadIdx.x; i < chunk.end; i += 4 * THREADS) {
        const int valid = static_cast<int>(min(chunk.end - i, uint64_t{4}));
        float g[4], w[4], m[4], v[4];
        load_some(a.gradient + i, valid, true, 0.0f, g);
        load_some(a.weight + i, valid, true, 0.0f, w);
        load_some(a.m + i, valid, true, 0.0f, m);
        load_some(a.v + i, valid, true, 0.0f, v);
#pragma unroll
        for (int j = 0; j < 4; ++j) update(k, g[j], w[j], m[j], v[j]);
        store_some(a.weight + i, valid, true, w);
        store_some(a.m + i, valid, true, m);
        store_some(a.v + i, valid, true, v);
        if (cast != nullptr) {
            for (int j = 0; j < valid; ++j) cast[i + j] = from_float<T>(w[j]);
        }
    }
}

__device__ void prepare(AdamState* state, double beta1, double beta2) {
    const double t = static_cast<double>(state->taken + 1);
    state->correction1 = static_cast<float>(1.0 - pow(beta1, t));
    state->correction2 = static_cast<float>(sqrt(1.0 - pow(beta2, t)));
}

}  // namespace

// Every block that finds one writes the same 1: the order does not matter. squares[block] gets the block's sum.
KERNEL(adam_finite, THREADS, (const AdamTensor* tensors, uint32_t count, AdamState* state, double* squares)) {
    const Chunk chunk = find_chunk(tensors, count);
    bool finite = true;
    // At most 16 elements a thread: f32 is enough for them, and f64 is slow.
    float sum = 0.0f;
    for (uint64_t i = chunk.first + 4 * threadIdx.x; i < chunk.end; i += 4 * THREADS) {
        float g[4];
        load_some(chunk.tensor.gradient + i, static_cast<int>(min(chunk.end - i, uint64_t{4})), true, 0.0f, g);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            finite = finite && isfinite(g[j]);
            sum += g[j] * g[j];
        }
    }
    if (!finite) state->not_finite = 1;
    const double total = block_sum<THREADS>(static_cast<double>(sum));
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

KERNEL(adam_prepare, 32, (AdamState* state, double beta1, double beta2)) {
    if (threadIdx.x != 0) return;
    state->not_finite = 0;
    prepare(state, beta1, beta2);
}

// `growth_interval` steps without a skip double the loss scale and a skipped one halves it, within its bounds; 0 keeps
// it as it is. Then ring[iteration % slots] gets the iteration and what `network` has come to. `squares` are the sums of
// adam_finite's `blocks`.
KERNEL(adam_finish, THREADS,
       (AdamState* state, const double* squares, uint32_t blocks, double beta1, double beta2, uint32_t growth_interval,
        Metrics* ring, const uint64_t* iteration, uint32_t slots, uint32_t network)) {
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < blocks; i += THREADS) sum += squares[i];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x != 0) return;
    const float norm = static_cast<float>(sqrt(sum) / static_cast<double>(state->loss_scale));
    const bool skip = state->not_finite != 0, leave_out = state->rate == 0.0f;
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
    state->not_finite = 0;
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

// average ← d·average + (1 − d)·weight, d = min(decay, (1 + t)/(10 + t)), t = iteration: it starts low, so that a short
// run's average forgets the initial weights.
KERNEL(adam_average, THREADS,
       (const AdamTensor* tensors, uint32_t count, double decay, const uint64_t* iteration)) {
    // One thread a block divides: f64 is slow. The barrier is find_chunk's.
    STATIC_SHARED(float, factors, [2]);
    if (threadIdx.x == 0) {
        const double t = static_cast<double>(*iteration);
        const double d = min(decay, (1.0 + t) / (10.0 + t));
        factors[0] = static_cast<float>(d);
        factors[1] = static_cast<float>(1.0 - d);
    }
    const Chunk chunk = find_chunk(tensors, count);
    const AdamTensor& a = chunk.tensor;
    if (a.average == nullptr) return;
    const float keep = factors[0], take = factors[1];
    for (uint64_t i = chunk.first + 4 * threadIdx.x; i < chunk.end; i += 4 * THREADS) {
        const int valid = static_cast<int>(min(chunk.end - i, uint64_t{4}));
        float average[4], w[4];
        load_some(a.average + i, valid, true, 0.0f, average);
        load_some(a.weight + i, valid, true, 0.0f, w);
#pragma unroll
        for (int j = 0; j < 4; ++j) average[j] = keep * average[j] + take * w[j];
        store_some(a.average + i, valid, true, average);
    }
}

#define ADAM(T)                                                                                                    \
    KERNEL(adam_##T, THREADS,                                                                                      \
           (const AdamTensor* tensors, uint32_t count, const AdamState* state, double lr, double beta1,            \
            double beta2, double eps)) {                                                                           \
        adam<T>(tensors, count, state, lr, beta1, beta2, eps);                                                     \
    }
ADAM(f32)
ADAM(f16)
ADAM(bf16)
