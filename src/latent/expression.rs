//! Arithmetic on points: `A - B + C`.
//!
//! ```text
//! sum    = ['-'] term (('+' | '-') term)*
//! term   = [number '*'] (operand | '(' sum ')')
//! ```
//!
//! with the operands of [`operand`](super::operand). What it comes to is a sum of operands with a weight each.

use crate::latent::operand::{Cursor, DEEPEST, Misread, Operand};

/// The most terms: each has a column in a picture.
const MOST: usize = 24;

/// An operand and how often it is added.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Negative where it is subtracted.
    pub weight: f32,
    /// Of what.
    pub operand: Operand,
}

/// A sum of operands.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    /// As typed.
    pub text: String,
    /// In the order in which they were typed; at least one.
    pub terms: Vec<Term>,
}

const PLUS: [char; 1] = ['+'];
const MINUS: [char; 2] = ['-', '−'];

impl Expression {
    /// Reads `text`.
    ///
    /// # Errors
    /// Where it does not parse: the place and why.
    pub fn parse(text: &str) -> Result<Self, Misread> {
        let mut cursor = Cursor::new(text);
        let mut terms = Vec::new();
        sum(&mut cursor, 1.0, 0, &mut terms)?;
        if cursor.peek().is_some() {
            let start = cursor.at();
            return Err(cursor.misread(start, "here should be + or -"));
        }
        Ok(Self {
            text: text.trim().to_string(),
            terms,
        })
    }
}

fn sum(
    cursor: &mut Cursor,
    weight: f32,
    depth: usize,
    terms: &mut Vec<Term>,
) -> Result<(), Misread> {
    let mut sign = match cursor.take(&MINUS) {
        Some(_) => -1.0,
        None => 1.0,
    };
    loop {
        term(cursor, weight * sign, depth, terms)?;
        if cursor.take(&PLUS).is_some() {
            sign = 1.0;
        } else if cursor.take(&MINUS).is_some() {
            sign = -1.0;
        } else {
            return Ok(());
        }
    }
}

fn term(
    cursor: &mut Cursor,
    weight: f32,
    depth: usize,
    terms: &mut Vec<Term>,
) -> Result<(), Misread> {
    cursor.peek();
    let start = cursor.at();
    let weight = weight * cursor.weight()?.unwrap_or(1.0);
    if !weight.is_finite() {
        return Err(cursor.misread(start, "these numbers are too large together"));
    }
    cursor.peek();
    let start = cursor.at();
    if cursor.take(&['(']).is_some() {
        if depth >= DEEPEST {
            return Err(cursor.misread(start, "too many brackets in brackets"));
        }
        sum(cursor, weight, depth + 1, terms)?;
        if cursor.take(&[')']).is_none() {
            if cursor.peek().is_some() {
                let start = cursor.at();
                return Err(cursor.misread(start, "here should be +, - or a closing bracket"));
            }
            let mut misread = cursor.misread(start, "this bracket is not closed");
            misread.at.end = start + 1;
            return Err(misread);
        }
        return Ok(());
    }
    let operand = cursor.operand(0)?;
    if terms.len() == MOST {
        return Err(cursor.misread(start, format!("no more than {MOST} operands are drawn")));
    }
    terms.push(Term { weight, operand });
    Ok(())
}
