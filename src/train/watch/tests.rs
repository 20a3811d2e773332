//! Alarms and the equilibrium on the reports of real runs (`tests/fixtures/watch/README.md` says which), and on numbers
//! made up.

use super::*;

/// The reports of a run, of batches of 64 images; `held_out`: so many images are held out.
fn reports(name: &str, held_out: u64) -> Vec<Seen> {
    let path = format!(
        "{}/tests/fixtures/watch/{name}.jsonl",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| Seen {
        examined: 64,
        held_out,
        ..serde_json::from_str(line).unwrap()
    };
    text.lines().map(line).collect()
}

/// What is raised, with the iterations; the words are printed.
fn raised(reports: &[Seen]) -> Vec<(u64, Kind)> {
    let mut watch = Watch::default();
    let alarms = reports.iter().flat_map(|seen| watch.observe(seen));
    alarms
        .map(|alarm| {
            println!("{}", serde_json::to_string(&alarm).unwrap());
            (alarm.step, alarm.kind)
        })
        .collect()
}

fn first(reports: &[Seen], kind: Kind) -> Option<u64> {
    raised(reports)
        .iter()
        .find(|(_, k)| *k == kind)
        .map(|(step, _)| *step)
}

#[test]
fn good_runs_raise_nothing() {
    for name in ["quickstart", "wide", "narrow", "large"] {
        assert_eq!(raised(&reports(name, 0)), [], "{name}");
    }
    assert_eq!(raised(&reports("held-out", 200)), []);
}

#[test]
fn a_collapse_is_seen_within_500_iterations() {
    for name in ["collapse-3", "collapse-5", "collapse-10", "collapse-20"] {
        let step = first(&reports(name, 0), Kind::Collapse);
        assert!(step.is_some_and(|step| step <= 500), "{name}: {step:?}");
    }
    // Though its images are as far from each other as real ones in the end, on the whole.
    let reports = reports("collapse-10", 0);
    assert!(reports.last().unwrap().diversity.unwrap() > 0.9);
    let mut watch = Watch::default();
    for seen in &reports {
        watch.observe(seen);
    }
    assert!(watch.active().contains(&Kind::Collapse));
}

#[test]
fn a_generator_that_learns_slowly_has_not_collapsed() {
    assert_eq!(first(&reports("slower-generator", 0), Kind::Collapse), None);
    // Unless it is still so after as much learning as 400 iterations usually are: 8,000 of these.
    let mut reports = reports("slower-generator", 0);
    let last = *reports.last().unwrap();
    reports.extend((1..=80).map(|i| Seen {
        step: last.step + i * 100,
        ..last
    }));
    let step = first(&reports, Kind::Collapse);
    assert!(
        step.is_some_and(|step| (7800..=8100).contains(&step)),
        "{step:?}"
    );
}

#[test]
fn a_certain_discriminator_is_seen() {
    for name in ["slow-generator", "slower-generator"] {
        let step = first(&reports(name, 0), Kind::DiscriminatorSaturated);
        assert!(step.is_some_and(|step| step <= 600), "{name}: {step:?}");
    }
    for name in ["weak-discriminator", "strong-discriminator", "few-images"] {
        assert_eq!(
            first(&reports(name, 0), Kind::DiscriminatorSaturated),
            None,
            "{name}"
        );
    }
}

#[test]
fn a_starved_generator_is_seen() {
    for (name, within) in [
        ("slow-generator", 900),
        ("weak-discriminator", 300),
        ("still-discriminator", 300),
    ] {
        let step = first(&reports(name, 0), Kind::GeneratorStarved);
        assert!(step.is_some_and(|step| step <= within), "{name}: {step:?}");
    }
    // A gradient that dies out.
    let report = |step: u64, norm: f64| Seen {
        step,
        g_gradient_norm: Some(norm),
        ..good(step)
    };
    let dying: Vec<Seen> = (1..=20)
        .map(|i| report(i * 50, if i > 8 { 0.1 } else { 30.0 }))
        .collect();
    assert_eq!(raised(&dying), [(700, Kind::GeneratorStarved)]);
    let small: Vec<Seen> = (1..=20).map(|i| report(i * 50, 30.0 / i as f64)).collect();
    assert_eq!(raised(&small), []);
}

#[test]
fn learning_by_heart_is_seen_where_images_are_held_out() {
    let step = first(&reports("few-images", 90), Kind::LearningByHeart);
    assert!(step.is_some_and(|step| step <= 1000), "{step:?}");
    assert_eq!(raised(&reports("few-images", 0)), []);
    // The same shares say nothing of as many images as these.
    assert_eq!(raised(&reports("few-images", 4)), []);
}

/// A report that nothing is wrong with.
fn good(step: u64) -> Seen {
    Seen {
        step,
        loss_d_real: Some(0.2),
        loss_d_fake: Some(0.2),
        loss_g: Some(3.0),
        d_real: Some(0.9),
        d_fake_after: Some(0.05),
        g_gradient_norm: Some(30.0),
        diversity: Some(0.9),
        nearest: Some(0.9),
        ..Seen::default()
    }
}

#[test]
fn what_is_not_finite_is_said_at_once_and_once() {
    let mut reports: Vec<Seen> = (1..=6).map(|i| good(i * 50)).collect();
    for report in &mut reports[2..4] {
        report.loss_g = None;
    }
    reports[5].loss_d_real = Some(f64::NAN);
    assert_eq!(
        raised(&reports),
        [(150, Kind::NotFinite), (300, Kind::NotFinite)]
    );
    // Twenty steps while the loss scale is looked for, one now and then, and too many.
    let skipped = |of: &dyn Fn(u64) -> u64| -> Vec<(u64, Kind)> {
        let report = |i: u64| Seen {
            d_skipped: of(i),
            ..good(i * 50)
        };
        raised(&(1..=20).map(report).collect::<Vec<_>>())
    };
    assert_eq!(skipped(&|i| 20 + i / 4), []);
    assert_eq!(
        skipped(&|i| 20 + i.saturating_sub(10) * 10),
        [(600, Kind::NotFinite)]
    );
}

/// A run of the log that stops after any report and goes on says the same.
#[test]
fn a_resumed_run_says_the_same() {
    for name in [
        "collapse-10",
        "slow-generator",
        "few-images",
        "weak-discriminator",
    ] {
        let reports = reports(name, 90);
        let (mut whole, mut parts) = (Watch::default(), Watch::default());
        let mut said = 0;
        for seen in &reports {
            let kept = serde_json::to_string(&parts).unwrap();
            parts = serde_json::from_str(&kept).unwrap();
            let alarms = whole.observe(seen);
            said += alarms.len();
            assert_eq!(parts.observe(seen), alarms, "{name} {}", seen.step);
            assert_eq!(parts, whole);
        }
        assert!(said > 0, "{name}");
        assert!(serde_json::to_string(&whole).unwrap().len() < 2000);
    }
    // Nothing is remembered of a checkpoint of an earlier version.
    assert_eq!(
        serde_json::from_str::<Watch>("{}").unwrap(),
        Watch::default()
    );
}

#[test]
fn an_alarm_is_a_line_of_the_log() {
    let mut reports = [good(50)];
    reports[0].loss_g = None;
    let alarm = Watch::default().observe(&reports[0]).remove(0);
    let line: serde_json::Value = serde_json::to_value(&alarm).unwrap();
    assert_eq!(line["step"], 50);
    assert_eq!(line["alarm"], "not-finite");
    assert_eq!(line["seen"], "G's loss is not finite");
    assert!(line["helps"].as_str().unwrap().contains("--precision"));
    for kind in Kind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}

/// Sliced Wasserstein distance, 19.5 between real images, every 250 iterations from 250 on: by `evaluate --count 256` of the checkpoints.
const OSCILLATION: &[f64] = &[232.1, 144.7, 90.4, 88.2, 85.7, 82.6, 127.1, 113.8];
const BALANCED: &[f64] = &[
    147.6, 78.4, 69.0, 67.4, 84.4, 69.9, 50.2, 46.3, 34.1, 31.2, 31.2, 37.9,
];

const SETTLED: &[f64] = &[
    106.8, 90.0, 91.4, 91.0, 80.5, 96.6, 84.7, 75.6, 97.1, 82.4, 89.7, 93.9, 93.5, 108.0, 97.8,
    85.7,
];

/// When and why a run of these reports ends, with `metric` as above and the alarms that these raise.
fn ends(limits: &Limits, reports: &[Seen], fakes: &[f64], metric: &[f64]) -> Option<(u64, String)> {
    let (mut watch, mut equilibrium) = (Watch::default(), Equilibrium::default());
    let mut ends = reports.iter().zip(fakes).filter_map(|(seen, &fake)| {
        watch.observe(seen);
        let measured = seen.step.is_multiple_of(250);
        let standing = Standing {
            step: seen.step,
            held_out_accuracy: seen.held_out_accuracy,
            fake_accuracy: Some(fake),
            metric: measured.then(|| metric[seen.step as usize / 250 - 1]),
            diversity: seen.diversity,
            nearest: seen.nearest,
            alarmed: !watch.active().is_empty(),
        };
        // Across a resume.
        let kept = serde_json::to_string(&equilibrium).unwrap();
        equilibrium = serde_json::from_str(&kept).unwrap();
        assert!(kept.len() < 2000, "{kept}");
        let why = equilibrium.observe(limits, &standing)?;
        Some((seen.step, why))
    });
    ends.next()
}

/// D's accuracy on generated images in the reports of a fixture.
fn fakes(name: &str) -> Vec<f64> {
    let path = format!(
        "{}/tests/fixtures/watch/{name}.jsonl",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let share = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["d_fake_accuracy"].as_f64().unwrap()
    };
    text.lines().map(share).collect()
}

#[test]
fn half_right_is_not_enough() {
    for (name, metric) in [("oscillation", OSCILLATION), ("balanced", BALANCED)] {
        let (reports, fakes) = (reports(name, 200), fakes(name));
        for window in [1000, 2000] {
            let limits = Limits {
                window,
                ..Limits::default()
            };
            assert_eq!(
                ends(&limits, &reports, &fakes, metric),
                None,
                "{name} {window}"
            );
        }
    }
    // A run that has collapsed and goes on for ever, its answers as at the end.
    let (mut reports, mut shares) = (reports("oscillation", 200), fakes("oscillation"));
    let mut metric = OSCILLATION.to_vec();
    for i in 0..200 {
        let from = reports[20 + i % 20];
        let step = reports.last().unwrap().step + 50;
        reports.push(Seen { step, ..from });
        shares.push(shares[20 + i % 20]);
        metric.push(metric[4 + i % 4]);
    }
    assert_eq!(ends(&Limits::default(), &reports, &shares, &metric), None);
    // It is the alarm that prevents it, too.
    assert_eq!(
        first(&reports, Kind::GeneratorStarved).map(|step| step < 2500),
        Some(true)
    );
}

#[test]
fn a_run_that_has_settled_ends() {
    // Nothing became better after iteration 2,000.
    let (reports, fakes) = (reports("settled", 200), fakes("settled"));
    assert_eq!(raised(&reports), []);
    for (window, end) in [(1000, 3000), (2000, 4000)] {
        let limits = Limits {
            window,
            ..Limits::default()
        };
        let (step, why) = ends(&limits, &reports, &fakes, SETTLED).unwrap();
        println!("{step}: {why}");
        assert_eq!(step, end);
        assert!(why.contains("75.6"), "{why}");
    }
}

/// Reports every 100 iterations, with D's accuracy on held-out and on generated images.
fn made(count: u64, shares: impl Fn(u64) -> [f64; 2]) -> (Vec<Seen>, Vec<f64>) {
    let report = |i: u64| Seen {
        held_out_accuracy: Some(shares(i * 100)[0]),
        ..good(i * 100)
    };
    let reports = (1..=count).map(report).collect();
    (reports, (1..=count).map(|i| shares(i * 100)[1]).collect())
}

#[test]
fn a_run_that_converges_ends() {
    // D's accuracy falls to one half until iteration 3,000, and the metric to twice its floor until 4,000.
    let share = |step: u64| 0.95 - 0.4 * (step as f64 / 3000.0).min(1.0);
    // The noise of batches of 64.
    let noise = |step: u64| 0.06 * ((step / 100 * 7919 % 13) as f64 / 6.0 - 1.0);
    let (reports, fakes) = made(200, |step| {
        [share(step) + noise(step), share(step) - noise(step + 500)]
    });
    let metric: Vec<f64> = (1..=80)
        .map(|i| 40.0 + 60.0 * (1.0 - f64::from(i) / 16.0).max(0.0) + 0.5 * f64::from(i % 3))
        .collect();
    let limits = Limits::default();
    let (step, why) = ends(&limits, &reports, &fakes, &metric).unwrap();
    assert!((5500..=6500).contains(&step), "{step}");
    for part in ["2000 iterations", "coin", "93.5 at first", "held-out"] {
        assert!(why.contains(part), "{why}");
    }
    // Not where D is better than that on either side, where an alarm is raised, where images are alike or few, and
    // where the metric improves, or never has, or is missing.
    let never = |reports: &[Seen], fakes: &[f64], metric: &[f64]| {
        assert_eq!(ends(&limits, reports, fakes, metric), None);
    };
    let (one_sided, all_real) = made(200, |_| [0.95, 0.1]);
    never(&one_sided, &all_real, &metric);
    let (strong, right) = made(200, |_| [0.75, 0.75]);
    never(&strong, &right, &metric);
    let change = |change: fn(&mut Seen)| {
        let mut reports = reports.clone();
        reports.iter_mut().for_each(change);
        reports
    };
    never(
        &change(|seen| seen.d_fake_after = Some(0.9)),
        &fakes,
        &metric,
    );
    never(&change(|seen| seen.diversity = Some(0.4)), &fakes, &metric);
    never(&change(|seen| seen.nearest = Some(0.5)), &fakes, &metric);
    never(&change(|seen| seen.diversity = None), &fakes, &metric);
    never(
        &change(|seen| seen.held_out_accuracy = None),
        &fakes,
        &metric,
    );
    let improving: Vec<f64> = (1..=80).map(|i| 100.0 * 0.96f64.powi(i)).collect();
    never(&reports, &fakes, &improving);
    never(&reports, &fakes, &vec![f64::NAN; 80]);
    let never_better = vec![40.0; 80];
    never(&reports, &fakes, &never_better);
    // A narrower band.
    let narrow = Limits {
        band: 0.02,
        ..limits
    };
    assert_eq!(ends(&narrow, &reports, &fakes, &metric), None);
}
