//! Questions to the other end of a path, and how long their answers take.
//!
//! Decides which answer counts and how often a question is answered. Does not know sockets or keys. Invariants: of
//! bounded size; an answer counts once, and only to a question of this process.

use std::collections::VecDeque;

use crate::base::{Moment, Span};

use super::recent::Recent;

/// Questions that may still be answered.
const ASKED_MAX: usize = 8;
/// Between two answers to the peer: whatever repeats its questions gets no flood out of it.
const ANSWER_EVERY: Span = Span::from_millis(100);

/// The round trips of one path.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    asked: VecDeque<(u128, Moment)>,
    pub sent: u64,
    pub answered: u64,
    /// When the last answer came.
    pub answered_at: Option<Moment>,
    /// Smoothed over about eight.
    pub mean: Option<Span>,
    pub least: Option<Span>,
    pub most: Option<Span>,
    recent: Recent,
    replied_at: Option<Moment>,
}

impl Probes {
    /// A question leaves at `now`. One that has waited too long for its answer is given up.
    pub fn ask(&mut self, now: Moment, nonce: u128) {
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
            self.recent.add(now, 0, 1);
        }
        self.asked.push_back((nonce, now));
        self.sent += 1;
    }

    /// An authentic answer; `false`: to no question that is open.
    pub fn answer(&mut self, now: Moment, nonce: u128) -> bool {
        let Some(at) = self.asked.iter().position(|(asked, _)| *asked == nonce) else { return false };
        let Some((_, sent)) = self.asked.remove(at) else { return false };
        // Those before it will hardly come any more: paths seldom reorder whole seconds.
        for _ in 0..at {
            self.asked.pop_front();
            self.recent.add(now, 0, 1);
        }
        let took = now.since(sent);
        self.answered += 1;
        self.answered_at = Some(now);
        self.recent.add(now, 1, 0);
        self.mean = Some(self.mean.map_or(took, |mean| Span((mean.0 / 8).saturating_mul(7) + took.0 / 8)));
        self.least = Some(self.least.map_or(took, |least| least.min(took)));
        self.most = Some(self.most.map_or(took, |most| most.max(took)));
        true
    }

    /// Whether a question of the peer is answered now.
    pub fn may_reply(&mut self, now: Moment) -> bool {
        let may = self.replied_at.is_none_or(|at| now.since(at) >= ANSWER_EVERY);
        if may {
            self.replied_at = Some(now);
        }
        may
    }

    /// Answered and unanswered lately.
    pub fn lately(&self, now: Moment) -> (u64, u64) {
        self.recent.sum(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(0) + Span::from_millis(ms)
    }

    #[test]
    fn an_answer_counts_once_and_only_to_an_open_question() {
        let mut probes = Probes::default();
        probes.ask(at(0), 7);
        assert!(!probes.answer(at(1), 8), "never asked");
        assert!(probes.answer(at(3), 7));
        assert!(!probes.answer(at(4), 7), "a second time");
        assert_eq!((probes.sent, probes.answered), (1, 1));
        assert_eq!((probes.least, probes.mean), (Some(Span::from_millis(3)), Some(Span::from_millis(3))));
        probes.ask(at(10), 9);
        assert!(probes.answer(at(91), 9));
        let (least, mean, most) = (probes.least.unwrap(), probes.mean.unwrap(), probes.most.unwrap());
        assert!(least < mean && mean < most && most == Span::from_millis(81), "{least} {mean} {most}");
    }

    #[test]
    fn what_nobody_answers_is_counted_and_forgotten() {
        let mut probes = Probes::default();
        for n in 0..1_000 {
            probes.ask(at(n * 100), u128::from(n));
        }
        assert_eq!(probes.asked.len(), ASKED_MAX);
        assert_eq!(probes.lately(at(100_000)), (0, 1_000 - ASKED_MAX as u64));
        assert!(!probes.answer(at(100_000), 1), "far too late");
        assert!(probes.answer(at(100_000), 999));
        assert_eq!(probes.lately(at(100_000)), (1, 999));
    }

    #[test]
    fn a_flood_of_questions_is_not_answered() {
        let mut probes = Probes::default();
        let replies = (0..1_000).filter(|ms| probes.may_reply(at(*ms))).count();
        assert_eq!(replies, 10);
    }
}
