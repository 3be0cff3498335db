//! Sealed sectors: 496 bytes of payload with a hash that also covers the sector's place. The unit that a power cut
//! leaves old or new, so that summary and bitmaps never need a journal.
//!
//! Invariant: a sector that is torn, lost, misplaced or zeroed does not open.

use super::codec::salted;

pub const SECTOR_BYTES: usize = 512;
pub const SECTOR_PAYLOAD: usize = 496;
/// Summary entries (extents) of a sector.
pub const ENTRIES_PER_SECTOR: usize = 31;
/// Summary sectors of a group.
pub const SUMMARY_SECTORS: usize = 8;
/// Sectors of one bitmap of a group, 3968 bits each.
pub const BITMAP_SECTORS: usize = 64;
const MAGIC: [u8; 4] = *b"twSc";

const _: () = assert!(BITMAP_SECTORS * SECTOR_PAYLOAD * 8 == super::GROUP_EXTENTS as usize * 1024);
const _: () = assert!(ENTRIES_PER_SECTOR * SummaryEntry::BYTES == SECTOR_PAYLOAD);
const _: () = assert!((SUMMARY_SECTORS * ENTRIES_PER_SECTOR) as u64 == super::GROUP_EXTENTS);

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorKind {
    Summary = 1,
    Differs = 2,
    ToCopy = 3,
}

fn hash_of(salt: u128, kind: SectorKind, index: u64, payload: &[u8]) -> [u8; 12] {
    let place = (index << 8 | kind as u64).to_le_bytes();
    let mut out = [0; 12];
    out.copy_from_slice(&salted(salt, &[&place, payload])[..12]);
    out
}

/// Writes sector `index` (counted over all groups) into `out`.
pub fn seal_sector(salt: u128, kind: SectorKind, index: u64, payload: &[u8], out: &mut [u8]) {
    out[..12].copy_from_slice(&hash_of(salt, kind, index, payload));
    out[12..16].copy_from_slice(&MAGIC);
    out[16..SECTOR_BYTES].copy_from_slice(payload);
}

/// The payload, or `None` if this is not the sector that belongs here.
pub fn open_sector(salt: u128, kind: SectorKind, index: u64, sector: &[u8]) -> Option<&[u8]> {
    let payload = sector.get(16..SECTOR_BYTES)?;
    (sector[12..16] == MAGIC && sector[..12] == hash_of(salt, kind, index, payload)).then_some(payload)
}

/// One extent in the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SummaryEntry {
    /// Its digest page was written; otherwise no block of the extent was.
    pub touched: bool,
    pub backed: bool,
    /// First 15 bytes of the page's content hash.
    pub hash: [u8; 15],
}

impl SummaryEntry {
    pub const BYTES: usize = 16;

    pub fn encode(&self, out: &mut [u8]) {
        out[0] = u8::from(self.touched) | u8::from(self.backed) << 1;
        out[1..16].copy_from_slice(&self.hash);
    }

    /// `None` for unknown flags.
    pub fn decode(bytes: &[u8]) -> Option<SummaryEntry> {
        let mut hash = [0; 15];
        hash.copy_from_slice(bytes.get(1..16)?);
        (bytes[0] & !3 == 0).then_some(SummaryEntry {
            touched: bytes[0] & 1 != 0,
            backed: bytes[0] & 2 != 0,
            hash,
        })
    }
}
