// Where the kernels of networks that are only run forward look: any kernel, stride and padding.
#pragma once

#include <cstdint>

// Passed by value: ten 32-bit integers in this order. Pixel (i, j) of the output looks at the rows stride·i − pad_h to
// stride·i − pad_h + kernel_h − 1 of the input, and likewise at columns.
struct Window {
    // The input.
    uint32_t in_h, in_w, c;
    // The output.
    uint32_t out_h, out_w;
    uint32_t kernel_h, kernel_w, stride, pad_h, pad_w;
};
