// Instructions that C++ cannot express, each in one wrapper: mma.sync, ldmatrix, cp.async (sm_80 and later).
//
// Layout of the fragments (PTX ISA, "Matrix fragments for mma.m16n8k16"), lane l, g = l / 4, t = l % 4:
//   A 16×16, row-major: a[0] = (g, 2t..2t+1)  a[1] = (g+8, 2t..)  a[2] = (g, 2t+8..)  a[3] = (g+8, 2t+8..)
//   B 16×8, column-major: b[0] = (k = 2t..2t+1, n = g)  b[1] = (k = 2t+8.., n = g)
//   C 16×8: c[0], c[1] = (g, 2t..2t+1)  c[2], c[3] = (g+8, 2t..2t+1)
// Each 32-bit word holds two 16-bit elements, the one with the lower index in the lower half.
//
// ldmatrix reads 8×8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 (16-byte
// aligned, in shared memory), and word i of every lane is its part of matrix i: (row g, columns 2t..2t+1), or with
// `_transposed` (rows 2t..2t+1, column g). So for A stored row-major as [m][k] the four matrices are those at (m, k) =
// (0, 0), (8, 0), (0, 8), (8, 8); for B stored as [n][k] the plain form, and stored as [k][n] the transposed one.
#pragma once

#include "types.cuh"

#ifdef CUDA_EMULATION
#include "mma_emulated.h"
#endif

namespace {

// d += a·b for 16×16 by 16×8, f16 or bf16, f32 accumulators.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#ifdef CUDA_EMULATION
template <>
inline void mma_m16n8k16<f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulation::mma_m16n8k16<f16>(d, a, b, __FILE__, __LINE__);
}
template <>
inline void mma_m16n8k16<bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulation::mma_m16n8k16<bf16>(d, a, b, __FILE__, __LINE__);
}
inline void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    emulation::load_matrix(r, 4, false, row, __FILE__, __LINE__);
}
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
    emulation::load_matrix(r, 4, true, row, __FILE__, __LINE__);
}
inline void load_matrix_x2(uint32_t (&r)[2], const void* row) {
    emulation::load_matrix(r, 2, false, row, __FILE__, __LINE__);
}
inline void load_matrix_x2_transposed(uint32_t (&r)[2], const void* row) {
    emulation::load_matrix(r, 2, true, row, __FILE__, __LINE__);
}
inline void copy_async_16(void* shared, const void* global) { emulation::copy_async(shared, global, 16, 16); }
inline void copy_async_16_or_zero(void* shared, const void* global, bool copy) {
    emulation::copy_async(shared, global, 16, copy ? 16 : 0);
}
inline void copy_async_commit() { emulation::copy_async_commit(); }
template <int PENDING>
inline void copy_async_wait() {
    emulation::copy_async_wait(PENDING);
}
// Its lower bits, which is all that is asked for.
inline uint32_t shared_address(const void* at) { return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(at)); }
#else
template <>
__device__ __forceinline__ void mma_m16n8k16<f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t shared_address(const void* at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// Two matrices; the addresses of lanes 16 and above are not used, but must be valid.
__device__ __forceinline__ void load_matrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void load_matrix_x2_transposed(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// 16 bytes from global to shared memory past the registers and L1; both aligned. Visible after commit, wait and, to
// other threads, a barrier.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
// Zeros where `copy` is false; `global` must then still be a valid pointer, but is not read.
__device__ __forceinline__ void copy_async_16_or_zero(void* shared, const void* global, bool copy) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(copy ? 16 : 0)
                 : "memory");
}
// Closes the group of copies since the last commit; an empty group counts too.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the PENDING newest groups of this thread are still under way.
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif

}  // namespace
