//! A thread that writes what a run has made, while the run goes on.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result, anyhow};

/// Bytes of memory that the thread takes.
pub const THREAD: u64 = 1 << 20;

type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// Does jobs in the order in which they are given, each of which comes to a `T`. When this is dropped, all of them are
/// done.
pub struct Writer<T> {
    /// `None` once there are no more.
    jobs: Option<Sender<Job<T>>>,
    done: Receiver<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Whoever waited for a job that panicked was told.
            let _ = thread.join();
        }
    }
}

impl<T: Send + 'static> Writer<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system has no more threads.
    pub fn new() -> Result<Self> {
        let (jobs, to_do) = channel::<Job<T>>();
        let (results, done) = channel();
        let work = move || {
            for job in to_do {
                // Whoever waits for it is gone where this fails.
                let _ = results.send(job());
            }
        };
        let thread = Builder::new()
            .name("writer".to_string())
            .stack_size(THREAD as usize)
            .spawn(work)
            .context("cannot start the thread that writes")?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            thread: Some(thread),
        })
    }

    /// Has `job` done after those before it.
    ///
    /// # Errors
    /// Where one of those has panicked.
    pub fn begin(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<()> {
        let jobs = self.jobs.as_ref().context("no thread")?;
        jobs.send(Box::new(job)).map_err(|_| ended())
    }

    /// What the next job came to, or `None` where it is not done. Waits for it where `wait`: then there is one.
    ///
    /// # Errors
    /// Where it has panicked.
    pub fn take(&self, wait: bool) -> Result<Option<T>> {
        if wait {
            return self.done.recv().map(Some).map_err(|_| ended());
        }
        match self.done.try_recv() {
            Ok(result) => Ok(Some(result)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }
}

fn ended() -> anyhow::Error {
    anyhow!("the thread that writes has ended: please report this")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn jobs_are_done_in_order_and_nobody_waits() {
        let writer = Writer::new().unwrap();
        let (go, gate) = sync_channel::<()>(0);
        writer
            .begin(move || {
                gate.recv().unwrap();
                1
            })
            .unwrap();
        writer.begin(|| 2).unwrap();
        assert_eq!(writer.take(false).unwrap(), None);
        go.send(()).unwrap();
        assert_eq!(writer.take(true).unwrap(), Some(1));
        assert_eq!(writer.take(true).unwrap(), Some(2));
        assert_eq!(writer.take(false).unwrap(), None);
    }

    #[test]
    fn what_was_given_is_done_before_it_goes() {
        let (done, all) = channel();
        let writer = Writer::new().unwrap();
        for number in 0..3 {
            let done = done.clone();
            writer.begin(move || done.send(number).unwrap()).unwrap();
        }
        drop((writer, done));
        assert_eq!(all.iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_panic_is_told_to_whoever_waits() {
        let writer = Writer::<()>::new().unwrap();
        writer.begin(|| panic!("as asked for")).unwrap();
        let error = writer.take(true).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}
