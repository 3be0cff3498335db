//! A thread that reads requests runs on the processor of the only caller that it has.
//!
//! A caller sleeps while its request is answered, so its processor is free for exactly that long; waking a thread on
//! another processor and being woken by it costs several times what a small request does. Decides when a thread is
//! bound and when it is let go. Does not know requests. Invariants: with two callers in sight a thread is free to run
//! anywhere; it never leaves the processors that the process was given.
#![allow(clippy::disallowed_methods, reason = "a shell: time, threads")]

use std::cell::RefCell;
use std::time::{Duration, Instant};

use nix::sched::CpuSet;

use crate::sys::cpu;

/// Requests after which a thread looks where its caller is.
const REQUESTS: u32 = 64;
/// The same as a time, for callers that ask rarely; a caller that was moved is followed after that.
const LOOK_EVERY: Duration = Duration::from_millis(4);

thread_local! {
    static FOLLOWER: RefCell<Follower> = RefCell::new(Follower::new(cpu::last_seen));
}

/// Notes a request of thread `caller` (0: the kernel itself) on the thread that will answer it.
pub(super) fn asked_by(caller: u32) {
    if caller != 0 {
        FOLLOWER.with_borrow_mut(|follower| follower.note(caller));
    }
}

struct Follower {
    /// Where the thread may run when it is free.
    all: Option<CpuSet>,
    bound: Option<usize>,
    caller: u32,
    /// Somebody else asked since the last look.
    others: bool,
    requests: u32,
    looked: Instant,
    /// What a thread does, and where.
    look: fn(u32) -> Option<(char, usize)>,
}

impl Follower {
    fn new(look: fn(u32) -> Option<(char, usize)>) -> Follower {
        let looked = Instant::now();
        Follower { all: cpu::allowed(), bound: None, caller: 0, others: true, requests: 0, looked, look }
    }

    fn note(&mut self, caller: u32) {
        self.requests += 1;
        if caller != self.caller {
            self.others = true;
        }
        if self.requests < REQUESTS && self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        let now = Instant::now();
        // One request in a long time tells nothing about who will be next.
        let alone = !self.others && self.requests > 1;
        // A caller that runs does not wait for us (it has several requests under way) and needs its processor itself.
        let waits = |seen: (char, usize)| (seen.0 != 'R').then_some(seen.1);
        self.bind(if alone { (self.look)(caller).and_then(waits) } else { None });
        (self.caller, self.others, self.requests, self.looked) = (caller, false, 0, now);
    }

    fn bind(&mut self, wanted: Option<usize>) {
        let Some(all) = &self.all else { return };
        let wanted = wanted.filter(|number| all.is_set(*number) == Ok(true));
        if wanted == self.bound {
            return;
        }
        let set = wanted.and_then(cpu::only);
        if cpu::run_on(set.as_ref().unwrap_or(all)) {
            self.bound = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(follower: &mut Follower, callers: &[u32]) {
        for caller in callers.iter().cycle().take(3 * REQUESTS as usize) {
            follower.note(*caller);
        }
    }

    fn first_processor() -> usize {
        let all = cpu::allowed().unwrap();
        (0..CpuSet::count()).find(|number| all.is_set(*number) == Ok(true)).unwrap()
    }

    #[test]
    fn one_waiting_caller_is_followed_and_two_are_not() {
        let before = cpu::allowed();
        let mut follower = Follower::new(|_| Some(('S', first_processor())));
        ask(&mut follower, &[7]);
        assert_eq!((follower.bound, cpu::allowed()), (Some(first_processor()), cpu::only(first_processor())));
        ask(&mut follower, &[7, 8]);
        assert_eq!((follower.bound, cpu::allowed()), (None, before));
    }

    #[test]
    fn a_caller_that_runs_on_keeps_its_processor() {
        let before = cpu::allowed();
        let mut follower = Follower::new(|_| Some(('R', first_processor())));
        ask(&mut follower, &[7]);
        assert_eq!((follower.bound, cpu::allowed()), (None, before));
    }
}
