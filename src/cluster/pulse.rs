//! Heartbeats: which ones count, what they echo, and the lease that follows.
//!
//! Decides freshness: boot epoch, nonce echo, a window of 64 sequence numbers over all paths. Does not know what
//! the lease is used for. Invariant: a lease is counted from the *sending* of a heartbeat that claimed it and that
//! the peer accepted; what was sent while releasing gives none, nor does a claim made before, whenever it comes back.

use std::collections::VecDeque;

use crate::base::Moment;
use crate::wire::Heartbeat;

/// Sent heartbeats that can still come back.
const SENT_MAX: usize = 1024;

/// What to think of a received heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Old, repeated, or from an earlier start of the peer.
    Stale,
    /// From a peer that has not seen this process yet: no promise, no lease.
    Introduced,
    /// Counts as receipt. `newest`: no later one was received before.
    Accepted { newest: bool, lease_from: Option<Moment> },
}

#[derive(Clone, Debug)]
struct Peer {
    nonce: u128,
    boot_epoch: u64,
    highest: u64,
    /// Bit n: `highest - n` was received.
    seen: u64,
    /// Highest that was accepted: echoed.
    accepted: u64,
}

#[derive(Clone, Debug)]
pub struct Pulse {
    nonce: u128,
    seq: u64,
    /// Claims that may still come back.
    sent: VecDeque<(u64, Moment)>,
    peer: Option<Peer>,
    /// Heartbeats of earlier starts of the peer are refused.
    epoch_floor: u64,
}

impl Pulse {
    pub fn new(nonce: u128, epoch_floor: u64) -> Pulse {
        Pulse { nonce, seq: 0, sent: VecDeque::new(), peer: None, epoch_floor }
    }

    /// Fills in sequence number, nonces and echo. `claims`: the sender wants a lease from this one; `echoes`: the
    /// sender follows, and its promise stands behind the echo.
    pub fn send(&mut self, now: Moment, claims: bool, echoes: bool, heartbeat: &mut Heartbeat) {
        self.seq += 1;
        if claims {
            self.sent.push_back((self.seq, now));
        } else {
            // The peer's promise ends with this one, whatever it promised for earlier ones.
            self.sent.clear();
        }
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
        heartbeat.seq = self.seq;
        heartbeat.released = !claims;
        heartbeat.nonce = self.nonce;
        heartbeat.nonce_echo = self.peer.as_ref().map_or(0, |peer| peer.nonce);
        heartbeat.echo_seq = self.peer.as_ref().filter(|_| echoes).map_or(0, |peer| peer.accepted);
    }

    /// The peer has a new disk, which counts its starts anew: from `boot_epoch` on.
    pub fn meet(&mut self, boot_epoch: u64) {
        self.epoch_floor = boot_epoch;
        self.peer = self.peer.take().filter(|peer| peer.boot_epoch == boot_epoch);
    }

    pub fn hear(&mut self, heartbeat: &Heartbeat) -> Heard {
        let known = self.peer.as_ref().map_or(self.epoch_floor, |peer| peer.boot_epoch);
        if heartbeat.boot_epoch < known.max(self.epoch_floor) {
            return Heard::Stale;
        }
        let new_start = self
            .peer
            .as_ref()
            .is_none_or(|peer| heartbeat.boot_epoch > peer.boot_epoch || peer.nonce != heartbeat.nonce);
        if new_start {
            if self.peer.as_ref().is_some_and(|peer| peer.boot_epoch == heartbeat.boot_epoch) {
                return Heard::Stale;
            }
            let (nonce, boot_epoch) = (heartbeat.nonce, heartbeat.boot_epoch);
            self.peer = Some(Peer { nonce, boot_epoch, highest: 0, seen: 0, accepted: 0 });
        }
        let mine = self.nonce;
        let Some(peer) = self.peer.as_mut() else { return Heard::Stale };
        if !peer.take(heartbeat.seq) {
            return Heard::Stale;
        }
        if heartbeat.nonce_echo != mine {
            return Heard::Introduced;
        }
        let newest = heartbeat.seq > peer.accepted;
        peer.accepted = peer.accepted.max(heartbeat.seq);
        let lease_from = self.sent.iter().find(|(seq, _)| *seq == heartbeat.echo_seq).map(|(_, at)| *at);
        Heard::Accepted { newest, lease_from }
    }

    /// The peer's current start, if heard.
    pub fn peer_epoch(&self) -> Option<u64> {
        self.peer.as_ref().map(|peer| peer.boot_epoch)
    }
}

impl Peer {
    /// Replay window of 64: true once per number.
    fn take(&mut self, seq: u64) -> bool {
        if seq > self.highest {
            let shift = seq - self.highest;
            self.seen = if shift >= 64 { 0 } else { self.seen << shift };
            self.seen |= 1;
            self.highest = seq;
            return true;
        }
        let back = self.highest - seq;
        if seq == 0 || back >= 64 || self.seen & (1 << back) != 0 {
            return false;
        }
        self.seen |= 1 << back;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Generation, NodeId, VolumeId};

    fn blank(from: NodeId) -> Heartbeat {
        Heartbeat {
            volume: VolumeId(1),
            from,
            boot_epoch: 1,
            seq: 0,
            record: None,
            head: Generation(1),
            serving: false,
            released: false,
            nonce: 0,
            nonce_echo: 0,
            echo_seq: 0,
        }
    }

    fn beat(pulse: &mut Pulse, at: u64, claims: bool) -> Heartbeat {
        let mut heartbeat = blank(NodeId::A);
        pulse.send(Moment(at), claims, true, &mut heartbeat);
        heartbeat
    }

    #[test]
    fn the_lease_counts_from_the_send_time_and_only_of_claims() {
        let (mut a, mut b) = (Pulse::new(1, 0), Pulse::new(2, 0));
        assert_eq!(b.hear(&beat(&mut a, 10, true)), Heard::Introduced);
        assert_eq!(a.hear(&beat(&mut b, 11, true)), Heard::Accepted { newest: true, lease_from: None });
        assert!(matches!(b.hear(&beat(&mut a, 20, false)), Heard::Accepted { .. }));
        assert_eq!(a.hear(&beat(&mut b, 21, true)), Heard::Accepted { newest: true, lease_from: None });
        b.hear(&beat(&mut a, 30, true));
        let echo = beat(&mut b, 35, true);
        assert_eq!(a.hear(&echo), Heard::Accepted { newest: true, lease_from: Some(Moment(30)) });
        assert_eq!(a.hear(&echo), Heard::Stale, "a replayed heartbeat counted");
    }

    #[test]
    fn a_claim_from_before_a_release_gives_no_lease_after_it() {
        let (mut a, mut b) = (Pulse::new(1, 0), Pulse::new(2, 0));
        b.hear(&beat(&mut a, 10, true));
        a.hear(&beat(&mut b, 11, true));
        b.hear(&beat(&mut a, 20, true));
        let echo = beat(&mut b, 21, true);
        let released = beat(&mut a, 30, false);
        assert!(released.released);
        assert_eq!(a.hear(&echo), Heard::Accepted { newest: true, lease_from: None });
    }

    #[test]
    fn a_restarted_receiver_counts_nothing_that_was_meant_for_its_predecessor() {
        let (mut a, mut b) = (Pulse::new(1, 0), Pulse::new(2, 0));
        b.hear(&beat(&mut a, 1, true));
        a.hear(&beat(&mut b, 1, true));
        let old = beat(&mut a, 2, true);
        let mut again = Pulse::new(3, 0);
        assert_eq!(again.hear(&old), Heard::Introduced);
    }

    #[test]
    fn late_packets_count_once_within_the_window_and_earlier_starts_never() {
        let mut b = Pulse::new(2, 5);
        let from =
            |boot_epoch, seq| Heartbeat { boot_epoch, seq, nonce: 9, nonce_echo: 2, ..blank(NodeId::A) };
        assert_eq!(b.hear(&from(4, 1)), Heard::Stale);
        assert!(matches!(b.hear(&from(5, 100)), Heard::Accepted { newest: true, .. }));
        assert!(matches!(b.hear(&from(5, 60)), Heard::Accepted { newest: false, .. }));
        assert_eq!(b.hear(&from(5, 60)), Heard::Stale);
        assert_eq!(b.hear(&from(5, 36)), Heard::Stale);
        let restarted = Heartbeat { nonce: 10, ..from(6, 1) };
        assert!(matches!(b.hear(&restarted), Heard::Accepted { .. }));
        assert_eq!(b.hear(&from(5, 101)), Heard::Stale);
    }
}
