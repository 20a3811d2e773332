//! The program as a process: signals, closed and full outputs, threads that are not to be had, names that are no text,
//! and what it leaves behind when it is ended.

#![cfg(target_os = "linux")]

mod training;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dcgan_cuda::backend::KernelChoices;
use tempfile::{TempDir, tempdir};
use training::*;

const SIGNALS: [(i32, i32); 3] = [
    (libc::SIGHUP, 129),
    (libc::SIGINT, 130),
    (libc::SIGTERM, 143),
];

/// How a command ends where all is well, and what of it is its result.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// What it prints is what it is called for.
    WithResult,
    /// What it prints accompanies files.
    WithFiles,
    /// With an error: exit code.
    Refused(i32),
}

/// Every command, in a folder that [`world`] made, with what it makes there.
fn commands() -> Vec<(Vec<&'static str>, Option<&'static str>, Ends)> {
    use Ends::{Refused, WithFiles, WithResult};
    let few = ["--dataset=synthetic", "--synthetic-count=16"];
    let small = ["--image-size=32", "--width=2", "--batch-size=4"];
    let with = |first: &[&'static str], more: &[&'static str]| [first, more].concat();
    vec![
        (vec![], None, Refused(2)),
        (vec!["--help"], None, WithResult),
        (vec!["--version"], None, WithResult),
        (vec!["bench", "step", "--help"], None, WithResult),
        (vec!["bogus"], None, Refused(2)),
        (vec!["train", "--steps=many"], None, Refused(2)),
        (vec!["doctor"], None, WithResult),
        (
            with(
                &["train", "--steps=2", "--log-every=1", "--out=new"],
                &with(&few, &small),
            ),
            Some("new"),
            WithFiles,
        ),
        (vec!["train", "--out=run", "--resume"], None, WithFiles),
        (with(&["train", "--dry-run"], &few), None, WithResult),
        (
            vec!["translate", "--checkpoint=run", "--out=made", "drawing.png"],
            None,
            Refused(1),
        ),
        (
            vec!["sample", "--checkpoint=run", "--count=4", "--out=sheet.png"],
            Some("sheet.png"),
            WithFiles,
        ),
        (
            vec!["sample", "--checkpoint=run", "--count=4", "--out=single"],
            Some("single"),
            WithFiles,
        ),
        (
            vec!["sample", "--checkpoint=none", "--out=x"],
            None,
            Refused(1),
        ),
        (
            with(&["evaluate", "--checkpoint=run"], &few),
            None,
            WithResult,
        ),
        (
            with(&["evaluate", "--checkpoint=run", "--json=-"], &few),
            None,
            WithResult,
        ),
        (
            vec![
                "latent",
                "walk",
                "--checkpoint=run",
                "--steps=2",
                "--out=walked",
                "1",
                "2",
            ],
            Some("walked"),
            WithFiles,
        ),
        (
            vec!["latent", "edit", "--checkpoint=run", "--attribute=Male"],
            None,
            Refused(1),
        ),
        (
            vec!["explore", "--checkpoint=run", "--share=page.html"],
            Some("page.html"),
            WithFiles,
        ),
        (
            vec!["report", "run", "--out=report.html"],
            Some("report.html"),
            WithResult,
        ),
        (
            vec!["dataset", "synthesize", "--count=4", "--out=faces"],
            Some("faces"),
            WithFiles,
        ),
        (
            vec!["dataset", "inspect", "--dataset=folder", "--data=images"],
            None,
            WithResult,
        ),
        (
            with(&["dataset", "prepare", "--out=some.pack"], &few),
            Some("some.pack"),
            WithFiles,
        ),
        (
            with(&["bench", "step", "--seconds=0.01", "--json=-"], &small),
            None,
            WithResult,
        ),
        (
            with(&["bench", "kernels", "--device=cpu"], &small),
            None,
            Refused(1),
        ),
        (
            vec![
                "bench",
                "data",
                "--seconds=0.01",
                "--pack-images=64",
                "--device=cpu",
                "--dataset=folder",
                "--data=images",
            ],
            None,
            WithResult,
        ),
    ]
}

/// A folder with a trained run and some images.
fn world() -> TempDir {
    let root = tempdir().unwrap();
    train_tiny(&root.path().join("run"), &["--steps", "1"]);
    succeeds(&run_in(
        root.path(),
        [
            "dataset",
            "synthesize",
            "--count=8",
            "--out=faces",
            "--quiet",
        ],
    ));
    fs::rename(
        root.path().join("faces/img_align_celeba"),
        root.path().join("images"),
    )
    .unwrap();
    fs::remove_dir_all(root.path().join("faces")).unwrap();
    root
}

fn run_in<S: AsRef<OsStr>>(root: &Path, args: impl IntoIterator<Item = S>) -> Output {
    checked(binary().current_dir(root).args(args).output().unwrap())
}

/// Runs a command with its outputs redirected as a shell does it.
fn redirected(root: &Path, args: &[&str], redirect: &str) -> Output {
    let program = binary();
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("exec \"$0\" \"$@\" {redirect}"))
        .arg(program.get_program())
        .args(args)
        .env("XDG_CACHE_HOME", cache())
        .current_dir(root)
        .output();
    checked(output.unwrap())
}

fn remove(root: &Path, made: Option<&str>) {
    let Some(made) = made else { return };
    let path = root.join(made);
    let _ = fs::remove_dir_all(&path);
    let _ = fs::remove_file(&path);
}

#[test]
fn outputs_that_are_closed_or_full() {
    let root = world();
    for (args, made, ends) in commands() {
        for redirect in [
            "",
            ">&-",
            ">/dev/full",
            "2>&-",
            "2>/dev/full",
            ">&- 2>&-",
            "<&- >&- 2>&-",
            ">/dev/full 2>/dev/full",
        ] {
            remove(root.path(), made);
            let output = redirected(root.path(), &args, redirect);
            let lost = redirect.contains(">&-") && !redirect.starts_with('2')
                || redirect.starts_with(">/dev/full");
            let expected = match ends {
                Ends::Refused(code) => code,
                Ends::WithResult if lost => 1,
                _ => 0,
            };
            let text = stderr(&output);
            let what = format!("{args:?} {redirect}: {text}");
            assert_eq!(output.status.code(), Some(expected), "{what}");
            if ends == Ends::WithResult && lost && !redirect.contains('2') {
                assert!(text.contains("error: cannot write to stdout"), "{what}");
                assert_eq!(text.lines().count(), 1, "{what}");
            }
            if let Some(made) = made {
                assert!(root.path().join(made).exists(), "{what}");
            }
        }
    }
}

#[test]
fn readers_that_leave() {
    let root = world();
    for (args, made, ends) in commands() {
        for both in [false, true] {
            remove(root.path(), made);
            let mut command = binary();
            command.current_dir(root.path()).args(&args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            drop(child.stdout.take());
            if both {
                drop(child.stderr.take());
            }
            let output = checked(child.wait_with_output().unwrap());
            let expected = match ends {
                Ends::Refused(code) => code,
                _ => 0,
            };
            assert_eq!(
                output.status.code(),
                Some(expected),
                "{args:?}: {}",
                stderr(&output)
            );
        }
    }
}

/// No file that is opened takes the place of an output and gets what is printed.
#[test]
fn closed_outputs_change_no_file() {
    let root = tempdir().unwrap();
    let args = tiny(&["--steps", "3", "--log-every", "1", "--dataset", "synthetic"]);
    let args: Vec<&str> = args.into_iter().filter(|arg| *arg != "--quiet").collect();
    for (out, redirect) in [("open", ""), ("closed", "<&- >&- 2>&-")] {
        let args = [&["train", "--out", out][..], &args].concat();
        assert_eq!(
            redirected(root.path(), &args, redirect).status.code(),
            Some(0)
        );
    }
    same_result(&root.path().join("open"), &root.path().join("closed"), 3);
}

/// A library that lets a process start so many threads and no more; `None` without a C compiler.
fn few_threads(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("few.c"), folder.join("few.so"));
    let code = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <errno.h>
        #include <pthread.h>
        #include <stdlib.h>
        static int started;
        int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *of) {
            if (__sync_fetch_and_add(&started, 1) >= atoi(getenv("THREADS"))) return EAGAIN;
            int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
                dlsym(RTLD_NEXT, "pthread_create");
            return real(thread, attributes, body, of);
        }
    "#;
    fs::write(&source, code).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-w", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl");
    cc.status()
        .is_ok_and(|status| status.success())
        .then_some(library)
}

#[test]
fn threads_that_are_not_to_be_had() {
    let root = world();
    let Some(library) = few_threads(root.path()) else {
        eprintln!("SKIPPED: there is no C compiler");
        return;
    };
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut refused = 0;
    for (args, made, ends) in commands() {
        if args.iter().any(|a| *a == "--help" || *a == "--version") || ends == Ends::Refused(2) {
            continue;
        }
        for threads in [0, 1, cores, cores + 1] {
            remove(root.path(), made);
            let mut command = binary();
            command.current_dir(root.path()).args(&args);
            command
                .env("LD_PRELOAD", &library)
                .env("THREADS", threads.to_string());
            let output = checked(command.output().unwrap());
            let text = stderr(&output);
            let what = format!("{args:?} with {threads} threads: {text}");
            match output.status.code() {
                // Fewer than a pool of one thread for each core.
                Some(0) => assert!(threads >= cores, "{what}"),
                Some(1) => {
                    assert!(text.starts_with("error: "), "{what}");
                    assert_eq!(text.lines().count(), 1, "{what}");
                    if ends != Ends::Refused(1) || threads < cores {
                        assert!(text.contains("cannot start"), "{what}");
                        refused += 1;
                    }
                    if threads < cores {
                        assert!(text.contains("ulimit -u"), "{what}");
                    }
                }
                _ => panic!("{what}"),
            }
            assert_eq!(litter(root.path()), Vec::<PathBuf>::new(), "{what}");
        }
    }
    assert!(refused > 20, "{refused}");
}

/// The same by the system's own limit, which does not bind root: as another user then.
#[test]
fn a_limit_on_processes() {
    let root = tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = root.path().join("program");
    fs::copy(binary().get_program(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command.arg("doctor").current_dir(root.path());
    // SAFETY: the call has no effect beside its answer.
    if unsafe { libc::getuid() } == 0 {
        command.uid(65_534);
    }
    let limit = || {
        let none = libc::rlimit {
            rlim_cur: 1,
            rlim_max: 1,
        };
        // SAFETY: the structure lives as long as the call, which is one that a new process may make.
        match unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &none) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(limit) };
    refuses(
        &checked(output_of_copy(&mut command)),
        1,
        &["cannot start", "ulimit -u"],
    );
}

fn spawn(root: &Path, args: &[&str]) -> Child {
    let mut command = binary();
    command.current_dir(root).args(args);
    // Of its own, so that nothing is to be said of waiting for another test, and what is left is seen.
    command
        .env("XDG_CACHE_HOME", root.join("cache"))
        .env("TMPDIR", root.join("tmp"));
    fs::create_dir_all(root.join("tmp")).unwrap();
    command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn send(child: &Child, signal: i32) {
    // SAFETY: the child is ours and has not been waited for, so its number is not another process's.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for something in `folder` whose name starts with `start`.
fn wait_for_entry(folder: &Path, start: &str) {
    wait_for(start, || {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        names
            .map(|e| e.file_name())
            .any(|name| name.to_string_lossy().starts_with(start))
    });
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

const ENDLESS: &[&str] = &["--steps", "100000", "--checkpoint-every", "100000"];

fn reports(run: &Path) -> bool {
    fs::metadata(run.join("log.jsonl")).is_ok_and(|log| log.len() > 0)
}

#[test]
fn a_hang_up_leaves_a_checkpoint() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    let child = spawn(
        root.path(),
        &[&["train", "--out", "run"][..], &tiny(ENDLESS)].concat(),
    );
    wait_for("report", || reports(&run));
    send(&child, libc::SIGHUP);
    let output = checked(child.wait_with_output().unwrap());
    assert_eq!(output.status.code(), Some(129), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("stopped after iteration "));
    let end = latest(&run).unwrap() + 2;
    resume(&run, &["--steps", &end.to_string()]);
    let whole = root.path().join("whole");
    train_tiny(&whole, &["--steps", &end.to_string()]);
    same_result(&whole, &run, end);
}

/// As `nohup` starts it.
#[test]
fn a_hang_up_that_is_ignored_stays_so() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    let mut command = binary();
    command
        .arg("train")
        .arg("--out")
        .arg(&run)
        .args(tiny(ENDLESS));
    let ignore = || {
        // SAFETY: to ignore a signal is a call that a new process may make.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ignore) };
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for("report", || reports(&run));
    send(&child, libc::SIGHUP);
    let before = log(&run).len();
    wait_for("more reports", || {
        fs::read_to_string(run.join("log.jsonl"))
            .unwrap()
            .lines()
            .count()
            > before + 2
    });
    send(&child, libc::SIGTERM);
    let output = checked(child.wait_with_output().unwrap());
    assert_eq!(output.status.code(), Some(143));
}

/// The window is closed while a progress bar is drawn.
#[test]
fn a_terminal_that_goes_away() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    // Opened so that no other process inherits them.
    let side = |path: &str| {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        options.open(path).unwrap()
    };
    let ours = side("/dev/ptmx");
    let mut number: libc::c_uint = 0;
    // SAFETY: the descriptor is open, and the number lives as long as the call that writes it.
    let ready = unsafe {
        libc::unlockpt(ours.as_raw_fd()) == 0
            && libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTN, &mut number) == 0
    };
    assert!(ready);
    let theirs = side(&format!("/dev/pts/{number}"));
    let tty = theirs.as_raw_fd();
    let mut command = binary();
    let args = tiny(ENDLESS);
    command
        .arg("train")
        .arg("--out")
        .arg(&run)
        .args(args.iter().filter(|a| **a != "--quiet"));
    let side = || Stdio::from(theirs.try_clone().unwrap());
    command.stdin(side()).stdout(side()).stderr(side());
    let to_terminal = move || {
        // SAFETY: both are system calls that a new process may make.
        let taken = unsafe { libc::setsid() != -1 && libc::ioctl(tty, libc::TIOCSCTTY, 0) == 0 };
        match taken {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes system calls alone and allocates nothing.
    unsafe { command.pre_exec(to_terminal) };
    let mut child = command.spawn().unwrap();
    // The command holds copies of their side.
    drop(command);
    drop(theirs);
    let mut screen = ours;
    let mut seen = [0; 4096];
    let reader = std::thread::spawn(move || {
        // A terminal that nobody reads stops who writes to it.
        while !reports(&run) {
            let _ = screen.read(&mut seen);
        }
        drop(screen);
        run
    });
    let run = reader.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(129));
    assert!(latest(&run).unwrap() >= 3);
}

#[test]
fn a_sample_that_is_stopped_leaves_nothing() {
    let root = world();
    let before = names(root.path());
    let args = [
        "sample",
        "--checkpoint=run",
        "--count=1000000",
        "--out=single",
    ];
    for (signal, code) in SIGNALS {
        let child = spawn(root.path(), &args);
        wait_for_entry(root.path(), ".partial-out-single");
        wait_for_entry(&root.path().join(".partial-out-single"), "000001.png");
        send(&child, signal);
        let output = checked(child.wait_with_output().unwrap());
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(stderr(&output), "stopped; nothing was written\n");
        fs::remove_dir_all(root.path().join("tmp")).unwrap();
        assert_eq!(names(root.path()), before);
    }
    // The longest name that there is.
    let long = "n".repeat(255);
    let out = format!("--out={long}");
    succeeds(&run_in(
        root.path(),
        ["sample", "--checkpoint=run", "--count=1", "--quiet", &out],
    ));
    fs::remove_dir_all(root.path().join(&long)).unwrap();
    // Killed, it leaves what the next call takes away, and nobody else.
    let mut child = spawn(root.path(), &args);
    wait_for_entry(root.path(), ".partial-out-single");
    wait_for_entry(&root.path().join(".partial-out-single"), "000001.png");
    let small = [
        "sample",
        "--checkpoint=run",
        "--count=3",
        "--out=single",
        "--quiet",
    ];
    refuses(
        &run_in(root.path(), small),
        1,
        &["another process is writing", "partial-out-single"],
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(names(root.path()).contains(&".partial-out-single".to_owned()));
    succeeds(&run_in(root.path(), small));
    assert_eq!(
        names(&root.path().join("single")),
        ["000001.png", "000002.png", "000003.png"]
    );
    assert_eq!(litter(root.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_data_set_that_is_half_drawn_is_none() {
    let root = tempdir().unwrap();
    let out = root.path().join("made/faces");
    let many = [
        "dataset",
        "synthesize",
        "--count=999999",
        "--size=32",
        "--out=made/faces",
    ];
    for (signal, code) in SIGNALS {
        let child = spawn(root.path(), &many);
        wait_for_entry(
            &root.path().join("made/.partial-out-faces/img_align_celeba"),
            "0",
        );
        send(&child, signal);
        let output = checked(child.wait_with_output().unwrap());
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(stderr(&output), "stopped; nothing was written\n");
        // Not even the folders that were made for it.
        assert_eq!(names(root.path()), ["tmp"]);
    }
    let mut child = spawn(root.path(), &many);
    wait_for_entry(
        &root.path().join("made/.partial-out-faces/img_align_celeba"),
        "0",
    );
    let few = [
        "dataset",
        "synthesize",
        "--count=5",
        "--out=made/faces",
        "--quiet",
    ];
    refuses(
        &run_in(root.path(), few),
        1,
        &["another process is writing"],
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(&root.path().join("made")), [".partial-out-faces"]);
    for kind in ["celeba", "folder"] {
        let prepare = [
            "dataset",
            "prepare",
            "--dataset",
            kind,
            "--data=made/faces",
            "--out=p",
        ];
        let output = run_in(root.path(), prepare);
        assert_eq!(output.status.code(), Some(1), "{kind}: {}", stderr(&output));
    }
    succeeds(&run_in(root.path(), few));
    let again = [
        "dataset",
        "synthesize",
        "--count=5",
        "--out=again",
        "--quiet",
    ];
    succeeds(&run_in(root.path(), again));
    assert!(contents(&out) == contents(&root.path().join("again")));
    assert_eq!(names(&out).len(), 4);
    // What was there and is not ours stays, of a call that fails too.
    let used = root.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("mine"), "mine").unwrap();
    let child = spawn(root.path(), &[&many[..4], &["--out=used"]].concat());
    wait_for_entry(&used.join(".partial-out-faces/img_align_celeba"), "0");
    send(&child, libc::SIGTERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert_eq!(names(&used), ["mine"]);
}

#[test]
fn work_that_is_stopped_leaves_nothing() {
    let root = world();
    let before = names(root.path());
    let many = ["--dataset=synthetic", "--synthetic-count=1000000"];
    let evaluate = [&["evaluate", "--checkpoint=run"][..], &many].concat();
    let prepare = [&["dataset", "prepare"][..], &many].concat();
    let data = ["bench", "data", "--seconds=60", "--device=cpu"];
    let step = [
        "bench",
        "step",
        "--seconds=60",
        "--data-residency=stream",
        "--image-size=32",
        "--width=2",
        "--batch-size=4",
    ];
    for (index, (args, folder, start)) in [
        (&evaluate[..], "cache/dcgan-cuda/packs", ".partial"),
        (&prepare, "cache/dcgan-cuda/packs", ".partial"),
        (&data, "tmp", "dcgan-cuda-bench-"),
        (&step, "tmp", "dcgan-cuda-bench-"),
    ]
    .into_iter()
    .enumerate()
    {
        let (signal, code) = SIGNALS[index % SIGNALS.len()];
        let child = spawn(root.path(), args);
        wait_for_entry(&root.path().join(folder), start);
        std::thread::sleep(Duration::from_millis(200));
        send(&child, signal);
        let output = checked(child.wait_with_output().unwrap());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains("stopped"), "{args:?}: {text}");
        assert_eq!(
            names(&root.path().join(folder)),
            Vec::<String>::new(),
            "{args:?}"
        );
        fs::remove_dir_all(root.path().join("tmp")).unwrap();
        let _ = fs::remove_dir_all(root.path().join("cache"));
        assert_eq!(names(root.path()), before);
    }
}

/// When the pack is made, `evaluate` has nothing to put in order.
#[test]
fn evaluate_ends_at_once_while_it_compares() {
    let root = world();
    let args = [
        "evaluate",
        "--checkpoint=run",
        "--dataset=folder",
        "--data=more",
        "--count=1500",
    ];
    let images = root.path().join("more");
    fs::create_dir(&images).unwrap();
    for index in 0..3000 {
        let from = root.path().join(format!("images/{:06}.jpg", index % 8 + 1));
        fs::hard_link(from, images.join(format!("{index}.jpg"))).unwrap();
    }
    let child = spawn(root.path(), &args);
    wait_for_entry(&root.path().join("cache/dcgan-cuda/packs"), "folder");
    std::thread::sleep(Duration::from_millis(300));
    send(&child, libc::SIGINT);
    let start = Instant::now();
    let output = checked(child.wait_with_output().unwrap());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(litter(root.path()), Vec::<PathBuf>::new());
}

/// What is there and is no file is neither replaced nor written through, and that is said before the work.
#[test]
fn results_go_into_files_alone() {
    let root = tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("file"), "old").unwrap();
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    std::os::unix::fs::symlink("/dev/null", at("null")).unwrap();
    let fifo = std::ffi::CString::new(at("fifo").as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends in a zero.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let benches: [&[&str]; 3] = [
        &["bench", "step", "--seconds=600"],
        &["bench", "kernels"],
        &["bench", "data", "--seconds=600", "--device=cpu"],
    ];
    let before = names(root.path());
    for bench in benches {
        for name in ["folder", "link", "null", "fifo", "none/new.json"] {
            let args = [bench, &["--json", name]].concat();
            refuses(&run_in(root.path(), &args), 1, &["--json", name]);
        }
    }
    assert_eq!(names(root.path()), before);
    assert_eq!(fs::read(at("file")).unwrap(), b"old");
    let args = [
        "bench",
        "step",
        "--seconds=0.01",
        "--image-size=32",
        "--width=2",
    ];
    let output = run_in(
        root.path(),
        [&args[..], &["--batch-size=4", "--json=file"]].concat(),
    );
    succeeds(&output);
    assert!(
        fs::read_to_string(at("file"))
            .unwrap()
            .contains("images_per_sec")
    );
    // A pipe in the place of a file that is read is not waited for.
    fs::rename(at("fifo"), at("kernels.json")).unwrap();
    let error = format!("{:#}", KernelChoices::read(root.path()).unwrap_err());
    assert!(error.contains("named pipe"), "{error}");
}

/// A file that may not grow so large is an error as on a full disk, and no half of it stays.
#[test]
fn a_limit_on_files_leaves_no_halves() {
    let root = world();
    let before = names(root.path());
    let sample = ["sample", "--checkpoint=run", "--count=64"];
    let single = [&sample[..], &["--out=single"]].concat();
    let sheet = [&sample[..], &["--out=sheet.png"]].concat();
    let tensors = [&sample[..], &["--out=numbers.safetensors"]].concat();
    let inspect = [
        "dataset",
        "inspect",
        "--dataset=folder",
        "--data=images",
        "--sheet=i.png",
    ];
    let prepare = [
        "dataset",
        "prepare",
        "--dataset=folder",
        "--data=images",
        "--out=i.pack",
    ];
    let synthesize = ["dataset", "synthesize", "--count=4", "--out=faces"];
    let data = ["bench", "data", "--device=cpu", "--scratch=."];
    for args in [
        &single[..],
        &sheet,
        &tensors,
        &inspect,
        &prepare,
        &synthesize,
        &data,
    ] {
        let program = binary();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "ulimit -f 1; exec \"$0\" \"$@\""])
            .arg(program.get_program());
        shell
            .args(args)
            .env("XDG_CACHE_HOME", cache())
            .current_dir(root.path());
        let output = checked(shell.output().unwrap());
        refuses(&output, 1, &["File too large"]);
        assert_eq!(names(root.path()), before, "{args:?}");
    }
}

/// Names that would clear a screen, break a line, or turn it round.
const HOSTILE: &[&str] = &[
    "a\x1b[2Jb",
    "a\nb",
    "a\rb",
    "a\u{9b}2Jb",
    "a\u{202e}b",
    "a\x07b",
];

#[track_caller]
fn only_text(output: &Output) {
    for bytes in [&output.stdout, &output.stderr] {
        let text = String::from_utf8(bytes.clone()).expect("UTF-8");
        for c in text.chars().filter(|c| *c != '\n') {
            assert!(!c.is_control() && c != '\u{202e}', "{c:?} in {text:?}");
        }
    }
}

#[test]
fn no_name_reaches_the_terminal_as_more_than_text() {
    let root = world();
    for name in HOSTILE {
        let option = format!("--{name}");
        let value = format!("--steps={name}");
        let path = |option: &str| format!("--{option}={name}");
        let (data, out, json, checkpoint) = (
            path("data"),
            path("out"),
            path("json") + ".json",
            path("checkpoint"),
        );
        let (pack, resume, from) = (path("pack"), path("resume"), path("init-from"));
        let dataset = path("dataset");
        let few = "--synthetic-count=16";
        let calls: [(&[&str], i32); 16] = [
            (&[name], 2),
            (&["doctor", name], 2),
            (&["train", &option], 2),
            (&["train", &value], 2),
            (&["train", &dataset], 2),
            (&["train", "--dataset=folder", &data], 1),
            (&["train", few, &resume], 1),
            (&["train", few, &from], 1),
            (&["train", few, &out, "--dry-run"], 0),
            (&["train", few, &pack, "--dry-run"], 0),
            (&["sample", &checkpoint, "--out=x"], 1),
            (&["dataset", "inspect", "--dataset=folder", &data], 1),
            (&["dataset", "prepare", "--dataset=folder", &data], 1),
            (
                &["bench", "data", "--dataset=folder", "--decode-only", &data],
                1,
            ),
            (&["sample", "--checkpoint=run", "--count=2", &out], 0),
            (
                &[
                    "evaluate",
                    "--checkpoint=run",
                    "--dataset=synthetic",
                    few,
                    &json,
                ],
                0,
            ),
        ];
        for (args, code) in calls {
            let output = run_in(root.path(), args);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
            only_text(&output);
            if code == 2 {
                // It says what was given, so that it can be told from what was meant.
                let escaped = dcgan_cuda::text::escaped(name);
                assert!(text.contains(&*escaped), "{args:?}: {text}");
            }
        }
        assert!(
            root.path().join(name).is_dir() && root.path().join(format!("{name}.json")).is_file()
        );
    }
    // The program's own name.
    let mut command = binary();
    let name = command.arg0("dcgan\x1b[2J").arg("--help").output().unwrap();
    assert_eq!(name.status.code(), Some(0));
    only_text(&name);
}

/// Wherever a path is given it may be any bytes.
#[test]
fn paths_that_are_no_text() {
    let root = world();
    let odd = |prefix: &str, end: &str| -> OsString {
        let mut all = OsString::from(prefix);
        all.push(OsStr::from_bytes(b"n\xff\xfe"));
        all.push(end);
        all
    };
    fs::rename(root.path().join("run"), root.path().join(odd("run", ""))).unwrap();
    fs::rename(
        root.path().join("images"),
        root.path().join(odd("images", "")),
    )
    .unwrap();
    fs::create_dir(root.path().join(odd("scratch", ""))).unwrap();
    let text = |args: &[&str]| args.iter().map(OsString::from).collect::<Vec<_>>();
    let (run, images) = (odd("--checkpoint=run", ""), odd("--data=images", ""));
    let folder = ["--dataset=folder"];
    let small = ["--image-size=32", "--width=2", "--batch-size=4"];
    let mut calls = Vec::new();
    let mut call = |first: &[&str], more: Vec<OsString>| calls.push([text(first), more].concat());
    call(
        &["dataset", "inspect", folder[0]],
        vec![images.clone(), odd("--sheet=", ".png")],
    );
    call(
        &["dataset", "prepare", folder[0]],
        vec![images.clone(), odd("--out=p", ".pack")],
    );
    call(
        &["dataset", "synthesize", "--count=2"],
        vec![odd("--out=faces", "")],
    );
    call(
        &["sample", "--count=2"],
        vec![run.clone(), odd("--out=s", ".png")],
    );
    call(
        &["sample", "--count=2"],
        vec![run.clone(), odd("--out=s", ".safetensors")],
    );
    call(
        &["sample", "--count=2"],
        vec![run.clone(), odd("--out=s", "")],
    );
    call(
        &["evaluate", folder[0], "--count=2"],
        vec![
            run,
            images.clone(),
            odd("--json=e", ".json"),
            odd("--pack=e", ".pack"),
        ],
    );
    call(
        &[&["bench", "step", "--seconds=0.01"][..], &small].concat(),
        vec![odd("--json=b", ".json")],
    );
    call(
        &[
            "bench",
            "data",
            "--seconds=0.01",
            "--pack-images=64",
            "--device=cpu",
            folder[0],
        ],
        vec![
            images,
            odd("--scratch=scratch", ""),
            odd("--json=d", ".json"),
        ],
    );
    for args in calls {
        let output = run_in(root.path(), &args);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{args:?}: {}",
            stderr(&output)
        );
        only_text(&output);
    }
    for made in [
        odd("", ".png"),
        odd("p", ".pack"),
        odd("faces", ""),
        odd("s", ".png"),
        odd("s", ".safetensors"),
        odd("s", ""),
        odd("e", ".json"),
        odd("e", ".pack"),
        odd("b", ".json"),
        odd("d", ".json"),
    ] {
        assert!(root.path().join(&made).exists(), "{made:?}");
    }
}

/// Without a folder for temporary files the data are not at fault.
#[test]
fn a_missing_folder_for_temporary_files() {
    let root = tempdir().unwrap();
    let shard = File::create(root.path().join("shard.tar.gz")).unwrap();
    let mut shard = tar::Builder::new(flate2::write::GzEncoder::new(shard, Default::default()));
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    shard
        .append_data(&mut header, "1.jpg", &b"abc"[..])
        .unwrap();
    shard.into_inner().unwrap().finish().unwrap();
    let mut lmdb = zip::ZipWriter::new(File::create(root.path().join("lsun.zip")).unwrap());
    let packed = zip::write::SimpleFileOptions::default();
    lmdb.start_file(
        "lsun/data.mdb",
        packed.compression_method(zip::CompressionMethod::Deflated),
    )
    .unwrap();
    lmdb.write_all(&[7; 100_000]).unwrap();
    lmdb.finish().unwrap();
    let benches: [&[&str]; 2] = [
        &["bench", "data", "--device=cpu"],
        &[
            "bench",
            "step",
            "--data-residency=host",
            "--image-size=32",
            "--width=2",
        ],
    ];
    let shard = [
        "dataset",
        "inspect",
        "--dataset=webdataset",
        "--data=shard.tar.gz",
    ];
    let lsun = ["dataset", "inspect", "--dataset=lsun", "--data=lsun.zip"];
    for args in [&shard[..], &lsun, benches[0], benches[1]] {
        let mut command = binary();
        command
            .current_dir(root.path())
            .args(args)
            .env("TMPDIR", "/no/such");
        let output = checked(command.output().unwrap());
        let text = refuses(&output, 1, &["/no/such"]);
        assert!(
            text.contains("TMPDIR") || text.contains("--scratch"),
            "{text}"
        );
        for wrong in ["damaged", "truncated", "fetch it again"] {
            assert!(!text.contains(wrong), "{text}");
        }
    }
}
