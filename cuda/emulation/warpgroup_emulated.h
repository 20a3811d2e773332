// The twins of warpgroup.cuh's instructions. Products round as mma_emulated.h has it.
//
// A warp computes its own 16 of the 64 rows. A block draws whether products are made at once or when they are waited
// for: so it shows where a stage is read too early, or overwritten or its sums touched too early. That all four warps
// take part is not checked.
#pragma once

#include "mma_emulated.h"

namespace emulation {

// The 16 elements of k at an outer index: the swizzle is one of addresses, so that it takes any start within a group's
// first row.
inline void read_factors(const Factor& factor, int outer, uint16_t (&stored)[16]) {
    const SharedMatrix& matrix = factor.matrix;
    const uintptr_t start = reinterpret_cast<uintptr_t>(matrix.start);
    if (start % 1024 / 128 != 0 || start % 16 != 0) {
        fail("wgmma: a matrix starts at %zu within a group of 1024 bytes", static_cast<size_t>(start % 1024));
    }
    const auto read = [](uintptr_t at, void* to, size_t size) {
        std::memcpy(to, reinterpret_cast<const void*>(at ^ (at / 128 % 8 * 16)), size);
    };
    if (factor.by_outer) {
        const uintptr_t first = start + outer / 64 * matrix.panel + outer % 64 * 2;
        for (int k = 0; k < 16; ++k) read(first + k / 8 * 1024 + k % 8 * 128, &stored[k], 2);
    } else {
        const uintptr_t first = start + outer / 8 * 1024 + outer % 8 * 128;
        for (int k = 0; k < 16; k += 8) read(first + k * 2, &stored[k], 16);
    }
}

// The same with what is known of them; where they are zeros, that is all.
template <typename T>
inline Factors factors_of(const Factor& factor, int outer, float (&values)[16], int (&exponents)[16]) {
    uint16_t stored[16];
    read_factors(factor, outer, stored);
    if (std::all_of(stored, stored + 16, [](uint16_t bits) { return (bits & 0x7fff) == 0; })) {
        std::fill(values, values + 16, 0.0f);
        std::fill(exponents, exponents + 16, NO_EXPONENT);
        return {};
    }
    for (int k = 0; k < 16; ++k) {
        const Scaled number = element<T>(stored[k], 0);
        values[k] = number.value;
        exponents[k] = number.exponent;
    }
    return look_at(exponents);
}

template <typename T>
inline void multiply_now(const Product& product, Lane* const lanes[32]) {
    static_assert(TERMS == 16);
    const unsigned first = first_row();
    float a[16][16], b[16];
    int a_exponents[16][16], b_exponents[16];
    Factors rows[16];
    for (int row = 0; row < 16; ++row) {
        rows[row] = factors_of<T>(product.a, static_cast<int>(first) + row, a[row], a_exponents[row]);
    }
    for (int column = 0; column < product.columns; ++column) {
        const Factors factors = factors_of<T>(product.b, column, b, b_exponents);
        for (int row = 0; row < 16; ++row) {
            if (add_nothing(rows[row], factors)) continue;
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
