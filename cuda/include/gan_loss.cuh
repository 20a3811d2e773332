// The loss of logits, for the kernels that end with it: formulas in gan_loss.cu.
#pragma once

#include "kernel.cuh"
#include "progress.cuh"
#include "reduce.cuh"
#include "types.cuh"

// Where logits become a loss and gradients: logits and gradients of one segment behind those of the other.
template <typename T>
struct LossOf {
    const T* logits;
    // Of a segment.
    uint32_t n;
    uint32_t stored;
    const float* loss_scale;
    T* gradient;
    Metrics* ring;
    const uint64_t* iteration;
    uint32_t slots;
    uint32_t first;
    // y of the images of the first segment, and of the last, rows of `label_stored`, and how many: 0 where a logit is the first of its row alone.
    const T* labels0;
    const T* labels1;
    uint32_t label_stored;
    uint32_t label_count;
    // By what, and of how many segments the loss is left in the ring.
    uint32_t criterion;
    uint32_t reported;
    // Segments of all blocks.
    uint32_t segments;
    // Where spectral norm leaves it to the loss: what the logits are to be multiplied by, and where c goes (adam.cuh), a
    // place a segment; null else, the latter for penalties too.
    const float* scale;
    float* radial;
};

// Numbers of `Criterion` in src/backend/criterion.rs.
enum : uint32_t {
    CRITERION_BCE = 0,
    CRITERION_HINGE = 1,
    CRITERION_LINEAR = 2,
    CRITERION_RELATIVISTIC = 3,
    CRITERION_SUM = 4,
};

namespace {

// Logit `image` of `segment`, and where its row is.
template <typename T>
__device__ __forceinline__ float logit_of(const LossOf<T>& of, uint32_t segment, uint32_t image) {
    const uint64_t at = (uint64_t{segment} * of.n + image) * of.stored;
    const T* const y = (segment == 0 ? of.labels0 : of.labels1) + uint64_t{image} * of.label_stored;
    float x = to_float(__ldcg(of.logits + at));
    for (uint32_t j = 0; j < of.label_count; ++j) x += to_float(y[j]) * to_float(__ldcg(of.logits + at + 1 + j));
    return x;
}

// Of `segments` at once, at most SEGMENTS (one or two), from `begin` on, each with its target. Called by all THREADS
// threads of a block. Logits may have been written by other blocks of the same launch.
template <int THREADS, int SEGMENTS, typename T>
__device__ void gan_loss(const LossOf<T>& of, uint32_t begin, uint32_t segments, const float (&targets)[SEGMENTS]) {
    static_assert(SEGMENTS == 1 || SEGMENTS == 2);
    const uint32_t n = of.n, stored = of.stored;
    const uint32_t criterion = of.criterion;
    // A penalty takes the gradient twice.
    const float factor = criterion == CRITERION_SUM ? sqrtf(*of.loss_scale) : *of.loss_scale / static_cast<float>(n);
    const float scale = of.scale != nullptr ? *of.scale : 1.0f;
    double radial[SEGMENTS] = {};
    // Nobody waits for it behind the sums.
    const uint64_t iteration = of.iteration != nullptr ? *of.iteration : 0;
    // Of each: the loss, the probability, how many are right, and how many sure.
    double sums[4 * SEGMENTS] = {};
    for (uint32_t i = threadIdx.x; i < segments * n; i += THREADS) {
        const uint32_t which = SEGMENTS == 2 && i >= n ? 1 : 0, segment = begin + which, image = i - which * n;
        const float target = which == 0 ? targets[0] : targets[SEGMENTS - 1];
        const T* const labels = segment == 0 ? of.labels0 : of.labels1;
        const uint64_t at = (uint64_t{segment} * n + image) * stored;
        const T* const y = labels + uint64_t{image} * of.label_stored;
        float x = logit_of(of, segment, image);
        if (criterion == CRITERION_RELATIVISTIC) x -= logit_of(of, 1 - segment, image);
        x *= scale;
        const float e = expf(-fabsf(x));
        // Not fmaxf, which would hide a NaN.
        const float positive = x < 0.0f ? 0.0f : x;
        // e / (1 + e) has no cancellation on the small side.
        const float sigmoid = x >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
        float loss = positive - x * target + log1pf(e), slope = sigmoid - target;
        if (criterion == CRITERION_HINGE || criterion == CRITERION_LINEAR) {
            const float side = target > 0.5f ? 1.0f : -1.0f, margin = 1.0f - side * x;
            const bool beyond = criterion == CRITERION_HINGE && margin <= 0.0f;
            loss = criterion == CRITERION_LINEAR ? -side * x : beyond ? 0.0f : margin;
            slope = beyond ? 0.0f : -side;
        } else if (criterion == CRITERION_SUM) {
            loss = target * x;
            slope = target;
        }
        const double terms[4] = {static_cast<double>(loss), static_cast<double>(sigmoid),
                                 (x > 0.0f) == (target > 0.5f) ? 1.0 : 0.0,
                                 (target > 0.5f ? x > SURE : x < -SURE) ? 1.0 : 0.0};
#pragma unroll
        for (uint32_t k = 0; k < 4 * SEGMENTS; ++k) sums[k] += k / 4 == which ? terms[k % 4] : 0.0;
        const float gradient = slope * factor * scale;
        of.gradient[at] = from_float<T>(gradient);
        for (uint32_t j = 0; j < of.label_count; ++j) {
            of.gradient[at + 1 + j] = from_float<T>(gradient * to_float(y[j]));
        }
        if (of.radial != nullptr) {
            double c = 0.0;
            // As rounded as what the gradients of the weights are made of: then c is theirs exactly.
            for (uint32_t j = 0; j <= of.label_count; ++j) {
                c += static_cast<double>(to_float(of.gradient[at + j])) *
                     static_cast<double>(to_float(__ldcg(of.logits + at + j)));
            }
#pragma unroll
            for (uint32_t k = 0; k < SEGMENTS; ++k) radial[k] += k == which ? c : 0.0;
        }
        for (uint32_t pad = 1 + of.label_count; pad < stored; ++pad) of.gradient[at + pad] = from_float<T>(0.0f);
    }
    if (of.radial != nullptr) {
        const double c = block_sums<THREADS>(radial);
        const uint32_t place = begin + threadIdx.x;
        // One segment alone is all there is.
        if (threadIdx.x < segments) of.radial[place] = static_cast<float>(c);
        else if (place >= of.segments && place < 2) of.radial[place] = 0.0f;
    }
    const double sum = block_sums<THREADS>(sums);
    if (threadIdx.x >= 4 * segments) return;
    const uint32_t segment = begin + threadIdx.x / 4;
    if (segment >= of.reported) return;
    Metrics& entry = of.ring[of.iteration != nullptr ? ring_place(iteration, of.slots) : 0];
    entry.losses[of.first + segment][threadIdx.x % 4] = static_cast<float>(sum / n);
}

}  // namespace
