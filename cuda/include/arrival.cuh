// Blocks that finish what others have begun: the last of a group to arrive goes on with what all of them have left in
// memory. Nobody waits, and a launch is saved. Whoever it is, it adds up in the same order, so the result is the same.
#pragma once

#include "kernel.cuh"

namespace {

// Whether this block is the last of `blocks` to arrive at `arrived`, for all its threads alike. What the others wrote
// before they arrived can then be read, with __ldcg: L1 may hold what was there before. `arrived` is 0 before the first
// and behind the last. Called again, it needs no barrier between the calls.
__device__ __forceinline__ bool last_to_arrive(uint32_t* arrived, uint32_t blocks) {
    STATIC_SHARED(uint32_t, last, [1]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last[0] = atomicAdd(arrived, 1u) + 1 == blocks ? 1 : 0;
        if (last[0] != 0) *arrived = 0;
    }
    __syncthreads();
    const bool is_last = last[0] != 0;
    if (is_last) __threadfence();
    return is_last;
}

}  // namespace
