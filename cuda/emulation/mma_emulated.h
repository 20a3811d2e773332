// The twins of mma.cuh's instructions. A product rounds as an H100's tensor cores do, not as f32 arithmetic would: M.
// Fasi et al. (PeerJ Computer Science 7:e330) and F. Khattak and M. Mikaitis (arXiv 2512.07004) found out from outside
// what NVIDIA does not document.
//
//   1. products are exact; a product of significands in [1, 2) lies in [1, 4) and is not normalised
//   2. TERMS of them and the accumulator are shifted to the largest exponent among them, and what lies EXTRA_BITS below
//      the last place of an f32 of that exponent is cut off, toward zero
//   3. what is left is added exactly, and the sum is cut off, toward zero, to f32
//
// So sums are biased toward zero, and their error grows with the number of instructions, not with its root.
// Not known, and taken to be so: terms that are zero have no exponent.
#pragma once

namespace emulation {

// Of an H100. An A100 adds 8 terms at a time with 1 more bit.
constexpr int TERMS = 16;
constexpr int EXTRA_BITS = 2;

struct Mma {
    const uint32_t* a;
    const uint32_t* b;
    const float* c;
};

// Of an f32's significand behind the point.
constexpr int F32_PLACES = 23;

// Less than any sum of two exponents; of what is zero.
constexpr int NO_EXPONENT = -1024;
// More than any exponent of a number: of infinities and NaN.
constexpr int NOT_FINITE = 4096;

// A number with its exponent as the tensor cores see it: that of a subnormal number is that of the least normal one.
struct Scaled {
    float value;
    int exponent;
};

template <typename T>
inline Scaled element(uint32_t word, int half) {
    constexpr int PLACES = std::is_same_v<T, f16> ? 10 : 7, BIAS = std::is_same_v<T, f16> ? 15 : 127;
    T stored;
    stored.bits = static_cast<uint16_t>(word >> (16 * half));
    const int field = stored.bits >> PLACES & (2 * BIAS + 1);
    const bool zero = (stored.bits & 0x7fff) == 0;
    const int exponent = zero ? NO_EXPONENT : field == 2 * BIAS + 1 ? NOT_FINITE : max(field, 1) - BIAS;
    return {to_float(stored), exponent};
}

inline int exponent_of(float value) {
    const uint32_t magnitude = bits<uint32_t>(value) & 0x7fffffffu;
    const int field = static_cast<int>(magnitude >> F32_PLACES);
    return magnitude == 0 ? NO_EXPONENT : field == 255 ? NOT_FINITE : max(field, 1) - 127;
}

// 2 to a power within f64's normal range.
inline double power_of_two(int exponent) { return bits<double>(static_cast<uint64_t>(exponent + 1023) << 52); }

// c + Σ a[k]·b[k] over TERMS products. Exponents of factors that are zero or not finite are NO_EXPONENT, NOT_FINITE.
inline float add_products(const float* a, const int* a_exponents, const float* b, const int* b_exponents, float c) {
    int largest = exponent_of(c);
    for (int k = 0; k < TERMS; ++k) largest = max(largest, a_exponents[k] + b_exponents[k]);
    if (largest < NO_EXPONENT / 2) return c;
    if (largest > NOT_FINITE / 2) {
        // An infinity or a NaN, of which IEEE 754 says what comes of it.
        double sum = c;
        for (int k = 0; k < TERMS; ++k) sum += double{a[k]} * double{b[k]};
        return static_cast<float>(sum);
    }
    // In units of the last place that is kept every term is below 2^(2 + F32_PLACES + EXTRA_BITS), and the sum of all
    // below 2^32. A conversion to int cuts off toward zero.
    const int places = F32_PLACES + EXTRA_BITS - largest;
    const double units = power_of_two(places);
    int64_t sum = static_cast<int32_t>(c * units);
    for (int k = 0; k < TERMS; ++k) sum += static_cast<int32_t>(double{a[k]} * double{b[k]} * units);
    // An f64 has 29 places more than an f32.
    const uint64_t cut = bits<uint64_t>(static_cast<double>(sum) * power_of_two(-places)) >> 29 << 29;
    return static_cast<float>(bits<double>(cut));
}

// What is known of TERMS factors by their exponents: padding is zeros, of which there are many.
struct Factors {
    bool zero = true, finite = true;
};
inline Factors look_at(const int* exponents) {
    Factors all;
    for (int k = 0; k < TERMS; ++k) {
        all.zero = all.zero && exponents[k] == NO_EXPONENT;
        all.finite = all.finite && exponents[k] != NOT_FINITE;
    }
    return all;
}
// Whether their products are zeros, which change no sum.
inline bool add_nothing(const Factors& a, const Factors& b) { return (a.zero && b.finite) || (b.zero && a.finite); }

template <typename T>
inline void complete_mma(Lane* const lanes[32], unsigned) {
    float a[16][16], b[8][16];
    int a_exponents[16][16], b_exponents[8][16];
    const auto put = [](float& value, int& exponent, uint32_t word, int half) {
        const Scaled number = element<T>(word, half);
        value = number.value;
        exponent = number.exponent;
    };
    for (int l = 0; l < 32; ++l) {
        const auto& in = *static_cast<const Mma*>(lanes[l]->in);
        const int g = l / 4, t = l % 4;
        for (int half = 0; half < 2; ++half) {
            put(a[g][2 * t + half], a_exponents[g][2 * t + half], in.a[0], half);
            put(a[g + 8][2 * t + half], a_exponents[g + 8][2 * t + half], in.a[1], half);
            put(a[g][2 * t + 8 + half], a_exponents[g][2 * t + 8 + half], in.a[2], half);
            put(a[g + 8][2 * t + 8 + half], a_exponents[g + 8][2 * t + 8 + half], in.a[3], half);
            put(b[g][2 * t + half], b_exponents[g][2 * t + half], in.b[0], half);
            put(b[g][2 * t + 8 + half], b_exponents[g][2 * t + 8 + half], in.b[1], half);
        }
    }
    static_assert(TERMS == 16);
    Factors rows[16], columns[8];
    for (int i = 0; i < 16; ++i) rows[i] = look_at(a_exponents[i]);
    for (int i = 0; i < 8; ++i) columns[i] = look_at(b_exponents[i]);
    for (int l = 0; l < 32; ++l) {
        const auto& in = *static_cast<const Mma*>(lanes[l]->in);
        float* out = static_cast<float*>(lanes[l]->out);
        for (int i = 0; i < 4; ++i) {
            const int row = l / 4 + i / 2 * 8, column = 2 * (l % 4) + i % 2;
            out[i] = in.c[i];
            if (add_nothing(rows[row], columns[column])) continue;
            out[i] = add_products(a[row], a_exponents[row], b[column], b_exponents[column], in.c[i]);
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
