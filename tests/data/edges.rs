//! Edges against an implementation of their specification in NumPy, and by what must hold of them; drawings of people;
//! how much two drawings agree.

use std::path::Path;

use dcgan_cuda::data::drawing::{lines, read_drawing};
use dcgan_cuda::data::edges::{Agreement, LINE, PAPER, agreement, edges};
use dcgan_cuda::data::{Synthetic, fit_image};
use image::{DynamicImage, ImageFormat, Luma, LumaA, Rgb, RgbImage};

/// As rings() of scripts/make-edge-fixtures.py.
fn rings(size: usize) -> Vec<u8> {
    let s = size as i64;
    let at = |x: i64, y: i64| {
        let ring = 9 * ((x - s / 2).pow(2) + (y - s / 3).pow(2)) / (s * s) % 5;
        (30 + 45 * ring + (7 * x + 13 * y) % 11) as u8
    };
    (0..s).flat_map(|y| (0..s).map(move |x| at(x, y))).collect()
}

#[test]
fn edges_are_those_of_numpy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/edges.bin");
    let file = std::fs::read(path).unwrap();
    let (mut rest, mut images) = (&file[..], 0);
    let mut take = |bytes: usize| {
        let (taken, after) = rest.split_at(bytes);
        rest = after;
        taken
    };
    while let [a, b, c, d] = *take(4) {
        let size = usize::from(u16::from_le_bytes([a, b]));
        let channels = usize::from(u16::from_le_bytes([c, d]));
        let image = match size {
            ..130 => take(size * size * channels).to_vec(),
            _ => rings(size),
        };
        let bits = take(size * size.div_ceil(8));
        let expected: Vec<u8> = (0..size * size)
            .map(|at| {
                let (x, y) = (at % size, at / size);
                let bit = bits[y * size.div_ceil(8) + x / 8] >> (7 - x % 8) & 1;
                if bit == 1 { LINE } else { PAPER }
            })
            .collect();
        assert!(
            edges(&image, size, channels) == expected,
            "image {images}, {size} px"
        );
        images += 1;
        if images == 11 {
            break;
        }
    }
    assert_eq!((images, rest.len()), (11, 0));
}

fn faces(size: usize) -> Vec<Vec<u8>> {
    let source = Synthetic::new(5, 6);
    let face = |index| fit_image(&source, index, size, None).unwrap();
    (0..6).map(face).collect()
}

fn mirrored(image: &[u8], size: usize, channels: usize) -> Vec<u8> {
    let row = |row: &[u8]| -> Vec<u8> {
        row.chunks_exact(channels)
            .rev()
            .flatten()
            .copied()
            .collect()
    };
    image.chunks_exact(size * channels).flat_map(row).collect()
}

#[test]
fn a_mirrored_image_has_mirrored_edges() {
    for size in [32, 64, 97, 128] {
        for face in faces(size) {
            let of_mirrored = edges(&mirrored(&face, size, 3), size, 3);
            assert_eq!(of_mirrored, mirrored(&edges(&face, size, 3), size, 1));
        }
    }
}

#[test]
fn faces_have_lines_a_pixel_wide_at_every_size() {
    for size in [32, 64, 128, 256, 512] {
        for face in faces(size) {
            let drawn = edges(&face, size, 3);
            let is_line = |x: usize, y: usize| drawn[y * size + x] == LINE;
            let all = drawn.iter().filter(|&&v| v == LINE).count();
            assert_eq!(
                all + drawn.iter().filter(|&&v| v == PAPER).count(),
                size * size
            );
            // An outline is there, and texture is not.
            let most = if size < 64 { 25 } else { 18 };
            assert!(
                all > 2 * size && 100 * all < most * size * size,
                "{size}: {all}"
            );
            let places = (1..size).flat_map(|y| (1..size).map(move |x| (x, y)));
            let blocks = places.filter(|&(x, y)| {
                is_line(x, y) && is_line(x - 1, y) && is_line(x, y - 1) && is_line(x - 1, y - 1)
            });
            let blocks = blocks.count();
            assert!(50 * blocks <= all, "{size}: {blocks} of {all} are thick");
        }
    }
}

#[test]
fn a_step_has_one_line_and_a_flat_image_none() {
    for size in [2, 3, 16, 64, 200] {
        for value in [0, 97, 255] {
            assert!(
                edges(&vec![value; size * size * 3], size, 3)
                    .iter()
                    .all(|&v| v == PAPER)
            );
        }
    }
    let noise: Vec<u8> = (0..64 * 64)
        .map(|i: u32| 100 + (i.wrapping_mul(2_654_435_761) >> 30) as u8)
        .collect();
    assert!(
        edges(&noise, 64, 1).iter().all(|&v| v == PAPER),
        "faint noise"
    );
    for size in [16, 64, 200, 512] {
        let step: Vec<u8> = (0..size * size)
            .map(|at| if at % size < size / 2 { 40 } else { 170 })
            .collect();
        let drawn = edges(&step, size, 1);
        for row in drawn.chunks_exact(size) {
            let lines: Vec<usize> = (0..size).filter(|&x| row[x] == LINE).collect();
            // On the dark side.
            assert_eq!(lines, [size / 2 - 1], "{size}");
        }
        let upright: Vec<u8> = (0..size * size)
            .map(|at| step[at % size * size + at / size])
            .collect();
        let turned: Vec<u8> = (0..size * size)
            .map(|at| drawn[at % size * size + at / size])
            .collect();
        assert_eq!(edges(&upright, size, 1), turned);
    }
}

#[test]
fn agreement_forgives_one_pixel() {
    let with = |places: &[(usize, usize)]| {
        let mut plane = vec![PAPER; 64];
        places.iter().for_each(|&(x, y)| plane[y * 8 + x] = LINE);
        plane
    };
    let column = |x: usize| with(&Vec::from_iter((0..8).map(|y| (x, y))));
    let all = |f1| Agreement {
        precision: f1,
        recall: f1,
        f1,
    };
    assert_eq!(agreement(&column(3), &column(3), 8), all(1.0));
    assert_eq!(agreement(&column(3), &column(4), 8), all(1.0));
    assert_eq!(agreement(&column(3), &column(5), 8), all(0.0));
    // Not from the end of a row to the start of the next.
    assert_eq!(agreement(&column(7), &column(0), 8), all(0.0));
    assert_eq!(agreement(&with(&[]), &with(&[]), 8), all(1.0));
    let part = agreement(&with(&[(0, 0), (6, 6)]), &with(&[(1, 1)]), 8);
    assert_eq!((part.precision, part.recall), (0.5, 1.0));
    assert!((part.f1 - 2.0 / 3.0).abs() < 1e-12);
    let back = agreement(&with(&[(1, 1)]), &with(&[(0, 0), (6, 6)]), 8);
    assert_eq!((back.precision, back.recall, back.f1), (1.0, 0.5, part.f1));
    // Nothing drawn: nothing wrong, and nothing found.
    let none = agreement(&with(&[]), &with(&[(1, 1)]), 8);
    assert_eq!((none.precision, none.recall, none.f1), (1.0, 0.0, 0.0));
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// A circle of lines `width` pixels wide.
fn on_circle(x: u32, y: u32, side: u32, width: f64) -> bool {
    let middle = f64::from(side) / 2.0;
    let distance = (f64::from(x) - middle).hypot(f64::from(y) - middle);
    (distance - 0.4 * f64::from(side)).abs() <= width / 2.0
}

#[test]
fn a_drawing_of_any_kind_becomes_thin_dark_lines() {
    let side = 512;
    let grey = image::GrayImage::from_fn(side, side, |x, y| {
        Luma([if on_circle(x, y, side, 1.5) { 0 } else { 255 }])
    });
    let negative = image::GrayImage::from_fn(side, side, |x, y| {
        Luma([if on_circle(x, y, side, 1.5) { 255 } else { 0 }])
    });
    let coloured = RgbImage::from_fn(side, side, |x, y| match on_circle(x, y, side, 9.0) {
        true => Rgb([20, 40, 160]),
        false => Rgb([250, 240, 210]),
    });
    let clear = image::GrayAlphaImage::from_fn(side, side, |x, y| {
        LumaA([0, if on_circle(x, y, side, 3.0) { 255 } else { 0 }])
    });
    for size in [64, 128, 512, 700] {
        let thin = read_drawing(&png(grey.clone()), "grey", size).unwrap();
        let count = thin.iter().filter(|&&v| v == LINE).count();
        assert_eq!(thin.len(), size * size);
        // As long as the circle, one pixel wide.
        let around = 0.8 * std::f64::consts::PI * size as f64;
        let long = count as f64 / around;
        assert!((0.75..1.1).contains(&long), "{size}: {long}");
        assert_eq!(
            read_drawing(&png(negative.clone()), "negative", size).unwrap(),
            thin
        );
        for (name, file) in [
            ("colour", png(coloured.clone())),
            ("clear", png(clear.clone())),
        ] {
            let other = read_drawing(&file, name, size).unwrap();
            let f1 = agreement(&other, &thin, size).f1;
            // Wide lines are cells beside each other at the size that is asked for; the middle of them may be between.
            assert!(
                f1 > if size <= 128 { 0.99 } else { 0.9 },
                "{name}, {size}: {f1}"
            );
        }
        // What is a thin drawing already stays as it is.
        let again = lines(thin.clone(), size, size, size).unwrap();
        assert_eq!(again, thin);
    }
}

#[test]
fn a_drawing_is_padded_and_spots_stay() {
    // A line across the middle of a wide picture: across the middle of the square.
    let wide = image::GrayImage::from_fn(200, 100, |_, y| Luma([if y == 50 { 0 } else { 255 }]));
    let drawn = read_drawing(&png(wide), "wide", 50).unwrap();
    for (y, row) in drawn.chunks_exact(50).enumerate() {
        assert!(
            row.iter().all(|&v| v == if y == 25 { LINE } else { PAPER }),
            "row {y}"
        );
    }
    for spot in 1..5 {
        let dot = image::GrayImage::from_fn(32, 32, |x, y| {
            Luma([
                if (8..8 + spot).contains(&x) && (8..8 + spot).contains(&y) {
                    0
                } else {
                    255
                },
            ])
        });
        let drawn = read_drawing(&png(dot), "dot", 32).unwrap();
        let left = drawn.iter().filter(|&&v| v == LINE).count();
        assert!((1..=2).contains(&left), "a spot of {spot} px: {left}");
    }
}

#[test]
fn an_empty_drawing_is_refused() {
    for level in [0, 90, 255] {
        let empty = image::GrayImage::from_pixel(40, 40, Luma([level]));
        let error = format!(
            "{:#}",
            read_drawing(&png(empty), "a\nb.png", 64).unwrap_err()
        );
        assert!(
            error.starts_with("a\\nb.png: ") && error.contains("empty"),
            "{error}"
        );
    }
    let paper =
        image::GrayImage::from_fn(40, 40, |x, y| Luma([240 + ((x * 7 + y * 5) % 12) as u8]));
    assert!(read_drawing(&png(paper), "paper", 64).is_err());
    assert!(read_drawing(b"no picture", "x", 64).is_err());
}
