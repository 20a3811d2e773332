// The twins of warpgroup.cuh's instructions. Products round as tensor_cores.h has it.
//
// A warp computes its own 16 of the 64 rows. A block draws whether products are made at once or when they are waited
// for: so it shows where a stage is read too early, or overwritten or its sums touched too early. That all four warps
// take part is not checked.
#pragma once

#include "mma_emulated.h"

namespace emulation {

// The 16 elements of k at an outer index: the swizzle is one of addresses, so that it takes any start within a group's
// first row.
inline void read_factors(const Factor& factor, int outer, uint16_t (&stored)[TERMS]) {
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

template <typename T>
inline void multiply_now(const Product& product, Lane* const lanes[32]) {
    const int first = static_cast<int>(first_row());
    const auto take = [](const Factor& factor, int outer, Factors& factors) {
        uint16_t stored[TERMS];
        read_factors(factor, outer, stored);
        take_factors(FORMAT<T>, stored, factors);
    };
    Factors rows[ROWS], columns[COLUMNS];
    for (int i = 0; i < ROWS; ++i) take(product.a, first + i, rows[i]);
    // Eight columns are four sums of each lane.
    for (int column = 0; column < product.columns; column += COLUMNS) {
        for (int i = 0; i < COLUMNS; ++i) take(product.b, column + i, columns[i]);
        float sums[ROWS][COLUMNS];
        const auto of_lane = [&](int l) { return static_cast<const Product*>(lanes[l]->in)->sum + column / 2; };
        for (int l = 0; l < 32; ++l) {
            std::memcpy(&sums[l / 4][2 * (l % 4)], of_lane(l), 8);
            std::memcpy(&sums[l / 4 + 8][2 * (l % 4)], of_lane(l) + 2, 8);
        }
        add_products(rows, columns, sums);
        for (int l = 0; l < 32; ++l) {
            std::memcpy(of_lane(l), &sums[l / 4][2 * (l % 4)], 8);
            std::memcpy(of_lane(l) + 2, &sums[l / 4 + 8][2 * (l % 4)], 8);
        }
    }
}

template <typename T>
inline void warpgroup_multiply(float* sum, int columns, Factor a, Factor b, const char* file, int line) {
    must_have_fenced();
    const Product product{sum, columns, a, b, multiply_now<T>};
    if (products_wait()) {
        add_product(product);
        return;
    }
    Lane lane{&product, nullptr};
    warp_operation(0xffffffffu, complete_products, lane, file, line);
}

}  // namespace emulation
