// The tile loop behind the convolutions: C[m][n] = Σ_k A[m][k] · B[k][n], where A and B are gathered, never stored.
//
//   a block   128 threads, or 256 of a tile beyond 8192 elements; one M×N tile of C; stages of DEPTH<T> of k in a
// ring of             three or four in shared memory, filled by cp.async (16 bytes a copy) while older stages are
// multiplied; one
//             barrier a stage
//   f16, bf16 ldmatrix and mma.m16n8k16, warps as 2×2 or 2×4, each with as much of C
//   f32       fused multiply-adds, threads as 16×8 or 16×16, each with as much of C, spread over it
//   epilogue  C goes through shared memory, so that a thread writes 16 bytes of a row
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
// What becomes of a tile is up to the kernel: store_tile, or what convolution.cuh has; before that, sum_of_splits where
// several blocks have a part of k each.
#pragma once

#include <type_traits>

#include "arrival.cuh"
#include "kernel.cuh"
#include "mma.cuh"
#include "types.cuh"

namespace {

// What a tile takes: a large one has more loads under way, and more threads to hold its sums.
template <int M, int N>
struct GemmTile {
    static constexpr bool LARGE = M * N > 8192;
    static constexpr int THREADS = LARGE ? 256 : 128;
    static constexpr int STAGES = LARGE ? 4 : 3;
    // Blocks a multiprocessor that there must be registers for; 0 leaves it to the compiler.
    static constexpr int BLOCKS = LARGE ? 2 : M * N > 4096 ? 0 : 4;
    // Warps along n; there are two along m.
    static constexpr int WARPS_N = THREADS / 64;
};

// Of k in one stage: 64 bytes.
template <typename T>
constexpr int DEPTH = 4 * VECTOR<T>;

enum class Along { K, OUTER };

// One stage of one operand in shared memory: rows are outer indices and columns k (ALONG K), or the other way round.
// 16-byte vectors are permuted within a row so that eight rows of one column, or one row, touch all 32 banks.
template <typename T, int EXTENT, Along ALONG>
struct OperandTile {
    static constexpr int K = DEPTH<T>;
    static constexpr int ROWS = ALONG == Along::K ? EXTENT : K;
    static constexpr int COLUMNS = ALONG == Along::K ? K : EXTENT;
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
template <typename T, typename Operand, typename OfTile, int THREADS>
struct VectorLoader {
    static constexpr bool BY_K = Operand::ALONG == Along::K;
    using Tile = OfTile;
    static constexpr int ROW_STEP = THREADS / Tile::VECTORS;
    static constexpr int COPIES = Tile::ROWS / ROW_STEP;
    static_assert(THREADS % Tile::VECTORS == 0 && Tile::ROWS % ROW_STEP == 0);

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
template <typename T, int EXTENT, typename Operand, int THREADS>
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
        for (int i = static_cast<int>(threadIdx.x); i < Tile::ROWS * Tile::VECTORS; i += THREADS) {
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
    static constexpr int WARPS_N = GemmTile<M, N>::WARPS_N;
    static constexpr int TILES_M = M / 2 / 16, TILES_N = N / WARPS_N / 8;
    static_assert(TILES_N % 2 == 0);
    float sum[TILES_M][TILES_N][4] = {};
    const int lane = threadIdx.x % 32;
    const int warp_m = static_cast<int>(threadIdx.x) / (32 * WARPS_N) * (M / 2);
    const int warp_n = static_cast<int>(threadIdx.x) / 32 % WARPS_N * (N / WARPS_N);

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
    static constexpr int ALONG_N = GemmTile<M, N>::THREADS / 16;
    float sum[M / 16][N / ALONG_N] = {};
    const int first_m = static_cast<int>(threadIdx.x) / ALONG_N, first_n = static_cast<int>(threadIdx.x) % ALONG_N;

    // Not unrolled whole: its addresses alone would fill the registers.
    __device__ __forceinline__ void multiply(const f32* stage_a, const f32* stage_b) {
#pragma unroll 2
        for (int k = 0; k < DEPTH<f32>; ++k) {
            float a[M / 16], b[N / ALONG_N];
#pragma unroll
            for (int i = 0; i < M / 16; ++i) a[i] = stage_a[TileA::element_at(first_m + 16 * i, k)];
#pragma unroll
            for (int j = 0; j < N / ALONG_N; ++j) b[j] = stage_b[TileB::element_at(first_n + ALONG_N * j, k)];
#pragma unroll
            for (int i = 0; i < M / 16; ++i) {
#pragma unroll
                for (int j = 0; j < N / ALONG_N; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
            }
        }
    }

    __device__ __forceinline__ void put(float* rows, int stride) const {
#pragma unroll
        for (int i = 0; i < M / 16; ++i) {
#pragma unroll
            for (int j = 0; j < N / ALONG_N; ++j) rows[(first_m + 16 * i) * stride + first_n + ALONG_N * j] = sum[i][j];
        }
    }
};

// A block's tile of C in shared memory, f32 rows of STRIDE: eight more than a row has, so that a warp's stores touch
// every bank equally.
template <int M, int N>
struct TileRows {
    static constexpr int STRIDE = N + 8;
    static constexpr int SIZE = M * STRIDE;
};

// Bytes of shared memory of a tile: its ring, and then its rows. `Tile::dynamic_shared` of
// src/backend/cuda/conv/shape.rs.
template <typename T, int M, int N>
struct TileBytes {
    static constexpr int RING = GemmTile<M, N>::STAGES * (M + N) * DEPTH<T> * static_cast<int>(sizeof(T));
    static constexpr int ROWS = TileRows<M, N>::SIZE * static_cast<int>(sizeof(float));
    static constexpr int ALL = RING > ROWS ? RING : ROWS;
};

// That memory: of a large tile dynamic, since it is more than a block may have without being asked for.
template <typename T, int M, int N>
__device__ __forceinline__ unsigned char* tile_memory() {
    if constexpr (GemmTile<M, N>::LARGE) {
        DYNAMIC_SHARED(unsigned char, shared);
        return shared;
    } else {
        constexpr int BYTES = TileBytes<T, M, N>::ALL;
        STATIC_SHARED(unsigned char, shared, [BYTES]);
        return shared;
    }
}

// The tile of C from (first_m, first_n), summed over k from first_k to end_k; the operands are zero from end_k on. It
// is left in shared memory, where all threads can read it.
template <typename T, int M, int N, bool ANY, typename A, typename B>
__device__ __forceinline__ float* multiply_tile(const A& a, const B& b, uint32_t first_m, uint32_t first_n,
                                                uint32_t first_k, uint32_t end_k) {
    constexpr int THREADS = GemmTile<M, N>::THREADS, STAGES = GemmTile<M, N>::STAGES;
    using LoaderA = std::conditional_t<ANY, AnyLoader<T, M, A, THREADS>,
                                       VectorLoader<T, A, OperandTile<T, M, A::ALONG>, THREADS>>;
    using LoaderB = std::conditional_t<ANY, AnyLoader<T, N, B, THREADS>,
                                       VectorLoader<T, B, OperandTile<T, N, B::ALONG>, THREADS>>;
    constexpr int STAGE = LoaderA::Tile::SIZE + LoaderB::Tile::SIZE;
    static_assert(STAGES * STAGE * static_cast<int>(sizeof(T)) <= TileBytes<T, M, N>::ALL);
    unsigned char* const shared = tile_memory<T, M, N>();
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
    tile.put(rows, TileRows<M, N>::STRIDE);
    __syncthreads();
    return rows;
}

// Which part of k a block has multiplied, of a tile whose k is split over several blocks.
struct Split {
    // [tiles][splits][M·N].
    float* partial;
    // [tiles][groups + 1], all 0 between launches.
    uint32_t* arrived;
    uint32_t tile, split, splits;
    // Splits of a group, all but the last one's.
    uint32_t group;
};

// rows ← the sum of `count` tiles of M·N, each `step` behind the one before, in their order.
template <int M, int N, int THREADS>
__device__ __forceinline__ void add_tiles(float* rows, const float* from, uint32_t count, uint64_t step) {
    constexpr int V = VECTOR<f32>;
    constexpr int PLACES = M * N / V / THREADS, AT_ONCE = PLACES < 4 ? PLACES : 4;
    static_assert(PLACES % AT_ONCE == 0);
#pragma unroll 1
    for (int first = 0; first < PLACES; first += AT_ONCE) {
        float4 sum[AT_ONCE] = {};
#pragma unroll 2
        for (uint32_t z = 0; z < count; ++z) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                const int at = ((first + i) * THREADS + static_cast<int>(threadIdx.x)) * V;
                const float4 part = __ldcg(reinterpret_cast<const float4*>(from + z * step + at));
                sum[i].x += part.x;
                sum[i].y += part.y;
                sum[i].z += part.z;
                sum[i].w += part.w;
            }
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int at = ((first + i) * THREADS + static_cast<int>(threadIdx.x)) * V;
            *reinterpret_cast<float4*>(rows + at / N * TileRows<M, N>::STRIDE + at % N) = sum[i];
        }
    }
    __syncthreads();
}

template <int M, int N, int THREADS>
__device__ __forceinline__ void keep_tile(const float* rows, float* to) {
    constexpr int V = VECTOR<f32>;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < M * N / V; i += THREADS) {
        const int at = i * V;
        *reinterpret_cast<float4*>(to + at) =
            *reinterpret_cast<const float4*>(rows + at / N * TileRows<M, N>::STRIDE + at % N);
    }
}

// Leaves the block's part of a tile and, in the last block to arrive, makes `rows` the sum of all parts: whether this
// is that block. Splits are added up in groups, then the groups: no block reads many of them one after the other.
template <int M, int N, int THREADS = GemmTile<M, N>::THREADS>
__device__ __forceinline__ bool sum_of_splits(float* rows, const Split& s) {
    if (s.splits <= 1) return true;
    const uint32_t groups = (s.splits + s.group - 1) / s.group, group = s.split / s.group;
    const uint32_t first = group * s.group, members = min(s.group, s.splits - first);
    float* const tile = s.partial + uint64_t{s.tile} * s.splits * (M * N);
    uint32_t* const arrived = s.arrived + uint64_t{s.tile} * (groups + 1);
    keep_tile<M, N, THREADS>(rows, tile + uint64_t{s.split} * (M * N));
    if (!last_to_arrive(arrived + group, members)) return false;
    add_tiles<M, N, THREADS>(rows, tile + uint64_t{first} * (M * N), members, M * N);
    if (groups == 1) return true;
    // Its group has been read.
    keep_tile<M, N, THREADS>(rows, tile + uint64_t{first} * (M * N));
    if (!last_to_arrive(arrived + groups, groups)) return false;
    add_tiles<M, N, THREADS>(rows, tile, groups, uint64_t{s.group} * (M * N));
    return true;
}

// Where a thread stores the tile: VECTOR<Stored> columns from `column` on of every STEP-th row from `row` on.
template <typename Stored, int M, int N, int OF = GemmTile<M, N>::THREADS>
struct Place {
    static constexpr int THREADS = OF;
    static constexpr int V = VECTOR<Stored>, VECTORS = N / V, STEP = THREADS / VECTORS;
    static_assert(THREADS % VECTORS == 0);
    const int column = static_cast<int>(threadIdx.x) % VECTORS * V;
    const int row = static_cast<int>(threadIdx.x) / VECTORS;
};

// Stores the tile through `output`: Type* at(m, n), where the elements from (m, n) on are to go, or null beyond the
// rows; uint32_t columns, the number of n; bool aligned, whether 16-byte stores are possible; void values(n, sums,
// result), what
// becomes of VECTOR<Type> sums, some of which may be beyond the columns.
template <int M, int N, typename Output>
__device__ __forceinline__ void store_tile(const float* rows, const Output& output, uint32_t first_m,
                                           uint32_t first_n) {
    using P = Place<typename Output::Type, M, N>;
    const P place;
    const uint32_t n = first_n + place.column;
    if (n >= output.columns) return;
    const int valid = static_cast<int>(min(output.columns - n, uint32_t{P::V}));
#pragma unroll 2
    for (int row = place.row; row < M; row += P::STEP) {
        auto* const to = output.at(first_m + row, n);
        if (to == nullptr) continue;
        float values[P::V];
        output.values(n, rows + row * TileRows<M, N>::STRIDE + place.column, values);
        store_some(to, valid, output.aligned, values);
    }
}

}  // namespace
