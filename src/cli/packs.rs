//! The packs that commands make: with a progress bar on a terminal, and with what people should know.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Result;

use crate::cli::output::print_error_line;
use crate::data::pack::{Pack, Recipe};
use crate::data::prepare::{Notice, Place, Prepared, Request};
use crate::data::{Dataset, LoadOptions, OpenOptions, Source};

/// The pack of `source`, which `options` opened, at `load.size` px, verified; made where there is none yet. `named`: its
/// file, where a person named one, else it is in the cache folder. Tells of delays unless `quiet`.
///
/// # Errors
/// When more images cannot be used than may be, the pack can neither be used nor made, or `load.stop` turned true.
pub fn prepare(
    source: &dyn Source,
    options: &OpenOptions,
    named: Option<&Path>,
    load: LoadOptions,
    quiet: bool,
) -> Result<Prepared> {
    let recipe = Recipe::of_source(options, load.size, source);
    Request {
        source,
        place: Place::of(&recipe, named)?,
        recipe,
        options: LoadOptions {
            crop: options.crop,
            progress: !quiet && std::io::stderr().is_terminal(),
            ..load
        },
        notice: &|notice| match notice {
            Notice::Delay(text) if !quiet => print_error_line(text),
            Notice::Delay(_) => {}
            Notice::Warning(text) => print_error_line(text),
        },
    }
    .open_or_make()
}

/// The images of a pack. Tells of those that were left out, and of those that are damaged.
pub fn dataset_of(pack: Pack) -> Dataset {
    let dataset = Dataset::from_pack(pack);
    for report in [dataset.skipped_report(), dataset.damaged_report()] {
        report.into_iter().for_each(print_error_line);
    }
    dataset
}
