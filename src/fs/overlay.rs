//! Changes in memory above the tables: puts and tombstones, and the merged view of all layers.
//!
//! Decides which layer answers: the operation's own changes, the active overlay, the frozen overlay, the tables as of
//! the last checkpoint. Does not know what keys and values mean, the log or blocks. Invariant: a tombstone hides every
//! layer below it (W25); the caller holds all layers still while a view is used.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;
use std::sync::Arc;

use crate::format::TableId;

use super::FsError;
use super::tables::{SharedEntry, Snapshot};

/// A value, or `None` for a tombstone.
pub(super) type Slot = Option<Arc<[u8]>>;

/// Puts and deletes of the six tables, newest wins.
#[derive(Default)]
pub(super) struct Overlay {
    tables: [BTreeMap<Vec<u8>, Slot>; 6],
    bytes: usize,
    entries: usize,
}

impl Overlay {
    pub(super) fn put(&mut self, table: TableId, key: Vec<u8>, value: Arc<[u8]>) {
        self.set(table, key, Some(value));
    }

    pub(super) fn del(&mut self, table: TableId, key: Vec<u8>) {
        self.set(table, key, None);
    }

    pub(super) fn set(&mut self, table: TableId, key: Vec<u8>, slot: Slot) {
        self.bytes += key.len() + slot.as_ref().map_or(0, |value| value.len());
        let old = self.tables[table as usize].insert(key, slot);
        match old {
            Some(old) => self.bytes = self.bytes.saturating_sub(old.map_or(0, |value| value.len())),
            None => self.entries += 1,
        }
    }

    pub(super) fn get(&self, table: TableId, key: &[u8]) -> Option<&Slot> {
        self.tables[table as usize].get(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Keys held.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes of keys and values held, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self, table: TableId) -> impl Iterator<Item = (&Vec<u8>, &Slot)> {
        self.tables[table as usize].iter()
    }

    /// Everything, table by table.
    pub(super) fn drain(self) -> impl Iterator<Item = (TableId, Vec<u8>, Slot)> {
        TableId::ALL
            .into_iter()
            .zip(self.tables)
            .flat_map(|(table, entries)| entries.into_iter().map(move |(key, slot)| (table, key, slot)))
    }

    /// Entries in `[from, to)`, also from the end.
    fn range(&self, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range<'_, Vec<u8>, Slot> {
        self.tables[table as usize].range::<[u8], _>((from, to))
    }
}

/// The layers of one moment, topmost first, over the tables.
pub(super) struct Layers<'a> {
    pub(super) overlays: [Option<&'a Overlay>; 3],
    pub(super) base: Option<&'a Snapshot>,
}

impl Layers<'_> {
    pub(super) fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Arc<[u8]>>, FsError> {
        for overlay in self.overlays.iter().flatten() {
            if let Some(slot) = overlay.get(table, key) {
                return Ok(slot.clone());
            }
        }
        match self.base {
            Some(base) => base.get(table, key),
            None => Ok(None),
        }
    }

    /// Calls `each` with the live entries in `[from, to)` in order until it answers false.
    pub(super) fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        if from >= to {
            return Ok(());
        }
        let mut tables = match self.base {
            Some(base) => Some(base.range(table, from, to)?),
            None => None,
        };
        let mut stored = next_stored(&mut tables)?;
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut above = self.overlays.map(|o| o.map(|o| o.range(table, bounds.0, bounds.1).peekable()));
        loop {
            let heads: [Option<(&Vec<u8>, &Slot)>; 3] =
                std::array::from_fn(|n| above[n].as_mut().and_then(|head| head.peek().copied()));
            let least = heads.iter().flatten().map(|(key, _)| key.as_slice()).min();
            let low = stored.as_ref().map(|(key, _)| key.as_slice());
            let Some(key) = least.filter(|key| low.is_none_or(|low| *key <= low)) else {
                let Some((key, value)) = stored.take() else { return Ok(()) };
                if !each(&key, &value)? {
                    return Ok(());
                }
                stored = next_stored(&mut tables)?;
                continue;
            };
            if low == Some(key) {
                stored = next_stored(&mut tables)?;
            }
            let slot = heads.iter().flatten().find(|(head, _)| head.as_slice() == key);
            if let Some((_, Some(value))) = slot
                && !each(key, value)?
            {
                return Ok(());
            }
            for head in above.iter_mut().flatten() {
                head.next_if(|(at, _)| at.as_slice() == key);
            }
        }
    }

    /// The live entry with the greatest key in `[from, key]`.
    pub(super) fn last_at_or_before(
        &self,
        table: TableId,
        from: &[u8],
        key: &[u8],
    ) -> Result<Option<SharedEntry>, FsError> {
        if from > key {
            return Ok(None);
        }
        let bounds = (Bound::Included(from), Bound::Included(key));
        let mut above = self.overlays.map(|o| o.map(|o| o.range(table, bounds.0, bounds.1).rev().peekable()));
        let mut tables = None;
        let mut stored: Stored = None;
        let mut asked = false;
        loop {
            let mut best: Option<(&[u8], &Slot)> = None;
            for head in above.iter_mut().flatten() {
                if let Some((at, slot)) = head.peek().copied()
                    && best.is_none_or(|(known, _)| at.as_slice() > known)
                {
                    best = Some((at, slot));
                }
            }
            // The tables are asked only where they may know better.
            if !asked && best.is_none_or(|(at, slot)| at < key || slot.is_none()) {
                asked = true;
                tables = match self.base {
                    Some(base) => Some(base.range_to(table, from, key)?),
                    None => None,
                };
                stored = last_stored(&mut tables)?;
            }
            let low = stored.as_ref().map(|(at, _)| at.as_slice());
            let Some((at, slot)) = best.filter(|(at, _)| low.is_none_or(|low| *at >= low)) else {
                return Ok(stored.map(|(at, value)| (at, Arc::from(value))));
            };
            if let Some(value) = slot {
                return Ok(Some((at.to_vec(), value.clone())));
            }
            // A tombstone: it hides what is stored at its key.
            if low == Some(at) {
                stored = last_stored(&mut tables)?;
            }
            for head in above.iter_mut().flatten() {
                head.next_if(|(known, _)| known.as_slice() == at);
            }
        }
    }
}

type Stored = Option<(Vec<u8>, Vec<u8>)>;

fn next_stored(tables: &mut Option<super::tables::StoredRange>) -> Result<Stored, FsError> {
    match tables {
        Some(range) => range.next_entry(),
        None => Ok(None),
    }
}

fn last_stored(tables: &mut Option<super::tables::StoredRange>) -> Result<Stored, FsError> {
    match tables {
        Some(range) => range.last_entry(),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(byte: u8) -> Arc<[u8]> {
        Arc::from([byte].as_slice())
    }

    #[test]
    fn upper_layers_win_and_tombstones_hide() {
        let (mut top, mut low) = (Overlay::default(), Overlay::default());
        for key in 0..6u8 {
            low.put(TableId::Inodes, vec![key], value(key));
        }
        top.del(TableId::Inodes, vec![2]);
        top.put(TableId::Inodes, vec![3], value(99));
        top.put(TableId::Inodes, vec![7], value(7));
        let layers = Layers { overlays: [Some(&top), None, Some(&low)], base: None };
        let mut seen = Vec::new();
        layers
            .scan(TableId::Inodes, &[1], &[7], |key, value| {
                seen.push((key[0], value[0]));
                Ok(true)
            })
            .unwrap();
        assert_eq!(seen, vec![(1, 1), (3, 99), (4, 4), (5, 5)]);
        let last = layers.last_at_or_before(TableId::Inodes, &[0], &[2]).unwrap();
        assert_eq!(last.map(|(key, _)| key), Some(vec![1]));
        assert_eq!(layers.get(TableId::Inodes, &[2]).unwrap(), None);
    }
}
