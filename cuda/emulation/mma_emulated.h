// The twins of mma.cuh's instructions. Products round as tensor_cores.h has it.
#pragma once

#include "tensor_cores.h"

namespace emulation {

template <typename T>
constexpr Format FORMAT = std::is_same_v<T, f16> ? Format::F16 : Format::BF16;

struct Mma {
    const uint32_t* a;
    const uint32_t* b;
    const float* c;
};

template <typename T>
inline void complete_mma(Lane* const lanes[32], unsigned) {
    // Words of two neighbours in k.
    uint32_t a[ROWS][TERMS / 2], b[COLUMNS][TERMS / 2];
    float sums[ROWS][COLUMNS];
    for (int l = 0; l < 32; ++l) {
        const auto& in = *static_cast<const Mma*>(lanes[l]->in);
        const int g = l / 4, t = l % 4;
        a[g][t] = in.a[0];
        a[g + 8][t] = in.a[1];
        a[g][t + 4] = in.a[2];
        a[g + 8][t + 4] = in.a[3];
        b[g][t] = in.b[0];
        b[g][t + 4] = in.b[1];
        std::memcpy(&sums[g][2 * t], in.c, 8);
        std::memcpy(&sums[g + 8][2 * t], in.c + 2, 8);
    }
    Factors rows[ROWS], columns[COLUMNS];
    const auto take = [](const uint32_t (&words)[TERMS / 2], Factors& factors) {
        uint16_t stored[TERMS];
        std::memcpy(stored, words, sizeof stored);
        take_factors(FORMAT<T>, stored, factors);
    };
    for (int i = 0; i < ROWS; ++i) take(a[i], rows[i]);
    for (int i = 0; i < COLUMNS; ++i) take(b[i], columns[i]);
    add_products(rows, columns, sums);
    for (int l = 0; l < 32; ++l) {
        float* out = static_cast<float*>(lanes[l]->out);
        std::memcpy(out, &sums[l / 4][2 * (l % 4)], 8);
        std::memcpy(out + 2, &sums[l / 4 + 8][2 * (l % 4)], 8);
    }
}

template <typename T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file, int line) {
    const Mma in{a, b, d};
    float out[4];
    Lane lane{&in, out};
    warp_operation(0xffffffffu, complete_mma<T>, lane, file, line);
    for (int i = 0; i < 4; ++i) d[i] = out[i];
}

struct LoadMatrix {
    const void* row;
    int matrices;
    bool transposed;
};

inline void complete_load_matrix(Lane* const lanes[32], unsigned) {
    const auto& first = *static_cast<const LoadMatrix*>(lanes[0]->in);
    uint16_t rows[32][8];
    for (int l = 0; l < 8 * first.matrices; ++l) {
        const void* row = static_cast<const LoadMatrix*>(lanes[l]->in)->row;
        if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix: the row of lane %d is not 16-byte aligned", l);
        std::memcpy(rows[l], row, 16);
    }
    for (int l = 0; l < 32; ++l) {
        uint32_t* out = static_cast<uint32_t*>(lanes[l]->out);
        const int g = l / 4, t = l % 4;
        for (int i = 0; i < first.matrices; ++i) {
            const uint16_t low = first.transposed ? rows[8 * i + 2 * t][g] : rows[8 * i + g][2 * t];
            const uint16_t high = first.transposed ? rows[8 * i + 2 * t + 1][g] : rows[8 * i + g][2 * t + 1];
            out[i] = low | uint32_t{high} << 16;
        }
    }
}

inline void load_matrix(uint32_t* r, int matrices, bool transposed, const void* row, const char* file, int line) {
    const LoadMatrix in{row, matrices, transposed};
    Lane lane{&in, r};
    warp_operation(0xffffffffu, complete_load_matrix, lane, file, line);
}

}  // namespace emulation
