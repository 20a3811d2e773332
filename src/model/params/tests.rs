use super::*;

fn dims() -> Dimensions {
    Dimensions {
        image_size: 32,
        width: 4,
        latent_dim: 10,
        channels: 3,
        condition: crate::model::arch::Condition::None,
        design: crate::model::arch::Design::DCGAN,
    }
}

#[test]
fn a_file_round_trips_and_tells_its_dimensions() {
    let dict = StateDict::initial(&dims().generator(), 3);
    let mut file = TensorFile::default();
    dict.add_to("", &mut file);
    assert_eq!(file.counts.len(), 3);
    let back = TensorFile::from_bytes(&file.to_bytes().unwrap()).unwrap();
    let back = StateDict::take_from(&back, "");
    assert_eq!(back, dict);
    assert_eq!(back.generator_dimensions().unwrap(), dims());
}

#[test]
fn a_file_tells_its_family_and_how_it_is_normalised() {
    for family in [Family::Dcgan, Family::Sndcgan] {
        for size in crate::model::arch::IMAGE_SIZES {
            for norm in [Norm::Batch, Norm::None] {
                let dims = Dimensions {
                    image_size: size,
                    width: 2,
                    condition: Condition::Labels(2),
                    design: Design { family, norm },
                    ..dims()
                };
                let shapes = |architecture: &Architecture| -> Shapes {
                    let all = entries(architecture).into_iter();
                    all.map(|entry| (entry.name, entry.shape)).collect()
                };
                let (g, d) = (dims.generator(), dims.discriminator());
                let found = dimensions(&shapes(&d), Role::Discriminator).unwrap();
                let latent_dim = 1;
                assert_eq!(found, Dimensions { latent_dim, ..dims });
                let found = dimensions(&shapes(&g), Role::Generator).unwrap();
                let told = Dimensions {
                    latent_dim: dims.latent_dim + 2,
                    condition: Condition::None,
                    design: Design {
                        family,
                        norm: Norm::Batch,
                    },
                    ..dims
                };
                assert_eq!(found, told);
            }
        }
    }
}

#[test]
fn other_dimensions_and_foreign_bytes_are_named() {
    let dict = StateDict::initial(&dims().generator(), 3);
    let wider = Dimensions { width: 8, ..dims() };
    let error = dict.check(&wider.generator(), true).unwrap_err();
    assert!(error.to_string().contains("other dimensions"), "{error}");
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"PK\x03\x04....archive/data.pkl", "pickle"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"<!DOCTYPE html>", "not a whole safetensors"),
    ] {
        let error = TensorFile::from_bytes(bytes).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn initial_values_have_the_references_distribution() {
    let wide = Dimensions {
        width: 32,
        ..dims()
    };
    let dict = StateDict::initial(&wide.discriminator(), 1);
    let w = &dict.tensors["main.2.weight"].data;
    let mean = w.iter().sum::<f32>() / w.len() as f32;
    let std = (w.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / w.len() as f32).sqrt();
    assert!(
        mean.abs() < 5e-4 && (std - 0.02).abs() < 5e-4,
        "{mean} {std}"
    );
    assert!((dict.tensors["main.3.weight"].data[0] - 1.0).abs() < 0.1);
    assert!(dict.tensors["main.3.bias"].data.iter().all(|&v| v == 0.0));
}
