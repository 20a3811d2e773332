// What the three convolution kernels share: the geometry, and the large map seen through the taps.
//
// Every 4×4 convolution here lies between a *large* map (input of a convolution, output of a transposed one) and a
// *small* one. Both are NHWC. Weights are [k][r][s][c]: k channels of the small map, c of the large one, tap (r, s):
// the small pixel (i, j) meets the large pixels (stride·i − pad + r, stride·j − pad + s).
#pragma once

#include "activation.cuh"
#include "implicit_gemm.cuh"

// Passed by value: nine 32-bit integers in this order.
struct Convolution {
    uint32_t n;
    // The small map.
    uint32_t small_h, small_w, k;
    // The large map.
    uint32_t large_h, large_w, c;
    uint32_t stride, pad;
};

namespace {

// A coordinate that is outside of every map, also with another one added to it.
constexpr int OUTSIDE = 1 << 24;

template <typename T>
__device__ __forceinline__ bool is_aligned(const T* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// The matrix [pixel of the small map][r, s, c] of what each small pixel meets in the large map.
template <typename T>
struct Columns {
    const T* base;
    Convolution shape;
    // Pixels from here on count as zero.
    uint32_t pixels;
    bool vectors;

    struct Pixel {
        const T* image;
        int h, w;
    };
    struct Tap {
        int r, s;
        uint32_t c;
    };

    __device__ __forceinline__ Columns(const T* large, const Convolution& shape, uint32_t pixels)
        : base(large), shape(shape), pixels(pixels), vectors(shape.c % VECTOR<T> == 0 && is_aligned(large)) {}

    __device__ __forceinline__ Pixel pixel(uint32_t index) const {
        if (index >= pixels) return {base, OUTSIDE, OUTSIDE};
        const uint32_t row = index / shape.small_w, image = row / shape.small_h;
        const uint32_t i = row - image * shape.small_h, j = index - row * shape.small_w;
        return {base + uint64_t{image} * (shape.large_h * shape.large_w * shape.c),
                static_cast<int>(i * shape.stride) - static_cast<int>(shape.pad),
                static_cast<int>(j * shape.stride) - static_cast<int>(shape.pad)};
    }
    __device__ __forceinline__ Tap tap(uint32_t index) const {
        const uint32_t tap = index / shape.c;
        if (tap >= 16) return {OUTSIDE, OUTSIDE, 0};
        return {static_cast<int>(tap / 4), static_cast<int>(tap % 4), index - tap * shape.c};
    }
    __device__ __forceinline__ const T* element(const Pixel& pixel, const Tap& tap) const {
        const uint32_t h = pixel.h + tap.r, w = pixel.w + tap.s;
        if (h >= shape.large_h || w >= shape.large_w) return nullptr;
        return pixel.image + ((h * shape.large_w + w) * shape.c + tap.c);
    }
};

// Outputs that are a plain matrix, such as [pixel][k].
template <typename T>
struct MatrixOutput {
    using Type = T;
    T* to;
    uint32_t rows, columns;
    bool aligned;
    int activation;

    __device__ __forceinline__ MatrixOutput(T* to, uint32_t rows, uint32_t columns, int activation)
        : to(to),
          rows(rows),
          columns(columns),
          aligned(columns % VECTOR<T> == 0 && is_aligned(to)),
          activation(activation) {}
    __device__ __forceinline__ T* row(uint32_t m) const {
        return m < rows ? to + uint64_t{m} * columns : nullptr;
    }
    __device__ __forceinline__ float value(uint32_t, float sum) const { return activate(activation, sum); }
};

}  // namespace

// The tiles that exist of a kernel. The first two read 16 bytes at a time and need what the kernel's header says of
// channel counts and alignment; `_any` takes everything.
#define CONVOLUTION_TILES(DEFINE, T)        \
    DEFINE(T, 128x64, 128, 64, false)       \
    DEFINE(T, 64x32, 64, 32, false)         \
    DEFINE(T, 64x32_any, 64, 32, true)
