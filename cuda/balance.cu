// What the next step of each network is multiplied by, its rate: 1 is the learning rate as given, 0 leaves the step out.
//
//   decay = 1 − iteration / decay_end                                           (1 where decay_end is 0)
//   accuracy ← accuracy + GAIN·(accuracy of this batch − accuracy)              certainty likewise
//   The discriminator is trained ahead until `ahead_steps` iterations are over and, where that is not 0, accuracy has
//   come to `ahead_accuracy`, or `ahead_most` iterations are over: rate = (decay, 0).
//   From then on, where `adaptive`:
//   advantage ← advantage·STEP where accuracy < low,  advantage/STEP where certainty > high, within 1/MOST … MOST
//   rate = (decay·max(advantage, 1), decay/min(advantage, 1))
//
// Layout: Progress and Metrics (progress.cuh); the ring has this iteration's losses of real and fake images.
// Types: f32; every product is rounded on its own or fused as written, so that the CPU comes to the same bits.
// Launch: one block of 32, of which one thread works. Bound: launch latency.
// Neighbours: behind the discriminator's gan_loss.cu; before adam.cu of both networks.
#include "dependency.cuh"
#include "kernel.cuh"
#include "progress.cuh"

namespace {

// The means are those of about the last 32 steps. The advantage doubles in 45 steps. `backend::cpu::balance` has them too.
constexpr float GAIN = 1.0f / 32.0f, STEP = 1.0f + 1.0f / 64.0f, MOST = 16.0f;

__device__ __forceinline__ float follow(float mean, float real, float fake) {
    return fmaf(GAIN, 0.5f * (real + fake) - mean, mean);
}

}  // namespace

KERNEL(balance_rates, 32,
       (Progress* progress, const Metrics* ring, uint32_t slots, uint64_t decay_end, uint64_t ahead_steps,
        uint64_t ahead_most, float ahead_accuracy, uint32_t adaptive, float low, float high)) {
    await_previous();
    let_next_start();
    if (threadIdx.x != 0) return;
    const uint64_t iteration = progress->iteration;
    const Metrics& entry = ring[ring_slot(&progress->iteration, slots)];
    BalanceState& state = progress->balance;
    state.accuracy = follow(state.accuracy, entry.losses[0][2], entry.losses[1][2]);
    state.certainty = follow(state.certainty, entry.losses[0][3], entry.losses[1][3]);
    float decay = 1.0f;
    if (decay_end != 0) {
        const uint64_t left = iteration < decay_end ? decay_end - iteration : 0;
        decay = static_cast<float>(static_cast<double>(left) / static_cast<double>(decay_end));
    }
    if (state.begun == 0) {
        const bool learnt = ahead_accuracy == 0.0f || state.accuracy >= ahead_accuracy || iteration >= ahead_most;
        state.begun = iteration >= ahead_steps && learnt ? 1 : 0;
    }
    float rates[2] = {decay, state.begun != 0 ? decay : 0.0f};
    if (adaptive != 0 && state.begun != 0) {
        if (state.accuracy < low) {
            state.advantage = fminf(state.advantage * STEP, MOST);
        } else if (state.certainty > high) {
            state.advantage = fmaxf(state.advantage / STEP, 1.0f / MOST);
        }
        rates[0] = decay * fmaxf(state.advantage, 1.0f);
        rates[1] = decay / fminf(state.advantage, 1.0f);
    }
    progress->adam[0].rate = rates[0];
    progress->adam[1].rate = rates[1];
}
