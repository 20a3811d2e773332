//! What D and G are trained by, and presets of it: resumed to the bit, shown before it begins, refused where it makes no
//! sense.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::training::*;

/// Behind [`UNNORMED`]: penalties not in every iteration.
const STEADY: &[&str] = &[
    "--penalty-every",
    "3",
    "--flip",
    "--hold-out",
    "0.1",
    "--instance-noise",
    "0.1",
    "--instance-noise-steps",
    "9",
];
const PAIRS: &[&str] = &["--loss", "relativistic", "--g-steps", "2", "--d-steps", "2"];
const HINGE: &[&str] = &[
    "--loss",
    "hinge",
    "--augment",
    "color",
    "--condition",
    "attributes=Male,Looking_Right,No_Beard",
];

/// Behind [`UNNORMED`]: pairs of held-out images and generated ones, of labels and of pictures.
const LABELS: &[&str] = &[
    "--penalty-every",
    "4",
    "--hold-out",
    "0.2",
    "--condition",
    "attributes=Male,Looking_Right,No_Beard",
];
const EDGES: &[&str] = &["--hold-out", "0.2", "--condition", "edges"];

#[test]
fn other_objectives_go_on_where_they_were() {
    for (common, more) in [
        (&UNNORMED[..], STEADY),
        (&[], PAIRS),
        (&[], HINGE),
        (&UNNORMED, LABELS),
        (&UNNORMED, EDGES),
    ] {
        let objective = [common, more].concat();
        let root = tempdir().unwrap();
        let (whole, parts) = (root.path().join("whole"), root.path().join("parts"));
        let train_for = |run: &Path, steps: &'static str| {
            let mut args = tiny(&[&objective[..], &["--steps", steps]].concat());
            // Of pictures there need be no noise.
            let latent = args.iter().position(|arg| *arg == "--latent-dim");
            if let Some(at) = latent.filter(|_| objective.contains(&"edges")) {
                args.drain(at..at + 2);
            }
            succeeds(&train(run, &args));
        };
        train_for(&whole, "11");
        // In the midst of a report, and of the iterations between two penalties.
        train_for(&parts, "5");
        resume(&parts, &["--steps", "8"]);
        resume(&parts, &["--steps", "11"]);
        same_result(&whole, &parts, 11);
        let penalised = objective.contains(&"--r1");
        for line in log(&parts) {
            let held_out = objective.contains(&"--hold-out");
            for name in ["held_out_accuracy", "held_out_d", "seen_accuracy", "seen_d"] {
                assert_eq!(line[name].is_f64(), held_out, "{objective:?}: {line}");
            }
        }
        for name in ["r1_norm", "r2_norm"] {
            // Where an interval had an iteration with penalties.
            let told = log(&parts).iter().any(|line| line[name].is_f64());
            assert_eq!(told, penalised, "{objective:?} {name}");
        }
    }
    // Whoever resumes it with something else is told.
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    train_tiny(&run, &[&UNNORMED, STEADY, &["--steps", "2"]].concat());
    for (option, value, part) in [
        ("--r1", "3", "--r1 was"),
        ("--loss", "hinge", "--loss was relativistic, not hinge"),
        (
            "--augment",
            "none",
            "--augment was color,translation,cutout, not none",
        ),
        ("--penalty-every", "2", "--penalty-every was 3, not 2"),
        ("--d-norm", "batch", "--d-norm was none, not batch"),
    ] {
        let resumed = train(&run, &["--quiet", "--resume", option, value]);
        refuses(&resumed, 1, &[part, "--init-from"]);
    }
    // What was decided stays so.
    resume(&run, &["--augment", "auto", "--steps", "3"]);
}

/// The options as `--dry-run` shows them, and what was noted.
fn dry_run(args: &[&str]) -> (Value, String) {
    let root = tempdir().unwrap();
    let mut args = tiny(args);
    args.retain(|arg| *arg != "--quiet");
    args.push("--dry-run");
    let output = train(&root.path().join("run"), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let (open, close) = (text.find("{\n").unwrap(), text.rfind("\n}").unwrap());
    let config = serde_json::from_str(&text[open..close + 2]).unwrap();
    (config, stderr(&output))
}

#[test]
fn a_preset_is_shown_resolved_and_options_hold_against_it() {
    let (config, notes) = dry_run(&["--preset", "few"]);
    assert_eq!(config["preset"], "few");
    assert_eq!(config["augment"], "translation,cutout");
    assert_eq!(config["lr_decay"], "linear");
    assert_eq!(
        (&config["lr_g"], &config["lr_d"]),
        (&4e-4.into(), &4e-4.into())
    );
    assert!(!notes.contains("note:"), "{notes}");
    // 8 iterations an epoch.
    for (length, steps) in [
        (&[][..], 20_000),
        (&["--epochs", "3"], 24),
        (&["--steps", "7"], 7),
    ] {
        let (config, _) = dry_run(&[&["--preset", "few"][..], length].concat());
        assert_eq!(config["steps"], steps, "{length:?}");
    }
    let (config, notes) = dry_run(&["--preset", "modern"]);
    assert_eq!(config["steps"], 200);
    assert_eq!(
        (&config["lr_g"], &config["lr_decay"]),
        (&4e-4.into(), &"linear".into())
    );
    assert!(!notes.contains("note:"), "{notes}");
    let more = ["--loss", "hinge", "--lr-d", "0.0001", "--augment", "color"];
    let (config, notes) = dry_run(&[&["--preset", "modern"][..], &more].concat());
    assert_eq!(
        (&config["loss"], &config["lr_d"], &config["augment"]),
        (&"hinge".into(), &1e-4.into(), &"color".into())
    );
    assert_eq!(config["lr_g"], 4e-4);
    for note in [
        "note: --loss hinge holds, as given, not bce as --preset modern has it",
        "note: --lr-d 0.0001 holds, as given, not 0.0004",
        "note: --augment color holds, as given, not auto",
    ] {
        assert!(notes.contains(note), "{notes}");
    }
    let (config, notes) = dry_run(&["--preset", "classic", "--d-norm", "none"]);
    assert_eq!(config["d_norm"], "none");
    assert!(
        notes.contains("--d-norm none holds, as given, not batch"),
        "{notes}"
    );
    // Few images are changed, and many are not.
    let (config, _) = dry_run(&["--preset", "modern"]);
    assert_eq!(config["augment"], "translation,cutout");
    let (config, _) = dry_run(&["--preset", "modern", "--synthetic-count", "50000"]);
    assert_eq!(config["augment"], "none");
    let (config, _) = dry_run(&["--augment", "auto"]);
    assert_eq!(config["augment"], "translation,cutout");
}

/// The classic preset is the run without one, to the bit.
#[test]
fn the_classic_preset_is_what_holds_without() {
    let root = tempdir().unwrap();
    let run = |name: &str| root.path().join(name);
    train_tiny(&run("plain"), &["--steps", "3"]);
    let off = ["--preset", "classic", "--augment", "none", "--r1", "0"];
    train_tiny(&run("classic"), &[&off[..], &["--steps", "3"]].concat());
    let all =
        |run: &Path| TENSOR_FILES.map(|file| fs::read(checkpoint(run, 3).join(file)).unwrap());
    assert!(all(&run("plain")) == all(&run("classic")));
    assert_eq!(log(&run("plain")), log(&run("classic")));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    for (args, code, parts) in [
        (
            &["--r1", "1"][..],
            1,
            &["--r1", "batch norm", "--d-norm none", "--spectral-norm"][..],
        ),
        (
            &["--preset", "modern", "--r1", "1"],
            1,
            &["--r1", "batch norm"],
        ),
        (
            &["--r2=-1", "--d-norm", "none"],
            1,
            &["--r2 -1 is out of range"],
        ),
        (
            &["--r1", "nan", "--d-norm", "none"],
            1,
            &["--r1 NaN is out of range"],
        ),
        (
            &["--penalty-every", "0"],
            1,
            &["--penalty-every 0", "1 to 1000"],
        ),
        (
            &["--augment", "blur"],
            2,
            &["blur", "color, translation, cutout", "auto"],
        ),
        (&["--augment", "color,"], 2, &["color, translation, cutout"]),
        (
            &["--loss", "wasserstein"],
            2,
            &["bce", "hinge", "relativistic"],
        ),
        (&["--preset", "best"], 2, &["classic", "modern", "few"]),
        (&["--arch", "resnet"], 2, &["dcgan"]),
        (
            &["--spectral-norm", "--d-norm", "none"],
            2,
            &["--spectral-norm", "--d-norm"],
        ),
        (
            &["--loss", "hinge", "--label-smoothing", "0.1"],
            1,
            &["--label-smoothing", "--loss bce"],
        ),
    ] {
        let args = tiny(&[args, &["--steps", "1"]].concat());
        refuses(&train(&run, &args), code, parts);
        assert!(!run.exists(), "{args:?}");
    }
}
