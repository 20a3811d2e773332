// Activations and their derivatives, the latter as functions of the activation's output.
#pragma once

namespace {

// Slope of LeakyReLU below zero.
constexpr float LEAKY_SLOPE = 0.2f;
// Of SNDCGAN's.
constexpr float TENTH_SLOPE = 0.1f;

// Every activation but none: its name, its number, y = f(x), and f'(x) from y. The names and numbers are those of
// `Activation` in src/model/arch.rs. NaN goes through f: fmaxf would hide it. At a kink f' is that of the negative
// side, as in PyTorch.
#define ACTIVATIONS(ACTIVATION)                                                              \
    ACTIVATION(relu, 1, x < 0.0f ? 0.0f : x, y > 0.0f ? 1.0f : 0.0f)                         \
    ACTIVATION(leaky_relu, 2, x < 0.0f ? x * LEAKY_SLOPE : x, y > 0.0f ? 1.0f : LEAKY_SLOPE) \
    ACTIVATION(tanh, 3, tanhf(x), 1.0f - y * y)                                              \
    ACTIVATION(leaky_relu_tenth, 4, x < 0.0f ? x * TENTH_SLOPE : x, y > 0.0f ? 1.0f : TENTH_SLOPE)

#define ACTIVATION_NUMBER(NAME, NUMBER, F, DERIVATIVE) ACTIVATION_##NAME = NUMBER,
enum Activation : int { ACTIVATION_none = 0, ACTIVATIONS(ACTIVATION_NUMBER) };
#undef ACTIVATION_NUMBER

// y = f(x).
__device__ __forceinline__ float activate(int activation, float x) {
    switch (activation) {
#define ACTIVATION_CASE(NAME, NUMBER, F, DERIVATIVE) \
    case ACTIVATION_##NAME: return F;
        ACTIVATIONS(ACTIVATION_CASE)
#undef ACTIVATION_CASE
        default: return x;
    }
}

// f'(x) from y = f(x).
__device__ __forceinline__ float activation_derivative(int activation, float y) {
    switch (activation) {
#define ACTIVATION_CASE(NAME, NUMBER, F, DERIVATIVE) \
    case ACTIVATION_##NAME: return DERIVATIVE;
        ACTIVATIONS(ACTIVATION_CASE)
#undef ACTIVATION_CASE
        default: return 1.0f;
    }
}

template <int NUMBER>
struct ActivationNumber {
    static constexpr int number = NUMBER;
};

// Calls `run` with the ActivationNumber of `activation`: what loops inside then has no switch and no other activation's
// code in it.
template <typename Run>
__device__ __forceinline__ void with_activation(int activation, Run run) {
    switch (activation) {
#define ACTIVATION_CASE(NAME, NUMBER, F, DERIVATIVE) \
    case ACTIVATION_##NAME: run(ActivationNumber<ACTIVATION_##NAME>()); break;
        ACTIVATIONS(ACTIVATION_CASE)
#undef ACTIVATION_CASE
        default: run(ActivationNumber<ACTIVATION_none>());
    }
}

}  // namespace
