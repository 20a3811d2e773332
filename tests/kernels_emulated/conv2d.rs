//! `cuda/conv2d.cu` against the CPU backend in f64, each tile with each epilogue.

use dcgan_cuda::backend::cpu::conv2d::gather;
use dcgan_cuda::backend::cuda::conv::shape::{ConvShape, Pass};

use crate::conv::{Account, Mapped, Tensors, check_activations, check_all, geometry, transposed};
use crate::emulation::{Memory, Type};

fn check(case: &ConvShape, t: Type, account: &mut Account) {
    let tensors = Tensors::of(case, t);
    let cpu_weight = transposed(&tensors.weight, case.taps() * case.c as usize);
    let mut product = vec![f64::NAN; case.small_len()];
    gather(&geometry(case), &tensors.large, &cpu_weight, &mut product);
    let mapped = Mapped {
        operation: "conv2d_fprop",
        pass: Pass::Gather,
        case: *case,
        t,
        a: Memory::typed(t, &tensors.large),
        b: Memory::typed(t, &tensors.weight),
        product,
        channels: case.k as usize,
    };
    mapped.check(account);
}

#[test]
fn agrees_with_the_reference() {
    check_all("conv2d", check);
}

#[test]
fn applies_every_activation() {
    check_activations(check);
}
