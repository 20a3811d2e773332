// Blocks that finish what others have begun: the last of a group to arrive goes on with what all of them have left in
// memory. Nobody waits, and a launch is saved. Whoever it is, it adds up in the same order, so the result is the same.
#pragma once

#include "kernel.cuh"

namespace {

// Adds 1, and says what was there. What the block's threads wrote before a barrier before it comes first for all
// blocks, and what others wrote before they came here can be read behind a barrier behind it: one thread orders for
// all.
__device__ __forceinline__ uint32_t count_arrival(uint32_t* arrived) {
#ifdef CUDA_EMULATION
    return atomicAdd(arrived, 1u);
#else
    uint32_t before;
    asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], 1;" : "=r"(before) : "l"(arrived) : "memory");
    return before;
#endif
}

// Whether this block is the last of `blocks` to arrive at `arrived`, for all its threads alike. What the others wrote
// before they arrived can then be read, with __ldcg: L1 may hold what was there before. `arrived` is 0 before the first
// and behind the last. Called again, it needs no barrier between the calls.
//
// Two trips to L2 one after the other: until the block's writes are there, and the counter's. The last block does not
// wait for the counter to be set back, which nobody reads before the next launch.
__device__ __forceinline__ bool last_to_arrive(uint32_t* arrived, uint32_t blocks) {
    STATIC_SHARED(uint32_t, last, [1]);
    __syncthreads();
    if (threadIdx.x == 0) {
        last[0] = count_arrival(arrived) + 1 == blocks ? 1 : 0;
        if (last[0] != 0) *arrived = 0;
    }
    __syncthreads();
    return last[0] != 0;
}

}  // namespace
