//! What is worth calling the program of `[notify]` for.
//!
//! Decides from successive looks at one volume, and from what its machine says of this node between them. Does not
//! know programs, threads or names of nodes. Invariants: what lasts is told once, and again only after the volume was
//! in sync in between; a planned change of the primary is no takeover; a record that was missed while this node was
//! down is told once it is seen; a takeover by this node is told however shortly before it had handed the volume over.

use crate::base::{Members, Moment, NodeId, Record, Span};
use crate::node::StateWord;

/// Less than any deadtime: whoever talked so lately was not taken over and made current again meanwhile.
const MOMENT: Span = Span::from_millis(900);

/// The words that the program gets, in the order of twinfs.toml(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Takeover,
    Divergence,
    Degraded,
    DiskFailure,
}

impl Word {
    pub const ALL: [Word; 4] = [Word::Takeover, Word::Divergence, Word::Degraded, Word::DiskFailure];

    pub fn as_str(self) -> &'static str {
        match self {
            Word::Takeover => "takeover",
            Word::Divergence => "divergence",
            Word::Degraded => "degraded",
            Word::DiskFailure => "disk-failure",
        }
    }
}

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// `to` became primary without having been handed the volume.
    Takeover {
        to: NodeId,
        v: u64,
    },
    Diverged,
    /// For so long.
    Degraded {
        state: StateWord,
        span: Span,
    },
}

/// One volume, as it was seen last.
#[derive(Clone, Debug)]
pub struct Watch {
    degraded_after: Span,
    record: Option<Record>,
    /// The last look that found it talking to its peer.
    talked: Option<Moment>,
    /// Without a current second copy, and without getting on, since then.
    degraded_since: Option<Moment>,
    told_degraded: bool,
    told_diverged: bool,
    told_disk: bool,
}

impl Watch {
    /// `record` is the one that this node knew before it talked to anybody.
    pub fn new(record: Option<Record>, degraded_after: Span) -> Watch {
        Watch {
            degraded_after,
            record,
            talked: None,
            degraded_since: None,
            told_degraded: false,
            told_diverged: false,
            told_disk: false,
        }
    }

    /// Looks at `now`.
    pub fn look(&mut self, now: Moment, record: Option<Record>, state: StateWord) -> Vec<News> {
        let mut news: Vec<News> = self.takeover(now, record).into_iter().collect();
        if matches!(state, StateWord::InSync | StateWord::CatchingUp) {
            self.talked = Some(now);
        }
        if state == StateWord::InSync {
            (self.told_degraded, self.told_diverged, self.told_disk) = (false, false, false);
        }
        if state == StateWord::Diverged && !self.told_diverged {
            self.told_diverged = true;
            news.push(News::Diverged);
        }
        match state {
            StateWord::Alone | StateWord::Behind | StateWord::Joining => {
                let span = now.since(*self.degraded_since.get_or_insert(now));
                if span >= self.degraded_after && !self.told_degraded {
                    self.told_degraded = true;
                    news.push(News::Degraded { state, span });
                }
            }
            StateWord::InSync | StateWord::CatchingUp | StateWord::Diverged => self.degraded_since = None,
        }
        news
    }

    /// Whether a failed disk, here or at the peer, is news.
    pub fn disk_failed(&mut self) -> bool {
        !std::mem::replace(&mut self.told_disk, true)
    }

    /// This node handed the volume to `to`.
    pub fn handed_over(&mut self, to: NodeId) {
        if let Some(record) = &mut self.record {
            record.primary = to;
        }
    }

    /// Node `me` serves by a record of its own, at or before `v`. Between two looks it may have handed the volume over
    /// and lost its peer, which the record alone does not show.
    pub fn went_alone(&mut self, me: NodeId, v: u64) -> Option<News> {
        self.record.filter(|old| old.v < v && old.primary != me)?;
        self.record = Some(Record { v, members: Members::only(me), primary: me });
        Some(News::Takeover { to: me, v })
    }

    fn takeover(&mut self, now: Moment, record: Option<Record>) -> Option<News> {
        let new = record?;
        let old = self.record.replace(new)?;
        // A hand-over is one step between two members. Several at once lie between two looks at a pair that talks: in
        // sync, and handed over. Otherwise whoever missed a step was not there to be asked.
        let talks = self.talked.is_some_and(|at| now.since(at) <= MOMENT);
        let planned = new.members == Members::BOTH && (new.v == old.v + 1 || talks);
        let moved = new.v > old.v && new.primary != old.primary;
        (moved && !planned).then_some(News::Takeover { to: new.primary, v: new.v })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StateWord::{Alone, Behind, CatchingUp, Diverged, InSync, Joining};

    fn at(seconds: u64) -> Moment {
        Moment(0) + Span::from_secs(seconds)
    }

    fn record(v: u64, members: Members, primary: NodeId) -> Option<Record> {
        Some(Record { v, members, primary })
    }

    #[test]
    fn a_takeover_is_told_on_both_nodes_and_a_planned_change_on_none() {
        let (a, b) = (NodeId::A, NodeId::B);
        let (both, only) = (Members::BOTH, Members::only(b));
        let before = record(4, both, a);
        let table = [
            ("the node that took over", before, record(5, only, b), true),
            ("the one that was dead meanwhile", before, record(6, both, b), true),
            ("handed over", before, record(5, both, b), false),
            ("went on alone", before, record(5, Members::only(a), a), false),
            ("unchanged", before, before, false),
            ("a first record", None, record(1, both, b), false),
            ("an older one is no news", record(7, both, a), record(6, both, b), false),
        ];
        for (what, old, new, told) in table {
            let mut watch = Watch::new(old, Span::from_secs(600));
            let news = watch.look(at(1), new, CatchingUp);
            assert_eq!(!news.is_empty(), told, "{what}: {news:?}");
            assert_eq!(watch.look(at(2), new, CatchingUp), [], "{what}: told twice");
        }
        // In sync and handed over between two looks.
        let mut watch = Watch::new(record(3, Members::only(a), a), Span::from_secs(600));
        assert_eq!(watch.look(at(1), record(3, Members::only(a), a), CatchingUp), []);
        assert_eq!(watch.look(at(1) + Span::from_millis(200), record(5, both, b), InSync), []);
        // Stopped in sync, taken over, and current again before the next look.
        let mut watch = Watch::new(before, Span::from_secs(600));
        assert_eq!(watch.look(at(1), before, InSync), []);
        assert_eq!(watch.look(at(9), record(6, both, b), InSync).len(), 1);
        let mut watch = Watch::new(before, Span::from_secs(600));
        assert_eq!(watch.look(at(0), None, Joining), []);
        let told = [News::Takeover { to: b, v: 5 }];
        assert_eq!(watch.look(at(1), record(5, only, b), Joining), told, "nothing seen is no record");
    }

    #[test]
    fn a_takeover_right_after_a_hand_over_is_told_once_whoever_sees_it_first() {
        let (a, b) = (NodeId::A, NodeId::B);
        let both = Members::BOTH;
        let told = [News::Takeover { to: b, v: 5 }];
        // Handed to beta, back to alpha, alpha killed: beta looked before and after.
        let mut watch = Watch::new(record(3, both, b), Span::from_secs(600));
        watch.handed_over(a);
        assert_eq!(watch.went_alone(b, 5).as_slice(), told);
        assert_eq!(watch.look(at(1), record(5, Members::only(b), b), Alone), []);
        assert_eq!(watch.look(at(2), record(6, both, b), InSync), []);
        // The look came first.
        let mut watch = Watch::new(record(4, both, a), Span::from_secs(600));
        assert_eq!(watch.look(at(1), record(5, Members::only(b), b), Alone), told);
        assert_eq!(watch.went_alone(b, 5), None);
        // It was primary by record before it started again without its peer.
        let mut watch = Watch::new(record(4, both, b), Span::from_secs(600));
        assert_eq!(watch.went_alone(b, 5), None);
        // Handed over and seen so: planned.
        let mut watch = Watch::new(record(3, both, b), Span::from_secs(600));
        watch.handed_over(a);
        assert_eq!(watch.look(at(1), record(4, both, a), InSync), []);
        // The first record of all.
        assert_eq!(Watch::new(None, Span::from_secs(600)).went_alone(b, 1), None);
    }

    #[test]
    fn a_lack_of_the_second_copy_is_told_once_it_lasts_and_once_until_it_is_mended() {
        let mut watch = Watch::new(None, Span::from_secs(600));
        let mut told = Vec::new();
        let mut look = |second: u64, state| {
            for news in watch.look(at(second), None, state) {
                told.push((second, news));
            }
        };
        look(0, InSync);
        look(10, Alone);
        look(500, Behind);
        look(609, Alone);
        look(610, Alone);
        look(5_000, Alone);
        // Getting on, and lost again: that is the same trouble.
        look(5_001, CatchingUp);
        look(5_002, Alone);
        look(9_000, Alone);
        look(9_001, InSync);
        look(9_002, Joining);
        look(9_601, Joining);
        look(9_602, Joining);
        // A copy that gets on for hours is not told.
        look(10_000, InSync);
        look(10_001, CatchingUp);
        look(99_000, CatchingUp);
        let span = Span::from_secs(600);
        let want =
            [(610, News::Degraded { state: Alone, span }), (9_602, News::Degraded { state: Joining, span })];
        assert_eq!(told, want);
    }

    #[test]
    fn divergence_and_a_failed_disk_are_told_once_until_the_pair_was_whole() {
        let mut watch = Watch::new(None, Span::from_secs(600));
        assert_eq!(watch.look(at(1), None, Diverged), [News::Diverged]);
        assert!(watch.disk_failed() && !watch.disk_failed());
        assert_eq!(watch.look(at(2), None, Joining), []);
        assert_eq!(watch.look(at(3), None, Diverged), [], "each new contact finds the same");
        assert_eq!(watch.look(at(4), None, InSync), []);
        assert_eq!(watch.look(at(5), None, Diverged), [News::Diverged]);
        assert!(watch.disk_failed());
    }
}
