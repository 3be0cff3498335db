//! Which processor a thread runs on, and where it may run.
//!
//! Decides nothing. Only the calling thread's own set is ever changed.
#![allow(clippy::disallowed_methods, reason = "a shell: /proc")]

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The processors that the calling thread may use now.
pub fn allowed() -> Option<CpuSet> {
    sched_getaffinity(Pid::from_raw(0)).ok()
}

/// Lets the calling thread run on these processors only; false if the kernel refuses.
pub fn run_on(set: &CpuSet) -> bool {
    sched_setaffinity(Pid::from_raw(0), set).is_ok()
}

/// The set of one processor; `None` for a number that no set can hold.
pub fn only(processor: usize) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    set.set(processor).ok()?;
    Some(set)
}

/// What a thread of this machine does, as in proc(5) (`R` runs), and the processor it ran on last.
pub fn last_seen(thread: u32) -> Option<(char, usize)> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    parse(&stat)
}

/// Fields 3 and 39. The name of the program, field 2, may hold anything, parentheses too.
fn parse(stat: &str) -> Option<(char, usize)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(35)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_found_behind_any_program_name() {
        let numbers: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a ) S 1) R {}", numbers.join(" "));
        assert_eq!(parse(&stat), Some(('R', 39)));
        assert_eq!(parse("7 (x"), None);
    }

    #[test]
    fn a_thread_bound_to_a_processor_runs_there() {
        let before = allowed().unwrap();
        let first = (0..CpuSet::count()).find(|n| before.is_set(*n) == Ok(true)).unwrap();
        assert!(run_on(&only(first).unwrap()));
        let own = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
        assert_eq!(last_seen(own), Some(('R', first)));
        assert!(run_on(&before));
    }
}
