//! factorise.
