//! Changes in memory above the tables: puts and tombstones, and the merged view of all layers.
//!
//! Decides which layer answers: the operation's own changes, the active overlay, the frozen overlay, the tables as of
//! the last checkpoint. Does not know what keys and values mean, the log or blocks. Invariant: a tombstone hides every
//! layer below it (W25); the caller holds all layers still while a view is used.

use std::collections::BTreeMap;
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

    fn first_at_or_after(&self, table: TableId, from: Bound<&[u8]>) -> Option<(&[u8], &Slot)> {
        let range = self.tables[table as usize].range::<[u8], _>((from, Bound::Unbounded));
        let mut range = range;
        range.next().map(|(key, slot)| (key.as_slice(), slot))
    }

    fn last_before(&self, table: TableId, to: Bound<&[u8]>) -> Option<(&[u8], &Slot)> {
        let mut range = self.tables[table as usize].range::<[u8], _>((Bound::Unbounded, to));
        range.next_back().map(|(key, slot)| (key.as_slice(), slot))
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
        let mut tables = match self.base {
            Some(base) => Some(base.range(table, from, to)?),
            None => None,
        };
        let mut stored = next_stored(&mut tables)?;
        let mut heads = self.overlays.map(|overlay| {
            overlay.and_then(|overlay| overlay.first_at_or_after(table, Bound::Included(from)))
        });
        loop {
            let least = heads.iter().flatten().map(|(key, _)| *key).min();
            let upper = match (least, &stored) {
                (None, None) => return Ok(()),
                (Some(key), Some((low, _))) if key > low.as_slice() => None,
                (None, Some(_)) => None,
                (Some(key), _) => Some(key),
            };
            let Some(key) = upper else {
                if let Some((key, value)) = stored.take()
                    && !each(&key, &value)?
                {
                    return Ok(());
                }
                stored = next_stored(&mut tables)?;
                continue;
            };
            if key >= to {
                if stored.is_none() {
                    return Ok(());
                }
                heads = [None; 3];
                continue;
            }
            let slot = heads.iter().flatten().find(|(head, _)| *head == key).map(|(_, slot)| *slot);
            if stored.as_ref().is_some_and(|(low, _)| low.as_slice() == key) {
                stored = next_stored(&mut tables)?;
            }
            if let Some(Some(value)) = slot
                && !each(key, value)?
            {
                return Ok(());
            }
            for (head, overlay) in heads.iter_mut().zip(&self.overlays) {
                if head.is_some_and(|(at, _)| at == key) {
                    *head =
                        overlay.and_then(|overlay| overlay.first_at_or_after(table, Bound::Excluded(key)));
                }
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
        let mut bound = Bound::Included(key.to_vec());
        loop {
            let to = bound.as_ref().map(Vec::as_slice);
            let mut best: Option<(Vec<u8>, Slot)> = None;
            for overlay in self.overlays.iter().flatten() {
                if let Some((at, slot)) = overlay.last_before(table, to)
                    && best.as_ref().is_none_or(|(known, _)| at > known.as_slice())
                {
                    best = Some((at.to_vec(), slot.clone()));
                }
            }
            if let Some(base) = self.base
                && let Some((at, value)) = base.last(table, from, to)?
                && best.as_ref().is_none_or(|(known, _)| at > *known)
            {
                best = Some((at, Some(value)));
            }
            match best {
                Some((at, _)) if at.as_slice() < from => return Ok(None),
                Some((at, Some(value))) => return Ok(Some((at, value))),
                Some((at, None)) => bound = Bound::Excluded(at),
                None => return Ok(None),
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
