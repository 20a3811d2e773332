// Storage types and how they are read and written: f32, f16 and bf16 in memory, f32 in registers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

using f32 = float;
using f16 = __half;
using bf16 = __nv_bfloat16;

namespace {

__device__ __forceinline__ float to_float(f32 x) { return x; }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

// Rounds to nearest even.
template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ f32 from_float<f32>(float x) { return x; }
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) { return __float2half_rn(x); }
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

// Elements of one 16-byte access.
template <typename T>
constexpr int VECTOR = 16 / static_cast<int>(sizeof(T));

template <typename T>
struct alignas(16) Vector {
    T element[VECTOR<T>];
};

// VECTOR<T> elements as they lie, in one access; `from` is 16-byte aligned. Unpacked when they are used, so that many
// accesses can be under way in few registers.
template <typename T>
__device__ __forceinline__ uint4 load_words(const T* from) {
    return *reinterpret_cast<const uint4*>(from);
}

template <typename T>
__device__ __forceinline__ void unpack(const uint4& words, float (&to)[VECTOR<T>]) {
    const Vector<T>& vector = reinterpret_cast<const Vector<T>&>(words);
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) to[i] = to_float(vector.element[i]);
}

// Reads VECTOR<T> elements at once; `from` is 16-byte aligned.
template <typename T>
__device__ __forceinline__ void load_vector(const T* from, float (&to)[VECTOR<T>]) {
    const Vector<T> vector = *reinterpret_cast<const Vector<T>*>(from);
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) to[i] = to_float(vector.element[i]);
}

template <typename T>
__device__ __forceinline__ void store_vector(T* to, const float (&from)[VECTOR<T>]) {
    Vector<T> vector;
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) vector.element[i] = from_float<T>(from[i]);
    *reinterpret_cast<Vector<T>*>(to) = vector;
}

// Reads the first `valid` elements only, one by one where `aligned` is false; the rest is `fill`.
template <typename T>
__device__ __forceinline__ void load_some(const T* from, int valid, bool aligned, float fill,
                                          float (&to)[VECTOR<T>]) {
    if (aligned && valid >= VECTOR<T>) {
        load_vector(from, to);
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) to[i] = i < valid ? to_float(from[i]) : fill;
}

template <typename T>
__device__ __forceinline__ void store_some(T* to, int valid, bool aligned, const float (&from)[VECTOR<T>]) {
    if (aligned && valid >= VECTOR<T>) {
        store_vector(to, from);
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) {
        if (i < valid) to[i] = from_float<T>(from[i]);
    }
}

}  // namespace
