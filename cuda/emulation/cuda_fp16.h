// __half on the host: IEEE binary16, conversions rounding to nearest even.
#pragma once

struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

inline float __half2float(__half h) {
    const uint32_t sign = uint32_t{h.bits & 0x8000u} << 16, exponent = h.bits >> 10 & 31u, mantissa = h.bits & 0x3ffu;
    if (exponent == 31) return emulation::bits<float>(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return emulation::bits<float>(sign | emulation::bits<uint32_t>(magnitude));
    }
    return emulation::bits<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline __half __float2half_rn(float f) {
    const uint32_t word = emulation::bits<uint32_t>(f), magnitude = word & 0x7fffffffu;
    const uint16_t sign = static_cast<uint16_t>(word >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) return {0x7fff};
    // 65520 and above rounds to infinity.
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {
        // Below 2^-14: units of 2^-24; rintf rounds to even, and the product is exact.
        const float units = std::rint(emulation::bits<float>(magnitude) * 0x1p24f);
        return {static_cast<uint16_t>(sign | static_cast<uint32_t>(units))};
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return {static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13)};
}
inline __half __float2half(float f) { return __float2half_rn(f); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
