//! A mount that a predecessor of this process left: nothing is answered on it before the right to serve is there anew.
//!
//! The kernel still answers programs from what it has cached, so the peer is not told that this node let go
//! (`released`) before the mount has ended; and the lease that the predecessor had goes on to count, because the peer
//! gave it to the node and nobody took it back. Decides when the mount is given up. Does not know how it is kept.
//! Invariants: it becomes served only through `raise`, by the rules of any start; it is given up no later than the
//! predecessor would have stopped serving if it had lost its peer, and at once when the record names somebody else.

use crate::base::{Moment, Span};

use super::action::Action;
use super::machine::{Node, Serve};

/// For a node that needs no lease: programs do not wait longer for a right that does not come.
const KEPT_MAX: Span = Span::from_secs(60);

impl Node {
    /// Begins with a mount that is kept; `lease_from`: from when the predecessor's lease counts. Before the first step.
    pub fn keep_mount(&mut self, lease_from: Option<Moment>) {
        self.serve = Serve::Kept;
        // Whoever has a mount had seen the end of that.
        self.detach.fronted = false;
        self.lease_from = lease_from.filter(|from| *from <= self.now);
    }

    /// When the mount is given up if it is not served by then.
    pub(super) fn kept_until(&self) -> Option<Moment> {
        if self.serve != Serve::Kept {
            return None;
        }
        let longest = self.started + KEPT_MAX;
        if !self.needs_lease() {
            return Some(longest);
        }
        let t = &self.cfg.timing;
        let until = self.lease_from.map(|from| from + self.lease_span() + t.release);
        Some(until.unwrap_or(self.now).min(longest))
    }

    /// Gives the mount up when its time is over, or when another node is primary.
    pub(super) fn kept_step(&mut self, out: &mut Vec<Action>) {
        let Some(until) = self.kept_until() else { return };
        let member = self.members().is_some_and(|members| members.contains(self.me()));
        if self.now >= until || !member || !self.is_primary() || self.failed.is_some() || self.idle.is_some()
        {
            self.drop_forced(out);
        }
    }
}
