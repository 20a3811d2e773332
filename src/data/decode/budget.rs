//! The memory that decoding may take, over all threads together: who needs much waits until there is as much.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::{Result, ensure};

/// Most that all threads decode into at a time, bytes.
pub const TOTAL: u64 = 1 << 30;
/// Who needs no more than this does not ask: as many threads as there are take little in all.
const SMALL: u64 = 4 << 20;

static TAKEN: Mutex<u64> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

thread_local! {
    /// Whether this thread has a share already: it must not wait for itself.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// A share of the memory, given back when it is dropped, on the thread that took it.
pub struct Share(u64, PhantomData<*const ()>);

/// Waits until `bytes` more may be taken.
///
/// # Errors
/// When that is more than there is in all.
pub fn take(bytes: u64) -> Result<Share> {
    ensure!(
        bytes <= TOTAL,
        "it takes {} MiB to decode it, more than the {} MiB that all images together may take",
        bytes.div_ceil(1 << 20),
        TOTAL >> 20
    );
    if bytes <= SMALL || HOLDS.get() {
        return Ok(Share(0, PhantomData));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    while *taken + bytes > TOTAL {
        taken = FREED.wait(taken).unwrap_or_else(PoisonError::into_inner);
    }
    *taken += bytes;
    HOLDS.set(true);
    Ok(Share(bytes, PhantomData))
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.0 == 0 {
            return;
        }
        HOLDS.set(false);
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        FREED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn threads_together_never_take_more_than_there_is() {
        let now = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 1..=8u64 {
                let now = &now;
                scope.spawn(move || {
                    for round in 0..50 {
                        let bytes = (TOTAL / 8) * (1 + (thread + round) % 7);
                        let _share = take(bytes).unwrap();
                        // A share within a share waits for nobody.
                        let _within = take(TOTAL).unwrap();
                        let taken = now.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        assert!(taken <= TOTAL, "{taken}");
                        std::thread::yield_now();
                        now.fetch_sub(bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(take(TOTAL + 1).is_err());
    }
}
