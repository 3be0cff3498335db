//! The volume goes back to the node that it belongs to.
//!
//! Decides when that node asks for it. Does not know the time of the day: the shell says whether the window is open.
//! Invariants: only a node in sync asks; it asks once an hour at most, over restarts and changes of the primary,
//! because each try is stable outside the image before it is made; what a person moved away or holds stays away.

use serde::{Deserialize, Serialize};

use crate::base::{Moment, NodeId, Span};

use super::action::{Action, Notice, Order};
use super::config::NodeConfig;
use super::event::Token;
use super::machine::Node;

/// Between two tries.
pub const FAILBACK_PAUSE: Span = Span::from_secs(3600);

/// Where a volume belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failback {
    pub to: NodeId,
    /// Only while `Event::Window(true)` is in force; nothing said is closed.
    pub windowed: bool,
}

/// Since the last try, by what was noted of it and what the clock shows now, both in milliseconds since 1970: a note
/// that cannot be read (`Some(None)`), or of the future, is one of just now. `None`: there never was one.
pub fn failback_ago(noted: Option<Option<u64>>, now_unix_ms: u64) -> Option<Span> {
    let noted = noted?.unwrap_or(u64::MAX);
    Some(Span::from_millis(now_unix_ms.saturating_sub(noted)))
}

/// Why the volume does not go back now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stay {
    /// It belongs to no node, or is there.
    Home,
    /// It belongs to the peer, which decides it.
    Theirs,
    Held,
    /// Stopped, or its disk failed.
    Stopped,
    OutOfSync,
    /// No ping target answers here.
    ReachesNobody,
    /// Handed over by this node, as asked for.
    MovedAway,
    /// The window is closed.
    Closed,
    /// In sync for too short a time, or tried within the hour.
    TooSoon,
    /// The try is being noted.
    Noting,
}

impl Stay {
    /// In the words of the status.
    pub fn text(self) -> &'static str {
        match self {
            Stay::Home => "the volume is where it belongs",
            Stay::Theirs => "the node that it belongs to decides",
            Stay::Held => "this node is held",
            Stay::Stopped => "this node is stopped",
            Stay::OutOfSync => "both copies have to be in sync",
            Stay::ReachesNobody => "no ping target answers the node that it belongs to",
            Stay::MovedAway => "it was moved away on purpose",
            Stay::Closed => "the window is closed",
            Stay::TooSoon => "it was in sync for too short a time, or went back within the hour",
            Stay::Noting => "about to be asked for",
        }
    }
}

/// What is known of the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HomingFacts {
    /// In sync for long enough from here on.
    pub settled_at: Moment,
    /// No further try before.
    pub rest_until: Moment,
    /// A try is being noted.
    pub noting: bool,
    /// The window is open.
    pub open: bool,
    /// This node handed it over in this life and did not get it back.
    pub moved: bool,
}

/// The same, as the machine keeps it.
#[derive(Clone, Debug)]
pub(super) struct Homing {
    settled_at: Moment,
    rest_until: Moment,
    noting: Option<Token>,
    open: bool,
    moved: bool,
}

/// When the volume goes back, for status and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailbackView {
    pub to: NodeId,
    pub stay: Stay,
    /// Not before, as far as that is known here.
    pub not_before: Option<Moment>,
}

impl Homing {
    pub(super) fn new(cfg: &NodeConfig, ago: Option<Span>, now: Moment) -> Homing {
        let rest =
            ago.filter(|_| !cfg.mutations.forget_failback).map_or(Span::ZERO, |ago| FAILBACK_PAUSE - ago);
        let settled_at = now + cfg.timing.failback_delay;
        Homing { settled_at, rest_until: now + rest, noting: None, open: false, moved: false }
    }

    pub(super) fn facts(&self) -> HomingFacts {
        let Homing { settled_at, rest_until, open, moved, .. } = *self;
        HomingFacts { settled_at, rest_until, noting: self.noting.is_some(), open, moved }
    }
}

impl Node {
    /// A member session stands: from here on this node is in sync.
    pub(super) fn failback_settles(&mut self) {
        self.homing.settled_at = self.after(self.cfg.timing.failback_delay);
    }

    pub(super) fn failback_window(&mut self, open: bool) {
        self.homing.open = open;
        // What was moved away goes home with the next window.
        let windowed = self.cfg.failback.is_some_and(|failback| failback.windowed);
        self.homing.moved &= open || !windowed;
    }

    /// This node gave it to the peer.
    pub(super) fn failback_moved(&mut self) {
        self.homing.moved = true;
    }

    pub(super) fn failback(&mut self, out: &mut Vec<Action>) {
        if self.is_primary() {
            self.homing.moved = false;
            return;
        }
        if self.cfg.failback.is_none() {
            return;
        }
        if self.facts().stays().is_none() {
            self.homing.rest_until = self.after(FAILBACK_PAUSE);
            let token = self.token();
            self.homing.noting = Some(token);
            out.push(Order::NoteFailback { token }.into());
        }
    }

    /// The try is stable where the next start finds it, or cannot be made so: then it is none.
    pub(super) fn failback_noted(&mut self, token: Token, noted: bool, out: &mut Vec<Action>) {
        if self.homing.noting.take_if(|noting| *noting == token).is_none() || !noted {
            return;
        }
        if self.facts().homeward().is_ok() {
            out.push(Order::Tell(Notice::FailbackAsked).into());
            self.ask_handover(out);
        }
    }

    pub(super) fn failback_view(&self) -> Option<FailbackView> {
        let to = self.cfg.failback?.to;
        let stay = self.facts().stays().unwrap_or(Stay::Noting);
        let homing = &self.homing;
        let settled = if self.is_member() { homing.settled_at } else { homing.rest_until };
        let not_before = homing.rest_until.max(settled);
        let not_before =
            (to == self.me() && !self.is_primary() && not_before > self.now).then_some(not_before);
        Some(FailbackView { to, stay, not_before })
    }
}
