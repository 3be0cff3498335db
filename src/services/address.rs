//! The service addresses of one volume, on one thread that never waits for anything else.
//!
//! Decides when an address is raised, renewed, announced again and removed. Does not know who is primary. Invariants:
//! an address is raised only with a kernel lifetime no longer than the lease that covers it; `drop_now` is obeyed
//! before anything queued earlier.
#![allow(clippy::disallowed_methods, reason = "a shell: one thread")]

use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::IpPrefix;
use crate::events::Event;
use crate::sys::address;

/// Announced so many times after it was raised, `ANNOUNCE_EVERY` apart: a switch or a neighbour may miss one.
const ANNOUNCEMENTS: u32 = 5;
const ANNOUNCE_EVERY: Duration = Duration::from_millis(400);
/// Announced again for as long as it is held: a neighbour may have been away.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// Where events go.
pub type Tell = Box<dyn Fn(Event) + Send>;

#[derive(Default)]
struct Wish {
    /// Seconds of kernel lifetime; `None`: not to be there.
    lifetime: Option<u64>,
    /// Grows with every change of the wish.
    round: u64,
    /// The last round that was carried out.
    done: u64,
    quit: bool,
}

struct Shared {
    wish: Mutex<Wish>,
    changed: Condvar,
}

/// The addresses of one volume. Dropping it ends the thread and leaves the addresses to their lifetime.
pub struct Addresses {
    list: Vec<IpPrefix>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Addresses {
    /// `device`: where they go; `None`: the device whose own network holds the address.
    pub fn new(list: Vec<IpPrefix>, device: Option<String>, tell: Tell) -> Addresses {
        let shared = Arc::new(Shared { wish: Mutex::default(), changed: Condvar::new() });
        let worker = Worker { list: list.clone(), device, tell, shared: Arc::clone(&shared), up: Vec::new() };
        let thread = (!list.is_empty()).then(|| std::thread::spawn(move || worker.run()));
        Addresses { list, shared, thread }
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.shared.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, lifetime: Option<u64>) -> u64 {
        let mut wish = self.wish();
        wish.lifetime = lifetime;
        wish.round += 1;
        self.shared.changed.notify_all();
        wish.round
    }

    /// Raises the addresses, or gives those that are up a new lifetime; returns at once.
    pub fn raise(&self, seconds: u64) {
        self.want(Some(seconds.max(1)));
    }

    /// Gives addresses that are up a new lifetime; does nothing while they are not wanted.
    pub fn renew(&self, seconds: u64) {
        let mut wish = self.wish();
        if wish.lifetime.is_some() {
            wish.lifetime = Some(seconds.max(1));
            wish.round += 1;
            self.shared.changed.notify_all();
        }
    }

    /// Removes them; returns at once.
    pub fn drop_now(&self) {
        self.want(None);
    }

    /// Removes them and waits, at most so long; `false`: not known to be gone.
    pub fn drop_and_wait(&self, limit: Duration) -> bool {
        if self.thread.is_none() {
            return true;
        }
        let round = self.want(None);
        let wish = self.wish();
        let waited = self.shared.changed.wait_timeout_while(wish, limit, |wish| wish.done < round);
        waited.unwrap_or_else(PoisonError::into_inner).0.done >= round
    }

    pub fn list(&self) -> &[IpPrefix] {
        &self.list
    }

    /// Whether they are wanted here now.
    pub fn wanted(&self) -> bool {
        self.wish().lifetime.is_some()
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.wish().quit = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct Worker {
    list: Vec<IpPrefix>,
    device: Option<String>,
    tell: Tell,
    shared: Arc<Shared>,
    /// Raised by us: address and device.
    up: Vec<(IpAddr, String)>,
}

impl Worker {
    fn run(mut self) {
        let mut seen = 0;
        let mut announcements = 0_u32;
        loop {
            let pause = if announcements > 0 { ANNOUNCE_EVERY } else { REMIND_EVERY };
            let shared = Arc::clone(&self.shared);
            let wish = shared.wish.lock().unwrap_or_else(PoisonError::into_inner);
            let waited =
                shared.changed.wait_timeout_while(wish, pause, |wish| wish.round == seen && !wish.quit);
            let (wish, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if wish.quit {
                return;
            }
            let (lifetime, round) = (wish.lifetime, wish.round);
            drop(wish);
            if timeout.timed_out() {
                self.announce();
                announcements = announcements.saturating_sub(1);
                continue;
            }
            seen = round;
            match lifetime {
                Some(seconds) if self.raise(seconds) => announcements = ANNOUNCEMENTS,
                Some(_) => {}
                None => self.remove(),
            }
            let mut wish = shared.wish.lock().unwrap_or_else(PoisonError::into_inner);
            wish.done = round;
            shared.changed.notify_all();
        }
    }

    /// Whether an address came up that was not there before.
    fn raise(&mut self, seconds: u64) -> bool {
        let mut fresh = false;
        for address in self.list.clone() {
            let known = self.up.iter().find(|(ip, _)| *ip == address.ip).map(|(_, device)| device.clone());
            let device = match known.clone().or_else(|| self.device.clone()) {
                Some(device) => Ok(device),
                None => address::device_for(address.ip),
            };
            let lifetime = Duration::from_secs(seconds);
            let raised = device.and_then(|device| {
                address::raise(address.ip, address.prefix, &device, lifetime).map(|()| device)
            });
            match raised {
                Ok(device) if known.is_none() => {
                    let _ = address::announce(address.ip, &device);
                    (self.tell)(Event::AddressRaised {
                        address: address.to_string(),
                        device: device.clone(),
                    });
                    self.up.push((address.ip, device));
                    fresh = true;
                }
                Ok(_) => {}
                Err(e) => {
                    (self.tell)(Event::AddressFailed { address: address.to_string(), reason: e.to_string() });
                }
            }
        }
        fresh
    }

    fn remove(&mut self) {
        for address in &self.list {
            match address::remove(address.ip) {
                Ok(()) if self.up.iter().any(|(ip, _)| *ip == address.ip) => {
                    (self.tell)(Event::AddressRemoved { address: address.to_string() });
                }
                Ok(()) => {}
                Err(e) => {
                    (self.tell)(Event::AddressFailed { address: address.to_string(), reason: e.to_string() });
                }
            }
        }
        self.up.clear();
    }

    fn announce(&self) {
        for (ip, device) in &self.up {
            let _ = address::announce(*ip, device);
        }
    }
}
