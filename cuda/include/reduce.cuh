// Sums in a fixed order: the same threads give the same bits, whatever ran first.
#pragma once

#include "kernel.cuh"

namespace {

// Sum over the warp, in every lane.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int bit = 16; bit > 0; bit /= 2) value += __shfl_xor_sync(0xffffffffu, value, bit);
    return value;
}

// Sum over a block of THREADS, in every thread. Called again, it needs a barrier between the calls, as last_to_arrive
// is.
template <int THREADS, typename T>
__device__ __forceinline__ T block_sum(T value) {
    STATIC_SHARED(T, warps, [THREADS / 32]);
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    T sum = warps[0];
#pragma unroll
    for (int i = 1; i < THREADS / 32; ++i) sum += warps[i];
    return sum;
}

// Sums over a block of THREADS of N values, one after the other in the first N threads; 0 in the others. All at once,
// with one barrier. Called again, it needs another between the calls.
template <int THREADS, int N, typename T>
__device__ __forceinline__ T block_sums(const T (&values)[N]) {
    STATIC_SHARED(T, warps, [N][THREADS / 32]);
    static_assert(N <= THREADS);
#pragma unroll
    for (int k = 0; k < N; ++k) {
        const T sum = warp_sum(values[k]);
        if (threadIdx.x % 32 == 0) warps[k][threadIdx.x / 32] = sum;
    }
    __syncthreads();
    T sum = 0;
    if (threadIdx.x < N) {
#pragma unroll
        for (int i = 0; i < THREADS / 32; ++i) sum += warps[threadIdx.x][i];
    }
    return sum;
}

}  // namespace
