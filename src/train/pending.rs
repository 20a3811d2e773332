//! Metrics that were asked for and are not there yet.

/// Metrics on their way.
pub struct Pending {
    /// The iterations until here.
    pub step: u64,
    /// Whether they end an interval, full or cut short by the end of training.
    pub report: Option<Interval>,
    /// Whether D was examined before the last of them.
    pub examined: bool,
}

/// How much of an interval a report tells of.
#[derive(Clone, Copy, PartialEq)]
pub enum Interval {
    /// All of `--log-every` iterations.
    Full,
    /// The last of a run, or up to where a signal stopped it.
    Short,
}
