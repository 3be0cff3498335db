//! Leaves a path that swallows the replication stream while another one still carries heartbeats.
//!
//! Decides when a stream is stuck: something is on its way and nothing has been acknowledged for `STUCK`. Does not know
//! what the stream carries, nor who is primary. Invariants: a stream is left only while the peer is heard on another
//! path, so a dead peer and a full cut stay what the machines make of them; an idle stream, and a slow one whose
//! acknowledgements arrive, is never left; what ends is the stream that was looked at, never the one that took its
//! place. Only one node dials, so the other one asks it to, over the other path.
#![allow(clippy::disallowed_methods, reason = "a shell: time")]

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::{Moment, NodeId, Span};
use crate::events::Event as Told;
use crate::link::Paths;
use crate::node::LinkId;
use crate::sys::clock;
use crate::sys::tcp::Progress;

use super::peer;
use super::runtime::Running;
use super::volume::Volume;

/// Silence that makes a stream stuck: more than two retransmissions of a segment on a local network (RTO 200 ms), and
/// little enough that a write waits less than a second in all.
const STUCK: Duration = Duration::from_millis(400);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// One stream, as far as it was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Stall {
    /// Something has been on its way since then, without an acknowledgement.
    since: Option<Instant>,
}

impl Stall {
    /// Whether the stream is stuck at `now`.
    fn look(&mut self, now: Instant, progress: Progress) -> bool {
        if progress.unacked == 0 {
            self.since = None;
            return false;
        }
        let since = self.since.unwrap_or(now);
        let since = now.checked_sub(progress.last_ack).map_or(since, |acked| acked.max(since));
        self.since = Some(since);
        now.duration_since(since) >= STUCK
    }
}

/// Whether a path other than `index` carried a heartbeat lately.
fn heard_elsewhere(heard: &[Option<Moment>], index: usize, now: Moment, keepalive: Span) -> bool {
    let lately = keepalive + keepalive + Span::from_millis(100);
    let fresh = |at: &Option<Moment>| at.is_some_and(|at| now.since(at) <= lately);
    heard.iter().enumerate().any(|(n, at)| n != index && fresh(at))
}

/// The path to `peer`: by its whole address where this node dialled, else by the machine's.
pub fn path_of(addresses: &[SocketAddr], peer: SocketAddr) -> Option<usize> {
    let whole = addresses.iter().position(|address| *address == peer);
    whole.or_else(|| addresses.iter().position(|address| address.ip() == peer.ip()))
}

/// Looks at every stream for ever.
pub async fn watch(running: Rc<Running>) {
    let addresses = running.config.node(running.me.other()).addresses.clone();
    if addresses.len() < 2 {
        return;
    }
    let mut stalls = vec![Stall::default(); running.volumes().len()];
    loop {
        tokio::time::sleep(LOOK).await;
        let heard: Vec<_> = running.pulse.book().paths.iter().map(|path| path.flow.heard).collect();
        for (volume, stall) in running.volumes().iter().zip(&mut stalls) {
            let Some((stream, peer, progress)) = volume.links.progress() else {
                *stall = Stall::default();
                continue;
            };
            let Some(index) = path_of(&addresses, peer) else { continue };
            if stall.look(Instant::now(), progress)
                && heard_elsewhere(&heard, index, clock::now(), running.config.timing.keepalive)
            {
                *stall = Stall::default();
                leave(&running, volume, stream, (index, addresses[index]));
            }
        }
    }
}

fn leave(running: &Running, volume: &Arc<Volume>, stream: LinkId, (index, remote): (usize, SocketAddr)) {
    let path = u32::try_from(index).unwrap_or(u32::MAX);
    running.journal.tell(Some(&volume.name), Told::PathLeft { path, remote: remote.to_string() });
    running.paths.leave(index);
    volume.links.close(stream);
    if running.me == NodeId::B {
        let (paths, opening) =
            (Arc::clone(&running.paths), running.opening(&volume.name, peer::CHANNEL_TALK));
        // If the peer does not get this, it sees the stream stuck as well, or a heartbeat missing.
        std::thread::spawn(move || peer::ask_redial(&paths, opening, index));
    }
}

/// The peer says that the stream of `volume` is stuck on path `stuck`: it ends here as well, and its path is left. The
/// word comes over a connection of its own, so it may find the stream that was made instead: that one stays.
pub fn redial(paths: &Paths, addresses: &[SocketAddr], volume: &Volume, stuck: usize) {
    paths.leave(stuck);
    if let Some((stream, peer, _)) = volume.links.progress()
        && path_of(addresses, peer) == Some(stuck)
    {
        volume.links.close(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn on_its_way(last_ack: Duration) -> Progress {
        Progress { unacked: 3, last_ack }
    }

    #[test]
    fn a_stream_is_stuck_only_when_something_waits_and_nothing_comes_back() {
        let start = Instant::now() + 3600 * 1000 * MS;
        let mut stall = Stall::default();
        // Idle for an hour, then something is sent: the hour does not count.
        assert!(!stall.look(start, Progress { unacked: 0, last_ack: 1_000_000 * MS }));
        assert!(!stall.look(start + 100 * MS, on_its_way(1_000_100 * MS)));
        assert!(!stall.look(start + 400 * MS, on_its_way(1_000_400 * MS)));
        assert!(stall.look(start + 500 * MS, on_its_way(1_000_500 * MS)));
        // Slow, but it moves.
        let mut stall = Stall::default();
        for look in 0..50 {
            let back = if look % 3 == 0 { 10 * MS } else { 110 * MS };
            assert!(!stall.look(start + look * 100 * MS, on_its_way(back)), "look {look}");
        }
    }

    #[test]
    fn only_another_path_that_is_heard_makes_leaving_worth_it() {
        let (now, keepalive) = (Moment(0) + Span::from_secs(100), Span::from_millis(500));
        let ago = |ms: u64| Some(Moment(0) + Span::from_millis(100_000 - ms));
        assert!(heard_elsewhere(&[None, ago(900)], 0, now, keepalive));
        assert!(!heard_elsewhere(&[ago(10), ago(1200)], 0, now, keepalive));
        assert!(!heard_elsewhere(&[ago(10), None], 0, now, keepalive));
    }

    #[test]
    fn the_path_of_a_stream_is_known_at_both_ends() {
        let addresses = ["10.0.0.1:8790", "10.0.1.1:8790"].map(|a| a.parse().unwrap());
        assert_eq!(path_of(&addresses, "10.0.1.1:8790".parse().unwrap()), Some(1));
        assert_eq!(path_of(&addresses, "10.0.1.1:50000".parse().unwrap()), Some(1));
        assert_eq!(path_of(&addresses, "10.0.2.1:8790".parse().unwrap()), None);
    }
}
