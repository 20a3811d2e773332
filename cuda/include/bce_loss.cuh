// Binary cross entropy of one segment on logits, for the kernels that end with it: formulas in bce_loss.cu.
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
};

namespace {

// Called by all THREADS threads of a block. Logits may have been written by other blocks of the same launch.
template <int THREADS, typename T>
__device__ void bce_loss(const LossOf<T>& of, uint32_t segment, float target) {
    const uint32_t n = of.n, stored = of.stored;
    const float factor = *of.loss_scale / static_cast<float>(n);
    const T* const labels = segment == 0 ? of.labels0 : of.labels1;
    double loss = 0.0, probability = 0.0;
    int right = 0, sure = 0;
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        const uint64_t at = (uint64_t{segment} * n + i) * stored;
        const T* const y = labels + uint64_t{i} * of.label_stored;
        float x = to_float(__ldcg(of.logits + at));
        for (uint32_t j = 0; j < of.label_count; ++j) x += to_float(y[j]) * to_float(__ldcg(of.logits + at + 1 + j));
        const float e = expf(-fabsf(x));
        // Not fmaxf, which would hide a NaN.
        const float positive = x < 0.0f ? 0.0f : x;
        loss += static_cast<double>(positive - x * target + log1pf(e));
        // e / (1 + e) has no cancellation on the small side.
        const float sigmoid = x >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
        probability += static_cast<double>(sigmoid);
        right += (x > 0.0f) == (target > 0.5f) ? 1 : 0;
        sure += (target > 0.5f ? x > SURE : x < -SURE) ? 1 : 0;
        const float gradient = (sigmoid - target) * factor;
        of.gradient[at] = from_float<T>(gradient);
        for (uint32_t j = 0; j < of.label_count; ++j) {
            of.gradient[at + 1 + j] = from_float<T>(gradient * to_float(y[j]));
        }
        for (uint32_t pad = 1 + of.label_count; pad < stored; ++pad) of.gradient[at + pad] = from_float<T>(0.0f);
    }
    loss = block_sum<THREADS>(loss);
    probability = block_sum<THREADS>(probability);
    right = block_sum<THREADS>(right);
    sure = block_sum<THREADS>(sure);
    if (threadIdx.x == 0) {
        float* const losses = of.ring[ring_slot(of.iteration, of.slots)].losses[of.first + segment];
        losses[0] = static_cast<float>(loss / n);
        losses[1] = static_cast<float>(probability / n);
        losses[2] = static_cast<float>(static_cast<double>(right) / n);
        losses[3] = static_cast<float>(static_cast<double>(sure) / n);
    }
}

}  // namespace
