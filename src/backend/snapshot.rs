//! What is on the device as it is at one point, on its way to the host while the device goes on.

use anyhow::Result;

use super::metrics::Counters;
use crate::model::StateDict;

/// Puts what is on the host by now into the form of its readers: any thread may, without the device.
pub type Arrived<T> = Box<dyn FnOnce() -> Result<T> + Send>;

/// Tensors of networks and the counters, all after the same iteration.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Those that were asked for, in that order.
    pub tensors: Vec<StateDict>,
    /// The counters.
    pub counters: Counters,
}

/// Room for a copy of `T` on the device and on the host, made when it is first used. One copy is under way at a time.
pub trait Snapshot<T>: Default {
    /// What was sent last, once: `None` where there is none, or where it is not there yet and `wait` is false. The room
    /// is in use until it is [`Arrived`] no more: called or dropped.
    ///
    /// # Errors
    /// Where the device fails.
    fn take(&mut self, wait: bool) -> Result<Option<Arrived<T>>>;
}
