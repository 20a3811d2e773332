// Programmatic dependent launch: the blocks of a kernel may begin while the kernel before it on its stream still runs, so
// that the time from one to the next is shorter. Every kernel begins with both calls, whoever launches it; where it is
// launched as usual, or the GPU is older than compute capability 9.0, they do nothing.
#pragma once

#include "kernel.cuh"

namespace {

// Waits until the kernel before this one has ended and what it wrote can be read; that one has itself waited for the one
// before it, and so on. Before it a kernel touches its parameters alone, and no memory of the device.
__device__ __forceinline__ void await_previous() {
#ifdef CUDA_EMULATION
    ::emulation::await_previous(__FILE__, __LINE__);
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel's blocks begin, up to their own wait, once every block of this one has come here or ended: they
// take the places that this one leaves free.
__device__ __forceinline__ void let_next_start() {
#if !defined(CUDA_EMULATION) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace
