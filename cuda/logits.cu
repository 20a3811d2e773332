// The discriminator's last layer: a 4×4 → 1×1 convolution with one output channel, with the loss behind it, and its
// gradients, both through the batch norm and activation before it.
//
//   forward    y = f(γx̂ + β), rounded to T   logit[n] = Σ_e y[n][e]·w[e]   then the loss and its gradient: bce_loss.cu
//   backward   g[n][e] = dl[n]·w[e]·f'(γx̂ + β)   Σg and Σg·x̂ for batch norm   dw[e] = Σ_n dl[n]·y[n][e]
//
// e runs over the 16·c elements of an image; y is never in memory. Where `arrays` (of batch norm) is null, x is y, and
// g = dl·w. g is what batch norm's own backward_apply takes, rounded to T, and so are the values that are summed.
//
// Layout: x, g [segments][n][4][4][c] (NHWC), c a multiple of VECTOR<T>; w [stored][4][4][c], dw likewise in f32, of
// which only the first is not zero; logits, dl [segments·n][stored], the first of each the logit, the others zero in
// `logits` and the loss's `gradient`, unread in `dl`.
// Types: T maps, f32 everything else; f32 sums in a thread and a block, and of dw over blocks; f64 sums of the loss and,
// over blocks, of g and g·x̂; all in a fixed order. The counters at `arrived` are 0 between launches.
// Launch:
//   logits_loss: segments·n blocks of THREADS, one an image; the last to arrive does the loss. Without `gradient` there
//     is none, and one segment of all images does.
//   logits_backward: grid (ceil(c / (16·VECTOR<T>)), chunks, segments) of THREADS, a thread for each pixel of
//     16·VECTOR<T> channels; chunks = ceil(n / images).
// Bound: memory, sizeof(T) bytes an element forward, 2·sizeof(T) backward: the latency of the sums over blocks behind it.
// Neighbours: behind the convolution before, whose epilogue sums for batch norm; before batch norm's backward_apply.
#include "activation.cuh"
#include "arrival.cuh"
#include "batch_norm.cuh"
#include "bce_loss.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "reduce.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;
// Of an image, 4×4; and vectors of channels side by side in a block that goes backward.
constexpr int PIXELS = 16, LANES = THREADS / PIXELS;

// Batch norm of VECTOR<T> channels.
template <typename T>
struct Channels {
    float mean[VECTOR<T>], inverse[VECTOR<T>], weight[VECTOR<T>], bias[VECTOR<T>];

    __device__ __forceinline__ void load(const BatchNormArrays& norm, uint32_t segment, uint32_t c, uint32_t channel) {
        four(norm.mean + segment * c + channel, mean);
        four(norm.inverse + segment * c + channel, inverse);
        four(norm.weight + channel, weight);
        four(norm.bias + channel, bias);
    }

    __device__ __forceinline__ float activated(int activation, float x, int i) const {
        return activate(activation, (x - mean[i]) * inverse[i] * weight[i] + bias[i]);
    }

private:
    static __device__ __forceinline__ void four(const float* from, float (&to)[VECTOR<T>]) {
#pragma unroll
        for (int i = 0; i < VECTOR<T>; i += 4) {
            const float4 v = *reinterpret_cast<const float4*>(from + i);
            to[i] = v.x;
            to[i + 1] = v.y;
            to[i + 2] = v.z;
            to[i + 3] = v.w;
        }
    }
};

// The logit of the block's image, in every thread. A thread has one vector of channels at a time, of all or some pixels.
template <typename T, bool NORMED>
__device__ __forceinline__ float logit(const T* image, const BatchNormArrays* arrays, int activation, const T* w,
                                       uint32_t c, uint32_t segment) {
    constexpr int V = VECTOR<T>;
    const uint32_t vectors = c / V, lanes = min(vectors, uint32_t{THREADS});
    const uint32_t pixel_lanes = THREADS / lanes, first = threadIdx.x / lanes;
    float sum = 0.0f;
    for (uint32_t vector = threadIdx.x % lanes; vector < vectors && first < pixel_lanes; vector += lanes) {
        const uint32_t channel = vector * V;
        Channels<T> norm;
        if constexpr (NORMED) norm.load(*arrays, segment, c, channel);
    // As many as a thread has at 512 channels.
#pragma unroll(sizeof(T) == 4 ? 8 : 4)
        for (uint32_t pixel = first; pixel < PIXELS; pixel += pixel_lanes) {
            float x[V], weight[V];
            load_vector(image + pixel * c + channel, x);
            load_vector(w + pixel * c + channel, weight);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                float y = x[i];
                if constexpr (NORMED) y = to_float(from_float<T>(norm.activated(activation, x[i], i)));
                sum += y * weight[i];
            }
        }
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
    for (uint32_t s = 0; s < segments; ++s) bce_loss<THREADS>(of, s, s == 0 ? target0 : target1);
}

// Where the gradient of the weights goes and what it takes, by pointers; `to` is null where it is not wanted.
struct WeightGradient {
    float* to;
    // [segments·chunks][16·c], and [groups][16·c] behind it.
    float* partial;
    // [tiles of channels][groups + 1].
    uint32_t* arrived;
    // Chunks of a group, of all segments' in order.
    uint32_t group;
    uint32_t* not_finite;
};

// `count` vectors, `stride` floats from one to the next, added up in order.
template <int V>
__device__ __forceinline__ void add_vectors(const float* from, uint32_t count, uint32_t stride, float (&sum)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] = 0.0f;
#pragma unroll 4
    for (uint32_t k = 0; k < count; ++k) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const float4 v = __ldcg(reinterpret_cast<const float4*>(from + uint64_t{k} * stride + i));
            sum[i] += v.x;
            sum[i + 1] += v.y;
            sum[i + 2] += v.z;
            sum[i + 3] += v.w;
        }
    }
}

template <int V>
__device__ __forceinline__ void store_floats(float* to, const float (&from)[V]) {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
        *reinterpret_cast<float4*>(to + i) = float4{from[i], from[i + 1], from[i + 2], from[i + 3]};
    }
}

// Leaves the block's sums for the thread's elements from `element` on; the last block of a group adds up its group's, and
// the last of these writes the gradient.
template <int V>
__device__ __forceinline__ void finish_weights(const WeightGradient& weights, const float (&sum)[V], uint32_t element,
                                               bool inside, uint32_t c, uint32_t stored) {
    const uint32_t elements = PIXELS * c, chunks = gridDim.y * gridDim.z;
    const uint32_t groups = (chunks + weights.group - 1) / weights.group;
    const uint32_t chunk = blockIdx.z * gridDim.y + blockIdx.y, group = chunk / weights.group;
    const uint32_t begin = group * weights.group, members = min(weights.group, chunks - begin);
    float* const partial = weights.partial + element;
    float* const of_groups = partial + uint64_t{chunks} * elements;
    uint32_t* const arrived = weights.arrived + blockIdx.x * (groups + 1);
    if (inside) store_floats(partial + uint64_t{chunk} * elements, sum);
    if (!last_to_arrive(arrived + group, members)) return;
    float total[V];
    if (inside) {
        add_vectors(partial + uint64_t{begin} * elements, members, elements, total);
        store_floats(of_groups + uint64_t{group} * elements, total);
    }
    if (!last_to_arrive(arrived + groups, groups)) return;
    if (!inside) return;
    add_vectors(of_groups, groups, elements, total);
    store_floats(weights.to + element, total);
    bool finite = true;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        finite = finite && isfinite(total[i]);
        total[i] = 0.0f;
    }
    if (!finite) *weights.not_finite = 1;
    for (uint32_t k = 1; k < stored; ++k) store_floats(weights.to + uint64_t{k} * elements + element, total);
}

// Sum of both over the block's pixels, for each channel of its tile, to where batch norm looks for them.
template <int V>
__device__ __forceinline__ void leave_sums(const Sums& sums, const float (&first)[V], const float (&second)[V],
                                           float (*shared)[LANES * V]) {
    constexpr int TILE = LANES * V;
    const uint32_t pixel = threadIdx.x / LANES, column = threadIdx.x % LANES * V;
    store_floats(shared[pixel] + column, first);
    store_floats(shared[PIXELS + pixel] + column, second);
    __syncthreads();
    double* const leave = partial_sums(sums, blockIdx.z, blockIdx.y);
    for (uint32_t i = threadIdx.x; i < 2 * TILE; i += THREADS) {
        const uint32_t which = i / TILE, channel = blockIdx.x * TILE + i % TILE;
        float total = 0.0f;
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) total += shared[which * PIXELS + p][i % TILE];
        if (channel < sums.channels) leave[which * sums.channels + channel] = static_cast<double>(total);
    }
}

template <typename T, bool NORMED>
__device__ __forceinline__ void logits_backward(const T* dl, const T* w, const T* x, T* g, int activation, uint32_t c,
                                                uint32_t n, uint32_t images, uint32_t stored, const Sums& sums,
                                                const WeightGradient& weights) {
    constexpr int V = VECTOR<T>;
    const uint32_t pixel = threadIdx.x / LANES, channel = (blockIdx.x * LANES + threadIdx.x % LANES) * V;
    const bool inside = channel < c;
    const uint32_t element = pixel * c + channel;
    const uint32_t begin = blockIdx.y * images, end = min(n, begin + images);
    float first[V] = {}, second[V] = {}, product[V] = {};
    if (inside) {
        Channels<T> norm;
        if constexpr (NORMED) norm.load(*sums.arrays, blockIdx.z, c, channel);
        float weight[V];
        load_vector(w + element, weight);
#pragma unroll 2
        for (uint32_t image = begin; image < end; ++image) {
            const uint64_t number = uint64_t{blockIdx.z} * n + image, at = number * PIXELS * c + element;
            const float d = to_float(dl[number * stored]);
            float v[V], values[V];
            load_vector(x + at, v);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                values[i] = d * weight[i];
                float y = v[i];
                if constexpr (NORMED) {
                    y = norm.activated(activation, v[i], i);
                    values[i] *= activation_derivative(activation, y);
                    const float rounded = to_float(from_float<T>(values[i]));
                    first[i] += rounded;
                    second[i] += rounded * ((v[i] - norm.mean[i]) * norm.inverse[i]);
                    y = to_float(from_float<T>(y));
                }
                product[i] += d * y;
            }
            store_vector(g + at, values);
        }
    }
    if (weights.to != nullptr) finish_weights(weights, product, element, inside, c, stored);
    if constexpr (NORMED) {
        STATIC_SHARED(float, shared, [2 * PIXELS][LANES * V]);
        leave_sums(sums, first, second, shared);
        finish_gradients<THREADS, LANES * V>(sums, blockIdx.z, blockIdx.y, blockIdx.x * LANES * V, blockIdx.x,
                                             reinterpret_cast<double2*>(shared));
    }
}

}  // namespace

#define LOGITS(T)                                                                                                \
    KERNEL_OCCUPANCY(logits_loss_nhwc_##T, THREADS, 2,                                                           \
           (const T* x, const BatchNormArrays* arrays, int activation, const T* w, T* logits, uint32_t c,        \
            uint32_t n, uint32_t stored, uint32_t segments, uint32_t* arrived, float target0, float target1,     \
            const float* loss_scale, T* gradient, Metrics* ring, const uint64_t* iteration, uint32_t slots,      \
            uint32_t first)) {                                                                                   \
        await_previous();                                                                                        \
        let_next_start();                                                                                        \
        const LossOf<T> of{logits, n, stored, loss_scale, gradient, ring, iteration, slots, first,               \
                           nullptr, nullptr, 0, 0};                                                              \
        logits_loss(x, arrays, activation, w, logits, c, segments, arrived, of, target0, target1);               \
    }                                                                                                            \
    KERNEL(logits_backward_nhwc_##T, THREADS,                                                                    \
           (const T* dl, const T* w, const T* x, T* g, int activation, uint32_t c, uint32_t n, uint32_t images,  \
            uint32_t stored, Sums sums, float* dw, float* partial, uint32_t* arrived, uint32_t group,            \
            uint32_t* not_finite)) {                                                                             \
        await_previous();                                                                                        \
        let_next_start();                                                                                        \
        const WeightGradient weights{dw, partial, arrived, group, not_finite};                                   \
        if (sums.arrays != nullptr) {                                                                            \
            logits_backward<T, true>(dl, w, x, g, activation, c, n, images, stored, sums, weights);              \
        } else {                                                                                                 \
            logits_backward<T, false>(dl, w, x, g, activation, c, n, images, stored, sums, weights);             \
        }                                                                                                        \
    }
LOGITS(f32)
LOGITS(f16)
LOGITS(bf16)
