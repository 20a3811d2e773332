// What the three convolution kernels share: the geometry, the large map seen through the taps, and what becomes of a
// tile on its way to memory.
//
// Every convolution here, 4×4 or 3×3, lies between a *large* map (input of a convolution, output of a transposed one) and a
// *small* one. Both are NHWC, with channels in whole vectors of 16 bytes. Weights are [k][r][s][c]: k channels of the
// small map, c of the large one, tap (r, s): the small pixel (i, j) meets the large pixels (stride·i − pad + r,
// stride·j − pad + s).
#pragma once

#include "activation.cuh"
#include "batch_norm.cuh"
#include "implicit_gemm.cuh"

// Passed by value: `ConvArgument` of src/backend/cuda/conv/shape.rs.
struct Convolution {
    uint32_t n;
    // The small map.
    uint32_t small_h, small_w, k;
    // The large map.
    uint32_t large_h, large_w, c;
    uint32_t stride, pad;
    // Rows, and columns, of the kernel, 4 or 3; and 256/side, rounded up, to divide by it.
    uint32_t side, over_side;
    // Division by small_h, small_w, k and c: see quotient().
    uint32_t multipliers[4];
    uint8_t shifts[4];
};

// What becomes of a tile's sums: numbers of `Epilogue` in src/backend/cuda/conv/epilogue.rs.
enum : uint32_t {
    // f(sum).
    EPILOGUE_ACTIVATION = 0,
    // The sum, and batch norm's sums over it.
    EPILOGUE_STATISTICS = 1,
    // sum·f'(x), from y = f(x): the activation's backward pass.
    EPILOGUE_DERIVATIVE = 2,
    // g = sum·f'(γx̂ + β) from x, and batch norm's sums over g and g·x̂.
    EPILOGUE_NORM_GRADIENT = 3,
};

namespace {

// A coordinate that is outside of every map, also with another one added to it.
constexpr int OUTSIDE = 1 << 24;

template <typename T>
__device__ __forceinline__ bool is_aligned(const T* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// n / d for n < 2³¹ by a multiplication (Granlund and Montgomery 1994, figure 4.1): shift = ⌈log₂ d⌉, multiplier =
// ⌊2³²·(2^shift − d)/d⌋ + 1.
__device__ __forceinline__ uint32_t quotient(uint32_t n, uint32_t multiplier, uint32_t shift) {
    return (__umulhi(n, multiplier) + n) >> shift;
}
__device__ __forceinline__ uint32_t over_small_h(const Convolution& s, uint32_t n) {
    return quotient(n, s.multipliers[0], s.shifts[0]);
}
__device__ __forceinline__ uint32_t over_small_w(const Convolution& s, uint32_t n) {
    return quotient(n, s.multipliers[1], s.shifts[1]);
}
__device__ __forceinline__ uint32_t over_k(const Convolution& s, uint32_t n) {
    return quotient(n, s.multipliers[2], s.shifts[2]);
}
__device__ __forceinline__ uint32_t over_c(const Convolution& s, uint32_t n) {
    return quotient(n, s.multipliers[3], s.shifts[3]);
}

// The row of a tap of the kernel, of fewer than 128: side or more behind the last.
__device__ __forceinline__ uint32_t over_side(const Convolution& s, uint32_t tap) { return tap * s.over_side >> 8; }
// Elements of the weights for each channel of both maps.
__device__ __forceinline__ uint32_t taps(const Convolution& s) { return s.side * s.side; }

// The matrix [pixel of the small map][r, s, c] of what each small pixel meets in the large map.
template <typename T>
struct Columns {
    const T* base;
    Convolution shape;
    // Pixels from here on count as zero.
    uint32_t pixels;

    struct Pixel {
        const T* image;
        int h, w;
    };
    struct Tap {
        int r, s;
        uint32_t c;
    };

    __device__ __forceinline__ Columns(const T* large, const Convolution& shape, uint32_t pixels)
        : base(large), shape(shape), pixels(pixels) {}

    __device__ __forceinline__ Pixel pixel(uint32_t index) const {
        if (index >= pixels) return {base, OUTSIDE, OUTSIDE};
        const uint32_t row = over_small_w(shape, index), image = over_small_h(shape, row);
        const uint32_t i = row - image * shape.small_h, j = index - row * shape.small_w;
        return {base + uint64_t{image} * (shape.large_h * shape.large_w * shape.c),
                static_cast<int>(i * shape.stride) - static_cast<int>(shape.pad),
                static_cast<int>(j * shape.stride) - static_cast<int>(shape.pad)};
    }
    __device__ __forceinline__ Tap tap(uint32_t index) const {
        const uint32_t tap = over_c(shape, index);
        const uint32_t r = over_side(shape, tap), s = tap - r * shape.side;
        if (r >= shape.side) return {OUTSIDE, OUTSIDE, 0};
        return {static_cast<int>(r), static_cast<int>(s), index - tap * shape.c};
    }
    __device__ __forceinline__ const T* element(const Pixel& pixel, const Tap& tap) const {
        const uint32_t h = pixel.h + tap.r, w = pixel.w + tap.s;
        if (h >= shape.large_h || w >= shape.large_w) return nullptr;
        return pixel.image + ((h * shape.large_w + w) * shape.c + tap.c);
    }
};

// What an epilogue needs beside the sums; `other` is y or x, laid out as the output.
template <typename T>
struct Epilogue {
    uint32_t kind;
    int activation;
    const T* other;
    Sums sums;
};

// Where a block's sums for batch norm belong.
struct Chunk {
    uint32_t segment, chunk;
    // The first channel of the tile's columns, and the number of the tile of channels.
    uint32_t channel, tile;
    // Rows of the tile that there are.
    uint32_t rows;
};

// The sums of the tile's columns over its rows, from those of the threads, in every thread of the column's.
template <typename T, int M, int N, int THREADS>
__device__ __forceinline__ void sum_columns(const Place<T, M, N, THREADS>& place, float (*shared)[N],
                                            const float (&mine)[VECTOR<T>], float (&sum)[VECTOR<T>]) {
    constexpr int V = VECTOR<T>;
    // The call before may still be reading.
    __syncthreads();
#pragma unroll
    for (int i = 0; i < V; ++i) shared[place.row][place.column + i] = mine[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < V; ++i) {
        sum[i] = 0.0f;
#pragma unroll 4
        for (int row = 0; row < Place<T, M, N, THREADS>::STEP; ++row) sum[i] += shared[row][place.column + i];
    }
}

template <typename T>
__device__ __forceinline__ void load_channels(const float* from, float (&to)[VECTOR<T>]) {
#pragma unroll
    for (int i = 0; i < VECTOR<T>; i += VECTOR<f32>) {
        const float4 four = *reinterpret_cast<const float4*>(from + i);
        to[i] = four.x;
        to[i + 1] = four.y;
        to[i + 2] = four.z;
        to[i + 3] = four.w;
    }
}

// Stores the tile in `rows` with an activation or the derivative of one; `at(m, n)` is where the elements from (m, n)
// on go, or null beyond the map or segment.
template <typename T, int M, int N, int THREADS, typename At>
__device__ __forceinline__ void store_activated(const float* rows, T* to, const Epilogue<T>& epilogue, uint32_t first_m,
                                                uint32_t first_n, uint32_t columns, At at) {
    using P = Place<T, M, N, THREADS>;
    constexpr int V = P::V, STRIDE = TileRows<M, N>::STRIDE;
    const P place;
    const uint32_t n = first_n + place.column;
    if (n >= columns) return;
    const int f = epilogue.activation;
#pragma unroll 2
    for (int row = place.row; row < M; row += P::STEP) {
        T* const out = at(first_m + row, n);
        if (out == nullptr) continue;
        float values[V];
#pragma unroll
        for (int i = 0; i < V; ++i) values[i] = rows[row * STRIDE + place.column + i];
        if (epilogue.kind == EPILOGUE_ACTIVATION) {
#pragma unroll
            for (int i = 0; i < V; ++i) values[i] = activate(f, values[i]);
        } else {
            float y[V];
            load_vector(epilogue.other + (out - to), y);
#pragma unroll
            for (int i = 0; i < V; ++i) values[i] *= activation_derivative(f, y[i]);
        }
        store_vector(out, values);
    }
}

// The same for every epilogue. Sums are of the rounded values, which is what later launches read.
template <typename T, int M, int N, int THREADS, typename At>
__device__ __forceinline__ void finish_tile(const float* rows, T* to, const Epilogue<T>& epilogue, const Chunk& chunk,
                                            uint32_t first_m, uint32_t first_n, uint32_t columns, At at) {
    if (epilogue.kind == EPILOGUE_ACTIVATION || epilogue.kind == EPILOGUE_DERIVATIVE) {
        store_activated<T, M, N, THREADS>(rows, to, epilogue, first_m, first_n, columns, at);
        return;
    }
    using P = Place<T, M, N, THREADS>;
    constexpr int V = P::V, STRIDE = TileRows<M, N>::STRIDE;
    const P place;
    const uint32_t n = first_n + place.column;
    const bool inside = n < columns;
    const int f = epilogue.activation;
    STATIC_SHARED(float, shared, [P::STEP][N]);
    double2* const scratch = reinterpret_cast<double2*>(shared);
    const Sums& sums = epilogue.sums;
    const uint32_t channel = chunk.channel + place.column;
    float first[V] = {}, second[V] = {}, total[V];
    if (epilogue.kind == EPILOGUE_STATISTICS) {
#pragma unroll 2
        for (int row = place.row; row < M; row += P::STEP) {
            T* const out = inside ? at(first_m + row, n) : nullptr;
            if (out == nullptr) continue;
            float values[V];
#pragma unroll
            for (int i = 0; i < V; ++i) {
                values[i] = rows[row * STRIDE + place.column + i];
                first[i] += to_float(from_float<T>(values[i]));
            }
            store_vector(out, values);
        }
        sum_columns<T, M, N, THREADS>(place, shared, first, total);
        // Squares of distances to the tile's mean: those to zero would cancel where the mean is large.
        const float over = 1.0f / static_cast<float>(chunk.rows);
#pragma unroll 2
        for (int row = place.row; row < static_cast<int>(chunk.rows); row += P::STEP) {
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const float x = to_float(from_float<T>(rows[row * STRIDE + place.column + i]));
                const float distance = x - total[i] * over;
                second[i] += distance * distance;
            }
        }
        float spread[V];
        sum_columns<T, M, N, THREADS>(place, shared, second, spread);
        if (place.row == 0 && inside) {
            double* const leave = partial_sums(sums, chunk.segment, chunk.chunk) + channel;
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const double sum = static_cast<double>(total[i]), mean = static_cast<double>(total[i] * over);
                leave[i] = sum;
                // Σx² = Σ(x − m)² + 2m·Σx − n·m², for any m.
                leave[sums.channels + i] = static_cast<double>(spread[i]) + 2.0 * mean * sum -
                                           static_cast<double>(chunk.rows) * mean * mean;
            }
        }
        finish_statistics<P::THREADS, N>(sums, chunk.segment, chunk.chunk, chunk.channel, chunk.tile, scratch);
        return;
    }
    const BatchNormArrays& norm = *sums.arrays;
    const uint32_t statistic = chunk.segment * sums.channels + channel;
    // γ/√(σ² + ε), as batch_norm_apply has it.
    float mean[V], scale[V], bias[V];
    if (inside) {
        load_channels<T>(norm.mean + statistic, mean);
        load_channels<T>(norm.inverse + statistic, scale);
        load_channels<T>(norm.weight + channel, bias);
#pragma unroll
        for (int i = 0; i < V; ++i) scale[i] *= bias[i];
        load_channels<T>(norm.bias + channel, bias);
    }
#pragma unroll 1
    for (int row = place.row; row < M; row += P::STEP) {
        T* const out = inside ? at(first_m + row, n) : nullptr;
        if (out == nullptr) continue;
        float x[V], values[V];
        load_vector(epilogue.other + (out - to), x);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float distance = x[i] - mean[i];
            const float y = activate(f, distance * scale[i] + bias[i]);
            values[i] = rows[row * STRIDE + place.column + i] * activation_derivative(f, y);
            const float g = to_float(from_float<T>(values[i]));
            first[i] += g;
            // x̂ but for 1/√(σ² + ε).
            second[i] += g * distance;
        }
        store_vector(out, values);
    }
    float product[V];
    sum_columns<T, M, N, THREADS>(place, shared, first, total);
    sum_columns<T, M, N, THREADS>(place, shared, second, product);
    if (place.row == 0 && inside) {
        double* const leave = partial_sums(sums, chunk.segment, chunk.chunk) + channel;
#pragma unroll
        for (int i = 0; i < V; ++i) {
            leave[i] = static_cast<double>(total[i]);
            leave[sums.channels + i] =
                static_cast<double>(product[i]) * static_cast<double>(norm.inverse[statistic + i]);
        }
    }
    finish_gradients<P::THREADS, N>(sums, chunk.segment, chunk.chunk, chunk.channel, chunk.tile, scratch);
}

}  // namespace
