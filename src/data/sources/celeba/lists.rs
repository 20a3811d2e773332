//! CelebA's lists, text or CSV: which attributes each image has, and which part of the partition it belongs to.
//!
//! The text forms are those of the data set's own `Anno/list_attr_celeba.txt` and `Eval/list_eval_partition.txt` (Liu
//! et al., ICCV 2015), the CSV forms those of its re-upload on Kaggle (jessicali9530/celeba-dataset).

use anyhow::{Result, anyhow, bail, ensure};

use crate::data::decode::looks_like_html;
use crate::data::split::Split;
use crate::text::escaped;

/// The names of CelebA's attributes, in its order.
#[rustfmt::skip]
pub const ATTRIBUTE_NAMES: [&str; 40] = [
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
];

/// `list_attr_celeba.txt` or `.csv` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeTable {
    /// Names of the columns, some or all of [`ATTRIBUTE_NAMES`].
    pub names: Vec<String>,
    /// File name of each row.
    pub files: Vec<String>,
    /// `files.len()`×`names.len()` values, row by row, each −1 or 1.
    pub values: Vec<i8>,
    /// How it was read where it is not as CelebA's own, a line each.
    pub notes: Vec<String>,
}

/// What the columns of a table with a header hold.
struct Columns {
    /// Place of the file name in a row.
    file: usize,
    /// Places of what the table is read for, with their names.
    wanted: Vec<(usize, String)>,
    /// How many there are.
    count: usize,
    /// Names of those that are passed over.
    passed: Vec<String>,
}

impl Columns {
    /// Of the header on line `number`: `image_id`, what `is_wanted` says, and such as data-frame libraries add (an index,
    /// with or without a name) or join. The message of an error says that `what` is expected.
    fn of(
        number: usize,
        header: &[&str],
        is_wanted: impl Fn(&str) -> bool,
        joined: &[&str],
        what: &str,
    ) -> Result<Self> {
        let (mut file, mut wanted, mut passed) = (None, Vec::new(), Vec::new());
        for (at, &name) in header.iter().enumerate() {
            let index = name.is_empty()
                || name == "index"
                || name.starts_with("Unnamed: ")
                || name.starts_with("level_");
            match () {
                () if name == "image_id" && file.is_none() => file = Some(at),
                () if is_wanted(name) => {
                    ensure!(
                        !wanted.iter().any(|(_, known)| known == name),
                        "line {number} names the {what} {name} twice; correct it or fetch the file again"
                    );
                    wanted.push((at, name.to_owned()));
                }
                () if index => passed.push("an index".to_owned()),
                () if joined.contains(&name) => passed.push(name.to_owned()),
                () => {
                    ensure!(
                        file.is_some() || at > 0,
                        "line {number} should be a header that starts with image_id, but starts with {}; fetch the file \
                         again",
                        quoted(name)
                    );
                    bail!(
                        "line {number} names an {what} {} that CelebA does not have; correct it or fetch the file again",
                        quoted(name)
                    )
                }
            }
        }
        let file = file.ok_or_else(|| {
            anyhow!(
                "line {number} should be a header that starts with image_id, but starts with {}; fetch the file again",
                quoted(header.first().copied().unwrap_or_default())
            )
        })?;
        ensure!(
            !wanted.is_empty(),
            "line {number} names no {what}; fetch the file again"
        );
        Ok(Self {
            file,
            wanted,
            count: header.len(),
            passed,
        })
    }

    /// A line for people, where columns are passed over.
    fn note(&self) -> Option<String> {
        (!self.passed.is_empty())
            .then(|| format!("columns that are passed over: {}", self.passed.join(", ")))
    }
}

/// A whole number, also as a data-frame library writes it (`-1.0`); `None` for all else.
fn whole(text: &str) -> Option<i8> {
    match text {
        "1" => Some(1),
        "-1" => Some(-1),
        _ => {
            let value: f64 = text.parse().ok()?;
            (value.fract() == 0.0 && value.abs() <= 2.0).then_some(value as i8)
        }
    }
}

/// Foreign text in a message.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(&excerpt(text)))
}

impl AttributeTable {
    /// Parses the form of CelebA (the count, the names, then a row an image, separated by spaces) or CSV (a header with
    /// `image_id`, then a row an image), also as data-frame libraries write them: with an index, with quotes, without the
    /// count, with numbers such as −1.0. Values are −1 and 1 or, throughout, 0 and 1.
    ///
    /// # Errors
    /// When the text is a web page, the count is wrong, a name is unknown or named twice, a row has too few or too
    /// many values or another one, or an image has two rows. The message names the line, not the file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::new(bytes)?;
        let (mut number, mut line) = lines.expect("the number of images")?;
        let mut declared = None;
        let csv = line.contains(',');
        let is_name = |name: &str| ATTRIBUTE_NAMES.contains(&name);
        let counted = !csv && !fields(line, false).any(is_name);
        if counted {
            let count = line.trim().parse::<usize>().map_err(|_| {
                anyhow!(
                    "line {number} should be the number of images, but is {}; fetch the file again",
                    quoted(line)
                )
            })?;
            declared = Some(count);
            (number, line) = lines.expect("the names of the attributes")?;
        }
        let mut header: Vec<&str> = fields(line, csv).collect();
        // Only CSV has a name over the file names, as a rule.
        if !csv && !header.contains(&"image_id") {
            header.insert(0, "image_id");
        }
        let columns = Columns::of(number, &header, is_name, &["partition"], "attribute")?;
        let names: Vec<String> = columns
            .wanted
            .iter()
            .map(|(_, name)| name.clone())
            .collect();
        let (mut files, mut values) = (Vec::new(), Vec::new());
        let (mut zeros, mut negative) = (None, None);
        for (number, line) in lines {
            let row: Vec<&str> = fields(line, csv).collect();
            let file = row.get(columns.file).copied().unwrap_or_default();
            ensure!(
                row.len() == columns.count,
                "line {number} ({}) has {} values for {} attributes; the file is cut off or was edited: fetch it again",
                escaped(&excerpt(file)),
                (row.len() + names.len()).saturating_sub(columns.count),
                names.len()
            );
            for &(at, _) in &columns.wanted {
                let value = whole(row[at]);
                values.push(match value {
                    Some(1) => 1,
                    Some(-1) => {
                        negative.get_or_insert(number);
                        -1
                    }
                    Some(0) => {
                        zeros.get_or_insert(number);
                        -1
                    }
                    _ => bail!(
                        "line {number} ({}) has the value {}, which is neither 1 nor -1 (or 0, where there is no -1); \
                         correct it or fetch the file again",
                        escaped(&excerpt(file)),
                        quoted(row[at])
                    ),
                });
            }
            files.push(file.to_owned());
        }
        if let (Some(zero), Some(negative)) = (zeros, negative) {
            bail!(
                "it has 0 (line {zero}) and -1 (line {negative}), so that it is not plain what 0 means; correct it or \
                 fetch the file again"
            );
        }
        if let Some(declared) = declared {
            ensure!(
                declared == files.len(),
                "the first line says {declared} images, but {} rows follow; the file is cut off or was edited: fetch \
                 it again, or correct the count",
                files.len()
            );
        }
        ensure!(
            !files.is_empty(),
            "no image has a row; fetch the file again"
        );
        refuse_repeated(files.iter().map(String::as_str))?;
        let mut notes: Vec<String> = columns.note().into_iter().collect();
        if zeros.is_some() {
            notes.push("0 is read as -1: the attribute is not there".to_owned());
        }
        Ok(Self {
            names,
            files,
            values,
            notes,
        })
    }
}

/// Parses `list_eval_partition.txt` (`000001.jpg 0`) or `.csv` (`000001.jpg,0` after a header): 0 is train, 1
/// validation, 2 test. Also as data-frame libraries write them, with a header and an index, or as 0.0, 1.0 and 2.0.
///
/// # Errors
/// When the text is a web page, a row has another form, or an image has two rows. The message names the line, not the
/// file.
pub fn parse_partition(bytes: &[u8]) -> Result<Vec<(String, Split)>> {
    let mut rows = Vec::new();
    let mut lines = Lines::new(bytes)?.peekable();
    let (mut file_at, mut value_at, mut count) = (0, 1, 2);
    if let Some(&(number, line)) = lines.peek() {
        let header: Vec<&str> = fields(line, line.contains(',')).collect();
        if header.contains(&"image_id") {
            let is_part = |name: &str| matches!(name, "partition" | "split");
            let columns = Columns::of(number, &header, is_part, &ATTRIBUTE_NAMES, "column")?;
            (file_at, value_at, count) = (columns.file, columns.wanted[0].0, columns.count);
            lines.next();
        }
    }
    for (number, line) in lines {
        let row: Vec<&str> = fields(line, line.contains(',')).collect();
        let value = row
            .get(value_at)
            .filter(|_| row.len() == count)
            .and_then(|value| whole(value));
        let split = match value {
            Some(0) => Split::Train,
            Some(1) => Split::Val,
            Some(2) => Split::Test,
            _ => bail!(
                "line {number} should be a file name and 0 (train), 1 (validation) or 2 (test), but is {}; correct \
                 it or fetch the file again",
                quoted(line)
            ),
        };
        rows.push((row[file_at].to_owned(), split));
    }
    ensure!(!rows.is_empty(), "no image has a row; fetch the file again");
    refuse_repeated(rows.iter().map(|(file, _)| file.as_str()))?;
    Ok(rows)
}

/// The lines of a text that are not blank, numbered from 1.
struct Lines<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        ensure!(
            !bytes.is_empty(),
            "the file is empty (0 bytes): the download broke off; fetch it again"
        );
        ensure!(
            !looks_like_html(bytes),
            "this is a web page (HTML), not CelebA's list: the download host was over its quota; fetch the file again \
             later or from another place"
        );
        let text = std::str::from_utf8(bytes).map_err(|error| {
            anyhow!(
                "not a text file (byte {} is not UTF-8); fetch it again",
                error.valid_up_to()
            )
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Ok(Self {
            lines: text.lines().enumerate(),
        })
    }

    fn expect(&mut self, what: &str) -> Result<(usize, &'a str)> {
        self.next()
            .ok_or_else(|| anyhow!("the file ends before {what}; fetch it again"))
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.lines
            .find(|(_, line)| !line.trim().is_empty())
            .map(|(i, line)| (i + 1, line))
    }
}

fn fields(line: &str, csv: bool) -> impl Iterator<Item = &str> {
    let separator = move |c: char| if csv { c == ',' } else { c.is_whitespace() };
    // A comma at either end is an empty field: of an index without a name.
    line.trim()
        .split(separator)
        .map(|field| field.trim().trim_matches('"'))
        // Padding in text; in CSV an empty field is one.
        .filter(move |field| csv || !field.is_empty())
}

/// The start of a text, for a message.
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A file name without its extension: the lists name JPEGs, of which PNG editions exist.
pub(super) fn stem(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn refuse_repeated<'a>(files: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for file in files {
        ensure!(
            seen.insert(stem(file)),
            "{} has two rows; correct it or fetch the file again",
            quoted(file)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &[u8] =
        b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>";

    fn error_of<T>(result: Result<T>) -> String {
        match result {
            Ok(_) => panic!("accepted"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn text_and_csv_attributes_say_the_same() {
        let text = b"2\nBald Smiling \n000001.jpg -1  1\n000002.jpg  1 -1\n";
        let csv = b"image_id,Bald,Smiling\r\n000001.jpg,-1,1\r\n000002.jpg,1,-1\r\n";
        let table = AttributeTable::parse(text).unwrap();
        assert_eq!(table.names, ["Bald", "Smiling"]);
        assert_eq!(table.files, ["000001.jpg", "000002.jpg"]);
        assert_eq!(table.values, [-1, 1, 1, -1]);
        assert_eq!(AttributeTable::parse(csv).unwrap(), table);
    }

    #[test]
    fn attributes_as_others_write_them_say_the_same() {
        let own = AttributeTable::parse(b"2\nBald Smiling \na.jpg -1  1\nb.jpg  1 -1\n").unwrap();
        for (text, notes) in [
            ("image_id,Bald,Smiling\na.jpg,0,1\nb.jpg,1,0\n", 1),
            (
                ",image_id,Bald,Smiling\n0,a.jpg,-1.0,1.0\n1,b.jpg,1.0,-1.0\n",
                1,
            ),
            (
                "\"\",\"image_id\",\"Bald\",\"Smiling\"\n\"0\",\"a.jpg\",0,1\n\"1\",\"b.jpg\",1,0\n",
                2,
            ),
            (
                "Unnamed: 0,image_id,partition,Bald,Smiling\n0,a.jpg,0,0.0,1.0\n1,b.jpg,2,1.0,0.0\n",
                2,
            ),
            ("Bald Smiling\na.jpg -1 1\nb.jpg 1 -1\n", 0),
            ("image_id Bald Smiling\na.jpg 0 1\nb.jpg 1 0\n", 1),
        ] {
            let table = AttributeTable::parse(text.as_bytes()).unwrap();
            assert_eq!(table.notes.len(), notes, "{text:?}: {:?}", table.notes);
            assert_eq!(
                AttributeTable {
                    notes: Vec::new(),
                    ..table
                },
                own,
                "{text:?}"
            );
        }
        let own = parse_partition(b"a.jpg 0\nb.jpg 2\n").unwrap();
        for text in [
            ",image_id,partition\n0,a.jpg,0\n1,b.jpg,2\n",
            "image_id,partition\na.jpg,0.0\nb.jpg,2.0\n",
            "image_id partition\na.jpg 0\nb.jpg 2\n",
            "index,image_id,partition,Bald\n0,a.jpg,0,1\n1,b.jpg,2,0\n",
        ] {
            assert_eq!(parse_partition(text.as_bytes()).unwrap(), own, "{text:?}");
        }
    }

    #[test]
    fn damaged_attributes_are_refused_with_the_line() {
        for (text, cause) in [
            ("", "empty"),
            ("\n\n", "ends before"),
            ("2", "ends before"),
            ("many\nBald\na.jpg 1\n", "line 1 should be the number"),
            ("1\n \n", "ends before"),
            ("1\nBald Wise\na.jpg 1 1\n", "\"Wise\""),
            ("1\nBald Bald\na.jpg 1 1\n", "Bald twice"),
            ("2\nBald\na.jpg 1\n", "says 2 images, but 1"),
            ("1\nBald\na.jpg 1\nb.jpg 1\n", "says 1 images, but 2"),
            (
                "1\nBald Male\na.jpg 1\n",
                "line 3 (a.jpg) has 1 values for 2",
            ),
            ("1\nBald\na.jpg 1 1\n", "line 3 (a.jpg) has 2 values for 1"),
            ("1\nBald\na.jpg 2\n", "line 3 (a.jpg) has the value \"2\""),
            ("2\nBald\na.jpg 0\nb.jpg -1\n", "not plain what 0 means"),
            ("1\nBald\na.jpg 0.5\n", "the value \"0.5\""),
            ("2\nBald\na.jpg 1\na.jpg 1\n", "two rows"),
            ("0\nBald\n", "no image"),
            ("id,Bald\na.jpg,1\n", "image_id"),
            ("image_id\n", "line 1 should be the number"),
            ("image_id,Bald\na.jpg,\n", "the value \"\""),
            ("image_id,Bald\na.jpg\n", "has 0 values"),
        ] {
            let error = error_of(AttributeTable::parse(text.as_bytes()));
            assert!(error.contains(cause), "{text:?}: {error}");
        }
        for parsed in [
            AttributeTable::parse(PAGE).map(drop),
            parse_partition(PAGE).map(drop),
        ] {
            let error = error_of(parsed);
            assert!(
                error.contains("quota") && error.contains("again"),
                "{error}"
            );
        }
        assert!(error_of(AttributeTable::parse(&[0xFF, 0xFE, 0, 1])).contains("not a text"));
    }

    #[test]
    fn partitions_are_read_and_damaged_ones_refused() {
        let rows = parse_partition(b"a.jpg 0\nb.jpg 1\nc.jpg 2\n").unwrap();
        assert_eq!(
            rows.iter().map(|(_, split)| *split).collect::<Vec<_>>(),
            [Split::Train, Split::Val, Split::Test]
        );
        assert_eq!(
            parse_partition(b"image_id,partition\na.jpg,0\nb.jpg,1\nc.jpg,2\n").unwrap(),
            rows
        );
        for (text, cause) in [
            ("a.jpg 3\n", "line 1"),
            ("a.jpg 0\nb.jpg\n", "line 2"),
            ("a.jpg 0 0\n", "line 1"),
            ("a.jpg 0\na.jpg 1\n", "two rows"),
            ("image_id,partition\n", "no image"),
        ] {
            let error = error_of(parse_partition(text.as_bytes()));
            assert!(error.contains(cause), "{text:?}: {error}");
        }
    }

    fn table() -> impl Strategy<Value = AttributeTable> {
        let names = proptest::sample::subsequence(ATTRIBUTE_NAMES.to_vec(), 1..=40);
        (names, 1..20usize).prop_flat_map(|(names, images)| {
            let values =
                proptest::collection::vec(prop_oneof![Just(-1i8), Just(1i8)], names.len() * images);
            values.prop_map(move |values| AttributeTable {
                names: names.iter().map(|&name| name.to_owned()).collect(),
                files: (1..=images).map(|i| format!("{i:06}.jpg")).collect(),
                values,
                notes: Vec::new(),
            })
        })
    }

    fn write(table: &AttributeTable, csv: bool) -> String {
        let (separator, mut text) = if csv {
            (",", format!("image_id,{}\n", table.names.join(",")))
        } else {
            (
                " ",
                format!("{}\n{} \n", table.files.len(), table.names.join(" ")),
            )
        };
        for (file, row) in table
            .files
            .iter()
            .zip(table.values.chunks(table.names.len()))
        {
            text += file;
            for value in row {
                text += separator;
                text += &if csv {
                    value.to_string()
                } else {
                    format!("{value:2}")
                };
            }
            text += "\n";
        }
        text
    }

    proptest! {
        #[test]
        fn attributes_survive_writing_and_parsing(table in table(), csv: bool) {
            prop_assert_eq!(AttributeTable::parse(write(&table, csv).as_bytes()).unwrap(), table);
        }

        #[test]
        fn a_cut_attribute_text_is_never_accepted(table in table(), at: prop::sample::Index) {
            let text = write(&table, false);
            // The last newline may go, and a last value of "1" cannot be cut.
            let cut = at.index(text.trim_end().len());
            prop_assert!(AttributeTable::parse(&text.as_bytes()[..cut]).is_err());
        }

        #[test]
        fn partitions_survive_writing_and_parsing(parts in proptest::collection::vec(0..3usize, 1..50), csv: bool) {
            let mut text = if csv { "image_id,partition\n".to_owned() } else { String::new() };
            let mut rows = Vec::new();
            for (i, part) in parts.into_iter().enumerate() {
                text += &format!("{i:06}.jpg{}{part}\n", if csv { ',' } else { ' ' });
                rows.push((format!("{i:06}.jpg"), [Split::Train, Split::Val, Split::Test][part]));
            }
            prop_assert_eq!(parse_partition(text.as_bytes()).unwrap(), rows);
        }

        #[test]
        fn parsers_never_panic_on_bytes(bytes: Vec<u8>) {
            let _ = AttributeTable::parse(&bytes);
            let _ = parse_partition(&bytes);
        }

        #[test]
        fn parsers_never_panic_on_text(text in "[0-9a-zA-Z_,. \r\n\u{feff}é<-]{0,200}") {
            let _ = AttributeTable::parse(text.as_bytes());
            let _ = parse_partition(text.as_bytes());
            let _ = AttributeTable::parse(format!("1\nBald\n{text}").as_bytes());
        }
    }
}
