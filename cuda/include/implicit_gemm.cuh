// The tile loop behind the convolutions: C[m][n] = Σ_k A[m][k] · B[k][n], where A and B are gathered, never stored.
//
//   a block   128 threads, one M×N tile of C; stages of DEPTH<T> of k in a ring of STAGES in shared memory, filled by
//             cp.async (16 bytes a copy) while older stages are multiplied; one barrier a stage
//   f16, bf16 ldmatrix and mma.m16n8k16, four warps as 2×2, each with M/2 × N/2 of C
//   f32       fused multiply-adds, threads as 16×8, each with M/16 × N/8 of C
//   epilogue  C goes through shared memory, so that a thread writes 16 bytes of a row; bias, activation; rounding
//
// Accumulation is in f32, in an order that depends on the shape alone.
//
// An operand says where its elements are. Its `outer` index is m for A and n for B:
//   static constexpr Along ALONG      the index that is contiguous in memory: K or OUTER
//   Outer outer(uint32_t), Inner inner(uint32_t)      decode an outer index, an index of k; any value is allowed
//   const T* at(Outer, Inner)         the element, or null where it is zero: padding, or beyond the matrix
//   const T* base                     any valid address, 16-byte aligned if `vectors`
//   bool vectors                      whether VECTOR<T> elements from a multiple of it are together in memory, aligned,
//                                     and all inside or all outside; where ANY is false this must hold
// The output says where a row of C goes: T* row(uint32_t m), null where m is beyond it; `columns`, the number of n;
// `aligned`, whether 16-byte stores are possible; float value(uint32_t n, float sum), what becomes of an element, which
// may be beyond the columns.
#pragma once

#include <type_traits>

#include "kernel.cuh"
#include "mma.cuh"
#include "types.cuh"

namespace {

constexpr int GEMM_THREADS = 128;
constexpr int STAGES = 3;

// Of k in one stage: 64 bytes.
template <typename T>
constexpr int DEPTH = 4 * VECTOR<T>;

enum class Along { K, OUTER };

// One stage of one operand in shared memory: rows are outer indices and columns k (ALONG K), or the other way round.
// 16-byte vectors are permuted within a row so that eight rows of one column, or one row, touch all 32 banks.
template <typename T, int EXTENT, Along ALONG>
struct OperandTile {
    static constexpr int ROWS = ALONG == Along::K ? EXTENT : DEPTH<T>;
    static constexpr int COLUMNS = ALONG == Along::K ? DEPTH<T> : EXTENT;
    static constexpr int VECTORS = COLUMNS / VECTOR<T>;
    static constexpr int SIZE = ROWS * COLUMNS;

    __device__ __forceinline__ static int vector_at(int row, int vector) {
        constexpr int ROWS_A_LINE = VECTORS < 8 ? 8 / VECTORS : 1;
        constexpr int PHASES = VECTORS < 8 ? VECTORS : 8;
        return row * COLUMNS + (vector ^ row / ROWS_A_LINE % PHASES) * VECTOR<T>;
    }
    __device__ __forceinline__ static int element_at(int outer, int k) {
        const int row = ALONG == Along::K ? outer : k, column = ALONG == Along::K ? k : outer;
        return vector_at(row, column / VECTOR<T>) + column % VECTOR<T>;
    }
};

// Fills stages, 16 bytes at a time: every thread keeps to one column of vectors, and knows its outer indices.
template <typename T, int EXTENT, typename Operand>
struct VectorLoader {
    static constexpr bool BY_K = Operand::ALONG == Along::K;
    using Tile = OperandTile<T, EXTENT, Operand::ALONG>;
    static constexpr int ROW_STEP = GEMM_THREADS / Tile::VECTORS;
    static constexpr int COPIES = Tile::ROWS / ROW_STEP;
    static_assert(GEMM_THREADS % Tile::VECTORS == 0 && Tile::ROWS % ROW_STEP == 0);

    const Operand& operand;
    const int row = static_cast<int>(threadIdx.x) / Tile::VECTORS;
    const int vector = static_cast<int>(threadIdx.x) % Tile::VECTORS;
    typename Operand::Outer outer[BY_K ? COPIES : 1];

    __device__ __forceinline__ VectorLoader(const Operand& operand, uint32_t first_outer) : operand(operand) {
#pragma unroll
        for (int i = 0; i < (BY_K ? COPIES : 1); ++i) {
            outer[i] = operand.outer(first_outer + (BY_K ? row + i * ROW_STEP : vector * VECTOR<T>));
        }
    }

    __device__ __forceinline__ void load(T* stage, uint32_t first_k) const {
        typename Operand::Inner inner = operand.inner(first_k + (BY_K ? vector * VECTOR<T> : row));
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            if (!BY_K && i > 0) inner = operand.inner(first_k + row + i * ROW_STEP);
            const T* const from = operand.at(outer[BY_K ? i : 0], inner);
            copy_async_16_or_zero(stage + Tile::vector_at(row + i * ROW_STEP, vector),
                                  from != nullptr ? from : operand.base, from != nullptr);
        }
    }
};

// The same for any number of channels and any alignment: vectors where possible, else elements through registers.
// Keeps and unrolls little, since there are few registers for eight addresses at once.
template <typename T, int EXTENT, typename Operand>
struct AnyLoader {
    static constexpr bool BY_K = Operand::ALONG == Along::K;
    using Tile = OperandTile<T, EXTENT, Operand::ALONG>;

    const Operand& operand;
    const uint32_t first_outer;

    __device__ __forceinline__ AnyLoader(const Operand& operand, uint32_t first_outer)
        : operand(operand), first_outer(first_outer) {}

    __device__ __forceinline__ const T* at(uint32_t first_k, int row, int column) const {
        return operand.at(operand.outer(first_outer + (BY_K ? row : column)),
                          operand.inner(first_k + (BY_K ? column : row)));
    }

    __device__ __forceinline__ void load(T* stage, uint32_t first_k) const {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < Tile::ROWS * Tile::VECTORS; i += GEMM_THREADS) {
            const int row = i / Tile::VECTORS, vector = i % Tile::VECTORS;
            T* const to = stage + Tile::vector_at(row, vector);
            if (operand.vectors) {
                const T* const from = at(first_k, row, vector * VECTOR<T>);
                copy_async_16_or_zero(to, from != nullptr ? from : operand.base, from != nullptr);
            } else {
#pragma unroll 4
                for (int e = 0; e < VECTOR<T>; ++e) {
                    const T* const from = at(first_k, row, vector * VECTOR<T> + e);
                    to[e] = from != nullptr ? *from : from_float<T>(0.0f);
                }
            }
        }
        // What follows is for whole warps (ldmatrix, mma.sync), and C++ does not promise that these have come together.
        __syncwarp();
    }
};

// The block's tile of C, in registers: f16 and bf16.
template <typename T, int M, int N, Along A, Along B>
struct Accumulator {
    using TileA = OperandTile<T, M, A>;
    using TileB = OperandTile<T, N, B>;
    static constexpr int TILES_M = M / 2 / 16, TILES_N = N / 2 / 8;
    float sum[TILES_M][TILES_N][4] = {};
    const int lane = threadIdx.x % 32;
    const int warp_m = static_cast<int>(threadIdx.x) / 64 * (M / 2);
    const int warp_n = static_cast<int>(threadIdx.x) / 32 % 2 * (N / 2);

    __device__ __forceinline__ void multiply(const T* stage_a, const T* stage_b) {
        // Row of its 8×8 matrix, and the two bits of the matrix's number, that this lane addresses.
        const int row = lane % 8, low = lane / 8 % 2, high = lane / 16;
#pragma unroll
        for (int k = 0; k < DEPTH<T>; k += 16) {
            uint32_t a[TILES_M][4], b[TILES_N][2];
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) {
                // Matrices at (m, k) = (0, 0), (8, 0), (0, 8), (8, 8).
                const int m = warp_m + 16 * i + 8 * low, depth = k + 8 * high;
                if (A == Along::K) {
                    load_matrix_x4(a[i], stage_a + TileA::vector_at(m + row, depth / 8));
                } else {
                    load_matrix_x4_transposed(a[i], stage_a + TileA::vector_at(depth + row, m / 8));
                }
            }
#pragma unroll
            for (int j = 0; j < TILES_N; j += 2) {
                // Matrices at (k, n) = (0, 0), (8, 0), (0, 8), (8, 8).
                const int n = warp_n + 8 * j + 8 * high, depth = k + 8 * low;
                uint32_t words[4];
                if (B == Along::K) {
                    load_matrix_x4(words, stage_b + TileB::vector_at(n + row, depth / 8));
                } else {
                    load_matrix_x4_transposed(words, stage_b + TileB::vector_at(depth + row, n / 8));
                }
                b[j][0] = words[0];
                b[j][1] = words[1];
                b[j + 1][0] = words[2];
                b[j + 1][1] = words[3];
            }
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
                for (int j = 0; j < TILES_N; ++j) mma_m16n8k16<T>(sum[i][j], a[i], b[j]);
            }
        }
    }

    // Writes the tile as rows of `stride` floats.
    __device__ __forceinline__ void put(float* rows, int stride) const {
#pragma unroll
        for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
            for (int j = 0; j < TILES_N; ++j) {
                float* const to = rows + (warp_m + 16 * i + lane / 4) * stride + warp_n + 8 * j + lane % 4 * 2;
                *reinterpret_cast<float2*>(to) = make_float2(sum[i][j][0], sum[i][j][1]);
                *reinterpret_cast<float2*>(to + 8 * stride) = make_float2(sum[i][j][2], sum[i][j][3]);
            }
        }
    }
};

// The same in f32.
template <int M, int N, Along A, Along B>
struct Accumulator<f32, M, N, A, B> {
    using TileA = OperandTile<f32, M, A>;
    using TileB = OperandTile<f32, N, B>;
    float sum[M / 16][N / 8] = {};
    const int first_m = static_cast<int>(threadIdx.x) / 8, first_n = static_cast<int>(threadIdx.x) % 8;

    // Not unrolled whole: its addresses alone would fill the registers.
    __device__ __forceinline__ void multiply(const f32* stage_a, const f32* stage_b) {
#pragma unroll 2
        for (int k = 0; k < DEPTH<f32>; ++k) {
            float a[M / 16], b[N / 8];
#pragma unroll
            for (int i = 0; i < M / 16; ++i) a[i] = stage_a[TileA::element_at(first_m + 16 * i, k)];
#pragma unroll
            for (int j = 0; j < N / 8; ++j) b[j] = stage_b[TileB::element_at(first_n + 8 * j, k)];
#pragma unroll
            for (int i = 0; i < M / 16; ++i) {
#pragma unroll
                for (int j = 0; j < N / 8; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
            }
        }
    }

    __device__ __forceinline__ void put(float* rows, int stride) const {
#pragma unroll
        for (int i = 0; i < M / 16; ++i) {
#pragma unroll
            for (int j = 0; j < N / 8; ++j) rows[(first_m + 16 * i) * stride + first_n + 8 * j] = sum[i][j];
        }
    }
};

// The tile of C from (first_m, first_n), summed over k from first_k to end_k; the operands are zero from end_k on.
template <typename T, int M, int N, bool ANY, typename A, typename B, typename Output>
__device__ __forceinline__ void implicit_gemm(const A& a, const B& b, const Output& output, uint32_t first_m,
                                              uint32_t first_n, uint32_t first_k, uint32_t end_k) {
    using LoaderA = std::conditional_t<ANY, AnyLoader<T, M, A>, VectorLoader<T, M, A>>;
    using LoaderB = std::conditional_t<ANY, AnyLoader<T, N, B>, VectorLoader<T, N, B>>;
    constexpr int STAGE = LoaderA::Tile::SIZE + LoaderB::Tile::SIZE;
    // Eight floats more than a row: a warp's stores then touch every bank equally.
    constexpr int ROW = N + 8;
    constexpr int RING_BYTES = STAGES * STAGE * static_cast<int>(sizeof(T));
    constexpr int ROWS_BYTES = M * ROW * static_cast<int>(sizeof(float));
    STATIC_SHARED(unsigned char, shared, [RING_BYTES > ROWS_BYTES ? RING_BYTES : ROWS_BYTES]);
    T* const ring = reinterpret_cast<T*>(shared);

    const LoaderA loader_a(a, first_m);
    const LoaderB loader_b(b, first_n);
    const auto load = [&](uint32_t step) {
        T* const stage = ring + step % STAGES * STAGE;
        loader_a.load(stage, first_k + step * DEPTH<T>);
        loader_b.load(stage + LoaderA::Tile::SIZE, first_k + step * DEPTH<T>);
    };
    const uint32_t steps = end_k > first_k ? (end_k - first_k + DEPTH<T> - 1) / DEPTH<T> : 0;
#pragma unroll
    for (uint32_t step = 0; step < STAGES - 1; ++step) {
        if (step < steps) load(step);
        copy_async_commit();
    }
    Accumulator<T, M, N, A::ALONG, B::ALONG> tile;
    for (uint32_t step = 0; step < steps; ++step) {
        // This thread's copies of the stage have arrived; behind the barrier everybody's have, and nobody still reads
        // the stage that is filled next.
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) load(step + STAGES - 1);
        copy_async_commit();
        const T* const stage = ring + step % STAGES * STAGE;
        tile.multiply(stage, stage + LoaderA::Tile::SIZE);
    }

    __syncthreads();
    float* const rows = reinterpret_cast<float*>(shared);
    tile.put(rows, ROW);
    __syncthreads();
    using Stored = typename Output::Type;
    constexpr int V = VECTOR<Stored>, VECTORS = N / V, ROW_STEP = GEMM_THREADS / VECTORS;
    const int column = static_cast<int>(threadIdx.x) % VECTORS * V;
    if (first_n + column >= output.columns) return;
    const int valid = static_cast<int>(min(output.columns - (first_n + column), uint32_t{V}));
#pragma unroll 2
    for (int row = static_cast<int>(threadIdx.x) / VECTORS; row < M; row += ROW_STEP) {
        Stored* const to = output.row(first_m + row);
        if (to == nullptr) continue;
        float values[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
            values[i] = output.value(first_n + column + i, rows[row * ROW + column + i]);
        }
        store_some(to + first_n + column, valid, output.aligned, values);
    }
}

}  // namespace
