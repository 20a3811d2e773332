//! `report` makes one page of whatever runs left behind, and `train --tensorboard` writes what TensorBoard reads.
//!
//! How the page looks and behaves is tried in a browser by scripts/check-report, what TensorBoard makes of the files by
//! scripts/check-tensorboard.

mod training;

use std::fs;
use std::path::{Path, PathBuf};

use dcgan_cuda::train::config::Config;
use dcgan_cuda::train::report::{Reporter, Window};
use dcgan_cuda::train::tensorboard::{EventWriter, record};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::tempdir;
use training::*;

/// A report as the log of today has it.
fn reported(step: u64) -> Value {
    json!({"step": step, "epoch": step as f64 / 10.0, "images_seen": step * 4, "loss_d_real": 1.0 / step as f64,
           "loss_d_fake": 0.5, "loss_g": 2.5, "d_real_accuracy": 0.75, "d_fake_accuracy": 0.5, "d_real": 0.6,
           "d_fake": 0.3, "d_fake_after": 0.2, "d_skipped": 0, "g_skipped": 0, "images_per_sec": 100.0,
           "elapsed_sec": step as f64 / 25.0})
}

/// A run folder with these lines in its log, and two sheets.
fn made(run: &Path, lines: &[Value]) {
    fs::create_dir_all(run.join("samples")).unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(run.join("log.jsonl"), text).unwrap();
    let config = json!({"dataset": "synthetic", "steps": 100, "lr_g": 2e-4, "crop": null});
    fs::write(run.join("config.json"), config.to_string()).unwrap();
    for (step, side) in [(0, 3), (100, 5)] {
        let sheet = image::RgbImage::from_pixel(side, side, image::Rgb([9, 99, 199]));
        sheet
            .save(run.join(format!("samples/step-{step:06}.png")))
            .unwrap();
    }
}

fn report(args: &[&Path]) -> std::process::Output {
    checked(binary().arg("report").args(args).output().unwrap())
}

/// The page's data, and its text before and after them.
fn parts(page: &Path) -> (Value, String) {
    let text = fs::read_to_string(page).unwrap();
    let begin = "<script type=\"application/json\" id=\"data\">";
    let (before, rest) = text.split_once(begin).unwrap();
    let (data, after) = rest.split_once("</script>").unwrap();
    (
        serde_json::from_str(data).unwrap(),
        format!("{before}{after}"),
    )
}

fn column<'a>(run: &'a Value, name: &str) -> Option<&'a Value> {
    let columns = run["curves"]["columns"].as_array().unwrap();
    columns.iter().find(|column| column["name"] == name)
}

fn notes(run: &Value) -> Vec<&str> {
    let notes = run["notes"].as_array().unwrap();
    notes.iter().map(|note| note.as_str().unwrap()).collect()
}

#[test]
fn a_page_holds_what_the_run_left() {
    let root = tempdir().unwrap();
    let run = root.path().join("first");
    let mut lines: Vec<Value> = (1..=10).map(|i| reported(10 * i)).collect();
    lines[3]["loss_g"] = Value::Null;
    lines[4]["held_out_accuracy"] = json!(0.625);
    lines[4]["distance"] = json!(0.375);
    // Resumed after iteration 50: the clock begins again.
    for (i, line) in lines.iter_mut().enumerate().skip(5) {
        line["elapsed_sec"] = json!((i - 4) as f64);
    }
    lines.insert(5, json!({"step": 50, "metrics": {"swd": {"generated": 26.125, "real": 7.0}, "kid": {"generated": null},
                           "odd": "text"}, "features": "classifier", "count": 512, "seconds": 1.2}));
    lines.push(
        json!({"step": 60, "alarm": "collapse", "seen": "few kinds", "helps": "a smaller --lr-d"}),
    );
    lines.push(json!({"step": 100, "stopped": "equilibrium", "why": "D is a coin"}));
    made(&run, &lines);

    let output = report(&[&run]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stderr(&output),
        "note: one value was not finite: it is a gap\n"
    );
    let page = run.join("report.html");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("{}\n", page.display())
    );
    let (data, rest) = parts(&page);
    let told = &data["runs"][0];
    assert_eq!(told["name"], "first");
    assert_eq!(
        (&told["steps"], &told["last_step"]),
        (&json!(100), &json!(100))
    );
    let curves = &told["curves"];
    assert_eq!(
        curves["step"],
        json!([10, 20, 30, 40, 50, 60, 70, 80, 90, 100].map(f64::from))
    );
    let seconds = curves["seconds"].as_array().unwrap();
    assert_eq!(
        (&seconds[4], &seconds[5], &seconds[9]),
        (&json!(2.0), &json!(3.0), &json!(7.0))
    );
    let real = column(told, "loss_d_real").unwrap()["mean"]
        .as_array()
        .unwrap();
    assert_eq!(real[2].as_f64(), Some(1.0 / 30.0));
    let loss_g = column(told, "loss_g").unwrap()["mean"].as_array().unwrap();
    assert_eq!(loss_g[3], Value::Null);
    let held_out = column(told, "held_out_accuracy").unwrap()["mean"]
        .as_array()
        .unwrap();
    assert_eq!((&held_out[3], &held_out[4]), (&Value::Null, &json!(0.625)));
    let distance = column(told, "distance").unwrap()["mean"]
        .as_array()
        .unwrap();
    assert_eq!((&distance[3], &distance[4]), (&Value::Null, &json!(0.375)));
    // Older logs lack columns.
    assert!(column(told, "diversity").is_none());
    assert_eq!(
        told["metrics"],
        json!([{"step": 50, "values": {"swd": {"generated": 26.125, "real": 7.0}, "kid": {"generated": null, "real": null}},
                "features": "classifier", "count": 512}])
    );
    assert_eq!(told["alarms"][0]["helps"], "a smaller --lr-d");
    assert_eq!(told["stopped"]["why"], "D is a coin");
    assert_eq!(
        told["config"],
        json!([
            ["crop", null],
            ["dataset", "synthetic"],
            ["lr_g", "0.0002"],
            ["steps", "100"]
        ])
    );
    let sheets = told["sheets"].as_array().unwrap();
    assert_eq!(sheets.len(), 2);
    assert_eq!(
        (&sheets[1]["step"], &sheets[1]["width"]),
        (&json!(100), &json!(5))
    );
    let coded = sheets[1]["src"].as_str().unwrap();
    let bytes = fs::read(run.join("samples/step-000100.png")).unwrap();
    let expected = dcgan_cuda::hex::base64(&bytes);
    assert_eq!(coded, format!("data:image/png;base64,{expected}"));
    // Nothing is fetched, and nobody else's script runs.
    assert!(rest.contains("default-src 'none'; script-src 'sha256-"));
    for outside in [
        "http:",
        "https:",
        "//cdn",
        "@import",
        "<link rel=\"stylesheet\"",
    ] {
        let own = rest.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains(outside), "{outside}");
    }

    // A run that went on after it was ended is not at its end.
    lines.push(reported(110));
    made(&run, &lines);
    report(&[&run]);
    assert_eq!(parts(&page).0["runs"][0]["stopped"], Value::Null);

    // Again: a report is replaced.
    fs::remove_dir_all(run.join("samples")).unwrap();
    assert_eq!(report(&[&run, Path::new("--quiet")]).status.code(), Some(0));
    assert_eq!(parts(&page).0["runs"][0]["sheets"], json!([]));
}

#[test]
fn nothing_but_a_report_is_replaced() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    made(&run, &[reported(10)]);
    let page = root.path().join("page.html");
    fs::write(&page, "<!DOCTYPE html>\n<html lang=\"en\">\nmine").unwrap();
    let out = Path::new("--out");
    let is_no_report = ["is there already, is no report", "choose another --out"];
    refuses(&report(&[&run, out, &page]), 1, &is_no_report);
    assert!(fs::read_to_string(&page).unwrap().ends_with("mine"));
    // Not through a link either, even to a report.
    report(&[&run]);
    let link = root.path().join("link.html");
    std::os::unix::fs::symlink(run.join("report.html"), &link).unwrap();
    refuses(&report(&[&run, out, &link]), 1, &is_no_report);
    fs::create_dir(root.path().join("folder.html")).unwrap();
    refuses(
        &report(&[&run, out, &root.path().join("folder.html")]),
        1,
        &is_no_report,
    );
    refuses(
        &report(&[&run, out, &root.path().join("page.txt")]),
        1,
        &["has to end in .html"],
    );
    refuses(
        &report(&[&run, out, &root.path().join("none/page.html")]),
        1,
        &["there is no folder"],
    );
}

#[test]
fn runs_without_a_log_are_named() {
    let root = tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    made(&at("good"), &[reported(10)]);
    for name in ["no-log", "empty-log"] {
        made(&at(name), &[]);
    }
    fs::remove_file(at("no-log").join("log.jsonl")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    refuses(
        &report(&[&at("no-log")]),
        1,
        &["no-log has no log.jsonl", "--log-every"],
    );
    refuses(
        &report(&[&at("empty-log")]),
        1,
        &["empty-log/log.jsonl has no reports"],
    );
    refuses(&report(&[&at("empty")]), 1, &["empty holds no run"]);
    refuses(&report(&[&at("nowhere")]), 1, &["nowhere is no run folder"]);
    refuses(&report(&[]), 2, &["<RUN>"]);
    let page = at("page.html");
    let output = report(&[&at("good"), &at("no-log"), Path::new("--out"), &page]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("no-log has no log.jsonl"),
        "{}",
        stderr(&output)
    );
    let (data, _) = parts(&page);
    assert_eq!(data["runs"].as_array().unwrap().len(), 1);
    assert!(
        data["notes"][0]
            .as_str()
            .unwrap()
            .contains("no-log has no log.jsonl")
    );
}

#[test]
fn damaged_files_cost_what_is_damaged() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    made(&run, &[reported(10), reported(20), reported(30)]);
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let cut = &log[..log.len() - 20];
    let long = "9".repeat(1 << 17);
    let strange = format!(
        "nonsense\n[1,2]\n{{\"step\": -1, \"epoch\": 1}}\n{{\"epoch\": 3}}\n{long}\n{{\"step\": 15}}\n"
    );
    let again = reported(10);
    fs::write(
        run.join("log.jsonl"),
        format!("{strange}\u{0}\n{again}\n{cut}"),
    )
    .unwrap();
    fs::write(run.join("config.json"), "{\"steps\":").unwrap();
    let sheet = run.join("samples/step-000100.png");
    let bytes = fs::read(&sheet).unwrap();
    fs::write(&sheet, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(run.join("samples/step-000050.png"), "no image").unwrap();
    fs::write(run.join("samples/step-x.png"), &bytes).unwrap();
    let output = report(&[&run, Path::new("--quiet")]);
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
    let (data, _) = parts(&run.join("report.html"));
    let told = &data["runs"][0];
    assert_eq!(told["curves"]["step"], json!([10.0, 20.0]));
    assert_eq!(told["sheets"].as_array().unwrap().len(), 1);
    assert_eq!(told["config"], json!([]));
    let said = notes(told);
    for part in [
        "7 lines of the log are no lines of this program",
        "one report goes back to an earlier iteration",
        "one line, the last of the log, is cut off",
        "config.json is damaged",
        "step-000100.png is damaged",
        "step-000050.png is damaged",
    ] {
        assert!(
            said.iter().any(|note| note.contains(part)),
            "lacks {part:?}: {said:?}"
        );
    }
}

#[test]
fn what_is_hostile_stays_text() {
    let root = tempdir().unwrap();
    let attack = "</script><script>alert(1)</script>\u{2028}<!--";
    // Runs of one name are told apart by the folder that they are in: the name has a slash.
    let run = root.path().join("a<").join("script><script>alert(1)<");
    let other = root.path().join("b<").join("script><script>alert(1)<");
    for run in [&run, &other] {
        let mut line = reported(10);
        line[attack] = json!(1);
        let alarm =
            json!({"step": 10, "alarm": attack, "seen": attack, "helps": attack.repeat(500)});
        let metrics = json!({"step": 10, "metrics": {attack: {"generated": 1e308, "real": 1}}, "features": attack});
        made(run, &[line, alarm, metrics]);
        let config =
            json!({attack: attack, "steps": 1e300, "deep": [[[attack]]], "data": [1, 255]});
        fs::write(run.join("config.json"), config.to_string()).unwrap();
    }
    let page = root.path().join("page.html");
    let output = report(&[&run, &other, Path::new("--out"), &page]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = fs::read_to_string(&page).unwrap();
    assert!(!text.contains("alert(1)<") && !text.contains('\u{2028}'));
    // The data and the page's own.
    assert_eq!(text.matches("<script").count(), 2);
    assert_eq!(text.matches("</script").count(), 2);
    let (data, _) = parts(&page);
    assert_eq!(data["runs"][0]["name"], "a</script><script>alert(1)<");
    assert!(
        data["runs"][0]["alarms"][0]["helps"]
            .as_str()
            .unwrap()
            .chars()
            .count()
            < 2100 * 2
    );
}

#[test]
fn long_runs_are_thinned() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    let mut lines = Vec::new();
    for step in 1..=2500 {
        lines.push(reported(step));
        lines.push(json!({"step": step, "metrics": {"swd": {"generated": step, "real": 1}}}));
    }
    made(&run, &lines);
    let sheet = run.join("samples/step-000000.png");
    for step in 1..100 {
        fs::copy(&sheet, run.join(format!("samples/step-{step:06}.png"))).unwrap();
    }
    // Larger than a page shows.
    image::RgbImage::new(2000, 1000)
        .save(run.join("samples/step-000100.png"))
        .unwrap();
    report(&[&run, Path::new("--sheets"), Path::new("7")]);
    let (data, _) = parts(&run.join("report.html"));
    let told = &data["runs"][0];
    let steps = told["curves"]["step"].as_array().unwrap();
    assert!(steps.len() <= 1000 && steps.last() == Some(&json!(2500.0)));
    let loss = column(told, "loss_d_real").unwrap();
    assert_eq!(loss["range"][1][0], json!(1.0));
    let metrics = told["metrics"].as_array().unwrap();
    assert!(metrics.len() <= 501);
    assert_eq!(
        (&metrics[0]["step"], &metrics[metrics.len() - 1]["step"]),
        (&json!(1), &json!(2500))
    );
    let sheets = told["sheets"].as_array().unwrap();
    assert_eq!(
        (sheets.len(), &sheets[0]["step"], &sheets[6]["step"]),
        (7, &json!(0), &json!(100))
    );
    assert_eq!(
        (&sheets[6]["width"], &sheets[6]["height"]),
        (&json!(1200), &json!(600))
    );
    assert!(
        sheets[6]["src"]
            .as_str()
            .unwrap()
            .starts_with("data:image/jpeg;base64,")
    );
    let said = notes(told).join("; ");
    for part in [
        "2500 reports",
        "2500 lines of metrics",
        "7 of 101 sample sheets",
        "shown smaller",
    ] {
        assert!(said.contains(part), "lacks {part:?}: {said}");
    }
    report(&[&run, Path::new("--sheets"), Path::new("0")]);
    assert_eq!(
        parts(&run.join("report.html")).0["runs"][0]["sheets"],
        json!([])
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is in a log and a sheet, a run is read or refused, and what is read can be written.
    #[test]
    fn any_log_is_read(lines in prop::collection::vec(line(), 0..20), tail in prop::collection::vec(any::<u8>(), 0..40)) {
        let root = tempdir().unwrap();
        let mut bytes = lines.join("\n").into_bytes();
        bytes.extend(&tail);
        fs::write(root.path().join("log.jsonl"), bytes).unwrap();
        fs::create_dir(root.path().join("samples")).unwrap();
        fs::write(root.path().join("samples/step-000001.png"), &tail).unwrap();
        let limits = dcgan_cuda::report::Limits { sheets: 5, bytes: 1000 };
        let folders = [root.path().to_path_buf()];
        if let Ok((runs, notes)) = dcgan_cuda::report::read_runs(&folders, limits, || Ok(())) {
            let page = dcgan_cuda::report::page(&runs, &notes).unwrap();
            prop_assert!(dcgan_cuda::report::is_report(page.as_bytes()));
        }
    }
}

/// A line that is nearly one of a log.
fn line() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any::<f64>().prop_map(|v| json!(v)),
        any::<u64>().prop_map(|v| json!(v)),
        ".{0,12}".prop_map(|v| json!(v)),
        Just(Value::Null),
        Just(json!({"swd": {"generated": 1.5, "real": "x"}, "kid": 3, "fid": []})),
    ];
    let names = [
        "step",
        "epoch",
        "metrics",
        "alarm",
        "stopped",
        "loss_g",
        "seen",
        "diversity",
        "elapsed_sec",
    ];
    let field = (prop::sample::select(names.to_vec()), value);
    prop::collection::vec(field, 0..6).prop_map(|fields| {
        let mut line = json!({"step": 7, "epoch": 1});
        for (name, value) in fields {
            line[name] = value;
        }
        line.to_string()
    })
}

// ---- TensorBoard -------------------------------------------------------------------------------------------------

/// The event files of a run, in the order that TensorBoard reads them in.
fn event_files(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("events.out.tfevents.")
        })
        .collect();
    found.sort();
    found
}

/// The records of an event file, which must be whole.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut found) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (record, after) = record::first(rest).expect("a record is damaged");
        found.push(record.to_vec());
        rest = after;
    }
    found
}

fn holding(records: &[Vec<u8>], text: &str) -> usize {
    let holds = |record: &&Vec<u8>| {
        record
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    records.iter().filter(holds).count()
}

#[test]
fn events_are_written_while_it_trains_and_taken_back_where_it_is_resumed() {
    let root = tempdir().unwrap();
    let (with, without) = (root.path().join("with"), root.path().join("without"));
    let sheets = ["--sample-every", "2", "--checkpoint-every", "4"];
    let begin = ["--steps", "6", sheets[0], sheets[1], sheets[2], sheets[3]];
    train_tiny(&with, &[&begin[..], &["--tensorboard"]].concat());
    train_tiny(&without, &begin);
    // Nothing of training changes.
    same_result(&with, &without, 6);
    assert!(event_files(&without).is_empty());
    let files = event_files(&with);
    let all = records(&files[0]);
    // Version, the start, two of settings, reports of 3 and 6, sheets of 0, 2, 4 and 6, and the end.
    assert_eq!((files.len(), all.len()), (1, 11));
    assert!(all[1].ends_with(&[0x3a, 2, 8, 1]) && all[1].len() == 13);
    assert_eq!(holding(&all, "brain.Event:2"), 1);
    assert_eq!(holding(&all, "_hparams_/"), 3);
    assert_eq!(holding(&all, "loss/d_real"), 3);
    assert_eq!(holding(&all, "accuracy/d_fake"), 3);
    assert_eq!(holding(&all, "speed/images_per_sec"), 2);
    assert_eq!(holding(&all, "level/d_fake_after"), 2);
    assert_eq!(holding(&all, "steps/g_skipped"), 2);
    let sheet = fs::read(with.join("samples/step-000006.png")).unwrap();
    let holds = |record: &Vec<u8>| record.windows(sheet.len()).any(|part| part == sheet);
    assert_eq!(all.iter().filter(|record| holds(record)).count(), 1);

    // From the checkpoint before: another file, which takes the report and the sheet of 6 back. The setting is kept.
    let from = checkpoint(&with, 4);
    let resumed = [
        "--quiet",
        "--resume",
        from.to_str().unwrap(),
        "--steps",
        "7",
    ];
    succeeds(&train(&with, &resumed));
    let files = event_files(&with);
    let again = records(&files[1]);
    assert_eq!(files.len(), 2);
    // Its second record is of iteration 5, SessionLog.status = START.
    assert!(
        again[1].ends_with(&[0x10, 5, 0x3a, 2, 8, 1]),
        "{:?}",
        again[1]
    );
    assert_eq!(holding(&again, "speed/images_per_sec"), 2);
    assert_eq!(records(&files[0]), all);
}

/// Other lines of the log get there too.
#[test]
fn events_hold_metrics_and_alarms() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    train_tiny(&run, &["--steps", "1"]);
    let mut config = Config::read(&run).unwrap();
    config.tensorboard = true;
    let mut reporter = Reporter::new(&run, &config, 1, &Window::default(), true).unwrap();
    let nothing = std::time::Duration::ZERO;
    let metrics = json!({"step": 1, "metrics": {"swd": {"generated": 26.5, "real": 7.0, "real_deviation": 1.0}}});
    reporter.add(&metrics, "swd 26.5", nothing).unwrap();
    let alarm =
        json!({"step": 1, "alarm": "collapse", "seen": "few kinds", "helps": "a smaller --lr-d"});
    reporter.add(&alarm, "alarm", nothing).unwrap();
    let stopped = json!({"step": 1, "stopped": "equilibrium", "why": "D is a coin"});
    reporter.add(&stopped, "stopped", nothing).unwrap();
    reporter.flush().unwrap();
    let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[1..], [metrics, alarm, stopped]);
    let all = records(&event_files(&run)[0]);
    // The version, the start, two of settings, those, and the end.
    assert_eq!(all.len(), 8);
    for tag in [
        "metrics/swd/generated",
        "metrics/swd/real",
        "**collapse**: few kinds  \nWhat helps: a smaller --lr-d",
        "**equilibrium**: D is a coin",
    ] {
        assert_eq!(holding(&all, tag), 1, "{tag}");
    }
    assert_eq!(holding(&all, "deviation"), 0);
}

#[test]
fn events_that_cannot_be_written_do_not_end_a_run() {
    let root = tempdir().unwrap();
    let run = root.path().join("run");
    train_tiny(&run, &["--steps", "3"]);
    // There is no later name.
    fs::write(
        run.join("events.out.tfevents.99999999999.dcgan-cuda.999"),
        "",
    )
    .unwrap();
    let output = train(&run, &["--resume", "--steps", "6", "--tensorboard"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(
        text.matches("note: events for TensorBoard are missing")
            .count(),
        1,
        "{text}"
    );
    assert!(
        text.contains("training goes on") && text.contains("error: events for TensorBoard"),
        "{text}"
    );
    assert_eq!(latest(&run), Some(6));

    let mut writer = EventWriter::new(&root.path().join("run"), 1);
    assert!(writer.is_err());
    writer = EventWriter::new(root.path(), 1);
    let mut writer = writer.unwrap();
    assert!(writer.image(1, "samples", b"\x89PNG").is_err());
    // Removed, and made again.
    fs::remove_file(&event_files(root.path())[0]).unwrap();
    let values = [
        ("a".to_string(), 1.0),
        ("b".to_string(), f64::NAN),
        ("c".to_string(), 1e300),
    ];
    writer.scalars(1, &values).unwrap();
    writer.scalars(2, &values[1..]).unwrap();
    let all = records(&event_files(root.path())[0]);
    assert_eq!((all.len(), holding(&all, "brain.Event:2")), (2, 1));
}
