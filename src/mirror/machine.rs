//! What the mirror asks of the machine that decides.
//!
//! Decides nothing. Invariant: production has one machine, `node::Node`; whatever a test's machine leaves out harms no
//! test.

use crate::base::Moment;
use crate::node::{Action, Event, Node, Situation, View};
use crate::wire::Run;

/// The pure machine that the mirror obeys; `node::Node` in production.
pub trait Machine: Send {
    fn step(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>);
    /// When it wants `Event::Tick`.
    fn next_timeout(&self) -> Option<Moment>;
    /// Whether a reply with data may be given at this moment: serving, and the lease is valid.
    fn may_answer(&self, now: Moment) -> bool;
    /// What it shows of itself; a machine made for a test shows nothing.
    fn view(&self, now: Moment) -> Option<View> {
        let _ = now;
        None
    }
    /// Why it is as it is; likewise.
    fn situation(&self) -> Option<Situation> {
        None
    }

    /// Whether the peer on the link is a member of the same record: only then may its content replace a block of the
    /// un-flushed window of a crash. A copy that is behind, or diverged, has an older block with a good digest too.
    fn peer_is_member(&self) -> bool {
        true
    }

    /// Whether this node's locks keep both copies still: only then may they be compared.
    fn may_compare(&self) -> bool {
        true
    }

    /// Blocks in which this copy was changed alone; told before each `Event::LinkUp`.
    fn changed_alone(&mut self, blocks: u64) {
        let _ = blocks;
    }

    /// Where the log of the mounted filesystem is; told before each step.
    fn log_at(&mut self, log: Option<(u64, u64)>) {
        let _ = log;
    }

    /// Where this copy's own changes begin is stored, or it has none.
    fn log_is_noted(&self) -> bool {
        true
    }

    /// Its invariants; a machine made for a test has none.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
    /// Blocks that the peer may lack or still lose; a machine made for a test has none.
    fn in_doubt(&self) -> Vec<Run> {
        Vec::new()
    }
}

impl Machine for Node {
    fn changed_alone(&mut self, blocks: u64) {
        Node::changed_alone(self, blocks);
    }

    fn log_at(&mut self, log: Option<(u64, u64)>) {
        Node::log_at(self, log);
    }

    fn log_is_noted(&self) -> bool {
        Node::log_is_noted(self)
    }

    fn peer_is_member(&self) -> bool {
        Node::peer_is_member(self)
    }

    fn may_compare(&self) -> bool {
        Node::may_compare(self)
    }

    fn check(&self) -> Result<(), &'static str> {
        Node::check(self)
    }

    fn in_doubt(&self) -> Vec<Run> {
        Node::in_doubt(self)
    }

    fn step(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        Node::step(self, now, event, actions);
    }

    fn next_timeout(&self) -> Option<Moment> {
        Node::next_timeout(self)
    }

    fn may_answer(&self, now: Moment) -> bool {
        Node::may_answer(self, now)
    }

    fn view(&self, _: Moment) -> Option<View> {
        Some(Node::view(self))
    }

    fn situation(&self) -> Option<Situation> {
        Some(Node::situation(self))
    }
}
