//! `cuda/logits.cu` against the CPU backend in f64: its convolution, loss and weight gradient, behind batch norm.

use bytemuck::Zeroable;
use dcgan_cuda::backend::Criterion;
use dcgan_cuda::backend::cpu::activation::apply;
use dcgan_cuda::backend::cpu::conv2d::gather;
use dcgan_cuda::backend::cpu::gan_loss::{Logits, loss};
use dcgan_cuda::backend::cuda::ops::batch_norm::{BY_BATCH, Sums, WEIGHTS, Workspace};
use dcgan_cuda::backend::cuda::ops::logits::{Cut, PIXELS, Shape};
use dcgan_cuda::backend::cuda::progress::Entry;
use dcgan_cuda::model::Activation;

use crate::conv::{collapsing, geometry, precision};
use crate::emulation::{Launch, Memory, TYPES, Type, assert_close};
use crate::norm::{Norm, f64s};
use crate::progress::{entries, untouched};
use crate::{normal, run_twice};

/// A layer's input and weights as `t` holds them.
struct Layer {
    t: Type,
    shape: Shape,
    /// Behind batch norm; none without one.
    activation: Option<Activation>,
    x: Vec<f64>,
    /// The first row of the weights.
    w: Vec<f64>,
}

impl Layer {
    fn new(
        t: Type,
        (segments, n, c, stored): (usize, usize, usize, usize),
        activation: Option<Activation>,
    ) -> Self {
        let shape = Shape {
            segments,
            n,
            c: c.next_multiple_of(t.vector()),
            stored,
        };
        let w = normal(t, PIXELS * shape.c, 32);
        Self {
            t,
            shape,
            activation,
            x: normal(t, shape.input(), 31),
            // Logits of order one: of sure ones σ(x) − y is a difference of nearly equal numbers.
            w: w.iter()
                .map(|w| t.round(w / ((PIXELS * shape.c) as f64).sqrt()))
                .collect(),
        }
    }

    fn images(&self) -> usize {
        self.shape.segments * self.shape.n
    }

    fn number(&self) -> i32 {
        self.activation.unwrap_or(Activation::None) as i32
    }

    /// The weights with rows behind the first that must not matter.
    fn weights(&self) -> Memory {
        let mut stored = vec![f64::NAN; self.shape.weights()];
        stored[..self.w.len()].copy_from_slice(&self.w);
        Memory::typed(self.t, &stored)
    }

    /// The layer's input: x behind batch norm and activation, as it would be stored.
    fn y(&self, norm: &Norm) -> Vec<f64> {
        let Some(f) = self.activation else {
            return self.x.clone();
        };
        let (c, len) = (self.shape.c, self.shape.n * PIXELS * self.shape.c);
        let (mean, inverse) = (f64s(&norm.mean), f64s(&norm.inverse));
        let (weight, bias) = (f64s(&norm.weight), f64s(&norm.bias));
        let y = self.x.iter().enumerate().map(|(i, x)| {
            let (at, channel) = (i / len * c + i % c, i % c);
            let normal = (x - mean[at]) * inverse[at];
            self.t
                .round(apply(f, normal * weight[channel] + bias[channel]))
        });
        y.collect()
    }

    /// A row of `stored` for each of `values`, with what must not matter behind it.
    fn rows(&self, values: &[f64]) -> Memory {
        let mut rows = vec![f64::NAN; self.shape.output()];
        for (row, &value) in rows.chunks_mut(self.shape.stored).zip(values) {
            row[0] = value;
        }
        Memory::typed(self.t, &rows)
    }

    /// The first of each row; the others must be 0.
    fn firsts(&self, memory: &Memory) -> Vec<f64> {
        let rows = memory.read(self.t);
        let rows = rows.chunks(self.shape.stored);
        rows.map(|row| {
            assert!(row[1..].iter().all(|&pad| pad == 0.0));
            row[0]
        })
        .collect()
    }

    /// Arguments of the forward kernel before those of the loss.
    fn forward(&self, x: &Memory, norm: &Norm, w: &Memory, logits: &Memory) -> Launch {
        let shape = &self.shape;
        let name = format!("logits_loss_nhwc_{}", self.t.suffix());
        let launch = Launch::new(name, (self.images(), 1, 1), 256).buffer(x);
        let launch = match self.activation {
            Some(_) => launch.buffer(&norm.arrays),
            None => launch.null(),
        };
        launch
            .value(self.number())
            .buffer(w)
            .buffer(logits)
            .value(shape.c as u32)
            .value(shape.n as u32)
            .value(shape.stored as u32)
            .value(shape.segments as u32)
    }
}

/// Inputs, images of each, channels and stored channels: odd numbers, fewer and more vectors than threads, many images.
fn sizes() -> [(usize, usize, usize, usize); 7] {
    [
        (1, 1, 4, 1),
        (2, 3, 24, 8),
        (1, 7, 100, 4),
        (2, 1, 264, 1),
        (2, 2, 1288, 8),
        (1, 2, 2048, 8),
        (2, 257, 8, 1),
    ]
}

fn activations() -> impl Iterator<Item = Option<Activation>> {
    Activation::ALL.into_iter().map(Some).chain([None])
}

fn check_forward(layer: &Layer, criterion: Criterion) {
    let (t, shape) = (layer.t, layer.shape);
    let what = format!("{t:?} {shape:?} {:?}", layer.activation);
    let norm = Norm::new(shape.segments, shape.c, [8, 4]);
    let (x, w) = (Memory::typed(t, &layer.x), layer.weights());
    let scale = if t == Type::F16 { 1024.0 } else { 1.0 };
    let (scales, arrived) = (Memory::of(&[scale as f32]), Memory::of(&[0u32]));
    let first = if shape.segments == 1 { 2 } else { 0 };
    let (slots, iteration) = (4u32, 4 * (1u64 << 31) + 3);
    let counter = Memory::of(&[iteration]);
    let bytes = shape.output() * t.size();
    // Some as of weights that are not normalised yet: theirs are `factor` times these.
    let factor = if layer.activation.is_none() {
        0.625
    } else {
        1.0
    };
    let factors = Memory::of(&[factor as f32]);
    let out = run_twice(&[bytes, bytes, 4 * size_of::<Entry>(), 4 * 3], |out| {
        let launch = layer.forward(&x, &norm, &w, &out[0]).buffer(&arrived);
        let launch = launch.value(1.0f32).value(0.0f32).buffer(&scales);
        let launch = launch.buffer(&out[1]).buffer(&out[2]).buffer(&counter);
        let launch = launch.value(slots).value(first as u32);
        // Of two, the second is reported where it is D's.
        let reported = if shape.n == 257 { 1 } else { shape.segments };
        let launch = launch.value(criterion as u32).value(reported as u32);
        vec![match layer.activation {
            None => launch.buffer(&factors).buffer(&out[3]),
            Some(_) => launch.null().null(),
        }]
    });
    assert_eq!(arrived.values::<u32>(), [0], "{what}");
    let logits = layer.firsts(&out[0]);
    let case = collapsing(layer.images() as u32, (1, 1), shape.c as u32, 1);
    let mut want = vec![f64::NAN; layer.images()];
    gather(&geometry(&case), &layer.y(&norm), &layer.w, &mut want);
    assert_close(&format!("logits, {what}"), &logits, &want, t.tolerance());
    // The loss is that of the logits as they were stored.
    let gradient = layer.firsts(&out[1]);
    let mut rest = entries(&out[2]);
    let entry: Entry = bytemuck::pod_read_unaligned(&rest[3]);
    let reported = if shape.n == 257 { 1 } else { shape.segments };
    rest[3][8 + 16 * first..8 + 16 * (first + reported)].fill(0xff);
    assert!(
        rest.iter().all(|entry| untouched(entry)),
        "more of the ring was written"
    );
    for segment in 0..shape.segments {
        let of = segment * shape.n..(segment + 1) * shape.n;
        let target = if segment == 0 { 1.0 } else { 0.0 };
        let mut want = vec![f64::NAN; shape.n];
        let others = (shape.segments - 1 - segment) * shape.n;
        let normalised: Vec<f64> = logits.iter().map(|x| factor * x).collect();
        let of_segment = |range: std::ops::Range<usize>| Logits {
            outputs: &normalised[range],
            labels: None,
        };
        let both = (
            &of_segment(of.clone()),
            &of_segment(others..others + shape.n),
        );
        let loss = loss(criterion, both, target, &mut want);
        let terms = gradient[of.clone()].iter().zip(&logits[of.clone()]);
        let terms = terms.map(|(g, x)| g * x);
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
        let radial = out[3].values::<f32>().into_iter().map(f64::from);
        let radial: Vec<f64> = radial.collect();
        match layer.activation {
            None => assert!((radial[segment] - sum).abs() <= 1e-6 * size, "{what}"),
            Some(_) => assert!(radial.iter().all(|r| r.is_nan()), "{what}"),
        }
        let got: Vec<f64> = gradient[of].iter().map(|g| g / scale / factor).collect();
        // What is far below the smallest normal f16 has few digits: sure logits of a large batch.
        assert_close(&format!("gradient, {what}"), &got, &want, t.tolerance());
        if segment >= reported {
            continue;
        }
        let losses = entry.losses[first + segment].map(f64::from);
        let want = [loss.loss, loss.probability, loss.accuracy, loss.certainty].map(f64::from);
        assert_close(&format!("losses, {what}"), &losses, &want, 1e-6);
    }
    // Without a loss, the same logits.
    let alone = run_twice(&[bytes], |alone| {
        let launch = layer.forward(&x, &norm, &w, &alone[0]).null();
        let launch = launch.value(1.0f32).value(0.0f32).null().null().null();
        let launch = launch.null().value(slots).value(first as u32);
        vec![launch.value(0u32).value(0u32).null().null()]
    });
    assert_eq!(alone[0].bytes(), out[0].bytes(), "{what}");
}

#[test]
fn logits_and_their_loss_agree_with_the_reference() {
    for t in TYPES {
        for size in sizes() {
            for activation in activations() {
                check_forward(&Layer::new(t, size, activation), Criterion::Bce);
            }
            let layer = Layer::new(t, size, None);
            check_forward(&layer, Criterion::Hinge);
            if size.0 == 2 {
                check_forward(&layer, Criterion::Relativistic);
            }
        }
    }
}

/// The gradients from those of the logits, with `dl` replaced by what is not finite in one image where `bad`.
fn check_backward(layer: &Layer, weights: bool, bad: bool) {
    let (t, shape) = (layer.t, layer.shape);
    let what = format!("{t:?} {shape:?} {:?}, weights {weights}", layer.activation);
    let cut = Cut::new(precision(t), &shape);
    let mut dl = normal(t, layer.images(), 33);
    if bad {
        dl[layer.images() - 1] = f64::INFINITY;
    }
    let (x, w, rows) = (Memory::typed(t, &layer.x), layer.weights(), layer.rows(&dl));
    let how = BY_BATCH | if weights { WEIGHTS } else { 0 };
    let needs = Workspace::needs(shape.segments, cut.chunks, shape.c, cut.tiles);
    let [partial, arrived] = cut.needs();
    let (partial, arrived) = (Memory::poisoned(partial), Memory::of(&vec![0u8; arrived]));
    let flag = Memory::of(&[0u32]);
    let norms = std::cell::RefCell::new(Vec::new());
    let sizes = [shape.input() * t.size(), 4 * shape.weights()];
    let out = run_twice(&sizes, |out| {
        let norm = Norm::new(shape.segments, shape.c, needs);
        partial.fill(&vec![0xffu8; partial.bytes().len()]);
        let sums = match layer.activation {
            Some(_) => norm.sums(cut.chunks, PIXELS * shape.n, how),
            None => Sums::zeroed(),
        };
        norms.borrow_mut().push(norm);
        let name = format!("logits_backward_nhwc_{}", t.suffix());
        let launch = Launch::new(name, (cut.tiles, cut.chunks, shape.segments), 256);
        let launch = launch.buffer(&rows).buffer(&w).buffer(&x).buffer(&out[0]);
        let launch = launch.value(layer.number()).value(shape.c as u32);
        let launch = launch.value(shape.n as u32).value(cut.images as u32);
        let launch = launch.value(shape.stored as u32).plain(sums);
        let launch = match weights {
            true => launch.buffer(&out[1]).buffer(&partial).buffer(&arrived),
            false => launch.null().null().null(),
        };
        vec![launch.buffer(&flag)]
    });
    assert!(arrived.bytes().iter().all(|&b| b == 0), "{what}");
    assert_eq!(flag.values::<u32>(), [u32::from(bad && weights)], "{what}");
    if bad {
        return;
    }
    let norm = norms.borrow_mut().pop().unwrap();
    let len = PIXELS * shape.c;
    let product: Vec<f64> = (0..shape.input())
        .map(|i| dl[i / len] * layer.w[i % len])
        .collect();
    let got = out[0].read(t);
    match layer.activation {
        Some(f) => norm.check_gradient(t, f, &layer.x, &product, &got, how, &what),
        None => assert_close(&what, &got, &product, t.tolerance()),
    }
    if !weights {
        assert!(out[1].bytes().iter().all(|&b| b == 0xff), "{what}");
        return;
    }
    let y = layer.y(&norm);
    let mut want = vec![0.0; shape.weights()];
    for (i, y) in y.iter().enumerate() {
        want[i % len] += dl[i / len] * y;
    }
    let got = out[1].read(Type::F32);
    assert!(got[len..].iter().all(|&pad| pad == 0.0), "{what}");
    // y is rounded from f32 here and from f64 there: some elements differ by a place.
    let most = Type::F32.tolerance().max(t.tolerance() / 10.0);
    assert_close(&format!("dw, {what}"), &got, &want, most);
}

#[test]
fn gradients_agree_with_the_reference() {
    for t in TYPES {
        for size in sizes() {
            for (activation, weights) in activations().zip([true, false].into_iter().cycle()) {
                let layer = Layer::new(t, size, activation);
                check_backward(&layer, weights, false);
                check_backward(&layer, true, false);
            }
        }
    }
}

#[test]
fn gradients_of_weights_that_are_not_finite_are_noticed() {
    for weights in [true, false] {
        for size in [(2, 3, 24, 8), (2, 257, 8, 1)] {
            check_backward(&Layer::new(Type::F16, size, None), weights, true);
        }
    }
}
