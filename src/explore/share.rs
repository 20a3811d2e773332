//! The page as one file that runs the generator in the browser itself.

use anyhow::Result;
use half::f16;
use serde_json::json;

use crate::explore::model::{Folded, describe, folded};
use crate::explore::routes::PAGE;
use crate::gan::sheet::to_pixels;
use crate::hex::base64;
use crate::latent::directions::Direction;
use crate::latent::generator::Generator;
use crate::latent::points::Points;
use crate::model::arch::{Activation, Convolution};

/// Faces on which weights of half precision are tried.
const TRIED: usize = 16;

/// A file that needs nothing else.
pub struct Shared {
    /// HTML.
    pub html: Vec<u8>,
    /// Whether its weights are of half precision.
    pub half: bool,
}

/// The page with the generator and the directions in it. Weights are of half precision where no picture of some that are
/// tried differs by more than one grey level for that.
///
/// # Errors
/// Where the generator lacks weights, or the device fails.
pub fn page(generator: &Generator, directions: &[Direction]) -> Result<Shared> {
    let half = half_is_enough(generator)?;
    let mut model = describe(generator, directions)?;
    let mut blob = Vec::new();
    let mut blocks = Vec::new();
    let architecture = generator.whole();
    for (block, folded) in architecture.blocks.iter().zip(folded(generator)?) {
        let Folded {
            filter,
            scale,
            shift,
        } = folded;
        blocks.push(json!({
            "expand": block.convolution == Convolution::Expand,
            "same": block.convolution == Convolution::Same,
            "side": block.input.h,
            "from": block.input.c,
            "to": block.output.c,
            "tanh": block.activation == Activation::Tanh,
            "scale": scale,
            "shift": shift,
        }));
        let transposed = block.convolution.is_transposed();
        for value in taps(&filter, (block.input.c, block.output.c), transposed) {
            match half {
                true => blob.extend(f16::from_f32(value).to_le_bytes()),
                false => blob.extend(value.to_le_bytes()),
            }
        }
    }
    if !generator.labels.is_empty() {
        blocks[0]["told"] = json!(generator.labels);
    }
    model["blocks"] = json!(blocks);
    model["half"] = json!(half);
    let text = |name: &str| {
        PAGE.iter()
            .find(|(known, ..)| *known == name)
            .map_or("", |p| p.2)
    };
    // `<` opens a tag even within a string of a script.
    let model = model.to_string().replace('<', "\\u003c");
    let data = format!(
        "<script type=\"application/json\" id=\"model\">{model}</script>\n<script type=\"text/plain\" id=\"weights\">{}\
         </script>\n",
        base64(&blob)
    );
    let scripts = format!(
        "{data}<script id=\"latent\">\n{}</script>\n<script>\n{}</script>",
        text("latent.js"),
        text("app.js")
    );
    let policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src \
                  'unsafe-inline' blob:; worker-src blob:; style-src 'unsafe-inline'; img-src blob: data:; base-uri \
                  'none'; form-action 'none'\">";
    let html = text("")
        .replace("<!-- policy -->", policy)
        .replace(
            "<link rel=\"stylesheet\" href=\"style.css\">",
            &format!("<style>\n{}</style>", text("style.css")),
        )
        .replace("<script src=\"latent.js\" defer></script>", "")
        .replace("<script src=\"app.js\" defer></script>", "")
        .replace("<!-- scripts -->", &scripts);
    Ok(Shared {
        html: html.into_bytes(),
        half,
    })
}

/// A filter as PyTorch has it, `[c in][c out][4][4]` where it is `transposed`, else `[c out][c in][3][3]`, as
/// `[r][s][c in][c out]`: the innermost loop goes over outputs.
fn taps(
    filter: &[f32],
    (from, to): (usize, usize),
    transposed: bool,
) -> impl Iterator<Item = f32> + '_ {
    let count = filter.len() / (from * to).max(1);
    let at = move |i: usize, o: usize| match transposed {
        true => i * to + o,
        false => o * from + i,
    };
    (0..count).flat_map(move |tap| {
        (0..from).flat_map(move |i| (0..to).map(move |o| filter[at(i, o) * count + tap]))
    })
}

/// Whether the weights of convolutions may be rounded to half precision.
fn half_is_enough(generator: &Generator) -> Result<bool> {
    let mut dict = generator.dict.clone();
    for tensor in dict.tensors.values_mut().filter(|t| t.shape.len() == 4) {
        for value in &mut tensor.data {
            *value = f16::from_f32(*value).to_f32();
        }
    }
    let dimensions = generator.dimensions;
    let mut rounded = Generator::new(generator.networks, &dict, dimensions);
    rounded.labels.clone_from(&generator.labels);
    let points = Points::of_seed(dimensions.latent_dim, 0, TRIED);
    // Weights beyond what half precision holds give no image at all.
    let Ok(images) = rounded.images(&points) else {
        return Ok(false);
    };
    let exact = generator.images(&points)?;
    let len = generator.image_len();
    let pixels = |image| to_pixels(image, dimensions.channels, dimensions.image_size);
    Ok(exact
        .chunks_exact(len)
        .zip(images.chunks_exact(len))
        .all(|(a, b)| {
            let pairs = pixels(a).into_iter().zip(pixels(b));
            pairs.into_iter().all(|(a, b)| a.abs_diff(b) <= 1)
        }))
}
