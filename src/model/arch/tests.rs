use super::*;

fn dims(image_size: usize, width: usize) -> Dimensions {
    Dimensions {
        image_size,
        width,
        latent_dim: 100,
        channels: 3,
        condition: Condition::None,
        design: crate::model::arch::Design::DCGAN,
    }
}

#[test]
fn the_64_px_networks_are_the_references() {
    let generator = dims(64, 64).generator();
    let weights: Vec<_> = generator.blocks.iter().map(Block::weight_shape).collect();
    assert_eq!(
        weights,
        [
            [100, 512, 4, 4],
            [512, 256, 4, 4],
            [256, 128, 4, 4],
            [128, 64, 4, 4],
            [64, 3, 4, 4]
        ]
    );
    let names = |all: [(usize, Option<usize>); 5]| {
        let main = |index: usize| format!("main.{index}");
        all.map(|(convolution, norm)| (main(convolution), norm.map(main)))
    };
    assert_eq!(
        generator.names(),
        names([
            (0, Some(1)),
            (3, Some(4)),
            (6, Some(7)),
            (9, Some(10)),
            (12, None)
        ])
    );
    let discriminator = dims(64, 64).discriminator();
    let weights: Vec<_> = discriminator
        .blocks
        .iter()
        .map(Block::weight_shape)
        .collect();
    assert_eq!(
        weights,
        [
            [64, 3, 4, 4],
            [128, 64, 4, 4],
            [256, 128, 4, 4],
            [512, 256, 4, 4],
            [1, 512, 4, 4]
        ]
    );
    assert_eq!(
        discriminator.names(),
        names([
            (0, None),
            (2, Some(3)),
            (5, Some(6)),
            (8, Some(9)),
            (11, None)
        ])
    );
}

#[test]
fn the_unet_is_pix2pixs() {
    let d = Dimensions {
        condition: Condition::Picture(1),
        latent_dim: 0,
        ..dims(256, 64)
    };
    d.check().unwrap();
    let g = d.generator();
    assert_eq!(g.blocks.len(), 16);
    assert_eq!(
        (g.input(), g.output()),
        (Shape::new(256, 256, 1), Shape::new(256, 256, 3))
    );
    // As torch.load of its state_dict has them.
    let weight = |index: usize| (g.names()[index].0.clone(), g.blocks[index].weight_shape());
    let deep = "model.model.1.model.3.model.3.model.3.model.3.model.3.model.3.model.";
    for (index, name, shape) in [
        (0, "model.model.0", [64, 1, 4, 4]),
        (1, "model.model.1.model.1", [128, 64, 4, 4]),
        (7, &format!("{deep}1"), [512, 512, 4, 4]),
        (8, &format!("{deep}3"), [512, 512, 4, 4]),
        (
            9,
            &format!("{}5", &deep[..deep.len() - 8]),
            [1024, 512, 4, 4],
        ),
        (14, "model.model.1.model.5", [256, 64, 4, 4]),
        (15, "model.model.3", [128, 3, 4, 4]),
    ] {
        assert_eq!(weight(index), (name.to_string(), shape));
    }
    assert_eq!(g.blocks[15].skip, Some(0));
    assert_eq!(g.skipped_to(6), Some(9));
    // Patches of 46×46 pixels, one every 16.
    assert_eq!(d.discriminator().output(), Shape::new(16, 16, 1));
    assert_eq!(d.discriminator().input(), Shape::new(256, 256, 4));
}

#[test]
fn there_is_a_unet_of_every_size() {
    for size in IMAGE_SIZES {
        let d = Dimensions {
            condition: Condition::Picture(3),
            latent_dim: 2,
            ..dims(size, 3)
        };
        d.check().unwrap();
        assert_eq!(d.generator().input(), Shape::new(size, size, 5));
        assert_eq!(d.generator().output(), Shape::new(size, size, 3));
        let patches = Shape::new(size / 16, size / 16, 1);
        assert_eq!(d.discriminator().output(), patches);
    }
}

#[test]
fn labels_go_beside_z_and_make_outputs() {
    let d = Dimensions {
        condition: Condition::Labels(10),
        ..dims(64, 64)
    };
    d.check().unwrap();
    assert_eq!(d.generator().input(), Shape::new(1, 1, 110));
    assert_eq!(d.discriminator().output(), Shape::new(1, 1, 11));
}

#[test]
fn every_size_ends_in_its_image_and_one_logit() {
    for size in IMAGE_SIZES {
        let d = dims(size, 64);
        d.check().unwrap();
        assert_eq!(d.generator().output(), Shape::new(size, size, 3));
        assert_eq!(d.discriminator().input(), Shape::new(size, size, 3));
        assert_eq!(d.discriminator().output(), Shape::new(1, 1, 1));
        assert!(
            d.generator()
                .blocks
                .iter()
                .all(|b| b.output.c <= CHANNEL_CAP)
        );
    }
    assert!(dims(48, 64).check().is_err());
    assert!(dims(64, 0).check().is_err());
}

#[test]
fn the_32_px_sndcgan_is_that_of_kurach_et_al() {
    let d = Dimensions {
        design: Design {
            family: Family::Sndcgan,
            norm: Norm::None,
        },
        ..dims(32, 64)
    };
    d.check().unwrap();
    let shapes = |net: &Architecture| -> Vec<_> {
        let blocks = net.blocks.iter();
        blocks.map(Block::weight_shape).collect()
    };
    let (g, d) = (d.generator(), d.discriminator());
    assert_eq!(
        shapes(&g),
        [
            [100, 512, 4, 4],
            [512, 256, 4, 4],
            [256, 128, 4, 4],
            [128, 64, 4, 4],
            [3, 64, 3, 3]
        ]
    );
    assert_eq!(
        shapes(&d),
        [
            [64, 3, 3, 3],
            [128, 64, 4, 4],
            [128, 128, 3, 3],
            [256, 128, 4, 4],
            [256, 256, 3, 3],
            [512, 256, 4, 4],
            [512, 512, 3, 3],
            [1, 512, 4, 4]
        ]
    );
    let last = |net: &Architecture| net.names().pop().unwrap();
    // As nn.Sequential counts: convolution, batch norm, ReLU; convolution, LeakyReLU.
    assert_eq!(last(&g), ("main.12".to_string(), None));
    assert_eq!(last(&d), ("main.14".to_string(), None));
    // 64·3·9, and so on, of 32² pixels, 16², …
    let flops: u64 = d.blocks.iter().map(Block::flops).sum();
    let products = 1024 * 27 * 64
        + 256 * (1024 * 128 + 1152 * 128)
        + 64 * (2048 * 256 + 2304 * 256)
        + 16 * (4096 * 512 + 4608 * 512)
        + 8192;
    assert_eq!(flops, 2 * products);
}

#[test]
fn there_is_an_sndcgan_of_every_size_but_of_pictures() {
    for (size, norm) in IMAGE_SIZES.into_iter().zip([
        Norm::Batch,
        Norm::Spectral,
        Norm::None,
        Norm::Batch,
        Norm::Spectral,
    ]) {
        let d = Dimensions {
            condition: Condition::Labels(4),
            design: Design {
                family: Family::Sndcgan,
                norm,
            },
            ..dims(size, 64)
        };
        d.check().unwrap();
        let (g, net) = (d.generator(), d.discriminator());
        assert_eq!(g.input(), Shape::new(1, 1, 104));
        assert_eq!(g.output(), Shape::new(size, size, 3));
        assert_eq!(net.input(), Shape::new(size, size, 3));
        assert_eq!(net.output(), Shape::new(1, 1, 5));
        assert_eq!(net.spectral_norm, norm == Norm::Spectral);
        let widest = net.blocks.iter().map(|b| b.output.c).max();
        assert_eq!(widest, Some(CHANNEL_CAP.min(16 * size)));
        let (first, last) = (&net.blocks[0], &net.blocks[net.blocks.len() - 1]);
        assert!(!first.batch_norm && !last.batch_norm && !g.blocks[g.blocks.len() - 1].batch_norm);
        let normed = net.blocks.iter().filter(|b| b.batch_norm).count();
        let expected = if norm == Norm::Batch {
            net.blocks.len() - 2
        } else {
            0
        };
        assert_eq!(normed, expected);
        assert!(d.to_string().starts_with("SNDCGAN, "), "{d}");
        let of_picture = Dimensions {
            condition: Condition::Picture(1),
            ..d
        };
        assert!(of_picture.check().is_err());
    }
}
