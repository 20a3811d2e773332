// What an iteration that is replayed as a graph reads and leaves on the device: its number, Adam's state, and a ring
// of results. The host (src/backend/cuda/progress.rs) reads these structs as they lie; it writes them only while
// nothing runs.
#pragma once

#include <cstdint>

#include "adam.cuh"

// The logit beyond which the discriminator is sure, σ(4) = 0.982: `SURE` of src/backend/metrics.rs.
constexpr float SURE = 4.0f;

// What the controller of balance.cu remembers: `BalanceState` of the host.
struct BalanceState {
    // Moving means of the discriminator's accuracy, and of the share of images of which it is sure and right.
    float accuracy;
    float certainty;
    // What the discriminator's learning rate is raised by, relative to the generator's.
    float advantage;
    // Not 0 once the discriminator has been trained ahead.
    uint32_t begun;
};

// Networks: 0 the discriminator, 1 the generator. `Block` of the host.
struct Progress {
    // Iterations that are over; also the number of the one that runs.
    uint64_t iteration;
    AdamState adam[2];
    BalanceState balance;
};

// One iteration's entry in the ring, at iteration % slots: `Entry` of the host.
struct Metrics {
    uint64_t iteration;
    // Of real and fake images, of the generator, and of held-out and training images: loss, probability, accuracy,
    // certainty. Behind them the distance of generated images from what they should be, and the
    // squared norms of the discriminator's gradients at real and fake images, each as a loss.
    float losses[8][4];
    // Of each network: taken, skipped, left out.
    uint64_t steps[2][3];
    // Of each network, after its step.
    float loss_scale[2];
    // Of each network: the L2 norm of its gradient, the loss scale divided out.
    float gradient_norm[2];
    // Of each network: what the learning rate of its last step was multiplied by.
    float rate[2];
};

namespace {

// An iteration's place in a ring of `slots`.
__device__ __forceinline__ uint32_t ring_place(uint64_t iteration, uint32_t slots) {
    return static_cast<uint32_t>(iteration % slots);
}

// That of the running one; 0 without an iteration.
__device__ __forceinline__ uint32_t ring_slot(const uint64_t* iteration, uint32_t slots) {
    return iteration != nullptr ? ring_place(*iteration, slots) : 0;
}

}  // namespace
