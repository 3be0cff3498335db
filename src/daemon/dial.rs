//! Node A dials its peer for data: one thread per volume, as long as the volume is up.
//!
//! Decides when to try again. Does not know what is said on a stream. Invariant: a peer that refuses, or whose streams
//! end at once, is tried again with growing pauses, so that a refusal costs neither the log nor the processor.
#![allow(clippy::disallowed_methods, reason = "a shell: a thread and its clock")]

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::base::NodeId;
use crate::events::Event as Told;
use crate::link::LinkError;

use super::peer;
use super::runtime::Running;
use super::volume::Volume;

/// A stream that stood so long was a good one.
const GOOD: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pause before the next try, after streams that ended at once.
fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// Starts the thread; on node B there is nothing to dial.
pub fn start(running: &Rc<Running>, volume: &Arc<Volume>) {
    if running.me != NodeId::A {
        return;
    }
    let (paths, links) = (Arc::clone(&running.paths), Arc::clone(&volume.links));
    let opening = running.opening(&volume.name, peer::CHANNEL_DATA);
    let (journal, name) = (Arc::clone(&running.journal), volume.name.clone());
    let (differs, refusals) = (Arc::clone(&running.config_differs), Arc::clone(&running.refusals));
    std::thread::spawn(move || {
        let mut last = String::new();
        let (mut pause, mut began) = (Duration::ZERO, None::<Instant>);
        while links.wait_until_needed(Duration::from_secs(3600)) {
            if let Some(began) = began.take() {
                pause = if began.elapsed() < GOOD { longer(pause) } else { Duration::ZERO };
                std::thread::sleep(pause);
            }
            match paths.connect(&opening) {
                Ok((_, connection)) => {
                    last.clear();
                    refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                    differs.store(false, Ordering::SeqCst);
                    began = Some(Instant::now());
                    links.attach(connection);
                    links.wait_until_up(Duration::from_secs(1));
                }
                Err(error) => {
                    let why = error.to_string();
                    let told = matches!(error, LinkError::Unreachable { .. } | LinkError::Timeout);
                    if why.contains("twinfs.toml differs") {
                        differs.store(true, Ordering::SeqCst);
                    }
                    if why != last && !told {
                        refusals
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(name.clone(), why.clone());
                        journal.tell(Some(&name), Told::PeerRefused { peer: NodeId::B, reason: why.clone() });
                    }
                    last = why;
                    let next = paths.next_attempt();
                    let wait = next.map(|at| at.saturating_duration_since(Instant::now()));
                    std::thread::sleep(wait.unwrap_or_default().max(PAUSE_MIN));
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_end_at_once_are_tried_less_and_less_often() {
        let mut pauses = vec![Duration::ZERO];
        for _ in 0..8 {
            pauses.push(longer(pauses[pauses.len() - 1]));
        }
        assert_eq!(pauses[1], PAUSE_MIN);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[8], PAUSE_MAX);
    }
}
