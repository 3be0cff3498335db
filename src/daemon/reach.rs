//! Moves a volume away from a node that its users cannot reach: the ping targets answer the peer, and not this node.
//!
//! Decides when a primary asks for a planned change because of that. Does not know what is pinged, nor who may serve:
//! it is an ordinary switchover, with everything that may refuse it. Invariants: nothing moves unless the peer says
//! that it reaches somebody, so a tie moves nothing; nor for a node that never reached anybody, where a target is more
//! likely to be wrong than a cable; nor while an order to hold is in force.
#![allow(clippy::disallowed_methods, reason = "a shell: time")]

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::{Moment, Span};
use crate::events::Event as Told;
use crate::node::View;
use crate::sys::clock;

use super::peer;
use super::protocol::Verdict;
use super::roles;
use super::runtime::{Running, can_hand_over};
use super::volume::Volume;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// The peer has reached somebody for so many deadtimes: two nodes whose cables are both loose do not play ping-pong.
const STEADY: u64 = 3;
/// Between two tries, whatever became of the first.
const AGAIN: Duration = Duration::from_secs(60);

/// What the ping targets tell about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One answers, since then.
    Somebody(Moment),
    /// None answers, since then.
    Nobody(Moment),
}

impl Reach {
    /// As the machine was told; `None`: there are no targets.
    pub fn of(view: &View) -> Option<Reach> {
        let since = view.reach_since?;
        Some(if view.reaches_nobody { Reach::Nobody(since) } else { Reach::Somebody(since) })
    }

    /// Nobody for a deadtime: shorter silence is a packet that was lost.
    fn is_lost(self, now: Moment, deadtime: Span) -> bool {
        matches!(self, Reach::Nobody(since) if now.since(since) >= deadtime)
    }

    /// Somebody, and for long enough to move there.
    pub fn is_steady(self, now: Moment, deadtime: Span) -> bool {
        let enough = Span(deadtime.0.saturating_mul(STEADY));
        matches!(self, Reach::Somebody(since) if now.since(since) >= enough)
    }
}

/// Looks for ever.
pub async fn watch(running: Rc<Running>) {
    if running.config.cluster.ping.is_empty() {
        return;
    }
    let mut reached_ever = false;
    let mut tried: Vec<Option<Instant>> = vec![None; running.volumes().len()];
    loop {
        tokio::time::sleep(LOOK).await;
        for (volume, tried) in running.volumes().iter().zip(&mut tried) {
            let Some(reach) = volume.view().as_ref().and_then(Reach::of) else { continue };
            reached_ever |= matches!(reach, Reach::Somebody(_));
            let rests = tried.is_some_and(|at| at.elapsed() < AGAIN);
            if !reached_ever || rests || !should_move(&running, volume) {
                continue;
            }
            if peer_is_steady(&running, volume).await {
                leave(&running, volume).await;
                *tried = Some(Instant::now());
            }
        }
    }
}

fn should_move(running: &Running, volume: &Volume) -> bool {
    let lost = volume.view().as_ref().and_then(Reach::of);
    let lost = lost.is_some_and(|reach| reach.is_lost(clock::now(), running.config.timing.deadtime));
    lost && can_hand_over(volume) && !volume.node_file.is_held()
}

async fn peer_is_steady(running: &Running, volume: &Volume) -> bool {
    let (paths, opening) = (Arc::clone(&running.paths), running.opening(&volume.name, peer::CHANNEL_TALK));
    let asked = tokio::task::spawn_blocking(move || peer::ask_reach(&paths, opening));
    matches!(asked.await, Ok(Ok(true)))
}

async fn leave(running: &Running, volume: &Arc<Volume>) {
    // The question took its time.
    if !should_move(running, volume) {
        return;
    }
    let to = running.me.other();
    running.journal.tell(Some(&volume.name), Told::ReachesLess { to });
    let reply = roles::switchover(running, Arc::clone(volume)).await;
    if reply.verdict != Verdict::Done {
        running.journal.tell(Some(&volume.name), Told::Fault { text: reply.text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Span = Span::from_secs(10);

    fn at(seconds: u64) -> Moment {
        Moment(Span::from_secs(seconds).0)
    }

    #[test]
    fn a_short_silence_moves_nothing_and_only_a_steady_peer_is_moved_to() {
        let nobody = Reach::Nobody(at(100));
        assert!(!nobody.is_lost(at(109), DEAD) && nobody.is_lost(at(110), DEAD));
        assert!(!nobody.is_steady(at(1000), DEAD));
        let somebody = Reach::Somebody(at(100));
        assert!(!somebody.is_lost(at(1000), DEAD));
        assert!(!somebody.is_steady(at(129), DEAD) && somebody.is_steady(at(130), DEAD));
    }
}
