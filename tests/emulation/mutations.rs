//! Mutation tests: each change that tests/mutations.txt lists, made to a copy of `cuda/`, must make a test fail.
//!
//! The test runs in a child process of this executable. It has to fail by its own assertions, by a report of the
//! emulation or, where the list says so, by one of a sanitizer: a change that does not compile or crashes proves
//! nothing. A copy of each file without a change must pass; as they are, all tests run beside this, and again under
//! sanitizers (`all_again_under_sanitizers`, whose name has it begin first: it is one thread that takes long).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use dcgan_cuda::model::Activation;

use super::build::{
    CUDA, NOT_COMPILED, ONLY, command_under_sanitizers, original, precompile, sanitized,
};
use super::gpu::only_emulated;
use super::launch::library;

/// The list; its head describes the format.
const LIST: &str = include_str!("../mutations.txt");

/// How a test is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    test: String,
    /// The one `.cu` file that the test needs.
    kernels: String,
    /// What the names of those that it goes through have in common; all if empty.
    only: String,
    under_sanitizers: bool,
}

#[derive(Clone, Debug, Default)]
struct Mutation {
    name: String,
    file: String,
    run: Run,
    old: Vec<String>,
    new: Vec<String>,
}

fn parse(list: &str) -> Vec<Mutation> {
    let mut mutations: Vec<Mutation> = Vec::new();
    for (number, line) in (1..).zip(list.lines()) {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            mutations.push(Mutation {
                name: name.to_owned(),
                ..Mutation::default()
            });
            continue;
        }
        let mutation = mutations
            .last_mut()
            .expect("a mutation begins with its name");
        if let Some(file) = line.strip_prefix("in ") {
            file.clone_into(&mut mutation.file);
            if file.ends_with(".cu") {
                file.clone_into(&mut mutation.run.kernels);
            }
        } else if let Some(kernels) = line.strip_prefix("through ") {
            kernels.clone_into(&mut mutation.run.kernels);
        } else if let Some(only) = line.strip_prefix("of kernels ") {
            only.clone_into(&mut mutation.run.only);
        } else if let Some(test) = line.strip_prefix("seen by ") {
            test.clone_into(&mut mutation.run.test);
        } else if line == "under sanitizers" {
            mutation.run.under_sanitizers = true;
        } else if let Some(old) = line.strip_prefix("- ") {
            mutation.old.push(old.to_owned());
        } else if let Some(new) = line.strip_prefix("+ ") {
            mutation.new.push(new.to_owned());
        } else {
            panic!("tests/mutations.txt, line {number}: {line}");
        }
    }
    for m in &mutations {
        let given = [&m.file, &m.run.test, &m.run.kernels];
        assert!(
            given.iter().all(|g| !g.is_empty()) && !m.old.is_empty() && m.old != m.new,
            "incomplete: {m:?}"
        );
    }
    mutations
}

/// Mutations of every row of the table in activation.cuh, so that a new one is not forgotten: half of f and half of f′
/// must show where a kernel applies them. Both convolutions share one epilogue.
fn of_activations() -> Vec<Mutation> {
    let table = fs::read_to_string(original().join("include/activation.cuh")).unwrap();
    let mut mutations = Vec::new();
    for activation in Activation::ALL {
        if activation == Activation::None {
            continue;
        }
        let name = activation.name();
        let begin = format!("ACTIVATION({name}, {}, ", activation as i32);
        let rows = table.lines().map(str::trim_start);
        let row = rows.filter_map(|line| line.strip_prefix(&begin)).next();
        let row = row.unwrap_or_else(|| panic!("activation.cuh has no row {begin}…)"));
        let row = row.trim_end_matches('\\').trim_end();
        let (f, derivative) = row
            .strip_suffix(')')
            .and_then(halves)
            .unwrap_or_else(|| panic!("activation.cuh: {begin}{row} is not f and f′"));
        let row = format!("{begin}{row}");
        let half_f = format!("{begin}0.5f * ({f}), {derivative})");
        let half_derivative = format!("{begin}{f}, 0.5f * ({derivative}))");
        for (what, new, kernels, test) in [
            ("f", &half_f, "activation", "agrees_with_the_reference"),
            (
                "f′",
                &half_derivative,
                "activation",
                "agrees_with_the_reference",
            ),
            (
                "f′",
                &half_derivative,
                "batch_norm",
                "applies_every_activation",
            ),
            ("f", &half_f, "conv2d", "applies_every_activation"),
        ] {
            mutations.push(Mutation {
                name: format!("half of {what} of {name} in {kernels}"),
                file: "include/activation.cuh".into(),
                run: Run {
                    test: format!("{kernels}::{test}"),
                    kernels: format!("{kernels}.cu"),
                    ..Run::default()
                },
                old: vec![row.clone()],
                new: vec![new.clone()],
            });
        }
    }
    mutations
}

/// What is before and behind the one comma outside of parentheses.
fn halves(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0;
    let comma = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })?;
    Some((text[..comma].trim(), text[comma + 1..].trim()))
}

/// `text` with the change made; indentation does not count and is lost.
fn apply(text: &str, mutation: &Mutation) -> Result<String, String> {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let text = lines.join("\n");
    let old = mutation.old.join("\n");
    match text.matches(&old).count() {
        1 => Ok(text.replacen(&old, &mutation.new.join("\n"), 1)),
        n => Err(format!(
            "the old text occurs {n} times in {}, not once",
            mutation.file
        )),
    }
}

/// Copies what `run` needs of `cuda/`, with `mutation` made if there is one.
fn copy(run: &Run, mutation: Option<&Mutation>, to: &Path) -> Result<(), String> {
    let mut files = vec![run.kernels.clone()];
    for folder in ["include", "emulation"] {
        fs::create_dir(to.join(folder)).unwrap();
        for entry in fs::read_dir(original().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            files.push(format!("{folder}/{name}"));
        }
    }
    files.dedup();
    for file in &files {
        let text = fs::read_to_string(original().join(file)).map_err(|e| format!("{file}: {e}"))?;
        let text = match mutation {
            Some(mutation) if mutation.file == *file => apply(&text, mutation)?,
            _ => text,
        };
        fs::write(to.join(file), text).unwrap();
    }
    match mutation {
        Some(m) if !files.contains(&m.file) => Err(format!("there is no {}", m.file)),
        _ => Ok(()),
    }
}

/// Runs the test on such a copy: whether it ended as it has to, and with what.
fn judge(run: &Run, mutation: Option<&Mutation>) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    copy(run, mutation, folder.path())?;
    let mut command = if run.under_sanitizers {
        command_under_sanitizers()
    } else {
        Command::new(std::env::current_exe().unwrap())
    };
    if !run.only.is_empty() {
        command.env(ONLY, &run.only);
    }
    let out = command
        .args(["--exact", &run.test])
        .env(CUDA, folder.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    let stderr = String::from_utf8_lossy(&out.stderr);
    let all = format!("{stdout}{stderr}");
    if all.contains(NOT_COMPILED) {
        return Err(format!("does not compile\n{all}"));
    }
    let name = &run.test;
    if mutation.is_none() {
        return if out.status.success() && stdout.contains("1 passed") {
            Ok("passes".into())
        } else {
            Err(format!("{name} fails without a mutation\n{all}"))
        };
    }
    if out.status.success() {
        return Err(format!("SURVIVES {name}"));
    }
    // The line behind that of the panic, or the report.
    let mut lines = all.lines();
    let reported = if run.under_sanitizers {
        lines.find(|l| l.contains("ERROR: AddressSanitizer") || l.contains("runtime error: "))
    } else if out.status.code() == Some(101) && stdout.contains(&format!("test {name} ... FAILED"))
    {
        lines.find(|l| l.contains("panicked at"));
        lines.next()
    } else {
        None
    };
    match reported {
        Some(line) => Ok(line.chars().take(150).collect()),
        None => Err(format!("no assertion or report, but {}\n{all}", out.status)),
    }
}

/// What becomes of one change to `file`, a `.cu` file: the message of `test`, or why it proves nothing.
pub fn verdict(file: &str, old: &str, new: &str, test: &str) -> Result<String, String> {
    let mutation = Mutation {
        file: file.to_owned(),
        old: vec![old.to_owned()],
        new: vec![new.to_owned()],
        ..Mutation::default()
    };
    let run = Run {
        test: test.to_owned(),
        kernels: file.to_owned(),
        ..Run::default()
    };
    judge(&run, Some(&mutation))
}

/// Tests that take longer than the compilation that they would prove.
const LONG: [&str; 3] = [
    "conv2d::agrees_with_the_reference",
    "conv_transpose2d::agrees_with_the_reference",
    "conv_wgrad::agrees_with_the_reference",
];

/// Runs all mutations of the list, and those of each activation.
///
/// # Panics
/// Where one is not seen, or proves nothing; where a file of `cuda/` has none.
pub fn check() {
    if sanitized() || only_emulated("mutations") {
        return;
    }
    let mut list = parse(LIST);
    list.extend(of_activations());
    complete(&list);
    // All that is not changed is compiled once, here.
    library();
    precompile();
    // That the tests pass as they are they show themselves, in this executable; that they do on a copy, one of each
    // file's does.
    let runs: BTreeMap<&str, &Run> = list
        .iter()
        .map(|m| &m.run)
        .filter(|r| !r.under_sanitizers && !LONG.contains(&&*r.test))
        .map(|r| (&*r.kernels, r))
        .collect();
    let mut tasks: Vec<(&Run, Option<&Mutation>)> = runs.into_values().map(|r| (r, None)).collect();
    tasks.extend(list.iter().map(|m| (&m.run, Some(m))));
    tasks.reverse();
    let queue = Mutex::new(tasks);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((run, mutation)) = queue.lock().unwrap().pop() else {
                        break;
                    };
                    let start = Instant::now();
                    let verdict = judge(run, mutation);
                    let name = mutation.map_or_else(
                        || format!("{} with {} as it is", run.test, run.kernels),
                        |m| format!("{}: {}", m.file, m.name),
                    );
                    let seconds = start.elapsed().as_secs_f64();
                    let (Ok(text) | Err(text)) = &verdict;
                    eprintln!("{seconds:5.1} s  {name}: {text}");
                    if let Err(text) = verdict {
                        failures.lock().unwrap().push(format!("{name}: {text}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// # Panics
/// Where a file of `cuda/` has no mutation, or one names a test that is not there.
fn complete(list: &[Mutation]) {
    let mut names = BTreeMap::new();
    for m in list {
        assert!(
            names.insert(&m.name, m).is_none(),
            "two mutations are called {}",
            m.name
        );
        let (module, test) = m
            .run
            .test
            .split_once("::")
            .unwrap_or_else(|| panic!("{}: {} names no file of its test", m.name, m.run.test));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels_emulated");
        let source = path.join(module).with_extension("rs");
        let source = fs::read_to_string(&source)
            .unwrap_or_else(|e| panic!("{}: {}: {e}", m.name, source.display()));
        assert!(
            source.contains(&format!("fn {test}(")),
            "{}: there is no {}",
            m.name,
            m.run.test
        );
    }
    for folder in ["", "include"] {
        for entry in fs::read_dir(original().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_name().into_string().unwrap();
            // Definitions for the two compilers, no code of its own.
            if entry.path().is_dir() || file == "kernel.cuh" {
                continue;
            }
            assert!(
                list.iter()
                    .any(|m| m.file.rsplit('/').next().unwrap() == file),
                "no mutation of {file}"
            );
        }
    }
}

#[test]
fn a_change_applies_to_text_that_occurs_once() {
    let mutation = |old: &[&str]| Mutation {
        old: old.iter().map(|&o| o.to_owned()).collect(),
        new: vec!["x".to_owned()],
        ..Mutation::default()
    };
    let text = "a\n  b\n    c\n  b\n";
    assert_eq!(apply(text, &mutation(&["b", "c"])).unwrap(), "a\nx\nb");
    assert!(apply(text, &mutation(&["b"])).is_err());
    assert!(apply(text, &mutation(&["d"])).is_err());
}
