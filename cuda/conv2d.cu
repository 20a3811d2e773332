// Convolution 4×4, forward; the same arithmetic is the data gradient of the transposed convolution.
//
//   small[n,i,j,k] = f( Σ_{r,s,c} large[n, stride·i − pad + r, stride·j − pad + s, c] · w[k,r,s,c] )
//
// An implicit GEMM: M = (n,i,j), N = k, K = (r,s,c). A is gathered from `large`, zero where a tap hangs over; B is `w`.
// Layout: large and small NHWC, w [k][r][s][c]. Any stride and padding (2 and 1 in the network, 1 and 0 in its 4×4 →
// 1×1 layer). f is an Activation (activation.cuh). `small` is overwritten.
// Types: T in memory, f32 accumulation (mma.sync; T = f32: FMA), one rounding to T.
// Kernels: conv2d_fprop_nhwc_{f32,f16,bf16}_{128x64,64x32,64x32_any}. The first two need c a multiple of VECTOR<T> (8,
// in f32 4), and large and w aligned to 16 bytes.
// Launch: ceil(M/tile M) · ceil(N/tile N) blocks of 128, tiles of N first, so that they share A in L2; no dynamic
// shared memory.
// Bound: arithmetic (2·16·n·hs·ws·k·c FLOP), except for c ≤ 8: there memory.
// Neighbours: behind the activation or batch norm of the layer before; its own batch norm or loss follows.
#include "convolution.cuh"

namespace {

template <typename T>
struct LargeMap : Columns<T> {
    static constexpr Along ALONG = Along::K;
    using Outer = typename Columns<T>::Pixel;
    using Inner = typename Columns<T>::Tap;
    using Columns<T>::Columns;
    __device__ __forceinline__ Outer outer(uint32_t m) const { return this->pixel(m); }
    __device__ __forceinline__ Inner inner(uint32_t k) const { return this->tap(k); }
    __device__ __forceinline__ const T* at(const Outer& pixel, const Inner& tap) const {
        return this->element(pixel, tap);
    }
};

// [k][r, s, c], a plain matrix.
template <typename T>
struct Weight {
    static constexpr Along ALONG = Along::K;
    using Outer = const T*;
    using Inner = uint32_t;
    const T* base;
    uint32_t rows, columns;
    bool vectors;
    __device__ __forceinline__ Outer outer(uint32_t n) const {
        return n < rows ? base + uint64_t{n} * columns : nullptr;
    }
    __device__ __forceinline__ Inner inner(uint32_t k) const { return k; }
    __device__ __forceinline__ const T* at(Outer row, Inner k) const {
        return row != nullptr && k < columns ? row + k : nullptr;
    }
};

template <typename T, int M, int N, bool ANY>
__device__ __forceinline__ void conv2d_fprop(const T* large, const T* w, T* small, const Convolution& shape,
                                             int activation) {
    const uint32_t pixels = shape.n * shape.small_h * shape.small_w, depth = 16 * shape.c;
    const uint32_t tiles_n = (shape.k + N - 1) / N;
    const LargeMap<T> a(large, shape, pixels);
    // 16·c is a multiple of a vector for every c.
    const Weight<T> b{w, shape.k, depth, is_aligned(w)};
    const MatrixOutput<T> output(small, pixels, shape.k, activation);
    implicit_gemm<T, M, N, ANY>(a, b, output, blockIdx.x / tiles_n * M, blockIdx.x % tiles_n * N, 0, depth);
}

}  // namespace

#define CONV2D(T, TILE, M, N, ANY)                                                                 \
    KERNEL(conv2d_fprop_nhwc_##T##_##TILE, GEMM_THREADS,                                           \
           (const T* large, const T* w, T* small, Convolution shape, int activation)) {            \
        conv2d_fprop<T, M, N, ANY>(large, w, small, shape, activation);                            \
    }
CONVOLUTION_TILES(CONV2D, f32)
CONVOLUTION_TILES(CONV2D, f16)
CONVOLUTION_TILES(CONV2D, bf16)
