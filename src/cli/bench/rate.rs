//! Rates measured in rounds, and what the system itself gives beside them.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::train::stop::Stop;

/// Fewer rounds say nothing of the spread.
pub const ROUNDS: usize = 5;
/// Bytes that are read or written at a time, where the system's own rate is measured.
const PIECE: usize = 1 << 20;

/// Units a second, measured in rounds; the best is what the machine can do, the others say how steady it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// The fastest round, units a second.
    pub best: f64,
    /// The round in the middle, units a second.
    pub median: f64,
    /// The slowest round, units a second.
    pub worst: f64,
    /// How many rounds there were.
    pub rounds: usize,
}

impl Rate {
    /// What `rounds` come to, each in units a second; zeros where there are none.
    pub fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| rounds.get(index).copied().unwrap_or(0.0);
        Self {
            best: at(rounds.len().saturating_sub(1)),
            median: at(rounds.len() / 2),
            worst: at(0),
            rounds: rounds.len(),
        }
    }

    /// Units a second of `work`, which says how many it did, over at least `seconds`.
    ///
    /// # Errors
    /// When `work` fails, or once a signal came.
    pub fn measure(
        seconds: f64,
        stop: &Stop,
        mut work: impl FnMut() -> Result<usize>,
    ) -> Result<Self> {
        let mut work = || {
            stop.check()?;
            work()
        };
        let round = seconds / ROUNDS as f64;
        let mut rates = Vec::with_capacity(ROUNDS);
        // Once before: buffers are made and caches filled.
        work()?;
        let begin = Instant::now();
        while rates.len() < ROUNDS || begin.elapsed().as_secs_f64() < seconds {
            let start = Instant::now();
            let mut done = work()?;
            while start.elapsed().as_secs_f64() < round {
                done += work()?;
            }
            rates.push(done as f64 / start.elapsed().as_secs_f64());
        }
        Ok(Self::of(rates))
    }

    /// The median and the worst rate in multiples of `unit`, for people.
    pub fn spread(&self, unit: f64) -> String {
        format!(
            "median {:.0}, worst {:.0} of {} rounds",
            self.median / unit,
            self.worst / unit,
            self.rounds
        )
    }
}

/// Writes a file of `bytes` bytes and syncs it; returns their number.
///
/// # Errors
/// When it cannot be written.
pub fn write_plainly(path: &Path, bytes: usize) -> Result<usize> {
    let piece = vec![0xA5; PIECE];
    let mut file = File::create(path)?;
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE);
        file.write_all(&piece[..now])?;
        left -= now;
    }
    file.sync_all()?;
    Ok(bytes)
}

/// Reads a file from its start to its end; returns its bytes.
///
/// # Errors
/// When it cannot be read.
pub fn read_plainly(path: &Path) -> Result<usize> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(bytes),
            read => bytes += read,
        }
        black_box(&mut piece);
    }
}

/// Processor time of all threads of this process so far, seconds.
///
/// # Errors
/// When the system does not tell.
pub fn processor_seconds() -> Result<f64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes the structure that it is given.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    ensure!(status == 0, "the system does not tell the processor time");
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}
