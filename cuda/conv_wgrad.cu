// Weight gradient of both convolutions.
//
//   dw[k,r,s,c] = Σ_{n,i,j} small[n,i,j,k] · large[n, stride·i − pad + r, stride·j − pad + s, c]
//
// An implicit GEMM: M = k, N = (r,s,c), K = pixels (n,i,j) of the small map. M·N is small and K long, so the pixels are
// split over blockIdx.z: split z sums the pixels from z·pixels_per_split on into dw of its own, partial[z][k][r][s][c],
// and conv_wgrad_reduce adds these in their order. With one split, `partial` is dw itself.
// Layout: small and large NHWC, whichever of the two is the gradient; partial and dw [k][r][s][c]. Any stride and
// padding. Overwritten. What loss scale the gradient carries stays in.
// Types: T in memory, f32 accumulation (mma.sync; T = f32: FMA), f32 out.
// Kernels: conv_wgrad_nhwc_{f32,f16,bf16}_{128x64,64x32,64x32_any}, conv_wgrad_reduce. The first two tiles need k and c
// to be multiples of VECTOR<T> (8, in f32 4), and small and large aligned to 16 bytes.
// Launch: (ceil(16·c/tile N), ceil(k/tile M), splits) blocks of 128, no dynamic shared memory; pixels_per_split ≥ 1,
// splits = ceil(pixels/pixels_per_split). conv_wgrad_reduce: ceil(k·16·c/1024) blocks of 256, 16-byte aligned pointers.
// Bound: arithmetic (2·16·n·hs·ws·k·c FLOP), except for c ≤ 8; the reduction: memory, 4·(splits + 1) bytes an element.
// Neighbours: adam.cu reads dw, after conv_wgrad_reduce.
#include "convolution.cuh"

namespace {

// A: [pixel][k], a plain matrix.
template <typename T>
struct SmallMap {
    static constexpr Along ALONG = Along::OUTER;
    using Outer = uint32_t;
    using Inner = const T*;
    const T* base;
    uint32_t pixels, columns;
    bool vectors;
    __device__ __forceinline__ Outer outer(uint32_t m) const { return m; }
    __device__ __forceinline__ Inner inner(uint32_t pixel) const {
        return pixel < pixels ? base + uint64_t{pixel} * columns : nullptr;
    }
    __device__ __forceinline__ const T* at(Outer m, Inner row) const {
        return row != nullptr && m < columns ? row + m : nullptr;
    }
};

template <typename T>
struct LargeMap : Columns<T> {
    static constexpr Along ALONG = Along::OUTER;
    using Outer = typename Columns<T>::Tap;
    using Inner = typename Columns<T>::Pixel;
    using Columns<T>::Columns;
    __device__ __forceinline__ Outer outer(uint32_t n) const { return this->tap(n); }
    __device__ __forceinline__ Inner inner(uint32_t pixel) const { return this->pixel(pixel); }
    __device__ __forceinline__ const T* at(const Outer& tap, const Inner& pixel) const {
        return this->element(pixel, tap);
    }
};

template <typename T, int M, int N, bool ANY>
__device__ __forceinline__ void conv_wgrad(const T* small, const T* large, float* partial, const Convolution& shape,
                                           uint32_t pixels_per_split) {
    const uint32_t first = blockIdx.z * pixels_per_split;
    const uint32_t end = min(shape.n * shape.small_h * shape.small_w, first + pixels_per_split);
    const uint32_t columns = 16 * shape.c;
    const SmallMap<T> a{small, end, shape.k, shape.k % VECTOR<T> == 0 && is_aligned(small)};
    const LargeMap<T> b(large, shape, end);
    const MatrixOutput<float> output(partial + uint64_t{blockIdx.z} * shape.k * columns, shape.k, columns,
                                     ACTIVATION_none);
    implicit_gemm<T, M, N, ANY>(a, b, output, blockIdx.y * M, blockIdx.x * N, first, end);
}

constexpr int REDUCE_THREADS = 256;

}  // namespace

#define CONV_WGRAD(T, TILE, M, N, ANY)                                                                  \
    KERNEL(conv_wgrad_nhwc_##T##_##TILE, GEMM_THREADS,                                                  \
           (const T* small, const T* large, float* partial, Convolution shape, uint32_t pixels_per_split)) { \
        conv_wgrad<T, M, N, ANY>(small, large, partial, shape, pixels_per_split);                       \
    }
CONVOLUTION_TILES(CONV_WGRAD, f32)
CONVOLUTION_TILES(CONV_WGRAD, f16)
CONVOLUTION_TILES(CONV_WGRAD, bf16)

// dw[i] = Σ_z partial[z][i], from z = 0 up; `count` = k·16·c elements, a multiple of 4.
KERNEL(conv_wgrad_reduce, REDUCE_THREADS, (const float* partial, float* dw, uint32_t count, uint32_t splits)) {
    const uint32_t at = (blockIdx.x * REDUCE_THREADS + threadIdx.x) * VECTOR<f32>;
    if (at >= count) return;
    float sum[VECTOR<f32>];
    load_vector(partial + at, sum);
#pragma unroll 4
    for (uint32_t split = 1; split < splits; ++split) {
        float part[VECTOR<f32>];
        load_vector(partial + uint64_t{split} * count + at, part);
#pragma unroll
        for (int i = 0; i < VECTOR<f32>; ++i) sum[i] += part[i];
    }
    store_vector(dw + at, sum);
}
