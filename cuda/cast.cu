// Between f32 and a storage type: weight gradients that cuDNN wrote in T, for Adam; weights as the convolutions read
// them.
//
//   to[i] = from[i], rounded to nearest even; from f32: factor · from[i]
//
// Layout: any, `count` elements in a row. Types: T to f32, f32 to T.
// Launch: ceil(count / (THREADS · VECTOR<T>)) blocks of THREADS; pointers 16-byte aligned.
// Bound: memory; 4 + sizeof(T) bytes an element.
// Neighbours: to_f32 behind cuDNN's weight gradients, before Adam; from_f32 where Adam's own cast has not run yet.
#include "dependency.cuh"
#include "kernel.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

template <typename T>
__device__ __forceinline__ uint64_t first_element() {
    return (uint64_t{blockIdx.x} * THREADS + threadIdx.x) * VECTOR<T>;
}

template <typename T>
__device__ void to_f32(const T* from, float* to, uint64_t count) {
    const uint64_t first = first_element<T>();
    if (first >= count) return;
    const int valid = static_cast<int>(min(count - first, uint64_t{VECTOR<T>}));
    float v[VECTOR<T>];
    load_some(from + first, valid, true, 0.0f, v);
#pragma unroll
    for (int i = 0; i < VECTOR<T>; i += 4) {
        const float part[4] = {v[i], v[i + 1], v[i + 2], v[i + 3]};
        store_some(to + first + i, valid - i, true, part);
    }
}

template <typename T>
__device__ void from_f32(const float* from, T* to, uint64_t count, float factor) {
    const uint64_t first = first_element<T>();
    if (first >= count) return;
    const int valid = static_cast<int>(min(count - first, uint64_t{VECTOR<T>}));
    float v[VECTOR<T>];
#pragma unroll
    for (int i = 0; i < VECTOR<T>; i += 4) {
        float part[4];
        load_some(from + first + i, valid - i, true, 0.0f, part);
#pragma unroll
        for (int j = 0; j < 4; ++j) v[i + j] = factor * part[j];
    }
    store_some(to + first, valid, true, v);
}

}  // namespace

#define CAST_TO_F32(T) \
    KERNEL(cast_to_f32_##T, THREADS, (const T* from, float* to, uint64_t count)) { \
        await_previous();                                                          \
        let_next_start();                                                          \
        to_f32(from, to, count);                                                   \
    }
CAST_TO_F32(f16)
CAST_TO_F32(bf16)

#define CAST_FROM_F32(T) \
    KERNEL(cast_from_f32_##T, THREADS, (const float* from, T* to, uint64_t count, float factor)) { \
        await_previous();                                                                          \
        let_next_start();                                                                          \
        from_f32(from, to, count, factor);                                                         \
    }
CAST_FROM_F32(f32)
CAST_FROM_F32(f16)
CAST_FROM_F32(bf16)
