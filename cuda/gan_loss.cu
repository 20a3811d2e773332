// Binary cross entropy on logits, and what may take its place: loss, its gradient, D(x) and accuracy in one pass.
//
// By `criterion` (src/backend/criterion.rs), for targets y; s is 1 where y > 1/2, else −1:
//   hinge          loss = 1/n Σ max(0, 1 − s·x)          gradient = loss_scale · (−s where 1 − s·x > 0) / n
//   linear         loss = 1/n Σ −s·x                     gradient = −loss_scale · s / n
//   relativistic   cross entropy of x − x', x' the other segment's logit at the same place
//   sum            gradient = √loss_scale · y, which is taken twice by what follows; nothing is left in the ring
//   cross entropy:
//   loss = 1/n Σ max(x, 0) − x·y + log(1 + e^−|x|)     probability = 1/n Σ σ(x)
//   accuracy = 1/n |{x > 0 ⇔ y > 1/2}|                 certainty = 1/n |{x > SURE if y > 1/2, else x < −SURE}|
//   gradient = loss_scale · (σ(x) − y) / n
//
// One block a segment: segment s holds the logits s·n … s·n + n − 1 and has a target of its own, so that real and
// fake images of one batch take one launch.
// With `label_count` labels y an image, x = l₀ + Σ yⱼ·lⱼ, the row's outputs l, and ∂l₀ = gradient, ∂lⱼ = gradient·yⱼ.
// Under spectral norm the logits are `scale` times what is there (spectral_norm.cu), ∂l is that of what is there, and
// radial[s] = Σ l·∂l of segment s, which Adam takes (adam.cu); radial[1] = 0 where there is one segment. Else both are null.
// Layout: logit i at logits[i·stored], its gradient likewise; the places behind it and those of labels are zero in
// gradient. y of segment s in rows of `label_stored` from labels_s on; null where there are none.
// ring[iteration % slots].losses[first + s], s < reported, = (loss, probability, accuracy, certainty); nothing else of the ring is written.
// `loss_scale` (1 but for f16) and `iteration` are read from the device.
// Types: T in memory, f32 terms, f64 sums in a fixed order. Launch: `segments` blocks of THREADS.
// Bound: launch latency (256 logits).
// Neighbours: behind the discriminator's last convolution, before that one's backward pass.
#include "gan_loss.cuh"
#include "dependency.cuh"
#include "kernel.cuh"

namespace {

constexpr int THREADS = 256;

}  // namespace

#define GAN_LOSS(T)                                                                                                \
    KERNEL_OCCUPANCY(gan_loss_nhwc_##T, THREADS, 2,                                                                \
           (const T* logits, uint32_t n, uint32_t stored, float target0, float target1, const float* loss_scale,   \
            T* gradient, Metrics* ring, const uint64_t* iteration, uint32_t slots, uint32_t first,                 \
            const T* labels0, const T* labels1, uint32_t label_stored, uint32_t label_count, uint32_t criterion,   \
            uint32_t reported, const float* scale, float* radial)) {                                               \
        await_previous();                                                                                          \
        let_next_start();                                                                                          \
        const LossOf<T> of{logits, n, stored, loss_scale, gradient, ring, iteration, slots, first,                 \
                           labels0, labels1, label_stored, label_count, criterion, reported,                       \
                           gridDim.x, scale, radial};                                                              \
        const float target[] = {blockIdx.x == 0 ? target0 : target1};                                              \
        gan_loss<THREADS>(of, blockIdx.x, 1, target);                                                              \
    }
GAN_LOSS(f32)
GAN_LOSS(f16)
GAN_LOSS(bf16)
