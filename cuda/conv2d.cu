// Convolution 4×4 or 3×3, forward; the same arithmetic is the data gradient of the transposed convolution.
//
//   small[n,i,j,k] = e( Σ_{r,s,c} large[n, stride·i − pad + r, stride·j − pad + s, c] · w[k,r,s,c] )
//
// An implicit GEMM: M = (n,i,j), N = k, K = (r,s,c). A is gathered from `large`, zero where a tap hangs over; B is `w`.
// e is an epilogue (convolution.cuh): an activation, batch norm's sums, the backward pass of an activation, or that of
// an activation and batch norm's sums; `other` is then y or x of that layer, laid out as `small`.
// Layout: large and small NHWC, w [k][r][s][c], c and k multiples of VECTOR<T> (8, in f32 4), all aligned to 16 bytes.
// Any stride and padding (2 and 1 in the network, 1 and 0 in its 4×4 → 1×1 layer, 1 and 1 with 3×3). `small` is
// overwritten. The n maps are `segments` inputs, one behind the other, whose sums are kept apart: no tile has rows of
// two.
// Types: T in memory, f32 accumulation (mma.sync; T = f32: FMA), one rounding to T.
// Kernels: conv2d_fprop_nhwc_{f32,f16,bf16}_{128x64,64x32}, and in halves 128x128, and with wgmma (warpgroup_gemm.cuh)
// 256x128_wgmma, 128x128_wgmma and 128x64_wgmma.
// Launch: (segments · ceil(rows/tile M) · ceil(N/tile N), 1, splits) blocks of the tile's threads, rows =
// M/segments, tiles of N first, so that they share A in L2; dynamic shared memory of large tiles alone. Where splits
// > 1 each sums a part of K of `depth`, a multiple of a stage, and the last block of a tile to arrive finishes it
// (implicit_gemm.cuh). sums.chunks = ceil(rows/tile M).
// Bound: arithmetic (2·taps·n·hs·ws·k·c FLOP), except for c ≤ 8: there memory.
// Neighbours: behind the activation or batch norm of the layer before; the rest of its own batch norm or the loss
// follows.
#include "convolution.cuh"
#include "dependency.cuh"
#include "warpgroup_gemm.cuh"

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
    __device__ __forceinline__ Outer outer(uint32_t n) const {
        return n < rows ? base + uint64_t{n} * columns : nullptr;
    }
    __device__ __forceinline__ Inner inner(uint32_t k) const { return k; }
    __device__ __forceinline__ const T* at(Outer row, Inner k) const {
        return row != nullptr && k < columns ? row + k : nullptr;
    }
};

template <typename T, int M, int N, bool WARPGROUP>
__device__ __forceinline__ void conv2d_fprop(const T* large, const T* w, T* small, const Convolution& shape,
                                             const Epilogue<T>& epilogue, uint32_t segments, float* partial,
                                             uint32_t* arrived, uint32_t depth_of_split, uint32_t group) {
    constexpr int THREADS = TileOf<T, M, N, WARPGROUP>::THREADS;
    const uint32_t pixels = shape.n * shape.small_h * shape.small_w, depth = taps(shape) * shape.c;
    const uint32_t rows = pixels / segments;
    const uint32_t tiles_n = (shape.k + N - 1) / N, tiles_m = (rows + M - 1) / M;
    const uint32_t tile_n = blockIdx.x % tiles_n, tile_m = blockIdx.x / tiles_n;
    const uint32_t segment = tile_m / tiles_m, chunk = tile_m % tiles_m;
    const uint32_t first_m = segment * rows + chunk * M, end_m = (segment + 1) * rows, first_n = tile_n * N;
    const LargeMap<T> a(large, shape, pixels);
    const Weight<T> b{w, shape.k, depth};
    const uint32_t first_k = blockIdx.z * depth_of_split;
    float* const tile = tile_of_product<T, M, N, WARPGROUP>(a, b, first_m, first_n, first_k,
                                                            min(depth, first_k + depth_of_split));
    if (!sum_of_splits<M, N, THREADS>(tile, {partial, arrived, blockIdx.x, blockIdx.z, gridDim.z, group})) return;
    const auto at = [&](uint32_t m, uint32_t n) {
        return m < end_m ? small + (uint64_t{m} * shape.k + n) : nullptr;
    };
    finish_tile<T, M, N, THREADS>(tile, small, epilogue,
                                  {segment, chunk, first_n, tile_n, min(uint32_t{M}, end_m - first_m)}, first_m,
                                  first_n, shape.k, at);
}

}  // namespace

#define CONV2D(T, TILE, M, N, WARPGROUP)                                                                             \
    KERNEL_OCCUPANCY(conv2d_fprop_nhwc_##T##_##TILE, (TileOf<T, M, N, WARPGROUP>::THREADS),                          \
                     (TileOf<T, M, N, WARPGROUP>::BLOCKS),                                                           \
           (const T* large, const T* w, T* small, Convolution shape, uint32_t kind, int activation, const T* other,  \
            Sums sums, uint32_t segments, float* partial, uint32_t* arrived, uint32_t depth, uint32_t group)) {      \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        conv2d_fprop<T, M, N, WARPGROUP>(large, w, small, shape, {kind, activation, other, sums}, segments, partial, \
                                         arrived, depth, group);                                                     \
    }
#define CONV2D_TILES(T)                                                                                              \
    CONV2D(T, 128x64, 128, 64, false)                                                                                \
    CONV2D(T, 64x32, 64, 32, false)
// In f32 there are no registers for 128×128, and no wgmma.
#define CONV2D_TILES_OF_HALVES(T)                                                                                    \
    CONV2D(T, 128x128, 128, 128, false)                                                                              \
    CONV2D(T, 256x128_wgmma, 256, 128, true)                                                                         \
    CONV2D(T, 128x128_wgmma, 128, 128, true)                                                                         \
    CONV2D(T, 128x64_wgmma, 128, 64, true)
CONV2D_TILES_OF_HALVES(f16)
CONV2D_TILES_OF_HALVES(bf16)
CONV2D_TILES(f32)
CONV2D_TILES(f16)
CONV2D_TILES(bf16)
