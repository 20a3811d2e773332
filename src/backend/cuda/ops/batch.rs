//! Launches `cuda/batch.cu`: u8 pixels to a training batch, and its noise.

use anyhow::{Result, bail, ensure};

use crate::backend::Precision;
use crate::backend::cuda::driver::{Device, Span};
use crate::backend::cuda::feed::Spans;
use crate::backend::cuda::ops::latent::Noise;
use crate::model::Shape;

const THREADS: usize = 256;
/// Pixels that a block takes.
const PIXELS: usize = 2 * THREADS;

/// `images[i][y][x][c] = pixels[offset + i][y][flips[offset + i] ? w − 1 − x : x][c] / 127.5 − 1` for the images in slot
/// `*iteration` mod `slots` of `from`, which has `each` a slot; and `noise` of that iteration, in one launch.
///
/// `from` holds pixels in u8 NHWC, either `[slots][each][h][w][c]` or a whole set of images with indices
/// `[slots][each]`, u32, into it; and flips `[slots][each]`, u8. `iteration` is a u64. `images` is NHWC of the storage type,
/// rounded once from f32, with `stored` ≥ c channels, of which those behind c become zero. Behind the noise of a row go the
/// labels of its image, which `from` holds as i8 `[slots][each][labels]`.
///
/// # Errors
/// Where a span is too short, or the driver refuses the launch.
pub fn load(
    device: &Device,
    precision: Precision,
    (from, iteration): (&Spans, Span),
    images: Span,
    (n, shape, stored): (usize, Shape, usize),
    (slots, each, offset): (usize, usize, usize),
    noise: Option<&Noise>,
) -> Result<()> {
    ensure!(
        offset + n <= each,
        "images {offset} to {} of {each}",
        offset + n
    );
    let kernel = format!("batch_nhwc_{}", precision.suffix());
    let blocks = noise.map_or(0, Noise::blocks) + n * (shape.h * shape.w).div_ceil(PIXELS);
    let launch = device
        .launch(&kernel, [blocks, 1, 1], THREADS as u32)?
        .value(from.pixels.pointer)
        .moving(n * shape.len());
    let launch = match from.indices {
        Some(indices) => launch.span(indices, 4 * slots * each)?,
        None => {
            ensure!(
                from.pixels.bytes >= slots * each * shape.len(),
                "{} bytes hold no {slots} batches",
                from.pixels.bytes
            );
            launch.null()
        }
    };
    let launch = launch
        .span(from.flips, slots * each)?
        .span(images, n * shape.h * shape.w * stored * precision.size())?
        .value(shape.h as u32)
        .value(shape.w as u32)
        .value(shape.c as u32)
        .value(stored as u32)
        .span(iteration, 8)?
        .value(slots as u32)
        .value(each as u32)
        .value(offset as u32);
    let labels = noise.map_or(0, |noise| noise.labels);
    let launch = Noise::beside(noise, launch, precision)?;
    let launch = match (from.labels, labels) {
        (_, 0) => launch.null(),
        (Some(span), _) => launch.span(span, slots * each * labels)?,
        (None, _) => bail!("a feed without labels"),
    };
    let launch = launch.value(labels as u32);
    // SAFETY: the arguments are those of cuda/batch.cu, which stays within `slots` slots of `each` images or
    // indices; those are of the loader, which has as many images as were kept. Of the noise it writes rows·stored
    // elements.
    unsafe { launch.run() }
}
