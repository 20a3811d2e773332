// A third of the time of emulated convolutions goes into this: so it is vectors of the compiler's, and is never compiled
// with sanitizers, which have nothing to find in arithmetic on arrays of fixed length.
#include "tensor_cores.h"

#include <algorithm>
#include <cstring>

namespace emulation {
namespace {

// Of an f32's significand behind the point.
constexpr int F32_PLACES = 23;

// As wide as AVX2's: of wider ones GCC makes something slow.
constexpr int WIDE = 8, HALF = 4;
using Words = uint32_t __attribute__((vector_size(4 * WIDE)));
using Signed = int32_t __attribute__((vector_size(4 * WIDE)));
using Floats = float __attribute__((vector_size(4 * WIDE)));
using Stored = uint16_t __attribute__((vector_size(2 * WIDE)));
using Ints = int32_t __attribute__((vector_size(4 * HALF)));
using Longs = int64_t __attribute__((vector_size(8 * HALF)));
using Doubles = double __attribute__((vector_size(8 * HALF)));

// Whether any of the words is not 0.
bool any(const Words& words) {
    uint64_t pairs[WIDE / 2];
    std::memcpy(pairs, &words, sizeof pairs);
    return (pairs[0] | pairs[1] | pairs[2] | pairs[3]) != 0;
}

// Whether all of what is stored is 0 or −0.
bool all_zero(const uint16_t* stored) {
    uint64_t parts[TERMS / 4];
    std::memcpy(parts, stored, sizeof parts);
    return ((parts[0] | parts[1] | parts[2] | parts[3]) & 0x7fff7fff7fff7fffu) == 0;
}

// Padding: of it there is much.
const Factors ZEROS = [] {
    Factors zeros{};
    for (int& exponent : zeros.exponents) exponent = NO_EXPONENT;
    zeros.zero = zeros.finite = true;
    return zeros;
}();

int exponent_of(float value) {
    uint32_t magnitude;
    std::memcpy(&magnitude, &value, sizeof magnitude);
    magnitude &= 0x7fffffffu;
    const int field = static_cast<int>(magnitude >> F32_PLACES);
    return magnitude == 0 ? NO_EXPONENT : field == 255 ? NOT_FINITE : (field > 1 ? field : 1) - 127;
}

// Where an infinity or a NaN is among them, of which IEEE 754 says what comes of it.
float as_ieee(const Factors& a, const Factors& b, float c) {
    double sum = c;
    for (int k = 0; k < TERMS; ++k) sum += double{a.values[k]} * double{b.values[k]};
    return static_cast<float>(sum);
}

}  // namespace

void take_factors(Format format, const uint16_t* stored, Factors& factors) {
    const int places = format == Format::F16 ? 10 : 7, most = format == Format::F16 ? 31 : 255, bias = most / 2;
    if (all_zero(stored)) {
        factors = ZEROS;
        return;
    }
    factors.zero = false;
    factors.finite = true;
    for (int first = 0; first < TERMS; first += WIDE) {
        Stored bits;
        std::memcpy(&bits, stored + first, sizeof bits);
        const Words words = __builtin_convertvector(bits, Words);
        const Words magnitude = words & 0x7fffu;
        const Signed field = reinterpret_cast<Signed>(magnitude >> places);
        const Signed none = magnitude == 0u, special = field == most;
        factors.finite &= !any(reinterpret_cast<Words>(special));
        // A bf16 is the upper half of an f32. Of an f16 the bits stand where an f32's do, but for the bias: multiplied
        // by 2^112 they are its value, subnormal or not, unless it is none.
        Words value = magnitude << 16;
        if (format == Format::F16) {
            const Words shifted = magnitude << (F32_PLACES - 10);
            const Words scaled = reinterpret_cast<Words>(reinterpret_cast<Floats>(shifted) * 0x1p112f);
            value = special ? shifted | 0x7f800000u : scaled;
        }
        value |= (words & 0x8000u) << 16;
        Signed exponents = (field > 1 ? field : Signed{} + 1) - bias;
        exponents = none ? Signed{} + NO_EXPONENT : special ? Signed{} + NOT_FINITE : exponents;
        std::memcpy(factors.values + first, &value, sizeof value);
        std::memcpy(factors.exponents + first, &exponents, sizeof exponents);
    }
}

void add_products(const Factors* a, const Factors* b, float (&sums)[ROWS][COLUMNS]) {
    for (int first = 0; first < COLUMNS; first += HALF) {
        const Factors* const columns = b + first;
        alignas(Doubles) double values[TERMS][HALF];
        alignas(Ints) int exponents[TERMS][HALF];
        bool zeros = true, finite = true;
        for (int j = 0; j < HALF; ++j) {
            zeros &= columns[j].zero;
            finite &= columns[j].finite;
        }
        // Whether a row's products with these are zeros, which change no sum.
        const auto is_nothing = [&](const Factors& row) { return (row.zero && finite) || (zeros && row.finite); };
        if (std::all_of(a, a + ROWS, is_nothing)) continue;
        for (int k = 0; k < TERMS; ++k) {
            for (int j = 0; j < HALF; ++j) {
                values[k][j] = columns[j].values[k];
                exponents[k][j] = columns[j].exponents[k];
            }
        }
        const auto load = [](const auto& from, auto& to) { std::memcpy(&to, from, sizeof to); };
        for (int i = 0; i < ROWS; ++i) {
            const Factors& row = a[i];
            if (is_nothing(row)) continue;
            float* const to = sums[i] + first;
            Ints largest{exponent_of(to[0]), exponent_of(to[1]), exponent_of(to[2]), exponent_of(to[3])};
            const Doubles c{to[0], to[1], to[2], to[3]};
            for (int k = 0; k < TERMS; ++k) {
                Ints of_product;
                load(exponents[k], of_product);
                of_product += row.exponents[k];
                largest = of_product > largest ? of_product : largest;
            }
            const Ints nothing = largest < NO_EXPONENT / 2, special = largest > NOT_FINITE / 2;
            // In units of the last place that is kept every term is below 2^(2 + F32_PLACES + EXTRA_BITS), and the sum
            // of all below 2^32, which f64 adds exactly. A conversion to int cuts off toward zero.
            const Ints places = F32_PLACES + EXTRA_BITS - ((nothing | special) ? Ints{} : largest);
            const Longs of_units = __builtin_convertvector(places, Longs);
            const auto units = reinterpret_cast<Doubles>((of_units + 1023) << 52);
            const auto back = reinterpret_cast<Doubles>((1023 - of_units) << 52);
            Doubles sum{};
            const auto add = [&sum](const Doubles& term) {
                sum += __builtin_convertvector(__builtin_convertvector(term, Ints), Doubles);
            };
            add(c * units);
            for (int k = 0; k < TERMS; ++k) {
                Doubles value;
                load(values[k], value);
                add(value * double{row.values[k]} * units);
            }
            // An f64 has 29 places more than an f32.
            const auto cut = reinterpret_cast<Doubles>(reinterpret_cast<Longs>(sum * back) >> 29 << 29);
            for (int j = 0; j < HALF; ++j) {
                if (special[j]) {
                    const bool adds_nothing = (row.zero && columns[j].finite) || (columns[j].zero && row.finite);
                    if (!adds_nothing) to[j] = as_ieee(row, columns[j], to[j]);
                } else if (!nothing[j]) {
                    to[j] = static_cast<float>(cut[j]);
                }
            }
        }
    }
}

}  // namespace emulation
