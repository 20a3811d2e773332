//! `cuda/conv_transpose2d.cu` against the CPU backend in f64, each tile with each epilogue.

use dcgan_cuda::backend::cpu::conv_transpose2d::scatter;
use dcgan_cuda::backend::cuda::conv::shape::{ConvShape, Pass};

use crate::conv::{Account, Mapped, Tensors, check_activations, check_all, geometry, transposed};
use crate::emulation::{Memory, Type};

fn check(case: &ConvShape, t: Type, account: &mut Account) {
    // Of stride 1 and 4×4 there is a kernel for 1×1 maps only.
    if case.stride == 1 && !case.is_matrix() && !case.is_same() {
        return;
    }
    let tensors = Tensors::of(case, t);
    let cpu_weight = transposed(&tensors.weight, case.taps() * case.c as usize);
    let mut product = vec![f64::NAN; case.large_len()];
    scatter(&geometry(case), &tensors.small, &cpu_weight, &mut product);
    let mapped = Mapped {
        operation: "conv_transpose2d_fprop",
        pass: Pass::Scatter,
        case: *case,
        t,
        a: Memory::typed(t, &tensors.small),
        b: Memory::typed(t, &tensors.weight),
        product,
        channels: case.c as usize,
    };
    mapped.check(account);
}

#[test]
fn agrees_with_the_reference() {
    check_all("conv_transpose2d", check);
}

#[test]
fn applies_every_activation() {
    check_activations(check);
}
