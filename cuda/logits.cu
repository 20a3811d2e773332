// The discriminator's last layer: a 4×4 → 1×1 convolution with one output channel, with the loss behind it, and its
// gradients, both through the batch norm and activation before it.
//
//   forward    y = f(γx̂ + β), rounded to T   logit[n] = Σ_e y[n][e]·w[e]   then the loss and its gradient: gan_loss.cu
//   backward   g[n][e] = dl[n]·w[e]·f'(γx̂ + β)   Σg and Σg·x̂ for batch norm   dw[e] = Σ_n dl[n]·y[n][e]
//
// e runs over the 16·c elements of an image; y is never in memory. Where `arrays` (of batch norm) is null, x is y, and
// g = dl·w. g is what batch norm's own backward_apply takes, rounded to T, and so are the values that are summed.
//
// Layout: x, g [segments][n][4][4][c] (NHWC), c a multiple of VECTOR<T>; w [stored][4][4][c], dw likewise in f32, of
// which only the first is not zero; logits, dl [segments·n][stored], the first of each the logit, the others zero in
// `logits` and the loss's `gradient`, unread in `dl`.
// Types: T maps, f32 everything else; f32 sums in a thread and a block, and of dw over blocks; f64 sums of the loss
// and, over blocks, of g and g·x̂; all in a fixed order. The counters at `arrived` are 0 between launches.
// Launch:
//   logits_loss: segments·n blocks of THREADS, one an image; the last to arrive does the loss. Without `gradient` there
//     is none, and one segment of all images does.
//   logits_backward: grid (ceil(c / (4·VECTOR<T>)), chunks, segments) of THREADS, a thread for each pixel of
//     4·VECTOR<T> channels of every fourth image; chunks = ceil(n / images). One arrival for all sums, which the last
//     block of a tile of channels adds up.
// Bound: memory, sizeof(T) bytes an element forward, 2·sizeof(T) backward: the latency of the sums over blocks behind
// it, three trips to L2.
// Neighbours: behind the convolution before, whose epilogue sums for batch norm; before batch norm's backward_apply.
#include "activation.cuh"
#include "arrival.cuh"
#include "batch_norm.cuh"
#include "gan_loss.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "reduce.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;
// Of an image, 4×4.
constexpr int PIXELS = 16;
// Of a block that goes backward: vectors of channels side by side, and images.
constexpr int LANES = 4, IMAGES = THREADS / (PIXELS * LANES);
// Images that a thread has under way, and partial sums of four weights.
constexpr int IMAGES_TOGETHER = 4, PARTIAL_TOGETHER = 8;

// Batch norm of VECTOR<T> channels.
template <typename T>
struct Channels {
    float mean[VECTOR<T>], inverse[VECTOR<T>], weight[VECTOR<T>], bias[VECTOR<T>];

    template <int ACTIVATION>
    __device__ __forceinline__ float activated(float x, int i) const {
        return activate(ACTIVATION, (x - mean[i]) * inverse[i] * weight[i] + bias[i]);
    }
};

// Where they are: read before anything that takes longer, so that they are there when their turn comes.
struct ChannelArrays {
    const float *mean = nullptr, *inverse = nullptr, *weight = nullptr, *bias = nullptr;

    __device__ __forceinline__ explicit ChannelArrays(const BatchNormArrays* norm) {
        if (norm == nullptr) return;
        mean = norm->mean;
        inverse = norm->inverse;
        weight = norm->weight;
        bias = norm->bias;
    }

    template <typename T>
    __device__ __forceinline__ void load(uint32_t segment, uint32_t c, uint32_t channel, Channels<T>& to) const {
        four(mean + segment * c + channel, to.mean);
        four(inverse + segment * c + channel, to.inverse);
        four(weight + channel, to.weight);
        four(bias + channel, to.bias);
    }

private:
    template <int V>
    static __device__ __forceinline__ void four(const float* from, float (&to)[V]) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const float4 v = *reinterpret_cast<const float4*>(from + i);
            to[i] = v.x;
            to[i + 1] = v.y;
            to[i + 2] = v.z;
            to[i + 3] = v.w;
        }
    }
};

// The logit of the block's image, in every thread. A thread has one vector of channels at a time, of all or some
// pixels.
template <typename T, bool NORMED>
__device__ __forceinline__ float logit(const T* image, const BatchNormArrays* arrays, int activation, const T* w,
                                       uint32_t c, uint32_t segment) {
    // As many pixels together as a thread has at 512 channels.
    constexpr int V = VECTOR<T>, TOGETHER = sizeof(T) == 4 ? 8 : 4;
    const uint32_t vectors = c / V, lanes = min(vectors, uint32_t{THREADS});
    const uint32_t pixel_lanes = THREADS / lanes, first = threadIdx.x / lanes;
    const ChannelArrays from(NORMED ? arrays : nullptr);
    float sum = 0.0f;
    for (uint32_t vector = threadIdx.x % lanes; vector < vectors && first < pixel_lanes; vector += lanes) {
        const uint32_t channel = vector * V;
        uint4 of_image[TOGETHER], of_weights[TOGETHER];
        const auto load = [&](uint32_t pixel) {
#pragma unroll
            for (int k = 0; k < TOGETHER; ++k) {
                const uint32_t at = (pixel + k * pixel_lanes) * c + channel;
                if (pixel + k * pixel_lanes >= PIXELS) continue;
                of_image[k] = load_words(image + at);
                of_weights[k] = load_words(w + at);
            }
        };
        load(first);
        Channels<T> norm;
        if constexpr (NORMED) from.load(segment, c, channel, norm);
        with_activation(NORMED ? activation : ACTIVATION_none, [&](auto of) {
#pragma unroll 1
            for (uint32_t pixel = first; pixel < PIXELS;) {
#pragma unroll
                for (int k = 0; k < TOGETHER; ++k) {
                    if (pixel + k * pixel_lanes >= PIXELS) continue;
                    float x[V], weight[V];
                    unpack<T>(of_image[k], x);
                    unpack<T>(of_weights[k], weight);
#pragma unroll
                    for (int i = 0; i < V; ++i) {
                        float y = x[i];
                        if constexpr (NORMED) {
                            y = to_float(from_float<T>(norm.template activated<decltype(of)::number>(x[i], i)));
                        }
                        sum += y * weight[i];
                    }
                }
                pixel += TOGETHER * pixel_lanes;
                load(pixel);
            }
        });
    }
    return block_sum<THREADS>(sum);
}

template <typename T>
__device__ __forceinline__ void logits_loss(const T* x, const BatchNormArrays* arrays, int activation, const T* w,
                                            T* logits, uint32_t c, uint32_t segments, uint32_t* arrived,
                                            const LossOf<T>& of, float target0, float target1) {
    const uint32_t segment = blockIdx.x / of.n;
    const T* const image = x + uint64_t{blockIdx.x} * PIXELS * c;
    const float sum = arrays != nullptr ? logit<T, true>(image, arrays, activation, w, c, segment)
                                        : logit<T, false>(image, arrays, activation, w, c, segment);
    for (uint32_t i = threadIdx.x; i < of.stored; i += THREADS) {
        logits[uint64_t{blockIdx.x} * of.stored + i] = from_float<T>(i == 0 ? sum : 0.0f);
    }
    if (of.gradient == nullptr) return;
    if (!last_to_arrive(arrived, gridDim.x)) return;
    const float targets[] = {target0, target1};
    gan_loss<THREADS>(of, 0, segments, targets);
}

// Where the gradient of the weights goes and what it takes, by pointers; `to` is null where it is not wanted.
struct WeightGradient {
    float* to;
    // [segments·chunks][16·c].
    float* partial;
    // [tiles of channels], where there is no batch norm, whose sums are counted for both.
    uint32_t* arrived;
    uint32_t* not_finite;
};

// Four neighbouring elements of the weights in a block's tile of channels, QUADS in all; the threads are SLICES times
// as many.
template <typename T>
struct Quad {
    static constexpr int V = VECTOR<T>, QUADS = PIXELS * LANES * V / 4, SLICES = THREADS / QUADS;
    static_assert(THREADS % QUADS == 0);
    // The vector in the tile, and the first of the four in it.
    uint32_t vector, in_vector;
    // Of the weights.
    uint32_t element;
    bool inside;

    __device__ __forceinline__ explicit Quad(uint32_t c) {
        const uint32_t quad = threadIdx.x % QUADS;
        vector = quad / (V / 4);
        in_vector = quad % (V / 4) * 4;
        const uint32_t channel = (blockIdx.x * LANES + vector % LANES) * V + in_vector;
        element = vector / LANES * c + channel;
        inside = channel < c;
    }

    __device__ __forceinline__ uint32_t slice() const { return threadIdx.x / QUADS; }
};

__device__ __forceinline__ void add(float4& to, const float4& term) {
    to.x += term.x;
    to.y += term.y;
    to.z += term.z;
    to.w += term.w;
}

// Leaves the block's sums over its images, from those of its threads in `products`, [VECTOR<T>][THREADS].
template <typename T>
__device__ __forceinline__ void leave_weights(const WeightGradient& weights, const Quad<T>& quad, const float* products,
                                              uint32_t c) {
    if (quad.slice() != 0 || !quad.inside) return;
    const float* const from = products + quad.in_vector * THREADS + quad.vector;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int image = 0; image < THREADS; image += THREADS / IMAGES) {
        add(sum, make_float4(from[image], from[THREADS + image], from[2 * THREADS + image], from[3 * THREADS + image]));
    }
    const uint32_t chunk = blockIdx.z * gridDim.y + blockIdx.y;
    *reinterpret_cast<float4*>(weights.partial + uint64_t{chunk} * PIXELS * c + quad.element) = sum;
}

// This thread's share of the chunks' sums, begun with `load` and added up with `add_up`.
template <typename T>
struct PartialWeights {
    float4 terms[PARTIAL_TOGETHER];

    __device__ __forceinline__ void load(const WeightGradient& weights, const Quad<T>& quad, uint32_t chunk,
                                         uint32_t chunks, uint32_t c) {
#pragma unroll
        for (uint32_t k = 0; k < PARTIAL_TOGETHER; ++k) {
            const uint32_t of = chunk + k * Quad<T>::SLICES;
            terms[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (of >= chunks || !quad.inside) continue;
            const float* const from = weights.partial + uint64_t{of} * PIXELS * c + quad.element;
            terms[k] = __ldcg(reinterpret_cast<const float4*>(from));
        }
    }

    __device__ __forceinline__ float4 add_up(const WeightGradient& weights, const Quad<T>& quad, uint32_t chunks,
                                             uint32_t c) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        uint32_t chunk = quad.slice();
        for (;;) {
#pragma unroll
            for (uint32_t k = 0; k < PARTIAL_TOGETHER; ++k) add(sum, terms[k]);
            chunk += PARTIAL_TOGETHER * Quad<T>::SLICES;
            if (chunk >= chunks) return sum;
            load(weights, quad, chunk, chunks, c);
        }
    }
};

// Writes the gradient, from the slices' sums by way of `shared`, 16 bytes a thread.
template <typename T>
__device__ __forceinline__ void finish_weights(const WeightGradient& weights, const Quad<T>& quad, const float4& sum,
                                               float4* shared, uint32_t c, uint32_t stored) {
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (quad.slice() != 0 || !quad.inside) return;
    float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int slice = 0; slice < Quad<T>::SLICES; ++slice) add(total, shared[slice * Quad<T>::QUADS + threadIdx.x]);
    *reinterpret_cast<float4*>(weights.to + quad.element) = total;
    const bool finite = isfinite(total.x) && isfinite(total.y) && isfinite(total.z) && isfinite(total.w);
    if (!finite) *weights.not_finite = 1;
    for (uint32_t k = 1; k < stored; ++k) {
        float* const to = weights.to + uint64_t{k} * PIXELS * c + quad.element;
        *reinterpret_cast<float4*>(to) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
}

template <typename T, bool NORMED>
__device__ __forceinline__ void logits_backward(const T* dl, const T* w, const T* x, T* g, int activation, uint32_t c,
                                                uint32_t n, uint32_t images, uint32_t stored, const Sums& sums,
                                                const WeightGradient& weights, float* shared) {
    constexpr int V = VECTOR<T>, EXTENT = LANES * V;
    float* const products = shared + 2 * V * THREADS;
    const uint32_t t = threadIdx.x, channel = (blockIdx.x * LANES + t % LANES) * V;
    const uint32_t element = t / LANES % PIXELS * c + channel;
    const uint32_t begin = blockIdx.y * images, end = min(n, begin + images);
    float first[V] = {}, second[V] = {}, product[V] = {};
    // 1/√(σ² + ε) of the channel whose sums this thread leaves.
    float leaves = 0.0f;
    if (channel < c) {
        uint4 words[IMAGES_TOGETHER];
        T d[IMAGES_TOGETHER];
        const auto load = [&](uint32_t image) {
#pragma unroll
            for (int k = 0; k < IMAGES_TOGETHER; ++k) {
                if (image + k * IMAGES >= end) continue;
                const uint64_t number = uint64_t{blockIdx.z} * n + image + k * IMAGES;
                words[k] = load_words(x + number * PIXELS * c + element);
                d[k] = dl[number * stored];
            }
        };
        uint32_t image = begin + t / (PIXELS * LANES);
        load(image);
        const uint4 weight_words = load_words(w + element);
        const ChannelArrays from(NORMED ? sums.arrays : nullptr);
        Channels<T> norm;
        float weight[V], scale[V];
        if constexpr (NORMED) {
            from.load(blockIdx.z, c, channel, norm);
            leaves = from.inverse[blockIdx.z * c + channel + t / 32 % V];
#pragma unroll
            for (int i = 0; i < V; ++i) scale[i] = norm.inverse[i] * norm.weight[i];
        }
        unpack<T>(weight_words, weight);
        with_activation(NORMED ? activation : ACTIVATION_none, [&](auto of) {
#pragma unroll 1
            while (image < end) {
#pragma unroll
                for (int k = 0; k < IMAGES_TOGETHER; ++k) {
                    if (image + k * IMAGES >= end) continue;
                    const uint64_t number = uint64_t{blockIdx.z} * n + image + k * IMAGES;
                    const float factor = to_float(d[k]);
                    float v[V], values[V];
                    unpack<T>(words[k], v);
#pragma unroll
                    for (int i = 0; i < V; ++i) {
                        values[i] = factor * weight[i];
                        float y = v[i];
                        if constexpr (NORMED) {
                            const float centred = v[i] - norm.mean[i];
                            y = activate(decltype(of)::number, centred * scale[i] + norm.bias[i]);
                            values[i] *= activation_derivative(decltype(of)::number, y);
                            const float rounded = to_float(from_float<T>(values[i]));
                            first[i] += rounded;
                            // x̂ but for 1/√(σ² + ε).
                            second[i] += rounded * centred;
                            y = to_float(from_float<T>(y));
                        }
                        product[i] += factor * y;
                    }
                    store_vector(g + number * PIXELS * c + element, values);
                }
                image += IMAGES_TOGETHER * IMAGES;
                load(image);
            }
        });
    }
    const bool weighed = weights.to != nullptr;
    if (weighed) {
#pragma unroll
        for (int i = 0; i < V; ++i) products[i * THREADS + t] = product[i];
    }
    if constexpr (NORMED) {
        float both[2];
        if (sum_over_rows<THREADS, LANES>(first, second, shared, both) && channel < c) {
            double* const to = partial_sums(sums, blockIdx.z, blockIdx.y) + channel + t / 32;
            to[0] = static_cast<double>(both[0]);
            to[sums.channels] = static_cast<double>(both[1]) * static_cast<double>(leaves);
        }
    } else {
        if (!weighed) return;
        __syncthreads();
    }
    const Quad<T> quad(c);
    if (weighed) leave_weights(weights, quad, products, c);
    const uint32_t chunks = gridDim.y * gridDim.z;
    PartialWeights<T> partial;
    if constexpr (NORMED) {
        const GradientArrays to(*sums.arrays);
        double2* const scratch = reinterpret_cast<double2*>(shared);
        const uint32_t tile = blockIdx.x;
        if (!sums_are_there<THREADS, EXTENT>(sums, blockIdx.z, blockIdx.y, tile * EXTENT, tile, scratch)) return;
        // On their way while the others are added up.
        if (weighed) partial.load(weights, quad, quad.slice(), chunks, c);
        write_gradients<THREADS, EXTENT>(sums, to, tile * EXTENT, scratch);
        if (!weighed) return;
    } else {
        if (!last_to_arrive(weights.arrived + blockIdx.x, chunks)) return;
        partial.load(weights, quad, quad.slice(), chunks, c);
    }
    const float4 sum = partial.add_up(weights, quad, chunks, c);
    finish_weights(weights, quad, sum, reinterpret_cast<float4*>(products), c, stored);
}

}  // namespace

#define LOGITS(T)                                                                                                \
    KERNEL_OCCUPANCY(logits_loss_nhwc_##T, THREADS, 2,                                                           \
           (const T* x, const BatchNormArrays* arrays, int activation, const T* w, T* logits, uint32_t c,        \
            uint32_t n, uint32_t stored, uint32_t segments, uint32_t* arrived, float target0, float target1,     \
            const float* loss_scale, T* gradient, Metrics* ring, const uint64_t* iteration, uint32_t slots,      \
            uint32_t first, uint32_t criterion, uint32_t reported, const float* scale, float* radial)) {         \
        await_previous();                                                                                        \
        let_next_start();                                                                                        \
        const LossOf<T> of{logits, n, stored, loss_scale, gradient, ring, iteration, slots, first,               \
                           nullptr, nullptr, 0, 0, criterion, reported, segments, scale, radial};                \
        logits_loss(x, arrays, activation, w, logits, c, segments, arrived, of, target0, target1);               \
    }                                                                                                            \
    KERNEL_OCCUPANCY(logits_backward_nhwc_##T, THREADS, 2,                                                       \
           (const T* dl, const T* w, const T* x, T* g, int activation, uint32_t c, uint32_t n, uint32_t images,  \
            uint32_t stored, Sums sums, float* dw, float* partial, uint32_t* arrived, uint32_t* not_finite)) {   \
        await_previous();                                                                                        \
        let_next_start();                                                                                        \
        const WeightGradient weights{dw, partial, arrived, not_finite};                                          \
        /* Of batch norm's sums, and of the weights' products. */                                                \
        STATIC_SHARED(float, shared, [3 * VECTOR<T> * THREADS]);                                                 \
        if (sums.arrays != nullptr) {                                                                            \
            logits_backward<T, true>(dl, w, x, g, activation, c, n, images, stored, sums, weights, shared);      \
        } else {                                                                                                 \
            logits_backward<T, false>(dl, w, x, g, activation, c, n, images, stored, sums, weights, shared);     \
        }                                                                                                        \
    }
LOGITS(f32)
LOGITS(f16)
LOGITS(bf16)
