//! invert.
