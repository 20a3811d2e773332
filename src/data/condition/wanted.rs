//! What images are asked for.

use std::ffi::OsStr;

use anyhow::{Result, anyhow, bail, ensure};

use super::argument::ConditionArg;
use super::kept::Conditions;
use crate::data::labels::Kind;
use crate::data::names::{self, Listed, Named, list, listed};
use crate::text::escaped;

/// What a generator that was trained with a condition is asked for; places are those of [`Conditions::names`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever the data set has, as often as it has it.
    #[default]
    AsTheData,
    /// Images of a class.
    Class(usize),
    /// These attributes, present or not, in order; the others as in images of the data set.
    Attributes(Vec<(usize, bool)>),
}

impl Wanted {
    /// What `text` asks for.
    ///
    /// Of classes `NAME`, `class=NAME` or, where no class has that name, `class=PLACE`, counted from 0. Of attributes a
    /// list of names as [`list`] reads it, `-NAME` for those that are to be absent (and `\-NAME` for one whose name
    /// begins with the sign, where there is a NAME too); opposites ([`names::find`]) are understood.
    ///
    /// # Errors
    /// Where a name is not known (with the nearest), is asked for twice, or with its opposite, or `text` is empty.
    pub fn parse(text: &str, of: &Conditions) -> Result<Self> {
        let known: Vec<&str> = of.names().iter().map(String::as_str).collect();
        let for_train = |error| match ConditionArg::parse(OsStr::new(text)) {
            Err(_) | Ok(ConditionArg::Folder(_)) => error,
            Ok(_) => anyhow!(
                "this is what train takes; of a trained network, name {} that the images are to show: there are {}",
                match of.kind() {
                    Kind::Classes => "the class",
                    Kind::Attributes => "attributes",
                },
                names::all(&known)
            ),
        };
        match of.kind() {
            Kind::Classes => {
                let class = class(text, &known).map_err(for_train)?;
                ensure!(
                    of.has_class(class),
                    "no image that the network was trained on is of the class {}, so that none can be made: choose \
                     another class",
                    escaped(known[class])
                );
                Ok(Self::Class(class))
            }
            Kind::Attributes => attributes(text, &known)
                .map(Self::Attributes)
                .map_err(for_train),
        }
    }

    /// The attributes that are asked for.
    ///
    /// # Panics
    /// When it is a class.
    pub(super) fn fixed(&self) -> &[(usize, bool)] {
        match self {
            Self::AsTheData => &[],
            Self::Attributes(fixed) => fixed,
            Self::Class(_) => panic!("a class, of attributes"),
        }
    }

    /// As it is typed: [`parse`](Self::parse) gives the same of it. Empty for whatever the data set has.
    ///
    /// # Panics
    /// When it is of other conditions than `of`, with fewer names.
    pub fn typed(&self, of: &Conditions) -> String {
        match self {
            Self::AsTheData => String::new(),
            Self::Class(class) => of.names()[*class].clone(),
            Self::Attributes(values) => {
                let typed = values.iter().map(|&(at, present)| {
                    let name = listed(&of.names()[at]);
                    match (present, name.starts_with('-')) {
                        (true, true) => format!("\\{name}"),
                        (true, false) => name,
                        (false, _) => format!("-{name}"),
                    }
                });
                typed.collect::<Vec<_>>().join(",")
            }
        }
    }
}

fn class(text: &str, known: &[&str]) -> Result<usize> {
    // As it stands: a class may be named class=7, or have white space around it.
    if let Some(at) = known.iter().position(|name| *name == text) {
        return Ok(at);
    }
    let behind = text.trim_start().strip_prefix("class=");
    if let Some(at) = behind.and_then(|name| known.iter().position(|known| *known == name)) {
        return Ok(at);
    }
    let name = behind.unwrap_or(text).trim();
    ensure!(
        !name.is_empty(),
        "it names no class: use class=NAME, or class=PLACE; there are {}",
        names::all(known)
    );
    if let Some(at) = names::place(name, known) {
        return Ok(at);
    }
    let mut several = name.split(',').map(|part| names::place(part.trim(), known));
    if name.contains(',') && several.all(|place| place.is_some()) {
        bail!("these are several classes, and an image is of one: give one of them at a time");
    }
    let unknown = names::unknown(name, known);
    let Ok(place) = name.parse::<usize>() else {
        bail!(unknown);
    };
    match behind {
        Some(_) if place < known.len() => Ok(place),
        Some(_) => bail!(
            "there is no class {place}: there are {}, with the places 0 to {}: {}",
            known.len(),
            known.len() - 1,
            names::all(known)
        ),
        None if place < known.len() => bail!(
            "no class has the name {place}; class={place} is that in place {place}, {}",
            escaped(known[place])
        ),
        None => bail!(unknown),
    }
}

fn attributes(text: &str, known: &[&str]) -> Result<Vec<(usize, bool)>> {
    ensure!(
        !text.trim().is_empty(),
        "it names no attribute: use NAME, or -NAME for its absence, with commas between several; there are {}",
        names::all(known)
    );
    let read = || -> Result<Vec<(usize, bool)>> {
        let mut wanted: Vec<(usize, bool)> = Vec::new();
        for item in list(text)? {
            let (at, present) = attribute(&item, known)?;
            let name = escaped(known[at]);
            match wanted.iter().find(|(other, _)| *other == at) {
                Some((_, before)) if *before == present => bail!("{name} is asked for twice"),
                Some(_) => bail!("{name} is asked for both present and absent: choose one"),
                None => wanted.push((at, present)),
            }
        }
        wanted.sort_unstable();
        Ok(wanted)
    };
    // A name may have commas in it, or a backslash.
    let whole = known.iter().position(|name| *name == text);
    read().or_else(|error| whole.map(|at| vec![(at, true)]).ok_or(error))
}

/// Which attribute is meant, and whether it is to be there.
fn attribute(item: &Listed, known: &[&str]) -> Result<(usize, bool)> {
    let exact = |name: &str| known.iter().position(|known| *known == name);
    let absent = item.name.strip_prefix('-').filter(|_| !item.literal);
    if let Some(at) = absent.and_then(exact) {
        return Ok((at, false));
    }
    if let Some(at) = exact(&item.name) {
        return Ok((at, true));
    }
    let name = absent.unwrap_or(&item.name).trim_start();
    ensure!(
        !name.is_empty(),
        "no name stands behind a -: give -NAME for what is not to be there; there are {}",
        names::all(known)
    );
    let Named { index, opposite } = names::find(name, known)?;
    Ok((index, absent.is_some() == opposite))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_attributes(names: &[&str]) -> Conditions {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let row = "+".repeat(names.len());
        let json = serde_json::json!({ "kind": "attributes", "names": names, "rows": [row] });
        Conditions::parse(json.to_string().as_bytes()).unwrap()
    }

    fn of_classes(names: &[&str]) -> Conditions {
        let images = vec![3; names.len()];
        let json = serde_json::json!({ "kind": "classes", "names": names, "images": images });
        Conditions::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn attributes_are_asked_for_by_name() {
        let names = [
            "Male",
            "Eyeglasses",
            "No_Beard",
            "a b",
            "x,y",
            "-5_o_Clock",
            "é=1",
            "-Male",
            "no",
            "Zoë",
        ];
        let of = of_attributes(&names);
        for (text, wanted) in [
            ("Eyeglasses,-No_Beard", vec![(1, true), (2, false)]),
            ("eyeglasses , Female", vec![(0, false), (1, true)]),
            ("-Glasses", vec![(1, false)]),
            ("Beard", vec![(2, false)]),
            ("-Beard", vec![(2, true)]),
            ("Not_Male", vec![(0, false)]),
            ("a b", vec![(3, true)]),
            ("- a b", vec![(3, false)]),
            ("-Male,-No_Beard", vec![(0, false), (2, false)]),
            ("x,y", vec![(4, true)]),
            (r"x\,y,-é=1", vec![(4, true), (6, false)]),
            ("-5_o_Clock", vec![(5, true)]),
            ("--5_o_Clock", vec![(5, false)]),
            (r"\-5_o_Clock", vec![(5, true)]),
            (r"\-Male,-no", vec![(7, true), (8, false)]),
            ("--Male", vec![(7, false)]),
            ("-Zoë", vec![(9, false)]),
        ] {
            let parsed = Wanted::parse(text, &of).unwrap();
            assert_eq!(parsed, Wanted::Attributes(wanted), "{text}");
            assert_eq!(
                Wanted::parse(&parsed.typed(&of), &of).unwrap(),
                parsed,
                "{text}"
            );
        }
        for (text, said) in [
            ("", "it names no attribute"),
            ("Eyeglasses,", "an empty name"),
            ("-", "no name stands behind a -"),
            ("attributes=Male", "this is what train takes"),
            (
                "classes",
                "name attributes that the images are to show: there are Male",
            ),
            ("Eyeglasses,-eyeglasses", "both present and absent"),
            ("Male,Female", "both present and absent"),
            ("Male,male", "asked for twice"),
            ("Eyeglases", "did you mean Eyeglasses?"),
            ("class=7", "there is no class=7"),
            ("a\\", "ends in a backslash"),
        ] {
            let error = format!("{:#}", Wanted::parse(text, &of).unwrap_err());
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_class_is_asked_for_by_name_or_place() {
        let cifar = of_classes(&[
            "airplane", "cat", "a b", "class=9", "x,y", "-1", "Cat", " padded ", "größe",
        ]);
        for (text, class) in [
            ("cat", 1),
            ("class=cat", 1),
            ("AIRPLANE", 0),
            ("class= a b ", 2),
            ("class=2", 2),
            ("class=9", 3),
            ("class=class=9", 3),
            ("x,y", 4),
            ("-1", 5),
            ("class=-1", 5),
            ("Cat", 6),
            (" padded ", 7),
            ("class= padded ", 7),
            ("größe", 8),
        ] {
            let parsed = Wanted::parse(text, &cifar).unwrap();
            assert_eq!(parsed, Wanted::Class(class), "{text}");
            assert_eq!(
                Wanted::parse(&parsed.typed(&cifar), &cifar).unwrap(),
                parsed,
                "{text}"
            );
        }
        for (text, said) in [
            ("", "it names no class"),
            ("class=", "it names no class"),
            ("CAT", "there is no CAT"),
            ("airplan", "did you mean airplane?"),
            (
                "class=12",
                "there is no class 12: there are 9, with the places 0 to 8",
            ),
            ("2", "class=2 is that in place 2, a b"),
            ("12", "there is no 12"),
            ("cat,airplane", "these are several classes"),
            ("cat,dog", "there is no cat,dog: did you mean Cat?"),
            (
                "classes",
                "name the class that the images are to show: there are airplane",
            ),
            ("edges", "this is what train takes"),
        ] {
            let error = format!("{:#}", Wanted::parse(text, &cifar).unwrap_err());
            assert!(error.contains(said), "{text}: {error}");
        }
        // Named by numbers, in another order than that of their places.
        let mnist = of_classes(&["7", "3", "0"]);
        for (text, class) in [("class=7", 0), ("3", 1), ("class=0", 2), ("class=1", 1)] {
            assert_eq!(
                Wanted::parse(text, &mnist).unwrap(),
                Wanted::Class(class),
                "{text}"
            );
        }
        assert!(Wanted::parse("1", &mnist).is_err());
        // What train takes, where a class has that name.
        let odd = of_classes(&["edges", "classes"]);
        assert_eq!(Wanted::parse("classes", &odd).unwrap(), Wanted::Class(1));
    }
}
