//! What is typed: attributes and strengths.

use std::str::FromStr;

/// `NAME` or `NAME=STRENGTH`.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// As typed.
    pub name: String,
    /// The strength of its own.
    pub strength: Option<f32>,
}

/// `FROM..TO`, or a list.
#[derive(Clone, Debug, PartialEq)]
pub enum Strengths {
    /// From the first, the lower one, to the second.
    Range(f32, f32),
    /// These.
    List(Vec<f32>),
}

/// Standard deviations beyond which nothing was trained.
const MOST: f32 = 100.0;

fn number(text: &str) -> Result<f32, String> {
    let value: f32 = text
        .trim()
        .replace('−', "-")
        .parse()
        .map_err(|_| format!("`{}` is no number", text.trim()))?;
    match value.abs() <= MOST {
        true => Ok(value),
        false => Err(format!("{value} is not between -{MOST} and {MOST}")),
    }
}

impl FromStr for Attribute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, strength) = match text.split_once('=') {
            Some((name, strength)) => (name, Some(number(strength)?)),
            None => (text, None),
        };
        match name.trim() {
            "" => Err("there is no name".to_string()),
            name => Ok(Self {
                name: name.to_string(),
                strength,
            }),
        }
    }
}

impl FromStr for Strengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((from, to)) = text.split_once("..") else {
            let list: Result<Vec<f32>, String> = text.split(',').map(number).collect();
            return list.map(Self::List);
        };
        let (from, to) = (number(from)?, number(to)?);
        if from < to {
            Ok(Self::Range(from, to))
        } else {
            Err(format!("it ends before it begins: write {to}..{from}"))
        }
    }
}

impl Strengths {
    /// The strengths, of a range `steps` at equal distances.
    pub fn values(&self, steps: usize) -> Vec<f32> {
        match self {
            Self::List(list) => list.clone(),
            Self::Range(from, to) => {
                let last = (steps.max(2) - 1) as f32;
                let at = |step: usize| from + (to - from) * step as f32 / last;
                (0..=last as usize).map(at).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_are_read() {
        let read = |text: &str| text.parse::<Strengths>();
        assert_eq!(
            read("-3..3").unwrap().values(7),
            [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
        );
        assert_eq!(read("2").unwrap().values(7), [2.0]);
        assert_eq!(read("−1, 2.5").unwrap().values(7), [-1.0, 2.5]);
        assert_eq!(
            read("3..-3").unwrap_err(),
            "it ends before it begins: write -3..3"
        );
        for bad in [
            "", "a", "1..", "..", "1..2..3", "nan", "inf", "1,,2", "1e9", "0..0",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_are_read() {
        let read = |text: &str| text.parse::<Attribute>();
        assert_eq!(read("Smiling").unwrap().strength, None);
        let glasses = read("Eyeglasses=-2.5").unwrap();
        assert_eq!(
            (glasses.name.as_str(), glasses.strength),
            ("Eyeglasses", Some(-2.5))
        );
        for bad in ["", "=2", "A=", "A=x", "A=1=2"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
