//! Where events are told: the journal (or standard error), the history, and a short memory for `events` and `status`.
//!
//! Decides the wording of a node's notices. Does not decide what is worth telling. Invariant: telling never holds up
//! the one who tells for longer than a queue's lock.
#![allow(clippy::disallowed_methods, reason = "a shell: a thread")]

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::base::{NodeId, Span};
use crate::cluster::Right;
use crate::events::{Entry, Event, Names, Severity};
use crate::history::History;
use crate::node::{FenceEnd, Finding, Notice, Trouble, VerifyEnd};
use crate::sys::clock;

/// Entries kept in memory.
const RECENT_MAX: usize = 1000;

/// The history may take so long to answer; then the short memory stands in.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a primary stopped that the peer relieved in order.
pub const HANDED_OVER: &str = "handed over";

/// The journal of one node.
pub struct Journal {
    me: NodeId,
    names: Names,
    recent: Mutex<VecDeque<Entry>>,
    history: Option<History>,
    listener: OnceLock<Listener>,
}

/// Is shown every event; returns at once.
type Listener = Box<dyn Fn(&Entry) + Send + Sync>;

impl Journal {
    pub fn new(me: NodeId, names: Names, history: Option<History>) -> Journal {
        Journal { me, names, recent: Mutex::default(), history, listener: OnceLock::new() }
    }

    /// Shows every further event to `listener` as well; the first one stays.
    pub fn listen(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Tells an event of `volume` (`None`: of the node).
    pub fn tell(&self, volume: Option<&str>, event: Event) {
        let entry =
            Entry { unix_ms: clock::unix_ms(), node: self.me, volume: volume.map(str::to_string), event };
        let line = entry.line(&self.names);
        match entry.event.severity() {
            Severity::Critical => tracing::error!("{line}"),
            Severity::Warning => tracing::warn!("{line}"),
            Severity::Notice | Severity::Info => tracing::info!("{line}"),
        }
        if let Some(listener) = self.listener.get() {
            listener(&entry);
        }
        if let Some(history) = &self.history {
            history.record(entry.clone());
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(entry);
    }

    /// The newest `count` entries of `volume` (`None`: of all), oldest first.
    pub fn newest(&self, volume: Option<&str>, count: usize) -> Vec<Entry> {
        // Entries of other volumes are passed over, so more are asked for.
        let wanted = if volume.is_some() { count.saturating_mul(8) } else { count };
        let kept = self.history.as_ref().map(|history| history.last(wanted, PATIENCE)).unwrap_or_default();
        let entries: Vec<Entry> = if kept.is_empty() {
            self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
        } else {
            kept.into_iter().map(|(_, entry)| entry).collect()
        };
        let fits =
            |entry: &&Entry| volume.is_none() || entry.volume.is_none() || entry.volume.as_deref() == volume;
        let mut chosen: Vec<Entry> = entries.iter().filter(fits).cloned().collect();
        chosen.drain(..chosen.len().saturating_sub(count));
        chosen
    }
}

/// The event for a node's notice, `v` being the newest version of the record, `file` what it is about (the file that a
/// block belongs to, or the image); `None`: it is shown in the state only.
pub fn event_of(notice: Notice, me: NodeId, v: u64, file: Option<String>) -> Option<Event> {
    let peer = me.other();
    Some(match notice {
        Notice::Decided { text, .. } => Event::Compared { text },
        Notice::InSync => Event::InSync { peer },
        // The end of the stream was told, and what follows from it will be.
        Notice::PeerLost => return None,
        // Noted elsewhere.
        Notice::Met { .. } => return None,
        Notice::Replaced => Event::CopyReplaced { peer },
        Notice::WentSolo { record, right, silent } => went_alone(peer, record.v, right, silent),
        Notice::Removed { record } => Event::StoppedPrimary {
            reason: format!("record {} does not count this copy as current", record.v),
        },
        Notice::ResyncStarted { source, kind, blocks } => Event::ResyncStarted {
            source,
            target: source.other(),
            bytes: blocks.saturating_mul(4096),
            how: how(kind).to_string(),
        },
        Notice::ResyncFinished => return None,
        Notice::ResyncPaused { span } => Event::ResyncPaused { peer, for_ms: span.as_millis() },
        Notice::ResyncResumed { by_itself } => Event::ResyncResumed { peer, by_itself },
        Notice::Grown { blocks } => Event::Grown { bytes: blocks.saturating_mul(4096) },
        Notice::GrowFailed { text } => Event::GrowFailed { reason: text },
        Notice::UndoGivenUp => Event::UndoGivenUp {},
        Notice::WentBack => Event::WentBack {},
        Notice::FenceAsked { level } => Event::FenceAsked { peer, level: level + 1 },
        Notice::FenceDone { word, .. } => Event::FenceDone { peer, word },
        Notice::FenceFailed { level, end, more } => fence_failed(peer, level, end, more),
        Notice::FenceLeftover => Event::FenceLeftover { peer },
        Notice::ReachesNobody => Event::ReachesNobody { peer },
        Notice::FailbackAsked => Event::FailbackAsked { peer },
        Notice::LeaseLapsed => Event::LeaseLapsed { peer },
        Notice::HandedOver { to } => Event::StoppedPrimary {
            reason: if to == me { "handed over to this node".to_string() } else { HANDED_OVER.to_string() },
        },
        Notice::TookOver => Event::BecamePrimary { v, reason: "the peer is gone".to_string() },
        Notice::SplitBrain => Event::Diverged { peer },
        Notice::SplitDecided { keep } => Event::SplitDecided { keep },
        Notice::Kept { at } => Event::CopyKept { at },
        Notice::NotKept { text } => Event::CopyNotKept { reason: text },
        Notice::SplitEnds { keep } => Event::DivergenceResolved { kept: keep },
        Notice::Refused { text, .. } => Event::PeerRefused { peer, reason: text },
        // Passes within seconds; shown in the state as long as it lasts.
        Notice::WitnessSuspect { text } if text.starts_with("enrolment waits") => return None,
        Notice::WitnessSuspect { text } => Event::TakeoverRefused { reason: format!("the witness: {text}") },
        Notice::DiskFailed { text } => Event::DiskFailed { image: file.unwrap_or_default(), reason: text },
        Notice::PeerDiskFailed => Event::PeerDiskFailed { peer },
        Notice::FrontBegan => Event::WorksOnPeer { peer },
        Notice::PeerLeft => Event::PeerLeft { peer, v },
        Notice::Found(finding) => return Some(found(finding, me, file)),
        Notice::Verified { progress, end } => match end {
            VerifyEnd::Finished => {
                let tally = progress.tally;
                let repaired = Some(tally.repaired);
                Event::VerifyFinished { blocks: tally.blocks, wrong: tally.found(), repaired }
            }
            VerifyEnd::Stopped => Event::VerifyStopped { reason: "as asked for".to_string() },
            VerifyEnd::Unable => Event::VerifyStopped {
                reason: "the peer's version of twinfs cannot compare: upgrade it, or use --local".to_string(),
            },
            VerifyEnd::Moved => {
                Event::VerifyStopped { reason: "the primary is the other node now, verify there".to_string() }
            }
        },
        Notice::Fault { text } => Event::Fault { text },
    })
}

/// By which right, and for how long the peer had not been heard.
fn went_alone(peer: NodeId, v: u64, right: Option<Right>, silent: Option<Span>) -> Event {
    let silent = silent.map_or("never heard".to_string(), |span| format!("not heard for {span}"));
    let right = right.map_or(String::new(), |right| format!("; by {}", right.text()));
    Event::WentAlone { peer, v, reason: format!("{silent}{right}") }
}

fn how(kind: crate::wire::CopyKind) -> &'static str {
    match kind {
        crate::wire::CopyKind::Full => "everything written",
        crate::wire::CopyKind::Bits => "what changed meanwhile",
        crate::wire::CopyKind::Compare => "what differs by digest",
    }
}

fn fence_failed(peer: NodeId, level: u32, end: FenceEnd, more: bool) -> Event {
    let why = if end == FenceEnd::Unanswered { "gave no answer in time" } else { "failed" };
    Event::FenceFailed { peer, level: level + 1, why: why.to_string(), more }
}

fn found(finding: Finding, me: NodeId, file: Option<String>) -> Event {
    let (block, repaired) = (finding.block.0, finding.repaired);
    match finding.trouble {
        Trouble::Rotten if repaired => Event::BlockRepaired { block, from: me.other(), file },
        Trouble::RottenAtPeer if repaired => Event::BlockRepaired { block, from: me, file },
        Trouble::Rotten => Event::BlockRotten { block, on: me, file },
        Trouble::RottenAtPeer => Event::BlockRotten { block, on: me.other(), file },
        Trouble::Lost => Event::BlockUnreadable { block, file },
        Trouble::Differs => Event::BlockDiffers { block, repaired, file },
    }
}
