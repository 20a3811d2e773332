//! Compiles every `cuda/*.cu` with nvcc, if there is one, and embeds the results.
//!
//! Writes `kernels.rs` into OUT_DIR, which `src/backend/cuda/driver/kernels.rs` includes. Without nvcc its list is empty and
//! the program is CPU-only. Environment: `NVCC`, `CUDA_HOME`, `CUDA_PATH` say where the compiler is;
//! `DCGAN_CUDA_ARCHS` (as `90a` or `86,120`) narrows the list of architectures.

use std::collections::VecDeque;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

/// Compute capabilities with machine code of their own. 90a rather than 90, so that a kernel may use what only Hopper
/// has (wgmma).
const ARCHITECTURES: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];
/// The PTX that the driver compiles on any other GPU.
const PTX: &str = "80";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "DCGAN_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // scripts/bootstrap touches build.rs: cargo would rebuild every time for a watched path that is not there.
    for path in ["build.rs", "cuda"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let sources = sources(&root.join("cuda"))?;
    // cargo-fuzz runs the readers of files only, and clippy, which has a build script's results of its own, runs nothing.
    if env::var_os("CARGO_CFG_FUZZING").is_some() || for_clippy() {
        return write_list(&out, &[], &[]);
    }
    let Some(nvcc) = find_nvcc(&root)? else {
        println!(
            "cargo::warning=no nvcc: building without CUDA kernels, for the CPU only. \
             Run scripts/bootstrap (or set CUDA_HOME) and build again to have them."
        );
        return write_list(&out, &[], &[]);
    };
    let architectures = architectures(&nvcc)?;
    // A tenth of the size (line numbers compress well), where nvcc has it: 12.8 and later.
    let compress = output_of(&nvcc, "--help")?
        .contains("--compress-mode")
        .then_some("--compress-mode=size");
    // One process a core: cargo's own jobs are few by the time the build script of the last crate runs.
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(VecDeque::from(sources.clone()));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers.min(sources.len()) {
            scope.spawn(|| {
                while let Some(source) = take(&queue) {
                    if let Err(message) =
                        compile(&nvcc, &root, &source, &architectures, compress, &out)
                    {
                        push(&failures, message);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    write_list(&out, &sources, &architectures)
}

/// Whether `cargo clippy` is at work, which never shares a build directory's results with a build.
fn for_clippy() -> bool {
    env::var_os("RUSTC_WORKSPACE_WRAPPER")
        .is_some_and(|wrapper| Path::new(&wrapper).file_stem() == Some("clippy-driver".as_ref()))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: this is cargo's to do"))
}

fn take(queue: &Mutex<VecDeque<PathBuf>>) -> Option<PathBuf> {
    queue.lock().unwrap_or_else(|e| e.into_inner()).pop_front()
}

fn push(failures: &Mutex<Vec<String>>, message: String) {
    failures
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .push(message);
}

/// `folder/*.cu`, sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries =
        fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let mut sources: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    Ok(sources)
}

/// The first nvcc there is. What NVCC, CUDA_HOME or CUDA_PATH name must exist: a typing error should not end in a
/// CPU-only build.
fn find_nvcc(root: &Path) -> Result<Option<PathBuf>, String> {
    for (name, below) in [
        ("NVCC", ""),
        ("CUDA_HOME", "bin/nvcc"),
        ("CUDA_PATH", "bin/nvcc"),
    ] {
        let Some(value) = env::var_os(name).filter(|v| !v.is_empty()) else {
            continue;
        };
        let path = if below.is_empty() {
            PathBuf::from(&value)
        } else {
            Path::new(&value).join(below)
        };
        if path.is_file() {
            return Ok(Some(path));
        }
        return Err(format!(
            "{name} is set to {}, but {} is not there: correct it or unset it",
            Path::new(&value).display(),
            path.display()
        ));
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    Ok(env::split_paths(&on_path)
        .map(|folder| folder.join("nvcc"))
        .chain([
            PathBuf::from("/usr/local/cuda/bin/nvcc"),
            root.join(".toolchain/bin/nvcc"),
        ])
        .find(|path| path.is_file()))
}

/// What `nvcc argument` prints.
fn output_of(nvcc: &Path, argument: &str) -> Result<String, String> {
    let done = Command::new(nvcc)
        .arg(argument)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    if !done.status.success() {
        return Err(format!(
            "{} {argument} failed: {}",
            nvcc.display(),
            String::from_utf8_lossy(&done.stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// [`ARCHITECTURES`], as far as asked for in DCGAN_CUDA_ARCHS and known to this nvcc.
fn architectures(nvcc: &Path) -> Result<Vec<&'static str>, String> {
    let listed = output_of(nvcc, "--list-gpu-arch")?;
    // nvcc lists 90 and means 90a too.
    let known = |architecture: &str| {
        let plain = architecture.trim_end_matches('a');
        listed
            .lines()
            .any(|line| line.trim() == format!("compute_{plain}"))
    };
    let asked = env::var("DCGAN_CUDA_ARCHS").unwrap_or_default();
    let asked: Vec<&str> = asked
        .split([',', ';', ' '])
        .filter(|a| !a.is_empty())
        .collect();
    if let Some(unknown) = asked.iter().find(|a| !ARCHITECTURES.contains(a)) {
        return Err(format!(
            "DCGAN_CUDA_ARCHS asks for {unknown}; known are {}",
            ARCHITECTURES.join(", ")
        ));
    }
    let chosen: Vec<&str> = ARCHITECTURES
        .into_iter()
        .filter(|a| asked.is_empty() || asked.contains(a))
        .filter(|a| known(a))
        .collect();
    if chosen.is_empty() {
        return Err(format!(
            "{} can build none of the architectures {} (scripts/bootstrap fetches one that can)",
            nvcc.display(),
            if asked.is_empty() {
                ARCHITECTURES.join(", ")
            } else {
                asked.join(", ")
            }
        ));
    }
    Ok(chosen)
}

fn name_of(source: &Path) -> String {
    source
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// One fatbin, and beside it what ptxas says of registers, shared memory and spills; not again where neither the
/// command nor the text of the source or a header has changed.
fn compile(
    nvcc: &Path,
    root: &Path,
    source: &Path,
    architectures: &[&str],
    compress: Option<&str>,
    out: &Path,
) -> Result<(), String> {
    let name = name_of(source);
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17", "-lineinfo"]);
    command.args(compress);
    // The report is read by tests; another nvcc may warn of what this one does not, and that is no error.
    command.args(["-Xptxas", "-v"]);
    command.arg("-I").arg(root.join("cuda/include"));
    for a in architectures {
        command.args(["-gencode", &format!("arch=compute_{a},code=sm_{a}")]);
    }
    command.args([
        "-gencode",
        &format!("arch=compute_{PTX},code=compute_{PTX}"),
    ]);
    command.arg("-o").arg(out.join(format!("{name}.fatbin")));
    command.arg(source);
    let stamp = out.join(format!("{name}.stamp"));
    let made_of = fingerprint(&command, source, &root.join("cuda/include"))?;
    if fs::read_to_string(&stamp).is_ok_and(|earlier| earlier == made_of) {
        return Ok(());
    }
    let done = command
        .output()
        .map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    let report = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        // What ptxas says of the functions that did compile would hide the reason.
        let reason: Vec<&str> = report
            .lines()
            .filter(|line| !line.starts_with("ptxas info") && !line.contains("bytes stack frame"))
            .collect();
        return Err(format!(
            "nvcc does not compile {}:\n{}\n{}",
            source.display(),
            reason.join("\n"),
            String::from_utf8_lossy(&done.stdout)
        ));
    }
    write(&out.join(format!("{name}.ptxas.txt")), &report)?;
    write(&stamp, &made_of)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// The command line and a hash of everything it reads of ours.
fn fingerprint(command: &Command, source: &Path, include: &Path) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    let entries =
        fs::read_dir(include).map_err(|e| format!("cannot read {}: {e}", include.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    files.sort();
    files.push(source.to_path_buf());
    for file in files {
        fs::read(&file)
            .map_err(|e| format!("cannot read {}: {e}", file.display()))?
            .hash(&mut hasher);
    }
    Ok(format!("{command:?}\n{:016x}\n", hasher.finish()))
}

/// `kernels.rs`: the two statics, whose types the including file declares.
fn write_list(out: &Path, sources: &[PathBuf], architectures: &[&str]) -> Result<(), String> {
    let mut text = String::from(
        "/// What was compiled, by file name.\npub static KERNELS: &[KernelFile] = &[\n",
    );
    for source in sources {
        let name = name_of(source);
        // include_bytes! takes an absolute path; Debug quotes it.
        let fatbin = out.join(format!("{name}.fatbin"));
        let report = out.join(format!("{name}.ptxas.txt"));
        let _ = writeln!(
            text,
            "    KernelFile {{ name: {name:?}, fatbin: {{ static A: Aligned<{{ include_bytes!({fatbin:?}).len() }}> = \
             Aligned(*include_bytes!({fatbin:?})); &A.0 }}, ptxas_report: include_str!({report:?}) }},"
        );
    }
    let _ = writeln!(
        text,
        "];\n/// Compute capabilities with machine code in every fatbin, such as `90a`.\n\
         pub static ARCHITECTURES: &[&str] = &{architectures:?};"
    );
    write(&out.join("kernels.rs"), &text)
}
