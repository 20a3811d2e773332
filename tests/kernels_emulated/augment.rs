//! `cuda/augment.cu` against the CPU backend in f64.

use dcgan_cuda::backend::Augment;
use dcgan_cuda::backend::cpu::augment::{backward, forward};
use dcgan_cuda::model::Shape;
use dcgan_cuda::random::Purpose;

use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::{normal, run_twice};

const SEED: u64 = 0xfeed << 33 | 5;
const ITERATION: u64 = (7 << 32) + 3;

/// What is augmented.
#[derive(Clone, Copy, Debug)]
struct Case {
    n: usize,
    shape: Shape,
    channels: usize,
    augment: Augment,
    part: usize,
}

impl Case {
    fn len(&self) -> usize {
        self.n * self.shape.len()
    }

    fn stored(&self, t: Type) -> usize {
        self.shape.c.next_multiple_of(t.vector())
    }

    fn bytes(&self, t: Type) -> usize {
        self.len() / self.shape.c * self.stored(t) * t.size()
    }

    /// Rows as they are stored; what is behind them must not matter.
    fn spread(&self, t: Type, values: &[f64]) -> Memory {
        let (c, stored) = (self.shape.c, self.stored(t));
        let mut rows = vec![f64::NAN; values.len() / c * stored];
        for (to, from) in rows.chunks_mut(stored).zip(values.chunks(c)) {
            to[..c].copy_from_slice(from);
        }
        Memory::typed(t, &rows)
    }

    /// The rows again, behind which there is 0.
    fn gathered(&self, t: Type, memory: &Memory) -> Vec<f64> {
        let mut values = Vec::new();
        for row in memory.read(t).chunks(self.stored(t)) {
            let (row, behind) = row.split_at(self.shape.c);
            values.extend_from_slice(row);
            assert!(behind.iter().all(|&v| v == 0.0), "{self:?}: {behind:?}");
        }
        values
    }

    /// With the iteration's number, the last pointer.
    fn launch(
        &self,
        t: Type,
        (name, batches): (&str, usize),
        pointers: &[Option<&Memory>],
        counter: &Memory,
    ) -> Launch {
        let name = format!("{name}_nhwc_{}", t.suffix());
        let mut launch = Launch::new(name, (self.n, batches, 1), 512);
        for pointer in pointers {
            launch = match pointer {
                Some(memory) => launch.buffer(memory),
                None => launch.null(),
            };
        }
        let Shape { h, w, c } = self.shape;
        for value in [h, w, self.stored(t), c, self.channels] {
            launch = launch.value(value as u32);
        }
        let Augment {
            color,
            translation,
            cutout,
        } = self.augment;
        for flag in [color, translation, cutout] {
            launch = launch.value(u32::from(flag));
        }
        launch
            .value(SEED)
            .value(Purpose::Augment as u32)
            .buffer(counter)
            .value((2 * self.n * self.part) as u32)
    }

    /// `values` augmented by the kernel, and by the reference.
    fn forward(&self, t: Type, values: &[f64]) -> [Vec<f64>; 2] {
        let (x, counter) = (self.spread(t, values), Memory::of(&[ITERATION]));
        let out = run_twice(&[self.bytes(t)], |out| {
            let pointers = [Some(&x), Some(&out[0]), None, None];
            vec![self.launch(t, ("augment", 1), &pointers, &counter)]
        });
        let mut want = vec![f64::NAN; self.len()];
        let numbers = Augment::numbers((SEED, self.part), ITERATION, self.n);
        let extent = (self.shape, self.channels);
        forward(self.augment, &numbers, extent, values, &mut want);
        [self.gathered(t, &out[0]), want]
    }

    /// The same of a gradient, backward.
    fn backward(&self, t: Type, values: &[f64]) -> [Vec<f64>; 2] {
        let (dy, counter) = (self.spread(t, values), Memory::of(&[ITERATION]));
        let out = run_twice(&[self.bytes(t)], |out| {
            let pointers = [Some(&dy), Some(&out[0])];
            vec![self.launch(t, ("augment_backward", 1), &pointers, &counter)]
        });
        let mut want = vec![f64::NAN; self.len()];
        let numbers = Augment::numbers((SEED, self.part), ITERATION, self.n);
        let extent = (self.shape, self.channels);
        backward(self.augment, &numbers, extent, values, &mut want);
        [self.gathered(t, &out[0]), want]
    }

    /// One rounding of `t`, where there are colours; else, and of a picture, the very numbers.
    fn check(&self, t: Type, what: &str, [got, want]: [Vec<f64>; 2]) {
        let what = format!("{what} of {self:?} in {t:?}");
        let (c, channels) = (self.shape.c, self.channels);
        let exact = |values: &[f64]| -> Vec<f64> {
            let first = if self.augment.color { channels } else { 0 };
            let rows = values.chunks(c).flat_map(|row| &row[first..]);
            rows.copied().collect()
        };
        assert!(exact(&got) == exact(&want), "{what}: moved or cut wrongly");
        assert_close(&what, &got, &want, t.tolerance());
        let zeros = |values: &[f64]| -> Vec<bool> { values.iter().map(|&v| v == 0.0).collect() };
        assert!(zeros(&got) == zeros(&want), "{what}: other zeros");
    }
}

/// All changes, each by itself, and none.
fn augments() -> impl Iterator<Item = Augment> {
    (0..8).map(|bits| Augment {
        color: bits & 1 != 0,
        translation: bits & 2 != 0,
        cutout: bits & 4 != 0,
    })
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |n, shape: (usize, usize, usize), channels, part, augment| {
        cases.push(Case {
            n,
            shape: Shape::new(shape.0, shape.1, shape.2),
            channels,
            augment,
            part,
        });
    };
    for augment in augments() {
        add(3, (32, 32, 3), 3, 1, augment);
        add(2, (9, 7, 4), 3, 0, augment);
        add(5, (13, 12, 1), 1, 2, augment);
    }
    for part in [0, 3] {
        // More pixels than a block has under way; rows longer than a block; a picture in a vector of its own; one pixel.
        add(2, (65, 33, 3), 3, part, Augment::ALL);
        add(2, (2, 600, 4), 4, part, Augment::ALL);
        add(4, (20, 31, 6), 3, part, Augment::ALL);
        add(4, (16, 16, 10), 2, part, Augment::ALL);
        add(9, (1, 1, 4), 4, part, Augment::ALL);
        add(9, (3, 2, 2), 1, part, Augment::ALL);
    }
    cases
}

#[test]
fn agrees_with_the_reference() {
    for t in TYPES {
        for case in cases() {
            let images = normal(t, case.len(), 1);
            case.check(t, "images", case.forward(t, &images));
        }
    }
}

#[test]
fn gradients_go_back() {
    for t in TYPES {
        for case in cases() {
            let gradient = normal(t, case.len(), 2);
            case.check(t, "gradient", case.backward(t, &gradient));
        }
    }
}

/// ⟨T(x) − T(0), dy⟩ = ⟨x, Tᵀdy⟩.
#[test]
fn the_gradient_is_that_of_the_images() {
    let t = Type::F32;
    let inner = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    for case in cases() {
        let (x, dy) = (normal(t, case.len(), 3), normal(t, case.len(), 4));
        let [[y, _], [at_zero, _], [dx, _]] = [
            case.forward(t, &x),
            case.forward(t, &vec![0.0; x.len()]),
            case.backward(t, &dy),
        ];
        let linear: Vec<f64> = y.iter().zip(&at_zero).map(|(y, zero)| y - zero).collect();
        let [one, other] = [inner(&linear, &dy), inner(&x, &dx)];
        let size = (inner(&linear, &linear) * inner(&dy, &dy)).sqrt();
        assert!(
            (one - other).abs() <= t.tolerance() * size,
            "{case:?}: {one} and {other}"
        );
    }
}

/// A second batch is that of the next part.
#[test]
fn two_batches_are_as_two_calls() {
    for t in TYPES {
        for (channels, c) in [(3, 3), (1, 2)] {
            let case = |part| Case {
                n: 3,
                shape: Shape::new(17, 19, c),
                channels,
                augment: Augment::ALL,
                part,
            };
            let first = case(4);
            let images = [5, 6].map(|which| normal(t, first.len(), which));
            let x = [&images[0], &images[1]].map(|images| first.spread(t, images));
            let counter = Memory::of(&[ITERATION]);
            let out = run_twice(&[first.bytes(t); 2], |out| {
                let pointers = [Some(&x[0]), Some(&out[0]), Some(&x[1]), Some(&out[1])];
                vec![first.launch(t, ("augment", 2), &pointers, &counter)]
            });
            for (batch, images) in images.iter().enumerate() {
                let [alone, _] = case(4 + batch).forward(t, images);
                assert!(first.gathered(t, &out[batch]) == alone, "batch {batch}");
            }
        }
    }
}

/// What is not seen is not computed with; a pixel that is no number makes its image's mean one.
#[test]
fn what_is_no_number_stays() {
    for t in TYPES {
        let cut = Augment {
            cutout: true,
            ..Augment::default()
        };
        for augment in [cut, Augment::ALL] {
            let case = Case {
                n: 1,
                shape: Shape::new(16, 16, 3),
                channels: 3,
                augment,
                part: 0,
            };
            let images = vec![f64::NAN; case.len()];
            for [got, want] in [case.forward(t, &images), case.backward(t, &images)] {
                let wrong = got.iter().zip(&want).filter(|(got, want)| {
                    got.is_nan() != want.is_nan() || !got.is_nan() && got != want
                });
                assert_eq!(wrong.count(), 0, "{t:?}");
                assert!(got.iter().any(|v| v.is_nan()));
            }
        }
    }
}
