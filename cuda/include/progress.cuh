// What an iteration that is replayed as a graph reads and leaves on the device: its number, Adam's state, and a ring
// of results. The host (src/backend/cuda/progress.rs) reads these structs as they lie; it writes them only while
// nothing runs.
#pragma once

#include <cstdint>

#include "adam.cuh"

// Networks: 0 the discriminator, 1 the generator. `Block` of the host.
struct Progress {
    // Iterations that are over; also the number of the one that runs.
    uint64_t iteration;
    AdamState adam[2];
};

// One iteration's entry in the ring, at iteration % slots: `Entry` of the host.
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

namespace {

// The running iteration's place in a ring of `slots`; 0 without an iteration.
__device__ __forceinline__ uint32_t ring_slot(const uint64_t* iteration, uint32_t slots) {
    return iteration != nullptr ? static_cast<uint32_t>(*iteration % slots) : 0;
}

}  // namespace
