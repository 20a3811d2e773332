//! Images that cannot be used: how many of them are borne, and how they are named.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::data::source::Source;

/// How many unusable images are named in a message.
pub const NAMED: usize = 10;

/// An image that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The index of the image in its source.
    pub index: usize,
    /// The name of the image in its source.
    pub name: String,
    /// What is wrong with it, starting with its name.
    pub cause: String,
}

/// Refuses a share of unusable images that is none.
///
/// # Errors
/// When `max_bad` is not between 0 and 1.
pub(super) fn check_max_bad(max_bad: f64) -> Result<()> {
    ensure!(
        (0.0..=1.0).contains(&max_bad),
        "--max-bad is a fraction between 0 and 1, not {max_bad}"
    );
    Ok(())
}

/// Refuses a source of whose first `looked_at` images more than the share `max_bad` of all cannot be used.
///
/// # Errors
/// When `skipped` has more images than that, naming the first [`NAMED`], or `max_bad` is not between 0 and 1.
pub(super) fn check_skipped(
    source: &dyn Source,
    skipped: &[Skipped],
    looked_at: usize,
    max_bad: f64,
) -> Result<()> {
    check_max_bad(max_bad)?;
    let allowed = (max_bad * source.len() as f64) as usize;
    ensure!(
        skipped.len() <= allowed,
        "{}: {} of the first {looked_at} images cannot be used, more than --max-bad {max_bad} allows:{}\nReplace or \
         remove these files, or allow a larger fraction with --max-bad",
        source.describe(),
        skipped.len(),
        list(skipped)
    );
    Ok(())
}

/// What is wrong with the first [`NAMED`] images, each on a line of its own that begins with a line break.
pub(super) fn list(skipped: &[Skipped]) -> String {
    let mut text: String = skipped
        .iter()
        .take(NAMED)
        .map(|bad| format!("\n  {}", bad.cause))
        .collect();
    if skipped.len() > NAMED {
        text += &format!("\n  … and {} more", skipped.len() - NAMED);
    }
    text
}
