// What an iteration that is replayed as a graph reads and leaves on the device: its number, Adam's state, and a ring
// of results. The host reads these structs as they lie; it writes them only while nothing runs.
#pragma once

#include <cstdint>

// Of one network.
struct AdamState {
    // Steps that moved the weights, and those left out.
    uint64_t taken;
    uint64_t skipped;
    // What gradients are multiplied by; a power of two.
    float loss_scale;
    // Steps since the loss scale last moved.
    uint32_t steady;
    uint32_t not_finite;
    // 1 − β₁ᵗ and √(1 − β₂ᵗ) for t = taken + 1.
    float correction1;
    float correction2;
    uint32_t unused;
};
static_assert(sizeof(AdamState) == 40, "the host has the same layout");

// Networks: 0 the discriminator, 1 the generator.
struct Progress {
    // Iterations that are over; also the number of the one that runs.
    uint64_t iteration;
    AdamState adam[2];
};
static_assert(sizeof(Progress) == 88, "the host has the same layout");

// One iteration's entry in the ring, at iteration % slots.
struct Metrics {
    uint64_t iteration;
    // Of real and fake images and of the generator: loss, probability, accuracy.
    float losses[3][3];
    uint32_t unused;
    // Of each network: taken, skipped.
    uint64_t steps[2][2];
    // Of each network, after its step.
    float loss_scale[2];
};
static_assert(sizeof(Metrics) == 88, "the host has the same layout");

namespace {

// The running iteration's place in a ring of `slots`; 0 without an iteration.
__device__ __forceinline__ uint32_t ring_slot(const uint64_t* iteration, uint32_t slots) {
    return iteration != nullptr ? static_cast<uint32_t>(*iteration % slots) : 0;
}

}  // namespace
