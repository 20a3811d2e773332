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
// Layout: x, y, dy, dx [segments][rows][c] (NHWC), 16-byte aligned, c a multiple of VECTOR<T>; mean, inverse, mean_g,
// mean_gx [segments][c]; weight, bias, running statistics and gradients [c]; sums as in include/batch_norm.cuh. Types:
// T maps, everything else f32; f32 sums in a thread and a block, f64 over blocks, all in a fixed order.
//
// Training forward: statistics → apply. Inference: running → apply. Backward: backward_reduce → backward_apply. The
// last block of statistics and of backward_reduce finishes.
//   statistics, apply, backward_reduce, backward_apply: grid (ceil(c / (lanes·VECTOR<T>)), chunks, segments) of
//     THREADS, where lanes is the smallest power of two with lanes·VECTOR<T> ≥ c, at most 32, and chunks =
//     ceil(rows / rows_per_chunk); 4 blocks a multiprocessor, 3 in the backward passes
//   running: ceil(segments·c / THREADS)
// Bound: memory; sizeof(T) bytes an element for statistics, 2 for apply, 2 for backward_reduce, 3 for backward_apply.
// A thread has four 16-byte loads under way.
// Neighbours: behind a convolution, before the next one. Where a convolution leaves the sums in its epilogue, statistics
// and backward_reduce are not launched; where it has multiplied dy by f' too, backward_apply runs with no activation.
#include "activation.cuh"
#include "batch_norm.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

// The channels and rows of this thread: VECTOR<T> neighbouring channels, every row_lanes-th row of the block's chunk.
template <typename T>
struct Tile {
    uint32_t c, lanes, row_lanes, row_lane, channel;
    // Rows of the chunk, and how far its first row and the block's first channel are from the start of a map. Within a
    // chunk 32 bits are enough.
    uint32_t chunk_rows;
    uint64_t start;
    // Of the thread's channels in a row of the block.
    uint32_t first;
    // False where all of them are beyond the last channel.
    bool inside;

    __device__ __forceinline__ Tile(uint32_t rows, uint32_t c, uint32_t rows_per_chunk) : c(c) {
        uint32_t shift = 0;
        while (shift < 5 && (uint32_t{VECTOR<T>} << shift) < c) ++shift;
        lanes = 1u << shift;
        row_lanes = THREADS >> shift;
        row_lane = threadIdx.x >> shift;
        first = (threadIdx.x & (lanes - 1)) * VECTOR<T>;
        channel = blockIdx.x * extent() + first;
        inside = channel < c;
        const uint32_t first_row = blockIdx.y * rows_per_chunk;
        chunk_rows = min(rows - first_row, rows_per_chunk);
        start = (uint64_t{blockIdx.z} * rows + first_row) * c + blockIdx.x * extent();
    }

    // All channels of the block, some of them perhaps beyond the last.
    __device__ __forceinline__ uint32_t extent() const { return lanes * VECTOR<T>; }
};

// Per-channel values of this thread's channels.
template <typename T>
__device__ __forceinline__ void load_channels(const float* from, const Tile<T>& tile, float (&to)[VECTOR<T>]) {
#pragma unroll
    for (int i = 0; i < VECTOR<T>; i += 4) {
        float part[4] = {};
        if (tile.inside) load_vector(from + tile.channel + i, part);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[i + j] = part[j];
    }
}

// Goes over this thread's rows, ROWS at a time: first all loads of all MAPS, then for each row `use(at, is_row, words)`,
// with the words of each map at tile.start + at. Behind the last row these are `fill` and `is_row` is false.
template <int ROWS, int MAPS, typename T, typename Use>
__device__ __forceinline__ void for_rows(const Tile<T>& tile, const T* const (&maps)[MAPS], const uint4& fill,
                                         Use use) {
    if (!tile.inside) return;
#pragma unroll 1
    for (uint32_t row = tile.row_lane; row < tile.chunk_rows; row += ROWS * tile.row_lanes) {
        const uint32_t at = row * tile.c + tile.first, step = tile.row_lanes * tile.c;
        uint4 words[ROWS][MAPS];
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
#pragma unroll
            for (int map = 0; map < MAPS; ++map) {
                words[k][map] = fill;
                if (row + k * tile.row_lanes < tile.chunk_rows) {
                    words[k][map] = load_words(maps[map] + tile.start + (at + k * step));
                }
            }
        }
#pragma unroll
        for (int k = 0; k < ROWS; ++k) use(at + k * step, row + k * tile.row_lanes < tile.chunk_rows, words[k]);
    }
}

// Adds up both sums over the block's rows and leaves them in the block's part of `sums`, each pair through
// `leave(i, first, second)`, i of VECTOR<T>.
template <typename T, typename Leave>
__device__ __forceinline__ void leave_sums(const Tile<T>& tile, const float (&first)[VECTOR<T>],
                                           const float (&second)[VECTOR<T>], const Sums& sums, Leave leave) {
    constexpr int V = VECTOR<T>;
    // [sum][channel of the vector][thread]: neighbouring threads in neighbouring banks.
    STATIC_SHARED(float, both, [2 * V * THREADS]);
    const uint32_t t = threadIdx.x;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        both[i * THREADS + t] = first[i];
        both[(V + i) * THREADS + t] = second[i];
    }
    for (uint32_t half = tile.row_lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (tile.row_lane < half) {
#pragma unroll
            for (int i = 0; i < 2 * V; ++i) both[i * THREADS + t] += both[i * THREADS + t + half * tile.lanes];
        }
    }
    // Row lane 0 wrote its own sums last.
    if (tile.row_lane != 0 || !tile.inside) return;
    double* const to = partial_sums(sums, blockIdx.z, blockIdx.y) + tile.channel;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        const double2 pair = leave(i, static_cast<double>(both[i * THREADS + t]),
                                   static_cast<double>(both[(V + i) * THREADS + t]));
        to[i] = pair.x;
        to[sums.channels + i] = pair.y;
    }
}

// Σx and Σx², by way of Σ(x − p) and Σ(x − p)² with p the chunk's first row: without it, a mean that is large against
// the spread would cancel in f32.
template <typename T>
__device__ __forceinline__ void statistics(const T* x, const Sums& sums, uint32_t rows_per_chunk) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(sums.rows, sums.channels, rows_per_chunk);
    uint4 first_row = make_uint4(0, 0, 0, 0);
    if (tile.inside) first_row = load_words(x + tile.start + tile.first);
    float pivot[V], sum[V] = {}, square[V] = {};
    unpack<T>(first_row, pivot);
    const T* const maps[] = {x};
    // Behind the last row come pivots, which add nothing.
    for_rows<4>(tile, maps, first_row, [&](uint32_t, bool, const uint4(&words)[1]) {
        float v[V];
        unpack<T>(words[0], v);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float shifted = v[i] - pivot[i];
            sum[i] += shifted;
            square[i] += shifted * shifted;
        }
    });
    const double rows = static_cast<double>(tile.chunk_rows);
    leave_sums(tile, sum, square, sums, [&](int i, double first, double second) {
        const double p = static_cast<double>(pivot[i]);
        return make_double2(first + rows * p, second + p * (2.0 * first + rows * p));
    });
    finish_statistics<THREADS>(sums, blockIdx.z, blockIdx.y, blockIdx.x * tile.extent(), tile.extent(), blockIdx.x);
}

// One layer's statistics and parameters, as far as maps are normalised with them.
struct Norm {
    const float* mean;
    const float* inverse;
    const float* weight;
    const float* bias;
};

// μ, a = γ·s and β of this thread's channels: γx̂ + β = a·(x − μ) + β.
template <typename T>
struct Channels {
    float mean[VECTOR<T>], scale[VECTOR<T>], bias[VECTOR<T>];

    __device__ __forceinline__ Channels(const Norm& norm, const Tile<T>& tile) {
        float inverse[VECTOR<T>];
        load_channels(norm.mean + blockIdx.z * tile.c, tile, mean);
        load_channels(norm.inverse + blockIdx.z * tile.c, tile, inverse);
        load_channels(norm.weight, tile, scale);
        load_channels(norm.bias, tile, bias);
#pragma unroll
        for (int i = 0; i < VECTOR<T>; ++i) scale[i] *= inverse[i];
    }

    // g from dy and x − μ; without an activation neither scale nor bias is needed.
    template <int ACTIVATION>
    __device__ __forceinline__ float gradient(int i, float dy, float centred) const {
        if (ACTIVATION == ACTIVATION_none) return dy;
        return dy * activation_derivative(ACTIVATION, activate(ACTIVATION, centred * scale[i] + bias[i]));
    }
};

template <typename T>
__device__ __forceinline__ void apply(const T* x, T* y, const Norm& norm, uint32_t rows, uint32_t c,
                                      uint32_t rows_per_chunk, int activation) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(rows, c, rows_per_chunk);
    const Channels<T> channels(norm, tile);
    const T* const maps[] = {x};
    with_activation(activation, [&](auto of) {
        for_rows<4>(tile, maps, make_uint4(0, 0, 0, 0), [&](uint32_t at, bool is_row, const uint4(&words)[1]) {
            float v[V];
            unpack<T>(words[0], v);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const float centred = v[i] - channels.mean[i];
                v[i] = activate(decltype(of)::number, centred * channels.scale[i] + channels.bias[i]);
            }
            if (is_row) store_vector(y + tile.start + at, v);
        });
    });
}

// Σg and Σg·x̂, the latter by way of Σg·(x − μ).
template <typename T>
__device__ __forceinline__ void backward_reduce(const T* x, const T* dy, const Norm& norm, const Sums& sums,
                                                uint32_t rows_per_chunk, int activation) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(sums.rows, sums.channels, rows_per_chunk);
    const Channels<T> channels(norm, tile);
    float sum[V] = {}, product[V] = {};
    const T* const maps[] = {x, dy};
    with_activation(activation, [&](auto of) {
        // Behind the last row dy is 0, which adds nothing.
        for_rows<2>(tile, maps, make_uint4(0, 0, 0, 0), [&](uint32_t, bool, const uint4(&words)[2]) {
            float v[V], d[V];
            unpack<T>(words[0], v);
            unpack<T>(words[1], d);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const float centred = v[i] - channels.mean[i];
                const float g = channels.template gradient<decltype(of)::number>(i, d[i], centred);
                sum[i] += g;
                product[i] += g * centred;
            }
        });
    });
    leave_sums(tile, sum, product, sums, [&](int i, double first, double second) {
        const float s = norm.inverse[blockIdx.z * tile.c + tile.channel + i];
        return make_double2(first, second * static_cast<double>(s));
    });
    finish_gradients<THREADS>(sums, blockIdx.z, blockIdx.y, blockIdx.x * tile.extent(), tile.extent(), blockIdx.x);
}

template <typename T>
__device__ __forceinline__ void backward_apply(const T* x, const T* dy, T* dx, const Norm& norm, const float* mean_g,
                                               const float* mean_gx, uint32_t rows, uint32_t c,
                                               uint32_t rows_per_chunk, int activation) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(rows, c, rows_per_chunk);
    const Channels<T> channels(norm, tile);
    // dβ/m, and s·dγ/m: x̂·dγ/m = (x − μ)·s·dγ/m.
    float mg[V], slope[V], inverse[V];
    load_channels(mean_g + blockIdx.z * c, tile, mg);
    load_channels(mean_gx + blockIdx.z * c, tile, slope);
    load_channels(norm.inverse + blockIdx.z * c, tile, inverse);
#pragma unroll
    for (int i = 0; i < V; ++i) slope[i] *= inverse[i];
    const T* const maps[] = {x, dy};
    with_activation(activation, [&](auto of) {
        for_rows<2>(tile, maps, make_uint4(0, 0, 0, 0), [&](uint32_t at, bool is_row, const uint4(&words)[2]) {
            float v[V], d[V];
            unpack<T>(words[0], v);
            unpack<T>(words[1], d);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const float centred = v[i] - channels.mean[i];
                const float g = channels.template gradient<decltype(of)::number>(i, d[i], centred);
                d[i] = channels.scale[i] * (g - mg[i] - centred * slope[i]);
            }
            if (is_row) store_vector(dx + tile.start + at, d);
        });
    });
}

}  // namespace

// mean, inverse ← the running statistics, for every segment.
KERNEL(batch_norm_running, THREADS,
       (const float* running_mean, const float* running_var, float* mean, float* inverse, uint32_t segments,
        uint32_t c)) {
    await_previous();
    let_next_start();
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= segments * c) return;
    mean[i] = running_mean[i % c];
    inverse[i] = static_cast<float>(1.0 / sqrt(static_cast<double>(running_var[i % c]) + BATCH_NORM_EPSILON));
}

#define BATCH_NORM(T)                                                                                                \
    KERNEL_OCCUPANCY(batch_norm_statistics_nhwc_##T, THREADS, 4,                                                     \
                     (const T* x, Sums sums, uint32_t rows_per_chunk)) {                                             \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        statistics(x, sums, rows_per_chunk);                                                                         \
    }                                                                                                                \
    KERNEL_OCCUPANCY(batch_norm_apply_nhwc_##T, THREADS, 4,                                                          \
                     (const T* x, T* y, const float* mean, const float* inverse, const float* weight,                \
                      const float* bias, uint32_t rows, uint32_t c, uint32_t rows_per_chunk, int activation)) {      \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        apply(x, y, {mean, inverse, weight, bias}, rows, c, rows_per_chunk, activation);                             \
    }                                                                                                                \
    KERNEL_OCCUPANCY(batch_norm_backward_reduce_nhwc_##T, THREADS, 3,                                                \
                     (const T* x, const T* dy, const float* mean, const float* inverse, const float* weight,         \
                      const float* bias, Sums sums, uint32_t rows_per_chunk, int activation)) {                      \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        backward_reduce(x, dy, {mean, inverse, weight, bias}, sums, rows_per_chunk, activation);                     \
    }                                                                                                                \
    KERNEL_OCCUPANCY(batch_norm_backward_apply_nhwc_##T, THREADS, 3,                                                 \
                     (const T* x, const T* dy, T* dx, const float* mean, const float* inverse, const float* weight,  \
                      const float* bias, const float* mean_g, const float* mean_gx, uint32_t rows, uint32_t c,       \
                      uint32_t rows_per_chunk, int activation)) {                                                    \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        backward_apply(x, dy, dx, {mean, inverse, weight, bias}, mean_g, mean_gx, rows, c, rows_per_chunk,           \
                       activation);                                                                                  \
    }
BATCH_NORM(f32)
BATCH_NORM(f16)
BATCH_NORM(bf16)
