//! Several paths to the peer: which one a new stream takes, and when a failed one is tried again.
//!
//! Does not resend anything: a stream over another path is a new session. Invariant: a path that failed is not tried
//! before its pause is over, unless every path is in a pause.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::handshake::{self, Opening};
use super::{Identity, LinkError, socket};

/// Pause after the first failure of a path; doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause: the peer's return is noticed within it.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One way to the peer: this node's address and the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub local: Option<SocketAddr>,
    pub remote: SocketAddr,
}

/// All ways to the peer with what is known about each.
pub struct Paths {
    identity: Identity,
    /// For one attempt: connect and handshake.
    attempt_time: Duration,
    state: Mutex<Vec<Health>>,
}

#[derive(Clone, Debug)]
struct Health {
    path: Path,
    /// Heard on it lately, says the heartbeat.
    alive: bool,
    failures: u32,
    not_before: Option<Instant>,
    /// Time of the last handshake.
    round_trip: Duration,
}

impl Paths {
    pub fn new(identity: Identity, paths: &[Path], attempt_time: Duration) -> Paths {
        let fresh = |path: &Path| Health {
            path: *path,
            alive: true,
            failures: 0,
            not_before: None,
            round_trip: Duration::ZERO,
        };
        Paths { identity, attempt_time, state: Mutex::new(paths.iter().map(fresh).collect()) }
    }

    /// What the heartbeat knows: whether path `index` carried a packet lately. A path without is tried last.
    pub fn set_alive(&self, index: usize, alive: bool) {
        if let Some(health) = self.lock().get_mut(index) {
            health.alive = alive;
            if alive && health.failures > 0 {
                // It works again: no need to sit out the pause.
                health.not_before = None;
            }
        }
    }

    /// Path `index` swallowed a stream, although it may still carry heartbeats: it is tried last, and not before the
    /// longest pause is over.
    pub fn leave(&self, index: usize) {
        if let Some(health) = self.lock().get_mut(index) {
            health.alive = false;
            health.failures = health.failures.max(1);
            health.not_before = Some(Instant::now() + PAUSE_MAX);
        }
    }

    /// Opens a stream over the healthiest path that works; the number of the path with it. Blocks for at most one
    /// attempt a path. When all fail: the first failure that came from the peer itself, else the last one.
    pub fn connect(&self, opening: &Opening) -> Result<(usize, Connection), LinkError> {
        let mut told: Option<LinkError> = None;
        for index in self.order(Instant::now()) {
            match self.attempt(index, opening) {
                Ok(connection) => return Ok((index, connection)),
                Err(error) => {
                    let weak =
                        |e: &LinkError| matches!(e, LinkError::Unreachable { .. } | LinkError::Timeout);
                    if told.as_ref().is_none_or(weak) {
                        told = Some(error);
                    }
                }
            }
        }
        Err(told.unwrap_or(LinkError::Timeout))
    }

    /// The moment from which `connect` has a path out of its pause; `None`: now.
    pub fn next_attempt(&self) -> Option<Instant> {
        let state = self.lock();
        let waits: Option<Vec<Instant>> = state.iter().map(|health| health.not_before).collect();
        waits.and_then(|waits| waits.into_iter().min())
    }

    /// Paths to try, best first.
    fn order(&self, now: Instant) -> Vec<usize> {
        let state = self.lock();
        let ready = |health: &Health| health.not_before.is_none_or(|at| at <= now);
        let none_ready = !state.iter().any(ready);
        let mut order: Vec<usize> = (0..state.len()).filter(|i| none_ready || ready(&state[*i])).collect();
        order.sort_by_key(|i| (!state[*i].alive, state[*i].failures, state[*i].round_trip, *i));
        order
    }

    fn attempt(&self, index: usize, opening: &Opening) -> Result<Connection, LinkError> {
        let Some(path) = self.lock().get(index).map(|health| health.path) else {
            return Err(LinkError::Closed);
        };
        let begun = Instant::now();
        let opened = socket::dial(path.local, path.remote, self.attempt_time)
            .map_err(|source| LinkError::Unreachable { address: path.remote, source })
            .and_then(|stream| handshake::open(stream, &self.identity, opening, begun + self.attempt_time));
        if let Some(health) = self.lock().get_mut(index) {
            match &opened {
                Ok(_) => {
                    health.failures = 0;
                    health.not_before = None;
                    health.round_trip = begun.elapsed();
                }
                Err(_) => {
                    health.failures = health.failures.saturating_add(1);
                    let pause = PAUSE_MIN * 2u32.pow(health.failures.min(10) - 1);
                    health.not_before = Some(Instant::now() + pause.min(PAUSE_MAX));
                }
            }
        }
        opened
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Health>> {
        // Every change is a single assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
