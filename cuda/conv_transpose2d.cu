// Transposed convolution 4×4, forward; the same arithmetic is the data gradient of the convolution.
//
//   large[n,h,w,c] = f( Σ_{i,j,r,s: stride·i − pad + r = h, stride·j − pad + s = w} Σ_k small[n,i,j,k] · w[k,r,s,c] )
//
// stride 2, pad 1 (hl = 2·hs, wl = 2·ws): only every other tap meets a given output pixel, so each of the four parities
// (p, q) of the output is a 2×2 convolution of its own, an implicit GEMM with M = (n,i,j), N = c, K = (a,b,k):
//   large[n, 2i+p, 2j+q, c] = f( Σ_{a,b ∈ {0,1}} Σ_k small[n, i+p−a, j+q−b, k] · w[k, 2a+1−p, 2b+1−q, c] )
// No product with a zero that the stride put in, no scatter, no atomics.
// stride 1, pad 0, 1×1 → 4×4: a plain GEMM with M = n, N = (r,s,c), K = k.
// Layout: small and large NHWC, w [k][r][s][c]. f is an Activation (activation.cuh). `large` is overwritten.
// Types: T in memory, f32 accumulation (mma.sync; T = f32: FMA), one rounding to T.
// Kernels: conv_transpose2d_fprop_nhwc_{f32,f16,bf16}_{128x64,64x32,64x32_any}. The first two need k and c to be
// multiples of VECTOR<T> (8, in f32 4), and small and w aligned to 16 bytes.
// Launch: ceil(M/tile M) · parities · ceil(N/tile N) blocks of 128, parities = 4 for stride 2, 1 for stride 1; tiles of
// N first, then parities, so that they share A in L2; no dynamic shared memory.
// Bound: arithmetic (2·16·n·hs·ws·k·c FLOP), except for c ≤ 8 and the 1×1 layer: there memory.
// Neighbours: behind the activation or batch norm of the layer before; its own batch norm or tanh follows.
#include "convolution.cuh"

namespace {

// A: [pixel of the small map][a, b, k].
template <typename T>
struct SmallMap {
    static constexpr Along ALONG = Along::K;
    struct Outer {
        const T* image;
        int i, j;
    };
    struct Inner {
        int i, j;
        uint32_t k;
    };
    const T* base;
    Convolution shape;
    uint32_t pixels, depth;
    int p, q;
    bool vectors;

    __device__ __forceinline__ Outer outer(uint32_t m) const {
        if (m >= pixels) return {base, OUTSIDE, OUTSIDE};
        const uint32_t row = m / shape.small_w, image = row / shape.small_h;
        return {base + uint64_t{image} * (shape.small_h * shape.small_w * shape.k),
                static_cast<int>(row - image * shape.small_h), static_cast<int>(m - row * shape.small_w)};
    }
    __device__ __forceinline__ Inner inner(uint32_t k) const {
        if (k >= depth) return {OUTSIDE, OUTSIDE, 0};
        const uint32_t tap = k / shape.k;
        return {p - static_cast<int>(tap / 2), q - static_cast<int>(tap % 2), k - tap * shape.k};
    }
    __device__ __forceinline__ const T* at(const Outer& pixel, const Inner& tap) const {
        const uint32_t i = pixel.i + tap.i, j = pixel.j + tap.j;
        if (i >= shape.small_h || j >= shape.small_w) return nullptr;
        return pixel.image + ((i * shape.small_w + j) * shape.k + tap.k);
    }
};

// B: [a, b, k][c], or [k][r, s, c] for the 1×1 layer.
template <typename T>
struct Weight {
    static constexpr Along ALONG = Along::OUTER;
    using Outer = uint32_t;
    using Inner = const T*;
    const T* base;
    Convolution shape;
    uint32_t columns, depth;
    int p, q;
    bool vectors;

    __device__ __forceinline__ Outer outer(uint32_t n) const { return n; }
    __device__ __forceinline__ Inner inner(uint32_t k) const {
        if (k >= depth) return nullptr;
        const uint32_t tap = k / shape.k;
        const uint32_t r = 2 * (tap / 2) + 1 - p, s = 2 * (tap % 2) + 1 - q;
        const uint32_t row = (k - tap * shape.k) * 16 + (shape.stride == 1 ? 0 : 4 * r + s);
        return base + uint64_t{row} * shape.c;
    }
    __device__ __forceinline__ const T* at(Outer n, Inner row) const {
        return row != nullptr && n < columns ? row + n : nullptr;
    }
};

template <typename T>
struct LargeMap {
    using Type = T;
    T* to;
    Convolution shape;
    uint32_t pixels, columns;
    int p, q;
    bool aligned;
    int activation;

    __device__ __forceinline__ T* row(uint32_t m) const {
        if (m >= pixels) return nullptr;
        if (shape.stride == 1) return to + uint64_t{m} * columns;
        const uint32_t row = m / shape.small_w, j = m - row * shape.small_w;
        // `row` counts the rows of all images, and so does 2·row.
        return to + (uint64_t{2 * row + p} * shape.large_w + 2 * j + q) * shape.c;
    }
    __device__ __forceinline__ float value(uint32_t, float sum) const { return activate(activation, sum); }
};

template <typename T, int M, int N, bool ANY>
__device__ __forceinline__ void conv_transpose2d_fprop(const T* small, const T* w, T* large, const Convolution& shape,
                                                       int activation) {
    const bool whole = shape.stride == 1;
    const uint32_t pixels = shape.n * shape.small_h * shape.small_w;
    const uint32_t columns = whole ? 16 * shape.c : shape.c, depth = whole ? shape.k : 4 * shape.k;
    const uint32_t tiles_n = (columns + N - 1) / N, parities = whole ? 1 : 4;
    const uint32_t tile = blockIdx.x / tiles_n, parity = tile % parities;
    const int p = static_cast<int>(parity / 2), q = static_cast<int>(parity % 2);
    const SmallMap<T> a{small, shape, pixels, depth, p, q, shape.k % VECTOR<T> == 0 && is_aligned(small)};
    const Weight<T> b{w, shape, columns, depth, p, q, columns % VECTOR<T> == 0 && is_aligned(w)};
    const LargeMap<T> output{large, shape, pixels, columns, p, q, columns % VECTOR<T> == 0 && is_aligned(large),
                             activation};
    implicit_gemm<T, M, N, ANY>(a, b, output, tile / parities * M, blockIdx.x % tiles_n * N, 0, depth);
}

}  // namespace

#define CONV_TRANSPOSE2D(T, TILE, M, N, ANY)                                                       \
    KERNEL(conv_transpose2d_fprop_nhwc_##T##_##TILE, GEMM_THREADS,                                 \
           (const T* small, const T* w, T* large, Convolution shape, int activation)) {            \
        conv_transpose2d_fprop<T, M, N, ANY>(small, w, large, shape, activation);                  \
    }
CONVOLUTION_TILES(CONV_TRANSPOSE2D, f32)
CONVOLUTION_TILES(CONV_TRANSPOSE2D, f16)
CONVOLUTION_TILES(CONV_TRANSPOSE2D, bf16)
