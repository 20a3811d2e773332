//! `kernels.json` of a run folder: which kernels a device chose, so that another run can choose the same.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use crate::files;
use crate::text::shown;

/// Which kernels a backend chose, where it had a choice: the same choice gives the same bits.
///
/// What it says is the backend's own affair. To all others it is a JSON value that can be kept in a run folder.
#[derive(Clone, Debug)]
pub struct KernelChoices {
    json: String,
    /// Where it was read from.
    file: Option<PathBuf>,
}

impl Default for KernelChoices {
    /// Nothing was chosen.
    fn default() -> Self {
        Self {
            json: "{}".to_string(),
            file: None,
        }
    }
}

impl KernelChoices {
    /// `choices`, a JSON object, of a backend.
    ///
    /// # Errors
    /// Where `choices` cannot be JSON.
    pub fn encode<T: Serialize>(choices: &T) -> Result<Self> {
        Ok(Self {
            json: serde_json::to_string_pretty(choices)?,
            file: None,
        })
    }

    /// What [`Self::encode`] was given, by the backend that made it.
    ///
    /// # Errors
    /// Where it is something else: the file that it came from is damaged, or of another version of this program.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.json).with_context(|| match &self.file {
            Some(path) => format!(
                "{} is damaged, or was written by another version of this program; without it kernels are chosen anew, \
                 which may round differently",
                shown(path)
            ),
            None => "the kernel choices are not of this backend".to_string(),
        })
    }

    /// The file in a run folder.
    fn path(run: &Path) -> PathBuf {
        run.join("kernels.json")
    }

    /// The choices of the run in the folder `run`; `None` where it was trained on a device that has no choice. What
    /// they say is looked at by [`Self::decode`] only.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = Self::path(run);
        match files::read_regular(&path) {
            Ok(json) => Ok(Some(Self {
                json: String::from_utf8_lossy(&json).into_owned(),
                file: Some(path),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(format!("cannot read {}", shown(&path))),
        }
    }

    /// Writes the choices into the run folder `run`, whole or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = format!("{}\n", self.json.trim_end());
        files::write_atomically(&Self::path(run), text.as_bytes())
    }
}

impl Serialize for KernelChoices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: serde_json::Value =
            serde_json::from_str(&self.json).map_err(serde::ser::Error::custom)?;
        value.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_run_folder_keeps_them_as_they_are() {
        let run = tempfile::tempdir().unwrap();
        assert!(KernelChoices::read(run.path()).unwrap().is_none());
        // Not in the order of their names.
        let choices = BTreeMap::from([("Gather", [("tile", 3), ("splits", 1)])]);
        KernelChoices::encode(&choices)
            .unwrap()
            .write(run.path())
            .unwrap();
        let read = KernelChoices::read(run.path()).unwrap().unwrap();
        let decoded: BTreeMap<String, [(String, u32); 2]> = read.decode().unwrap();
        assert_eq!(decoded["Gather"][1], ("splits".to_string(), 1));
        let again = tempfile::tempdir().unwrap();
        read.write(again.path()).unwrap();
        let text = |run: &Path| std::fs::read_to_string(run.join("kernels.json")).unwrap();
        assert_eq!(text(again.path()), text(run.path()));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let run = tempfile::tempdir().unwrap();
        std::fs::write(run.path().join("kernels.json"), "{\"Gather\": ").unwrap();
        let read = KernelChoices::read(run.path()).unwrap().unwrap();
        let error = read.decode::<BTreeMap<String, u32>>().unwrap_err();
        assert!(
            error.to_string().contains("kernels.json is damaged"),
            "{error:#}"
        );
        let none: BTreeMap<String, u32> = KernelChoices::default().decode().unwrap();
        assert!(none.is_empty());
    }
}
