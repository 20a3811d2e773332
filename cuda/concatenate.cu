// Channels of two maps one behind the other, and the way back of gradients.
//
//   forward    y[p] = [f(a[p / a_each][a_from …]), b[p / b_each][b_from …], 0 …]
//   part       dx[p][i] = dy[p][from + i]·f'(x[p][i]), on top of what is there where `add`
//
// f is ReLU or the identity; its f' is known from x as well as from f(x), since both are positive for the same values.
// Where x is null f is the identity.
// Layout: NHWC, rows of stored channels, whole 16-byte vectors; `each` pixels share a row of a or b (1, or those of an
// image for what is the same at every pixel). b may be null, of no channels. Of y and dx, channels behind those of the
// parts become 0, or stay where there is something to add to.
// Types: T in memory, f32 between. Launch: ceil(pixels·stored / (THREADS·VECTOR<T>)) blocks of THREADS, a vector of the
// output a thread.
// Bound: memory; 2·sizeof(T) bytes an element, 3 where it adds or has an activation.
// Neighbours: forward before a convolution that reads an earlier block's map too, before the generator's first and the
// discriminator's first where there is a picture; part behind the convolution's backward pass, and before the
// backward pass of the block whose map was read.
#include "activation.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

// Channels of maps: `count` from `from` on, of rows of `stored`.
template <typename T>
struct Part {
    const T* maps;
    uint32_t stored;
    uint32_t from;
    uint32_t count;
    uint32_t each;

    __device__ __forceinline__ const T* row(uint32_t pixel) const {
        return maps + uint64_t{pixel / each} * stored + from;
    }

    // Whether its vectors are those of the maps, and nothing but whole ones.
    __device__ __forceinline__ bool whole() const { return from % VECTOR<T> == 0 && count % VECTOR<T> == 0; }
};

template <typename T>
__device__ __forceinline__ void concatenate(const Part<T>& a, int activation, const Part<T>& b, T* y, uint32_t pixels,
                                            uint32_t stored) {
    constexpr uint32_t V = VECTOR<T>;
    const uint32_t vectors = stored / V;
    const uint64_t at = uint64_t{blockIdx.x} * THREADS + threadIdx.x;
    if (at >= uint64_t{pixels} * vectors) return;
    const uint32_t pixel = static_cast<uint32_t>(at / vectors);
    const uint32_t first = static_cast<uint32_t>(at - uint64_t{pixel} * vectors) * V;
    float values[V];
    if (a.whole() && (b.count == 0 || b.whole()) && first < a.count + b.count) {
        const bool front = first < a.count;
        load_vector(front ? a.row(pixel) + first : b.row(pixel) + (first - a.count), values);
        if (front) {
#pragma unroll
            for (uint32_t i = 0; i < V; ++i) values[i] = activate(activation, values[i]);
        }
    } else {
        for (uint32_t i = 0; i < V; ++i) {
            const uint32_t c = first + i;
            values[i] = 0.0f;
            if (c < a.count) {
                values[i] = activate(activation, to_float(a.row(pixel)[c]));
            } else if (c < a.count + b.count) {
                values[i] = to_float(b.row(pixel)[c - a.count]);
            }
        }
    }
    store_vector(y + at * V, values);
}

template <typename T>
__device__ __forceinline__ void part_gradient(const T* dy, uint32_t dy_stored, uint32_t from, uint32_t count, const T* x,
                                              int activation, T* dx, uint32_t pixels, uint32_t stored, bool add) {
    constexpr uint32_t V = VECTOR<T>;
    const uint32_t vectors = stored / V;
    const uint64_t at = uint64_t{blockIdx.x} * THREADS + threadIdx.x;
    if (at >= uint64_t{pixels} * vectors) return;
    const uint32_t pixel = static_cast<uint32_t>(at / vectors);
    const uint32_t first = static_cast<uint32_t>(at - uint64_t{pixel} * vectors) * V;
    const T* const row = dy + uint64_t{pixel} * dy_stored + from + first;
    float values[V], other[V];
    if (from % V == 0 && first + V <= count) {
        load_vector(row, values);
    } else {
        for (uint32_t i = 0; i < V; ++i) values[i] = first + i < count ? to_float(row[i]) : 0.0f;
    }
    if (x != nullptr) {
        load_vector(x + at * V, other);
#pragma unroll
        for (uint32_t i = 0; i < V; ++i) values[i] *= activation_derivative(activation, other[i]);
    }
    if (add) {
        load_vector(dx + at * V, other);
#pragma unroll
        for (uint32_t i = 0; i < V; ++i) values[i] += other[i];
    }
    store_vector(dx + at * V, values);
}

}  // namespace

#define CONCATENATE(T)                                                                                             \
    KERNEL(concatenate_nhwc_##T, THREADS,                                                                          \
           (const T* a, uint32_t a_stored, uint32_t a_from, uint32_t a_count, uint32_t a_each, int activation,     \
            const T* b, uint32_t b_stored, uint32_t b_from, uint32_t b_count, uint32_t b_each, T* y,               \
            uint32_t pixels, uint32_t stored)) {                                                                   \
        await_previous();                                                                                          \
        let_next_start();                                                                                          \
        const Part<T> front{a, a_stored, a_from, a_count, a_each}, back{b, b_stored, b_from, b_count, b_each};     \
        concatenate(front, activation, back, y, pixels, stored);                                                   \
    }                                                                                                              \
    KERNEL(concatenate_part_gradient_nhwc_##T, THREADS,                                                            \
           (const T* dy, uint32_t dy_stored, uint32_t from, uint32_t count, const T* x, int activation, T* dx,     \
            uint32_t pixels, uint32_t stored, uint32_t add)) {                                                     \
        await_previous();                                                                                          \
        let_next_start();                                                                                          \
        part_gradient(dy, dy_stored, from, count, x, activation, dx, pixels, stored, add != 0);                    \
    }
CONCATENATE(f32)
CONCATENATE(f16)
CONCATENATE(bf16)
