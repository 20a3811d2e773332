//! The parts that data sets are divided into.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Which part of a partitioned data set to use, as `--split` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// The images to train on.
    Train,
    /// The images to choose settings by.
    Val,
    /// The images to measure the result on.
    Test,
    /// The images of all parts, and those of none.
    All,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

/// Writes the name by which the command line knows `value`.
pub(super) fn write_name(value: &impl ValueEnum, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Only a hidden value has no name, and none is.
    let named = value.to_possible_value().ok_or(fmt::Error)?;
    f.write_str(named.get_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run folders and packs name a part as the command line does.
    #[test]
    fn a_part_has_one_name() {
        for split in Split::value_variants() {
            let json = serde_json::to_string(split).unwrap();
            assert_eq!(json, format!("\"{split}\""));
            assert_eq!(Split::from_str(&split.to_string(), false), Ok(*split));
        }
        assert_eq!(Split::Val.to_string(), "val");
    }
}
