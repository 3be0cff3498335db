//! From findings to a plan: passes over the tables until one finds nothing, and copies for blocks that two files share.
//!
//! Decides what the tables will be and where copied blocks go; writes nothing. Invariant: a plan is only carried out if
//! its last pass found nothing to change, so what it makes is sound by the same check that found the damage.

use twinfs::base::BlockNo;
use twinfs::format::{ExtentRec, LogOp, TableId, key_pair};

use crate::files::{self, Known, Shared};
use crate::findings::Findings;
use crate::space::{Owner, Space};
use crate::tables::Edits;
use crate::volume::{Volume, areas};

/// Passes until the tables must be sound: each undoes what the one before uncovered.
const PASSES_MAX: u32 = 12;

/// Blocks whose content goes to a second place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    pub from: BlockNo,
    pub to: BlockNo,
    pub count: u64,
}

/// What a repair of the filesystem will do.
pub struct Plan {
    /// Who will use what; the chunks of today's tables included.
    pub space: Space,
    pub copies: Vec<Copy>,
    pub next_ino: u64,
    /// The newest transaction that an inode names.
    pub last_txn: u64,
    pub inodes: u64,
    pub free: u64,
    /// The last pass found nothing more.
    pub sound: bool,
}

/// Free blocks that a repair may take.
pub struct Room {
    runs: Vec<(u64, u64)>,
}

impl Room {
    /// Blocks that nobody uses, neither now nor with what the log still carries.
    pub fn new(space: &Space, volume: &Volume<'_>) -> Room {
        let mut space = space.clone();
        for (home, _) in volume.log.records.iter().flat_map(|record| &record.payload) {
            // In use already, or kept from being given out.
            let _ = space.claim(*home, 1, Owner::Fixed);
        }
        Room { runs: space.unused(None) }
    }

    /// Up to `want` blocks in one run.
    pub fn take(&mut self, want: u64) -> Option<(u64, u64)> {
        let place = self.runs.iter().position(|(_, count)| *count >= want);
        let place = place.or_else(|| (0..self.runs.len()).max_by_key(|n| self.runs[*n].1))?;
        let (start, count) = self.runs[place];
        let taken = count.min(want);
        match taken == count {
            true => drop(self.runs.swap_remove(place)),
            false => self.runs[place] = (start + taken, count - taken),
        }
        (taken > 0).then_some((start, taken))
    }

    /// A run of exactly `count` blocks.
    pub fn take_all(&mut self, count: u64) -> Option<u64> {
        let place = self.runs.iter().position(|(_, len)| *len >= count)?;
        let (start, len) = self.runs[place];
        self.runs[place] = (start + count, len - count);
        Some(start)
    }
}

/// Checks the tables and decides how to put them right; what was decided is in `volume` afterwards.
pub fn decide(volume: &mut Volume<'_>, findings: &mut Findings) -> Plan {
    let mut space = areas(&volume.sup, findings);
    free_runs(volume, &mut space, findings);
    let mut copies = Vec::new();
    let mut next_ino = volume.next_ino;
    let mut free = 0;
    let mut inodes_lost = volume.inodes_lost;
    for pass in 0..PASSES_MAX {
        if pass > 0 {
            // Where the first pass found something, free space follows from what is in use.
            space = areas(&volume.sup, &mut Findings::default());
        }
        let known =
            Known { doubtful: &volume.doubtful, data_first: volume.sup.data_first, next_ino, inodes_lost };
        let outcome = files::check(&volume.tables, &known, &mut space, findings);
        space.settle();
        if pass == 0 {
            free = space.free_blocks();
            space.finish(findings);
        }
        next_ino = outcome.next_ino;
        // Names that stay without an inode had their chance.
        inodes_lost = false;
        if outcome.edits.is_empty() && outcome.shared.is_empty() {
            let (inodes, last_txn) = (outcome.inodes, outcome.last_txn);
            return Plan { space, copies, next_ino, last_txn, inodes, free, sound: true };
        }
        volume.tables.changes.extend(outcome.edits);
        let mut room = Room::new(&space, volume);
        for shared in outcome.shared {
            let edits = split(&shared, &mut room, &mut copies, findings);
            volume.tables.changes.extend(edits);
        }
    }
    findings.lose("tables", "they stay unsound however often they are put right");
    Plan { space, copies, next_ino, last_txn: 0, inodes: 0, free, sound: false }
}

/// Free space as the table and the log have it.
fn free_runs(volume: &Volume<'_>, space: &mut Space, findings: &mut Findings) {
    for (start, count) in &volume.free {
        space.free(BlockNo(*start), *count, "the table", findings);
    }
    for record in &volume.log.records {
        let source = format!("log record {}", record.seq);
        record.each_op(|op| match op {
            LogOp::Set { .. } => {}
            LogOp::Alloc { start, count } => space.taken(start, count, &source, findings),
            LogOp::Free { start, count } => space.free(start, count, &source, findings),
        });
    }
}

/// Gives an extent blocks of its own, with a copy of what it shared.
fn split(shared: &Shared, room: &mut Room, copies: &mut Vec<Copy>, findings: &mut Findings) -> Edits {
    let mut edits = Edits::default();
    edits.del(TableId::Extents, &key_pair(shared.ino, shared.first));
    let mut done = 0;
    while done < u64::from(shared.count) {
        let left = u64::from(shared.count) - done;
        let Some((to, count)) = room.take(left) else {
            let text = format!(
                "inode {}, block {}: no room for a copy of {left} shared blocks: they are lost to it",
                shared.ino.0,
                shared.first + done
            );
            findings.lose("extents", text);
            break;
        };
        let rec = ExtentRec { start: BlockNo(to), count: count as u32, unwritten: false };
        edits.put(TableId::Extents, key_pair(shared.ino, shared.first + done), rec.encode());
        copies.push(Copy { from: shared.start.plus(done), to: BlockNo(to), count });
        done += count;
    }
    edits
}

#[cfg(test)]
mod tests {
    use twinfs::base::Ino;

    use super::*;

    #[test]
    fn a_shared_extent_gets_runs_of_its_own_and_what_has_no_room_is_named() {
        let mut room = Room { runs: vec![(100, 3), (200, 5)] };
        let (mut copies, mut findings) = (Vec::new(), Findings::default());
        let shared = Shared { ino: Ino(9), first: 10, start: BlockNo(50), count: 7 };
        let edits = split(&shared, &mut room, &mut copies, &mut findings);
        assert_eq!(findings.count(), 0);
        assert_eq!(
            copies,
            [
                Copy { from: BlockNo(50), to: BlockNo(200), count: 5 },
                Copy { from: BlockNo(55), to: BlockNo(100), count: 2 },
            ]
        );
        assert_eq!(edits.find(TableId::Extents, &key_pair(Ino(9), 10)).unwrap().as_ref().unwrap()[0], 200);
        split(&shared, &mut room, &mut copies, &mut findings);
        assert!(findings.report()[0].contains("no room for a copy of 6"), "{:?}", findings.report());
    }
}
