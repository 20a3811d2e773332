// Activations and their derivatives, the latter as functions of the activation's output.
#pragma once

namespace {

// Values are shared with src/backend/cuda/ops/activation.rs.
enum Activation : int { ACTIVATION_NONE = 0, ACTIVATION_RELU = 1, ACTIVATION_LEAKY_RELU = 2, ACTIVATION_TANH = 3 };

// Slope of LeakyReLU below zero.
constexpr float LEAKY_SLOPE = 0.2f;

// y = f(x). NaN goes through: fmaxf would hide it.
__device__ __forceinline__ float activate(int activation, float x) {
    switch (activation) {
        case ACTIVATION_RELU: return x < 0.0f ? 0.0f : x;
        case ACTIVATION_LEAKY_RELU: return x < 0.0f ? x * LEAKY_SLOPE : x;
        case ACTIVATION_TANH: return tanhf(x);
        default: return x;
    }
}

// f'(x) from y = f(x). At the kink it is that of the negative side, as in PyTorch.
__device__ __forceinline__ float activation_derivative(int activation, float y) {
    switch (activation) {
        case ACTIVATION_RELU: return y > 0.0f ? 1.0f : 0.0f;
        case ACTIVATION_LEAKY_RELU: return y > 0.0f ? 1.0f : LEAKY_SLOPE;
        case ACTIVATION_TANH: return 1.0f - y * y;
        default: return 1.0f;
    }
}

}  // namespace
