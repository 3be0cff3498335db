//! Has the peer stopped by its fence agents, on a thread of its own, for all volumes of this node.
//!
//! Decides which requests share a run and when an answer is final. Does not know who may ask: the machines do.
//! Invariants: a request is noted, stable, before an agent starts, and the note goes before the answer; a run answers
//! only requests that were made before it began (A5); after an answer nothing that this node started for the request
//! can still do anything here.
#![allow(clippy::disallowed_methods, reason = "a shell: a thread and processes")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::base::{NodeId, Span};
use crate::config::{Config, FenceAgent};
use crate::events::Event as Told;
use crate::node::FenceEnd;
use crate::services::agent::{self, Said};
use crate::sys::exec;

use super::journal::Journal;
use super::node_file::NodeFile;
use super::status::FenceStatus;

/// Requests of several volumes come within this, for one and the same failure.
const GATHER: Duration = Duration::from_millis(200);
/// Between two looks whether the agents work.
const MONITOR_EVERY: Duration = Duration::from_secs(600);
/// Between two tries to end what an earlier daemon left behind.
const SETTLE_EVERY: Duration = Duration::from_millis(200);

/// A request of one volume.
pub struct Shot {
    pub nonce: u128,
    /// From 0; `None`: see to it that nothing of an earlier request can happen any more.
    pub level: Option<u32>,
    pub node_file: Arc<NodeFile>,
    pub answer: Box<dyn Fn(FenceEnd) + Send>,
}

impl Shot {
    /// The note goes first: an answer that is lost with this process gives no right to the next one.
    fn end(&self, end: FenceEnd, journal: &Journal) {
        if let Err(text) = self.node_file.note_fence(None) {
            journal.tell(None, Told::Fault { text });
        }
        (self.answer)(end);
    }
}

/// Where requests go.
#[derive(Clone)]
pub struct Fencer {
    shots: Sender<Shot>,
    seen: Arc<Mutex<Vec<FenceStatus>>>,
}

impl Fencer {
    /// Starts the thread; it ends with the last sender.
    pub fn start(config: &Config, me: NodeId, journal: Arc<Journal>) -> Fencer {
        let (shots, queue) = channel();
        let levels = config.fence_levels(me.other());
        let state = |agent: &FenceAgent| FenceStatus { agent: agent.name.clone(), ..FenceStatus::default() };
        let seen = Arc::new(Mutex::new(levels.iter().flatten().map(state).collect::<Vec<_>>()));
        let limit = config.timing.fence_timeout;
        let worker = Arc::new(Worker { levels, limit, journal, seen: Arc::downgrade(&seen) });
        let watcher = Arc::clone(&worker);
        std::thread::spawn(move || worker.run(&queue));
        if !watcher.levels.is_empty() {
            std::thread::spawn(move || watcher.monitor());
        }
        Fencer { shots, seen }
    }

    /// Never blocks.
    pub fn ask(&self, shot: Shot) {
        // A thread that is gone leaves the request unanswered, and noted.
        let _ = self.shots.send(shot);
    }

    /// The agents, as they were seen last.
    pub fn seen(&self) -> Vec<FenceStatus> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Worker {
    levels: Vec<Vec<FenceAgent>>,
    limit: Span,
    journal: Arc<Journal>,
    seen: Weak<Mutex<Vec<FenceStatus>>>,
}

impl Worker {
    /// Answers requests until the last sender is gone.
    fn run(&self, queue: &Receiver<Shot>) {
        let mut waiting: Vec<Shot> = Vec::new();
        loop {
            if waiting.is_empty() {
                match queue.recv() {
                    Ok(shot) => waiting.push(shot),
                    Err(_) => return,
                }
            }
            gather(queue, &mut waiting);
            let level = waiting[0].level;
            let (now, later): (Vec<Shot>, Vec<Shot>) =
                waiting.into_iter().partition(|shot| shot.level == level);
            waiting = later;
            match level {
                Some(level) => self.shoot(&now, level),
                None => now.iter().for_each(|shot| self.settle(shot)),
            }
        }
    }

    /// All agents of a level, for all who asked before they begin.
    fn shoot(&self, shots: &[Shot], level: u32) {
        // A run has one mark, and every note leads to it.
        let nonce = shots.first().map_or(0, |shot| shot.nonce);
        let (noted, lost): (Vec<&Shot>, Vec<&Shot>) =
            shots.iter().partition(|shot| match shot.node_file.note_fence(Some(nonce)) {
                Ok(()) => true,
                Err(text) => {
                    self.journal.tell(None, Told::Fault { text });
                    false
                }
            });
        lost.iter().for_each(|shot| (shot.answer)(FenceEnd::Failed));
        if noted.is_empty() {
            return;
        }
        let agents = self.levels.get(usize::try_from(level).unwrap_or(usize::MAX));
        let mut end = agents.map_or(FenceEnd::Failed, |_| FenceEnd::Done);
        for agent in agents.into_iter().flatten() {
            let said = agent::call(agent, agent.action.as_str(), &mark(nonce), self.limit);
            note(&self.seen, agent, &said);
            end = match said {
                Said::Yes => continue,
                Said::No(_) => FenceEnd::Failed,
                Said::Nothing(_) => FenceEnd::Unanswered,
            };
            break;
        }
        if end != FenceEnd::Done {
            // What left the agent's process group is no part of it that the time limit reached.
            end_marked(nonce);
        }
        noted.iter().for_each(|shot| shot.end(end, &self.journal));
    }

    /// Whatever an earlier daemon started for this request ends here.
    fn settle(&self, shot: &Shot) {
        end_marked(shot.nonce);
        shot.end(FenceEnd::Unanswered, &self.journal);
    }

    /// Looks for ever whether the agents could be used, before they are needed, and beside requests.
    fn monitor(&self) {
        let mut told: Vec<&str> = Vec::new();
        while self.seen.strong_count() > 0 {
            for agent in self.levels.iter().flatten() {
                let said = agent::call(agent, "monitor", "monitor", self.limit);
                note(&self.seen, agent, &said);
                let known = told.contains(&agent.name.as_str());
                match said {
                    Said::Yes if known => {
                        told.retain(|name| *name != agent.name);
                        self.journal.tell(None, Told::FenceAgentBack { agent: agent.name.clone() });
                    }
                    Said::No(reason) | Said::Nothing(reason) if !known => {
                        told.push(&agent.name);
                        self.journal.tell(None, Told::FenceAgent { agent: agent.name.clone(), reason });
                    }
                    _ => {}
                }
            }
            std::thread::sleep(MONITOR_EVERY);
        }
    }
}

fn note(seen: &Weak<Mutex<Vec<FenceStatus>>>, agent: &FenceAgent, said: &Said) {
    let problem = match said {
        Said::Yes => None,
        Said::No(why) | Said::Nothing(why) => Some(why.clone()),
    };
    let Some(seen) = seen.upgrade() else { return };
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(state) = seen.iter_mut().find(|state| state.agent == agent.name) {
        (state.problem, state.looked) = (problem, true);
    }
}

/// Kills what carries the request's mark until nothing does.
fn end_marked(nonce: u128) {
    let mark = format!("{}={}", agent::MARK, mark(nonce));
    while !matches!(exec::kill_marked(&mark), Ok(0)) {
        std::thread::sleep(SETTLE_EVERY);
    }
}

fn mark(nonce: u128) -> String {
    format!("{nonce:032x}")
}

/// Takes what else was asked for by now, or within a moment.
fn gather(queue: &Receiver<Shot>, waiting: &mut Vec<Shot>) {
    let end = Instant::now() + GATHER;
    while let Ok(shot) = queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
        waiting.push(shot);
    }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
