// What kernels share that sum for batch norm: its own, and those of the convolutions that do it on the way.
//
// A map is [segments][rows][channels]. It is cut into `chunks` of rows a segment, and into tiles of channels; a block
// has one chunk of one tile, or one after the other, and leaves two sums of each channel in `partial`, in f64. The last
// block adds them up and writes what comes of them. Where they are many, the last block of a group of about √chunks
// adds up its group's first, and the last of these what the groups have come to.
//
// What counts is the time that the last block takes, with nothing else to do for the rest of the GPU: of trips to L2,
// one behind the other, three for few chunks (its own sums' way there, the counter's, the loads'), six for many. All of
// its threads load at once, each some of the rows of two neighbouring channels of one sum.
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
    // [segments][groups][2][channels]; `partial` itself where a group is one chunk.
    double* groups;
    // [tiles of channels][1 + segments·groups], all 0 between launches; [tiles of channels] where a group is one chunk.
    uint32_t* arrived;
    // One or two.
    uint32_t segments;
    // Of a segment.
    uint32_t chunks;
    uint32_t rows;
    uint32_t channels;
    // Chunks of a group, all but the last one's: 1 where they are few, about √chunks where they are many.
    uint32_t group;
    // Bits of NORM_*.
    uint32_t how;
    // 1/rows.
    double over_rows;
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

// Adds up two values of each of V channels over the threads of a block that have the same vector of channels, which are
// those with the same threadIdx.x % LANES. Warp i of V then has both sums of channels i of the vectors, its first LANES
// threads each of one vector; true for these. `shared` has 2·V·THREADS places; the call ends without a barrier.
template <int THREADS, int LANES, int V>
__device__ __forceinline__ bool sum_over_rows(const float (&first)[V], const float (&second)[V], float* shared,
                                              float (&both)[2]) {
    const uint32_t t = threadIdx.x, warp = t / 32;
    // [sum][channel of the vector][thread]: neighbouring threads in neighbouring banks.
#pragma unroll
    for (int i = 0; i < V; ++i) {
        shared[i * THREADS + t] = first[i];
        shared[(V + i) * THREADS + t] = second[i];
    }
    __syncthreads();
    if (warp >= V) return false;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
        const float* const of = shared + (which * V + warp) * THREADS + t % 32;
        both[which] = of[0];
#pragma unroll
        for (int k = 32; k < THREADS; k += 32) both[which] += of[k];
#pragma unroll
        for (int bit = 16; bit >= LANES; bit /= 2) both[which] += __shfl_xor_sync(0xffffffffu, both[which], bit);
    }
    return t % 32 < LANES;
}

// How a block's threads share the sums of EXTENT channels, which are a power of two, from `first` on: a thread has two
// neighbouring channels of one sum, in one of SLICES slices of the rows. What it comes to lies in `scratch`, 16 bytes a
// thread and aligned to them, as f64 [SLICES][2][EXTENT].
template <int THREADS, int EXTENT>
struct Slices {
    static constexpr uint32_t SLICES = THREADS / EXTENT;
    // Loads that a thread has under way: 32 KB a block.
    static constexpr uint32_t TOGETHER = 2048 / THREADS;
    // One for each of two segments at least.
    static_assert(SLICES >= 2 && THREADS % EXTENT == 0);

    // Leaves the sum of rows slice, slice + slices … below `rows` of `from`, each [2][channels].
    static __device__ __forceinline__ void add(const Sums& sums, const double* from, uint32_t rows, uint32_t first,
                                               uint32_t slice, uint32_t slices, double2* scratch) {
        const uint32_t pair = threadIdx.x % EXTENT, which = pair / (EXTENT / 2);
        const uint32_t channel = first + pair % (EXTENT / 2) * 2;
        // Several sums, each of which waits for itself alone.
        double2 parts[4] = {};
        if (channel < sums.channels) {
            const double* const at = from + which * sums.channels + channel;
#pragma unroll 1
            for (uint32_t row = slice; row < rows; row += TOGETHER * slices) {
                double2 terms[TOGETHER];
#pragma unroll
                for (uint32_t k = 0; k < TOGETHER; ++k) {
                    const uint32_t of = row + k * slices;
                    terms[k] = make_double2(0.0, 0.0);
                    if (of >= rows) continue;
                    terms[k] = __ldcg(reinterpret_cast<const double2*>(at + uint64_t{of} * 2 * sums.channels));
                }
#pragma unroll
                for (uint32_t k = 0; k < TOGETHER; ++k) {
                    parts[k % 4].x += terms[k].x;
                    parts[k % 4].y += terms[k].y;
                }
            }
        }
        const double2 sum = make_double2((parts[0].x + parts[1].x) + (parts[2].x + parts[3].x),
                                         (parts[0].y + parts[1].y) + (parts[2].y + parts[3].y));
        scratch[threadIdx.x] = sum;
    }

    // What slices begin … begin + count have come to, both sums of channel first + i.
    static __device__ __forceinline__ double2 total(const double2* scratch, uint32_t begin, uint32_t count,
                                                    uint32_t i) {
        const double* const of = reinterpret_cast<const double*>(scratch) + begin * 2 * EXTENT + i;
        double2 sum = make_double2(0.0, 0.0);
#pragma unroll 4
        for (uint32_t slice = 0; slice < count; ++slice) {
            sum.x += of[slice * 2 * EXTENT];
            sum.y += of[slice * 2 * EXTENT + EXTENT];
        }
        return sum;
    }
};

__device__ __forceinline__ uint32_t groups_of(const Sums& sums) {
    return sums.group == 1 ? sums.chunks : (sums.chunks + sums.group - 1) / sums.group;
}

// Whether this block, which has left its sums of `chunk` of `segment` for the channels from `first` on, is the one to
// finish these channels: then all groups' sums are there. `tile` is the number of its tile of channels.
template <int THREADS, int EXTENT>
__device__ __forceinline__ bool sums_are_there(const Sums& sums, uint32_t segment, uint32_t chunk, uint32_t first,
                                               uint32_t tile, double2* scratch) {
    using S = Slices<THREADS, EXTENT>;
    const uint32_t groups = groups_of(sums);
    if (sums.group == 1) return last_to_arrive(sums.arrived + tile, sums.segments * groups);
    uint32_t* const arrived = sums.arrived + tile * (1 + sums.segments * groups);
    const uint32_t group = chunk / sums.group, begin = group * sums.group;
    const uint32_t members = min(sums.group, sums.chunks - begin);
    if (!last_to_arrive(arrived + 1 + segment * groups + group, members)) return false;
    S::add(sums, partial_sums(sums, segment, begin), members, first, threadIdx.x / EXTENT, S::SLICES, scratch);
    __syncthreads();
    const uint32_t channel = first + threadIdx.x;
    if (threadIdx.x < EXTENT && channel < sums.channels) {
        const double2 both = S::total(scratch, 0, S::SLICES, threadIdx.x);
        double* const to = sums.groups + (uint64_t{segment} * groups + group) * 2 * sums.channels + channel;
        to[0] = both.x;
        to[sums.channels] = both.y;
    }
    return last_to_arrive(arrived, sums.segments * groups);
}

// Both sums over each segment, of the channels from `first` on, once they are there: all segments' at the same time.
template <int THREADS, int EXTENT>
struct SegmentSums {
    using S = Slices<THREADS, EXTENT>;
    const double2* scratch;
    // Of a segment.
    uint32_t slices;

    __device__ __forceinline__ SegmentSums(const Sums& sums, uint32_t first, double2* scratch)
        : scratch(scratch), slices(S::SLICES >> (sums.segments - 1)) {
        const uint32_t groups = groups_of(sums), all = threadIdx.x / EXTENT, segment = all < slices ? 0 : 1;
        const double* const from = sums.groups + uint64_t{segment} * groups * 2 * sums.channels;
        S::add(sums, from, groups, first, all - segment * slices, slices, scratch);
        __syncthreads();
    }

    // Of channel first + i.
    __device__ __forceinline__ double2 of(uint32_t segment, uint32_t i) const {
        return S::total(scratch, segment * slices, slices, i);
    }
};

// Mean and biased variance from Σx and Σx².
__device__ __forceinline__ double2 moments(const Sums& sums, const double2& both) {
    const double mean = both.x * sums.over_rows, spread = both.y * sums.over_rows - mean * mean;
    // NaN stays NaN.
    return make_double2(mean, spread < 0.0 ? 0.0 : spread);
}

// The sums are Σx and Σx². Called by all threads of each block when it has left its own; the last one writes mean and
// inverse of its EXTENT channels, and moves the running statistics. `scratch` is as Slices has it, and may be read
// until this is called.
template <int THREADS, int EXTENT>
__device__ void finish_statistics(const Sums& sums, uint32_t segment, uint32_t chunk, uint32_t first, uint32_t tile,
                                  double2* scratch) {
    // Pointers come before the others' sums do, not behind them.
    float *const to_mean = sums.arrays->mean, *const to_inverse = sums.arrays->inverse;
    float *const to_running_mean = sums.arrays->running_mean, *const to_running_var = sums.arrays->running_var;
    uint64_t* const to_tracked = sums.arrays->tracked;
    if (!sums_are_there<THREADS, EXTENT>(sums, segment, chunk, first, tile, scratch)) return;
    const bool running = (sums.how & NORM_RUNNING) != 0;
    const uint32_t slice = threadIdx.x / EXTENT, i = threadIdx.x % EXTENT, channel = first + i;
    const bool inside = channel < sums.channels;
    // Other threads than those that write the first segment's statistics. What they need comes with the sums.
    const bool moves = running && inside && slice == Slices<THREADS, EXTENT>::SLICES - 1;
    const bool tracks = running && tile == 0 && threadIdx.x == THREADS - EXTENT;
    float running_mean = 0.0f, running_var = 0.0f;
    uint64_t tracked = 0;
    if (moves) {
        running_mean = to_running_mean[channel];
        running_var = to_running_var[channel];
    }
    if (tracks) tracked = *to_tracked;
    const SegmentSums<THREADS, EXTENT> totals(sums, first, scratch);
    if (inside && slice < sums.segments) {
        const double2 of = moments(sums, totals.of(slice, i));
        to_mean[slice * sums.channels + channel] = static_cast<float>(of.x);
        to_inverse[slice * sums.channels + channel] = static_cast<float>(rsqrt(of.y + BATCH_NORM_EPSILON));
    }
    if (tracks) *to_tracked = tracked + sums.segments;
    if (!moves) return;
    // One value has no unbiased variance; PyTorch refuses it, we keep the biased one.
    const double m = static_cast<double>(sums.rows), unbiased = sums.rows > 1 ? m / (m - 1.0) : 1.0;
    const double keep = 1.0 - BATCH_NORM_MOMENTUM;
    for (uint32_t s = 0; s < sums.segments; ++s) {
        const double2 of = moments(sums, totals.of(s, i));
        const double old_mean = static_cast<double>(running_mean), old_var = static_cast<double>(running_var);
        running_mean = static_cast<float>(keep * old_mean + BATCH_NORM_MOMENTUM * of.x);
        running_var = static_cast<float>(keep * old_var + BATCH_NORM_MOMENTUM * of.y * unbiased);
    }
    to_running_mean[channel] = running_mean;
    to_running_var[channel] = running_var;
}

// Where what comes of Σg and Σg·x̂ goes.
struct GradientArrays {
    float *mean_g, *mean_gx, *weight, *bias;
    uint32_t* not_finite;

    __device__ __forceinline__ explicit GradientArrays(const BatchNormArrays& arrays)
        : mean_g(arrays.mean_g), mean_gx(arrays.mean_gx), weight(arrays.weight_gradient), bias(arrays.bias_gradient),
          not_finite(arrays.not_finite) {}
};

// Writes the means of EXTENT channels from `first` on, and the gradients of weight and bias, once all sums are there.
template <int THREADS, int EXTENT>
__device__ __forceinline__ void write_gradients(const Sums& sums, const GradientArrays& to, uint32_t first,
                                                double2* scratch) {
    const bool by_batch = (sums.how & NORM_BY_BATCH) != 0;
    const uint32_t slice = threadIdx.x / EXTENT, i = threadIdx.x % EXTENT, channel = first + i;
    const SegmentSums<THREADS, EXTENT> totals(sums, first, scratch);
    if (channel >= sums.channels) return;
    if (slice < sums.segments) {
        const double2 both = totals.of(slice, i);
        to.mean_g[slice * sums.channels + channel] = by_batch ? static_cast<float>(both.x * sums.over_rows) : 0.0f;
        to.mean_gx[slice * sums.channels + channel] = by_batch ? static_cast<float>(both.y * sums.over_rows) : 0.0f;
    }
    if ((sums.how & NORM_WEIGHTS) == 0 || slice != Slices<THREADS, EXTENT>::SLICES - 1) return;
    double sum = 0.0, product = 0.0;
    for (uint32_t s = 0; s < sums.segments; ++s) {
        const double2 both = totals.of(s, i);
        sum += both.x;
        product += both.y;
    }
    const float weight = static_cast<float>(product), bias = static_cast<float>(sum);
    to.weight[channel] = weight;
    to.bias[channel] = bias;
    if (to.not_finite != nullptr && (!isfinite(weight) || !isfinite(bias))) *to.not_finite = 1;
}

// The sums are Σg and Σg·x̂. Called by all threads of each block when it has left its own; the last one writes what
// comes of them. `scratch` as in finish_statistics.
template <int THREADS, int EXTENT>
__device__ void finish_gradients(const Sums& sums, uint32_t segment, uint32_t chunk, uint32_t first, uint32_t tile,
                                 double2* scratch) {
    const GradientArrays to(*sums.arrays);
    if (!sums_are_there<THREADS, EXTENT>(sums, segment, chunk, first, tile, scratch)) return;
    write_gradients<THREADS, EXTENT>(sums, to, first, scratch);
}

}  // namespace
