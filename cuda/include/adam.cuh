// What Adam reads and keeps on the device, as the host lays it out too.
#pragma once

#include <cstdint>

// Where the loss scale stays: `LossScale::LEAST` and `MOST` of src/backend/metrics.rs. Powers of two, whose inverses are
// exact too.
constexpr float LEAST_LOSS_SCALE = 1.0f / 16777216.0f, MOST_LOSS_SCALE = 16777216.0f;

// What the gradient along the weights is the sum of: the loss's, a segment each (gan_loss.cuh), and places that others
// may write, 0 where nobody does.
constexpr uint32_t RADIAL_TERMS = 4;

// One tensor of a network, by pointers: `Entry` of src/backend/cuda/ops/adam.rs.
struct AdamTensor {
    // Only of a tensor with singular vectors is it written.
    float* gradient;
    float* weight;
    float* m;
    float* v;
    // Null where the network keeps none.
    float* average;
    // The weight as the convolutions read it, times `factor`; null in f32.
    void* cast;
    // Of a weight under spectral norm: u [rows], v [columns], σ, and RADIAL_TERMS numbers whose sum c is the gradient
    // along each weight of the network, times the loss scale: the gradient lacks −c/σ·u·vᵀ. Null, all or none.
    const float* left;
    const float* right;
    const float* sigma;
    const float* radial;
    uint64_t count;
    uint32_t first_block;
    // Of rows of the weight, a multiple of 4; where there are singular vectors.
    uint32_t columns;
    // A power of two; 1 where there are no singular vectors.
    float factor;
    uint32_t unused;
};

// What Adam keeps of one network: `AdamState` of src/backend/cuda/progress.rs.
struct AdamState {
    // Steps that moved the weights, those skipped since a gradient was not finite, and those left out since `rate` was 0.
    uint64_t taken;
    uint64_t skipped;
    uint64_t left_out;
    // What gradients are multiplied by; a power of two.
    float loss_scale;
    // Steps since the loss scale last moved.
    uint32_t steady;
    // 1 − β₁ᵗ and √(1 − β₂ᵗ) for t = taken + 1.
    float correction1;
    float correction2;
    // What the learning rate is multiplied by (balance.cu); 0 leaves the step out.
    float rate;
    uint32_t unused;
};
