//! The receiving end: which operation comes next, what is still being applied, what may be reported done.
//!
//! Does not know whether this node may receive at all. Invariant: an operation is reported done only with all
//! earlier ones.

use std::collections::{BTreeMap, BTreeSet};

use crate::wire::{Seq, Session};

#[derive(Clone, Debug, Default)]
pub struct Inbox {
    session: Option<Session>,
    /// Last accepted.
    last: Seq,
    /// Accepted, not reported: done or not.
    open: BTreeMap<Seq, bool>,
    /// Still being applied although their session is over: no new session before they are finished.
    old: BTreeSet<(Session, Seq)>,
}

impl Inbox {
    /// A new session: its stream starts at 1.
    pub fn start(&mut self, session: Session) {
        self.end();
        self.session = Some(session);
    }

    /// The session is over; what is being applied goes on.
    pub fn end(&mut self) {
        if let Some(session) = self.session.take() {
            let open = std::mem::take(&mut self.open);
            self.old.extend(open.into_iter().filter(|(_, done)| !done).map(|(seq, _)| (session, seq)));
        }
        self.last = Seq(0);
    }

    /// Nothing of an earlier session is still being applied.
    pub fn drained(&self) -> bool {
        self.old.is_empty()
    }

    /// Takes the next operation; `false` = not the session or not the next number. `unchecked` is a mutation.
    pub fn accept(&mut self, session: Session, seq: Seq, unchecked: bool) -> bool {
        let next = self.session == Some(session) && seq.0 == self.last.0 + 1;
        if !next && !unchecked {
            return false;
        }
        self.last = seq;
        self.open.insert(seq, false);
        true
    }

    /// One is done; returns the new "done up to" if that grew.
    pub fn applied(&mut self, session: Session, seq: Seq) -> Option<Seq> {
        if self.session != Some(session) {
            self.old.remove(&(session, seq));
            return None;
        }
        *self.open.get_mut(&seq)? = true;
        let mut upto = None;
        while let Some((first, true)) = self.open.first_key_value().map(|(s, done)| (*s, *done)) {
            self.open.remove(&first);
            upto = Some(first);
        }
        upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_number_of_the_session_is_accepted_and_done_has_no_gaps() {
        let mut inbox = Inbox::default();
        let s = Session(7);
        inbox.start(s);
        assert!(!inbox.accept(Session(6), Seq(1), false) && !inbox.accept(s, Seq(2), false));
        assert!(inbox.accept(s, Seq(1), false) && inbox.accept(s, Seq(2), false));
        assert!(!inbox.accept(s, Seq(2), false), "a repeated number was accepted");
        assert_eq!(inbox.applied(s, Seq(2)), None);
        assert_eq!(inbox.applied(s, Seq(1)), Some(Seq(2)));
    }

    #[test]
    fn a_new_session_waits_for_what_is_still_being_applied() {
        let mut inbox = Inbox::default();
        inbox.start(Session(7));
        assert!(inbox.accept(Session(7), Seq(1), false));
        inbox.end();
        assert!(!inbox.drained());
        assert_eq!(inbox.applied(Session(7), Seq(1)), None);
        assert!(inbox.drained());
    }
}
