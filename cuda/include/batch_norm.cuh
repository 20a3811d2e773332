// What kernels share that sum for batch norm: its own, and those of the convolutions that do it on the way.
//
// A map is [segments][rows][channels]. It is cut into `chunks` of rows a segment, and into tiles of channels; a block
// has one chunk of one tile, or one after the other, and leaves two sums of each channel in `partial`, in f64. The last
// block of a group of chunks adds up its group's, and the last of these what the groups have come to: no block reads
// more than about 2·√chunks sums of a channel one after the other. It then writes what comes of them.
#pragma once

#include "arrival.cuh"
#include "kernel.cuh"

// One layer's arrays, by pointers: `NormArrays` of src/backend/cuda/ops/batch_norm.rs.
struct BatchNormArrays {
    // [segments][channels]: mean and 1/√(variance + ε); means of the gradient g and of g·x̂, null for inference.
    float* mean;
    float* inverse;
    float* mean_g;
    float* mean_gx;
    // [channels].
    const float* weight;
    const float* bias;
    // [channels], null for inference.
    float* weight_gradient;
    float* bias_gradient;
    // [channels] and one.
    float* running_mean;
    float* running_var;
    uint64_t* tracked;
    // Set to 1 where a gradient of a parameter is not a finite number; null where nobody asks.
    uint32_t* not_finite;
};

// Where and of what the sums are, by value: `Sums` of src/backend/cuda/ops/batch_norm.rs.
struct Sums {
    const BatchNormArrays* arrays;
    // [segments][chunks][2][channels].
    double* partial;
    // [segments][groups][2][channels].
    double* groups;
    // [tiles of channels][segments·groups + 1], all 0 between launches.
    uint32_t* arrived;
    uint32_t segments;
    // Of a segment.
    uint32_t chunks;
    uint32_t rows;
    uint32_t channels;
    // Chunks of a group, all but the last one's: about √chunks.
    uint32_t group;
    // Bits of NORM_*.
    uint32_t how;
    uint32_t unused[2];
};

enum : uint32_t {
    // Forward: the running statistics move.
    NORM_RUNNING = 1,
    // Backward: the statistics were the batch's own, so that they depend on x.
    NORM_BY_BATCH = 2,
    // Backward: the gradients of weight and bias are wanted.
    NORM_WEIGHTS = 4,
};

namespace {

constexpr double BATCH_NORM_EPSILON = 1e-5, BATCH_NORM_MOMENTUM = 0.1;

__device__ __forceinline__ double* partial_sums(const Sums& sums, uint32_t segment, uint32_t chunk) {
    return sums.partial + (uint64_t{segment} * sums.chunks + chunk) * 2 * sums.channels;
}

// The sums of `count` rows of `from`, each [2][channels], for the channels first … first + extent of the block's tile.
// Threads take the 2·extent sums in turns; `take(which, channel, sum)`.
template <int THREADS, typename Take>
__device__ __forceinline__ void add_up(const double* from, uint32_t count, const Sums& sums, uint32_t first,
                                       uint32_t extent, Take take) {
    for (uint32_t i = threadIdx.x; i < 2 * extent; i += THREADS) {
        const uint32_t which = i / extent, channel = first + i % extent;
        if (channel >= sums.channels) continue;
        const double* const at = from + which * sums.channels + channel;
        double sum = 0.0;
#pragma unroll 8
        for (uint32_t k = 0; k < count; ++k) sum += __ldcg(at + uint64_t{k} * 2 * sums.channels);
        take(which, channel, sum);
    }
}

// Whether this block, which has left its sums of `chunk` of `segment` for the channels first … first + extent, is the
// one to finish these channels: then all groups' sums are there. `tile` is the number of its tile of channels.
template <int THREADS>
__device__ __forceinline__ bool sums_are_there(const Sums& sums, uint32_t segment, uint32_t chunk, uint32_t first,
                                               uint32_t extent, uint32_t tile) {
    const uint32_t groups = (sums.chunks + sums.group - 1) / sums.group, group = chunk / sums.group;
    uint32_t* const arrived = sums.arrived + tile * (sums.segments * groups + 1);
    const uint32_t begin = group * sums.group, members = min(sums.group, sums.chunks - begin);
    if (!last_to_arrive(arrived + segment * groups + group, members)) return false;
    double* const to = sums.groups + (uint64_t{segment} * groups + group) * 2 * sums.channels;
    add_up<THREADS>(partial_sums(sums, segment, begin), members, sums, first, extent,
                    [&](uint32_t which, uint32_t channel, double sum) { to[which * sums.channels + channel] = sum; });
    return last_to_arrive(arrived + sums.segments * groups, sums.segments * groups);
}

// Both sums of `channel` over a segment, once they are there.
__device__ __forceinline__ double2 segment_sums(const Sums& sums, uint32_t segment, uint32_t channel) {
    const uint32_t groups = (sums.chunks + sums.group - 1) / sums.group;
    const double* const at = sums.groups + uint64_t{segment} * groups * 2 * sums.channels + channel;
    double first = 0.0, second = 0.0;
#pragma unroll 4
    for (uint32_t k = 0; k < groups; ++k) {
        first += __ldcg(at + uint64_t{k} * 2 * sums.channels);
        second += __ldcg(at + (uint64_t{k} * 2 + 1) * sums.channels);
    }
    return make_double2(first, second);
}

// The sums are Σx and Σx². Called by all threads of each block when it has left its own; the last one writes mean and
// inverse of its channels, and moves the running statistics.
template <int THREADS>
__device__ void finish_statistics(const Sums& sums, uint32_t segment, uint32_t chunk, uint32_t first, uint32_t extent,
                                  uint32_t tile) {
    if (!sums_are_there<THREADS>(sums, segment, chunk, first, extent, tile)) return;
    const BatchNormArrays& to = *sums.arrays;
    const bool running = (sums.how & NORM_RUNNING) != 0;
    if (running && tile == 0 && threadIdx.x == 0) *to.tracked += sums.segments;
    const double m = static_cast<double>(sums.rows);
    // One value has no unbiased variance; PyTorch refuses it, we keep the biased one.
    const double unbiased = sums.rows > 1 ? m / (m - 1.0) : 1.0;
    for (uint32_t i = threadIdx.x; i < extent; i += THREADS) {
        const uint32_t channel = first + i;
        if (channel >= sums.channels) break;
        for (uint32_t s = 0; s < sums.segments; ++s) {
            const double2 both = segment_sums(sums, s, channel);
            const double mean = both.x / m, spread = both.y / m - mean * mean;
            // NaN stays NaN.
            const double variance = spread < 0.0 ? 0.0 : spread;
            to.mean[s * sums.channels + channel] = static_cast<float>(mean);
            to.inverse[s * sums.channels + channel] = static_cast<float>(1.0 / sqrt(variance + BATCH_NORM_EPSILON));
            if (running) {
                const double old_mean = static_cast<double>(to.running_mean[channel]);
                const double old_var = static_cast<double>(to.running_var[channel]);
                const double keep = 1.0 - BATCH_NORM_MOMENTUM;
                to.running_mean[channel] = static_cast<float>(keep * old_mean + BATCH_NORM_MOMENTUM * mean);
                to.running_var[channel] =
                    static_cast<float>(keep * old_var + BATCH_NORM_MOMENTUM * variance * unbiased);
            }
        }
    }
}

// The sums are Σg and Σg·x̂. Called by all threads of each block when it has left its own; the last one writes the
// means of its channels, and the gradients of weight and bias.
template <int THREADS>
__device__ void finish_gradients(const Sums& sums, uint32_t segment, uint32_t chunk, uint32_t first, uint32_t extent,
                                 uint32_t tile) {
    if (!sums_are_there<THREADS>(sums, segment, chunk, first, extent, tile)) return;
    const BatchNormArrays& to = *sums.arrays;
    const bool by_batch = (sums.how & NORM_BY_BATCH) != 0;
    for (uint32_t i = threadIdx.x; i < extent; i += THREADS) {
        const uint32_t channel = first + i;
        if (channel >= sums.channels) break;
        double sum = 0.0, product = 0.0;
        for (uint32_t s = 0; s < sums.segments; ++s) {
            const double2 both = segment_sums(sums, s, channel);
            sum += both.x;
            product += both.y;
            to.mean_g[s * sums.channels + channel] = by_batch ? static_cast<float>(both.x / sums.rows) : 0.0f;
            to.mean_gx[s * sums.channels + channel] = by_batch ? static_cast<float>(both.y / sums.rows) : 0.0f;
        }
        if ((sums.how & NORM_WEIGHTS) == 0) continue;
        const float weight = static_cast<float>(product), bias = static_cast<float>(sum);
        to.weight_gradient[channel] = weight;
        to.bias_gradient[channel] = bias;
        if (to.not_finite != nullptr && (!isfinite(weight) || !isfinite(bias))) *to.not_finite = 1;
    }
}

}  // namespace
