// Differentiable augmentation of what the discriminator sees (DiffAugment: Zhao et al. 2020, arXiv 2006.10738): each
// image is changed by numbers of its own, u0 to u6, and a gradient goes back by the same ones.
//
//   color        x ← x + (u0 − ½);  x ← (x − p)·2u1 + p;  x ← (x − m)·(u2 + ½) + m
//                p, m: means of the pixel and of the image, over the first `channels`, which alone are changed
//   translation  y[h, w] = x[h + ⌊u3·(2s + 1)⌋ − s, w + ⌊u4·(2s + 1)⌋ − s], 0 from outside;  s = ⌊(side + 4)/8⌋
//   cutout       y = 0 in the rows o − ⌊c/2⌋ to o − ⌊c/2⌋ + c − 1, both clamped to the image, and such columns
//                o = ⌊u5·(side + 1 − c mod 2)⌋, of columns u6;  c = ⌊(side + 1)/2⌋
//
// In this order. With b = u0 − ½, s = 2u1, k = u2 + ½, and p, m of what came in, color is
// x ← ks·x + k(1 − s)·p + (1 − k)·m + b.
//
//   backward     g = dy moved back, 0 where it is cut or from outside;  dx = ks·g + k(1 − s)·p(g) + (1 − k)·m(g)
//
// u0 to u6: 24 high bits of the words of blocks first_block + 2·image and the next of the stream (seed, purpose,
// iteration), by Philox4x32-10; in [0, 1), and exact.
//
// Layout: NHWC; rows of `c` channels are stored in `stored` ≥ c places, whole 16-byte vectors, the first of which has
// all `channels`. Others up to c only move and are cut; behind c y is 0. `iteration` is read from the device.
// Types: T in memory, f32 arithmetic, f32 sums in a fixed order. Launch: (images of a batch, batches) blocks of
// THREADS; images of the second batch are numbered behind those of the first.
// Bound: memory; 2·stored·sizeof(T) bytes a pixel, and with color the image once more from L1 or L2. At 64 px, 256
// images, bf16: 34 MB.
// Neighbours: behind batch.cu or the generator's last convolution, before the discriminator's first; backward between
// the two networks' backward passes.
#include "dependency.cuh"
#include "kernel.cuh"
#include "philox.cuh"
#include "reduce.cuh"
#include "types.cuh"

namespace {

constexpr uint32_t THREADS = 512;
// Pixels of a thread that are loaded together.
constexpr int EACH = 4;

struct Extent {
    uint32_t h, w, stored, c, channels;
};

// A pixel, and the one THREADS behind it: counted without a division in the loop.
struct Pixel {
    uint32_t y, x;

    __device__ __forceinline__ explicit Pixel(uint32_t index, uint32_t w) : y(index / w), x(index % w) {}

    __device__ __forceinline__ void advance(const Pixel& step, uint32_t w) {
        y += step.y;
        x += step.x;
        if (x >= w) {
            x -= w;
            ++y;
        }
    }
};

// A whole number below n, by the 24 high bits of a word.
__device__ __forceinline__ int below(uint32_t word, uint32_t n) {
    return static_cast<int>((uint64_t{word >> 8} * n) >> 24);
}

// What becomes of an image along one axis: where a pixel comes from, and which are 0.
struct Axis {
    int side, shift, first_cut, last_cut;

    __device__ __forceinline__ Axis(int side, uint32_t shifted_by, uint32_t cut_by, bool translation, bool cutout)
        : side(side), shift(0), first_cut(side), last_cut(-1) {
        if (translation) {
            const int most = (side + 4) / 8;
            shift = below(shifted_by, 2 * most + 1) - most;
        }
        if (cutout) {
            const int size = (side + 1) / 2;
            const int first = below(cut_by, side + 1 - size % 2) - size / 2;
            first_cut = min(max(first, 0), side - 1);
            last_cut = min(max(first + size - 1, 0), side - 1);
        }
    }

    __device__ __forceinline__ bool cuts(int at) const { return at >= first_cut && at <= last_cut; }
    __device__ __forceinline__ bool has(int at) const { return at >= 0 && at < side; }
};

// Forward x -> y, backward dy -> dx. Both are a moved and cut map, whose element, of those with colours, becomes
// own*itself + pixel*(sum of the pixel's) + (a constant of the image).
template <typename T, bool BACKWARD>
__device__ __forceinline__ void augment(const T* from, T* to, const Extent& extent, bool color, bool translation,
                                        bool cutout, uint64_t seed, uint32_t purpose, const uint64_t* iteration,
                                        uint32_t first_block) {
    constexpr int V = VECTOR<T>;
    STATIC_SHARED(uint32_t, words, [8]);
    if (threadIdx.x < 2) {
        const uint32_t image = blockIdx.y * gridDim.x + blockIdx.x;
        const uint4 four = philox(seed, purpose, *iteration, first_block + 2 * image + threadIdx.x);
        uint32_t* const mine = words + 4 * threadIdx.x;
        mine[0] = four.x, mine[1] = four.y, mine[2] = four.z, mine[3] = four.w;
    }
    __syncthreads();
    const Axis rows(extent.h, words[3], words[5], translation, cutout);
    const Axis columns(extent.w, words[4], words[6], translation, cutout);
    const uint32_t pixels = extent.h * extent.w;
    const int channels = extent.channels, c = extent.c;
    from += uint64_t{blockIdx.x} * pixels * extent.stored;
    to += uint64_t{blockIdx.x} * pixels * extent.stored;

    // Where the pixel of `from` lies that comes to a pixel of `to`, and whether any does: the square is one of the
    // augmented image.
    const int down = BACKWARD ? -rows.shift : rows.shift, right = BACKWARD ? -columns.shift : columns.shift;
    const int further = down * static_cast<int>(extent.w) + right;
    const auto comes = [&](const Pixel& at) {
        const int y = at.y, x = at.x, source_y = y + down, source_x = x + right;
        const bool cut = BACKWARD ? rows.cuts(source_y) && columns.cuts(source_x) : rows.cuts(y) && columns.cuts(x);
        return rows.has(source_y) && columns.has(source_x) && !cut;
    };
    const Pixel begin(threadIdx.x, extent.w), step(THREADS, extent.w);

    float own = 1.0f, pixel = 0.0f, constant = 0.0f;
    if (color) {
        float sum = 0.0f;
        Pixel at = begin;
        for (uint32_t base = threadIdx.x; base < pixels; base += EACH * THREADS) {
            uint4 vectors[EACH];
            bool counts[EACH];
#pragma unroll
            for (int u = 0; u < EACH; ++u) {
                const uint32_t index = base + u * THREADS;
                // Forward, the mean is that of the image before it is moved and cut.
                counts[u] = index < pixels && (!BACKWARD || comes(at));
                const uint32_t source = index + (BACKWARD ? further : 0);
                // Without a branch, so that all are under way together: what does not count is any pixel.
                vectors[u] = load_words(from + (counts[u] ? source : 0) * extent.stored);
                at.advance(step, extent.w);
            }
#pragma unroll
            for (int u = 0; u < EACH; ++u) {
                float values[V];
                unpack<T>(vectors[u], values);
#pragma unroll
                for (int i = 0; i < V; ++i) {
                    if (counts[u] && i < channels) sum += values[i];
                }
            }
        }
        const float mean = block_sum<THREADS>(sum) / (static_cast<float>(pixels) * channels);
        const float brightness = static_cast<float>(words[0] >> 8) * (1.0f / 16777216.0f) - 0.5f;
        const float saturation = static_cast<float>(words[1] >> 8) * (2.0f / 16777216.0f);
        const float contrast = static_cast<float>(words[2] >> 8) * (1.0f / 16777216.0f) + 0.5f;
        own = contrast * saturation;
        pixel = contrast * (1.0f - saturation) / channels;
        constant = (1.0f - contrast) * mean;
        if (!BACKWARD) constant += brightness;
    }

    Pixel at = begin;
    for (uint32_t base = threadIdx.x; base < pixels; base += EACH * THREADS) {
        uint4 vectors[EACH];
        bool there[EACH];
#pragma unroll
        for (int u = 0; u < EACH; ++u) {
            const uint32_t index = base + u * THREADS;
            there[u] = index < pixels && comes(at);
            vectors[u] = load_words(from + (there[u] ? index + further : 0) * extent.stored);
            at.advance(step, extent.w);
        }
#pragma unroll
        for (int u = 0; u < EACH; ++u) {
            const uint32_t index = base + u * THREADS;
            if (index >= pixels) break;
            if (!there[u]) vectors[u] = make_uint4(0, 0, 0, 0);
            float values[V];
            unpack<T>(vectors[u], values);
            // A mean has a gradient of every pixel, whether it is seen or not.
            if (color && (BACKWARD || there[u])) {
                float sum = 0.0f;
#pragma unroll
                for (int i = 0; i < V; ++i) {
                    if (i < channels) sum += values[i];
                }
                const float rest = fmaf(pixel, sum, constant);
#pragma unroll
                for (int i = 0; i < V; ++i) {
                    if (i < channels) values[i] = fmaf(own, values[i], rest);
                }
            }
#pragma unroll
            for (int i = 0; i < V; ++i) {
                if (i >= c) values[i] = 0.0f;
            }
            store_vector(to + index * extent.stored, values);
        }
    }

    // Vectors behind that of the image's channels, where a picture has some: moved and cut with it.
#pragma unroll 1
    for (uint32_t first = V; first < extent.stored; first += V) {
        Pixel at = begin;
#pragma unroll 1
        for (uint32_t index = threadIdx.x; index < pixels; index += THREADS) {
            const bool there = comes(at);
            float values[V];
            load_vector(from + (there ? index + further : 0) * extent.stored + first, values);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                if (!there || first + i >= extent.c) values[i] = 0.0f;
            }
            store_vector(to + index * extent.stored + first, values);
            at.advance(step, extent.w);
        }
    }
}

}  // namespace

#define AUGMENT(T)                                                                                                  \
    KERNEL_OCCUPANCY(augment_nhwc_##T, THREADS, 2,                                                                  \
           (const T* x, T* y, const T* second_x, T* second_y, uint32_t h, uint32_t w, uint32_t stored, uint32_t c,  \
            uint32_t channels, uint32_t color, uint32_t translation, uint32_t cutout, uint64_t seed,                \
            uint32_t purpose, const uint64_t* iteration, uint32_t first_block)) {                                   \
        await_previous();                                                                                           \
        let_next_start();                                                                                           \
        const bool second = blockIdx.y == 1;                                                                        \
        augment<T, false>(second ? second_x : x, second ? second_y : y, {h, w, stored, c, channels}, color != 0,    \
                          translation != 0, cutout != 0, seed, purpose, iteration, first_block);                    \
    }                                                                                                               \
    KERNEL_OCCUPANCY(augment_backward_nhwc_##T, THREADS, 2,                                                         \
           (const T* dy, T* dx, uint32_t h, uint32_t w, uint32_t stored, uint32_t c, uint32_t channels,             \
            uint32_t color, uint32_t translation, uint32_t cutout, uint64_t seed, uint32_t purpose,                 \
            const uint64_t* iteration, uint32_t first_block)) {                                                     \
        await_previous();                                                                                           \
        let_next_start();                                                                                           \
        augment<T, true>(dy, dx, {h, w, stored, c, channels}, color != 0, translation != 0, cutout != 0, seed,      \
                         purpose, iteration, first_block);                                                          \
    }
AUGMENT(f32)
AUGMENT(f16)
AUGMENT(bf16)
