// Pools: the largest or the mean of the pixels in a window, into some channels of a map.
//
//   y[n,i,j,c] = max or mean over r, s of x[n, stride·i − pad_h + r, stride·j − pad_w + s, c], those inside x alone
//
// Layout: NHWC. Pixels of y have `stored` ≥ c channels, of which the c from `y` on are overwritten and the others stay.
// NaN in a window makes the largest NaN.
// Types: f32; the mean's sum in the order of rows and columns.
// Launch: ceil(n·out_h·out_w·ceil(c / VECTOR) / THREADS) blocks of THREADS, one vector of channels a thread.
// Bound: memory; each pixel is read kernel_h·kernel_w / stride² times, from L2 but for the first.
// Neighbours: between convolutions of conv_bias_relu.cu, and behind the last one, over the whole map.
#include "dependency.cuh"
#include "kernel.cuh"
#include "types.cuh"
#include "window.cuh"

namespace {

constexpr int THREADS = 256;

struct Largest {
    static constexpr float START = -INFINITY;
    __device__ __forceinline__ static float add(float y, float x) { return x > y || x != x ? x : y; }
    __device__ __forceinline__ static float end(float y, uint32_t) { return y; }
};

struct Mean {
    static constexpr float START = 0.0f;
    __device__ __forceinline__ static float add(float y, float x) { return y + x; }
    __device__ __forceinline__ static float end(float y, uint32_t count) { return y / static_cast<float>(count); }
};

template <typename Pool>
__device__ __forceinline__ void pool(const f32* x, f32* y, const Window& window, uint32_t n, uint32_t stored) {
    constexpr uint32_t V = VECTOR<f32>;
    const uint32_t vectors = (window.c + V - 1) / V;
    const uint64_t at = uint64_t{blockIdx.x} * THREADS + threadIdx.x;
    const uint64_t pixel = at / vectors;
    if (pixel >= uint64_t{n} * window.out_h * window.out_w) return;
    const uint32_t first = static_cast<uint32_t>(at - pixel * vectors) * V;
    const uint64_t row = pixel / window.out_w, image = row / window.out_h;
    const int h = static_cast<int>((row - image * window.out_h) * window.stride) - static_cast<int>(window.pad_h);
    const int w = static_cast<int>((pixel - row * window.out_w) * window.stride) - static_cast<int>(window.pad_w);
    const int valid = static_cast<int>(min(window.c - first, V));
    const bool aligned = window.c % V == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
    float result[V];
#pragma unroll
    for (uint32_t i = 0; i < V; ++i) result[i] = Pool::START;
    uint32_t count = 0;
    for (uint32_t r = 0; r < window.kernel_h; ++r) {
        for (uint32_t s = 0; s < window.kernel_w; ++s) {
            // Negative ones are beyond any map too.
            const uint32_t i = h + r, j = w + s;
            if (i >= window.in_h || j >= window.in_w) continue;
            float values[V];
            load_some(x + ((image * window.in_h + i) * window.in_w + j) * window.c + first, valid, aligned, 0.0f, values);
#pragma unroll
            for (uint32_t v = 0; v < V; ++v) result[v] = Pool::add(result[v], values[v]);
            ++count;
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < V; ++i) result[i] = Pool::end(result[i], count);
    store_some(y + pixel * stored + first, valid, stored % V == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0, result);
}

}  // namespace

KERNEL(pool_max_nhwc_f32, THREADS, (const f32* x, f32* y, Window window, uint32_t n, uint32_t stored)) {
    await_previous();
    let_next_start();
    pool<Largest>(x, y, window, n, stored);
}

KERNEL(pool_average_nhwc_f32, THREADS, (const f32* x, f32* y, Window window, uint32_t n, uint32_t stored)) {
    await_previous();
    let_next_start();
    pool<Mean>(x, y, window, n, stored);
}
