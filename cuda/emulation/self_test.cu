// Kernels that show what the emulation catches and that its instructions mean what the PTX ISA says. For tests only;
// nvcc never sees this file.
#include "dependency.cuh"
#include "kernel.cuh"
#include "mma.cuh"
#include "types.cuh"

// y[i] = the element of the block's reverse, through shared memory; `barrier` 0 leaves the barrier out.
KERNEL(self_test_reverse, 256, (const int* x, int* y, int barrier)) {
    await_previous();
    STATIC_SHARED(int, tile, [256]);
    tile[threadIdx.x] = x[blockIdx.x * 256 + threadIdx.x];
    if (barrier) __syncthreads();
    y[blockIdx.x * 256 + threadIdx.x] = tile[255 - threadIdx.x];
}

// As above within each warp, through dynamic shared memory; `barrier` 0 leaves __syncwarp out.
KERNEL(self_test_reverse_warp, 256, (const int* x, int* y, int barrier)) {
    await_previous();
    DYNAMIC_SHARED(int, tile);
    tile[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncwarp();
    y[threadIdx.x] = tile[threadIdx.x ^ 31];
}

// Half of the threads leave, the others wait.
KERNEL(self_test_exit_before_barrier, 256, (int* y)) {
    await_previous();
    if (threadIdx.x >= 128) return;
    __syncthreads();
    y[threadIdx.x] = 0;
}

// Two barriers, each for one half.
KERNEL(self_test_two_barriers, 256, (int* y)) {
    await_previous();
    if (threadIdx.x < 128) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 0;
}

// One lane skips a shuffle that names it.
KERNEL(self_test_absent_lane, 32, (int* y)) {
    await_previous();
    int value = 1;
    if (threadIdx.x != 7) value = __shfl_xor_sync(0xffffffffu, value, 1);
    y[threadIdx.x] = value;
}

// Sum over the block by shuffles, a vote and shared memory, `y` one int a block.
KERNEL(self_test_sum, 256, (const int* x, int* y)) {
    await_previous();
    STATIC_SHARED(int, sums, [8]);
    int value = x[blockIdx.x * 256 + threadIdx.x];
    for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(0xffffffffu, value, delta);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
        value = threadIdx.x < 8 ? sums[threadIdx.x] : 0;
        for (int bit = 4; bit > 0; bit /= 2) value += __shfl_xor_sync(0xffffffffu, value, bit);
        const unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x % 2 == 1);
        if (threadIdx.x == 0) y[blockIdx.x] = odd == 0xaaaaaaaau ? value : -1;
    }
}

// Reads shared memory that nobody wrote.
KERNEL(self_test_unwritten_shared, 32, (float* y)) {
    await_previous();
    STATIC_SHARED(float, tile, [32]);
    y[threadIdx.x] = tile[threadIdx.x];
}

// Reads element `index` of x: beyond its end, for AddressSanitizer.
KERNEL(self_test_read, 32, (const int* x, int* y, int index)) {
    await_previous();
    y[threadIdx.x] = x[index];
}

// Reads element `index` of a shared array of 32 ints.
KERNEL(self_test_read_shared, 32, (int* y, int index)) {
    await_previous();
    STATIC_SHARED(int, tile, [32]);
    tile[threadIdx.x] = static_cast<int>(threadIdx.x);
    __syncthreads();
    y[threadIdx.x] = tile[index];
}

// y = x + 1 behind the kernel before it; `mode` 1 has thread 200 read too early, 2 has it not wait at all.
KERNEL(self_test_follow, 256, (const int* x, int* y, int mode)) {
    const bool wrong = threadIdx.x == 200;
    const int early = wrong && mode == 1 ? x[threadIdx.x] : 0;
    if (wrong && mode == 2) return;
    await_previous();
    let_next_start();
    y[threadIdx.x] = (early != 0 ? early : x[threadIdx.x]) + 1;
}

namespace {

// C (16×8, row-major) = A·B for one warp. A is 16×16 row-major; B is given as [n][k], or as [k][n] where `transposed`.
// `wait` 0 leaves the wait for the copies out.
template <typename T>
__device__ void product(const T* a, const T* b, float* c, int transposed, int wait) {
    STATIC_SHARED(T, tile_a, [16][16]);
    STATIC_SHARED(T, tile_b, [128]);
    const int lane = static_cast<int>(threadIdx.x);
    copy_async_16(&tile_a[lane / 2][lane % 2 * 8], a + lane * 8);
    if (lane < 16) copy_async_16_or_zero(&tile_b[lane * 8], b + lane * 8, true);
    copy_async_commit();
    if (wait) copy_async_wait<0>();
    __syncwarp();
    uint32_t fragment_a[4], fragment_b[2];
    load_matrix_x4(fragment_a, &tile_a[lane % 16][lane / 16 * 8]);
    if (transposed) {
        load_matrix_x2_transposed(fragment_b, &tile_b[lane % 16 * 8]);
    } else {
        load_matrix_x2(fragment_b, &tile_b[lane % 8 * 16 + lane / 8 % 2 * 8]);
    }
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k16<T>(d, fragment_a, fragment_b);
    if (!wait) copy_async_wait<0>();
    for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// d (16×8, row-major) = c + A·B by one instruction, for one warp. A is 16×16 row-major; B is given as [n][k].
template <typename T>
__device__ void accumulate(const T* a, const T* b, const float* c, float* d) {
    const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
    uint32_t fragment_a[4], fragment_b[2];
    for (int i = 0; i < 4; ++i) std::memcpy(&fragment_a[i], a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8, 4);
    for (int i = 0; i < 2; ++i) std::memcpy(&fragment_b[i], b + g * 16 + 2 * t + i * 8, 4);
    float sum[4];
    for (int i = 0; i < 4; ++i) sum[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    mma_m16n8k16<T>(sum, fragment_a, fragment_b);
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

// to[i] = from[i] rounded to T and back.
template <typename T>
__device__ void round_trip(const float* from, float* to, unsigned count) {
    const unsigned i = blockIdx.x * 256 + threadIdx.x;
    if (i < count) to[i] = to_float(from_float<T>(from[i]));
}

}  // namespace

KERNEL(self_test_product_f16, 32, (const f16* a, const f16* b, float* c, int transposed, int wait)) {
    await_previous();
    product(a, b, c, transposed, wait);
}
KERNEL(self_test_product_bf16, 32, (const bf16* a, const bf16* b, float* c, int transposed, int wait)) {
    await_previous();
    product(a, b, c, transposed, wait);
}
KERNEL(self_test_accumulate_f16, 32, (const f16* a, const f16* b, const float* c, float* d)) {
    await_previous();
    accumulate(a, b, c, d);
}
KERNEL(self_test_accumulate_bf16, 32, (const bf16* a, const bf16* b, const float* c, float* d)) {
    await_previous();
    accumulate(a, b, c, d);
}
KERNEL(self_test_round_f16, 256, (const float* from, float* to, unsigned count)) {
    await_previous();
    round_trip<f16>(from, to, count);
}
KERNEL(self_test_round_bf16, 256, (const float* from, float* to, unsigned count)) {
    await_previous();
    round_trip<bf16>(from, to, count);
}
