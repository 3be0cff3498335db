//! A verify run beside everything else: when it may look, when it is over.
//!
//! Decides nothing about blocks. Invariants: copies are compared only in a member session and by the primary, whose
//! locks keep both still; nothing is looked at while a copy is being overwritten.

use crate::base::ExtentNo;
use crate::format::ResyncMark;
use crate::resync::{Finding, Task, Verify, VerifyProgress};

use super::action::{Action, Notice, Order, VerifyEnd};
use super::event::Token;
use super::machine::Node;
use super::talk::Phase;
use crate::wire::feature;

/// A run and the look that is under way.
#[derive(Clone, Debug)]
pub(super) struct Looking {
    pub run: Verify,
    token: Token,
}

impl Node {
    pub(super) fn verify_start(&mut self, from: VerifyProgress, out: &mut Vec<Action>) {
        if self.verify.is_some() {
            return;
        }
        let total = self.cfg.blocks.div_ceil(ExtentNo::BLOCKS);
        let looking = Looking { run: Verify::new(from, total, self.now), token: Token(0) };
        out.push(Order::NoteVerify { progress: looking.run.progress(), end: None }.into());
        self.verify = Some(looking);
    }

    pub(super) fn verify_end(&mut self, end: VerifyEnd, out: &mut Vec<Action>) {
        let Some(looking) = self.verify.take() else { return };
        let progress = looking.run.progress();
        out.push(Order::NoteVerify { progress, end: Some(end) }.into());
        out.push(Order::Tell(Notice::Verified { progress, end }).into());
    }

    /// Both copies hold still under the locks of this node.
    pub fn may_compare(&self) -> bool {
        self.is_member() && self.is_primary() && self.data_open() && self.failed.is_none()
    }

    fn may_look(&self, task: Task) -> bool {
        if !task.local {
            return self.may_compare() && self.handing.is_none();
        }
        let copying =
            matches!(self.conv.as_ref().map(|conv| &conv.phase), Some(Phase::Source(_) | Phase::Target(_)));
        self.failed.is_none() && !copying && self.state.resync == ResyncMark::None
    }

    pub(super) fn verify_step(&mut self, out: &mut Vec<Action>) {
        let Some(task) = self.verify.as_ref().map(|looking| looking.run.progress().task) else { return };
        if !task.local && self.is_member() && !self.is_primary() {
            return self.verify_end(VerifyEnd::Moved, out);
        }
        if !task.local && self.may_compare() && !self.peer_can(feature::VERIFY) {
            return self.verify_end(VerifyEnd::Unable, out);
        }
        let (may, now) = (self.may_look(task), self.now);
        let token = self.token();
        let Some(looking) = self.verify.as_mut() else { return };
        if !may {
            looking.run.lose();
            return;
        }
        if let Some(from) = looking.run.want(now) {
            looking.token = token;
            out.push(Action::Look { token, task, from });
        }
        if looking.run.is_over() {
            self.verify_end(VerifyEnd::Finished, out);
        }
    }

    pub(super) fn looked(
        &mut self,
        token: Token,
        upto: ExtentNo,
        blocks: u64,
        findings: &[Finding],
        out: &mut Vec<Action>,
    ) {
        let (now, busy) = (self.now, self.outbox.take_worked());
        let Some(looking) = self.verify.as_mut().filter(|looking| looking.token == token) else { return };
        looking.run.looked(upto, blocks, findings, busy, now);
        if looking.run.is_note_due(now) {
            out.push(Order::NoteVerify { progress: looking.run.progress(), end: None }.into());
        }
    }
}
