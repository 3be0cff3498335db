//! Which service is started, stopped or looked at next: a pure state machine over service numbers.
//!
//! Decides order (as listed; reverse for stopping), what a death costs (one restart, then a switchover, then a report)
//! and when to look again. Does not know processes, clocks or what a service is called.
//!
//! Invariants: at most one command is in hand at any time; nothing is started while the wish is *down*; every service
//! that may be running is stopped, the last started first; a stop that fails never keeps the others from being
//! stopped.

use crate::base::{Moment, Span};

use super::judge::{Health, Verdict};

/// A command for one service, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Start(usize),
    Stop(usize),
    Check(usize),
}

/// What is worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// All services that can run are running.
    Up,
    /// Nothing of ours runs any more; `stuck` lists services whose stop failed.
    Down { stuck: Vec<usize> },
    /// It died or did not start, and is started once more.
    Restarting { service: usize, why: String },
    /// It died again: the peer should try. Answered with [`Plan::switchover_refused`] or with a wish for *down*.
    WantSwitchover { service: usize, why: String },
    /// It does not run here and nothing more is tried; a person is needed.
    GaveUp { service: usize, why: String },
    /// Its stop failed.
    StopFailed { service: usize, why: String },
    /// It runs again although we had given up.
    Recovered { service: usize },
}

/// The numbers of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at the services.
    pub check_every: Span,
    /// Health of this length makes an earlier death forgotten.
    pub forget_after: Span,
    /// No switchover is asked for before the services were wanted up for so long: two nodes on which a service cannot
    /// start would otherwise hand the volume to and fro.
    pub holdoff: Span,
}

/// Looks without an answer after which a service counts as dead.
const UNKNOWN_MAX: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A predecessor may have left it running.
    Unknown,
    Off,
    On,
    /// Died; is stopped and then started again.
    Dying,
    /// Given up here.
    Failed,
    /// Its stop failed while the wish was *down*.
    Stuck,
}

#[derive(Clone, Debug)]
struct Slot {
    state: State,
    /// Deaths not yet forgotten.
    strikes: u32,
    up_since: Moment,
    unknown: u32,
    last: String,
}

/// The plan of one volume's services.
#[derive(Clone, Debug)]
pub struct Plan {
    slots: Vec<Slot>,
    pace: Pace,
    /// A wish was made: before the first one nothing is touched.
    asked: bool,
    want_up: bool,
    wanted_since: Moment,
    in_hand: Option<Command>,
    told: bool,
    next_round: Moment,
    /// Services of the present round that were looked at.
    looked: usize,
}

impl Plan {
    /// A plan for `count` services, none of which is known to be stopped.
    pub fn new(count: usize, pace: Pace) -> Plan {
        let slot = Slot {
            state: State::Unknown,
            strikes: 0,
            up_since: Moment::default(),
            unknown: 0,
            last: String::new(),
        };
        Plan {
            slots: vec![slot; count],
            pace,
            asked: false,
            want_up: false,
            wanted_since: Moment::default(),
            in_hand: None,
            told: true,
            next_round: Moment::default(),
            looked: 0,
        }
    }

    /// The services shall run.
    pub fn wish_up(&mut self, now: Moment) {
        self.asked = true;
        if !self.want_up {
            self.want_up = true;
            self.wanted_since = now;
            self.told = false;
            self.next_round = now + self.pace.check_every;
            for slot in &mut self.slots {
                slot.strikes = 0;
                slot.unknown = 0;
                // A stop that failed earlier is no reason not to start: a start of what runs succeeds.
                if matches!(slot.state, State::Failed | State::Stuck | State::Dying) {
                    slot.state = State::Unknown;
                }
            }
        }
    }

    /// The services shall not run. The command in hand must be ended by the caller.
    pub fn wish_down(&mut self) {
        self.asked = true;
        self.want_up = false;
        self.told = false;
        for slot in &mut self.slots {
            if slot.state == State::Stuck {
                slot.state = State::Unknown;
            }
        }
    }

    /// Whether every service runs (`true`) or is known to be stopped or stuck (`false`); `None`: on the way.
    pub fn settled(&self) -> Option<bool> {
        let done = |wanted: fn(State) -> bool| self.slots.iter().all(|slot| wanted(slot.state));
        if self.in_hand.is_some_and(|c| !matches!(c, Command::Check(_))) {
            None
        } else if self.want_up {
            done(|state| matches!(state, State::On | State::Failed)).then_some(true)
        } else {
            done(|state| matches!(state, State::Off | State::Stuck)).then_some(false)
        }
    }

    /// Services whose stop failed.
    pub fn stuck(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state == State::Stuck).count()
    }

    /// One word and the last remark for a service.
    pub fn view(&self, service: usize) -> (&'static str, &str) {
        let slot = &self.slots[service];
        let word = match (slot.state, self.in_hand) {
            (_, Some(Command::Start(n))) if n == service => "starting",
            (_, Some(Command::Stop(n))) if n == service => "stopping",
            (State::Unknown, _) => "unknown",
            (State::Off, _) => "stopped",
            (State::On, _) => "running",
            (State::Dying, _) => "restarting",
            (State::Failed, _) => "failed",
            (State::Stuck, _) => "does not stop",
        };
        (word, &slot.last)
    }

    /// The next command, which the caller carries out and answers with `started`, `stopped` or `checked`; or a notice
    /// that all is settled.
    pub fn next(&mut self, now: Moment) -> (Option<Command>, Option<Notice>) {
        if self.in_hand.is_some() || !self.asked {
            return (None, None);
        }
        self.in_hand = if self.want_up { self.next_up(now) } else { self.next_down() };
        if self.in_hand.is_some_and(|c| !matches!(c, Command::Check(_)))
            || self.told
            || self.settled().is_none()
        {
            return (self.in_hand, None);
        }
        self.told = true;
        let stuck = (0..self.slots.len()).filter(|n| self.slots[*n].state == State::Stuck).collect();
        (self.in_hand, Some(if self.want_up { Notice::Up } else { Notice::Down { stuck } }))
    }

    /// When `next` may have a new answer without any event.
    pub fn wake_at(&self) -> Option<Moment> {
        (self.want_up && self.in_hand.is_none() && !self.slots.is_empty()).then_some(self.next_round)
    }

    fn next_up(&mut self, now: Moment) -> Option<Command> {
        for (n, slot) in self.slots.iter().enumerate() {
            match slot.state {
                State::Unknown | State::Off => return Some(Command::Start(n)),
                State::Dying => return Some(Command::Stop(n)),
                State::On | State::Failed | State::Stuck => {}
            }
        }
        if now < self.next_round || self.slots.is_empty() {
            return None;
        }
        if self.looked < self.slots.len() {
            self.looked += 1;
            return Some(Command::Check(self.looked - 1));
        }
        self.looked = 0;
        self.next_round = now + self.pace.check_every;
        None
    }

    fn next_down(&self) -> Option<Command> {
        let running = |slot: &Slot| !matches!(slot.state, State::Off | State::Stuck);
        self.slots.iter().rposition(running).map(Command::Stop)
    }

    /// The start in hand ended.
    pub fn started(&mut self, now: Moment, service: usize, verdict: Verdict) -> Option<Notice> {
        self.in_hand = None;
        let slot = &mut self.slots[service];
        slot.unknown = 0;
        match verdict {
            Ok(()) => {
                slot.state = State::On;
                slot.up_since = now;
                slot.last.clear();
                None
            }
            Err(why) => self.died(now, service, format!("did not start: {why}")),
        }
    }

    /// The stop in hand ended.
    pub fn stopped(&mut self, service: usize, verdict: Verdict) -> Option<Notice> {
        self.in_hand = None;
        let slot = &mut self.slots[service];
        match verdict {
            Ok(()) => {
                slot.state = State::Off;
                None
            }
            // Before a restart a failed stop is only a remark: the start decides.
            Err(why) if self.want_up => {
                slot.state = State::Off;
                slot.last = why;
                None
            }
            Err(why) => {
                slot.state = State::Stuck;
                slot.last.clone_from(&why);
                Some(Notice::StopFailed { service, why })
            }
        }
    }

    /// The look in hand ended.
    pub fn checked(&mut self, now: Moment, service: usize, health: Health) -> Option<Notice> {
        self.in_hand = None;
        let forget_after = self.pace.forget_after;
        let slot = &mut self.slots[service];
        match health {
            Health::Running => {
                slot.unknown = 0;
                if slot.state == State::Failed {
                    slot.state = State::On;
                    slot.up_since = now;
                    slot.last.clear();
                    return Some(Notice::Recovered { service });
                }
                if now.since(slot.up_since) >= forget_after {
                    slot.strikes = 0;
                }
                None
            }
            Health::Unknown(why) => {
                slot.unknown += 1;
                slot.last.clone_from(&why);
                (slot.unknown >= UNKNOWN_MAX).then(|| self.died(now, service, why)).flatten()
            }
            Health::Dead(why) => self.died(now, service, why),
        }
    }

    /// The peer cannot take the volume: the service stays down here.
    pub fn switchover_refused(&mut self, service: usize, reason: &str) -> Notice {
        let why = format!("{}; no switchover: {reason}", self.slots[service].last);
        self.give_up(service, why)
    }

    fn give_up(&mut self, service: usize, why: String) -> Notice {
        self.slots[service].state = State::Failed;
        self.slots[service].last.clone_from(&why);
        Notice::GaveUp { service, why }
    }

    fn died(&mut self, now: Moment, service: usize, why: String) -> Option<Notice> {
        let waited = now.since(self.wanted_since);
        let (want_up, holdoff) = (self.want_up, self.pace.holdoff);
        let slot = &mut self.slots[service];
        slot.unknown = 0;
        if !want_up {
            // What failed to start may still have left something behind: it is stopped like the others.
            slot.state = State::Unknown;
            return None;
        }
        if slot.state == State::Failed {
            return None;
        }
        slot.last.clone_from(&why);
        slot.strikes += 1;
        if slot.strikes == 1 {
            slot.state = State::Dying;
            return Some(Notice::Restarting { service, why });
        }
        if waited < holdoff {
            let text = format!("{why}; no switchover: this node became primary only {waited} ago");
            return Some(self.give_up(service, text));
        }
        slot.state = State::Failed;
        Some(Notice::WantSwitchover { service, why })
    }
}

#[cfg(test)]
mod tests;
