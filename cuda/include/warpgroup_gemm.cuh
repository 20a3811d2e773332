// The tile loop of implicit_gemm.cuh once more, for the tensor cores that a warpgroup feeds from shared memory
// (warpgroup.cuh): compute capability 9.0a, f16 and bf16.
//
//   a block   256 threads, two warpgroups, each with half the tile's rows in pieces of 64
//   a stage   64 of k, 128 bytes of each row, three or four stages in a ring that cp.async fills; a stage's products are under
//             way while its successor but one is fetched
//
// Accumulation is in f32, in an order that depends on the shape alone.
#pragma once

#include "implicit_gemm.cuh"
#include "warpgroup.cuh"

namespace {

// One stage of one operand as wgmma reads it, with the interface of OperandTile.
template <typename T, int EXTENT, Along ALONG>
struct SwizzledTile {
    static constexpr int K = 64, PANEL = 64;
    static constexpr int ROWS = ALONG == Along::K ? EXTENT : K;
    static constexpr int COLUMNS = ALONG == Along::K ? K : EXTENT;
    static constexpr int VECTORS = COLUMNS / VECTOR<T>;
    static constexpr int SIZE = ROWS * COLUMNS;
    static constexpr uint32_t ROW_BYTES = PANEL * sizeof(T);
    // From a panel to the next, which there is none of ALONG K.
    static constexpr uint32_t PANEL_BYTES = ALONG == Along::K ? 16 : ROWS * ROW_BYTES;
    static_assert(ROW_BYTES == 128 && COLUMNS % PANEL == 0);

    __device__ __forceinline__ static int vector_at(int row, int vector) {
        constexpr int A_ROW = PANEL / VECTOR<T>;
        return (vector / A_ROW * ROWS + row) * PANEL + (vector % A_ROW ^ row % 8) * VECTOR<T>;
    }
};

// What a tile takes. Its shared memory, `Tile::dynamic_shared` of src/backend/cuda/conv/shape.rs, is its ring of stages
// or its rows, and as much as it takes to begin at a multiple of SWIZZLE_GROUP.
template <typename T, int M, int N>
struct WarpgroupTile {
    // A block that is alone on its multiprocessor has more under way.
    static constexpr int THREADS = 256, BLOCKS = M > 128 ? 1 : 2, STAGES = M > 128 ? 4 : 3;
    // Pieces of 64 rows that a warpgroup has.
    static constexpr int PIECES = M / 128;
    static_assert(M % 128 == 0);
};

// The tile of C, as multiply_tile of implicit_gemm.cuh leaves it.
template <typename T, int M, int N, typename A, typename B>
__device__ __forceinline__ float* warpgroup_multiply_tile(const A& a, const B& b, uint32_t first_m, uint32_t first_n,
                                                          uint32_t first_k, uint32_t end_k) {
#if HAS_WARPGROUP_MMA
    constexpr int THREADS = WarpgroupTile<T, M, N>::THREADS, STAGES = WarpgroupTile<T, M, N>::STAGES;
    constexpr int PIECES = WarpgroupTile<T, M, N>::PIECES;
    using TileA = SwizzledTile<T, M, A::ALONG>;
    using TileB = SwizzledTile<T, N, B::ALONG>;
    using LoaderA = VectorLoader<T, A, TileA, THREADS>;
    using LoaderB = VectorLoader<T, B, TileB, THREADS>;
    constexpr int STAGE = TileA::SIZE + TileB::SIZE, K = TileA::K;
    constexpr bool A_BY_OUTER = A::ALONG == Along::OUTER, B_BY_OUTER = B::ALONG == Along::OUTER;
    DYNAMIC_SHARED(unsigned char, memory);
    unsigned char* const shared = memory + (0u - shared_address(memory)) % SWIZZLE_GROUP;
    T* const ring = reinterpret_cast<T*>(shared);

    const LoaderA loader_a(a, first_m);
    const LoaderB loader_b(b, first_n);
    const auto load = [&](uint32_t step) {
        T* const stage = ring + step % STAGES * STAGE;
        loader_a.load(stage, first_k + step * K);
        loader_b.load(stage + TileA::SIZE, first_k + step * K);
    };
    const uint32_t steps = end_k > first_k ? (end_k - first_k + K - 1) / K : 0;
#pragma unroll
    for (uint32_t step = 0; step < STAGES - 1; ++step) {
        if (step < steps) load(step);
        copy_async_commit();
    }
    const int warpgroup = static_cast<int>(threadIdx.x) / 128;
    float sum[PIECES][N / 2] = {};
    for (uint32_t step = 0; step < steps; ++step) {
        // This thread's copies of the stage have arrived; behind the barrier everybody's have, and everybody's products
        // of the stage that is filled next are done.
        copy_async_wait<STAGES - 2>();
        fence_async_proxy();
        __syncthreads();
        const T* const stage = ring + step % STAGES * STAGE;
        const SharedMatrix its_b = shared_matrix(stage + TileA::SIZE, TileB::PANEL_BYTES);
        // A piece is 64 rows of A ALONG K, or a panel: as large either way.
        const SharedMatrix its_a = shared_matrix(stage + warpgroup * (PIECES * 64 * K), TileA::PANEL_BYTES);
        warpgroup_fence();
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            // 16 of k are 32 bytes of a row, or 16 rows.
            const SharedMatrix b_of_k = behind(its_b, k * (B_BY_OUTER ? TileB::ROW_BYTES : sizeof(T)));
#pragma unroll
            for (int i = 0; i < PIECES; ++i) {
                const uint32_t at = i * (64 * TileA::ROW_BYTES) + k * (A_BY_OUTER ? TileA::ROW_BYTES : sizeof(T));
                warpgroup_multiply<T, A_BY_OUTER, B_BY_OUTER>(sum[i], behind(its_a, at), b_of_k);
            }
        }
        warpgroup_commit();
        if (step + STAGES - 1 < steps) load(step + STAGES - 1);
        copy_async_commit();
        warpgroup_wait<0>();
    }

    __syncthreads();
    float* const rows = reinterpret_cast<float*>(shared);
    constexpr int STRIDE = TileRows<M, N>::STRIDE;
    const int lane = threadIdx.x % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        const int row = (warpgroup * PIECES + i) * 64 + warp * 16 + lane / 4;
#pragma unroll
        for (int j = 0; j < N / 8; ++j) {
            float* const to = rows + row * STRIDE + 8 * j + lane % 4 * 2;
            *reinterpret_cast<float2*>(to) = make_float2(sum[i][4 * j], sum[i][4 * j + 1]);
            *reinterpret_cast<float2*>(to + 8 * STRIDE) = make_float2(sum[i][4 * j + 2], sum[i][4 * j + 3]);
        }
    }
    __syncthreads();
    return rows;
#else
    // No such kernel is launched on other GPUs (Device::has_warpgroups in src/backend/cuda/driver/device.rs).
    __trap();
    return nullptr;
#endif
}

// What a kernel's tile takes, by either loop.
template <typename T, int M, int N, bool WARPGROUP>
struct TileOf : GemmTile<M, N> {};
template <typename T, int M, int N>
struct TileOf<T, M, N, true> : WarpgroupTile<T, M, N> {};

// The tile of C by either loop.
template <typename T, int M, int N, bool WARPGROUP, typename A, typename B>
__device__ __forceinline__ float* tile_of_product(const A& a, const B& b, uint32_t first_m, uint32_t first_n,
                                                  uint32_t first_k, uint32_t end_k) {
    if constexpr (WARPGROUP) {
        return warpgroup_multiply_tile<T, M, N>(a, b, first_m, first_n, first_k, end_k);
    } else {
        return multiply_tile<T, M, N, false>(a, b, first_m, first_n, first_k, end_k);
    }
}

}  // namespace
