// Transposed convolution 4×4 or 3×3, forward; the same arithmetic is the data gradient of the convolution.
//
//   large[n,h,w,c] = e( Σ_{i,j,r,s: stride·i − pad + r = h, stride·j − pad + s = w} Σ_k small[n,i,j,k] · w[k,r,s,c] )
//
// stride 2, pad 1 (hl = 2·hs, wl = 2·ws): only every other tap meets a given output pixel, so each of the four parities
// (p, q) of the output is a 2×2 convolution of its own, an implicit GEMM with M = (n,i,j), N = c, K = (a,b,k):
//   large[n, 2i+p, 2j+q, c] = e( Σ_{a,b ∈ {0,1}} Σ_k small[n, i+p−a, j+q−b, k] · w[k, 2a+1−p, 2b+1−q, c] )
// No product with a zero that the stride put in, no scatter, no atomics.
// For the few channels of images N would be a fraction of a tile. `_parities` computes all four parities of a pixel at
// once, N = (p,q,c), over the 3×3 neighbours that they share, K = (di,dj,k) with a = p − di, b = q − dj; of its weights
// 20 of 36 are zero, and it still takes a quarter of the products of four tiles that are nearly empty.
// stride 1, pad 0, 1×1 → 4×4: a plain GEMM with M = n, N = (r,s,c), K = k.
// stride 1, pad 1, 3×3 (hl = hs, wl = ws): an implicit GEMM with M = (n,i,j), N = c, K = (r,s,k):
//   large[n,i,j,c] = e( Σ_{r,s} Σ_k small[n, i+1−r, j+1−s, k] · w[k,r,s,c] )
// e is an epilogue (convolution.cuh): an activation, batch norm's sums, the backward pass of an activation, or that of
// an activation and batch norm's sums; `other` is then y or x of that layer, laid out as `large`. `_parities` has the
// first and third.
// Layout: small and large NHWC, w [k][r][s][c], c and k multiples of VECTOR<T> (8, in f32 4), all aligned to 16 bytes;
// for `_parities` c is VECTOR<T>. `large` is overwritten. The n maps are `segments` inputs, one behind the other, whose
// sums are kept apart: no tile has rows of two.
// Types: T in memory, f32 accumulation (mma.sync; T = f32: FMA), one rounding to T.
// Kernels: conv_transpose2d_fprop_nhwc_{f32,f16,bf16}_{128x64,64x32,128x32_parities}, and in halves 128x128,
// and with wgmma (warpgroup_gemm.cuh) 256x128_wgmma, 128x128_wgmma and 128x64_wgmma.
// Launch: (segments · ceil(rows/tile M) · parities · ceil(N/tile N), 1, splits) blocks of the tile's threads, rows =
// M/segments, parities = 4 for stride 2, 1 for stride 1 and `_parities`; tiles of N first, then parities, so that they
// share A in L2; dynamic shared memory of large tiles alone. Where splits > 1 each sums a part of K of `depth`, a
// multiple of a stage, and the last block of a tile to arrive finishes it (implicit_gemm.cuh). For sums.chunks =
// ceil(rows/tile M)·parities; of the 1×1 layer
// ceil(rows/tile M)·16, where c must be a multiple of tile N.
// Bound: arithmetic (2·taps·n·hs·ws·k·c FLOP), except for c ≤ 8 and the 1×1 layer: there memory.
// Neighbours: behind the activation or batch norm of the layer before; the rest of its own batch norm or the loss
// follows.
#include "convolution.cuh"
#include "dependency.cuh"
#include "warpgroup_gemm.cuh"

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
    // Where the taps begin, and how many there are in a row, 2 or 3.
    int p, q;
    uint32_t across;

    __device__ __forceinline__ Outer outer(uint32_t m) const {
        if (m >= pixels) return {base, OUTSIDE, OUTSIDE};
        const uint32_t row = over_small_w(shape, m), image = over_small_h(shape, row);
        return {base + uint64_t{image} * (shape.small_h * shape.small_w * shape.k),
                static_cast<int>(row - image * shape.small_h), static_cast<int>(m - row * shape.small_w)};
    }
    __device__ __forceinline__ Inner inner(uint32_t k) const {
        if (k >= depth) return {OUTSIDE, OUTSIDE, 0};
        const uint32_t tap = over_k(shape, k), a = tap * (across == 3 ? 86 : 128) >> 8, b = tap - a * across;
        return {p - static_cast<int>(a), q - static_cast<int>(b), k - tap * shape.k};
    }
    __device__ __forceinline__ const T* at(const Outer& pixel, const Inner& tap) const {
        const uint32_t i = pixel.i + tap.i, j = pixel.j + tap.j;
        if (i >= shape.small_h || j >= shape.small_w) return nullptr;
        return pixel.image + ((i * shape.small_w + j) * shape.k + tap.k);
    }
};

// B: [a, b, k][c], or [k][r, s, c] for the 1×1 layer, or [r, s, k][c] for 3×3.
template <typename T>
struct Weight {
    static constexpr Along ALONG = Along::OUTER;
    using Outer = uint32_t;
    using Inner = const T*;
    const T* base;
    Convolution shape;
    uint32_t columns, depth;
    // Of a parity the first of its taps, 4·(1 − p) + 1 − q, and from one row of them to the next beyond two taps; else 0.
    uint32_t first, skipped;

    __device__ __forceinline__ Outer outer(uint32_t n) const { return n; }
    __device__ __forceinline__ Inner inner(uint32_t k) const {
        if (k >= depth) return nullptr;
        const uint32_t tap = over_k(shape, k);
        const uint32_t row = (k - tap * shape.k) * taps(shape) + tap * shape.stride + tap / 2 * skipped + first;
        return base + uint64_t{row} * shape.c;
    }
    __device__ __forceinline__ const T* at(Outer n, Inner row) const {
        return row != nullptr && n < columns ? row + n : nullptr;
    }
};

// A: [pixel of the small map][di, dj, k], di and dj from −1 to 1.
template <typename T>
struct Neighbours : SmallMap<T> {
    using Inner = typename SmallMap<T>::Inner;
    __device__ __forceinline__ Inner inner(uint32_t k) const {
        if (k >= this->depth) return {OUTSIDE, OUTSIDE, 0};
        const uint32_t tap = over_k(this->shape, k);
        return {static_cast<int>(tap / 3) - 1, static_cast<int>(tap % 3) - 1, k - tap * this->shape.k};
    }
};

// B: [di, dj, k][p, q, c], zero where no tap leads from the neighbour to the parity.
template <typename T>
struct ParityWeight {
    static constexpr Along ALONG = Along::OUTER;
    struct Outer {
        int p, q;
        uint32_t c;
    };
    struct Inner {
        const T* row;
        int i, j;
    };
    const T* base;
    Convolution shape;
    uint32_t depth;

    __device__ __forceinline__ Outer outer(uint32_t n) const {
        const uint32_t parity = n / VECTOR<T>;
        return {static_cast<int>(parity / 2), static_cast<int>(parity % 2), n % VECTOR<T>};
    }
    __device__ __forceinline__ Inner inner(uint32_t k) const {
        if (k >= depth) return {nullptr, 0, 0};
        const uint32_t tap = over_k(shape, k);
        return {base + uint64_t{k - tap * shape.k} * (16 * VECTOR<T>), static_cast<int>(tap / 3) - 1,
                static_cast<int>(tap % 3) - 1};
    }
    __device__ __forceinline__ const T* at(const Outer& to, const Inner& from) const {
        const int a = to.p - from.i, b = to.q - from.j;
        const bool meets = (a == 0 || a == 1) && (b == 0 || b == 1) && to.p < 2 && from.row != nullptr;
        return meets ? from.row + ((4 * (2 * a + 1 - to.p) + 2 * b + 1 - to.q) * VECTOR<T> + to.c) : nullptr;
    }
};

// The first channel of the large pixel of parity (p, q) that belongs to the small pixel m.
template <typename T>
__device__ __forceinline__ T* large_pixel(T* large, const Convolution& shape, uint32_t m, uint32_t p, uint32_t q) {
    const uint32_t row = over_small_w(shape, m), j = m - row * shape.small_w;
    // `row` counts the rows of all images, and so does 2·row.
    return large + (uint64_t{2 * row + p} * shape.large_w + 2 * j + q) * shape.c;
}

template <typename T, int M, int N, bool WARPGROUP>
__device__ __forceinline__ void conv_transpose2d_fprop(const T* small, const T* w, T* large, const Convolution& shape,
                                                       const Epilogue<T>& epilogue, uint32_t segments, float* partial,
                                                       uint32_t* arrived, uint32_t depth_of_split, uint32_t group) {
    constexpr int THREADS = TileOf<T, M, N, WARPGROUP>::THREADS;
    const bool same = shape.side == 3, whole = shape.stride == 1 && !same;
    const uint32_t pixels = shape.n * shape.small_h * shape.small_w, rows = pixels / segments;
    const uint32_t columns = whole ? 16 * shape.c : shape.c, depth = (same ? 9 : whole ? 1 : 4) * shape.k;
    const uint32_t tiles_n = (columns + N - 1) / N, parities = whole || same ? 1 : 4, tiles_m = (rows + M - 1) / M;
    const uint32_t tile_n = blockIdx.x % tiles_n, tile = blockIdx.x / tiles_n, parity = tile % parities;
    const uint32_t segment = tile / parities / tiles_m, tile_m = tile / parities % tiles_m;
    const uint32_t first_m = segment * rows + tile_m * M, end_m = (segment + 1) * rows, first_n = tile_n * N;
    const uint32_t p = same ? 1 : parity / 2, q = same ? 1 : parity % 2;
    const SmallMap<T> a{small, shape, pixels, depth, static_cast<int>(p), static_cast<int>(q), same ? 3u : 2u};
    const bool by_parity = parities == 4;
    const Weight<T> b{w, shape, columns, depth, by_parity ? 5 - 4 * p - q : 0, by_parity ? 4u : 0u};
    const uint32_t first_k = blockIdx.z * depth_of_split;
    float* const sums = tile_of_product<T, M, N, WARPGROUP>(a, b, first_m, first_n, first_k,
                                                            min(depth, first_k + depth_of_split));
    if (!sum_of_splits<M, N, THREADS>(sums, {partial, arrived, blockIdx.x, blockIdx.z, gridDim.z, group})) return;
    const auto at = [&](uint32_t m, uint32_t n) -> T* {
        if (m >= end_m) return nullptr;
        return by_parity ? large_pixel(large, shape, m, p, q) + n : large + (uint64_t{m} * columns + n);
    };
    const uint32_t tap = whole ? over_c(shape, first_n) : 0, channel = first_n - tap * shape.c;
    const Chunk chunk = {segment, whole ? 16 * tile_m + tap : parities * tile_m + parity, channel, channel / N,
                         min(uint32_t{M}, end_m - first_m)};
    finish_tile<T, M, N, THREADS>(sums, large, epilogue, chunk, first_m, first_n, columns, at);
}

template <typename T, int M, int N>
__device__ __forceinline__ void conv_transpose2d_parities(const T* small, const T* w, T* large,
                                                          const Convolution& shape, const Epilogue<T>& epilogue,
                                                          float* partial, uint32_t* arrived, uint32_t depth_of_split,
                                                          uint32_t group) {
    constexpr uint32_t C = VECTOR<T>, COLUMNS = 4 * C;
    static_assert(COLUMNS <= N);
    const uint32_t pixels = shape.n * shape.small_h * shape.small_w, depth = 9 * shape.k;
    const uint32_t first_m = blockIdx.x * M;
    const Neighbours<T> a{{small, shape, pixels, depth, 0, 0, 3}};
    const ParityWeight<T> b{w, shape, depth};
    const uint32_t first_k = blockIdx.z * depth_of_split;
    float* const sums = multiply_tile<T, M, N, false>(a, b, first_m, 0, first_k,
                                                      min(depth, first_k + depth_of_split));
    if (!sum_of_splits<M, N>(sums, {partial, arrived, blockIdx.x, blockIdx.z, gridDim.z, group})) return;
    const auto at = [&](uint32_t m, uint32_t n) -> T* {
        return m < pixels ? large_pixel(large, shape, m, n / C / 2, n / C % 2) + n % C : nullptr;
    };
    store_activated<T, M, N, GemmTile<M, N>::THREADS>(sums, large, epilogue, first_m, 0, COLUMNS, at);
}

}  // namespace

#define CONV_TRANSPOSE2D(T, TILE, M, N, WARPGROUP)                                                                   \
    KERNEL_OCCUPANCY(conv_transpose2d_fprop_nhwc_##T##_##TILE, (TileOf<T, M, N, WARPGROUP>::THREADS),                \
                     (TileOf<T, M, N, WARPGROUP>::BLOCKS),                                                           \
           (const T* small, const T* w, T* large, Convolution shape, uint32_t kind, int activation, const T* other,  \
            Sums sums, uint32_t segments, float* partial, uint32_t* arrived, uint32_t depth, uint32_t group)) {      \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        conv_transpose2d_fprop<T, M, N, WARPGROUP>(small, w, large, shape, {kind, activation, other, sums},          \
                                                   segments, partial, arrived, depth, group);                        \
    }
#define CONV_TRANSPOSE2D_PARITIES(T)                                                                                 \
    KERNEL_OCCUPANCY(conv_transpose2d_fprop_nhwc_##T##_128x32_parities, (GemmTile<128, 32>::THREADS),                \
                     (GemmTile<128, 32>::BLOCKS),                                                                    \
           (const T* small, const T* w, T* large, Convolution shape, uint32_t kind, int activation, const T* other,  \
            Sums sums, uint32_t, float* partial, uint32_t* arrived, uint32_t depth, uint32_t group)) {               \
        await_previous();                                                                                            \
        let_next_start();                                                                                            \
        conv_transpose2d_parities<T, 128, 32>(small, w, large, shape, {kind, activation, other, sums}, partial,      \
                                              arrived, depth, group);                                                \
    }
#define CONV_TRANSPOSE2D_TILES(T)                                                                                    \
    CONV_TRANSPOSE2D(T, 128x64, 128, 64, false)                                                                      \
    CONV_TRANSPOSE2D(T, 64x32, 64, 32, false)                                                                        \
    CONV_TRANSPOSE2D_PARITIES(T)
// In f32 there are no registers for 128×128, and no wgmma.
#define CONV_TRANSPOSE2D_TILES_OF_HALVES(T)                                                                          \
    CONV_TRANSPOSE2D(T, 128x128, 128, 128, false)                                                                    \
    CONV_TRANSPOSE2D(T, 256x128_wgmma, 256, 128, true)                                                               \
    CONV_TRANSPOSE2D(T, 128x128_wgmma, 128, 128, true)                                                               \
    CONV_TRANSPOSE2D(T, 128x64_wgmma, 128, 64, true)
CONV_TRANSPOSE2D_TILES_OF_HALVES(f16)
CONV_TRANSPOSE2D_TILES_OF_HALVES(bf16)
CONV_TRANSPOSE2D_TILES(f32)
CONV_TRANSPOSE2D_TILES(f16)
CONV_TRANSPOSE2D_TILES(bf16)
