//! logistic.
