//! Launches `cuda/concatenate.cu`: channels of two maps one behind the other, and the way back of gradients.

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::backend::Precision;
use crate::backend::cuda::driver::{Device, Launch, Span};
use crate::model::Activation;

const THREADS: usize = 256;

/// Channels of maps, NHWC.
#[derive(Clone, Debug)]
pub struct Part {
    /// Of the storage type, 16-byte aligned.
    pub maps: Span,
    /// Channels of a row as stored.
    pub stored: usize,
    /// Which channels.
    pub range: Range<usize>,
    /// Pixels that share a row: 1, or those of an image.
    pub each: usize,
}

impl Part {
    /// Adds what the kernel takes of it for so many `pixels`.
    fn arguments<'a>(&self, launch: Launch<'a>, size: usize, pixels: usize) -> Result<Launch<'a>> {
        let Self {
            maps,
            stored,
            range,
            each,
        } = self;
        ensure!(
            range.end <= *stored && *each > 0,
            "channels {range:?} of {stored}"
        );
        Ok(launch
            .span(*maps, pixels.div_ceil(*each) * stored * size)?
            .value(*stored as u32)
            .value(range.start as u32)
            .value(range.len() as u32)
            .value(*each as u32))
    }
}

/// `to[pixel]` ← [f(first's channels), second's, 0 …] with f = `activation` (ReLU or none), `pixels` rows of `stored`
/// channels of the storage type.
///
/// # Errors
/// Where there are more channels than are stored, `stored` is no whole number of 16-byte vectors, a span is too short, or
/// the driver refuses the launch.
pub fn forward(
    device: &Device,
    precision: Precision,
    (first, activation): (&Part, Activation),
    second: Option<&Part>,
    (to, pixels, stored): (Span, usize, usize),
) -> Result<()> {
    let (size, vector) = (precision.size(), precision.vector());
    let channels = first.range.len() + second.map_or(0, |part| part.range.len());
    ensure!(
        channels <= stored && stored.is_multiple_of(vector),
        "{channels} channels in rows of {stored}"
    );
    let kernel = format!("concatenate_nhwc_{}", precision.suffix());
    let blocks = (pixels * stored / vector).div_ceil(THREADS);
    let launch = device.launch(&kernel, [blocks, 1, 1], THREADS as u32)?;
    let launch = first
        .arguments(launch, size, pixels)?
        .value(activation as i32);
    let launch = match second {
        Some(part) => part.arguments(launch, size, pixels)?,
        None => launch
            .null()
            .value(0u32)
            .value(0u32)
            .value(0u32)
            .value(1u32),
    };
    let launch = launch
        .span(to, pixels * stored * size)?
        .value(pixels as u32)
        .value(stored as u32);
    // SAFETY: the arguments are those of cuda/concatenate.cu, which reads the rows of the parts and writes `pixels` rows.
    unsafe { launch.run() }
}

/// The gradient of a part from that of the whole, of which it is a range of channels, with one row a pixel:
/// `to` ← whole·f′ where not `add`, else `to` + whole·f′, `pixels` rows of `stored` channels. f′ is that of `of`'s
/// activation (ReLU) from the map beside it, laid out as `to`; 1 without.
///
/// # Errors
/// Where the range is larger than what is stored, a span is too short, or the driver refuses the launch.
pub fn part_gradient(
    device: &Device,
    precision: Precision,
    whole: &Part,
    of: Option<(Activation, Span)>,
    (to, pixels, stored): (Span, usize, usize),
    add: bool,
) -> Result<()> {
    let (size, vector) = (precision.size(), precision.vector());
    ensure!(
        whole.range.len() <= stored
            && whole.range.end <= whole.stored
            && stored.is_multiple_of(vector)
            && whole.each == 1,
        "channels {:?} of {} in rows of {stored}",
        whole.range,
        whole.stored
    );
    let kernel = format!("concatenate_part_gradient_nhwc_{}", precision.suffix());
    let blocks = (pixels * stored / vector).div_ceil(THREADS);
    let launch = device
        .launch(&kernel, [blocks, 1, 1], THREADS as u32)?
        .span(whole.maps, pixels * whole.stored * size)?
        .value(whole.stored as u32)
        .value(whole.range.start as u32)
        .value(whole.range.len() as u32);
    let launch = match of {
        Some((activation, map)) => launch
            .span(map, pixels * stored * size)?
            .value(activation as i32),
        None => launch.null().value(Activation::None as i32),
    };
    let launch = launch
        .span(to, pixels * stored * size)?
        .value(pixels as u32)
        .value(stored as u32)
        .value(u32::from(add));
    // SAFETY: the arguments are those of cuda/concatenate.cu, which reads `pixels` rows of each map and writes those of `to`.
    unsafe { launch.run() }
}
