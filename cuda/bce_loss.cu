// Binary cross entropy on logits: loss, its gradient, D(x) and accuracy in one pass.
//
//   loss = 1/n Σ max(x, 0) − x·y + log(1 + e^−|x|)     probability = 1/n Σ σ(x)
//   accuracy = 1/n |{x > 0 ⇔ y > 1/2}|                 certainty = 1/n |{x > SURE if y > 1/2, else x < −SURE}|
//   gradient = loss_scale · (σ(x) − y) / n
//
// One block a segment: segment s holds the logits s·n … s·n + n − 1 and has a target of its own, so that real and
// fake images of one batch take one launch.
// Layout: logit i at logits[i·stored], its gradient likewise; the `stored` − 1 places behind it are zero in gradient.
// ring[iteration % slots].losses[first + s] = (loss, probability, accuracy, certainty); nothing else of the ring is written.
// `loss_scale` (1 but for f16) and `iteration` are read from the device.
// Types: T in memory, f32 terms, f64 sums in a fixed order. Launch: `segments` blocks of THREADS.
// Bound: launch latency (256 logits).
// Neighbours: behind the discriminator's last convolution, before that one's backward pass.
#include "kernel.cuh"
#include "progress.cuh"
#include "reduce.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

template <typename T>
__device__ void bce_loss(const T* logits, uint32_t n, uint32_t stored, float target0, float target1,
                         const float* loss_scale, T* gradient, Metrics* ring, const uint64_t* iteration,
                         uint32_t slots, uint32_t first) {
    const uint32_t segment = blockIdx.x;
    const float target = segment == 0 ? target0 : target1;
    const float factor = *loss_scale / static_cast<float>(n);
    double loss = 0.0, probability = 0.0;
    int right = 0, sure = 0;
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        const uint64_t at = (uint64_t{segment} * n + i) * stored;
        const float x = to_float(logits[at]);
        const float e = expf(-fabsf(x));
        // Not fmaxf, which would hide a NaN.
        const float positive = x < 0.0f ? 0.0f : x;
        loss += static_cast<double>(positive - x * target + log1pf(e));
        // e / (1 + e) has no cancellation on the small side.
        const float sigmoid = x >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
        probability += static_cast<double>(sigmoid);
        right += (x > 0.0f) == (target > 0.5f) ? 1 : 0;
        sure += (target > 0.5f ? x > SURE : x < -SURE) ? 1 : 0;
        gradient[at] = from_float<T>((sigmoid - target) * factor);
        for (uint32_t pad = 1; pad < stored; ++pad) gradient[at + pad] = from_float<T>(0.0f);
    }
    loss = block_sum<THREADS>(loss);
    probability = block_sum<THREADS>(probability);
    right = block_sum<THREADS>(right);
    sure = block_sum<THREADS>(sure);
    if (threadIdx.x == 0) {
        float* const losses = ring[ring_slot(iteration, slots)].losses[first + segment];
        losses[0] = static_cast<float>(loss / n);
        losses[1] = static_cast<float>(probability / n);
        losses[2] = static_cast<float>(static_cast<double>(right) / n);
        losses[3] = static_cast<float>(static_cast<double>(sure) / n);
    }
}

}  // namespace

#define BCE_LOSS(T)                                                                                                \
    KERNEL(bce_loss_nhwc_##T, THREADS,                                                                             \
           (const T* logits, uint32_t n, uint32_t stored, float target0, float target1, const float* loss_scale,   \
            T* gradient, Metrics* ring, const uint64_t* iteration, uint32_t slots, uint32_t first)) {              \
        bce_loss(logits, n, stored, target0, target1, loss_scale, gradient, ring, iteration, slots, first);        \
    }
BCE_LOSS(f32)
BCE_LOSS(f16)
BCE_LOSS(bf16)
