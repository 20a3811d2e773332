// Adam over all tensors of a network in one launch, with what goes with it (arXiv 1412.6980, as torch.optim.Adam).
//
//   g = gradient / loss_scale       m ← β₁m + (1 − β₁)g       v ← β₂v + (1 − β₂)g²
//   w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)            cast ← factor·w as T
//   average ← d·average + (1 − d)·w, d = min(decay, (1 + t)/(10 + t)), t = iteration: it starts low, so that a short
//   run's average forgets the initial weights
//
// lr is the learning rate times state.rate; a rate of 0 leaves the step out. Where `not_finite` is not 0 a gradient was
// not a finite number, and the step is skipped. Either leaves all as it is but for the average.
//
// Of a weight with singular vectors (spectral_norm.cu) the gradient g̃ that the convolutions have made is that of the
// weight times `factor`, which is what `cast` has, and lacks its part along the vectors: gradient[k][j] ←
// factor·g̃[k][j] − c/σ·u[k]·v[j], c the sum of RADIAL_TERMS numbers; that is written back. A c that is not finite counts
// as such a gradient.
//
// adam_<T> is a whole step: the last block to arrive (arrival.cuh), when all have read the state, counts, moves the
// loss scale, prepares the next step's corrections, reports to the ring, and ends the iteration if it is the last
// step of one.
// What makes gradients sets `not_finite` (convolutions, batch norm); adam_check does for what libraries have made.
// adam_prepare makes the corrections fit `taken` after the host has set it.
//
// Layout: `tensors` describes each tensor; all arrays of one have `count` elements in the same order, 16-byte aligned.
// Block b takes elements CHUNK·(b − first_block) and on of the tensor with the last first_block ≤ b.
// Types: f32 state and gradient, T cast. Launch: Σ ceil(count / CHUNK) blocks of THREADS; adam_prepare one block.
// Bound: memory; 28 bytes an element (4 read, 3 written, f32) + sizeof(T), 8 for the average, 4 with singular vectors. At width 64, 64 px
// (6.3 M parameters in both networks): 219 MB an iteration in bf16.
// Neighbours: behind the weight gradients and batch norm's; before the next forward pass, which reads `cast`.
#include "adam.cuh"
#include "arrival.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "progress.cuh"
#include "reduce.cuh"
#include "types.cuh"

#include <type_traits>

namespace {

constexpr int THREADS = 256;
constexpr uint32_t CHUNK = 4096;

struct Chunk {
    AdamTensor tensor;
    uint64_t first, end;
};

// One trip to memory: whichever thread has the tensor has all of it. `meanwhile()` is for what waits as long, before
// the barrier.
template <typename Meanwhile>
__device__ __forceinline__ Chunk find_chunk(const AdamTensor* tensors, uint32_t count, Meanwhile meanwhile) {
    STATIC_SHARED(AdamTensor, found, [1]);
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        const AdamTensor tensor = tensors[i];
        const bool over = i + 1 < count && tensors[i + 1].first_block <= blockIdx.x;
        if (tensor.first_block <= blockIdx.x && !over) found[0] = tensor;
    }
    meanwhile();
    __syncthreads();
    Chunk chunk;
    chunk.tensor = found[0];
    chunk.first = uint64_t{blockIdx.x - chunk.tensor.first_block} * CHUNK;
    chunk.end = min(chunk.tensor.count, chunk.first + CHUNK);
    return chunk;
}

struct Coefficients {
    float beta1, beta2, one_minus_beta1, one_minus_beta2, step_size, root, eps, unscale;
    // Of the average.
    float keep, take;
};

__device__ __forceinline__ void update(const Coefficients& k, float gradient, float& w, float& m, float& v) {
    const float g = gradient * k.unscale;
    m = k.beta1 * m + k.one_minus_beta1 * g;
    v = k.beta2 * v + k.one_minus_beta2 * g * g;
    w -= k.step_size * m / (sqrtf(v) / k.root + k.eps);
}

// Writes four weights times `factor` as T at once, or those that are `valid`.
template <typename T>
__device__ __forceinline__ void store_cast(T* to, int valid, const float (&w)[4], float factor) {
    struct alignas(4 * sizeof(T)) Four {
        T element[4];
    };
    Four four;
#pragma unroll
    for (int j = 0; j < 4; ++j) four.element[j] = from_float<T>(factor * w[j]);
    if (valid == 4) {
        *reinterpret_cast<Four*>(to) = four;
        return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        if (j < valid) to[j] = four.element[j];
    }
}

// The elements of a chunk that a thread has at a time: AT_ONCE fours, which are all read before any is changed.
template <typename T>
struct Elements {
    static constexpr int AT_ONCE = 2;
    float g[AT_ONCE][4], w[AT_ONCE][4], m[AT_ONCE][4], v[AT_ONCE][4], average[AT_ONCE][4];
};

// 1 − β₁ᵗ (0) or √(1 − β₂ᵗ) (1), for t = taken + 1.
__device__ __forceinline__ float correction(uint32_t which, uint64_t taken, double beta1, double beta2) {
    const double t = static_cast<double>(taken + 1), left = 1.0 - pow(which == 0 ? beta1 : beta2, t);
    return static_cast<float>(which == 0 ? left : sqrt(left));
}

// What is the same for all blocks.
struct Step {
    double lr, beta1, beta2, eps;
    // Of the average; 0 keeps none.
    double decay;
    // Steps without a skip that double the loss scale; 0 keeps it as it is.
    uint32_t growth_interval;
    Metrics* ring;
    uint64_t* iteration;
    uint32_t slots, network;
    // Whether the iteration ends with this step.
    uint32_t last;
};

// Counts a step and moves the loss scale: a skipped step halves it, within its bounds. Then ring[iteration % slots]
// gets the iteration and what `network` has come to. `squares` are the sums of the `blocks`. By a whole block.
__device__ void finish(AdamState* state, uint32_t* not_finite, bool skip, const double* squares, uint32_t blocks,
                       const Step& step) {
    STATIC_SHARED(float, corrections, [2]);
    const bool leave_out = state->rate == 0.0f;
    const uint64_t taken = state->taken + (skip || leave_out ? 0 : 1);
    double sum = 0.0;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < blocks; i += THREADS) sum += __ldcg(squares + i);
    // Two powers at once, while the others wait for their sums. The barrier is block_sum's.
    if (threadIdx.x / 2 == THREADS / 2 - 1) {
        corrections[threadIdx.x % 2] = correction(threadIdx.x % 2, taken, step.beta1, step.beta2);
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x != 0) return;
    const float norm = static_cast<float>(sqrt(sum) / static_cast<double>(state->loss_scale));
    state->skipped += skip ? 1 : 0;
    state->left_out += !skip && leave_out ? 1 : 0;
    state->taken = taken;
    state->correction1 = corrections[0];
    state->correction2 = corrections[1];
    if (step.growth_interval != 0 && (skip || !leave_out)) {
        state->steady = skip ? 0 : state->steady + 1;
        const bool grow = state->steady >= step.growth_interval;
        if (grow) state->steady = 0;
        const float scale = state->loss_scale * (skip ? 0.5f : grow ? 2.0f : 1.0f);
        // Without an end it comes to infinity, which no skip halves, or to zero, which nothing can be divided by.
        state->loss_scale = fminf(fmaxf(scale, LEAST_LOSS_SCALE), MOST_LOSS_SCALE);
    }
    *not_finite = 0;
    Metrics& entry = step.ring[ring_slot(step.iteration, step.slots)];
    entry.iteration = *step.iteration;
    entry.steps[step.network][0] = state->taken;
    entry.steps[step.network][1] = state->skipped;
    entry.steps[step.network][2] = state->left_out;
    entry.loss_scale[step.network] = state->loss_scale;
    entry.gradient_norm[step.network] = norm;
    entry.rate[step.network] = state->rate;
    if (step.last != 0) *step.iteration += 1;
}

template <typename T>
__device__ void adam(const AdamTensor* tensors, uint32_t count, AdamState* state, uint32_t* not_finite, double* squares,
                     uint32_t* arrived, const Step& step) {
    // On their way while the tensor is looked for.
    const uint64_t iteration = *step.iteration;
    bool skip = *not_finite != 0;
    const float loss_scale = state->loss_scale, rate = state->rate;
    const float correction1 = state->correction1, correction2 = state->correction2;
    // One thread a block divides: f64 is slow. The barrier is find_chunk's.
    STATIC_SHARED(float, decays, [2]);
    const Chunk chunk = find_chunk(tensors, count, [&] {
        if (threadIdx.x != THREADS - 1) return;
        const double t = static_cast<double>(iteration);
        const double d = min(step.decay, (1.0 + t) / (10.0 + t));
        decays[0] = static_cast<float>(d);
        decays[1] = static_cast<float>(1.0 - d);
    });
    // From the chunk's first element on, where 32 bits are enough.
    AdamTensor a = chunk.tensor;
    // c/σ of a weight with singular vectors; c is the same for all blocks.
    float along = 0.0f;
    // Row and column of this thread's next four elements, and how far the four behind them are: no division in the loop.
    uint32_t row = 0, column = 0, rows_on = 0, columns_on = 0;
    if (a.left != nullptr) {
        const float4 c = *reinterpret_cast<const float4*>(a.radial);
        static_assert(RADIAL_TERMS == 4);
        const float sum = (c.x + c.y) + (c.z + c.w);
        skip = skip || !isfinite(sum);
        along = sum / *a.sigma;
        const uint32_t element = static_cast<uint32_t>(chunk.first) + 4 * threadIdx.x;
        row = element / a.columns;
        column = element - row * a.columns;
        rows_on = 4 * THREADS / a.columns;
        columns_on = 4 * THREADS - rows_on * a.columns;
    }
    const bool stay = skip || rate == 0.0f;
    const uint32_t elements = static_cast<uint32_t>(chunk.end - chunk.first);
    a.gradient += chunk.first;
    a.weight += chunk.first;
    a.m += chunk.first;
    a.v += chunk.first;
    const Coefficients k = {static_cast<float>(step.beta1),
                            static_cast<float>(step.beta2),
                            static_cast<float>(1.0 - step.beta1),
                            static_cast<float>(1.0 - step.beta2),
                            static_cast<float>(step.lr) * rate / correction1,
                            correction2,
                            static_cast<float>(step.eps),
                            1.0f / loss_scale,
                            decays[0],
                            decays[1]};
    T* const cast = a.cast != nullptr ? static_cast<T*>(a.cast) + chunk.first : nullptr;
    const bool averages = step.decay > 0.0 && a.average != nullptr;
    if (averages) a.average += chunk.first;
    // At most 16 elements a thread: f32 is enough for their squares.
    float sum = 0.0f;
    constexpr int AT_ONCE = Elements<T>::AT_ONCE;
    constexpr uint32_t BATCH = AT_ONCE * 4 * THREADS;
    const auto batch = [&](uint32_t begin, auto whole) {
        Elements<T> e;
        uint32_t at[AT_ONCE];
        int valid[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            at[i] = begin + 4 * (i * THREADS + threadIdx.x);
            valid[i] = at[i] < elements ? static_cast<int>(min(elements - at[i], 4u)) : 0;
            // Known where it is compiled: no branch between the loads.
            if (decltype(whole)::value) valid[i] = 4;
            load_some(a.gradient + at[i], valid[i], true, 0.0f, e.g[i]);
            load_some(a.weight + at[i], valid[i], true, 0.0f, e.w[i]);
            load_some(a.m + at[i], valid[i], true, 0.0f, e.m[i]);
            load_some(a.v + at[i], valid[i], true, 0.0f, e.v[i]);
        }
        if (averages) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) load_some(a.average + at[i], valid[i], true, 0.0f, e.average[i]);
        }
        if (a.left != nullptr) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                const bool inside = valid[i] != 0;
                // Rows are whole fours: all of one, or none.
                const float4 v = inside ? *reinterpret_cast<const float4*>(a.right + column) : make_float4(0, 0, 0, 0);
                const float of_row = inside ? along * a.left[row] : 0.0f;
                row += rows_on;
                column += columns_on;
                if (column >= a.columns) {
                    column -= a.columns;
                    ++row;
                }
                if (!inside) continue;
                e.g[i][0] = a.factor * e.g[i][0] - of_row * v.x;
                e.g[i][1] = a.factor * e.g[i][1] - of_row * v.y;
                e.g[i][2] = a.factor * e.g[i][2] - of_row * v.z;
                e.g[i][3] = a.factor * e.g[i][3] - of_row * v.w;
                store_some(a.gradient + at[i], 4, true, e.g[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (valid[i] == 0) continue;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                sum += e.g[i][j] * e.g[i][j];
                if (!stay) update(k, e.g[i][j], e.w[i][j], e.m[i][j], e.v[i][j]);
            }
            if (!stay) {
                store_some(a.weight + at[i], valid[i], true, e.w[i]);
                store_some(a.m + at[i], valid[i], true, e.m[i]);
                store_some(a.v + at[i], valid[i], true, e.v[i]);
                if (cast != nullptr) store_cast(cast + at[i], valid[i], e.w[i], a.factor);
            }
            if (!averages) continue;
#pragma unroll
            for (int j = 0; j < 4; ++j) e.average[i][j] = k.keep * e.average[i][j] + k.take * e.w[i][j];
            store_some(a.average + at[i], valid[i], true, e.average[i]);
        }
    };
    uint32_t begin = 0;
#pragma unroll 1
    for (; begin + BATCH <= elements; begin += BATCH) batch(begin, std::true_type());
#pragma unroll 1
    for (; begin < elements; begin += BATCH) batch(begin, std::false_type());
    const double total = block_sum<THREADS>(static_cast<double>(sum));
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
    if (last_to_arrive(arrived, gridDim.x)) finish(state, not_finite, skip, squares, gridDim.x, step);
}

}  // namespace

// Every block that finds one writes the same 1: the order does not matter.
KERNEL(adam_check, THREADS, (const AdamTensor* tensors, uint32_t count, uint32_t* not_finite)) {
    await_previous();
    let_next_start();
    const Chunk chunk = find_chunk(tensors, count, [] {});
    constexpr int FOURS = CHUNK / (4 * THREADS);
    const auto all_finite = [&](auto whole) {
        float g[FOURS][4];
#pragma unroll
        for (int k = 0; k < FOURS; ++k) {
            const uint64_t i = chunk.first + 4 * (k * THREADS + threadIdx.x);
            int valid = i < chunk.end ? static_cast<int>(min(chunk.end - i, uint64_t{4})) : 0;
            if (decltype(whole)::value) valid = 4;
            load_some(chunk.tensor.gradient + i, valid, true, 0.0f, g[k]);
        }
        // No branch, so that the next loads do not wait for it.
        int finite = 1;
#pragma unroll
        for (int k = 0; k < FOURS; ++k) {
#pragma unroll
            for (int j = 0; j < 4; ++j) finite &= isfinite(g[k][j]) ? 1 : 0;
        }
        return finite != 0;
    };
    const bool whole = chunk.end - chunk.first == CHUNK;
    const bool finite = whole ? all_finite(std::true_type()) : all_finite(std::false_type());
    if (!finite) *not_finite = 1;
}

KERNEL(adam_prepare, 32, (AdamState* state, double beta1, double beta2)) {
    await_previous();
    let_next_start();
    if (threadIdx.x >= 2) return;
    const float becomes = correction(threadIdx.x, state->taken, beta1, beta2);
    (threadIdx.x == 0 ? state->correction1 : state->correction2) = becomes;
}

#define ADAM(T)                                                                                                     \
    KERNEL_OCCUPANCY(adam_##T, THREADS, 3,                                                                          \
           (const AdamTensor* tensors, uint32_t count, AdamState* state, uint32_t* not_finite, double* squares,     \
            uint32_t* arrived, double lr, double beta1, double beta2, double eps, double decay,                     \
            uint32_t growth_interval, Metrics* ring, uint64_t* iteration, uint32_t slots, uint32_t network,         \
            uint32_t last)) {                                                                                       \
        await_previous();                                                                                           \
        let_next_start();                                                                                           \
        adam<T>(tensors, count, state, not_finite, squares, arrived,                                                \
                {lr, beta1, beta2, eps, decay, growth_interval, ring, iteration, slots, network, last});            \
    }
ADAM(f32)
ADAM(f16)
ADAM(bf16)
