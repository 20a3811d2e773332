//! Samples that have an attribute.
