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

/// Runs the program on a GPU whose kernels do nothing, and leaves in `trace` what ran and what ptxas says of it; what it
/// prints.
fn trace(arguments: &[String], multiprocessors: &str, trace: &Path) -> String {
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
    String::from_utf8(done.stdout).unwrap()
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
    // Which tile is the fastest, and when a branch runs, differs from one GPU to another.
    let swapped = measured["launches"].as_array_mut().unwrap();
    let at = |name: &str| {
        let mut names = swapped.iter().map(|l| l["kernel"].as_str().unwrap());
        names.position(|kernel| kernel.starts_with(name)).unwrap()
    };
    let (wgrad, other) = (at("conv_wgrad_nhwc_bf16_"), at("conv2d_fprop_nhwc_bf16_"));
    swapped[wgrad]["kernel"] = "conv_wgrad_nhwc_bf16_64x128".into();
    swapped[wgrad]["us"] = 1007.0.into();
    swapped.swap(wgrad, other);
    fs::write(path("measured"), measured.to_string()).unwrap();
    let beside = [
        "--trace",
        trace,
        "--json",
        "-",
        "--measured",
        &path("measured"),
    ];
    let out = script(&beside);
    assert!(out.status.success(), "{}", text(&out));
    let beside: Value = serde_json::from_slice(&out.stdout).unwrap();
    let slow = |launch: &&Value| launch["measured_us"] == 1007.0;
    let slow: Vec<&Value> = beside["launches"]
        .as_array()
        .unwrap()
        .iter()
        .filter(slow)
        .collect();
    assert_eq!(slow.len(), 1);
    assert!(
        slow[0]["kernel"]
            .as_str()
            .unwrap()
            .starts_with("conv_wgrad_nhwc_bf16_")
    );
    measured["launches"]
        .as_array_mut()
        .unwrap()
        .swap(wgrad, other);
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

/// A kernel as a trace and a table have it: name, blocks in x, y and z, threads.
type Launched = (String, String);

/// The launches of `bench kernels` at the reference shape, in a trace whose last iteration is one that was timed; that
/// in the order of the trace, and those of the last graph before it in no order.
fn traced(trace: &str) -> [Vec<Launched>; 2] {
    let lines: Vec<Vec<&str>> = trace.lines().map(|l| l.split(' ').collect()).collect();
    let launched = |line: &Vec<&str>| {
        let kernel = line.get(1) == Some(&"kernel");
        kernel.then(|| {
            let threads = line[4].split('+').next().unwrap();
            (line[2].to_owned(), format!("{} {threads}", line[3]))
        })
    };
    let graph = lines
        .iter()
        .rposition(|line| line.get(1) == Some(&"graph"))
        .unwrap();
    let nodes: usize = lines[graph][3].parse().unwrap();
    let (nodes, after) = lines[graph + 1..].split_at(nodes);
    let mut inside = Vec::new();
    for (index, line) in after.iter().enumerate() {
        if let Some(kernel) = launched(line) {
            // An event before each, and one behind it, on the same stream.
            for beside in [index - 1, index + 1] {
                assert_eq!(after[beside][..2], [line[0], "record"], "{line:?}");
            }
            inside.push(kernel);
        }
    }
    [inside, nodes.iter().filter_map(launched).collect()]
}

/// `bench kernels` has every launch of an iteration, once, in its order; its JSON and its table agree, and the script
/// takes them.
#[test]
fn bench_kernels_has_every_launch() {
    if skipped() || no_python() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let json = path("measured.json");
    let shape = &REFERENCE[4..];
    let command = [
        &["bench", "kernels", "--iterations=3", "--json", &json],
        shape,
    ]
    .concat();
    let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    let said = trace(&command, "132", Path::new(&path("trace")));
    let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let launches = report["launches"].as_array().unwrap();
    let measured = launches.iter().map(|launch| {
        let numbers = launch["grid"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string);
        let grid = numbers.collect::<Vec<_>>().join(",");
        let kernel = launch["kernel"].as_str().unwrap().to_owned();
        (kernel, format!("{grid} {}", launch["threads"]))
    });
    let mut measured: Vec<Launched> = measured.collect();

    // The last launch is the smallest there is, for comparison.
    let [mut inside, mut nodes] = traced(&fs::read_to_string(path("trace")).unwrap());
    assert_eq!(inside.pop().unwrap().0, "cast_from_f32_bf16");
    assert_eq!(measured, inside);
    nodes.sort_unstable();
    measured.sort_unstable();
    assert_eq!(measured, nodes);

    // # kernel blocks µs …
    let rows = said.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let _blocks: u64 = cells.get(2)?.parse().ok()?;
        Some((cells[0].parse::<usize>().ok()?, cells))
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), launches.len(), "{said}");
    let mut sum = 0.0;
    for (index, ((number, cells), launch)) in rows.iter().zip(launches).enumerate() {
        assert_eq!(*number, index + 1, "{said}");
        assert_eq!(cells[1], launch["kernel"].as_str().unwrap());
        let us = launch["us"].as_f64().unwrap();
        assert_eq!(cells[3], format!("{us:.2}"));
        let bound = launch["bound"].as_str().unwrap();
        let share = 100.0 * launch["bound_us"].as_f64().unwrap() / us;
        assert!(
            cells
                .join(" ")
                .ends_with(&format!("{bound}, {share:.0} % of it")),
            "{cells:?}"
        );
        sum += us;
    }
    assert!((report["launches_us"].as_f64().unwrap() / sum - 1.0).abs() < 1e-9);
    // An H100's, at the emulated driver's clocks.
    near(&report["peak_gb_per_sec"], 3350.0, "memory");
    near(&report["peak_tflop_per_sec"], 1070.0, "products");

    // The model counts what this counts: products of stored channels, and bytes of operands.
    let out = script(&[
        "--json",
        "-",
        "--trace",
        &path("trace"),
        "--measured",
        &json,
    ]);
    assert!(out.status.success(), "{}", text(&out));
    let model: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(model["nodes"], launches.len());
    let all = |name: &str| {
        launches
            .iter()
            .map(|l| l[name].as_f64().unwrap())
            .sum::<f64>()
    };
    near(&model["flop"], all("flop"), "FLOP");
    let bytes = model["bytes"].as_f64().unwrap() / all("bytes");
    assert!((0.8..1.25).contains(&bytes), "{bytes} of the bytes");
    let beside = model["launches"].as_array().unwrap().iter();
    let beside: f64 = beside.map(|l| l["measured_us"].as_f64().unwrap()).sum();
    assert!((beside / sum - 1.0).abs() < 1e-9);

    // Every convolution was measured, and whose kernel was the fastest is said.
    let convolutions = report["convolutions"].as_array().unwrap();
    assert!(convolutions.len() > 15, "{}", convolutions.len());
    for convolution in convolutions {
        let key = convolution["convolution"].as_str().unwrap();
        assert!(launches.iter().any(|l| l["convolution"] == key), "{key}");
        assert!(convolution["library"].is_null());
        if !convolution["ours"].is_null() {
            let ours = convolution["ours"]["kernel"].as_str().unwrap();
            assert!(said.contains(&format!("{key}: ours ")) && said.contains(&format!("({ours})")));
        }
    }
}

/// Changing what D sees costs three launches an iteration, with losses of pairs too, and spectral norm two.
#[test]
fn changed_images_and_spectral_norm_cost_few_launches() {
    if skipped() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let kernels = |options: &str| {
        let path = folder.path().join("trace");
        let more = options.split_whitespace().map(str::to_owned);
        let arguments: Vec<_> = REFERENCE
            .map(str::to_owned)
            .into_iter()
            .chain(more)
            .collect();
        trace(&arguments, "132", &path);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let last = lines
            .iter()
            .rposition(|l| l.split(' ').nth(1) == Some("graph"))
            .unwrap();
        let nodes: usize = lines[last].split(' ').nth(3).unwrap().parse().unwrap();
        let names = lines[last + 1..=last + nodes].iter();
        let kernels: Vec<_> = names
            .map(|l| l.split(' ').nth(2).unwrap_or("").to_owned())
            .collect();
        (nodes, kernels)
    };
    let of = |kernels: &[String], name: &str| kernels.iter().filter(|k| k.contains(name)).count();
    let (plain, _) = kernels("--d-norm none");
    let (nodes, launched) = kernels("--d-norm none --augment all");
    assert_eq!(of(&launched, "augment"), 3);
    // What D's gradient of its input meets on the way, G's last activation, is a launch of its own then.
    assert!(nodes <= plain + 4, "{nodes} and {plain}");
    let (nodes, launched) = kernels("--spectral-norm");
    assert_eq!(of(&launched, "spectral_norm"), 2);
    assert_eq!(nodes, plain + 2);
    let (_, launched) = kernels("--d-norm none --augment all --loss relativistic");
    assert_eq!(of(&launched, "augment"), 3);
}
