// Batch norm over n, h, w for each channel, with the activation behind it, forward and backward.
//
//   forward   x̂ = (x − μ)·s, s = 1/√(σ² + ε)      y = f(γx̂ + β)
//   backward  g = dy·f'(γx̂ + β)   dβ = Σg   dγ = Σg·x̂   dx = γ·s·(g − dβ/m − x̂·dγ/m), m = rows
//   running   μ' ← (1 − k)μ' + kμ,  σ'² ← (1 − k)σ'² + k·σ²·m/(m − 1)
//
// A batch holds `segments` inputs of `rows` = n·h·w rows each, one behind the other (real and fake images); each has
// statistics of its own, and they move the running ones in order, which counts `segments` in `tracked` (PyTorch's
// num_batches_tracked). y is not kept for the backward pass: f' is computed from x again, which saves a third of the
// bytes.
//
// Layout: x, y, dy, dx [segments][rows][c] (NHWC); mean, inverse, mean_g, mean_gx [segments][c]; weight, bias, running
// statistics and gradients [c]; partial [segments][chunks][2][c]. Types: T maps, everything else f32; f32 sums in a
// thread and a block, f64 over blocks, all in a fixed order.
//
// Training forward: statistics → finalize → apply. Inference: running → apply. Backward: backward_reduce →
// backward_finalize → backward_apply.
//   statistics, apply, backward_reduce, backward_apply: grid (ceil(c / (lanes·VECTOR<T>)), chunks, segments) of
//     THREADS, where lanes is the smallest power of two with lanes·VECTOR<T> ≥ c, at most 32, and chunks =
//     ceil(rows / rows_per_chunk)
//   finalize, backward_finalize: ceil(c / 32) blocks of THREADS;  running: ceil(segments·c / THREADS)
// Bound: memory; sizeof(T) bytes an element for statistics, 2 for apply, 2 for backward_reduce, 3 for backward_apply.
// Neighbours: behind a convolution, before the next one. With a null `pivot` the sums of `partial` are those of x, as a
// convolution's epilogue could leave them; none does so far.
#include "activation.cuh"
#include "kernel.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

// The channels and rows of this thread: VECTOR<T> neighbouring channels, every row_lanes-th row of the block's chunk.
template <typename T>
struct Tile {
    uint32_t lanes, row_lanes, row_lane, channel, first_row, end_row;
    uint64_t segment_start;
    int valid;
    bool aligned;

    __device__ __forceinline__ Tile(uint32_t rows, uint32_t c, uint32_t rows_per_chunk) {
        lanes = 1;
        while (lanes < 32 && lanes * VECTOR<T> < c) lanes *= 2;
        row_lanes = THREADS / lanes;
        row_lane = threadIdx.x / lanes;
        channel = (blockIdx.x * lanes + threadIdx.x % lanes) * VECTOR<T>;
        valid = channel < c ? static_cast<int>(min(c - channel, uint32_t{VECTOR<T>})) : 0;
        // Otherwise rows do not start at a multiple of 16 bytes.
        aligned = c % VECTOR<T> == 0;
        first_row = blockIdx.y * rows_per_chunk;
        end_row = min(rows, first_row + rows_per_chunk);
        segment_start = uint64_t{blockIdx.z} * rows * c;
    }
};

// Per-channel values of this thread's channels.
template <typename T>
__device__ __forceinline__ void load_channels(const float* from, const Tile<T>& tile, float (&to)[VECTOR<T>]) {
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) to[i] = i < tile.valid ? from[tile.channel + i] : 0.0f;
}

// Adds up both sums over the block's rows and writes the block's part of `partial`.
template <typename T>
__device__ void write_partial(const Tile<T>& tile, const float (&first)[VECTOR<T>], const float (&second)[VECTOR<T>],
                              uint32_t c, float* partial) {
    constexpr int V = VECTOR<T>;
    // [sum][channel of the vector][thread]: neighbouring threads in neighbouring banks.
    STATIC_SHARED(float, sums, [2 * V * THREADS]);
    const uint32_t t = threadIdx.x;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        sums[i * THREADS + t] = first[i];
        sums[(V + i) * THREADS + t] = second[i];
    }
    for (uint32_t half = tile.row_lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (tile.row_lane < half) {
#pragma unroll
            for (int i = 0; i < 2 * V; ++i) sums[i * THREADS + t] += sums[i * THREADS + t + half * tile.lanes];
        }
    }
    // Row lane 0 wrote its own sums last.
    if (tile.row_lane != 0) return;
    float* to = partial + uint64_t{blockIdx.z * gridDim.y + blockIdx.y} * 2 * c + tile.channel;
    for (int i = 0; i < tile.valid; ++i) {
        to[i] = sums[i * THREADS + t];
        to[c + i] = sums[(V + i) * THREADS + t];
    }
}

// partial = Σ(x − p), Σ(x − p)² with p the segment's first row: without it, a mean that is large against the spread
// would cancel.
template <typename T>
__device__ void statistics(const T* x, float* partial, uint32_t rows, uint32_t c, uint32_t rows_per_chunk) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(rows, c, rows_per_chunk);
    float pivot[V], sum[V] = {}, square[V] = {};
    const T* from = x + tile.segment_start + tile.channel;
    load_some(from, tile.valid, tile.aligned, 0.0f, pivot);
#pragma unroll 4
    for (uint32_t row = tile.first_row + tile.row_lane; row < tile.end_row; row += tile.row_lanes) {
        float v[V];
        load_some(from + uint64_t{row} * c, tile.valid, tile.aligned, 0.0f, v);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float shifted = v[i] - pivot[i];
            sum[i] += shifted;
            square[i] += shifted * shifted;
        }
    }
    write_partial(tile, sum, square, c, partial);
}

// Both sums of channel blockIdx.x·32 + threadIdx.x % 32 over the chunks, in f64; valid where threadIdx.x < 32.
__device__ double2 sum_chunks(const float* partial, uint32_t segment, uint32_t chunks, uint32_t c) {
    STATIC_SHARED(double, sums, [2 * THREADS]);
    const uint32_t t = threadIdx.x, channel = blockIdx.x * 32 + t % 32;
    double first = 0.0, second = 0.0;
    if (channel < c) {
        for (uint32_t chunk = t / 32; chunk < chunks; chunk += THREADS / 32) {
            const float* from = partial + uint64_t{segment * chunks + chunk} * 2 * c + channel;
            first += static_cast<double>(from[0]);
            second += static_cast<double>(from[c]);
        }
    }
    // The call before may still be reading.
    __syncthreads();
    sums[t] = first;
    sums[THREADS + t] = second;
    __syncthreads();
    if (t >= 32) return make_double2(0.0, 0.0);
    for (uint32_t i = t + 32; i < THREADS; i += 32) {
        first += sums[i];
        second += sums[THREADS + i];
    }
    return make_double2(first, second);
}

template <typename T>
__device__ void finalize(const float* partial, const T* pivot, float* mean, float* inverse, float* running_mean,
                         float* running_var, uint32_t segments, uint32_t chunks, uint32_t rows, uint32_t c, double eps,
                         double momentum, uint64_t* tracked) {
    if (running_mean != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *tracked += segments;
    const uint32_t channel = blockIdx.x * 32 + threadIdx.x % 32;
    const double m = static_cast<double>(rows);
    // One value has no unbiased variance; PyTorch refuses it, we keep the biased one.
    const double unbiased = rows > 1 ? m / (m - 1.0) : 1.0;
    for (uint32_t segment = 0; segment < segments; ++segment) {
        const double2 sums = sum_chunks(partial, segment, chunks, c);
        if (threadIdx.x >= 32 || channel >= c) continue;
        const double shift =
            pivot != nullptr ? static_cast<double>(to_float(pivot[uint64_t{segment} * rows * c + channel])) : 0.0;
        const double shifted = sums.x / m;
        const double spread = sums.y / m - shifted * shifted;
        // NaN stays NaN.
        const double variance = spread < 0.0 ? 0.0 : spread;
        mean[segment * c + channel] = static_cast<float>(shift + shifted);
        inverse[segment * c + channel] = static_cast<float>(1.0 / sqrt(variance + eps));
        if (running_mean != nullptr) {
            const double old_mean = static_cast<double>(running_mean[channel]);
            const double old_var = static_cast<double>(running_var[channel]);
            running_mean[channel] = static_cast<float>((1.0 - momentum) * old_mean + momentum * (shift + shifted));
            running_var[channel] = static_cast<float>((1.0 - momentum) * old_var + momentum * variance * unbiased);
        }
    }
}

template <typename T>
__device__ void apply(const T* x, T* y, const float* mean, const float* inverse, const float* weight, const float* bias,
                      uint32_t rows, uint32_t c, uint32_t rows_per_chunk, int activation) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(rows, c, rows_per_chunk);
    float mu[V], s[V], gamma[V], beta[V];
    load_channels(mean + blockIdx.z * c, tile, mu);
    load_channels(inverse + blockIdx.z * c, tile, s);
    load_channels(weight, tile, gamma);
    load_channels(bias, tile, beta);
    const uint64_t start = tile.segment_start + tile.channel;
#pragma unroll 4
    for (uint32_t row = tile.first_row + tile.row_lane; row < tile.end_row; row += tile.row_lanes) {
        const uint64_t at = start + uint64_t{row} * c;
        float v[V];
        load_some(x + at, tile.valid, tile.aligned, 0.0f, v);
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] = activate(activation, (v[i] - mu[i]) * s[i] * gamma[i] + beta[i]);
        store_some(y + at, tile.valid, tile.aligned, v);
    }
}

// What both backward passes need of an element: g and x̂.
__device__ __forceinline__ float2 gradient_and_normal(float x, float dy, float mu, float s, float gamma, float beta,
                                                      int activation) {
    const float normal = (x - mu) * s;
    const float y = activate(activation, normal * gamma + beta);
    return make_float2(dy * activation_derivative(activation, y), normal);
}

// partial = Σg, Σg·x̂.
template <typename T>
__device__ void backward_reduce(const T* x, const T* dy, const float* mean, const float* inverse, const float* weight,
                                const float* bias, float* partial, uint32_t rows, uint32_t c, uint32_t rows_per_chunk,
                                int activation) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(rows, c, rows_per_chunk);
    float mu[V], s[V], gamma[V], beta[V], sum[V] = {}, product[V] = {};
    load_channels(mean + blockIdx.z * c, tile, mu);
    load_channels(inverse + blockIdx.z * c, tile, s);
    load_channels(weight, tile, gamma);
    load_channels(bias, tile, beta);
    const uint64_t start = tile.segment_start + tile.channel;
#pragma unroll 1
    for (uint32_t row = tile.first_row + tile.row_lane; row < tile.end_row; row += tile.row_lanes) {
        const uint64_t at = start + uint64_t{row} * c;
        float v[V], d[V];
        load_some(x + at, tile.valid, tile.aligned, 0.0f, v);
        load_some(dy + at, tile.valid, tile.aligned, 0.0f, d);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float2 g = gradient_and_normal(v[i], d[i], mu[i], s[i], gamma[i], beta[i], activation);
            sum[i] += g.x;
            product[i] += g.x * g.y;
        }
    }
    write_partial(tile, sum, product, c, partial);
}

template <typename T>
__device__ void backward_apply(const T* x, const T* dy, T* dx, const float* mean, const float* inverse,
                               const float* weight, const float* bias, const float* mean_g, const float* mean_gx,
                               uint32_t rows, uint32_t c, uint32_t rows_per_chunk, int activation) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(rows, c, rows_per_chunk);
    float mu[V], s[V], gamma[V], beta[V], mg[V], mgx[V];
    load_channels(mean + blockIdx.z * c, tile, mu);
    load_channels(inverse + blockIdx.z * c, tile, s);
    load_channels(weight, tile, gamma);
    load_channels(bias, tile, beta);
    load_channels(mean_g + blockIdx.z * c, tile, mg);
    load_channels(mean_gx + blockIdx.z * c, tile, mgx);
    const uint64_t start = tile.segment_start + tile.channel;
#pragma unroll 2
    for (uint32_t row = tile.first_row + tile.row_lane; row < tile.end_row; row += tile.row_lanes) {
        const uint64_t at = start + uint64_t{row} * c;
        float v[V], d[V];
        load_some(x + at, tile.valid, tile.aligned, 0.0f, v);
        load_some(dy + at, tile.valid, tile.aligned, 0.0f, d);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float2 g = gradient_and_normal(v[i], d[i], mu[i], s[i], gamma[i], beta[i], activation);
            d[i] = gamma[i] * s[i] * (g.x - mg[i] - g.y * mgx[i]);
        }
        store_some(dx + at, tile.valid, tile.aligned, d);
    }
}

}  // namespace

// mean, inverse ← the running statistics, for every segment.
KERNEL(batch_norm_running, THREADS,
       (const float* running_mean, const float* running_var, float* mean, float* inverse, uint32_t segments, uint32_t c,
        double eps)) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= segments * c) return;
    mean[i] = running_mean[i % c];
    inverse[i] = static_cast<float>(1.0 / sqrt(static_cast<double>(running_var[i % c]) + eps));
}

// mean_g, mean_gx ← the sums of `partial` over m, or zero where the statistics are not the batch's (by_batch 0);
// weight_gradient and bias_gradient, unless null, ← the sums over all segments.
KERNEL(batch_norm_backward_finalize, THREADS,
       (const float* partial, float* mean_g, float* mean_gx, float* weight_gradient, float* bias_gradient,
        uint32_t segments, uint32_t chunks, uint32_t rows, uint32_t c, int by_batch)) {
    const uint32_t channel = blockIdx.x * 32 + threadIdx.x % 32;
    double sum = 0.0, product = 0.0;
    for (uint32_t segment = 0; segment < segments; ++segment) {
        const double2 sums = sum_chunks(partial, segment, chunks, c);
        if (threadIdx.x >= 32 || channel >= c) continue;
        sum += sums.x;
        product += sums.y;
        mean_g[segment * c + channel] = by_batch != 0 ? static_cast<float>(sums.x / rows) : 0.0f;
        mean_gx[segment * c + channel] = by_batch != 0 ? static_cast<float>(sums.y / rows) : 0.0f;
    }
    if (threadIdx.x >= 32 || channel >= c || weight_gradient == nullptr) return;
    weight_gradient[channel] = static_cast<float>(product);
    bias_gradient[channel] = static_cast<float>(sum);
}

#define BATCH_NORM(T)                                                                                                 \
    KERNEL(batch_norm_statistics_nhwc_##T, THREADS,                                                                   \
           (const T* x, float* partial, uint32_t rows, uint32_t c, uint32_t rows_per_chunk)) {                        \
        statistics(x, partial, rows, c, rows_per_chunk);                                                              \
    }                                                                                                                 \
    KERNEL(batch_norm_finalize_nhwc_##T, THREADS,                                                                     \
           (const float* partial, const T* pivot, float* mean, float* inverse, float* running_mean,                   \
            float* running_var, uint32_t segments, uint32_t chunks, uint32_t rows, uint32_t c, double eps,            \
            double momentum, uint64_t* tracked)) {                                                                    \
        finalize(partial, pivot, mean, inverse, running_mean, running_var, segments, chunks, rows, c, eps, momentum,  \
                 tracked);                                                                                            \
    }                                                                                                                 \
    KERNEL(batch_norm_apply_nhwc_##T, THREADS,                                                                        \
           (const T* x, T* y, const float* mean, const float* inverse, const float* weight, const float* bias,        \
            uint32_t rows, uint32_t c, uint32_t rows_per_chunk, int activation)) {                                    \
        apply(x, y, mean, inverse, weight, bias, rows, c, rows_per_chunk, activation);                                \
    }                                                                                                                 \
    KERNEL(batch_norm_backward_reduce_nhwc_##T, THREADS,                                                              \
           (const T* x, const T* dy, const float* mean, const float* inverse, const float* weight, const float* bias, \
            float* partial, uint32_t rows, uint32_t c, uint32_t rows_per_chunk, int activation)) {                    \
        backward_reduce(x, dy, mean, inverse, weight, bias, partial, rows, c, rows_per_chunk, activation);            \
    }                                                                                                                 \
    KERNEL(batch_norm_backward_apply_nhwc_##T, THREADS,                                                               \
           (const T* x, const T* dy, T* dx, const float* mean, const float* inverse, const float* weight,             \
            const float* bias, const float* mean_g, const float* mean_gx, uint32_t rows, uint32_t c,                  \
            uint32_t rows_per_chunk, int activation)) {                                                               \
        backward_apply(x, dy, dx, mean, inverse, weight, bias, mean_g, mean_gx, rows, c, rows_per_chunk, activation); \
    }
BATCH_NORM(f32)
BATCH_NORM(f16)
BATCH_NORM(bf16)
