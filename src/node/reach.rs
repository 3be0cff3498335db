//! Whether anybody but the peer can be reached, where nothing better than silence decides (`deadtime`).
//!
//! Decides who steps back. Does not know what is pinged. Invariants: a node that reaches nobody neither goes on alone
//! nor serves alone; that makes two primaries rarer and never impossible, because both may reach somebody.

use super::action::{Action, Notice, Order};
use super::config::Arbitration;
use super::machine::{Node, Serve};

impl Node {
    /// This node is cut off from everybody, as far as pings tell.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cfg.arbitration == Arbitration::Deadtime && self.cfg.pings && !self.reaches
    }

    /// Cut off, or not for a deadtime yet: the link to the peer may be the next thing that comes back.
    pub(super) fn was_cut_off(&self) -> bool {
        let pings = self.cfg.arbitration == Arbitration::Deadtime && self.cfg.pings;
        pings && !(self.reaches && self.passed(self.reach_since, self.cfg.timing.deadtime))
    }

    pub(super) fn reach(&mut self, reaches: bool) {
        if reaches != self.reaches {
            self.reaches = reaches;
            self.reach_since = self.now;
        }
    }

    /// A primary that serves without its peer and reaches nobody for a deadtime stops: whoever its users reach may
    /// have become primary.
    pub(super) fn reach_step(&mut self, out: &mut Vec<Action>) {
        let long = self.passed(self.reach_since, self.cfg.timing.deadtime);
        let serves = matches!(self.serve, Serve::Up | Serve::Raising);
        if serves && self.is_cut_off() && long && self.conv.is_none() {
            out.push(Order::Tell(Notice::ReachesNobody).into());
            self.drop_forced(out);
        }
    }
}
