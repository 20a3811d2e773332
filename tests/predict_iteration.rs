//! scripts/predict-iteration: the launches of an iteration as the emulated driver traces them without running a kernel,
//! and the model of what they cost.

mod driver;
mod emulation;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dcgan_cuda::backend::cuda::driver::kernels::KERNELS;
use serde_json::Value;
use tempfile::TempDir;

const REFERENCE: [&str; 15] = [
    "bench",
    "step",
    "--seconds",
    "0.01",
    "--device",
    "cuda",
    "--image-size",
    "64",
    "--batch-size",
    "128",
    "--precision",
    "bf16",
    "--conv",
    "ours",
    "--width=64",
];

/// Whether there is nothing to trace; says so.
fn skipped() -> bool {
    if KERNELS.is_empty() {
        eprintln!("SKIPPED: built without nvcc, run scripts/bootstrap first");
    }
    KERNELS.is_empty()
}

fn text(out: &Output) -> String {
    let (said, wrong) = (&out.stdout, &out.stderr);
    let [said, wrong] = [said, wrong].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n{said}{wrong}", out.status)
}

/// `ptxas NAME REGISTERS SHARED`, a line for each kernel: on sm_90a where it was compiled for that, else on another; the
/// registers differ little.
fn resources() -> String {
    let mut lines = BTreeMap::new();
    for file in KERNELS {
        let mut name = "";
        for line in file.ptxas_report.lines() {
            if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                let (entry, architecture) = rest.split_once("' for '").unwrap();
                let counts = architecture.starts_with("sm_90a") || !lines.contains_key(entry);
                name = if counts { entry } else { "" };
            }
            if name.is_empty() {
                continue;
            }
            let Some((_, used)) = line.split_once("Used ") else {
                continue;
            };
            let registers = used.split(' ').next().unwrap();
            let shared = used
                .split(", ")
                .find_map(|part| part.strip_suffix(" bytes smem"));
            lines.insert(name, format!("{registers} {}", shared.unwrap_or("0")));
        }
    }
    let mut text = String::new();
    for (name, used) in lines {
        let _ = writeln!(text, "ptxas {name} {used}");
    }
    text
}

/// Runs the program on a GPU whose kernels do nothing, and leaves in `trace` what ran and what ptxas says of it.
fn trace(arguments: &[String], multiprocessors: &str, trace: &Path) {
    let cache = TempDir::new().unwrap();
    let mut command = driver::command(env!("CARGO_BIN_EXE_dcgan-cuda"));
    command
        .args(arguments)
        .env("XDG_CACHE_HOME", cache.path())
        .env("EMULATED_RUN", "0")
        .env("EMULATED_MEMORY", "80000000000")
        .env("EMULATED_MULTIPROCESSORS", multiprocessors)
        .env("EMULATED_TRACE", trace);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    let ran = fs::read_to_string(trace).unwrap();
    fs::write(trace, resources() + &ran).unwrap();
}

/// What scripts/predict-iteration runs to have a trace of this build; passes at once in any other run.
#[test]
fn trace_for_the_script() {
    let Some(path) = std::env::var_os("ITERATION_TRACE") else {
        return;
    };
    assert!(
        !KERNELS.is_empty(),
        "built without nvcc, run scripts/bootstrap first"
    );
    let variable = |name: &str| std::env::var(name).unwrap();
    let arguments: Vec<String> = serde_json::from_str(&variable("ITERATION_COMMAND")).unwrap();
    trace(
        &arguments,
        &variable("ITERATION_MULTIPROCESSORS"),
        Path::new(&path),
    );
}

fn script(arguments: &[&str]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/predict-iteration");
    Command::new("python3")
        .arg(path)
        .args(arguments)
        .output()
        .unwrap()
}

fn predicted(trace: &Path) -> Value {
    let out = script(&["--json", "-", "--trace", trace.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// No python3 is no failure.
fn no_python() -> bool {
    let none = Command::new("python3").arg("--version").output().is_err();
    if none {
        eprintln!("SKIPPED: there is no python3");
    }
    none
}

/// The launches of the reference iteration at commit 0b4c743.
fn before() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/iteration/launches-0b4c743.txt")
}

fn near(got: &Value, want: f64, what: &str) {
    let got = got.as_f64().unwrap();
    assert!(
        (got / want - 1.0).abs() < 0.05,
        "{what}: {got}, not {want} within 5 %"
    );
}

/// The model is one that was first computed by hand from a list of the launches: its totals come out of their trace.
#[test]
fn launches_of_before_cost_what_was_computed_by_hand() {
    if no_python() {
        return;
    }
    let result = predicted(&before());
    assert_eq!(result["nodes"], 123);
    near(&result["us"], 3480.0, "all");
    near(&result["flop"], 291.1e9, "FLOP");
    let groups = [
        ("main", 24, 1294.0),
        ("any", 12, 1416.0),
        ("stream", 40, 303.0),
        ("adam", 7, 112.0),
        ("collapse", 2, 106.0),
        ("finalize", 20, 105.0),
        ("rest", 8, 80.0),
        ("reduce", 6, 42.0),
        ("copy", 4, 22.0),
    ];
    assert_eq!(result["groups"].as_object().unwrap().len(), groups.len());
    for (name, launches, us) in groups {
        let group = &result["groups"][name];
        assert_eq!(group["nodes"], launches, "{name}");
        near(&group["us"], us, name);
    }
}

/// Bytes are counted from the arguments: a map each, and each weight once.
#[test]
fn bytes_are_those_of_the_operands() {
    if no_python() {
        return;
    }
    let result = predicted(&before());
    let launches = result["launches"].as_array().unwrap();
    let bytes = |n: usize| launches[n - 1]["bytes"].as_u64().unwrap();
    // A copy of 128 images of 64 x 64 x 3 reads and writes them.
    assert_eq!(bytes(21), 2 * 128 * 64 * 64 * 3 * 2);
    // Layer 1 of the discriminator: 32 x 32 x 64 to 16 x 16 x 128, and 4 x 4 taps.
    let maps = 256 * (32 * 32 * 64 + 16 * 16 * 128);
    assert_eq!(bytes(24), 2 * (maps + 16 * 64 * 128));
    // Statistics read a map; the second step of the backward pass reads two and writes one.
    assert_eq!(bytes(25), 2 * 256 * 16 * 16 * 128);
    assert_eq!(bytes(53), 3 * bytes(25));
}

#[test]
fn a_kernel_without_a_rule_is_named() {
    if no_python() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trace");
    let old = fs::read_to_string(before()).unwrap();
    fs::write(
        &path,
        old.replace("leaky_relu_backward", "leaky_relu_sideways"),
    )
    .unwrap();
    let out = script(&["--trace", path.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    let said = text(&out);
    assert!(
        said.contains("no rule for the kernel leaky_relu_sideways_nhwc_bf16"),
        "{said}"
    );
}

/// What is measured must be the same launches; how a build compares with an earlier one is printed.
#[test]
fn measured_times_and_an_earlier_build_are_laid_beside() {
    if no_python() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let trace = before();
    let trace = trace.to_str().unwrap();
    let mut measured = predicted(&before());
    for launch in measured["launches"].as_array_mut().unwrap() {
        launch["us"] = 7.0.into();
    }
    fs::write(path("measured"), measured.to_string()).unwrap();
    measured["us"] = (2.0 * predicted(&before())["us"].as_f64().unwrap()).into();
    fs::write(path("old"), measured.to_string()).unwrap();
    let out = script(&[
        "--trace",
        trace,
        "--measured",
        &path("measured"),
        "--compare",
        &path("old"),
    ]);
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    for part in [
        "measured: 0.86 ms",
        "| measured µs |",
        "nodes: 123.00 nodes, 100.0 %",
        "ms, 50.0 % of",
    ] {
        assert!(said.contains(part), "lacks {part:?}: {said}");
    }
    measured["launches"].as_array_mut().unwrap().remove(2);
    fs::write(path("measured"), measured.to_string()).unwrap();
    let out = script(&["--trace", trace, "--measured", &path("measured")]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("launch 3 is "), "{}", text(&out));
}

/// Every kernel that this build launches has a rule, and a whole trace says what a compact one does.
#[test]
fn this_build_has_a_rule_for_every_launch() {
    if skipped() || no_python() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    trace(&REFERENCE.map(str::to_owned), "132", &path("trace"));
    let ran = fs::read_to_string(path("trace")).unwrap();
    // A pointer of an argument with the bytes behind it, and a number's bytes.
    let batch = ran
        .lines()
        .find(|line| line.contains(" kernel batch_nhwc_bf16 "))
        .unwrap();
    let arguments: Vec<&str> = batch.split(' ').skip(5).collect();
    assert!(
        arguments[0].starts_with('p') && arguments[0].contains("+0/"),
        "{batch}"
    );
    assert_eq!(arguments[4], "40000000", "{batch}");
    let result = predicted(&path("trace"));
    assert!(result["us"].as_f64().unwrap() > 100.0);
    // An iteration has few launches, none of them a copy.
    assert!(
        result["nodes"].as_u64().unwrap() <= 60,
        "{}",
        result["nodes"]
    );
    let launches = result["launches"].as_array().unwrap();
    let kernels = launches
        .iter()
        .map(|launch| launch["kernel"].as_str().unwrap());
    for kernel in kernels {
        assert!(
            !kernel.contains("memcpy") && !kernel.ends_with("_any"),
            "{kernel}"
        );
    }
    let compact = path("compact");
    let [whole, small] = ["trace", "compact"].map(|name| path(name).to_str().unwrap().to_owned());
    let out = script(&["--trace", &whole, "--compact", &small]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(predicted(&compact), result);
}
