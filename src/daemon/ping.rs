//! Tells the machines whether anybody but the peer can be reached.
//!
//! Decides when silence counts: before the primary would give up its peer. Does not decide what follows. Invariant:
//! where nothing can be asked, nobody is reached.
#![allow(clippy::disallowed_methods, reason = "a shell: a thread")]

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::events::Event as Told;
use crate::node::Event;
use crate::sys::ping::Pinger;

use super::journal::Journal;
use super::volume::Volume;

/// Between two questions.
const EVERY: Duration = Duration::from_secs(1);

/// Asks the ping targets, if there are any, until the volumes are gone.
pub fn start(config: &Config, volumes: &[Arc<Volume>], journal: &Arc<Journal>) {
    let targets = config.cluster.ping.clone();
    if targets.is_empty() {
        return;
    }
    let silence = config.timing.slow_peer.as_duration() / 2;
    let volumes: Vec<Weak<Volume>> = volumes.iter().map(Arc::downgrade).collect();
    let journal = Arc::clone(journal);
    std::thread::spawn(move || {
        let mut pinger = Pinger::new(&targets)
            .inspect_err(|error| journal.tell(None, Told::Fault { text: format!("cannot ping: {error}") }))
            .ok();
        let mut answered: Option<Instant> = None;
        loop {
            let began = Instant::now();
            if pinger.as_mut().is_some_and(|pinger| pinger.any(EVERY)) {
                answered = Some(Instant::now());
            }
            let reaches = answered.is_some_and(|at| at.elapsed() < silence);
            let mut alive = false;
            for volume in volumes.iter().filter_map(Weak::upgrade) {
                alive = true;
                volume.mirror.deliver(Event::Reach(reaches));
            }
            if !alive {
                return;
            }
            std::thread::sleep(EVERY.saturating_sub(began.elapsed()));
        }
    });
}
