//! What is remembered of choices: `kernels.json` of a run folder, which has the choices themselves, and this user's
//! cache, which has the times that were measured.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::Precision;
use crate::backend::cuda::conv::candidates::ConvKernel;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::files;

/// The kernel of each pass, storage type and shape that a run needs, by a line that says these three.
pub type Choices = BTreeMap<String, ConvKernel>;

/// By what a choice is found again, as `Gather bf16 n128 32x32x64 64x64x3 s2 p1`: pass, type, maps, small map and large
/// map (height × width × channels), stride, padding.
pub(super) fn key(pass: Pass, s: &ConvShape, precision: Precision) -> String {
    format!(
        "{pass:?} {} n{} {}x{}x{} {}x{}x{} s{} p{}",
        precision.suffix(),
        s.n,
        s.small_h,
        s.small_w,
        s.k,
        s.large_h,
        s.large_w,
        s.c,
        s.stride,
        s.pad
    )
}

/// How long a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Timed {
    pub kernel: ConvKernel,
    /// Milliseconds; none where it is not to be used.
    pub ms: Option<f32>,
}

/// What was measured, by the same line as [`Choices`].
type Times = BTreeMap<String, Vec<Timed>>;

/// What was measured earlier, in a file of this user's, written when this goes.
pub(super) struct Cache {
    path: Option<PathBuf>,
    /// By GPU, driver, kernels and libraries.
    all: BTreeMap<String, Times>,
    identity: String,
    changed: bool,
}

impl Cache {
    /// The times that hold for `identity`: GPU, driver, kernels and libraries. What cannot be read is measured again.
    pub fn open(identity: String) -> Self {
        // Profilers and checkers set these; what is measured under them is not what it takes without.
        let observed = ["CUDA_INJECTION64_PATH", "NVTX_INJECTION64_PATH"];
        let observed = observed.iter().any(|name| std::env::var_os(name).is_some());
        let path = files::cache_folder()
            .filter(|_| !observed)
            .map(|folder| folder.join("kernels.json"));
        let text = path.as_ref().and_then(|p| std::fs::read_to_string(p).ok());
        let all = text.and_then(|t| serde_json::from_str(&t).ok());
        Self {
            path,
            all: all.unwrap_or_default(),
            identity,
            changed: false,
        }
    }

    /// What is known of `key`; nothing where it was not measured.
    pub fn get(&self, key: &str) -> Vec<Timed> {
        let own = self.all.get(&self.identity);
        own.and_then(|own| own.get(key))
            .cloned()
            .unwrap_or_default()
    }

    /// Replaces what is known of `key`.
    pub fn put(&mut self, key: &str, times: &[Timed]) {
        let own = self.all.entry(self.identity.clone()).or_default();
        own.insert(key.to_string(), times.to_vec());
        self.changed = true;
    }

    /// Writes the file where something is new. A cache that cannot be written costs time, nothing else.
    pub fn write(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else {
            return;
        };
        if let (Some(folder), Ok(text)) = (path.parent(), serde_json::to_string_pretty(&self.all)) {
            let made = std::fs::create_dir_all(folder).is_ok();
            self.changed = !(made && files::write_atomically(path, text.as_bytes()).is_ok());
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.write();
    }
}
