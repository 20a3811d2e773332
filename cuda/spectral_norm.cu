// Spectral norm of all layers of a network in one launch (Miyato et al. 2018, arXiv 1802.05957): a step of the power
// method, as torch.nn.utils.parametrizations.spectral_norm takes it.
//
//   u ← Wv/‖Wv‖     v ← Wᵀu/‖Wᵀu‖     σ = uᵀWv = ‖Wᵀu‖     scale = Π 1/(σ·factor) over the layers
//
// Without `moves`, u and v stay, and σ = uᵀWv. ‖·‖ counts as EPS where it is less. Nothing is divided by σ here: without
// batch norm and biases a network is homogeneous in each weight, so the loss multiplies its logits by `scale`
// (gan_loss.cuh), and Adam takes what is along u·vᵀ from the gradients (adam.cu). `factor` is what the convolutions see a
// layer's weight multiplied by, a power of two near its first 1/σ, so that no map leaves the range of a 16-bit type.
//
// Layout: weights [k][r][s][c] (KRSC) as rows of r·s·c `columns`, a multiple of 4; v likewise; u [k]. What is stored
// behind channels is zero in W, and so it is in u and v.
// Types: f32; f32 sums in a warp and over rows, f64 sums of squares, all in a fixed order.
// Launch: Σ ceil(rows / ROWS) blocks of THREADS, a warp a row; block b works on the layer with the last
// first_block ≤ b. A block has (Wv) of its rows, and leaves their part of Wᵀ(Wv). The last of GROUP blocks to arrive
// adds those up, the last group of a layer what the groups have left, and the last layer makes `scale`.
// Bound: memory; 4 bytes a weight, which come out of L2 the second time: 11 MB at width 64, 64 px; and the latency of
// the sums behind it, four trips to L2.
// Neighbours: behind Adam of the step before; before the loss.
#include "arrival.cuh"
#include "dependency.cuh"
#include "kernel.cuh"
#include "reduce.cuh"
#include "spectral_norm.cuh"

namespace {

constexpr int THREADS = 256;
// Rows of a slice, a warp each, and slices of a group.
constexpr uint32_t ROWS = THREADS / 32, GROUP = 8;
// What a length counts as at least: SPECTRAL_EPS of src/model/params.rs.
constexpr double EPS = 1e-12;

__device__ __forceinline__ float4 four(const float* from) { return *reinterpret_cast<const float4*>(from); }

// What other blocks of this launch have left.
__device__ __forceinline__ float4 four_left(const float* from) { return __ldcg(reinterpret_cast<const float4*>(from)); }

__device__ __forceinline__ void store_four(float* to, const float4& x) { *reinterpret_cast<float4*>(to) = x; }

__device__ __forceinline__ float dot(const float4& a, const float4& b) {
    return (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
}

__device__ __forceinline__ void add(float4& to, float factor, const float4& x) {
    to.x = fmaf(factor, x.x, to.x);
    to.y = fmaf(factor, x.y, to.y);
    to.z = fmaf(factor, x.z, to.z);
    to.w = fmaf(factor, x.w, to.w);
}

__device__ __forceinline__ float4 scaled(float factor, const float4& x) {
    return make_float4(factor * x.x, factor * x.y, factor * x.z, factor * x.w);
}

// The layer of this block, for all threads.
__device__ __forceinline__ SpectralLayer find_layer(const SpectralLayer* layers, uint32_t count) {
    STATIC_SHARED(SpectralLayer, found, [1]);
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        const bool over = i + 1 < count && layers[i + 1].first_block <= blockIdx.x;
        if (layers[i].first_block <= blockIdx.x && !over) found[0] = layers[i];
    }
    __syncthreads();
    return found[0];
}

// A row of W times v, in every lane of the warp: TOGETHER fours of both are under way at a time.
__device__ __forceinline__ float row_times(const float* row, const float* v, uint32_t columns) {
    constexpr uint32_t TOGETHER = 4, STEP = 128;
    float sum = 0.0f;
    uint32_t j = 4 * (threadIdx.x % 32);
#pragma unroll 1
    for (; j + (TOGETHER - 1) * STEP < columns; j += TOGETHER * STEP) {
        float4 a[TOGETHER], b[TOGETHER];
#pragma unroll
        for (uint32_t k = 0; k < TOGETHER; ++k) {
            a[k] = four(row + j + k * STEP);
            b[k] = four(v + j + k * STEP);
        }
#pragma unroll
        for (uint32_t k = 0; k < TOGETHER; ++k) sum += dot(a[k], b[k]);
    }
#pragma unroll 1
    for (; j < columns; j += STEP) sum += dot(four(row + j), four(v + j));
    return warp_sum(sum);
}

// Σ of `count` rows of `columns` from `from` on, at column `j`.
__device__ __forceinline__ float4 sum_of(const float* from, uint32_t count, uint32_t columns, uint32_t j) {
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
    for (uint32_t i = 0; i < count; ++i) add(sum, 1.0f, four_left(from + uint64_t{i} * columns + j));
    return sum;
}

__device__ __forceinline__ double length_of(double square) {
    const double length = sqrt(square);
    // Not fmax, which would hide a NaN.
    return length < EPS ? EPS : length;
}

// u, v and σ from b = Wv in u's place and `count` parts of Wᵀb. By a whole block.
__device__ void finish_step(const SpectralLayer& a, const float* parts, uint32_t count) {
    double square = 0.0;
    for (uint32_t i = threadIdx.x; i < a.rows; i += THREADS) {
        const double b = static_cast<double>(__ldcg(a.u + i));
        square += b * b;
    }
    const float of_u = static_cast<float>(1.0 / length_of(block_sum<THREADS>(square)));
    for (uint32_t i = threadIdx.x; i < a.rows; i += THREADS) a.u[i] = __ldcg(a.u + i) * of_u;
    square = 0.0;
    for (uint32_t j = 4 * threadIdx.x; j < a.columns; j += 4 * THREADS) {
        const float4 back = scaled(of_u, sum_of(parts, count, a.columns, j));
        square += static_cast<double>(dot(back, back));
        store_four(a.v + j, back);
    }
    // The sums before may still be read.
    __syncthreads();
    square = block_sum<THREADS>(square);
    const double length = length_of(square);
    const float of_v = static_cast<float>(1.0 / length);
    // Each thread has written what it reads.
    for (uint32_t j = 4 * threadIdx.x; j < a.columns; j += 4 * THREADS) store_four(a.v + j, scaled(of_v, four(a.v + j)));
    if (threadIdx.x == 0) *a.sigma = static_cast<float>(square / length);
}

}  // namespace

KERNEL(spectral_norm_krsc_f32, THREADS,
       (const SpectralLayer* layers, uint32_t count, uint32_t moves, float* scale, uint32_t* arrived)) {
    await_previous();
    let_next_start();
    STATIC_SHARED(float, products, [ROWS]);
    const SpectralLayer a = find_layer(layers, count);
    const uint32_t slice = blockIdx.x - a.first_block, first = slice * ROWS, warp = threadIdx.x / 32;
    const uint32_t rows = min(a.rows - first, ROWS), groups = (a.slices + GROUP - 1) / GROUP;
    const float* const weight = a.weight + uint64_t{first} * a.columns;
    float product = 0.0f;
    if (warp < rows) product = row_times(weight + uint64_t{warp} * a.columns, a.v, a.columns);
    if (moves != 0) {
        if (threadIdx.x % 32 == 0) {
            products[warp] = product;
            if (warp < rows) a.u[first + warp] = product;
        }
        __syncthreads();
        for (uint32_t j = 4 * threadIdx.x; j < a.columns; j += 4 * THREADS) {
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f), of[ROWS];
            // All under way at a time.
#pragma unroll
            for (uint32_t row = 0; row < ROWS; ++row) {
                of[row] = row < rows ? four(weight + uint64_t{row} * a.columns + j) : sum;
            }
#pragma unroll
            for (uint32_t row = 0; row < ROWS; ++row) add(sum, products[row], of[row]);
            store_four(a.partial + uint64_t{slice} * a.columns + j, sum);
        }
        const uint32_t group = slice / GROUP, begin = group * GROUP, of_group = min(a.slices - begin, GROUP);
        if (!last_to_arrive(a.arrived + group, of_group)) return;
        const float* parts = a.partial;
        if (groups > 1) {
            float* const to = a.partial + uint64_t{a.slices} * a.columns;
            for (uint32_t j = 4 * threadIdx.x; j < a.columns; j += 4 * THREADS) {
                const float4 sum = sum_of(parts + uint64_t{begin} * a.columns, of_group, a.columns, j);
                store_four(to + uint64_t{group} * a.columns + j, sum);
            }
            if (!last_to_arrive(a.arrived + groups, groups)) return;
            parts = to;
        }
        finish_step(a, parts, groups > 1 ? groups : a.slices);
    } else {
        if (threadIdx.x % 32 == 0) products[warp] = warp < rows ? product * a.u[first + warp] : 0.0f;
        __syncthreads();
        if (threadIdx.x == 0) {
            float sum = 0.0f;
            for (uint32_t row = 0; row < ROWS; ++row) sum += products[row];
            a.partial[slice] = sum;
        }
        if (!last_to_arrive(a.arrived + groups, a.slices)) return;
        double sum = 0.0;
        for (uint32_t i = threadIdx.x; i < a.slices; i += THREADS) sum += static_cast<double>(__ldcg(a.partial + i));
        sum = block_sum<THREADS>(sum);
        if (threadIdx.x == 0) *a.sigma = static_cast<float>(sum);
    }
    if (!last_to_arrive(arrived, count) || threadIdx.x != 0) return;
    float all = 1.0f;
    for (uint32_t i = 0; i < count; ++i) all *= __ldcg(layers[i].sigma) * layers[i].factor;
    *scale = 1.0f / all;
}
