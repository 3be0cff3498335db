//! What a node says about itself: state word, reason, deadline.
//!
//! Decides nothing; every state that waits has a reason.

use crate::base::Moment;
use crate::format::ResyncMark;
use crate::wire::Run;

use super::config::Arbitration;
use super::leave::GaveUp;
use super::machine::Node;
use super::talk::Phase;
use super::view::{Reason, View};

impl Node {
    /// What the peer may still lose of the present member session, as far as no flush has covered it. While copies
    /// are made equal the marks that ask for the copying cover it: the peer's own log among them.
    pub fn in_doubt(&self) -> Vec<Run> {
        if self.is_member() && self.detach.front.is_none() {
            self.outbox.doubt_of_session()
        } else {
            Vec::new()
        }
    }

    /// Both are members of one record and said so in this session, whether or not their copies are equal yet.
    pub fn peer_is_member(&self) -> bool {
        self.conv.as_ref().is_some_and(|conv| match &conv.phase {
            Phase::Member => true,
            Phase::Source(_) | Phase::Target(_) => conv.equalises(),
            _ => false,
        })
    }

    /// The node as it is now.
    pub fn view(&self) -> View {
        let lease = self.lease_from.map(|from| from + self.cfg.timing.lease());
        let facts = self.facts();
        View {
            role: facts.role(),
            state: facts.word(),
            since: self.since,
            reason: self.reason(),
            record: self.state.record,
            connected: self.link.is_some()
                && self.conv.as_ref().is_some_and(|conv| {
                    matches!(conv.phase, Phase::Member | Phase::Fronted | Phase::Source(_) | Phase::Target(_))
                }),
            peer_features: self
                .conv
                .as_ref()
                .and_then(|c| c.theirs.as_ref())
                .map_or(0, |theirs| theirs.features),
            peer_serving: self.peer_serving,
            serving: self.data_open(),
            front: self.detach.front.is_some(),
            frozen: facts.is_frozen(),
            lease_until: lease.filter(|_| self.needs_lease()),
            promise_until: self.promise_until,
            resync: self.resync_view(),
            resync_paused_until: self.resync_paused(),
            resync_limits: self.resync_limits(),
            blocks: self.cfg.blocks,
            growing: self.growing.is_some(),
            grow_failed: self.grow_note.clone(),
            verify: self.verify.as_ref().map(|looking| looking.run.progress()),
            operations: self.outbox.len(),
            witness_seen: self.witness_seen,
            fencing: self.fence_view(),
            failback: self.failback_view(),
            reaches_nobody: self.cfg.pings && !self.reaches,
            reach_since: self.cfg.pings.then_some(self.reach_since),
            verdict: self.state.apart.verdict,
            not_kept: self.not_kept_why(),
            held: self.hold,
            disconnected: self.disconnected,
            demoted: self.idle.is_some(),
        }
    }

    /// Whether a reply with data may be given at this moment: serving, not frozen, and the lease, if one is needed, is
    /// valid now. Asked after the data was taken.
    pub fn may_answer(&self, now: Moment) -> bool {
        let leased = || self.lease_from.is_some_and(|from| now < from + self.lease_span());
        self.data_open() && !self.frozen && (!self.needs_lease() || leased())
    }

    pub(super) fn note_word(&mut self) {
        let word = self.facts().word();
        if word != self.word {
            self.word = word;
            self.since = self.now;
        }
    }

    fn reason(&self) -> Reason {
        let text = |text: &str, until: Option<Moment>| Reason { text: text.to_string(), until };
        let t = &self.cfg.timing;
        if self.is_out_of_use() {
            let next = "take the disk out, or wipe it with `twinfs mkfs --force`; `twinfs mount --standalone` shows it";
            return text(&format!("{}: {next}", super::retire::OUT_OF_USE), None);
        }
        if let Some(why) = &self.failed {
            return self.failed_reason(why);
        }
        if let Some(words) = self.split_reason() {
            return text(&words, None);
        }
        let going_back = self.is_going_back().then_some("going back to the state before the resync");
        if let Some(words) = going_back.or(self.refused.map(|decision| decision.reason)) {
            return text(words, None);
        }
        if self.frozen {
            return text(
                "the lease lapsed: reads and writes wait for the peer or the arbiter",
                self.demote_at,
            );
        }
        if let Some(note) = self.witness_note {
            return text(note, Some(self.vote_retry_at));
        }
        if let Some((words, until)) = self.fence_reason() {
            return text(words, until);
        }
        if self.vote.is_some() {
            return text("waiting for the witness to answer", None);
        }
        if self.store.is_some() || self.marking.is_some() {
            return text("waiting for a record or marks to be stable", None);
        }
        if let Some(idle) = &self.idle {
            return text(idle, None);
        }
        match self.conv.as_ref().map(|conv| &conv.phase) {
            Some(Phase::Member) if self.handing.is_none() => text("both copies are equal and current", None),
            Some(Phase::Member) => text("the primary changes by agreement", None),
            Some(Phase::Fronted) => {
                text("the peer's disk failed: what still runs there works on this copy", None)
            }
            Some(Phase::Source(source)) if source.equal => {
                text("equalising both copies before serving", None)
            }
            Some(Phase::Source(_)) => match self.held_reason() {
                Some((why, until)) => text(&why, until),
                None => text("the peer is being brought up to date", None),
            },
            Some(Phase::Target(_)) => text("this copy is being brought up to date", None),
            Some(_) => text("comparing both copies", Some(self.progress_at + t.slow_peer)),
            None if self.sole() && self.resync_paused().is_some() => {
                self.held_reason().map_or_else(Reason::default, |(why, until)| text(&why, until))
            }
            None if self.sole() && self.gave_up == Some(GaveUp::DiskFailed) => {
                text("the peer's disk failed: this copy is the only good one", None)
            }
            None if self.sole() && self.gave_up == Some(GaveUp::Left) => {
                text("the peer was stopped or disconnected on purpose: its copy is out of date", None)
            }
            None if self.sole() && self.is_cut_off() && !self.data_open() => {
                text("no ping target answers, nor the peer: not served", None)
            }
            None if self.sole() => text("the peer's copy is out of date", None),
            None => self.reason_apart(),
        }
    }

    fn failed_reason(&self, why: &str) -> Reason {
        match &self.detach.front {
            Some(front) => {
                let text =
                    format!("{why}: what runs here works on the peer's copy while it is being stopped");
                Reason { text, until: Some(front.until) }
            }
            None => {
                let text = format!("stopped: {why}; repair or replace the disk, then restart");
                Reason { text, until: None }
            }
        }
    }

    fn fence_reason(&self) -> Option<(&'static str, Option<Moment>)> {
        let fencing = self.fence_view()?;
        Some(match fencing.retry_at {
            _ if fencing.leftover => ("an earlier request to stop the peer is being settled", None),
            None => ("waiting for a fence agent to say that the peer has stopped", None),
            until => (
                "no fence agent could stop the peer: they are tried again; only if you know that it has stopped: \
                 `twinfs fence-confirm`",
                until,
            ),
        })
    }

    fn reason_apart(&self) -> Reason {
        let t = &self.cfg.timing;
        let (words, until) = match self.cfg.arbitration {
            _ if self.state.record.is_none() => {
                ("this copy has never been in sync: waiting for the peer", None)
            }
            _ if self.state.resync != ResyncMark::None => (
                "half overwritten: waiting for the peer, or for `twinfs promote --peer-is-down --force`",
                None,
            ),
            _ if !self.both() => (
                "out of date by record: waiting for the peer, or for `twinfs promote --peer-is-down --force`",
                None,
            ),
            _ if self.hold => ("held by the operator", None),
            _ if self.lost_at.is_some() && self.data_open() => {
                ("the peer is gone: operations wait", self.lost_at.map(|at| at + t.slow_peer))
            }
            Arbitration::Manual if !self.is_primary() => {
                ("waiting for the peer, or for `twinfs promote --peer-is-down`", None)
            }
            Arbitration::Fence if !self.continuity => (
                "out of touch since this node started: waiting for the peer, or for `twinfs promote --peer-is-down`",
                None,
            ),
            Arbitration::Fence if !self.is_primary() => {
                ("the peer is silent: it is fenced then", Some(self.promise_until + t.fence_delay))
            }
            Arbitration::Deadtime if self.is_cut_off() => {
                ("no ping target answers, nor the peer: neither takes over nor serves alone", None)
            }
            Arbitration::Deadtime if !self.is_primary() && !self.confirmed => (
                "out of touch since this node started: waiting for the peer, or for `twinfs promote --peer-is-down`",
                None,
            ),
            Arbitration::Yield if self.is_primary() || !self.confirmed => {
                ("cut off: waiting for the peer, or for `twinfs promote --peer-is-down`", None)
            }
            _ if !self.confirmed && !self.passed(self.started, t.initdead) => {
                ("just started: waiting for the peer", Some(self.started + t.initdead))
            }
            _ if !self.confirmed && !self.info.file_agrees && self.cfg.arbitration != Arbitration::Fence => {
                ("the node state file does not agree with the image: waiting for the peer", None)
            }
            _ => ("the peer is silent", Some(self.promise_until)),
        };
        Reason { text: words.to_string(), until }
    }
}
