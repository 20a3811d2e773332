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

// Sum over a block of THREADS, in every thread. Called again, it needs no barrier between the calls.
template <int THREADS, typename T>
__device__ __forceinline__ T block_sum(T value) {
    STATIC_SHARED(T, warps, [THREADS / 32]);
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    T sum = warps[0];
#pragma unroll
    for (int i = 1; i < THREADS / 32; ++i) sum += warps[i];
    return sum;
}

}  // namespace
