//! Conditions: what an image is to show, as a vector y that G and D are given with it.
//!
//! [`ConditionArg`] is what `train --condition` asks for, a [`Table`] has y of every image of the data set,
//! [`Conditions`] is what a run keeps of it, and [`Wanted`] is what is asked of a trained generator. Of classes, y is
//! one-hot; of attributes, −1 or 1 a name.

mod argument;
mod draw;
mod kept;
mod table;
mod wanted;

pub use argument::ConditionArg;
pub use kept::{Conditions, MOST_ROWS};
pub use table::{MOST_NAMES, Table};
pub use wanted::Wanted;
