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
//   apply, backward_apply: grid (ceil(c / (lanes·VECTOR<T>)), chunks, segments) of THREADS, where lanes is the smallest
//     power of two with lanes·VECTOR<T> ≥ c, at most 32, and chunks = ceil(rows / rows_per_chunk); 4 blocks a
//     multiprocessor, backward 3
//   statistics, backward_reduce: the same with 4 lanes, so that the sums of a tile of channels lie in few blocks, which
//     the last one adds up; 2 blocks a multiprocessor
//   running: ceil(segments·c / THREADS)
// Bound: memory; sizeof(T) bytes an element for statistics, 2 for apply, 2 for backward_reduce, 3 for backward_apply.
// A thread has four 16-byte loads under way, eight in those that sum, on long maps.
// Neighbours: behind a convolution, before the next one. Where a convolution leaves the sums in its epilogue,
// statistics and backward_reduce are not launched; where it has multiplied dy by f' too, backward_apply runs with no
// activation.
#include "activation.cuh"
#include "batch_norm.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;
// Lanes of a block that sums: 64 bytes of a row.
constexpr int SUM_LANES = 4;
template <typename T>
constexpr int SUM_EXTENT = SUM_LANES * VECTOR<T>;

// The lanes of a block that does not sum.
template <typename T>
__device__ __forceinline__ uint32_t lanes_for(uint32_t c) {
    uint32_t lanes = 1;
    while (lanes < 32 && VECTOR<T> * lanes < c) lanes *= 2;
    return lanes;
}

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

    // `lanes` is a power of two, at most 32.
    __device__ __forceinline__ Tile(uint32_t rows, uint32_t c, uint32_t rows_per_chunk, uint32_t lanes)
        : c(c), lanes(lanes) {
        const int shift = __ffs(static_cast<int>(lanes)) - 1;
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

// This thread's rows row, row + row_lanes … of ROWS: first all loads of all MAPS, then `begin()`, for what waits for
// loads before these, then for each row `use(at, is_row, words)`, with the words of each map at tile.start + at. Behind
// the last row these are 0 and `is_row` is false; where WHOLE, all of them are there.
template <int ROWS, bool WHOLE, int MAPS, typename T, typename Begin, typename Use>
__device__ __forceinline__ void some_rows(const Tile<T>& tile, uint32_t row, const T* const (&maps)[MAPS], Begin begin,
                                          Use use) {
    const uint32_t at = row * tile.c + tile.first, step = tile.row_lanes * tile.c;
    uint4 words[ROWS][MAPS];
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
#pragma unroll
        for (int map = 0; map < MAPS; ++map) {
            words[k][map] = make_uint4(0, 0, 0, 0);
            if (WHOLE || row + k * tile.row_lanes < tile.chunk_rows) {
                words[k][map] = load_words(maps[map] + tile.start + (at + k * step));
            }
        }
    }
    begin();
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
        use(at + k * step, WHOLE || row + k * tile.row_lanes < tile.chunk_rows, words[k]);
    }
}

// Goes over this thread's rows from `row` on, ROWS at a time.
template <int ROWS, int MAPS, typename T, typename Use>
__device__ __forceinline__ void for_rows(const Tile<T>& tile, uint32_t row, const T* const (&maps)[MAPS], Use use) {
    if (!tile.inside) return;
#pragma unroll 1
    for (; row < tile.chunk_rows; row += ROWS * tile.row_lanes) some_rows<ROWS, false>(tile, row, maps, [] {}, use);
}

// The same over all of them, ROWS at first, `begin()` behind their loads, and then twice as many as long as they are
// there.
template <int ROWS, int MAPS, typename T, typename Begin, typename Use>
__device__ __forceinline__ void for_many_rows(const Tile<T>& tile, const T* const (&maps)[MAPS], Begin begin,
                                              Use use) {
    if (!tile.inside) return;
    uint32_t row = tile.row_lane;
    some_rows<ROWS, false>(tile, row, maps, begin, use);
    row += ROWS * tile.row_lanes;
#pragma unroll 1
    for (; row + (2 * ROWS - 1) * tile.row_lanes < tile.chunk_rows; row += 2 * ROWS * tile.row_lanes) {
        some_rows<2 * ROWS, true>(tile, row, maps, [] {}, use);
    }
    for_rows<ROWS>(tile, row, maps, use);
}

// Adds up both sums over the block's rows and leaves them in the block's part of `sums`, through `leave(first,
// second)`: channel threadIdx.x / 32 of the thread's vector.
template <typename T, typename Leave>
__device__ __forceinline__ void leave_sums(const Tile<T>& tile, const float (&first)[VECTOR<T>],
                                           const float (&second)[VECTOR<T>], const Sums& sums, float* shared,
                                           Leave leave) {
    float both[2];
    if (!sum_over_rows<THREADS, SUM_LANES>(first, second, shared, both) || !tile.inside) return;
    const double2 pair = leave(static_cast<double>(both[0]), static_cast<double>(both[1]));
    double* const to = partial_sums(sums, blockIdx.z, blockIdx.y) + tile.channel + threadIdx.x / 32;
    to[0] = pair.x;
    to[sums.channels] = pair.y;
}

// Σx and Σx², by way of Σ(x − p) and Σ(x − p)² with p the chunk's first row: without it, a mean that is large against
// the spread would cancel in f32.
template <typename T>
__device__ __forceinline__ void statistics(const T* x, const Sums& sums, uint32_t rows_per_chunk) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(sums.rows, sums.channels, rows_per_chunk, SUM_LANES);
    STATIC_SHARED(float, shared, [2 * V * THREADS]);
    uint4 first_row = make_uint4(0, 0, 0, 0);
    // That of the channel whose sums this thread leaves.
    T leaves = from_float<T>(0.0f);
    if (tile.inside) {
        first_row = load_words(x + tile.start + tile.first);
        leaves = x[tile.start + tile.first + threadIdx.x / 32 % V];
    }
    float pivot[V] = {}, sum[V] = {}, square[V] = {};
    const T* const maps[] = {x};
    const auto begin = [&] { unpack<T>(first_row, pivot); };
    for_many_rows<4>(tile, maps, begin, [&](uint32_t, bool is_row, const uint4(&words)[1]) {
        float v[V];
        unpack<T>(words[0], v);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float shifted = is_row ? v[i] - pivot[i] : 0.0f;
            sum[i] += shifted;
            square[i] += shifted * shifted;
        }
    });
    const double rows = static_cast<double>(tile.chunk_rows);
    leave_sums(tile, sum, square, sums, shared, [&](double first, double second) {
        const double p = static_cast<double>(to_float(leaves));
        return make_double2(first + rows * p, second + p * (2.0 * first + rows * p));
    });
    finish_statistics<THREADS, SUM_EXTENT<T>>(sums, blockIdx.z, blockIdx.y, blockIdx.x * tile.extent(), blockIdx.x,
                                              reinterpret_cast<double2*>(shared));
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
    float mean[VECTOR<T>], scale[VECTOR<T>], bias[VECTOR<T>], inverse[VECTOR<T>], weight[VECTOR<T>];

    __device__ __forceinline__ Channels(const Norm& norm, const Tile<T>& tile) {
        load_channels(norm.mean + blockIdx.z * tile.c, tile, mean);
        load_channels(norm.inverse + blockIdx.z * tile.c, tile, inverse);
        load_channels(norm.weight, tile, weight);
        load_channels(norm.bias, tile, bias);
    }

    // Waits for the loads.
    __device__ __forceinline__ void begin() {
#pragma unroll
        for (int i = 0; i < VECTOR<T>; ++i) scale[i] = weight[i] * inverse[i];
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
    const Tile<T> tile(rows, c, rows_per_chunk, lanes_for<T>(c));
    Channels<T> channels(norm, tile);
    channels.begin();
    const T* const maps[] = {x};
    with_activation(activation, [&](auto of) {
        for_rows<4>(tile, tile.row_lane, maps, [&](uint32_t at, bool is_row, const uint4(&words)[1]) {
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
    const Tile<T> tile(sums.rows, sums.channels, rows_per_chunk, SUM_LANES);
    STATIC_SHARED(float, shared, [2 * V * THREADS]);
    // 1/√(σ² + ε) of the channel whose sums this thread leaves.
    float leaves = 0.0f;
    if (tile.inside) leaves = norm.inverse[blockIdx.z * tile.c + tile.channel + threadIdx.x / 32 % V];
    Channels<T> channels(norm, tile);
    float sum[V] = {}, product[V] = {};
    const T* const maps[] = {x, dy};
    const auto begin = [&] { channels.begin(); };
    with_activation(activation, [&](auto of) {
        // Behind the last row dy is 0, which adds nothing.
        for_many_rows<2>(tile, maps, begin, [&](uint32_t, bool, const uint4(&words)[2]) {
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
    leave_sums(tile, sum, product, sums, shared, [&](double first, double second) {
        return make_double2(first, second * static_cast<double>(leaves));
    });
    finish_gradients<THREADS, SUM_EXTENT<T>>(sums, blockIdx.z, blockIdx.y, blockIdx.x * tile.extent(), blockIdx.x,
                                             reinterpret_cast<double2*>(shared));
}

template <typename T>
__device__ __forceinline__ void backward_apply(const T* x, const T* dy, T* dx, const Norm& norm, const float* mean_g,
                                               const float* mean_gx, uint32_t rows, uint32_t c,
                                               uint32_t rows_per_chunk, int activation) {
    constexpr int V = VECTOR<T>;
    const Tile<T> tile(rows, c, rows_per_chunk, lanes_for<T>(c));
    Channels<T> channels(norm, tile);
    // dβ/m, and s·dγ/m: x̂·dγ/m = (x − μ)·s·dγ/m.
    float mg[V], slope[V];
    load_channels(mean_g + blockIdx.z * c, tile, mg);
    load_channels(mean_gx + blockIdx.z * c, tile, slope);
    channels.begin();
#pragma unroll
    for (int i = 0; i < V; ++i) slope[i] *= channels.inverse[i];
    const T* const maps[] = {x, dy};
    with_activation(activation, [&](auto of) {
        for_rows<2>(tile, tile.row_lane, maps, [&](uint32_t at, bool is_row, const uint4(&words)[2]) {
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
    KERNEL_OCCUPANCY(batch_norm_statistics_nhwc_##T, THREADS, 2,                                                     \
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
    KERNEL_OCCUPANCY(batch_norm_backward_reduce_nhwc_##T, THREADS, 2,                                                \
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
