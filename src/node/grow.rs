//! Growing the volume: the peer's image first, then this one, then what uses it.
//!
//! Decides the order. Does not know how an image grows. Invariants: nothing is written behind the old end before both
//! images are known to reach behind it; whoever finds its image the smaller one, after a crash in between, makes it as
//! large as the peer's before anything is copied or served together.

use crate::resync::Decision;
use crate::wire::{Message, Session, feature};

use super::action::{Action, Notice, Order};
use super::event::Token;
use super::machine::Node;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// This node's medium is made long enough.
    Preparing,
    /// The peer's image grows.
    Peer,
    /// This node's image grows, by order of the operator.
    Here,
    /// This node's image grows to the size of the peer's.
    Following,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Growing {
    token: Token,
    blocks: u64,
    stage: Stage,
}

impl Node {
    /// The operator wants so many blocks.
    pub(super) fn grow(&mut self, blocks: u64, out: &mut Vec<Action>) {
        let refused = match () {
            () if self.growing.is_some() => Some("it is growing already"),
            () if blocks <= self.cfg.blocks => {
                Some("a volume never becomes smaller, and it is as large already")
            }
            () if !self.is_member() => Some("both copies must be in sync: the peer's image has to grow too"),
            () if !self.is_primary() || !self.data_open() => Some("only the primary can have it grown"),
            () if !self.peer_can(feature::GROW) => {
                Some("the peer's version of twinfs cannot grow: upgrade it")
            }
            () => None,
        };
        if let Some(why) = refused {
            return self.grow_failed(why, out);
        }
        self.grow_note = None;
        self.grow_image(blocks, Stage::Preparing, out);
    }

    fn grow_image(&mut self, blocks: u64, stage: Stage, out: &mut Vec<Action>) {
        let token = self.token();
        self.growing = Some(Growing { token, blocks, stage });
        out.push(Action::Grow { token, blocks, prepare: stage == Stage::Preparing });
    }

    fn grow_failed(&mut self, why: &str, out: &mut Vec<Action>) {
        self.growing = None;
        // What is tried again and again is told once.
        if self.grow_note.as_deref() != Some(why) {
            self.grow_note = Some(why.to_string());
            out.push(Order::Tell(Notice::GrowFailed { text: why.to_string() }).into());
        }
    }

    /// The image is (or can be made) so large.
    pub(super) fn grown(&mut self, token: Token, out: &mut Vec<Action>) {
        let Some(growing) = self.growing.filter(|growing| growing.token == token) else { return };
        let session = self.conv.as_ref().map(|conv| conv.id).filter(|_| self.is_member());
        let blocks = growing.blocks;
        match (growing.stage, self.link.zip(session)) {
            (Stage::Peer, _) => {}
            (Stage::Preparing, None) => {
                self.grow_failed("the peer went away before its image had grown", out)
            }
            (Stage::Preparing, Some((link, session))) => {
                self.growing = Some(Growing { stage: Stage::Peer, ..growing });
                out.push(Action::Send { link, message: Message::Grow { session, blocks } });
            }
            (stage @ (Stage::Here | Stage::Following), open) => {
                self.growing = None;
                self.grow_note = None;
                self.cfg.blocks = blocks;
                out.push(Order::Tell(Notice::Grown { blocks }).into());
                out.push(Order::Grown.into());
                match open.filter(|_| stage == Stage::Following) {
                    Some((link, session)) => {
                        out.push(Action::Send { link, message: Message::Grown { session, blocks } });
                    }
                    // Compare again, with what is true now.
                    None if stage == Stage::Following => self.close_link(out),
                    None => {}
                }
            }
        }
    }

    pub(super) fn could_not_grow(&mut self, token: Token, text: &str, out: &mut Vec<Action>) {
        let Some(growing) = self.growing.filter(|growing| growing.token == token) else { return };
        self.grow_failed(text, out);
        let session = self.conv.as_ref().map(|conv| conv.id).filter(|_| self.is_member());
        if let (Stage::Following, Some((link, session))) = (growing.stage, self.link.zip(session)) {
            out.push(Action::Send { link, message: Message::Grown { session, blocks: 0 } });
        }
    }

    /// The primary wants this image to grow before its own.
    pub(super) fn asked_to_grow(&mut self, session: Session, blocks: u64, out: &mut Vec<Action>) {
        let Some(link) = self.link else { return };
        if self.growing.is_some() || !self.is_member() || self.is_primary() || blocks < self.cfg.blocks {
            out.push(Action::Send { link, message: Message::Grown { session, blocks: 0 } });
        } else {
            self.grow_image(blocks, Stage::Following, out);
        }
    }

    /// The peer's image has so many blocks now; 0: it could not grow.
    pub(super) fn peer_grown(&mut self, blocks: u64, out: &mut Vec<Action>) {
        let Some(growing) = self.growing.filter(|growing| growing.stage == Stage::Peer) else { return };
        if blocks == growing.blocks {
            self.grow_image(blocks, Stage::Here, out);
        } else {
            self.grow_failed("the peer's image could not grow: its events say why", out);
        }
    }

    /// The session ended.
    pub(super) fn grow_lost(&mut self, out: &mut Vec<Action>) {
        if self.growing.is_some_and(|growing| growing.stage == Stage::Peer) {
            self.grow_failed("the peer went away while its image grew", out);
        }
    }

    /// The images have different sizes: this one grows if it is the smaller one.
    pub(super) fn catch_up_in_size(&mut self, decision: Decision, theirs: u64, out: &mut Vec<Action>) {
        if decision.row == crate::resync::SIZES_DIFFER && theirs > self.cfg.blocks && self.growing.is_none() {
            self.grow_image(theirs, Stage::Following, out);
        }
    }
}
