// Weight gradient of both convolutions.
//
//   dw[k,r,s,c] = Σ_{n,i,j} small[n,i,j,k] · large[n, stride·i − pad + r, stride·j − pad + s, c]
//
// An implicit GEMM: M = k, N = (r,s,c), K = pixels (n,i,j) of the small map. M·N is small and K long, so the pixels are
// split over blockIdx.z: split z sums the `depth` pixels from z·depth on, and the last block of a tile to arrive adds
// the splits up (implicit_gemm.cuh).
// Layout: small and large NHWC, whichever of the two is the gradient; dw [k][r][s][c]; k and c multiples of VECTOR<T>
// (8, in f32 4), all aligned to 16 bytes. 4×4 or 3×3, any stride and padding. Overwritten. What loss scale the gradient carries
// stays in.
// `not_finite`, unless null, becomes 1 where an element of dw is not a finite number.
// Types: T in memory, f32 accumulation (mma.sync; T = f32: FMA), f32 out.
// Kernels: conv_wgrad_nhwc_{f32,f16,bf16}_{128x64,64x32,64x128}, and in halves 128x128, and with wgmma
// (warpgroup_gemm.cuh) 256x128_wgmma, 128x128_wgmma and 128x64_wgmma; 64x128 is for images: k = 64, taps·c = 128 or less.
// Launch: (ceil(taps·c/tile N), ceil(k/tile M), splits) blocks of the tile's threads; dynamic shared memory of
// large tiles alone; depth ≥ 1, splits = ceil(pixels/depth); partial [tiles][splits][tile M·tile N] where splits > 1.
// Bound: arithmetic (2·taps·n·hs·ws·k·c FLOP), except for c ≤ 8; and 8·splits bytes an element for the sums.
// Neighbours: adam.cu reads dw.
#include "convolution.cuh"
#include "dependency.cuh"
#include "warpgroup_gemm.cuh"

namespace {

// A: [pixel][k], a plain matrix.
template <typename T>
struct SmallMap {
    static constexpr Along ALONG = Along::OUTER;
    using Outer = uint32_t;
    using Inner = const T*;
    const T* base;
    uint32_t pixels, columns;
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

template <typename T, int M, int N, bool WARPGROUP>
__device__ __forceinline__ void conv_wgrad(const T* small, const T* large, float* dw, const Convolution& shape,
                                           uint32_t* not_finite, float* partial, uint32_t* arrived,
                                           uint32_t depth_of_split, uint32_t group) {
    constexpr int THREADS = TileOf<T, M, N, WARPGROUP>::THREADS;
    const uint32_t first = blockIdx.z * depth_of_split;
    const uint32_t end = min(shape.n * shape.small_h * shape.small_w, first + depth_of_split);
    const uint32_t columns = taps(shape) * shape.c, first_m = blockIdx.y * M, first_n = blockIdx.x * N;
    const SmallMap<T> a{small, end, shape.k};
    const LargeMap<T> b(large, shape, end);
    float* const tile = tile_of_product<T, M, N, WARPGROUP>(a, b, first_m, first_n, first, end);
    const uint32_t number = blockIdx.y * gridDim.x + blockIdx.x;
    if (!sum_of_splits<M, N, THREADS>(tile, {partial, arrived, number, blockIdx.z, gridDim.z, group})) return;
    using P = Place<f32, M, N, THREADS>;
    const P place;
    const uint32_t n = first_n + place.column;
    if (n >= columns) return;
    bool finite = true;
#pragma unroll 4
    for (int row = place.row; row < M; row += P::STEP) {
        if (first_m + row >= shape.k) break;
        const float4 four =
            *reinterpret_cast<const float4*>(tile + row * TileRows<M, N>::STRIDE + place.column);
        finite = finite && isfinite(four.x) && isfinite(four.y) && isfinite(four.z) && isfinite(four.w);
        *reinterpret_cast<float4*>(dw + (uint64_t{first_m + row} * columns + n)) = four;
    }
    if (!finite && not_finite != nullptr) *not_finite = 1;
}

}  // namespace

#define CONV_WGRAD(T, TILE, M, N, WARPGROUP)                                                                         \
    KERNEL_OCCUPANCY(conv_wgrad_nhwc_##T##_##TILE, (TileOf<T, M, N, WARPGROUP>::THREADS),                            \
                     (TileOf<T, M, N, WARPGROUP>::BLOCKS),                                                           \
           (const T* small, const T* large, float* dw, Convolution shape, uint32_t* not_finite, float* partial,      \
            uint32_t* arrived, uint32_t depth, uint32_t group)) {                                                    \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        conv_wgrad<T, M, N, WARPGROUP>(small, large, dw, shape, not_finite, partial, arrived, depth, group);         \
    }
#define CONV_WGRAD_TILES(T)                                                                                          \
    CONV_WGRAD(T, 128x64, 128, 64, false)                                                                            \
    CONV_WGRAD(T, 64x32, 64, 32, false)                                                                              \
    CONV_WGRAD(T, 64x128, 64, 128, false)
// In f32 there are no registers for 128×128, and no wgmma.
#define CONV_WGRAD_TILES_OF_HALVES(T)                                                                                \
    CONV_WGRAD(T, 128x128, 128, 128, false)                                                                          \
    CONV_WGRAD(T, 256x128_wgmma, 256, 128, true)                                                                     \
    CONV_WGRAD(T, 128x128_wgmma, 128, 128, true)                                                                     \
    CONV_WGRAD(T, 128x64_wgmma, 128, 64, true)
CONV_WGRAD_TILES_OF_HALVES(f16)
CONV_WGRAD_TILES_OF_HALVES(bf16)
CONV_WGRAD_TILES(f32)
CONV_WGRAD_TILES(f16)
CONV_WGRAD_TILES(bf16)
