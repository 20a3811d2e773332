//! What people are told of a run before it begins.

use std::path::Path;

use anyhow::Result;

use super::condition;
use crate::backend::{Backend, Use};
use crate::cli::output::print_line;
use crate::data::Source;
use crate::data::prepare::Place;
use crate::model::{Architecture, StateDict};
use crate::text;
use crate::train::config::Config;
use crate::train::memory;

/// The device in one line, with the `note` that there is on it.
pub fn device<B: Backend>(backend: &B, note: Option<&str>) -> String {
    match note {
        Some(note) => format!("{}, {note}", backend.describe()),
        None => backend.describe(),
    }
}

/// Prints what `--dry-run` does: the data, the device with the `note` that there is on it, both networks, the memory in
/// MiB, the pack at `place`, the folder `run`, and the options.
///
/// # Errors
/// When the options cannot be written as JSON.
pub fn dry_run<B: Backend>(
    backend: &B,
    config: &Config,
    run: &Path,
    source: &dyn Source,
    place: &Place,
    note: Option<&str>,
) -> Result<()> {
    print_line(source.describe());
    print_line(device(backend, note));
    condition::describe(config).into_iter().for_each(print_line);
    let dimensions = config.dimensions();
    let (g, d) = (dimensions.generator(), dimensions.discriminator());
    for (name, architecture, passes) in [("generator", &g, 1), ("discriminator", &d, 2)] {
        print_architecture(name, architecture);
        let bytes = backend.bytes(architecture, passes * config.batch_size, Use::Training);
        print_line(format!("  memory for training: {:.1} MiB", mib(bytes)));
    }
    print_line(format!(
        "memory in all, with sample sheets: {:.1} MiB",
        mib(memory::needed(backend, config, config.batch_size))
    ));
    let image = config.image_size * config.image_size * source.channels();
    let pixels = (source.len() as u64).saturating_mul(image as u64);
    print_line(format!(
        "pack of the images: {:.1} MiB, {}{}",
        mib(pixels),
        text::shown(place.path()),
        match place.path().exists() {
            true => "",
            false => ", to be made",
        }
    ));
    print_line(format!("run folder: {}", text::shown(run)));
    print_line(serde_json::to_string_pretty(config)?);
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn print_architecture(name: &str, architecture: &Architecture) {
    print_line(format!(
        "{name}: {} parameters, {:.1} MFLOP an image forward",
        StateDict::count(architecture),
        architecture.blocks.iter().map(|b| b.flops()).sum::<u64>() as f64 / 1e6
    ));
    for block in &architecture.blocks {
        let name = if block.convolution.is_transposed() {
            "conv_transpose2d"
        } else {
            "conv2d"
        };
        let (stride, padding) = block.convolution.stride_padding();
        let side = block.convolution.kernel();
        print_line(format!(
            "  {name} {side}×{side} s{stride} p{padding}  {}×{}×{} → {}×{}×{}{}  {:?}",
            block.input.h,
            block.input.w,
            block.input.c,
            block.output.h,
            block.output.w,
            block.output.c,
            match (block.batch_norm, architecture.spectral_norm) {
                (true, _) => "  batch norm",
                (_, true) => "  spectral norm",
                _ => "",
            },
            block.activation
        ));
    }
}
