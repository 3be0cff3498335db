//! The copies that were put aside: where they are, and what their own record says of them.
//!
//! Decides what is a kept copy of a volume and how it is called. Does not know what happens to it. Invariant: a copy is
//! looked at, never changed.
#![allow(clippy::disallowed_methods, reason = "a shell: looks at files")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Members, NodeId};
use crate::config::Config;
use crate::daemon::keeper::{self, kept_at};
use crate::format::{GenReason, ResyncMark, State};
use crate::image::{Image, OpenOptions};
use crate::offline::ReadOnlyFile;
use crate::sys::lock::ImageLock;

/// One kept copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// `VOLUME-SECONDS`: what the verbs take.
    pub name: String,
    pub volume: String,
    pub path: PathBuf,
    /// When it was put aside, seconds since 1970.
    pub kept_at: u64,
    /// Bytes that it takes on the disk.
    pub uses: u64,
}

/// What a kept copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub v: Option<u64>,
    pub generation: String,
    /// In words.
    pub what: String,
}

/// Every kept copy of this node, oldest first.
pub fn find(config: &Config, me: NodeId) -> Vec<Pack> {
    let mut packs = Vec::new();
    for volume in &config.volumes {
        let places = keeper::places(volume, me);
        let entries = places.iter().flat_map(|(folder, base)| {
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(move |entry| (entry, base))
        });
        for (entry, base) in entries {
            let Some(kept_at) = entry.file_name().to_str().and_then(|name| kept_at(name, base)) else {
                continue;
            };
            let Some(meta) = entry.metadata().ok().filter(std::fs::Metadata::is_file) else { continue };
            packs.push(Pack {
                name: format!("{}-{kept_at}", volume.name),
                volume: volume.name.clone(),
                path: entry.path(),
                kept_at,
                uses: meta.blocks() * 512,
            });
        }
    }
    packs.sort_by_key(|pack| (pack.kept_at, pack.name.clone()));
    packs
}

/// What the copy's own record says; `Err`: why it cannot be read.
pub fn about(pack: &Path, config: &Config) -> Result<About, String> {
    let _lock = ImageLock::shared(pack, Duration::ZERO).map_err(|e| e.to_string())?;
    let disk = Arc::new(ReadOnlyFile::open(pack).map_err(|e| e.to_string())?);
    let image = Image::open(disk, &OpenOptions::read_only()).map_err(|e| e.to_string())?;
    let state = image.state();
    let generation = state.gens.last().map_or_else(|| "none".to_string(), |entry| entry.id.to_string());
    let what = words(&state, &|node| config.node(node).name.clone());
    Ok(About { v: state.record.map(|record| record.v), generation, what })
}

fn words(state: &State, name: &dyn Fn(NodeId) -> String) -> String {
    let me = name(state.node);
    let Some(record) = state.record else {
        return format!("a copy of {me} that was never in sync");
    };
    let v = record.v;
    if state.resync != ResyncMark::None {
        return format!("a copy of {me}, half overwritten by a resync that was interrupted");
    }
    let peer = name(state.node.other());
    if record.members == Members::BOTH {
        return format!("a copy of {me} that was in sync with {peer} by its record {v}");
    }
    if record.members == Members::only(state.node.other()) {
        return format!("a copy of {me} that was out of date: {peer} had gone on alone (record {v})");
    }
    let how = match state.gens.last().map(|entry| entry.reason) {
        Some(GenReason::Forced) => "had gone on alone by an operator's word",
        Some(GenReason::WentBack) => "had been made the volume by an operator's word",
        Some(GenReason::Standalone) => "was written by itself, without the pair",
        Some(GenReason::Made) | None => "was the only one",
        Some(GenReason::WentSolo) => "had gone on alone",
        Some(GenReason::PeerDisk) => "was the only one when the other node's disk failed",
    };
    let split = if state.diverged { ", while the other copy changed as well" } else { "" };
    format!("a copy of {me} that {how} (record {v}){split}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Generation, Record, VolumeId};
    use crate::format::GenEntry;

    #[test]
    fn the_words_say_what_the_record_says() {
        let entry =
            |reason| GenEntry { id: Generation(1), minted_by: NodeId::B, at_v: 3, reason, first_txn: 0 };
        let state = State {
            volume: VolumeId(1),
            node: NodeId::B,
            incarnation: 1,
            record: Some(Record { v: 3, members: Members::only(NodeId::B), primary: NodeId::B }),
            gens: vec![entry(GenReason::Forced)],
            bitmap_base: Generation(1),
            full: false,
            resync: ResyncMark::None,
            boot_epoch: 1,
            peer_boot_epoch: 0,
            retired: vec![],
            diverged: true,
            apart: crate::format::Apart::default(),
            witness_incarnation: 0,
        };
        let said =
            |state: &State| words(state, &|node| ["alpha", "beta"][usize::from(node.index())].to_string());
        let alone = "a copy of beta that had gone on alone by an operator's word (record 3), while the other copy \
                     changed as well";
        assert_eq!(said(&state), alone);
        let record = |members| Some(Record { v: 3, members, primary: NodeId::A });
        let sync = State { record: record(Members::BOTH), diverged: false, ..state.clone() };
        assert_eq!(said(&sync), "a copy of beta that was in sync with alpha by its record 3");
        let out = State { record: record(Members::only(NodeId::A)), ..sync.clone() };
        assert!(said(&out).contains("out of date: alpha had gone on alone"));
        let half = State { resync: ResyncMark::Target { of: Generation(2) }, ..sync.clone() };
        assert!(said(&half).contains("half overwritten"));
        assert!(said(&State { record: None, ..sync }).contains("never in sync"));
    }
}
