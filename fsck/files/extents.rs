//! Extents: inside the data area, in order within a file, every block in one file only.

use twinfs::base::Ino;
use twinfs::format::{ExtentRec, FileKind, TableId, ino_of_key, key_pair, second_of_key};

use super::{Pass, Shared};
use crate::space::Owner;

/// Blocks of the largest file: its size fits 63 bits.
const FILE_BLOCKS_MAX: u64 = 1 << 50;

struct Extent {
    ino: Ino,
    first: u64,
    rec: ExtentRec,
    doubtful: bool,
}

impl Pass<'_> {
    pub(super) fn extents(&mut self) {
        let tables = self.tables;
        let (mut file, mut end) = (Ino(0), 0_u64);
        // Those of broken pages come last: whatever is sure has its blocks before.
        let mut later: Vec<Extent> = Vec::new();
        tables.scan(TableId::Extents, &mut |key, value| {
            let Some(mut extent) = self.extent(key, value) else { return };
            if extent.ino != file {
                (file, end) = (extent.ino, 0);
            }
            if extent.first < end && !self.cut_front(key, &mut extent, end) {
                return;
            }
            end = extent.first + u64::from(extent.rec.count);
            match extent.doubtful {
                true => later.push(extent),
                false => self.claim(&extent),
            }
        });
        later.iter().for_each(|extent| self.claim(extent));
    }

    /// Takes an entry apart; one that cannot stay is removed.
    fn extent(&mut self, key: &[u8], value: &[u8]) -> Option<Extent> {
        let (ino, first) = (ino_of_key(key), second_of_key(key));
        let (Some(ino), Some(first)) = (ino, first) else {
            self.findings.lose("extents", format!("a key of {} bytes: removed", key.len()));
            self.edits.del(TableId::Extents, key);
            return None;
        };
        let rec = ExtentRec::decode(value);
        let wrong = match (&rec, self.nodes.get(&ino)) {
            (None, _) => "not readable: what it held is lost".to_string(),
            (Some(_), Some(node)) if node.kind != FileKind::File => {
                "it is no regular file: removed".to_string()
            }
            (Some(rec), _) => {
                let count = u64::from(rec.count);
                let behind = rec.start.0.checked_add(count);
                let file_end = first.checked_add(count);
                if ino.0 == 0 || file_end.is_none_or(|end| end > FILE_BLOCKS_MAX) {
                    "no such place in a file: removed".to_string()
                } else if rec.start.0 < self.known.data_first
                    || behind.is_none_or(|end| end > self.space.blocks())
                {
                    format!("blocks {}+{count} lie outside: what it held is lost", rec.start.0)
                } else {
                    let doubtful = self.known.doubtful.contains(&(TableId::Extents, key.to_vec()));
                    return Some(Extent { ino, first, rec: *rec, doubtful });
                }
            }
        };
        self.findings.lose("extents", format!("inode {}, block {first}: {wrong}", ino.0));
        self.edits.del(TableId::Extents, key);
        None
    }

    /// An extent that begins inside the one before loses what is there already; false if that is all of it.
    fn cut_front(&mut self, key: &[u8], extent: &mut Extent, end: u64) -> bool {
        let text = format!(
            "inode {}, block {}: overlaps the one before, up to {end}: cut",
            extent.ino.0, extent.first
        );
        self.findings.lose("extents", text);
        self.edits.del(TableId::Extents, key);
        let over = end - extent.first;
        let Some(left) = u64::from(extent.rec.count).checked_sub(over).filter(|left| *left > 0) else {
            return false;
        };
        extent.first = end;
        extent.rec = ExtentRec { start: extent.rec.start.plus(over), count: left as u32, ..extent.rec };
        self.edits.put(TableId::Extents, key_pair(extent.ino, end), extent.rec.encode());
        true
    }

    fn claim(&mut self, extent: &Extent) {
        let Extent { ino, first, rec, doubtful } = extent;
        let count = u64::from(rec.count);
        if let Err(why) = self.space.claim(rec.start, count, Owner::File(*ino)) {
            let shown = format!("inode {}, block {first}: {why}", ino.0);
            if *doubtful || rec.unwritten {
                let cost = if rec.unwritten {
                    "it held no data: removed"
                } else {
                    "saved from a broken page: removed"
                };
                self.findings.lose("extents", format!("{shown}; {cost}"));
                return self.edits.del(TableId::Extents, &key_pair(*ino, *first));
            }
            self.findings.lose("extents", format!("{shown}; it gets a copy of them"));
            self.shared.push(Shared { ino: *ino, first: *first, start: rec.start, count: rec.count });
        }
        let end = first + count;
        let (mapped, data_end) = match self.nodes.get_mut(ino) {
            Some(node) => (&mut node.mapped, &mut node.data_end),
            None => {
                let missing = self.missing.entry(*ino).or_default();
                missing.extents = true;
                (&mut missing.mapped, &mut missing.data_end)
            }
        };
        *mapped = mapped.saturating_add(count);
        if !rec.unwritten {
            *data_end = (*data_end).max(end);
        }
    }
}
