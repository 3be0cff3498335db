//! The history of both nodes as one.
//!
//! Decides the order of the events of two clocks, and what is said of the peer's. Does not know how an event is shown.
//! Invariants: the peer is waited for two seconds at most, and what this node knows is shown without it; nothing is
//! decided by any of this.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sys::clock;

use super::journal::Journal;
use super::peer;
use super::protocol::{Reply, Verdict};
use super::runtime::Running;

/// For the peer's answer, from dialling on.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most events of one node, and most bytes of them: both nodes' fit one reply.
const EVENTS_MAX: usize = 1_000;
const EVENT_BYTES_MAX: usize = 400 << 10;

/// What one node has to tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// As `--json` prints them, oldest first.
    pub events: Vec<Value>,
    /// When the question came and when the answer left, by the clock of the events.
    pub asked_unix_ms: u64,
    pub answered_unix_ms: u64,
}

/// How the peer's part of a merged history came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    pub node: String,
    pub peer: String,
    /// Why the peer's events are missing.
    pub peer_problem: Option<String>,
    /// By how much the peer's clock is ahead of this node's, now, and how far that may be wrong.
    pub peer_ahead_ms: Option<i64>,
    pub uncertain_ms: Option<u64>,
}

/// This node's part. Reads the history: not for a thread that must not wait.
pub fn share(journal: &Journal, volume: Option<&str>, count: usize) -> Share {
    let asked_unix_ms = clock::unix_ms();
    let entries = journal.newest(volume, count.min(EVENTS_MAX));
    let mut room = EVENT_BYTES_MAX;
    let mut events: Vec<Value> = Vec::new();
    for entry in entries.iter().rev() {
        let event = entry.json(journal.names());
        let Some(rest) = room.checked_sub(event.to_string().len() + 1) else { break };
        room = rest;
        events.push(event);
    }
    events.reverse();
    Share { events, asked_unix_ms, answered_unix_ms: clock::unix_ms() }
}

/// How far the other clock is ahead, and how far that may be wrong, from when the question left and the answer came.
fn offset(share: &Share, left_ms: u64, came_ms: u64) -> (i64, u64) {
    let number = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let there = number(share.asked_unix_ms).saturating_sub(number(left_ms));
    let back = number(share.answered_unix_ms).saturating_sub(number(came_ms));
    let way = came_ms
        .saturating_sub(left_ms)
        .saturating_sub(share.answered_unix_ms.saturating_sub(share.asked_unix_ms));
    // Rounded up: the clocks are read in whole milliseconds.
    (there.saturating_add(back) / 2, way.div_ceil(2) + 1)
}

/// The newest `count` of both by this node's clock, each with `here_unix_ms`. Of one node the order stays.
fn merge(mine: Vec<Value>, theirs: Vec<Value>, ahead_ms: i64, count: usize) -> Vec<Value> {
    let placed = |events: Vec<Value>, ahead: i64| {
        let mut last = 0;
        events.into_iter().map(move |mut event| {
            let at = event.get("unix_ms").and_then(Value::as_u64).unwrap_or(0);
            let here = if ahead >= 0 {
                at.saturating_sub(ahead.unsigned_abs())
            } else {
                at.saturating_add(ahead.unsigned_abs())
            };
            // A clock that was put back does not turn the story round.
            last = here.max(last);
            if let Some(object) = event.as_object_mut() {
                object.insert("here_unix_ms".to_string(), here.into());
            }
            (last, event)
        })
    };
    let mut all: Vec<(u64, Value)> = placed(mine, 0).chain(placed(theirs, ahead_ms)).collect();
    all.sort_by_key(|(at, _)| *at);
    all.drain(..all.len().saturating_sub(count));
    all.into_iter().map(|(_, event)| event).collect()
}

/// Both nodes' newest events; without the peer's, and why, if it does not answer.
pub async fn history(running: &Running, volume: Option<String>, count: usize) -> Reply {
    if let Some(name) = volume.as_ref().filter(|name| running.volumes().iter().all(|v| v.name != **name)) {
        return Reply::new(Verdict::Usage, format!("no volume {name}"));
    }
    let count = count.min(2 * EVENTS_MAX);
    let (journal, wanted) = (Arc::clone(&running.journal), volume.clone());
    let here = tokio::task::spawn_blocking(move || share(&journal, wanted.as_deref(), count));
    let there = tokio::time::timeout(PATIENCE, ask(running, volume, count)).await;
    let there = there.unwrap_or_else(|_| Err("it did not answer within 2 s".to_string()));
    let mine = here.await.unwrap_or_default();
    let mut merged = Merged {
        node: running.name(running.me).to_string(),
        peer: running.name(running.me.other()).to_string(),
        ..Merged::default()
    };
    let mut theirs = Vec::new();
    let mut ahead = 0;
    match there {
        Err(why) => merged.peer_problem = Some(why),
        Ok((share, left_ms, came_ms)) => {
            let (found, uncertain) = offset(&share, left_ms, came_ms);
            (merged.peer_ahead_ms, merged.uncertain_ms) = (Some(found), Some(uncertain));
            // What may be nothing but the way of the answer moves no event.
            ahead = if found.unsigned_abs() > uncertain { found } else { 0 };
            theirs = share.events;
        }
    }
    let events = merge(mine.events, theirs, ahead, count);
    Reply { events, merged: Some(Box::new(merged)), ..Reply::done("") }
}

/// The peer's part, with when the question left and the answer came.
async fn ask(running: &Running, volume: Option<String>, count: usize) -> Result<(Share, u64, u64), String> {
    // A talk is about a volume; one about none goes by any.
    let any = running.volumes().first().map(|v| v.name.clone());
    let name = volume.clone().or(any).ok_or("there is no volume")?;
    let (paths, opening) = (Arc::clone(&running.paths), running.opening(&name, peer::CHANNEL_TALK));
    let talk = move || {
        let left_ms = clock::unix_ms();
        let share = peer::ask_history(&paths, opening, volume.is_some(), count)?;
        Ok((share, left_ms, clock::unix_ms()))
    };
    tokio::task::spawn_blocking(talk).await.unwrap_or_else(|_| Err("a panic; see the journal".to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_offset_is_that_of_the_clocks_and_not_of_the_way_or_the_reading() {
        // The peer is 5,000 ms ahead; 10 ms there, 300 ms of reading, 10 ms back.
        let share = Share { asked_unix_ms: 15_010, answered_unix_ms: 15_310, ..Share::default() };
        assert_eq!(offset(&share, 10_000, 10_320), (5_000, 11));
        let behind = Share { asked_unix_ms: 4_010, answered_unix_ms: 4_310, ..Share::default() };
        assert_eq!(offset(&behind, 10_000, 10_320), (-6_000, 11));
        // Numbers of a peer that lies end nothing.
        let wild = Share { asked_unix_ms: u64::MAX, answered_unix_ms: 0, ..Share::default() };
        let _ = offset(&wild, 10_000, 10_320);
        let _ = offset(&wild, u64::MAX, 0);
    }

    #[test]
    fn events_of_two_clocks_stand_in_one_order_and_each_nodes_own_order_stays() {
        let event = |text: &str, unix_ms: u64| json!({ "text": text, "unix_ms": unix_ms });
        let mine = vec![event("a", 1_000), event("c", 3_000), event("put back", 2_000), event("f", 9_000)];
        let theirs = vec![event("b", 7_000), event("d", 9_000), json!("no event"), json!({ "unix_ms": "x" })];
        let order = |count| {
            let merged = merge(mine.clone(), theirs.clone(), 5_000, count);
            merged.iter().map(|e| e["text"].as_str().unwrap_or("-").to_string()).collect::<Vec<_>>()
        };
        assert_eq!(order(9), ["a", "b", "c", "put back", "d", "-", "-", "f"]);
        assert_eq!(order(2), ["-", "f"]);
        let behind = merge(vec![], vec![event("late", 10)], -500, 1);
        assert_eq!(behind[0]["here_unix_ms"], 510);
        assert_eq!(merge(vec![], vec![event("old", 10)], 500, 1)[0]["here_unix_ms"], 0);
    }
}
