//! Paths in JSON: a string, or where that would change them, since they are no UTF-8, their bytes as numbers.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(PathBuf),
    Bytes(Vec<u8>),
}

/// As `serde(with)` wants it.
///
/// # Errors
/// Where `to` fails.
pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) if path.to_str().is_none() => path.as_os_str().as_bytes().serialize(to),
        path => path.serialize(to),
    }
}

/// As `serde(with)` wants it.
///
/// # Errors
/// Where there is no path.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let written = Option::<Written>::deserialize(from)?;
    Ok(written.map(|written| match written {
        Written::Text(path) => path,
        Written::Bytes(bytes) => OsString::from_vec(bytes).into(),
    }))
}
