// Images as a network of TensorFlow 1 takes them: resized by its bilinear interpolation, u8 → (v − 128)/128.
//
//   images[n][i][j][c] = (v − 128)/128,  v = a + (b − a)·dy,  a and b: rows ⌊y⌋ and ⌊y⌋ + 1 (the last one twice) at x,
//   likewise of columns;  y = i · size/h, x = j · size/w in f32, dy and dx what lies behind the point
//
// Layout: NHWC; `pixels` has 1 or 3 channels, `images` has 3: grey in all of them.
// Types: u8 in, f32 out. Launch: grid (ceil(h·w / THREADS), n), one pixel a thread.
// Bound: memory; 12 bytes a pixel written, and `pixels` read from L2.
// Neighbours: before the first convolution of conv_bias_relu.cu.
#include "dependency.cuh"
#include "kernel.cuh"
#include "types.cuh"

namespace {

constexpr int THREADS = 256;

// Where a pixel of the output lies between two of `size`.
struct Place {
    uint32_t low, high;
    float distance;
    __device__ __forceinline__ Place(uint32_t at, uint32_t size, uint32_t to) {
        const float scale = static_cast<float>(static_cast<double>(size) / static_cast<double>(to));
        // Rounded on its own, as TensorFlow's: a fused multiply-add would move the distance.
        const float place = __fmul_rn(static_cast<float>(at), scale);
        low = min(static_cast<uint32_t>(place), size - 1);
        high = min(low + 1, size - 1);
        distance = place - static_cast<float>(low);
    }
};

}  // namespace

KERNEL(resize_nhwc_f32, THREADS,
       (const uint8_t* pixels, f32* images, uint32_t size, uint32_t channels, uint32_t h, uint32_t w)) {
    await_previous();
    let_next_start();
    const uint32_t at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= h * w) return;
    const Place y(at / w, size, h), x(at % w, size, w);
    const uint8_t* const image = pixels + uint64_t{blockIdx.y} * size * size * channels;
    f32* const to = images + (uint64_t{blockIdx.y} * h * w + at) * 3;
    for (uint32_t c = 0; c < 3; ++c) {
        const auto pixel = [&](uint32_t row, uint32_t column) {
            return static_cast<float>(image[(uint64_t{row} * size + column) * channels + c % channels]);
        };
        const float above = pixel(y.low, x.low) + (pixel(y.low, x.high) - pixel(y.low, x.low)) * x.distance;
        const float below = pixel(y.high, x.low) + (pixel(y.high, x.high) - pixel(y.high, x.low)) * x.distance;
        to[c] = (above + (below - above) * y.distance - 128.0f) / 128.0f;
    }
}
