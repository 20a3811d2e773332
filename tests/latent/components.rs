//! components.
