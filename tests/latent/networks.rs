//! networks.
