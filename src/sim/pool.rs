//! Many seeds on all cores: each seed is a run of its own, whichever thread takes it.
#![allow(clippy::disallowed_methods, reason = "the simulator owns its threads")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::baton::lock;
use super::options::{Options, Outcome};

/// Runs `count` seeds from `first`; `each` sees every outcome, in any order, and says whether to go on.
pub fn run_many(
    first: u64,
    count: u64,
    workers: usize,
    make: impl Fn(u64) -> Options + Sync,
    each: impl FnMut(Outcome) -> bool + Send,
) {
    let next = AtomicU64::new(0);
    let each = Mutex::new((each, true));
    std::thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count || !lock(&each).1 {
                        return;
                    }
                    let outcome = super::run(&make(first + number));
                    let mut each = lock(&each);
                    let go_on = (each.0)(outcome);
                    each.1 &= go_on;
                }
            });
        }
    });
}
