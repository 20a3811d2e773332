// What tensor cores make of products. A product rounds as an H100's do, not as f32 arithmetic would: M. Fasi et al.
// (PeerJ Computer Science 7:e330) and F. Khattak and M. Mikaitis (arXiv 2512.07004) found out from outside what NVIDIA
// does not document.
//
//   1. products are exact; a product of significands in [1, 2) lies in [1, 4) and is not normalised
//   2. TERMS of them and the accumulator are shifted to the largest exponent among them, and what lies EXTRA_BITS below
//      the last place of an f32 of that exponent is cut off, toward zero
//   3. what is left is added exactly, and the sum is cut off, toward zero, to f32
//
// So sums are biased toward zero, and their error grows with the number of instructions, not with its root.
// Not known, and taken to be so: terms that are zero have no exponent.
#pragma once

#include <cstdint>

namespace emulation {

// Of an H100. An A100 adds 8 terms at a time with 1 more bit.
constexpr int TERMS = 16;
constexpr int EXTRA_BITS = 2;
// A product's rows of a, and columns of b.
constexpr int ROWS = 16, COLUMNS = 8;

enum class Format { F16, BF16 };

// TERMS factors: their values, and their exponents as the tensor cores see them: that of a subnormal number is that of
// the least normal one, NO_EXPONENT that of zero, NOT_FINITE that of infinities and NaN.
struct Factors {
    float values[TERMS];
    int exponents[TERMS];
    bool zero, finite;
};

// Less than any sum of two exponents.
constexpr int NO_EXPONENT = -1024;
// More than any exponent of a number.
constexpr int NOT_FINITE = 4096;

// Of numbers as they are stored.
void take_factors(Format format, const uint16_t* stored, Factors& factors);

// sums[i][j] += Σ a[i][k]·b[j][k].
void add_products(const Factors* a, const Factors* b, float (&sums)[ROWS][COLUMNS]);

}  // namespace emulation
