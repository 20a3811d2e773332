// What the host has to know of the kernels' headers, by name, for the test that holds the two together. nvcc never sees
// this file.
#include "activation.cuh"
#include "batch_norm.cuh"
#include "convolution.cuh"
#include "progress.cuh"
#include "spectral_norm.cuh"
#include "window.cuh"

namespace {

struct Known {
    const char* name;
    double value;
};

#define ACTIVATION(NAME, NUMBER, F, DERIVATIVE) {"activation " #NAME, ACTIVATION_##NAME},
#define SIZE(TYPE) {"size of " #TYPE, sizeof(TYPE)}
#define FIELD(TYPE, NAME) {#TYPE "." #NAME, offsetof(TYPE, NAME)}

const Known KNOWN[] = {
    {"activation none", ACTIVATION_none},
    ACTIVATIONS(ACTIVATION)
    {"LEAKY_SLOPE", LEAKY_SLOPE},
    {"TENTH_SLOPE", TENTH_SLOPE},
    {"SURE", SURE},
    {"LEAST_LOSS_SCALE", LEAST_LOSS_SCALE},
    {"MOST_LOSS_SCALE", MOST_LOSS_SCALE},
    {"BATCH_NORM_EPSILON", BATCH_NORM_EPSILON},
    {"BATCH_NORM_MOMENTUM", BATCH_NORM_MOMENTUM},
    {"NORM_RUNNING", NORM_RUNNING},
    {"NORM_BY_BATCH", NORM_BY_BATCH},
    {"NORM_WEIGHTS", NORM_WEIGHTS},

    SIZE(AdamTensor),
    FIELD(AdamTensor, gradient),
    FIELD(AdamTensor, weight),
    FIELD(AdamTensor, m),
    FIELD(AdamTensor, v),
    FIELD(AdamTensor, average),
    FIELD(AdamTensor, cast),
    FIELD(AdamTensor, left),
    FIELD(AdamTensor, right),
    FIELD(AdamTensor, sigma),
    FIELD(AdamTensor, radial),
    FIELD(AdamTensor, count),
    FIELD(AdamTensor, first_block),
    FIELD(AdamTensor, columns),
    FIELD(AdamTensor, factor),
    {"RADIAL_TERMS", RADIAL_TERMS},

    SIZE(SpectralLayer),
    FIELD(SpectralLayer, weight),
    FIELD(SpectralLayer, u),
    FIELD(SpectralLayer, v),
    FIELD(SpectralLayer, sigma),
    FIELD(SpectralLayer, partial),
    FIELD(SpectralLayer, arrived),
    FIELD(SpectralLayer, rows),
    FIELD(SpectralLayer, columns),
    FIELD(SpectralLayer, first_block),
    FIELD(SpectralLayer, slices),
    FIELD(SpectralLayer, factor),

    SIZE(AdamState),
    FIELD(AdamState, taken),
    FIELD(AdamState, skipped),
    FIELD(AdamState, left_out),
    FIELD(AdamState, loss_scale),
    FIELD(AdamState, steady),
    FIELD(AdamState, correction1),
    FIELD(AdamState, correction2),
    FIELD(AdamState, rate),

    SIZE(BalanceState),
    FIELD(BalanceState, accuracy),
    FIELD(BalanceState, certainty),
    FIELD(BalanceState, advantage),
    FIELD(BalanceState, begun),

    SIZE(Progress),
    FIELD(Progress, iteration),
    FIELD(Progress, adam),
    FIELD(Progress, balance),

    SIZE(Metrics),
    FIELD(Metrics, iteration),
    FIELD(Metrics, losses),
    FIELD(Metrics, steps),
    FIELD(Metrics, loss_scale),
    FIELD(Metrics, gradient_norm),
    FIELD(Metrics, rate),

    SIZE(BatchNormArrays),
    FIELD(BatchNormArrays, mean),
    FIELD(BatchNormArrays, inverse),
    FIELD(BatchNormArrays, mean_g),
    FIELD(BatchNormArrays, mean_gx),
    FIELD(BatchNormArrays, weight),
    FIELD(BatchNormArrays, bias),
    FIELD(BatchNormArrays, weight_gradient),
    FIELD(BatchNormArrays, bias_gradient),
    FIELD(BatchNormArrays, running_mean),
    FIELD(BatchNormArrays, running_var),
    FIELD(BatchNormArrays, tracked),
    FIELD(BatchNormArrays, not_finite),

    SIZE(Sums),
    FIELD(Sums, arrays),
    FIELD(Sums, partial),
    FIELD(Sums, groups),
    FIELD(Sums, arrived),
    FIELD(Sums, segments),
    FIELD(Sums, chunks),
    FIELD(Sums, rows),
    FIELD(Sums, channels),
    FIELD(Sums, group),
    FIELD(Sums, how),
    FIELD(Sums, over_rows),

    SIZE(Convolution),
    FIELD(Convolution, n),
    FIELD(Convolution, small_h),
    FIELD(Convolution, small_w),
    FIELD(Convolution, k),
    FIELD(Convolution, large_h),
    FIELD(Convolution, large_w),
    FIELD(Convolution, c),
    FIELD(Convolution, stride),
    FIELD(Convolution, pad),
    FIELD(Convolution, side),
    FIELD(Convolution, over_side),
    FIELD(Convolution, multipliers),
    FIELD(Convolution, shifts),

    SIZE(Window),
    FIELD(Window, in_h),
    FIELD(Window, in_w),
    FIELD(Window, c),
    FIELD(Window, out_h),
    FIELD(Window, out_w),
    FIELD(Window, kernel_h),
    FIELD(Window, kernel_w),
    FIELD(Window, stride),
    FIELD(Window, pad_h),
    FIELD(Window, pad_w),
};

}  // namespace

// What is known, one after the other; null behind the last.
extern "C" const Known* emulate_known(size_t index) {
    return index < sizeof KNOWN / sizeof *KNOWN ? KNOWN + index : nullptr;
}
