// CUDA on the host, for tests: included before every .cu file when g++ compiles it, in place of nvcc's built-ins.
//
// One fiber a CUDA thread, blocks one after the other in an order that is drawn from the seed, all on one
// operating-system thread. Between two points of
// synchronisation a thread runs alone; which one runs next is drawn from a seed, so that a missing barrier shows as a
// wrong result. Shared memory holds NaN when a block starts. A barrier or warp operation that not every thread
// reaches is reported, not waited for. What this cannot show: races between single instructions, memory ordering,
// speed.
//
// Rules for .cu files beyond CUDA's own: kernels are defined with KERNEL and shared memory with STATIC_SHARED or
// DYNAMIC_SHARED (kernel.cuh); block sizes are multiples of 32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#define CUDA_EMULATION 1

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
using dim3 = uint3;

inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

namespace emulation {

// A lane's part in a warp operation: what it brings, and where its result goes. It lies on the lane's own stack.
struct Lane {
    const void* in = nullptr;
    void* out = nullptr;
};
// Computes every lane's result from every lane's input, once all lanes of `mask` have arrived.
using Complete = void (*)(Lane* const lanes[32], unsigned mask);

struct Thread;
extern Thread* current;
extern uint3 thread_index, block_index, block_size, grid_size;

// Ends the launch with a message (printf format), from inside a kernel.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
void block_barrier(const char* file, int line);
// griddepcontrol.wait: a kernel that is launched so that it may begin early calls it in each of its threads.
void await_previous(const char* file, int line);
void warp_operation(unsigned mask, Complete complete, Lane& lane, const char* file, int line);
unsigned lane_id();
void* dynamic_shared();
// Fills static shared memory with poison, once a block: when the first of its threads comes by.
void poison_static_shared(void* at, size_t size, uint64_t& poisoned_for);

// cp.async: each copy happens at once or not before the wait, as a coin of the seed says; CUDA promises neither.
void copy_async(void* shared, const void* global, unsigned bytes, unsigned filled);
void copy_async_commit();
void copy_async_wait(unsigned pending_groups);

// A matrix in shared memory, as wgmma is told of it (cuda/include/warpgroup.cuh).
struct SharedMatrix {
    const unsigned char* start;
    uint32_t panel;
};

// One operand of a product: 16 of k by `extent` outer indices.
struct Factor {
    SharedMatrix matrix;
    bool by_outer;
};

// What a thread asks of wgmma: its part of the sums, and the factors.
struct Product {
    float* sum;
    int columns;
    Factor a, b;
    void (*multiply)(const Product&, Lane* const lanes[32]);
};

inline void complete_products(Lane* const lanes[32], unsigned) {
    const Product& product = *static_cast<const Product*>(lanes[0]->in);
    product.multiply(product, lanes);
}

// Keeps a product of this thread until it is waited for.
void add_product(const Product& product);
// The first row of this warp's among its warpgroup's 64.
unsigned first_row();
bool products_wait();
void must_have_fenced();
void fence_async_proxy();
void warpgroup_fence();
void warpgroup_commit();
void warpgroup_wait(unsigned pending, const char* file, int line);

struct Registered {
    const char* name;
    unsigned most_threads;
    void (*call)(const void* function, void** arguments);
    const void* function;
    const size_t* argument_sizes;
    // Which arguments are pointers.
    const bool* argument_pointers;
    size_t arguments;
    // The .cu file that defines it.
    const char* file;
};
void add(const Registered& kernel);
// The kernel of this name, or null.
const Registered* find(const char* name);

template <typename... A, size_t... I>
void unpack(void (*function)(A...), void** arguments, std::index_sequence<I...>) {
    function(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
}

struct Registration {
    template <typename... A>
    Registration(const char* name, unsigned most_threads, void (*function)(A...),
                 const char* file = __builtin_FILE()) {
        static const size_t sizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
        static const bool pointers[sizeof...(A) + 1] = {std::is_pointer_v<A>..., false};
        auto call = [](const void* f, void** arguments) {
            unpack(reinterpret_cast<void (*)(A...)>(const_cast<void*>(f)), arguments, std::index_sequence_for<A...>());
        };
        add({name, most_threads, call, reinterpret_cast<const void*>(function), sizes, pointers,
             sizeof...(A), file});
    }
};

template <typename To, typename From>
inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// __shfl_*_sync: `source` says which lane each lane reads.
struct Shuffle { unsigned source; uint64_t value; };
void complete_shuffle(Lane* const lanes[32], unsigned mask);

template <typename T>
T shuffle(unsigned mask, T value, unsigned source, const char* file, int line) {
    static_assert(sizeof(T) <= 8);
    Shuffle in{source, 0};
    std::memcpy(&in.value, &value, sizeof value);
    uint64_t out = 0;
    Lane lane{&in, &out};
    warp_operation(mask, complete_shuffle, lane, file, line);
    T result;
    std::memcpy(&result, &out, sizeof result);
    return result;
}

// Width 32 only, as CUDA's default: a lane beyond the warp's end keeps its own value.
inline unsigned above(unsigned delta) { return lane_id() + delta < 32 ? lane_id() + delta : lane_id(); }
inline unsigned below(unsigned delta) { return lane_id() >= delta ? lane_id() - delta : lane_id(); }

void warp_barrier(unsigned mask, const char* file, int line);
unsigned ballot(unsigned mask, bool predicate, const char* file, int line);

}  // namespace emulation

#define threadIdx (::emulation::thread_index)
#define blockIdx (::emulation::block_index)
#define blockDim (::emulation::block_size)
#define gridDim (::emulation::grid_size)
#define warpSize 32

#define __syncthreads() ::emulation::block_barrier(__FILE__, __LINE__)
// __syncwarp() and __syncwarp(mask).
#define __syncwarp(...) ::emulation::warp_barrier(::emulation::mask_of(__VA_ARGS__), __FILE__, __LINE__)
namespace emulation {
inline unsigned mask_of(unsigned mask = 0xffffffffu) { return mask; }
}  // namespace emulation
#define __shfl_sync(mask, value, source) ::emulation::shuffle(mask, value, (source) & 31u, __FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, bits) \
    ::emulation::shuffle(mask, value, ::emulation::lane_id() ^ (bits), __FILE__, __LINE__)
#define __shfl_down_sync(mask, value, delta) \
    ::emulation::shuffle(mask, value, ::emulation::above(delta), __FILE__, __LINE__)
#define __shfl_up_sync(mask, value, delta) \
    ::emulation::shuffle(mask, value, ::emulation::below(delta), __FILE__, __LINE__)
#define __ballot_sync(mask, predicate) ::emulation::ballot(mask, predicate, __FILE__, __LINE__)
#define __any_sync(mask, predicate) (::emulation::ballot(mask, predicate, __FILE__, __LINE__) != 0)
#define __all_sync(mask, predicate) (::emulation::ballot(mask, predicate, __FILE__, __LINE__) == (mask))

inline unsigned __float_as_uint(float x) { return emulation::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulation::bits<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <typename T>
inline T __ldg(const T* at) { return *at; }
// Past L1, where there may be what another block has meanwhile replaced.
template <typename T>
inline T __ldcg(const T* at) { return *at; }
// Blocks run one after the other: nothing comes between.
inline unsigned atomicAdd(unsigned* at, unsigned value) {
    const unsigned before = *at;
    *at += value;
    return before;
}
inline void __threadfence() {}
inline void __trap() { ::emulation::fail("the kernel traps"); }

// The approximate ones round as the exact ones here; tolerances in the tests are set by the storage type.
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
