//! Memory of the device, and the types in it.

use std::cell::Cell;

use half::{bf16, f16};

use super::build::sanitized;
use super::gpu::{Allocation, Machine, machine, on_gpu};

/// Storage types of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    F32,
    F16,
    Bf16,
}

pub const TYPES: [Type; 3] = [Type::F32, Type::F16, Type::Bf16];

impl Type {
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Elements of one 16-byte access.
    pub fn vector(self) -> usize {
        16 / self.size()
    }

    /// Largest relative L2 error of one kernel: rounding to this type once, with room for a sum's own rounding.
    pub fn tolerance(self) -> f64 {
        match self {
            Self::F32 => 1e-5,
            Self::F16 => 2e-3,
            Self::Bf16 => 1e-2,
        }
    }

    /// `value` as this type holds it.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Self::F32 => f64::from(value as f32),
            Self::F16 => f16::from_f32(value as f32).to_f64(),
            Self::Bf16 => bf16::from_f32(value as f32).to_f64(),
        }
    }
}

/// Memory of the device. Between guards that are checked when it is read, or, where a sanitizer watches, exactly as
/// long as asked for.
pub struct Memory {
    place: Place,
    guard: usize,
}

enum Place {
    /// Cells, since kernels write to them behind Rust's back.
    Host(Box<[Cell<u8>]>),
    Gpu(Allocation),
}

/// NaN in every type.
const POISON: u8 = 0xff;

impl Memory {
    /// `bytes` of poison.
    pub fn poisoned(bytes: usize) -> Self {
        let exact = match machine() {
            Machine::Emulated => sanitized(),
            Machine::Gpu => false,
            Machine::GpuSanitizer | Machine::GpuInitcheck => true,
        };
        let guard = if exact { 0 } else { 256 };
        let whole = bytes + 2 * guard;
        if on_gpu() {
            let allocation = Allocation::new(whole);
            if machine() != Machine::GpuInitcheck {
                allocation.write(0, &vec![POISON; whole]);
            }
            let place = Place::Gpu(allocation);
            return Self { place, guard };
        }
        let cells = vec![Cell::new(POISON); whole].into_boxed_slice();
        assert_eq!(
            cells.as_ptr().align_offset(16),
            0,
            "malloc aligns to 16 bytes"
        );
        let place = Place::Host(cells);
        Self { place, guard }
    }

    pub fn of<T: bytemuck::NoUninit>(values: &[T]) -> Self {
        let memory = Self::poisoned(size_of_val(values));
        memory.fill(values);
        memory
    }

    /// `values` in storage type `t`.
    pub fn typed(t: Type, values: &[f64]) -> Self {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&v| match t {
                Type::F32 => (v as f32).to_ne_bytes().to_vec(),
                Type::F16 => f16::from_f32(v as f32).to_ne_bytes().to_vec(),
                Type::Bf16 => bf16::from_f32(v as f32).to_ne_bytes().to_vec(),
            })
            .collect();
        Self::of(&bytes)
    }

    /// Bytes between the guards.
    fn len(&self) -> usize {
        let whole = match &self.place {
            Place::Host(cells) => cells.len(),
            Place::Gpu(allocation) => allocation.len(),
        };
        whole - 2 * self.guard
    }

    /// Overwrites all of it.
    pub fn fill<T: bytemuck::NoUninit>(&self, values: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        assert_eq!(bytes.len(), self.len());
        match &self.place {
            Place::Host(cells) => {
                for (cell, &byte) in cells[self.guard..].iter().zip(bytes) {
                    cell.set(byte);
                }
            }
            Place::Gpu(allocation) => allocation.write(self.guard, bytes),
        }
    }

    pub fn copy_from(&self, other: &Self) {
        self.fill(&other.bytes());
    }

    pub fn address(&self) -> u64 {
        let start = match &self.place {
            Place::Host(cells) => cells.as_ptr() as u64,
            Place::Gpu(allocation) => allocation.address(),
        };
        start + self.guard as u64
    }

    /// What it holds.
    ///
    /// # Panics
    /// Where a kernel wrote before or behind it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = match &self.place {
            Place::Host(cells) => cells.iter().map(Cell::get).collect(),
            Place::Gpu(allocation) => allocation.read(),
        };
        let behind = bytes.split_off(self.guard + self.len());
        let inside = bytes.split_off(self.guard);
        assert!(
            bytes.iter().chain(&behind).all(|&b| b == POISON),
            "written beyond the buffer"
        );
        inside
    }

    pub fn values<T: bytemuck::AnyBitPattern>(&self) -> Vec<T> {
        self.bytes()
            .chunks_exact(size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
            .collect()
    }

    /// The elements as f64.
    ///
    /// # Panics
    /// Where an element still holds poison.
    pub fn read(&self, t: Type) -> Vec<f64> {
        let bytes = self.bytes();
        let values: Vec<f64> = bytes
            .chunks_exact(t.size())
            .enumerate()
            .map(|(i, b)| {
                assert!(
                    b.iter().any(|&b| b != POISON),
                    "element {i} was not written"
                );
                match t {
                    Type::F32 => f64::from(f32::from_ne_bytes(b.try_into().unwrap())),
                    Type::F16 => f16::from_ne_bytes(b.try_into().unwrap()).to_f64(),
                    Type::Bf16 => bf16::from_ne_bytes(b.try_into().unwrap()).to_f64(),
                }
            })
            .collect();
        values
    }
}
