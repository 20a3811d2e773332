//! Augmented images and their gradients, against golden files made by PyTorch in f64; and what is drawn for them.

use dcgan_cuda::backend::cpu::augment::{backward, forward};
use dcgan_cuda::backend::cpu::{Cpu, Real};
use dcgan_cuda::backend::{Augment, Backend, NUMBERS};
use dcgan_cuda::model::Shape;

use crate::parity_pytorch::{cases, f64s, nhwc, read, relative};

fn agree<T: Real>(bound: f64) {
    let file = read("augment.safetensors");
    let none = Augment::default();
    let color = Augment {
        color: true,
        ..none
    };
    let translation = Augment {
        translation: true,
        ..none
    };
    let cutout = Augment {
        cutout: true,
        ..none
    };
    for (block, augment) in [
        ("color", color),
        ("translation", translation),
        ("cutout", cutout),
        ("color,translation,cutout", Augment::ALL),
    ] {
        let cases = cases(&file, block);
        assert_eq!(cases.len(), 5);
        for case in cases {
            let get = |name: &str| &file.floats[&format!("{case}/{name}")];
            let [x, dy, y, dx] = ["x", "dy", "y", "dx"].map(|name| nhwc::<T>(get(name)));
            let c = get("x").shape[1];
            let shape = Shape::new(get("x").shape[2], get("x").shape[3], c);
            let numbers: Vec<[f32; NUMBERS]> = get("numbers").data.as_chunks().0.to_vec();
            let mut got = vec![T::nan(); x.len()];
            forward(augment, &numbers, (shape, c), &x, &mut got);
            let error = relative(&f64s(&got), &f64s(&y));
            assert!(error <= bound, "{case}: {error:e}");
            got.fill(T::nan());
            backward(augment, &numbers, (shape, c), &dy, &mut got);
            let error = relative(&f64s(&got), &f64s(&dx));
            assert!(error <= bound, "{case} gradient: {error:e}");
        }
    }
}

/// f64 rounded to f32 is off by half an ulp, 6e-8.
#[test]
fn images_and_gradients_agree_with_pytorch() {
    agree::<f64>(1e-7);
    agree::<f32>(1e-6);
}

/// A picture behind the image moves with it and keeps its colours, forward and backward.
#[test]
fn a_picture_keeps_its_colours() {
    let shape = Shape::new(12, 10, 5);
    let numbers = Augment::numbers((3, 0), 7, 4);
    let x: Vec<f64> = (0..4 * shape.len()).map(|i| (i % 97) as f64).collect();
    for pass in [forward::<f64>, backward::<f64>] {
        let of = |augment, channels| {
            let mut out = vec![f64::NAN; x.len()];
            pass(augment, &numbers, (shape, channels), &x, &mut out);
            out
        };
        let moved = Augment {
            color: false,
            ..Augment::ALL
        };
        let (all, moved) = (of(Augment::ALL, 3), of(moved, 3));
        for (all, moved) in all.chunks(shape.c).zip(moved.chunks(shape.c)) {
            assert_eq!(all[3..], moved[3..]);
        }
        assert_ne!(all, moved);
        assert_ne!(all, of(Augment::ALL, 5));
    }
}

/// Every image of every part and iteration has numbers of its own, uniform in [0, 1).
#[test]
fn numbers_are_uniform_and_an_images_own() {
    let n = 4096;
    let numbers = Augment::numbers((9, 2), 5, n);
    for k in 0..NUMBERS {
        let of: Vec<f64> = numbers.iter().map(|image| f64::from(image[k])).collect();
        assert!(of.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = of.iter().sum::<f64>() / n as f64;
        let square = of.iter().map(|u| (u - 0.5) * (u - 0.5)).sum::<f64>() / n as f64;
        // Five standard errors, 0.0045 and 0.00117.
        assert!((mean - 0.5).abs() < 0.023, "{k}: {mean}");
        assert!((square - 1.0 / 12.0).abs() < 0.006, "{k}: {square}");
    }
    // Parts follow one another.
    let both = Augment::numbers((9, 0), 5, 2 * n);
    assert_eq!(Augment::numbers((9, 1), 5, n), both[n..]);
    assert_ne!(numbers, Augment::numbers((9, 2), 6, n));
    assert_ne!(numbers, Augment::numbers((8, 2), 5, n));
    let mut bits: Vec<_> = numbers.iter().map(|u| u.map(f32::to_bits)).collect();
    bits.sort_unstable();
    bits.dedup();
    assert_eq!(bits.len(), n);
}

/// All shifts and all places of the square come about, and no others.
#[test]
fn shifts_and_squares_are_those_of_the_paper() {
    let numbers = Augment::numbers((1, 0), 0, 4096);
    let (mut shifts, mut squares) = (Vec::new(), Vec::new());
    for numbers in &numbers {
        let changes = Augment::ALL.changes(numbers, [32, 27]);
        shifts.push(changes.moved);
        squares.push(changes.cut);
    }
    // 27/8 is rounded to 3, 27/2 to 14; the square's centre is anywhere from 0 to 32, and to 27.
    let along = |axis: usize| shifts.iter().map(move |moved| moved[axis]);
    assert_eq!((along(0).min(), along(0).max()), (Some(-4), Some(4)));
    assert_eq!((along(1).min(), along(1).max()), (Some(-3), Some(3)));
    for (axis, side, size) in [(0, 32, 16), (1, 27, 14)] {
        let cut = |at: usize| &squares[at][axis];
        let (least, most) = (0..squares.len()).fold((side, 0), |(least, most), at| {
            assert!(cut(at).end <= side && (size / 2..=size).contains(&cut(at).len()));
            (least.min(cut(at).len()), most.max(cut(at).len()))
        });
        assert_eq!((least, most), (size / 2, size));
    }
    let none = Augment::default().changes(&numbers[0], [32, 27]);
    assert_eq!((none.moved, none.cut), ([0; 2], [0..0, 0..0]));
}

#[test]
fn the_backend_refuses_what_is_no_batch_of_images() {
    let backend = Cpu::<f32>::new();
    let progress = backend.progress(1).unwrap();
    let buffer = |n, c| backend.buffer(n, Shape::new(8, 8, c)).unwrap();
    let run = |channels, from: &[(usize, usize)], to: &[(usize, usize)]| {
        let from: Vec<_> = from.iter().map(|&(n, c)| buffer(n, c)).collect();
        let mut to: Vec<_> = to.iter().map(|&(n, c)| buffer(n, c)).collect();
        let from: Vec<_> = from.iter().collect();
        backend.augment(&Augment::ALL, channels, (1, 0), &progress, &from, &mut to)
    };
    run(3, &[(2, 3)], &[(2, 3)]).unwrap();
    run(1, &[(2, 3), (3, 3)], &[(2, 3), (2, 3)]).unwrap();
    for (channels, from, to) in [
        (3, &[][..], &[][..]),
        (3, &[(2, 3)], &[]),
        (3, &[(2, 3); 3], &[(2, 3); 3]),
        (4, &[(2, 3)], &[(2, 3)]),
        (0, &[(2, 3)], &[(2, 3)]),
        (3, &[(1, 3)], &[(2, 3)]),
        (3, &[(2, 4)], &[(2, 3)]),
        (3, &[(2, 3); 2], &[(2, 3), (1, 3)]),
    ] {
        let error = run(channels, from, to).unwrap_err().to_string();
        assert!(error.contains("cannot be augmented"), "{error}");
    }
    let gradient = |n, c| {
        let mut to = buffer(2, 3);
        backend.augment_backward(&Augment::ALL, 3, (1, 0), &progress, &buffer(n, c), &mut to)
    };
    gradient(4, 3).unwrap();
    assert!(gradient(1, 3).is_err() && gradient(2, 4).is_err());
}
