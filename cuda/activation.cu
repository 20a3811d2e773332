// Activations on their own, where no batch norm or convolution takes them in.
//
//   forward   y = f(x)            backward   dx = dy · f'(x), f' from y; both are rows of activation.cuh's table
//
// Layout: any (NHWC here), `count` elements in a row; in place is allowed. Types: T in memory, f32 arithmetic.
// Launch: ceil(count / (THREADS · VECTOR<T>)) blocks of THREADS; pointers 16-byte aligned.
// Bound: memory; 2·sizeof(T) bytes an element forward, 3·sizeof(T) backward.
// Neighbours: behind the first convolution of the discriminator and the last of the generator, where those do not
// apply it in their epilogue; batch_norm.cu has its own.
#include "activation.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

// The elements of this thread: a full vector, or the tail one by one.
template <typename T>
__device__ __forceinline__ void forward(int activation, const T* x, T* y, uint64_t count) {
    const uint64_t first = (uint64_t{blockIdx.x} * THREADS + threadIdx.x) * VECTOR<T>;
    if (first >= count) return;
    const int valid = static_cast<int>(min(count - first, uint64_t{VECTOR<T>}));
    float v[VECTOR<T>];
    load_some(x + first, valid, true, 0.0f, v);
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) v[i] = activate(activation, v[i]);
    store_some(y + first, valid, true, v);
}

template <typename T>
__device__ __forceinline__ void backward(int activation, const T* y, const T* dy, T* dx, uint64_t count) {
    const uint64_t first = (uint64_t{blockIdx.x} * THREADS + threadIdx.x) * VECTOR<T>;
    if (first >= count) return;
    const int valid = static_cast<int>(min(count - first, uint64_t{VECTOR<T>}));
    float v[VECTOR<T>], gradient[VECTOR<T>];
    if (valid == VECTOR<T>) {
        // Both are under way before one is used.
        const uint4 words = load_words(y + first), gradient_words = load_words(dy + first);
        unpack<T>(words, v);
        unpack<T>(gradient_words, gradient);
    } else {
        load_some(y + first, valid, true, 0.0f, v);
        load_some(dy + first, valid, true, 0.0f, gradient);
    }
#pragma unroll
    for (int i = 0; i < VECTOR<T>; ++i) gradient[i] *= activation_derivative(activation, v[i]);
    store_some(dx + first, valid, true, gradient);
}

}  // namespace

// For each row of the table and each type, as relu_forward_nhwc_bf16 and relu_backward_nhwc_bf16.
#define ACTIVATION_KERNELS_OF(NAME, T)                                                                              \
    KERNEL(NAME##_forward_nhwc_##T, THREADS, (const T* x, T* y, uint64_t count)) {                                  \
        await_previous();                                                                                           \
        let_next_start();                                                                                           \
        forward(ACTIVATION_##NAME, x, y, count);                                                                    \
    }                                                                                                               \
    KERNEL(NAME##_backward_nhwc_##T, THREADS, (const T* y, const T* dy, T* dx, uint64_t count)) {                   \
        await_previous();                                                                                           \
        let_next_start();                                                                                           \
        backward(ACTIVATION_##NAME, y, dy, dx, count);                                                              \
    }
#define ACTIVATION_KERNELS(NAME, NUMBER, F, DERIVATIVE) \
    ACTIVATION_KERNELS_OF(NAME, f32)                    \
    ACTIVATION_KERNELS_OF(NAME, f16)                    \
    ACTIVATION_KERNELS_OF(NAME, bf16)
ACTIVATIONS(ACTIVATION_KERNELS)
