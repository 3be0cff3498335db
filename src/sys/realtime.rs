//! Threads that load does not hold up, and memory that is not paged out.
//!
//! Decides nothing about who needs it: a function here asks the kernel and answers what it got, or why not in one line
//! that says what would help. Invariants: nothing that is started from a real-time thread inherits it; memory is locked
//! only where the limit cannot make a later allocation fail.
#![allow(unsafe_code, reason = "sched_setscheduler, mlockall")]
#![allow(clippy::disallowed_methods, reason = "reads /proc")]

use std::io;

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// The number of CAP_IPC_LOCK in capabilities(7).
const CAP_IPC_LOCK: u32 = 14;

/// Makes the calling thread a real-time one (SCHED_RR of sched(7)): it runs before every ordinary thread. `priority`: 1
/// to 99; the kernel's own threads have 50.
pub fn prefer(priority: u8) -> Result<(), String> {
    let param = libc::sched_param { sched_priority: i32::from(priority) };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads `param`, which lives beyond the call; 0 is the calling thread. Past the C library, which
    // may know processes only.
    let done = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const param) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let limit = getrlimit(Resource::RLIMIT_RTPRIO).map_or(0, |(soft, _)| soft);
    Err(match error.raw_os_error() {
        Some(libc::EPERM) if nix::unistd::geteuid().is_root() => {
            "not permitted, perhaps because the control group has no real-time budget".to_string()
        }
        Some(libc::EPERM) => {
            format!("not permitted: CAP_SYS_NICE or LimitRTPRIO={priority} is needed, the limit is {limit}")
        }
        _ => format!("refused: {error}"),
    })
}

/// What is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// Every page once it is in use, now and later.
    All,
    /// What the program occupied when it asked.
    Start,
}

/// Keeps this process's pages in memory once they are in use (MCL_ONFAULT: what is only reserved costs nothing).
/// `expected`: bytes that it may grow to; where that is more than half of the machine, what it occupies now is locked
/// and what it takes later is not, for caches are no reason to push everybody else out.
pub fn lock_memory(expected: u64) -> Result<Locked, String> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|e| e.to_string())?;
    if limit != RLIM_INFINITY && !may_lock() {
        // With a limit, an allocation beyond it would fail, and with it the program.
        return Err(format!(
            "not permitted: CAP_IPC_LOCK or LimitMEMLOCK=infinity is needed, the limit is {} KiB",
            limit >> 10
        ));
    }
    let all = expected <= memory_of_machine() / 2;
    let later = if all { libc::MCL_FUTURE } else { 0 };
    // SAFETY: changes nothing that memory holds.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT | later) } == 0 {
        return Ok(if all { Locked::All } else { Locked::Start });
    }
    Err(format!("refused: {}", io::Error::last_os_error()))
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next().map(str::to_string)
}

fn may_lock() -> bool {
    let held = field("/proc/self/status", "CapEff");
    let held = held.and_then(|hex| u64::from_str_radix(&hex, 16).ok()).unwrap_or(0);
    held & (1 << CAP_IPC_LOCK) != 0
}

/// Bytes.
fn memory_of_machine() -> u64 {
    let kib = field("/proc/meminfo", "MemTotal").and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SAFETY of the call: it takes a number and gives one.
    fn policy() -> i32 {
        // SAFETY: 0 is the calling thread; nothing is read or written.
        i32::try_from(unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) }).unwrap()
    }

    #[test]
    fn a_real_time_thread_passes_nothing_on_and_a_refusal_says_what_helps() {
        let checked = std::thread::spawn(|| match prefer(1) {
            Ok(()) => {
                assert_eq!(policy(), libc::SCHED_RR | libc::SCHED_RESET_ON_FORK);
                let child = std::thread::spawn(policy).join().unwrap();
                assert_eq!(child, libc::SCHED_OTHER, "a thread of a real-time one inherits it");
            }
            Err(why) => assert!(why.contains("permitted"), "{why}"),
        });
        checked.join().unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER, "a neighbour was changed");
        let refused = std::thread::spawn(|| prefer(200)).join().unwrap().unwrap_err();
        assert!(refused.starts_with("refused: ") || refused.contains("permitted"), "{refused}");
    }

    #[test]
    fn what_the_machine_has_is_known() {
        assert!(memory_of_machine() > 1 << 20);
        assert_eq!(field("/proc/meminfo", "Nonsense"), None);
    }
}
