// How a kernel is defined, so that nvcc and the host emulation (cuda/emulation/) both take it.
//
//   KERNEL(name, threads, (parameters)) { body }    an entry point with a plain C name, at most `threads` a block
//   KERNEL_OCCUPANCY(name, threads, blocks, (parameters)) { body }    also with registers for `blocks` a multiprocessor
//   STATIC_SHARED(type, name, [rows][columns]);     an array in shared memory, 16-byte aligned
//   DYNAMIC_SHARED(type, name);                     the block's dynamic shared memory, 16-byte aligned
#pragma once

#include <cstdint>

#ifdef CUDA_EMULATION
#define KERNEL(name, threads, parameters)                                  \
    extern "C" void name parameters;                                       \
    static ::emulation::Registration registration_##name(#name, threads, name); \
    extern "C" void name parameters
#define KERNEL_OCCUPANCY(name, threads, blocks, parameters) KERNEL(name, threads, parameters)
#define STATIC_SHARED(type, name, extents)           \
    alignas(16) static type name extents;            \
    static uint64_t name##_poisoned_for = 0;         \
    ::emulation::poison_static_shared(name, sizeof name, name##_poisoned_for)
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::emulation::dynamic_shared())
#else
#define KERNEL(name, threads, parameters) extern "C" __global__ void __launch_bounds__(threads) name parameters
#define KERNEL_OCCUPANCY(name, threads, blocks, parameters) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name parameters
#define STATIC_SHARED(type, name, extents) __shared__ __align__(16) type name extents
#define DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(16) unsigned char name##_bytes[];   \
    type* const name = reinterpret_cast<type*>(name##_bytes)
#endif
