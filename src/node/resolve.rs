//! Ending a split brain: what a person or the policy of both configurations decided is carried out.
//!
//! Decides the order on each side: store the decision; the losing side stops and has its copy put aside; the winning
//! side takes a generation and a record above both; then the losing side follows as the target of a resync. Does not
//! know how a copy is put aside, nor which files it holds. Invariants: neither side acts before both have stored the
//! same decision; no byte of the losing copy changes before it is put aside, stable; a copy that serves again by a
//! person's word is put aside once more; two different decisions move nothing.

use crate::base::{Generation, Members, NodeId, Record};
use crate::format::{Apart, GenEntry, GenReason, Since, State, Verdict};
use crate::resync::{self, Decision, Plan, Ruling, holds, next_number, ruling};
use crate::wire::{CopyKind, Hello, Message, SplitNote, feature};

use super::action::{Action, Notice, Order};
use super::event::Token;
use super::machine::{After, Node, Serve};
use super::talk::Phase;

/// What both sides of a split said to each other in this session.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    first: SplitNote,
    said: SplitNote,
    first_heard: Option<SplitNote>,
    heard: Option<SplitNote>,
}

/// The losing copy is being put aside, or was, or could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    Running(Token),
    /// To be stored: since so many seconds after 1970.
    Done(u64),
    Failed(String),
}

/// This node as a side of a split. A copy in the middle of a resync is none any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub keeping: Option<Keeping>,
    /// Blocks that this copy was changed in alone; told by whoever has the image.
    pub changed: Option<u64>,
    /// Of the filesystem that is mounted here: the first record of its log that may not be on every member, and the
    /// first inode that is not.
    pub log: Option<(u64, u64)>,
}

impl Node {
    /// Both nodes wrote on their own: they tell each other about it, if both can.
    pub(super) fn found_split(&mut self, out: &mut Vec<Action>) {
        if !self.decided_split() {
            out.push(Order::Tell(Notice::SplitBrain).into());
        }
        if self.is_crowned() && self.decided_split() {
            self.split = false;
        } else {
            self.note_split(true, out);
        }
        if !self.peer_can(feature::RESOLVE) {
            return;
        }
        let first = self.split_note(0);
        self.say_note(first, out);
        if let Some(conv) = self.conv.as_mut() {
            conv.notes = Some(Notes { first, said: first, first_heard: None, heard: None });
        }
    }

    /// Whether a stored decision is about the two copies that met.
    fn decided_split(&self) -> bool {
        let hellos = self.conv.as_ref().and_then(|conv| Some((&conv.mine, conv.theirs.as_deref()?)));
        self.state.apart.verdict.zip(hellos).is_some_and(|(verdict, (mine, theirs))| {
            holds(&verdict, (mine, mine.head()), (theirs, theirs.head()))
        })
    }

    /// This side of a split was chosen, and its copy is above the other one since.
    pub(super) fn is_crowned(&self) -> bool {
        self.state.apart.verdict.is_some_and(|verdict| verdict.winner == self.me() && verdict.done > 0)
    }

    fn split_note(&self, turn: u32) -> SplitNote {
        SplitNote {
            turn,
            policy: self.cfg.after_split,
            head: self.state.head(),
            led: self.state.apart.led,
            serving: self.serve != Serve::Down,
            changed: self.side.changed.filter(|_| !self.state.full),
            verdict: self.state.apart.verdict,
        }
    }

    fn say_note(&self, note: SplitNote, out: &mut Vec<Action>) {
        if let Some((link, conv)) = self.link.zip(self.conv.as_ref()) {
            let message = Message::Split { session: conv.id, note: Box::new(note) };
            out.push(Action::Send { link, message });
        }
    }

    /// The peer told how its side is.
    pub(super) fn heard_note(&mut self, note: SplitNote) {
        if let Some(notes) = self.conv.as_mut().and_then(|conv| conv.notes.as_mut()) {
            notes.first_heard.get_or_insert(note);
            notes.heard = Some(note);
        }
    }

    /// The ruling on what was said so far, and the peer's newest note.
    fn ruled(&self) -> Option<(Ruling, SplitNote)> {
        let conv = self.conv.as_ref().filter(|conv| matches!(conv.phase, Phase::Resting))?;
        let notes = conv.notes.as_ref()?;
        let (first_heard, heard) = notes.first_heard.as_ref().zip(notes.heard.as_ref())?;
        let mine = resync::Side { hello: &conv.mine, first: &notes.first, note: &notes.said };
        let theirs = resync::Side { hello: conv.theirs.as_deref()?, first: first_heard, note: heard };
        Some((ruling(&mine, &theirs), *heard))
    }

    /// A person chose: this node stores it, the peer hears of it.
    pub(super) fn keep_side(&mut self, winner: NodeId, out: &mut Vec<Action>) {
        let refuse = |text: &str, out: &mut Vec<Action>| {
            out.push(Order::Tell(Notice::Fault { text: text.to_string() }).into());
        };
        let Some((ruled, heard)) = self.ruled() else {
            return refuse("no split brain can be ended now: the peer has to be there, and to know how", out);
        };
        let again = matches!(ruled, Ruling::Decided(verdict) if verdict.winner == winner);
        let failed = matches!(self.side.keeping, Some(Keeping::Failed(_)));
        if failed {
            self.side.keeping = None;
        }
        // Said once more it makes the losing side try once more, if it has not succeeded.
        if again && (failed || winner != self.me() || heard.verdict.is_some_and(|verdict| verdict.done > 0)) {
            return;
        }
        if self.store.is_some() {
            return refuse("something else is being stored at this moment: say it again", out);
        }
        let (mine, theirs) = (self.state.head(), heard.head);
        let number = next_number(&self.state.apart.verdict, &heard.verdict);
        let heads = if self.me() == NodeId::A { [mine, theirs] } else { [theirs, mine] };
        let done = u64::from(again && self.is_crowned());
        self.store_verdict(Verdict { number, winner, heads, done }, out);
    }

    fn store_verdict(&mut self, verdict: Verdict, out: &mut Vec<Action>) {
        self.side.keeping = None;
        // Until it is carried out this copy is one of two.
        let diverged = verdict.done == 0;
        self.split |= diverged;
        let apart = Apart { verdict: Some(verdict), ..self.state.apart };
        out.push(Order::Tell(Notice::SplitDecided { keep: verdict.winner }).into());
        self.put(State { apart, diverged, ..self.state.clone() }, After::Nothing, out);
    }

    /// The next thing this side can do about a split.
    pub(super) fn resolve_step(&mut self, out: &mut Vec<Action>) {
        if self.store.is_some() || self.failed.is_some() || self.is_going_back() {
            return;
        }
        if let Some(Keeping::Done(at)) = self.side.keeping {
            return self.store_kept(at, out);
        }
        self.say_again(out);
        let Some((Ruling::Decided(verdict), heard)) = self.ruled() else { return };
        if !self.state.apart.verdict.is_some_and(|known| known.is(&verdict)) {
            return self.store_verdict(verdict, out);
        }
        let Some(theirs) = heard.verdict.filter(|theirs| theirs.is(&verdict)) else { return };
        if verdict.winner == self.me() {
            self.win(theirs, &heard, out);
        } else {
            self.give_way(theirs, &heard, out);
        }
    }

    /// Tells the peer what is another way now than it was said.
    fn say_again(&mut self, out: &mut Vec<Action>) {
        let resting = self.conv.as_ref().filter(|conv| matches!(conv.phase, Phase::Resting));
        let Some(said) = resting.and_then(|conv| conv.notes.as_ref()).map(|notes| notes.said) else { return };
        let now = self.split_note(said.turn);
        if now == said {
            return;
        }
        let note = SplitNote { turn: said.turn.saturating_add(1), ..now };
        self.say_note(note, out);
        if let Some(notes) = self.conv.as_mut().and_then(|conv| conv.notes.as_mut()) {
            notes.said = note;
        }
    }

    /// Of the side that is kept: above the other one first, then its source.
    fn win(&mut self, theirs: Verdict, heard: &SplitNote, out: &mut Vec<Action>) {
        if heard.serving || self.marking.is_some() {
            return;
        }
        if !self.is_crowned() {
            return self.crown(out);
        }
        self.split = false;
        if theirs.done > 0 {
            self.settle(self.me(), self.state.head());
            let kind = self.settled_kind();
            self.start_source(false, kind, out);
            out.push(Order::Tell(Notice::SplitEnds { keep: self.me() }).into());
        }
    }

    /// From here on this copy is the volume, whatever number the other one's record had; the witness can be told so.
    fn crown(&mut self, out: &mut Vec<Action>) {
        let Some(mine) = self.state.record else { return };
        let Some(mut verdict) = self.state.apart.verdict else { return };
        let seen = self.conv.as_ref().and_then(|conv| conv.theirs.as_ref()).and_then(|theirs| theirs.record);
        let v =
            [Some(mine), seen, self.peer_record].iter().flatten().map(|record| record.v).max().unwrap_or(0)
                + 1;
        let id = Generation(self.draw());
        let reason = GenReason::WentBack;
        let mut gens = self.state.gens.clone();
        gens.push(GenEntry { id, minted_by: self.me(), at_v: v, reason, first_txn: 0 });
        let surplus = gens.len().saturating_sub(crate::base::limits::GENERATIONS_MAX);
        gens.drain(..surplus);
        verdict.done = 1;
        let record = Some(Record { v, members: Members::only(self.me()), primary: self.me() });
        let apart = Apart { verdict: Some(verdict), ..self.state.apart };
        self.in_step = false;
        self.put(State { record, gens, apart, diverged: false, ..self.state.clone() }, After::Nothing, out);
    }

    /// Of the side that gives way: stopped first, then put aside, then the target.
    fn give_way(&mut self, theirs: Verdict, heard: &SplitNote, out: &mut Vec<Action>) {
        self.split = true;
        if self.serve != Serve::Down {
            return self.drop_gracefully(out);
        }
        let done = self.state.apart.verdict.map_or(0, |verdict| verdict.done);
        if self.marking.is_some() || !self.outbox.is_empty() {
            return;
        }
        let skip = self.cfg.mutations.resolve_unkept;
        match (&self.side.keeping, done) {
            (None, 0) if !skip => {
                let token = self.token();
                self.side.keeping = Some(Keeping::Running(token));
                out.push(Action::Keep { token });
            }
            (None, _) if theirs.done > 0 => {
                self.settle(self.me().other(), heard.head);
                self.split = false;
                self.start_target(false, heard.head, out);
                out.push(Order::Tell(Notice::SplitEnds { keep: self.me().other() }).into());
            }
            _ => {}
        }
    }

    /// The comparison had no answer; there is one now.
    fn settle(&mut self, source: NodeId, of: Generation) {
        let kind = self.settled_kind();
        if let Some(conv) = self.conv.as_mut() {
            let plan = Plan::Resync { source, kind, stop_first: false };
            let reason = "the split was decided: the other copy follows";
            conv.decision = conv.decision.map(|decision| Decision { plan, reason, ..decision });
            conv.settled = Some(of);
        }
    }

    /// By bits if both bitmaps count from where the copies parted.
    fn settled_kind(&self) -> CopyKind {
        let Some(conv) = self.conv.as_ref() else { return CopyKind::Compare };
        let fork = match conv.decision.map(|decision| decision.plan) {
            Some(Plan::SplitBrain { fork }) => fork,
            Some(Plan::Resync { kind, .. }) => return kind,
            _ => return CopyKind::Compare,
        };
        let counts = |hello: &Hello| !hello.full && hello.bitmap_base == fork;
        let both = counts(&conv.mine) && conv.theirs.as_deref().is_some_and(counts);
        if both { CopyKind::Bits } else { CopyKind::Compare }
    }

    /// The copy is put aside, stable.
    pub(super) fn kept(&mut self, token: Token, at: u64) {
        if self.side.keeping == Some(Keeping::Running(token)) {
            self.side.keeping = Some(Keeping::Done(at.max(1)));
        }
    }

    /// It is not; nothing is overwritten.
    pub(super) fn not_kept(&mut self, token: Token, text: String, out: &mut Vec<Action>) {
        if self.side.keeping == Some(Keeping::Running(token)) {
            out.push(Order::Tell(Notice::NotKept { text: text.clone() }).into());
            self.side.keeping = Some(Keeping::Failed(text));
        }
    }

    fn store_kept(&mut self, at: u64, out: &mut Vec<Action>) {
        self.side.keeping = None;
        let Some(verdict) = self.state.apart.verdict.filter(|verdict| verdict.winner != self.me()) else {
            return;
        };
        out.push(Order::Tell(Notice::Kept { at }).into());
        let apart = Apart { verdict: Some(Verdict { done: at, ..verdict }), ..self.state.apart };
        self.put(State { apart, ..self.state.clone() }, After::Nothing, out);
    }

    /// A copy that went on alone is mounted for the first time: where its own changes begin is stored before there are
    /// any.
    pub(super) fn log_step(&mut self, out: &mut Vec<Action>) {
        let Some((txn, ino)) = self.side.log.filter(|_| self.state.apart.since == Since::Untouched) else {
            return;
        };
        if self.store.is_none() && self.failed.is_none() {
            let apart = Apart { since: Since::From { txn, ino }, ..self.state.apart };
            self.put(State { apart, ..self.state.clone() }, After::Nothing, out);
        }
    }

    /// Whether it is known, stable, where this copy's own changes begin, or that it has none.
    pub fn log_is_noted(&self) -> bool {
        self.store.is_none() && self.state.apart.since != Since::Untouched
    }

    /// A side that was to give way serves by a person's word: what was put aside is not all of it any more. True: that
    /// has to be stable first.
    pub(super) fn serves_on(&mut self, out: &mut Vec<Action>) -> bool {
        if self.state.apart.verdict.is_none_or(|verdict| verdict.winner == self.me()) {
            return false;
        }
        self.side.keeping = None;
        let apart = Apart { verdict: None, ..self.state.apart };
        self.put(State { apart, ..self.state.clone() }, After::Nothing, out);
        true
    }

    pub(super) fn not_kept_why(&self) -> Option<String> {
        match &self.side.keeping {
            Some(Keeping::Failed(why)) => Some(why.clone()),
            _ => None,
        }
    }

    /// What is under way about a split, in words.
    pub(super) fn split_reason(&self) -> Option<String> {
        if let Some(Keeping::Failed(why)) = &self.side.keeping {
            return Some(format!(
                "this copy is to give way, but could not be put aside ({why}): it stays as it is"
            ));
        }
        if matches!(self.side.keeping, Some(Keeping::Running(_))) {
            return Some("this copy is being put aside before it follows the peer's".to_string());
        }
        if let Some(verdict) = self.state.apart.verdict.filter(|_| self.split || self.state.diverged) {
            let ruled = self.ruled();
            let what = match (ruled, verdict.winner == self.me()) {
                (Some((Ruling::Conflict, _)), _) => {
                    "the nodes were told to keep different copies: say \"twinfs resolve --keep\" once more"
                }
                (_, true) => "the split was decided for this copy: waiting for the peer to give way",
                (_, false) => "the split was decided for the peer's copy: waiting for the peer",
            };
            return Some(what.to_string());
        }
        match self.ruled() {
            Some((Ruling::Open(why), _)) if self.cfg.after_split != crate::base::AfterSplit::Manual => {
                Some(format!("both nodes wrote on their own, and {why}"))
            }
            _ if self.split && self.conv.is_none() && !self.data_open() => Some(
                "both nodes wrote on their own, and this one restarted since: `twinfs promote --peer-is-down` lets \
                 this side serve"
                    .to_string(),
            ),
            _ if self.split => {
                Some("both nodes wrote on their own; nothing is copied until one side is chosen".to_string())
            }
            _ => None,
        }
    }
}
