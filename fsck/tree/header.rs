//! The head of the tables' address space: which commit counts and where its trees begin.
//!
//! Decides the bytes of the first page only. Invariant: a number from disk is checked before anyone uses it.

use crate::xxh3::checksum;

const MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];
const VERSION: u8 = 3;
pub const PAGE: u64 = 4096;
const SLOTS_AT: [usize; 2] = [64, 192];
const SLOT_BYTES: usize = 128;
/// Bytes of the head that are read.
pub const HEAD_BYTES: usize = 320;
/// Largest number of pages of a region.
const REGION_PAGES_MAX: u32 = 1 << 20;
/// Largest page: 4 KiB << 12. Values of the tables are far smaller.
const ORDER_MAX: u32 = 12;

/// Where a page lies: index in its region, region, size as a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageNo(pub u64);

/// Root of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    pub page: PageNo,
    pub checksum: u128,
    /// Entries of the tree.
    pub length: u64,
}

impl Root {
    pub const BYTES: usize = 32;

    pub fn decode(bytes: &[u8]) -> Option<Root> {
        Some(Root {
            page: PageNo(u64_at(bytes, 0)?),
            checksum: u128_at(bytes, 8)?,
            length: u64_at(bytes, 24)?,
        })
    }
}

/// One of the two commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Tree of the tables, `None` if there is none.
    pub user: Option<Root>,
    /// Tree of the library's own tables.
    pub system: Option<Root>,
    pub transaction: u64,
}

/// The head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub region_header_pages: u64,
    pub region_pages: u64,
    /// The commit that counts and the one before, as far as their checksums are right.
    pub commits: [Option<Commit>; 2],
    /// The commit that counts was not the one marked so.
    pub swapped: bool,
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|raw| u64::from_le_bytes(*raw))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_le_bytes(*raw))
}

pub(super) fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    bytes.get(at..)?.first_chunk().map(|raw| u128::from_le_bytes(*raw))
}

impl Head {
    /// Reads the head; the error says what it is instead.
    pub fn decode(bytes: &[u8]) -> Result<Head, &'static str> {
        if bytes.len() < HEAD_BYTES || bytes[..MAGIC.len()] != MAGIC {
            return Err("the head of the tables is not there");
        }
        let god = bytes[MAGIC.len()];
        let numbers = [12, 16, 20].map(|at| u32_at(bytes, at).unwrap_or_default());
        let [page, header_pages, region_pages] = numbers;
        if u64::from(page) != PAGE
            || header_pages > REGION_PAGES_MAX
            || !(1..=REGION_PAGES_MAX).contains(&region_pages)
        {
            return Err("the head of the tables has an impossible geometry");
        }
        let slots = SLOTS_AT.map(|at| commit(&bytes[at..at + SLOT_BYTES]));
        let marked = usize::from(god & 1 != 0);
        let (first, second) = (slots[marked], slots[1 - marked]);
        let two_phase = god & 4 != 0;
        // A commit of one phase counts only if it is also the newer one.
        let newer = |a: Option<Commit>, b: Option<Commit>| match (a, b) {
            (Some(a), Some(b)) => a.transaction > b.transaction,
            (a, _) => a.is_some(),
        };
        let swapped = first.is_none() || (!two_phase && newer(second, first));
        let commits = if swapped { [second, first] } else { [first, second] };
        if commits[0].is_none() {
            return Err("both commits of the tables are damaged");
        }
        Ok(Head {
            region_header_pages: header_pages.into(),
            region_pages: region_pages.into(),
            commits,
            swapped,
        })
    }

    /// Offset and length of a page inside an address space of `len` bytes.
    pub fn place(&self, page: PageNo, len: u64) -> Option<(u64, usize)> {
        let order = (page.0 >> 59) as u32;
        if order > ORDER_MAX {
            return None;
        }
        let index = page.0 & (0xF_FFFF >> order);
        let region = page.0 >> 20 & 0xF_FFFF;
        let size = PAGE << order;
        let region_bytes = (self.region_header_pages + self.region_pages) * PAGE;
        let inside = self.region_header_pages * PAGE + index * size;
        let start = PAGE.checked_add(region.checked_mul(region_bytes)?)?.checked_add(inside)?;
        (inside + size <= region_bytes && start.checked_add(size)? <= len).then_some((start, size as usize))
    }
}

fn commit(slot: &[u8]) -> Option<Commit> {
    let sum = u128_at(slot, SLOT_BYTES - 16)?;
    if slot[0] != VERSION || checksum(&slot[..SLOT_BYTES - 16]) != Some(sum) {
        return None;
    }
    let root = |there: usize, at: usize| match slot[there] {
        0 => Some(None),
        _ => Root::decode(&slot[at..at + Root::BYTES]).map(Some),
    };
    Some(Commit {
        user: root(1, 8)?,
        system: root(2, 8 + Root::BYTES)?,
        transaction: u64_at(slot, 8 + 3 * Root::BYTES)?,
    })
}
