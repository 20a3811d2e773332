// The twins of warpgroup.cuh's instructions. Products round as mma_emulated.h has it.
//
// A warp computes its own 16 of the 64 rows. A block draws whether products are made at once or when they are waited
// for: so it shows where a stage is read too early, or overwritten or its sums touched too early. That all four warps
// take part is not checked.
#pragma once

#include "mma_emulated.h"

namespace emulation {

// Element (outer, k) of a matrix: the swizzle is one of addresses, so that it takes any start within a group's first row.
template <typename T>
inline Scaled element_of(const Factor& factor, int outer, int k) {
    const SharedMatrix& matrix = factor.matrix;
    const uintptr_t start = reinterpret_cast<uintptr_t>(matrix.start);
    if (start % 1024 / 128 != 0 || start % 16 != 0) {
        fail("wgmma: a matrix starts at %zu within a group of 1024 bytes", static_cast<size_t>(start % 1024));
    }
    const uintptr_t at = start + (factor.by_outer ? outer / 64 * matrix.panel + outer % 64 * 2 + k / 8 * 1024 + k % 8 * 128
                                                  : outer / 8 * 1024 + outer % 8 * 128 + k * 2);
    uint16_t stored;
    std::memcpy(&stored, reinterpret_cast<const void*>(at ^ (at / 128 % 8 * 16)), sizeof stored);
    return element<T>(stored, 0);
}

template <typename T>
inline void multiply_now(const Product& product, Lane* const lanes[32]) {
    static_assert(TERMS == 16);
    const unsigned first = first_row();
    float a[16][16], b[16];
    int a_exponents[16][16], b_exponents[16];
    for (int row = 0; row < 16; ++row) {
        for (int k = 0; k < 16; ++k) {
            const Scaled number = element_of<T>(product.a, static_cast<int>(first) + row, k);
            a[row][k] = number.value;
            a_exponents[row][k] = number.exponent;
        }
    }
    for (int column = 0; column < product.columns; ++column) {
        for (int k = 0; k < 16; ++k) {
            const Scaled number = element_of<T>(product.b, column, k);
            b[k] = number.value;
            b_exponents[k] = number.exponent;
        }
        for (int row = 0; row < 16; ++row) {
            const int lane = row % 8 * 4 + column % 8 / 2;
            float* const sums = static_cast<const Product*>(lanes[lane]->in)->sum;
            float& sum = sums[column / 8 * 4 + row / 8 * 2 + column % 2];
            sum = add_products(a[row], a_exponents[row], b, b_exponents, sum);
        }
    }
}

template <typename T>
inline void warpgroup_multiply(float* sum, int columns, Factor a, Factor b, const char* file, int line) {
    must_have_fenced();
    const Product product{sum, columns, a, b, multiply_now<T>};
    if (products_wait()) {
        products().back().push_back(product);
        return;
    }
    Lane lane{&product, nullptr};
    warp_operation(0xffffffffu, complete_products, lane, file, line);
}

}  // namespace emulation
