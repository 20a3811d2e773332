//! What a run keeps of its conditions, so that images can be made as the data set has them without it.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::table::{MOST_BYTES, MOST_NAMES, Table, one_hot};
use super::wanted::Wanted;
use crate::data::labels::Kind;
use crate::files;
use crate::random::{Purpose, Stream};
use crate::text::{escaped, shown};

/// Of attributes, those of this many images are kept at most.
pub const MOST_ROWS: usize = 1024;

/// Bytes of the file at most: names that JSON writes in six bytes each, and the rows.
const MOST_FILE: u64 =
    (MOST_NAMES * (6 * MOST_BYTES + 16) + MOST_ROWS * (MOST_NAMES + 16)) as u64 + 4096;

/// The names of a condition, and how often the data set has what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    names: Vec<String>,
    seen: Seen,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// `[rows][names]`, −1 or 1: of images of the data set, at random.
    Attributes(Vec<i8>),
    /// Images of each class.
    Classes(Vec<u64>),
}

/// As it lies in a file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Stored {
    Attributes {
        names: Vec<String>,
        /// `+` or `-` a name.
        rows: Vec<String>,
    },
    Classes {
        names: Vec<String>,
        images: Vec<u64>,
    },
}

impl Conditions {
    /// The name of the file in the folder of a run and in that of a checkpoint.
    pub const FILE: &str = "conditions.json";

    /// Of `table`: how many images each class has, or the attributes of [`MOST_ROWS`] images that `seed` chooses.
    pub fn of(table: &Table, seed: u64) -> Self {
        let n = table.names().len();
        let seen = match table.kind() {
            Kind::Attributes => {
                let mut images = Stream::new(seed, Purpose::Condition, 0).permutation(table.len());
                images.truncate(MOST_ROWS);
                images.sort_unstable();
                Seen::Attributes(table.of_images(&images))
            }
            Kind::Classes => {
                let (mut images, mut y) = (vec![0; n], vec![0; n]);
                for index in 0..table.len() {
                    table.write(index, &mut y);
                    for (images, &y) in images.iter_mut().zip(&y) {
                        *images += y as u64;
                    }
                }
                Seen::Classes(images)
            }
        };
        Self {
            names: table.names().to_vec(),
            seen,
        }
    }

    /// What the values are.
    pub fn kind(&self) -> Kind {
        match self.seen {
            Seen::Attributes(_) => Kind::Attributes,
            Seen::Classes(_) => Kind::Classes,
        }
    }

    /// Of the classes or attributes, in the order of y.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What the conditions of the images of `sample` and of metrics are drawn from.
    pub fn of_samples(seed: u64) -> Stream {
        Stream::new(seed, Purpose::Condition, 1)
    }

    /// What those of sheets are drawn from.
    pub fn of_sheets(seed: u64) -> Stream {
        Stream::new(seed, Purpose::Condition, 2)
    }

    /// The classes of which the data set has images, in order.
    pub fn classes(&self) -> Vec<usize> {
        (0..self.names.len())
            .filter(|&class| self.has_class(class))
            .collect()
    }

    /// Whether the data set has images of class `class`.
    pub(super) fn has_class(&self, class: usize) -> bool {
        match &self.seen {
            Seen::Attributes(_) => false,
            Seen::Classes(images) => images.get(class).is_some_and(|&images| images > 0),
        }
    }

    /// y of `n` images as `wanted`, `[n][names]`: −1 or 1 an attribute, one-hot (0 and 1) of classes. What is not
    /// wanted in particular is drawn from `stream` as the data set has it: classes as often as there, and attributes of
    /// one of its images, among those that have all that is wanted where some were kept, else of any. Image `first` + i
    /// is the same whatever `first` and `n`.
    ///
    /// # Panics
    /// When `wanted` is of other conditions.
    pub fn draw(&self, stream: &Stream, first: u64, n: usize, wanted: &Wanted) -> Vec<i8> {
        let width = self.names.len();
        let mut y = vec![0; n * width];
        let images = (first..).zip(y.chunks_exact_mut(width));
        match (&self.seen, wanted) {
            (Seen::Classes(_), Wanted::Class(class)) => {
                images.for_each(|(_, y)| one_hot(*class, y));
            }
            (Seen::Classes(of_each), _) => {
                assert_eq!(wanted, &Wanted::AsTheData, "of attributes");
                let total: u64 = of_each.iter().sum();
                for (image, y) in images {
                    one_hot(class_at(of_each, below(stream, image, total)), y);
                }
            }
            (Seen::Attributes(rows), _) => {
                let fixed = wanted.fixed();
                let rows = alike(rows, width, fixed);
                for (image, y) in images {
                    y.copy_from_slice(rows[below(stream, image, rows.len() as u64) as usize]);
                    for &(at, there) in fixed {
                        y[at] = if there { 1 } else { -1 };
                    }
                }
            }
        }
        y
    }

    /// One of them for all images, as `wanted`: of classes the first that has images where none is wanted; of attributes
    /// what most of the images have, among those that have all that is wanted where some were kept.
    ///
    /// # Panics
    /// When `wanted` is of other conditions.
    pub fn usual(&self, wanted: &Wanted) -> Wanted {
        let (Seen::Attributes(rows), false) = (&self.seen, matches!(wanted, Wanted::Class(_)))
        else {
            return match wanted {
                Wanted::Class(class) => Wanted::Class(*class),
                _ => Wanted::Class(self.classes().first().copied().unwrap_or_default()),
            };
        };
        let fixed = wanted.fixed();
        let width = self.names.len();
        let rows = alike(rows, width, fixed);
        let value = |at: usize| match fixed.iter().find(|(other, _)| *other == at) {
            Some((_, there)) => *there,
            None => 2 * rows.iter().filter(|row| row[at] > 0).count() > rows.len(),
        };
        Wanted::Attributes((0..width).map(|at| (at, value(at))).collect())
    }

    /// Writes them into `folder`, at once or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_atomically(&folder.join(Self::FILE), &self.json()?)
    }

    /// As they lie in the file.
    ///
    /// # Errors
    /// None that is known of.
    pub fn json(&self) -> Result<Vec<u8>> {
        let names = self.names.clone();
        let stored = match &self.seen {
            Seen::Attributes(rows) => {
                let sign = |&value: &i8| if value > 0 { '+' } else { '-' };
                let rows = rows.chunks_exact(names.len());
                let rows = rows.map(|row| row.iter().map(sign).collect()).collect();
                Stored::Attributes { names, rows }
            }
            Seen::Classes(images) => Stored::Classes {
                names,
                images: images.clone(),
            },
        };
        let mut json = serde_json::to_vec_pretty(&stored).context("the conditions are no JSON")?;
        json.push(b'\n');
        Ok(json)
    }

    /// Those in `folder`; `None` where it has none, as where the training had no condition.
    ///
    /// # Errors
    /// Where the file cannot be read, or is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        let file = match files::open_regular(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", shown(&path)));
            }
        };
        let mut bytes = Vec::new();
        file.take(MOST_FILE + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", shown(&path)))?;
        let parsed = Self::parse(&bytes).with_context(|| {
            format!(
                "{} is damaged, or was written by another version of this program: take it from another checkpoint of \
                 the run",
                shown(&path)
            )
        })?;
        Ok(Some(parsed))
    }

    /// Those that [`json`](Self::json) wrote.
    ///
    /// # Errors
    /// Where they are something else; the message lacks the name of the file.
    pub fn parse(json: &[u8]) -> Result<Self> {
        ensure!(
            json.len() as u64 <= MOST_FILE,
            "it has more than {MOST_FILE} bytes"
        );
        let (names, seen) = match serde_json::from_slice(json)? {
            Stored::Attributes { names, rows } => {
                let rows = values_of(&names, &rows)?;
                (names, Seen::Attributes(rows))
            }
            Stored::Classes { names, images } => {
                ensure!(
                    images.len() == names.len(),
                    "it has {} classes, but says of {} how many images there are",
                    names.len(),
                    images.len()
                );
                let total = (images.iter()).try_fold(0_u64, |sum, &images| sum.checked_add(images));
                ensure!(
                    total.is_some_and(|total| total > 0),
                    "its classes have no images, or more than can be counted"
                );
                (names, Seen::Classes(images))
            }
        };
        ensure!(
            (1..=MOST_NAMES).contains(&names.len()),
            "it has {} names, not 1 to {MOST_NAMES}",
            names.len()
        );
        let mut known = BTreeSet::new();
        for name in &names {
            ensure!(
                name.len() <= MOST_BYTES,
                "a name has {} bytes, not {MOST_BYTES} at most",
                name.len()
            );
            ensure!(!name.is_empty(), "a name is empty");
            ensure!(known.insert(name), "it has {} twice", escaped(name));
        }
        Ok(Self { names, seen })
    }
}

/// The values in `rows`, `[rows][names]`.
fn values_of(names: &[String], rows: &[String]) -> Result<Vec<i8>> {
    ensure!(
        (1..=MOST_ROWS).contains(&rows.len()),
        "it has the attributes of {} images, not of 1 to {MOST_ROWS}",
        rows.len()
    );
    let mut values = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        ensure!(
            row.len() == names.len(),
            "row {number} has {} values, not one for each of {} names",
            row.len(),
            names.len()
        );
        for sign in row.bytes() {
            values.push(match sign {
                b'+' => 1,
                b'-' => -1,
                _ => bail!("row {number} has something else than + and -"),
            });
        }
    }
    Ok(values)
}

/// Of `rows`, `[rows][width]`, those that have all that is `fixed`, where there are some, else all.
fn alike<'a>(rows: &'a [i8], width: usize, fixed: &[(usize, bool)]) -> Vec<&'a [i8]> {
    let has = |row: &&[i8]| fixed.iter().all(|&(at, there)| (row[at] > 0) == there);
    let having: Vec<&[i8]> = rows.chunks_exact(width).filter(has).collect();
    match having.is_empty() {
        true => rows.chunks_exact(width).collect(),
        false => having,
    }
}

/// A number below `n` for image `image`: the bias is below n·2⁻⁶⁴.
fn below(stream: &Stream, image: u64, n: u64) -> u64 {
    let [high, low] = [0, 1].map(|i| u128::from(stream.bits(2 * image + i)));
    (((high << 32 | low) * u128::from(n)) >> 64) as u64
}

/// The class of image `place` where those of class 0 come first, then those of 1, and so on.
fn class_at(images: &[u64], mut place: u64) -> usize {
    for (class, &images) in images.iter().enumerate() {
        match place.checked_sub(images) {
            Some(rest) => place = rest,
            None => return class,
        }
    }
    unreachable!("{place} images more than there are")
}

#[cfg(test)]
mod tests {
    use super::*;
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
                let names: Vec<String> =
                    order.iter().map(|&i| sorted[i as usize].clone()).collect();
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
}
