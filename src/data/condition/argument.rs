//! What `train --condition` asks for.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser, ValueParserFactory};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::data::PictureCondition;
use crate::data::any_path;
use crate::data::names::{list, listed};
use crate::text::{escaped, shown};

/// What images are made for, as `--condition` names it; in JSON a string as it is typed, or `{"folder": PATH}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionArg {
    /// The class of the image: `classes`.
    Classes,
    /// Its attributes, those of these names: `attributes`, `attributes=Male,Smiling`.
    Attributes(Option<Vec<String>>),
    /// The lines that are drawn of it: `edges`.
    Edges,
    /// The picture of the same name in this folder or archive.
    Folder(PathBuf),
}

/// As it lies in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Typed(String),
    Folder {
        #[serde(with = "any_path")]
        folder: Option<PathBuf>,
    },
}

impl Serialize for ConditionArg {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Folder(path) => Written::Folder {
                folder: Some(path.clone()),
            },
            other => Written::Typed(other.typed()),
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for ConditionArg {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Written::deserialize(from)? {
            Written::Folder { folder } => {
                let folder = folder.ok_or_else(|| D::Error::custom("no folder"))?;
                Ok(Self::Folder(folder))
            }
            Written::Typed(text) => Self::parse(OsStr::new(&text))
                .map_err(|error| D::Error::custom(format!("{error:#}"))),
        }
    }
}

/// What is easily typed for something else, with what is meant.
const SLIPS: [(&str, &str); 6] = [
    ("class", "classes"),
    ("labels", "classes"),
    ("label", "classes"),
    ("attribute", "attributes"),
    ("attrs", "attributes"),
    ("edge", "edges"),
];

impl ConditionArg {
    /// What `text` asks for: one of the words, else a folder.
    ///
    /// # Errors
    /// Where it is empty, a word with a slip in it, or names that cannot be used; the message says what to type.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        ensure!(
            !bytes.is_empty(),
            "it is empty: use classes, attributes, attributes=NAME,NAME, edges or a folder of pictures"
        );
        if let Some(names) = bytes.strip_prefix(b"attributes=") {
            let names = std::str::from_utf8(names).context("a name is no UTF-8")?;
            return Ok(Self::Attributes(Some(attributes(names)?)));
        }
        let slip = SLIPS.iter().find(|(typed, _)| {
            let word = typed.as_bytes();
            bytes == word || bytes.starts_with(&[word, b"="].concat())
        });
        if let Some((typed, meant)) = slip {
            bail!("did you mean {meant}? A folder of pictures is given as ./{typed}");
        }
        ensure!(
            !bytes.starts_with(b"classes=") && !bytes.starts_with(b"edges="),
            "{} takes no names: leave them out (a folder of pictures is given as ./{0})",
            escaped(&text.to_string_lossy())
        );
        Ok(match bytes {
            b"classes" => Self::Classes,
            b"attributes" => Self::Attributes(None),
            b"edges" => Self::Edges,
            _ => Self::Folder(PathBuf::from(text)),
        })
    }
}

impl ConditionArg {
    /// Which pictures images are made of, where it asks for pictures.
    pub fn picture(&self) -> Option<PictureCondition> {
        match self {
            Self::Classes | Self::Attributes(_) => None,
            Self::Edges => Some(PictureCondition::Edges),
            Self::Folder(path) => Some(PictureCondition::Folder(path.clone())),
        }
    }
}

/// The names behind `attributes=`.
fn attributes(text: &str) -> Result<Vec<String>> {
    let listed = list(text).with_context(|| {
        "attributes= is followed by the names of attributes, with commas between them (\\, for a comma in a name)"
    })?;
    let names: Vec<String> = listed.into_iter().map(|listed| listed.name).collect();
    for (at, name) in names.iter().enumerate() {
        ensure!(
            !names[..at].contains(name),
            "{} is named twice",
            escaped(name)
        );
    }
    Ok(names)
}

impl ConditionArg {
    /// As it is typed; a path that is no UTF-8 as people see it.
    fn typed(&self) -> String {
        match self {
            Self::Classes => "classes".to_string(),
            Self::Attributes(None) => "attributes".to_string(),
            Self::Attributes(Some(names)) => {
                let names: Vec<String> = names.iter().map(|name| listed(name)).collect();
                format!("attributes={}", names.join(","))
            }
            Self::Edges => "edges".to_string(),
            // A folder may have the name of something else.
            Self::Folder(path) => match Self::parse(path.as_os_str()) {
                Ok(Self::Folder(_)) => shown(path),
                _ => format!("./{}", shown(path)),
            },
        }
    }
}

impl fmt::Display for ConditionArg {
    /// As it is typed, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.typed()))
    }
}

impl ValueParserFactory for ConditionArg {
    type Parser = ValueParser;

    fn value_parser() -> ValueParser {
        ValueParser::new(
            OsStringValueParser::new()
                .try_map(|text| Self::parse(&text).map_err(|error| format!("{error:#}"))),
        )
    }
}

/// As [`ConditionArg`] reads it, where it has to be one of pictures.
impl ValueParserFactory for PictureCondition {
    type Parser = ValueParser;

    fn value_parser() -> ValueParser {
        ValueParser::new(
            OsStringValueParser::new()
                .try_map(|text| picture(&text).map_err(|error| format!("{error:#}"))),
        )
    }
}

/// The pictures that `text` asks for.
fn picture(text: &OsStr) -> Result<PictureCondition> {
    ensure!(
        !text.is_empty(),
        "it is empty: use edges or a folder of pictures"
    );
    ConditionArg::parse(text)?.picture().with_context(|| {
        let text = escaped(&text.to_string_lossy()).into_owned();
        format!(
            "classes and attributes are no pictures and make no pairs: leave it out, train --condition {text} takes the \
             images as they are (a folder of pictures is given as ./{text})"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    fn parse(text: &str) -> Result<ConditionArg> {
        ConditionArg::parse(OsStr::new(text))
    }

    #[test]
    fn what_is_typed_is_shown_and_kept() {
        let of = |names: &[&str]| {
            ConditionArg::Attributes(Some(names.iter().map(|n| n.to_string()).collect()))
        };
        for (text, argument) in [
            ("classes", ConditionArg::Classes),
            ("attributes", ConditionArg::Attributes(None)),
            ("attributes=Male", of(&["Male"])),
            (
                "attributes=Male,a b,-x,ä=b",
                of(&["Male", "a b", "-x", "ä=b"]),
            ),
            (r"attributes=a\,b,c\\,\ d", of(&["a,b", r"c\", " d"])),
            ("edges", ConditionArg::Edges),
            ("./edges", ConditionArg::Folder("./edges".into())),
            (
                "some where/lines.zip",
                ConditionArg::Folder("some where/lines.zip".into()),
            ),
            ("Classes", ConditionArg::Folder("Classes".into())),
        ] {
            assert_eq!(parse(text).unwrap(), argument, "{text}");
            assert_eq!(argument.to_string(), text);
            let json = serde_json::to_string(&argument).unwrap();
            assert_eq!(
                serde_json::from_str::<ConditionArg>(&json).unwrap(),
                argument,
                "{json}"
            );
        }
        assert_eq!(
            parse("attributes= Male , Old ").unwrap(),
            of(&["Male", "Old"])
        );
        // Made by a program, not typed.
        assert_eq!(ConditionArg::Folder("edges".into()).to_string(), "./edges");
        let bytes = ConditionArg::Folder(OsString::from_vec(b"d\xff".to_vec()).into());
        assert_eq!(bytes.to_string(), r"d\xff");
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(json, r#"{"folder":[100,255]}"#);
        assert_eq!(serde_json::from_str::<ConditionArg>(&json).unwrap(), bytes);
        assert_eq!(
            ConditionArg::parse(OsStr::from_bytes(b"d\xff")).unwrap(),
            bytes
        );
    }

    #[test]
    fn slips_are_told() {
        for (text, said) in [
            ("", "attributes=NAME"),
            (
                "class",
                "did you mean classes? A folder of pictures is given as ./class",
            ),
            ("class=7", "did you mean classes?"),
            ("attribute=Male", "did you mean attributes?"),
            ("edge", "did you mean edges?"),
            ("classes=cat", "takes no names"),
            ("attributes=", "names of attributes"),
            ("attributes=Male,,Old", "names of attributes"),
            ("attributes=Male,Old,Male", "Male is named twice"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(serde_json::from_str::<ConditionArg>(r#"{"folder":null}"#).is_err());
    }

    #[test]
    fn the_command_line_takes_it() {
        let command = clap::Command::new("train").arg(
            clap::Arg::new("condition")
                .long("condition")
                .value_parser(clap::value_parser!(ConditionArg)),
        );
        let parsed = command
            .clone()
            .try_get_matches_from(["train", "--condition", "attributes=Male"])
            .unwrap();
        let argument = parsed.get_one::<ConditionArg>("condition").unwrap();
        assert_eq!(argument.to_string(), "attributes=Male");
        let error = command.try_get_matches_from(["train", "--condition=class"]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("did you mean classes?"), "{error}");
    }

    #[test]
    fn pictures_are_asked_for_in_the_same_words() {
        for (text, pictures) in [
            ("edges", PictureCondition::Edges),
            ("./edges", PictureCondition::Folder("./edges".into())),
            ("lines.zip", PictureCondition::Folder("lines.zip".into())),
        ] {
            assert_eq!(picture(OsStr::new(text)).unwrap(), pictures, "{text}");
        }
        let bytes = OsStr::from_bytes(b"d\xff");
        let folder = PictureCondition::Folder(bytes.into());
        assert_eq!(picture(bytes).unwrap(), folder);
        for (text, said) in [
            ("", "use edges or a folder of pictures"),
            ("edge", "did you mean edges?"),
            (
                "classes",
                "train --condition classes takes the images as they are",
            ),
            (
                "attributes=Male",
                "(a folder of pictures is given as ./attributes=Male)",
            ),
        ] {
            let error = format!("{:#}", picture(OsStr::new(text)).unwrap_err());
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
