//! Processors that wake quickly while somebody waits for them: the kernel's request for CPU latency, held in bursts.
//!
//! A caller and the thread that answers it hand over to each other some ten thousand times a second; a processor that
//! went to sleep in between has to be woken each time, which in a virtual machine is an exit to the host. Decides when
//! a burst begins and ends. Does not know what is asked. Invariants: nothing is held while nobody asks; the kernel
//! drops the request with the process.
//!
//! Measured on two idle virtual processors (AMD EPYC, KVM, haltpoll), medians of several runs without and with it:
//! chmod(2) 15-42 and 9-12 us, creating a file 56-110 and 32-48 us, 4 KiB and fdatasync 187-299 and 116-172 us.
#![allow(clippy::disallowed_methods, reason = "a shell: threads, time, devices")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::KeepAwake;

const DEVICE: &str = "/dev/cpu_dma_latency";
const IDLE_DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// What the kernel takes for no wish at all (PM_QOS_CPU_LATENCY_DEFAULT_VALUE), microseconds.
const NO_WISH: i32 = 2_000_000_000;
/// Idle processors poll: where sleeping means an exit to a hypervisor.
const POLL: i32 = 0;
/// Idle processors halt but go no deeper: real ones wake from that in about a microsecond.
const HALT: i32 = 2;
/// On machines with more processors than this keeping all of them awake costs more than it is worth.
const PROCESSORS_MAX: usize = 8;
/// So many requests in one `WINDOW` begin a burst.
const MANY: u32 = 64;
const WINDOW: Duration = Duration::from_millis(100);
/// Windows with fewer requests after which a burst is over.
const CALM: u32 = 5;

fn wanted(mode: KeepAwake) -> bool {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    match mode {
        KeepAwake::Off => false,
        KeepAwake::On => true,
        KeepAwake::Auto => processors() <= PROCESSORS_MAX,
    }
}

/// Counts requests and keeps processors awake while they come quickly.
pub struct Awake {
    /// Nothing is done without it.
    device: Option<File>,
    wish: i32,
    asked: AtomicU32,
    held: AtomicBool,
    window: Mutex<Instant>,
}

impl Awake {
    /// Where the device is missing or refused, nothing is ever held.
    pub fn new(mode: KeepAwake) -> Arc<Awake> {
        let open = || File::options().write(true).open(DEVICE);
        let device = wanted(mode).then(open).and_then(|opened| {
            opened
                .inspect_err(|error| tracing::debug!("{DEVICE}: {error}; processors sleep as they like"))
                .ok()
        });
        let haltpoll = std::fs::read_to_string(IDLE_DRIVER).is_ok_and(|name| name.trim() == "haltpoll");
        Awake::over(device, if haltpoll { POLL } else { HALT })
    }

    fn over(device: Option<File>, wish: i32) -> Arc<Awake> {
        let window = Mutex::new(Instant::now());
        Arc::new(Awake { device, wish, asked: AtomicU32::new(0), held: AtomicBool::new(false), window })
    }

    /// Notes one request.
    pub fn asked(self: &Arc<Awake>) {
        let Some(device) = &self.device else { return };
        if (self.asked.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(MANY)
            && !self.held.load(Ordering::Relaxed)
            && self.is_burst()
            && !self.held.swap(true, Ordering::SeqCst)
        {
            self.hold(device);
        }
    }

    /// Whether the last `MANY` requests came within one window.
    fn is_burst(&self) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *window, Instant::now()).elapsed() <= WINDOW
    }

    fn hold(self: &Arc<Awake>, device: &File) {
        let _ = device.write_at(&self.wish.to_ne_bytes(), 0);
        let shared = Arc::downgrade(self);
        let watch = move || {
            let (mut calm, mut before) = (0, None);
            while calm < CALM {
                std::thread::sleep(WINDOW);
                let Some(awake) = shared.upgrade() else { return };
                let now = awake.asked.load(Ordering::Relaxed);
                let few = before.is_some_and(|before| now.wrapping_sub(before) < MANY);
                (calm, before) = (if few { calm + 1 } else { 0 }, Some(now));
            }
            if let Some(awake) = shared.upgrade() {
                awake.release();
            }
        };
        if std::thread::Builder::new().name("twinfs-awake".to_string()).spawn(watch).is_err() {
            self.release();
        }
    }

    fn release(&self) {
        if let Some(device) = &self.device {
            let _ = device.write_at(&NO_WISH.to_ne_bytes(), 0);
        }
        self.held.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(path: &std::path::Path) -> Option<i32> {
        std::fs::read(path).unwrap().try_into().ok().map(i32::from_ne_bytes)
    }

    #[test]
    fn a_burst_holds_until_it_is_over_and_slow_requests_hold_nothing() {
        let path = std::env::temp_dir().join(format!("twinfs-wake-{}", std::process::id()));
        let awake = Awake::over(Some(File::create(&path).unwrap()), POLL);
        std::thread::sleep(2 * WINDOW);
        (0..MANY).for_each(|_| awake.asked());
        assert_eq!(wish(&path), None, "they came over more than a window");
        (0..MANY).for_each(|_| awake.asked());
        assert_eq!(wish(&path), Some(POLL));
        let end = Instant::now() + Duration::from_secs(20);
        while wish(&path) != Some(NO_WISH) {
            assert!(Instant::now() < end, "held although nobody asks");
            std::thread::sleep(WINDOW);
        }
        (0..2 * MANY).for_each(|_| awake.asked());
        assert_eq!(wish(&path), Some(POLL), "a second burst");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn off_is_off() {
        assert!(Awake::new(KeepAwake::Off).device.is_none());
    }
}
