//! The clocks: boot time for everything that is decided, wall time for what people read.
//!
//! Does not know what a moment is used for. Invariant: `now` never goes back and counts the time that the machine
//! slept.
#![allow(unsafe_code, clippy::disallowed_methods, reason = "this is the clock; tzset, localtime_r")]

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::base::{Moment, Span, WallTime};

/// The boot-time clock.
pub fn now() -> Moment {
    Moment(read(ClockId::CLOCK_BOOTTIME))
}

/// Milliseconds since 1970, for people.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

unsafe extern "C" {
    /// Reads the time zone of the machine anew.
    fn tzset();
}

/// What the machine's clock shows, with the offset of its time zone at that time; without a known zone that of
/// universal time.
pub fn wall() -> WallTime {
    let unix_s = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
    // SAFETY: an all-zero `tm` is a valid one: integers, and a null pointer that nobody follows.
    let mut broken: nix::libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: nothing in this program changes the environment, which is what tzset reads besides files; localtime_r
    // writes to `broken` only.
    let known = unsafe {
        tzset();
        !nix::libc::localtime_r(&raw const unix_s, &raw mut broken).is_null()
    };
    let offset_s = if known { i32::try_from(broken.tm_gmtoff).unwrap_or(0) } else { 0 };
    WallTime { unix_s, offset_s }
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist in every kernel that has FUSE; without them nothing could be decided safely.
    let time = clock_gettime(clock).expect("Linux has CLOCK_BOOTTIME and CLOCK_MONOTONIC");
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec()).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec()))
}

/// Notices that the machine was suspended: boot time ran, monotonic time stood still.
#[derive(Clone, Copy, Debug)]
pub struct SleepWatch {
    asleep: u64,
}

impl Default for SleepWatch {
    fn default() -> SleepWatch {
        SleepWatch::new()
    }
}

impl SleepWatch {
    pub fn new() -> SleepWatch {
        SleepWatch { asleep: asleep() }
    }

    /// For how long the machine slept since the last call, if longer than `threshold`.
    pub fn slept(&mut self, threshold: Span) -> Option<Span> {
        self.step(asleep(), threshold)
    }

    fn step(&mut self, asleep: u64, threshold: Span) -> Option<Span> {
        let before = std::mem::replace(&mut self.asleep, asleep);
        let slept = Span(self.asleep.saturating_sub(before));
        (slept > threshold).then_some(slept)
    }
}

/// All sleep since boot. Monotonic is read first, so that a preemption between the two can only make it look longer by
/// that preemption, which the caller's threshold covers.
fn asleep() -> u64 {
    let monotonic = read(ClockId::CLOCK_MONOTONIC);
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward_and_an_awake_machine_did_not_sleep() {
        let first = now();
        let mut watch = SleepWatch::new();
        assert!(now() >= first);
        assert_eq!(watch.slept(Span::from_secs(5)), None);
        assert!(unix_ms() > 1_600_000_000_000);
        let wall = wall();
        assert!(wall.unix_s > 1_600_000_000 && wall.offset_s.abs() < 86_400);
    }

    #[test]
    fn a_moved_difference_of_the_clocks_is_sleep_and_is_told_once() {
        let mut watch = SleepWatch { asleep: 5 };
        let later = 5 + Span::from_secs(90).0;
        assert_eq!(watch.step(later, Span::from_secs(1)), Some(Span::from_secs(90)));
        assert_eq!(watch.step(later, Span::from_secs(1)), None);
        assert_eq!(watch.step(later + 1_000, Span::from_secs(1)), None, "scheduling noise is no sleep");
    }
}
