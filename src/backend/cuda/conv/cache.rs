//! What is remembered of choices: `kernels.json` of a run folder, which has the choices themselves, and this user's
//! cache, which has the times that were measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::backend::Precision;
use crate::backend::cuda::conv::candidates::ConvKernel;
use crate::backend::cuda::conv::shape::{ConvShape, Pass};
use crate::files;
use crate::output::print_error_line;
use crate::text::shown;

/// The kernel of each pass, storage type, shape and what follows that a run needs, by a line that says these.
pub type Choices = BTreeMap<String, ConvKernel>;

/// By what a choice is found again, as `Gather bf16 n128 32x32x64 64x64x3 s2 p1`: pass, type, maps, small map and large
/// map (height × width × channels), stride, padding; and the kernel, where it is not 4×4. Behind it comes what follows
/// (`Then`).
pub(super) fn key(pass: Pass, s: &ConvShape, precision: Precision) -> String {
    format!(
        "{pass:?} {} n{} {}x{}x{} {}x{}x{} s{} p{}{}",
        precision.suffix(),
        s.n,
        s.small_h,
        s.small_w,
        s.k,
        s.large_h,
        s.large_w,
        s.c,
        s.stride,
        s.pad,
        if s.is_same() { " 3x3" } else { "" }
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
    /// Its path, or why there is none.
    path: Result<PathBuf, String>,
    /// By GPU, driver, kernels and libraries.
    all: BTreeMap<String, Times>,
    identity: String,
    changed: bool,
}

impl Cache {
    /// The times that hold for `identity`: GPU, driver, kernels and libraries. What cannot be read is measured again.
    pub fn open(identity: String) -> Self {
        // Profilers and checkers set these; what is measured under them is not what it takes without.
        let observers = ["CUDA_INJECTION64_PATH", "NVTX_INJECTION64_PATH"];
        let mut observers = observers.iter().filter(|n| std::env::var_os(n).is_some());
        let path = match (observers.next(), files::cache_folder()) {
            (Some(name), _) => Err(format!(
                "{name} is set, and times that are measured under a profiler or checker are not those without"
            )),
            (None, None) => Err("neither HOME nor XDG_CACHE_HOME names a folder".to_string()),
            (None, Some(folder)) => Ok(folder.join("kernels.json")),
        };
        let all = path.as_ref().map_or_else(|_| BTreeMap::new(), |p| read(p));
        Self {
            path,
            all,
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

    /// Writes the file where something is new. Where it cannot be written, that is said, once in this process: another
    /// run may then choose other kernels.
    pub fn write(&mut self) {
        if !self.changed {
            return;
        }
        match self.try_write() {
            Ok(()) => self.changed = false,
            Err(reason) => say_not_kept(&reason),
        }
    }

    fn try_write(&mut self) -> Result<(), String> {
        let path = self.path.clone()?;
        let failed = |error: anyhow::Error| format!("{error:#}");
        // Another process may have measured other shapes meanwhile.
        for (identity, times) in read(&path) {
            let own = self.all.entry(identity).or_default();
            for (key, times) in times {
                own.entry(key).or_insert(times);
            }
        }
        let folder = files::parent(&path);
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{} cannot be made: {error}", shown(folder)))?;
        let text = serde_json::to_string_pretty(&self.all).map_err(|e| failed(e.into()))?;
        files::write_atomically(&path, text.as_bytes()).map_err(failed)
    }
}

/// Says, once in this process, that the next run may choose other kernels.
pub(super) fn say_not_kept(reason: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        print_error_line(format_args!(
            "note: how fast convolution kernels are was measured, but is not kept for other runs, since {reason}: the \
             next run measures again and may choose others, which round differently (train --kernels-from RUN repeats \
             the choice of a run)"
        ));
    }
}

/// What the file has; nothing where it is not there or cannot be read.
fn read(path: &Path) -> BTreeMap<String, Times> {
    let bytes = files::read_regular(path).ok();
    let all = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    all.unwrap_or_default()
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.write();
    }
}
