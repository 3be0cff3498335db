//! Small talk with the peer's daemon outside the replication stream: which directories are adopted, who may join.
//!
//! Decides nothing about data. A talk is one authenticated stream on its own channel: a question, an answer. Invariant:
//! both are bounded in length and time; a peer that does not answer costs a time-out and nothing else.
#![allow(clippy::disallowed_methods, reason = "a shell: streams")]

use serde::{Deserialize, Serialize};

use crate::base::{NodeId, Span};
use crate::link::{Connection, Opening, Paths};
use crate::node::{Role, View};
use crate::services::adopt::{self, Adopted, Places};
use crate::sys::clock;

use super::merged::Share;
use super::reach::Reach;
use super::replace::Admitted;
use super::sides::{About, Told};

/// Channel of the replication stream.
pub const CHANNEL_DATA: u8 = 0;
/// Channel of these talks.
pub const CHANNEL_TALK: u8 = 1;
/// Longest question or answer.
const TALK_BYTES_MAX: usize = 1 << 20;

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "talk", rename_all = "kebab-case")]
enum Question {
    /// Make your symlinks agree with this list.
    Adopted { list: Vec<Adopted> },
    /// Is your copy of this volume one to fetch everything from?
    Current,
    /// The stream of this volume is stuck on this path: dial it again, over another one.
    Stuck { path: usize },
    /// Have you reached a ping target for long?
    Reach,
    /// What does your side of a split have?
    Side { about: About },
    /// Your newest events; `only`: of this volume, and of the node.
    History { only: bool, count: usize },
    /// A machine that wants to be the peer.
    Join(Ask),
}

/// What a machine that wants to be the peer asks before it makes its copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Does it have to show a token?
    TokenWanted,
    /// It shows one; `claim`: by what it is known when it asks again.
    Admission { token: String, claim: String },
}

/// The answer: what was done, and what could not be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    pub done: Vec<String>,
    pub failed: Vec<String>,
    /// A machine that joins now has to show a token.
    #[serde(default)]
    pub token_wanted: bool,
    /// To a token: what the machine has to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<Admitted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Share>,
}

/// Sends the list of adopted directories to the peer and waits for its answer.
pub fn tell_adopted(paths: &Paths, opening: Opening, list: Vec<Adopted>) -> Result<Answer, String> {
    talk(paths, opening, &Question::Adopted { list })
}

/// Asks the peer whether its copy is current, and whether it serves from it; the error says why it is not current, or
/// why the peer does not answer.
pub fn ask_current(paths: &Paths, opening: Opening) -> Result<bool, String> {
    let answer = talk(paths, opening, &Question::Current)?;
    if answer.failed.is_empty() { Ok(!answer.done.is_empty()) } else { Err(answer.failed.join("; ")) }
}

/// Asks for a machine that wants to be the peer of whoever answers.
pub fn ask(paths: &Paths, opening: Opening, ask: Ask) -> Result<Answer, String> {
    talk(paths, opening, &Question::Join(ask))
}

/// Asks the peer, which is the one that dials, for a new stream instead of the one on `path`.
pub fn ask_redial(paths: &Paths, opening: Opening, path: usize) -> Result<(), String> {
    talk(paths, opening, &Question::Stuck { path }).map(drop)
}

/// Asks the peer whether it has reached a ping target for long.
pub fn ask_reach(paths: &Paths, opening: Opening) -> Result<bool, String> {
    talk(paths, opening, &Question::Reach).map(|answer| !answer.done.is_empty())
}

/// Asks the peer about its side of a split.
pub fn ask_side(paths: &Paths, opening: Opening, about: About) -> Result<Told, String> {
    let answer = talk(paths, opening, &Question::Side { about })?;
    answer.told.ok_or_else(|| answer.failed.join("; "))
}

/// Asks the peer what happened there.
pub fn ask_history(paths: &Paths, opening: Opening, only: bool, count: usize) -> Result<Share, String> {
    let answer = talk(paths, opening, &Question::History { only, count })?;
    answer.history.ok_or_else(|| answer.failed.join("; "))
}

fn talk(paths: &Paths, opening: Opening, question: &Question) -> Result<Answer, String> {
    let question = serde_json::to_vec(question).map_err(|e| e.to_string())?;
    let (_, connection) = paths.connect(&opening).map_err(|e| e.to_string())?;
    connection.send(&[&question]).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    connection.recv(&mut answer).map_err(|e| e.to_string())?;
    serde_json::from_slice(&answer).map_err(|e| format!("the peer's answer makes no sense: {e}"))
}

/// Answers one talk of the peer. Runs on a thread of its own.
pub fn answer(
    connection: &Connection,
    places: &Places,
    view: Option<View>,
    me: NodeId,
    (redial, join, side, history, deadtime): (
        impl FnOnce(usize),
        impl Fn(Ask) -> Answer,
        impl FnOnce(&About) -> Result<Told, String>,
        impl FnOnce(bool, usize) -> Share,
        Span,
    ),
) {
    let mut question = Vec::new();
    if connection.recv(&mut question).is_err() || question.len() > TALK_BYTES_MAX {
        return;
    }
    let answer = match serde_json::from_slice(&question) {
        Ok(Question::Adopted { list }) => follow(&list, places),
        // A copy is given up for another one: by the machine that was let in, while that is waited for.
        Ok(Question::Current) if join(Ask::TokenWanted).token_wanted => failed(
            "this node was replaced: the machine that takes its place shows the token of \"twinfs replace\"",
        ),
        Ok(Question::Current) => current(view, me),
        Ok(Question::Join(ask)) => join(ask),
        Ok(Question::Stuck { path }) => {
            redial(path);
            Answer::default()
        }
        Ok(Question::Reach) => {
            let reach = view.as_ref().and_then(Reach::of);
            let steady = reach.is_some_and(|reach| reach.is_steady(clock::now(), deadtime));
            let done = steady.then(|| "a ping target answers".to_string());
            Answer { done: done.into_iter().collect(), ..Answer::default() }
        }
        Ok(Question::History { only, count }) => {
            Answer { history: Some(history(only, count)), ..Answer::default() }
        }
        Ok(Question::Side { about }) => match side(&about) {
            Ok(told) => Answer { told: Some(told), ..Answer::default() },
            Err(why) => failed(&why),
        },
        Err(e) => failed(&format!("the question makes no sense here: {e}")),
    };
    if let Ok(bytes) = serde_json::to_vec(&answer) {
        let _ = connection.send(&[&bytes]);
    }
}

fn failed(why: &str) -> Answer {
    Answer { failed: vec![why.to_string()], ..Answer::default() }
}

fn current(view: Option<View>, me: NodeId) -> Answer {
    let why = match view {
        None => "its copy is not open",
        Some(view) if matches!(view.role, Role::Failed) => "its disk failed",
        Some(view) if matches!(view.role, Role::Target) => "its own copy is being overwritten",
        Some(view) if !view.record.is_some_and(|record| record.members.contains(me)) => {
            "its own copy is out of date"
        }
        Some(view) => {
            let done = view.serving.then(|| "serves from it".to_string());
            return Answer { done: done.into_iter().collect(), ..Answer::default() };
        }
    };
    failed(why)
}

fn follow(list: &[Adopted], places: &Places) -> Answer {
    let mut answer = Answer::default();
    for result in adopt::follow(list, places) {
        match result {
            Ok(text) => answer.done.push(text),
            Err(e) => answer.failed.push(e.to_string()),
        }
    }
    answer
}
