//! `latent arithmetic`: what it reads, and what it comes to.

use std::fs;
use std::path::Path;

use dcgan_cuda::latent::directions::{Boundary, Direction};
use dcgan_cuda::latent::expression::Expression;
use dcgan_cuda::latent::files::LatentFile;
use dcgan_cuda::latent::operand::{Operand, What};
use dcgan_cuda::model::arch::Dimensions;
use proptest::prelude::*;

use crate::training::{refuses, succeeds};
use crate::walk::{latent, noise, vectors};

/// Weight and text of each term.
fn terms(text: &str) -> Vec<(f32, String)> {
    let expression = Expression::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let terms = expression.terms.into_iter();
    terms.map(|term| (term.weight, term.operand.text)).collect()
}

#[test]
fn expressions_are_sums_with_weights() {
    let is = |text: &str, wanted: &[(f32, &str)]| {
        let wanted: Vec<_> = wanted.iter().map(|(w, t)| (*w, t.to_string())).collect();
        assert_eq!(terms(text), wanted, "{text}");
    };
    is("17", &[(1.0, "17")]);
    is(" 17-3 + 25:2", &[(1.0, "17"), (-1.0, "3"), (1.0, "25:2")]);
    is("−17 − 3", &[(-1.0, "17"), (-1.0, "3")]);
    is(
        "2*17 - 0.5 * (3 - 4*Male)",
        &[(2.0, "17"), (-0.5, "3"), (2.0, "Male")],
    );
    is(
        "mean(3, 17:2 ,a/b-1) - sefa-01",
        &[(1.0, "mean(3, 17:2 ,a/b-1)"), (-1.0, "sefa-01")],
    );
    is(
        "Male & !Eyeglasses - Female",
        &[(1.0, "Male & !Eyeglasses"), (-1.0, "Female")],
    );
    is(
        "x.safetensors:3 - 'my faces+1.safetensors':2",
        &[
            (1.0, "x.safetensors:3"),
            (-1.0, "'my faces+1.safetensors':2"),
        ],
    );
    is(
        "5_o_Clock_Shadow + '7'",
        &[(1.0, "5_o_Clock_Shadow"), (1.0, "'7'")],
    );
    let whole = Operand::parse("my (faces).safetensors:3");
    assert!(whole.is_err(), "{whole:?}");
    let whole = Operand::parse("my - faces.safetensors:3").unwrap().what;
    assert!(
        matches!(whole, What::File { row: Some(2), .. }),
        "{whole:?}"
    );
}

#[test]
fn what_does_not_parse_is_pointed_at() {
    // Text, and what stands under it.
    for (text, carets) in [
        ("", "^"),
        ("17 +", "    ^"),
        ("17 + + 3", "     ^"),
        ("17 3", "   ^"),
        ("(17", "^"),
        ("mean(17 3)", "        ^"),
        ("mean 3", "     ^"),
        ("17:x", "   ^"),
        ("99999999999999999999", "^^^^^^^^^^^^^^^^^^^^"),
        ("Über + 漢字 + )", "              ^"),
        ("a\u{1b}b + )", "           ^"),
        ("!17", " ^^"),
        ("'x", "^^"),
        ("1e39*17", "^^^^^"),
    ] {
        let said = Expression::parse(text).unwrap_err().to_string();
        let lines: Vec<&str> = said.split('\n').collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert_eq!(lines[2].get(2..), Some(carets), "{said}");
    }
    let deep = "(".repeat(100_000);
    assert!(Expression::parse(&deep).is_err());
    assert!(Expression::parse(&"mean(".repeat(100_000)).is_err());
    assert!(Expression::parse(&["1"; 1000].join("+")).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_pointed_at(
        text in "([0-9]{1,3}|[-+*()&!:,'\" −]|mean|Male|x\\.safetensors|漢|\\PC){0,24}"
    ) {
        match Expression::parse(&text) {
            Ok(expression) => {
                for term in expression.terms {
                    prop_assert_eq!(&text[term.operand.at], &term.operand.text);
                    prop_assert!(term.weight.is_finite());
                }
            }
            Err(misread) => {
                prop_assert!(text.get(misread.at.clone()).is_some());
                prop_assert!(!misread.to_string().is_empty());
            }
        }
        if let Err(misread) = Operand::parse(&text) {
            prop_assert!(text.get(misread.at).is_some());
        }
    }
}

/// A file with directions along the first components of z: `Glasses` the first, `Male` halfway to the second,
/// `No_Beard` the third.
fn directions(folder: &Path) -> String {
    let direction = |name: &str, parts: &[f32]| {
        let mut vector = vec![0.0; 10];
        vector[..parts.len()].copy_from_slice(parts);
        Direction {
            name: name.to_string(),
            vector,
            boundary: Some(Boundary {
                offset: -0.25,
                slope: 3.0,
                accuracy: 0.9,
                share: 0.4,
            }),
        }
    };
    let file = LatentFile {
        directions: vec![
            direction("Eyeglasses", &[1.0]),
            direction("Male", &[0.6, 0.8]),
            direction("No_Beard", &[0.0, 0.0, 1.0]),
        ],
        ..LatentFile::default()
    };
    let dimensions = Dimensions {
        image_size: 32,
        width: 4,
        latent_dim: 10,
        channels: 3,
        condition: dcgan_cuda::model::arch::Condition::None,
        design: dcgan_cuda::model::arch::Design::DCGAN,
    };
    let path = folder.join("d.safetensors");
    fs::write(&path, file.to_bytes(&dimensions.generator()).unwrap()).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn faces_are_added_and_subtracted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a");
    succeeds(&latent("arithmetic", &out, &["17 - 0.5*3:2 + mean(4,5)"]));
    let z = vectors(&out.join("latents.safetensors"));
    assert_eq!(z.len(), 1);
    for (i, z) in z[0].iter().enumerate() {
        let mean = (noise(4, 1)[0][i] + noise(5, 1)[0][i]) / 2.0;
        let wanted = noise(17, 1)[0][i] - 0.5 * noise(3, 2)[1][i] + mean;
        assert!((z - wanted).abs() < 1e-5);
    }
    let result = image::open(out.join("result.png")).unwrap();
    assert_eq!((result.width(), result.height()), (32, 32));
    assert!(image::open(out.join("sheet.png")).unwrap().width() > 8 * 64);
}

#[test]
fn names_act_on_what_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = directions(folder.path());
    let results = |name: &str, expression: &str, draws: &str| {
        let out = folder.path().join(name);
        let args = [expression, "--directions", &file, "--draws", draws];
        succeeds(&latent("arithmetic", &out, &args));
        vectors(&out.join("latents.safetensors"))
    };
    let glasses = |z: &[f32]| z[0] - 0.25;
    let male = |z: &[f32]| 0.6 * z[0] + 0.8 * z[1] - 0.25;
    let no_beard = |z: &[f32]| z[2] - 0.25;
    let cancelled = results("a", "Glasses + Beard - Beard", "8");
    assert_eq!(cancelled.len(), 8);
    assert_ne!(cancelled[0], cancelled[1]);
    for z in &cancelled {
        assert!(glasses(z) > 0.0 && no_beard(z) > 0.0, "{z:?}");
    }
    for z in results("b", "Eyeglasses + Male - Male + Female", "8") {
        assert!(glasses(&z) > 0.0 && male(&z) < 0.0, "{z:?}");
    }
    for z in results("c", "Eyeglasses + Male", "4") {
        assert!(glasses(&z) > 0.0 && male(&z) > 0.0, "{z:?}");
    }
    // All that is named is as the paper has it.
    for z in results(
        "d",
        "Male&Eyeglasses - Male&!Eyeglasses + Female&!Eyeglasses",
        "4",
    ) {
        assert!(male(&z) < 0.0, "{z:?}");
    }
    // Beside a face: a step along the direction, and nothing across it.
    let face = &results("e", "17 + Male - Eyeglasses", "1")[0];
    let before = &noise(17, 1)[0];
    assert!(glasses(face) < glasses(before) - 1.0);
    assert!(male(face) > male(before) + 1.0);
    for i in 2..10 {
        assert!((face[i] - before[i]).abs() < 1e-5);
    }
    let out = folder.path().join("f");
    let args = ["17 + Eyeglases", "--directions", &file];
    refuses(
        &latent("arithmetic", &out, &args),
        1,
        &["did you mean Eyeglasses?", "No_Beard"],
    );
    let args = ["Male&Female", "--directions", &file];
    refuses(
        &latent("arithmetic", &out, &args),
        1,
        &["no image has both Male"],
    );
    refuses(
        &latent("arithmetic", &out, &["17 + "]),
        2,
        &["  17 + \n       ^\n"],
    );
    assert!(!out.exists());
}
