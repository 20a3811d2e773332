use super::*;
use crate::data::condition::Wanted;
use proptest::prelude::*;
use std::fs;

fn stream(seed: u64) -> Stream {
    Stream::new(seed, Purpose::Condition, 1)
}

fn attributes(names: &[&str], rows: &[&str]) -> Conditions {
    let json = serde_json::json!({ "kind": "attributes", "names": names, "rows": rows });
    Conditions::parse(json.to_string().as_bytes()).unwrap()
}

fn classes(names: &[&str], images: &[u64]) -> Conditions {
    let json = serde_json::json!({ "kind": "classes", "names": names, "images": images });
    Conditions::parse(json.to_string().as_bytes()).unwrap()
}

#[test]
fn classes_are_drawn_as_often_as_the_data_has_them() {
    let of = classes(&["a", "b", "c", "d"], &[100, 0, 700, 200]);
    let n = 20_000;
    let y = of.draw(&stream(3), 0, n, &Wanted::AsTheData);
    let mut counts = [0_u64; 4];
    for y in y.chunks_exact(4) {
        assert_eq!(y.iter().map(|&v| i32::from(v)).sum::<i32>(), 1);
        counts[y.iter().position(|&v| v == 1).unwrap()] += 1;
    }
    assert_eq!(counts[1], 0);
    // Five standard errors of the largest are 0.017.
    for (count, share) in counts.into_iter().zip([0.1, 0.0, 0.7, 0.2]) {
        assert!(
            (count as f64 / n as f64 - share).abs() < 0.017,
            "{counts:?}"
        );
    }
    assert_eq!(y, of.draw(&stream(3), 0, n, &Wanted::AsTheData));
    assert_ne!(y, of.draw(&stream(4), 0, n, &Wanted::AsTheData));
    // In pieces, of any size.
    assert_eq!(
        y[4 * 1000..4 * 1007],
        of.draw(&stream(3), 1000, 7, &Wanted::AsTheData)
    );
    let wanted = Wanted::parse("class=3", &of).unwrap();
    assert_eq!(of.draw(&stream(3), 0, 2, &wanted), [0, 0, 0, 1, 0, 0, 0, 1]);
    let error = Wanted::parse("b", &of).unwrap_err().to_string();
    assert!(
        error.contains("no image that the network was trained on"),
        "{error}"
    );
    // Counts that no sum of 64 bits in between may overflow.
    let large = classes(&["a", "b"], &[u64::MAX - 1, 1]);
    assert_eq!(large.draw(&stream(0), 0, 1, &Wanted::AsTheData), [1, 0]);
}

#[test]
fn attributes_that_are_not_asked_for_are_those_of_an_image() {
    let rows = ["+++-", "+---", "-++-", "---+"];
    let of = attributes(&["Male", "Hat", "Old", "Lipstick"], &rows);
    let drawn = |text: &str| {
        let wanted = Wanted::parse(text, &of).unwrap();
        let y = of.draw(&stream(5), 0, 400, &wanted);
        let rows: BTreeSet<Vec<i8>> = y.chunks_exact(4).map(<[i8]>::to_vec).collect();
        rows.into_iter().collect::<Vec<_>>()
    };
    // Men and women as they are; nobody else.
    assert_eq!(drawn("Male"), [[1, -1, -1, -1], [1, 1, 1, -1]]);
    assert_eq!(drawn("-Male,Hat"), [[-1, 1, 1, -1]]);
    // No image has both: of any image, with both.
    assert_eq!(drawn("Male,Lipstick"), [[1, -1, -1, 1], [1, 1, 1, 1]]);
    let all = of.draw(&stream(5), 0, 8000, &Wanted::AsTheData);
    let with = all.chunks_exact(4).filter(|y| y[0] == 1).count();
    // Five standard errors.
    assert!(with.abs_diff(4000) < 224, "{with}");
    assert_eq!(
        all[4 * 77..4 * 80],
        of.draw(&stream(5), 77, 3, &Wanted::AsTheData)
    );
}

#[test]
fn a_folder_has_them_or_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(Conditions::FILE);
    assert_eq!(Conditions::read(folder.path()).unwrap(), None);
    let names = ["größe, \"x\"", "-a b", "\u{1b}=", " "];
    for of in [
        attributes(&names, &["+-+-", "----"]),
        classes(&names, &[1, 2, 3, u64::MAX - 6]),
    ] {
        of.write(folder.path()).unwrap();
        assert_eq!(Conditions::read(folder.path()).unwrap(), Some(of));
    }
    for (bad, said) in [
        ("", "EOF"),
        ("{}", "kind"),
        (r#"{"kind":"edges"}"#, "unknown variant"),
        (
            r#"{"kind":"classes","names":["a"],"rows":[]}"#,
            "unknown field",
        ),
        (
            r#"{"kind":"classes","names":["a","b"],"images":[1]}"#,
            "2 classes",
        ),
        (
            r#"{"kind":"classes","names":["a","b"],"images":[0,0]}"#,
            "no images",
        ),
        (
            r#"{"kind":"classes","names":["a"],"images":[-1]}"#,
            "invalid value",
        ),
        (
            r#"{"kind":"classes","names":["a","b"],"images":[18446744073709551615,1]}"#,
            "more than can be counted",
        ),
        (
            r#"{"kind":"classes","names":["a\n","a\n"],"images":[1,1]}"#,
            r"a\n twice",
        ),
        (
            r#"{"kind":"attributes","names":[""],"rows":["+"]}"#,
            "a name is empty",
        ),
        (r#"{"kind":"attributes","names":[],"rows":[""]}"#, "0 names"),
        (
            r#"{"kind":"attributes","names":["a"],"rows":[]}"#,
            "0 images",
        ),
        (
            r#"{"kind":"attributes","names":["a"],"rows":["+-"]}"#,
            "2 values",
        ),
        (
            r#"{"kind":"attributes","names":["a","b"],"rows":["ä"]}"#,
            "something else",
        ),
    ] {
        fs::write(&path, bad).unwrap();
        let error = format!("{:#}", Conditions::read(folder.path()).unwrap_err());
        assert!(
            error.contains("conditions.json is damaged"),
            "{bad}: {error}"
        );
        assert!(error.contains(said), "{bad}: {error}");
    }
    let long = "n".repeat(MOST_BYTES + 1);
    let json = format!(r#"{{"kind":"classes","names":["{long}"],"images":[1]}}"#);
    assert!(Conditions::parse(json.as_bytes()).is_err());
    let many = vec!["+"; MOST_ROWS + 1];
    let json = serde_json::json!({ "kind": "attributes", "names": ["a"], "rows": many });
    assert!(Conditions::parse(json.to_string().as_bytes()).is_err());
    fs::write(&path, vec![b' '; MOST_FILE as usize + 10]).unwrap();
    assert!(Conditions::read(folder.path()).is_err());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = format!("{:#}", Conditions::read(folder.path()).unwrap_err());
    assert!(error.contains("it is a folder"), "{error}");
}

/// The largest that can be written can be read.
#[test]
fn the_largest_fit_the_file() {
    let name = |i: usize| format!("{i:04}{}", "\u{1}".repeat(MOST_BYTES - 4));
    let names: Vec<String> = (0..MOST_NAMES).map(name).collect();
    let seen = Seen::Attributes(vec![-1; MOST_NAMES * MOST_ROWS]);
    let largest = Conditions { names, seen };
    let json = largest.json().unwrap();
    assert_eq!(Conditions::parse(&json).unwrap(), largest);
}

fn any_conditions() -> impl Strategy<Value = Conditions> {
    let names = prop::collection::btree_set(
        prop_oneof![
            "[-a-cA-C,= \\\\]{1,4}",
            "(Not_|No_|class=|-)?[0-2a]",
            "\\PC{1,6}"
        ],
        1..12,
    );
    (
        names,
        any::<bool>(),
        prop::collection::vec(any::<u8>(), 12 * 5),
        any::<u64>(),
    )
        .prop_map(|(names, of_classes, values, seed)| {
            let order = Stream::new(seed, Purpose::Shuffle, 0).permutation(names.len());
            let sorted: Vec<String> = names.into_iter().collect();
            let names: Vec<String> = order.iter().map(|&i| sorted[i as usize].clone()).collect();
            let signs = values.iter().map(|v| if v % 2 == 0 { 1 } else { -1 });
            let seen = match of_classes {
                true => Seen::Classes(
                    values[..names.len()]
                        .iter()
                        .map(|&v| u64::from(v) + 1)
                        .collect(),
                ),
                false => Seen::Attributes(signs.take(5 * names.len()).collect()),
            };
            Conditions { names, seen }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_is_asked_for_can_be_typed(
        of in any_conditions(),
        pick in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..6),
        any_text in "([-a-cA-C,= \\\\0-9]|class=|Not_|\\PC){0,12}",
    ) {
        let n = of.names().len();
        let wanted = match of.kind() {
            Kind::Classes => Wanted::Class(pick[0].0.index(n)),
            Kind::Attributes => {
                let fixed: std::collections::BTreeMap<usize, bool> =
                    pick.iter().map(|(at, there)| (at.index(n), *there)).collect();
                Wanted::Attributes(fixed.into_iter().collect())
            }
        };
        let typed = wanted.typed(&of);
        prop_assert_eq!(Wanted::parse(&typed, &of).unwrap(), wanted, "{}", typed);
        if let Ok(wanted) = Wanted::parse(&any_text, &of) {
            prop_assert_eq!(&Wanted::parse(&wanted.typed(&of), &of).unwrap(), &wanted);
            let y = of.draw(&stream(1), 0, 9, &wanted);
            prop_assert_eq!(y.len(), 9 * n);
            for y in y.chunks_exact(n) {
                match &wanted {
                    Wanted::AsTheData => prop_assert!(false),
                    Wanted::Class(class) => prop_assert_eq!(y[*class], 1),
                    Wanted::Attributes(fixed) => {
                        prop_assert!(y.iter().all(|v| v.abs() == 1));
                        prop_assert!(fixed.iter().all(|&(at, there)| (y[at] == 1) == there));
                    }
                }
            }
        }
    }

    /// Whatever became of the file: an error, or something that can be drawn from.
    #[test]
    fn no_file_is_more_than_refused(
        of in any_conditions(),
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof!["[-+0-9,\"\\[\\]{}:]", "\\PC{0,3}", "9{20}"]), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut json = of.json().unwrap();
        prop_assert_eq!(&Conditions::parse(&json).unwrap(), &of);
        for (at, text) in changes {
            let at = at.index(json.len());
            json.splice(at..=at, text.bytes());
            if json.is_empty() {
                break;
            }
        }
        if let Some(cut) = cut.filter(|_| !json.is_empty()) {
            json.truncate(cut.index(json.len()));
        }
        if let Ok(parsed) = Conditions::parse(&json) {
            let y = parsed.draw(&stream(2), 5, 3, &Wanted::AsTheData);
            prop_assert_eq!(y.len(), 3 * parsed.names().len());
            let again = Conditions::parse(&parsed.json().unwrap()).unwrap();
            prop_assert_eq!(again, parsed);
        }
    }
}
