// Instructions of Hopper's tensor cores that C++ cannot express, each in one wrapper: wgmma, and what it needs. They
// exist for compute capability 9.0a alone: HAS_WARPGROUP_MMA says whether what is being compiled has them.
//
// A warpgroup is four warps that follow each other, the first one's number a multiple of four; all its threads execute
// these together. wgmma multiplies A 64×16 by B 16×N, both in shared memory, into f32 sums of 64×N in registers. Warp w
// of the four has the rows 16w to 16w + 15, laid out in N/8 pieces of 16×8 as mma.cuh's C: with g = lane / 4, t = lane
// % 4, sum[4j], sum[4j + 1] = (g, 8j + 2t..) and sum[4j + 2], sum[4j + 3] = (g + 8, 8j + 2t..).
//
// How a matrix lies in shared memory (PTX ISA, "Asynchronous warpgroup-level matrix shared memory layout", 128-byte
// swizzle): rows of 128 bytes, eight of them a group of 1024 bytes that begins at a multiple of 1024; the 16-byte
// vector v of a row lies at v ^ (row % 8). ALONG K a row is 64 k of one outer index (m of A, n of B), and groups follow
// each other. ALONG OUTER a row is 64 outer indices of one k, and groups follow each other along k; beyond 64 outer
// indices there is another such panel.
//
// What cp.async or a store has written is for other threads to read; the tensor cores read past that, so that each
// thread that has written needs fence_async_proxy() before the barrier.
#pragma once

#include "mma.cuh"
#include "types.cuh"

#if defined(CUDA_EMULATION) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WARPGROUP_MMA 1
#else
#define HAS_WARPGROUP_MMA 0
#endif

#ifdef CUDA_EMULATION
#include "warpgroup_emulated.h"
#endif

namespace {

// Bytes of a group of eight rows.
constexpr uint32_t SWIZZLE_GROUP = 1024;

#if defined(CUDA_EMULATION)
using SharedMatrix = emulation::SharedMatrix;
inline SharedMatrix shared_matrix(const void* start, uint32_t panel) {
    return {static_cast<const unsigned char*>(start), panel};
}
inline SharedMatrix behind(SharedMatrix matrix, uint32_t bytes) { return {matrix.start + bytes, matrix.panel}; }
inline void fence_async_proxy() { emulation::fence_async_proxy(); }
inline void warpgroup_fence() { emulation::warpgroup_fence(); }
inline void warpgroup_commit() { emulation::warpgroup_commit(); }
template <int PENDING>
inline void warpgroup_wait() {
    emulation::warpgroup_wait(PENDING, __FILE__, __LINE__);
}
template <typename T, bool A_BY_OUTER, bool B_BY_OUTER, int SUMS>
inline void warpgroup_multiply(float (&sum)[SUMS], SharedMatrix a, SharedMatrix b) {
    emulation::warpgroup_multiply<T>(sum, 2 * SUMS, {a, A_BY_OUTER}, {b, B_BY_OUTER}, __FILE__, __LINE__);
}
#elif HAS_WARPGROUP_MMA
// A matrix in shared memory, as wgmma takes it; `panel` is how many bytes a panel lies behind the one before, of a
// matrix ALONG OUTER.
using SharedMatrix = uint64_t;
__device__ __forceinline__ SharedMatrix shared_matrix(const void* start, uint32_t panel) {
    return (shared_address(start) & 0x3ffffu) >> 4 | uint64_t{panel >> 4} << 16 |
           uint64_t{SWIZZLE_GROUP >> 4} << 32 | uint64_t{1} << 62;
}
// The same, that many bytes further.
__device__ __forceinline__ SharedMatrix behind(SharedMatrix matrix, uint32_t bytes) { return matrix + (bytes >> 4); }

__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Before the first product of a group: what was done to its sums is done.
__device__ __forceinline__ void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes the group of products since the last commit.
__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most the PENDING newest groups are under way; sums of one that is must not be touched.
template <int PENDING>
__device__ __forceinline__ void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define SUMS_8(s, i) "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), \
                     "+f"(s[i + 6]), "+f"(s[i + 7])
#define SUMS_32(s, i) SUMS_8(s, i), SUMS_8(s, i + 8), SUMS_8(s, i + 16), SUMS_8(s, i + 24)
#define WGMMA_64(TYPE)                                                                                            \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " "                                  \
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"    \
                 "%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1, 1, 1, %34, %35;"                                     \
                 : SUMS_32(sum, 0)                                                                                \
                 : "l"(a), "l"(b), "n"(A_BY_OUTER ? 1 : 0), "n"(B_BY_OUTER ? 1 : 0))
#define WGMMA_128(TYPE)                                                                                           \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " "                                 \
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"    \
                 "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"   \
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, 1, 1, 1, %66, %67;" \
                 : SUMS_32(sum, 0), SUMS_32(sum, 32)                                                              \
                 : "l"(a), "l"(b), "n"(A_BY_OUTER ? 1 : 0), "n"(B_BY_OUTER ? 1 : 0))

// sum += A·B, of 64 rows and 2·SUMS columns; done when it has been waited for.
template <typename T, bool A_BY_OUTER, bool B_BY_OUTER, int SUMS>
__device__ __forceinline__ void warpgroup_multiply(float (&sum)[SUMS], SharedMatrix a, SharedMatrix b) {
    static_assert(SUMS == 32 || SUMS == 64);
    constexpr bool HALF = std::is_same_v<T, f16>;
    if constexpr (SUMS == 32 && HALF) {
        WGMMA_64("f16");
    } else if constexpr (SUMS == 32) {
        WGMMA_64("bf16");
    } else if constexpr (HALF) {
        WGMMA_128("f16");
    } else {
        WGMMA_128("bf16");
    }
}
#undef SUMS_8
#undef SUMS_32
#undef WGMMA_64
#undef WGMMA_128
#endif

}  // namespace
