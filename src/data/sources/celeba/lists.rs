//! CelebA's lists, text or CSV: which attributes each image has, and which part of the partition it belongs to.
//!
//! The text forms are those of the data set's own `Anno/list_attr_celeba.txt` and `Eval/list_eval_partition.txt` (Liu
//! et al., ICCV 2015), the CSV forms those of its re-upload on Kaggle (jessicali9530/celeba-dataset).

use anyhow::{Result, anyhow, bail, ensure};

use crate::data::decode::looks_like_html;
use crate::data::split::Split;

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
}

impl AttributeTable {
    /// Parses either form: text (the count, the names, then a row an image, separated by spaces) or CSV (a header that
    /// starts with `image_id`, then a row an image).
    ///
    /// # Errors
    /// When the text is a web page, the count is wrong, a name is unknown or named twice, a row has too few or too
    /// many values or one that is not −1 or 1, or an image has two rows. The message names the line, not the file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = Lines::new(bytes)?;
        let (mut number, mut line) = lines.expect("the number of images")?;
        let mut declared = None;
        let csv = line.contains(',');
        if !csv {
            let count = line.trim().parse::<usize>().map_err(|_| {
                anyhow!(
                    "line {number} should be the number of images, but is {:?}; fetch the file again",
                    excerpt(line)
                )
            })?;
            declared = Some(count);
            (number, line) = lines.expect("the names of the attributes")?;
        }
        let mut columns = fields(line, csv);
        if csv {
            let first = columns.next();
            ensure!(
                first == Some("image_id"),
                "line {number} should be a header that starts with image_id, but starts with {:?}; fetch the file \
                 again",
                excerpt(first.unwrap_or_default())
            );
        }
        let names: Vec<String> = columns.map(str::to_owned).collect();
        ensure!(
            !names.is_empty(),
            "line {number} names no attribute; fetch the file again"
        );
        for (i, name) in names.iter().enumerate() {
            ensure!(
                ATTRIBUTE_NAMES.contains(&name.as_str()),
                "line {number} names an attribute {:?} that CelebA does not have; correct it or fetch the file again",
                excerpt(name)
            );
            ensure!(
                !names[..i].contains(name),
                "line {number} names the attribute {name} twice; correct it or fetch the file again"
            );
        }
        let (mut files, mut values) = (Vec::new(), Vec::new());
        for (number, line) in lines {
            let mut row = fields(line, csv);
            let file = row.next().unwrap_or_default();
            let before = values.len();
            for value in row {
                values.push(match value {
                    "1" => 1,
                    "-1" => -1,
                    other => bail!(
                        "line {number} ({}) has the value {:?}, which is neither 1 nor -1; correct it or fetch the \
                         file again",
                        excerpt(file),
                        excerpt(other)
                    ),
                });
            }
            let found = values.len() - before;
            ensure!(
                found == names.len(),
                "line {number} ({}) has {found} values for {} attributes; the file is cut off or was edited: fetch it \
                 again",
                excerpt(file),
                names.len()
            );
            files.push(file.to_owned());
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
        Ok(Self {
            names,
            files,
            values,
        })
    }
}

/// Parses `list_eval_partition.txt` (`000001.jpg 0`) or `.csv` (`000001.jpg,0` after a header): 0 is train, 1
/// validation, 2 test.
///
/// # Errors
/// When the text is a web page, a row has another form, or an image has two rows. The message names the line, not the
/// file.
pub fn parse_partition(bytes: &[u8]) -> Result<Vec<(String, Split)>> {
    let mut rows = Vec::new();
    for (number, line) in Lines::new(bytes)? {
        let csv = line.contains(',');
        let mut row = fields(line, csv);
        let (file, value, rest) = (row.next(), row.next(), row.next());
        if csv && number == 1 && file == Some("image_id") {
            continue;
        }
        let split = match (value, rest) {
            (Some("0"), None) => Split::Train,
            (Some("1"), None) => Split::Val,
            (Some("2"), None) => Split::Test,
            _ => bail!(
                "line {number} should be a file name and 0 (train), 1 (validation) or 2 (test), but is {:?}; correct \
                 it or fetch the file again",
                excerpt(line)
            ),
        };
        rows.push((file.unwrap_or_default().to_owned(), split));
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
    line.trim()
        .split(separator)
        .map(str::trim)
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
            "{:?} has two rows; correct it or fetch the file again",
            excerpt(file)
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
            ("1\nBald\na.jpg 0\n", "line 3 (a.jpg) has the value \"0\""),
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
