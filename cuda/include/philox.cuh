// Philox4x32-10 (Salmon et al., SC'11), the same numbers as src/random.rs: counter = (block, step low, step high,
// purpose), key = seed.
#pragma once

#include <cstdint>

namespace {

__device__ __forceinline__ uint4 philox(uint64_t seed, uint32_t purpose, uint64_t step, uint32_t block) {
    uint4 counter = make_uint4(block, static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32), purpose);
    uint2 key = make_uint2(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// Uniform in (0, 1): the 24 high bits, plus a half, times 2^-24. The sum is exact or rounds as on the CPU.
__device__ __forceinline__ float uniform(uint32_t bits) {
    return (static_cast<float>(bits >> 8) + 0.5f) * (1.0f / 16777216.0f);
}

// Two standard normal numbers, by Box and Muller. The exact functions, not the fast ones: the CPU's differ from these
// by units in the last place only.
__device__ __forceinline__ float2 box_muller(uint32_t u, uint32_t v) {
    const float radius = sqrtf(-2.0f * logf(uniform(u)));
    const float angle = 2.0f * 3.14159265358979f * uniform(v);
    return make_float2(radius * cosf(angle), radius * sinf(angle));
}

}  // namespace
