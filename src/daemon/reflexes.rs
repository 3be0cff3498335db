//! What must happen at once when the right to serve shrinks or returns: hold requests, drop the address.
//!
//! Decides from {promoted, frozen, lifetime} whether requests are answered and whether the address is wanted. Does not
//! know why it is told so. Invariants: nothing here blocks; the address is wanted only while promoted and not frozen;
//! after `stop` nothing is answered until the next promotion.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::services::address::Addresses;

/// Where the address goes.
pub trait AddressWish: Send + Sync {
    /// Raise, or give a new lifetime.
    fn raise(&self, seconds: u64);
    fn renew(&self, seconds: u64);
    fn drop_now(&self);
}

impl AddressWish for Addresses {
    fn raise(&self, seconds: u64) {
        Addresses::raise(self, seconds);
    }
    fn renew(&self, seconds: u64) {
        Addresses::renew(self, seconds);
    }
    fn drop_now(&self) {
        Addresses::drop_now(self);
    }
}

/// Where requests wait.
pub trait RequestGate: Send + Sync {
    fn open(&self);
    /// Requests wait.
    fn hold(&self);
    /// Requests are answered with an error.
    fn stop(&self);
}

/// Kernel lifetime before the first renewal said better: long enough for one renewal to be late.
const FIRST_LIFETIME_SECS: u64 = 2;

#[derive(Clone, Copy, Debug)]
struct State {
    promoted: bool,
    frozen: bool,
    stopped: bool,
    seconds: u64,
}

impl State {
    fn fresh() -> State {
        State { promoted: false, frozen: false, stopped: false, seconds: FIRST_LIFETIME_SECS }
    }
}

/// The reflexes of one volume.
pub struct Reflexes {
    state: Mutex<State>,
    address: Arc<dyn AddressWish>,
    gate: Arc<dyn RequestGate>,
}

impl Reflexes {
    pub fn new(address: Arc<dyn AddressWish>, gate: Arc<dyn RequestGate>) -> Reflexes {
        let state = State::fresh();
        Reflexes { state: Mutex::new(state), address, gate }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A promotion begins: requests may be answered as soon as there is a mount.
    pub fn promoting(&self) {
        let mut state = self.state();
        *state = State::fresh();
        self.gate.open();
    }

    /// The mount stands: the address belongs here, unless frozen meanwhile.
    pub fn promoted(&self) {
        let mut state = self.state();
        state.promoted = true;
        if !state.frozen {
            self.address.raise(state.seconds);
        }
    }

    /// The lease lapsed.
    pub fn freeze(&self) {
        let mut state = self.state();
        state.frozen = true;
        self.gate.hold();
        self.address.drop_now();
    }

    /// The lease is back.
    pub fn thaw(&self) {
        let mut state = self.state();
        state.frozen = false;
        self.gate.open();
        if state.promoted {
            self.address.raise(state.seconds);
        }
    }

    /// The lease is good for this long.
    pub fn renew(&self, seconds: u64) {
        let mut state = self.state();
        state.seconds = seconds.max(1);
        if state.promoted && !state.frozen {
            self.address.renew(state.seconds);
        }
    }

    /// The address leaves; requests are still answered.
    pub fn leaving(&self) {
        self.state().promoted = false;
        self.address.drop_now();
    }

    /// The right to serve is gone.
    pub fn stop(&self) {
        let mut state = self.state();
        (state.promoted, state.stopped) = (false, true);
        self.gate.stop();
        self.address.drop_now();
    }

    /// `stop` was called since the last promotion began: whatever takes its time need not.
    pub fn has_stopped(&self) -> bool {
        self.state().stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Log {
        fn add(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_string());
        }
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    impl AddressWish for Log {
        fn raise(&self, seconds: u64) {
            self.add(&format!("raise {seconds}"));
        }
        fn renew(&self, seconds: u64) {
            self.add(&format!("renew {seconds}"));
        }
        fn drop_now(&self) {
            self.add("drop");
        }
    }

    impl RequestGate for Log {
        fn open(&self) {
            self.add("open");
        }
        fn hold(&self) {
            self.add("hold");
        }
        fn stop(&self) {
            self.add("stop");
        }
    }

    fn reflexes() -> (Reflexes, Arc<Log>) {
        let log = Arc::new(Log::default());
        (
            Reflexes::new(Arc::clone(&log) as Arc<dyn AddressWish>, Arc::clone(&log) as Arc<dyn RequestGate>),
            log,
        )
    }

    #[test]
    fn a_lapse_during_the_mount_keeps_the_address_away_until_it_is_over() {
        let (reflexes, log) = reflexes();
        reflexes.promoting();
        reflexes.freeze();
        reflexes.promoted();
        assert_eq!(log.take(), ["open", "hold", "drop"]);
        reflexes.renew(5);
        assert!(log.take().is_empty());
        reflexes.thaw();
        assert_eq!(log.take(), ["open", "raise 5"]);
    }

    #[test]
    fn a_thaw_without_a_mount_raises_nothing() {
        let (reflexes, log) = reflexes();
        reflexes.promoting();
        reflexes.freeze();
        reflexes.thaw();
        assert_eq!(log.take(), ["open", "hold", "drop", "open"]);
    }

    #[test]
    fn after_a_stop_neither_renewal_nor_thaw_brings_the_address_back() {
        let (reflexes, log) = reflexes();
        reflexes.promoting();
        reflexes.promoted();
        reflexes.stop();
        log.take();
        reflexes.renew(9);
        reflexes.thaw();
        assert!(!log.take().iter().any(|call| call.starts_with('r')));
    }
}
