//! forget.
