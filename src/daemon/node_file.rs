//! The node state file: what this node knows about its copy, kept on another disk than the image.
//!
//! Decides whether an image agrees with it. Does not know why it matters (`cluster` does): an image whose disk failed
//! cannot store that it failed, and an image that was put back from a backup looks current. Invariant: the file's
//! version never falls.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::format::State;
use crate::services::adopt::{read_json, write_json};

/// Between two notes that the copy is current.
const CURRENT_EVERY_MS: u64 = 60_000;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub volume: String,
    pub incarnation: String,
    pub boot_epoch: u64,
    /// Highest version of the record that was seen.
    pub v: u64,
    /// The image's disk failed at this version: it is not current, whatever it says.
    pub unusable_since: Option<u64>,
    /// When this copy was last known to be current, by the wall clock: for people, decides nothing.
    #[serde(default)]
    pub current_unix_ms: Option<u64>,
    /// A request to a fence agent whose answer is not known.
    #[serde(default)]
    pub fence: Option<String>,
    /// "twinfs hold" is in force.
    #[serde(default)]
    pub held: bool,
    /// When this node last asked for the volume by itself, by the wall clock in milliseconds since 1970. Whatever else
    /// stands there is a time as well that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback_unix_ms: Option<serde_json::Value>,
    /// Incarnation of the peer's copy that this one last worked with.
    #[serde(default)]
    pub peer: Option<String>,
    /// Incarnations that were replaced, as the peer told it to this machine when it joined.
    #[serde(default)]
    pub replaced: Vec<String>,
}

/// The file of one volume.
pub struct NodeFile {
    path: PathBuf,
    known: Mutex<Option<Known>>,
}

impl NodeFile {
    /// Reads the file of volume `name`, if there is one.
    pub fn open(state_dir: &Path, name: &str) -> Result<NodeFile, String> {
        let path = state_dir.join(format!("{name}.node.json"));
        let known = read_json(&path)?;
        Ok(NodeFile { path, known: Mutex::new(known) })
    }

    /// Whether the image may be believed: the file is there, of the same incarnation, not ahead of the image, and does
    /// not call it unusable.
    pub fn agrees(&self, state: &State) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|known| {
            known.incarnation == hex(state.incarnation)
                && known.unusable_since.is_none()
                && known.v <= state.record.map_or(0, |record| record.v)
        })
    }

    /// The boot epoch for this start: above every one used before, by the image's or the file's account; also by an
    /// earlier image's, because the peer remembers the node's number and not the image's.
    pub fn next_boot_epoch(&self, state: &State) -> u64 {
        state.boot_epoch.max(self.boot_epoch()) + 1
    }

    /// The newest boot epoch that this node used, as far as the file knows.
    pub fn boot_epoch(&self) -> u64 {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map_or(0, |known| known.boot_epoch)
    }

    /// Notes a start. A copy that was made anew begins a new file.
    pub fn note_start(&self, state: &State) -> Result<(), String> {
        self.change(|known| {
            if known.incarnation != hex(state.incarnation) {
                // What the node was told and what it asked for does not go with a disk.
                let kept = std::mem::take(known);
                let Known { fence, held, failback_unix_ms, peer, replaced, .. } = kept;
                *known = Known { fence, held, failback_unix_ms, peer, replaced, ..Known::default() };
            }
            known.volume = hex(state.volume.0);
            known.incarnation = hex(state.incarnation);
            known.boot_epoch = state.boot_epoch;
            known.v = known.v.max(state.record.map_or(0, |record| record.v));
        })
    }

    /// A record of this version is about to be stored.
    pub fn note_version(&self, v: u64) -> Result<(), String> {
        self.change(|known| known.v = known.v.max(v))
    }

    /// The image's disk failed.
    pub fn note_unusable(&self, v: u64) -> Result<(), String> {
        self.change(|known| known.unusable_since = Some(v))
    }

    /// A fence agent is about to be asked, or its answer is known (`None`).
    pub fn note_fence(&self, nonce: Option<u128>) -> Result<(), String> {
        self.change(|known| known.fence = nonce.map(hex))
    }

    /// The request whose answer was not noted.
    pub fn fence_left(&self) -> Option<u128> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let text = known.as_ref()?.fence.clone()?;
        // What cannot be read is a request all the same.
        Some(u128::from_str_radix(&text, 16).unwrap_or(1))
    }

    /// The administrator holds this node, or lets it go.
    pub fn note_held(&self, held: bool) -> Result<(), String> {
        self.change(|known| known.held = held)
    }

    pub fn is_held(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|known| known.held)
    }

    /// This node is about to ask for the volume by itself.
    pub fn note_failback(&self, unix_ms: u64) -> Result<(), String> {
        self.change(|known| known.failback_unix_ms = Some(unix_ms.into()))
    }

    /// When it last did; `Some(None)`: the note cannot be read.
    pub fn failback(&self) -> Option<Option<u64>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Some(known.as_ref()?.failback_unix_ms.as_ref()?.as_u64())
    }

    /// The peer's copy that this one works with.
    pub fn note_peer(&self, incarnation: u128) -> Result<(), String> {
        self.change(|known| known.peer = Some(hex(incarnation)))
    }

    /// Incarnation of the peer's copy that this one last worked with.
    pub fn peer(&self) -> Option<u128> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        u128::from_str_radix(known.as_ref()?.peer.as_ref()?, 16).ok()
    }

    /// This machine takes the place of another one: what was replaced, and the number below which starts were counted.
    pub fn note_place(&self, replaced: &[u128], boot_epoch: u64) -> Result<(), String> {
        self.change(|known| {
            known.replaced = replaced.iter().map(|incarnation| hex(*incarnation)).collect();
            known.boot_epoch = known.boot_epoch.max(boot_epoch.saturating_add(1));
        })
    }

    /// Incarnations that were replaced, as far as this machine was told.
    pub fn replaced(&self) -> Vec<u128> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = known.as_ref().map_or(&[][..], |known| known.replaced.as_slice());
        replaced.iter().filter_map(|text| u128::from_str_radix(text, 16).ok()).collect()
    }

    /// Whether this copy was replaced by another one, by its own account or by what this machine was told.
    pub fn is_out_of_use(&self, state: &State) -> bool {
        state.is_out_of_use() || self.replaced().contains(&state.incarnation)
    }

    /// This copy is current at this moment; noted at most once a minute unless it is about to change.
    pub fn note_current(&self, unix_ms: u64, at_once: bool) -> Result<(), String> {
        let known = self.current_unix_ms().unwrap_or(0);
        if !at_once && unix_ms.abs_diff(known) < CURRENT_EVERY_MS {
            return Ok(());
        }
        self.change(|known| known.current_unix_ms = Some(unix_ms))
    }

    /// When this copy was last known to be current.
    pub fn current_unix_ms(&self) -> Option<u64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().and_then(|known| known.current_unix_ms)
    }

    fn change(&self, edit: impl FnOnce(&mut Known)) -> Result<(), String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = known.clone().unwrap_or_default();
        edit(&mut next);
        if known.as_ref() != Some(&next) {
            write_json(&self.path, &next)?;
            *known = Some(next);
        }
        Ok(())
    }
}

fn hex(number: u128) -> String {
    format!("{number:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Generation, Members, NodeId, Record, VolumeId};
    use crate::format::ResyncMark;

    fn state(v: u64, incarnation: u128) -> State {
        State {
            volume: VolumeId(1),
            node: NodeId::A,
            incarnation,
            record: Some(Record { v, members: Members::BOTH, primary: NodeId::A }),
            gens: Vec::new(),
            bitmap_base: Generation(0),
            full: false,
            resync: ResyncMark::None,
            boot_epoch: 3,
            peer_boot_epoch: 0,
            retired: Vec::new(),
            diverged: false,
            apart: crate::format::Apart::default(),
            witness_incarnation: 0,
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test spoils a file")]
    fn an_older_a_replaced_and_a_failed_image_are_not_believed() {
        let dir = std::env::temp_dir().join(format!("twinfs-nodefile-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let file = NodeFile::open(&dir, "mail").unwrap();
        assert!(!file.agrees(&state(5, 9)), "no file");
        file.note_start(&state(5, 9)).unwrap();
        file.note_version(7).unwrap();
        let file = NodeFile::open(&dir, "mail").unwrap();
        assert!(file.agrees(&state(7, 9)) && file.agrees(&state(8, 9)));
        assert!(!file.agrees(&state(6, 9)), "the image is older than what was seen");
        assert!(!file.agrees(&state(7, 10)), "another disk");
        assert_eq!(file.next_boot_epoch(&state(7, 9)), 4);
        let fresh = State { boot_epoch: 0, ..state(0, 10) };
        assert_eq!(file.next_boot_epoch(&fresh), 4, "a new image goes on counting where the node was");
        file.note_current(1_000_000, false).unwrap();
        file.note_current(1_030_000, false).unwrap();
        assert_eq!(file.current_unix_ms(), Some(1_000_000), "not more than once a minute");
        file.note_current(1_040_000, true).unwrap();
        assert_eq!(NodeFile::open(&dir, "mail").unwrap().current_unix_ms(), Some(1_040_000));
        assert_eq!(file.fence_left(), None);
        file.note_fence(Some(77)).unwrap();
        file.note_held(true).unwrap();
        let again = NodeFile::open(&dir, "mail").unwrap();
        assert!(again.fence_left() == Some(77) && again.is_held(), "not kept over a restart");
        file.note_unusable(7).unwrap();
        assert!(!NodeFile::open(&dir, "mail").unwrap().agrees(&state(8, 9)));
        file.note_start(&state(1, 11)).unwrap();
        assert!(file.agrees(&state(1, 11)), "a copy made anew begins anew");
        assert!(
            file.fence_left() == Some(77) && file.is_held(),
            "a new disk does not end what the node asked for"
        );
        assert_eq!(file.failback(), None, "it never asked");
        file.note_failback(7_000).unwrap();
        file.note_start(&state(2, 13)).unwrap();
        assert_eq!(
            NodeFile::open(&dir, "mail").unwrap().failback(),
            Some(Some(7_000)),
            "forgotten with a disk"
        );
        let path = dir.join("mail.node.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("7000"));
        for unreadable in ["-7000", "\"soon\"", "[]", "1e300"] {
            std::fs::write(&path, text.replace("7000", unreadable)).unwrap();
            assert_eq!(NodeFile::open(&dir, "mail").unwrap().failback(), Some(None), "{unreadable}");
        }
        std::fs::write(&path, &text).unwrap();
        // What this machine was told about replaced copies, and whom it worked with, goes with the machine as well.
        file.note_peer(5).unwrap();
        file.note_place(&[9, 8], 70).unwrap();
        file.note_start(&state(1, 12)).unwrap();
        let again = NodeFile::open(&dir, "mail").unwrap();
        assert_eq!((again.peer(), again.replaced()), (Some(5), vec![9, 8]));
        assert!(again.is_out_of_use(&state(7, 9)) && !again.is_out_of_use(&state(7, 12)));
        assert!(again.is_out_of_use(&State { retired: vec![12], ..state(7, 12) }), "by its own account");
        file.note_fence(None).unwrap();
        assert_eq!(NodeFile::open(&dir, "mail").unwrap().fence_left(), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
