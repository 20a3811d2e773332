// Convolution with any window, a bias, and ReLU, into some channels of a map: so putting branches together costs nothing.
//
//   y[n,i,j,k] = max(0, bias[k] + Σ_{r,s,c} x[n, stride·i − pad_h + r, stride·j − pad_w + s, c] · w[r,s,c,k])
//
// An implicit GEMM: M = (n,i,j), N = k, K = (r,s,c). A is gathered from `x`, zero where a tap hangs over; B is `w`.
// Layout: x and y NHWC, w [r][s][c][k]. Pixels of y have `stored` ≥ k channels, of which the k from `y` on are
// overwritten and the others stay. NaN stays NaN.
// Types: f32 (FMA): features are compared to 1e-4, which TF32 or halves would not give.
// Kernels: conv_bias_relu_nhwc_f32_{128x64,64x32,64x32_any}. The first two need c and k multiples of 4, and x and w
// aligned to 16 bytes.
// Launch: ceil(M/tile M) · ceil(N/tile N) blocks of 128, tiles of N first, so that they share A in L2; no dynamic
// shared memory.
// Bound: arithmetic (2·r·s·n·h·w·k·c FLOP); of Inception v3 11.4 GFLOP an image.
// Neighbours: resize.cu before the first one, pool.cu between; nothing is trained.
#include "convolution.cuh"
#include "dependency.cuh"
#include "window.cuh"

namespace {

// A: [pixel of y][r, s, c].
struct WindowColumns {
    static constexpr Along ALONG = Along::K;
    struct Outer {
        const f32* image;
        int h, w;
    };
    struct Inner {
        int r, s;
        uint32_t c;
    };
    const f32* base;
    Window window;
    uint32_t pixels;
    bool vectors;

    __device__ __forceinline__ Outer outer(uint32_t m) const {
        if (m >= pixels) return {base, OUTSIDE, OUTSIDE};
        const uint32_t row = m / window.out_w, image = row / window.out_h;
        const uint32_t i = row - image * window.out_h, j = m - row * window.out_w;
        return {base + uint64_t{image} * (window.in_h * window.in_w * window.c),
                static_cast<int>(i * window.stride) - static_cast<int>(window.pad_h),
                static_cast<int>(j * window.stride) - static_cast<int>(window.pad_w)};
    }
    __device__ __forceinline__ Inner inner(uint32_t k) const {
        const uint32_t tap = k / window.c, r = tap / window.kernel_w;
        if (r >= window.kernel_h) return {OUTSIDE, OUTSIDE, 0};
        return {static_cast<int>(r), static_cast<int>(tap - r * window.kernel_w), k - tap * window.c};
    }
    __device__ __forceinline__ const f32* at(const Outer& pixel, const Inner& tap) const {
        const uint32_t h = pixel.h + tap.r, w = pixel.w + tap.s;
        if (h >= window.in_h || w >= window.in_w) return nullptr;
        return pixel.image + ((h * window.in_w + w) * window.c + tap.c);
    }
};

// B: [r, s, c][k], a plain matrix.
struct Filter {
    static constexpr Along ALONG = Along::OUTER;
    using Outer = uint32_t;
    using Inner = const f32*;
    const f32* base;
    uint32_t rows, columns;
    bool vectors;
    __device__ __forceinline__ Outer outer(uint32_t n) const { return n; }
    __device__ __forceinline__ Inner inner(uint32_t k) const {
        return k < rows ? base + uint64_t{k} * columns : nullptr;
    }
    __device__ __forceinline__ const f32* at(Outer n, Inner row) const {
        return row != nullptr && n < columns ? row + n : nullptr;
    }
};

// Some channels of each pixel of y.
struct Channels {
    using Type = f32;
    f32* to;
    const f32* bias;
    uint32_t rows, columns, stored;
    bool aligned;

    __device__ __forceinline__ f32* at(uint32_t m, uint32_t n) const {
        return m < rows ? to + uint64_t{m} * stored + n : nullptr;
    }
    __device__ __forceinline__ void values(uint32_t n, const float* sums, float (&result)[VECTOR<f32>]) const {
#pragma unroll
        for (uint32_t i = 0; i < VECTOR<f32>; ++i) {
            const float y = n + i < columns ? sums[i] + bias[n + i] : 0.0f;
            result[i] = y < 0.0f ? 0.0f : y;
        }
    }
};

template <int M, int N, bool ANY>
__device__ __forceinline__ void conv_bias_relu(const f32* x, const f32* w, const f32* bias, f32* y,
                                               const Window& window, uint32_t n, uint32_t k, uint32_t stored) {
    const uint32_t pixels = n * window.out_h * window.out_w;
    const uint32_t depth = window.kernel_h * window.kernel_w * window.c;
    const uint32_t tiles_n = (k + N - 1) / N;
    const WindowColumns a{x, window, pixels, window.c % VECTOR<f32> == 0 && is_aligned(x)};
    const Filter b{w, depth, k, k % VECTOR<f32> == 0 && is_aligned(w)};
    const Channels output{y, bias, pixels, k, stored, stored % VECTOR<f32> == 0 && is_aligned(y)};
    const uint32_t first_m = blockIdx.x / tiles_n * M, first_n = blockIdx.x % tiles_n * N;
    const float* const tile = multiply_tile<f32, M, N, ANY>(a, b, first_m, first_n, 0, depth);
    store_tile<M, N>(tile, output, first_m, first_n);
}

}  // namespace

#define CONV_BIAS_RELU(T, TILE, M, N, ANY)                                                                           \
    KERNEL_OCCUPANCY(conv_bias_relu_nhwc_##T##_##TILE, (GemmTile<M, N>::THREADS), (GemmTile<M, N>::BLOCKS),          \
           (const T* x, const T* w, const T* bias, T* y, Window window, uint32_t n, uint32_t k, uint32_t stored)) {  \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        conv_bias_relu<M, N, ANY>(x, w, bias, y, window, n, k, stored);                                              \
    }
CONV_BIAS_RELU(f32, 128x64, 128, 64, false)
CONV_BIAS_RELU(f32, 64x32, 64, 32, false)
CONV_BIAS_RELU(f32, 64x32_any, 64, 32, true)
