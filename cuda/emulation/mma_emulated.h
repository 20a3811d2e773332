// The twins of mma.cuh's instructions. Products are exact and summed in f64, then rounded once: no GPU rounds worse
// than f32, so nothing finer is promised.
#pragma once

namespace emulation {

struct Mma {
    const uint32_t* a;
    const uint32_t* b;
    const float* c;
};

template <typename T>
inline float element(uint32_t word, int half) {
    T value;
    value.bits = static_cast<uint16_t>(word >> (16 * half));
    return to_float(value);
}

template <typename T>
inline void complete_mma(Lane* const lanes[32], unsigned) {
    float a[16][16], b[8][16];
    for (int l = 0; l < 32; ++l) {
        const auto& in = *static_cast<const Mma*>(lanes[l]->in);
        const int g = l / 4, t = l % 4;
        for (int half = 0; half < 2; ++half) {
            a[g][2 * t + half] = element<T>(in.a[0], half);
            a[g + 8][2 * t + half] = element<T>(in.a[1], half);
            a[g][2 * t + 8 + half] = element<T>(in.a[2], half);
            a[g + 8][2 * t + 8 + half] = element<T>(in.a[3], half);
            b[g][2 * t + half] = element<T>(in.b[0], half);
            b[g][2 * t + 8 + half] = element<T>(in.b[1], half);
        }
    }
    for (int l = 0; l < 32; ++l) {
        const auto& in = *static_cast<const Mma*>(lanes[l]->in);
        float* out = static_cast<float*>(lanes[l]->out);
        for (int i = 0; i < 4; ++i) {
            const int row = l / 4 + i / 2 * 8, column = 2 * (l % 4) + i % 2;
            double sum = in.c[i];
            for (int k = 0; k < 16; ++k) sum += double{a[row][k]} * double{b[column][k]};
            out[i] = static_cast<float>(sum);
        }
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
