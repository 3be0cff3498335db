//! The tables' list of pages to be freed, read before redb acts on it.
//!
//! redb frees what the list of the last commit names in the middle of the next one, holding its lock; a page that
//! cannot be makes it panic there, and while it cleans up it needs the lock again and ends the process. So whoever
//! opens the tables looks first. Decides whether every listed page lies inside the tables and is listed once. Does not
//! know what the pages hold. Invariant: no bytes make it panic, loop, or read more than the tables have.

use redb::StorageBackend;

use super::FsError;
use super::store::corrupt;

/// Bytes of the head, where its numbers lie, and the two commits.
const HEAD_BYTES: usize = 320;
const GOD_BYTE: usize = 9;
const REGION_HEADER_PAGES: usize = 16;
const REGION_PAGES: usize = 20;
const COMMITS: [usize; 2] = [64, 192];
/// Inside a commit: whether there is a tree of redb's own tables, and its root.
const HAS_SYSTEM: usize = 2;
const SYSTEM_ROOT: usize = 40;
/// Inside a table's entry: whether it has a tree, and its root.
const HAS_ROOT: usize = 9;
const TABLE_ROOT: usize = 10;

const PAGE: u64 = 4096;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// No sound tree is nearly as deep.
const DEPTH_MAX: usize = 40;
/// Keys of the lists: two numbers.
const LIST_KEY: usize = 16;
const LISTS: [&[u8]; 2] = [b"data_pages_unreachable", b"system_pages_unreachable"];

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|raw| usize::from(u16::from_le_bytes(*raw)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_le_bytes(*raw) as usize)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|raw| u64::from_le_bytes(*raw))
}

/// The pages as redb numbers them.
struct Pages<'a> {
    backend: &'a dyn StorageBackend,
    len: u64,
    header_bytes: u64,
    region_bytes: u64,
    /// Pages that a walk may still read: a tree has no more than there are.
    left: u64,
}

impl Pages<'_> {
    /// Offset and length of a page, if it lies in the tables.
    fn place(&self, number: u64) -> Option<(u64, u64)> {
        let order = number >> 59;
        let (index, region) = (number & (0xF_FFFF >> order), number >> 20 & 0xF_FFFF);
        let size = PAGE << order;
        let inside = self.header_bytes + index.checked_mul(size)?;
        let start = PAGE.checked_add(region.checked_mul(self.region_bytes)?)?.checked_add(inside)?;
        (inside + size <= self.region_bytes && start.checked_add(size)? <= self.len).then_some((start, size))
    }

    /// `None`: no such page, or no tree that anybody could have built. Errors of the medium are errors.
    fn read(&mut self, number: u64) -> Result<Option<Vec<u8>>, FsError> {
        let Some((start, size)) = self.place(number).filter(|_| self.left > 0) else { return Ok(None) };
        self.left -= 1;
        let mut bytes = vec![0; size as usize];
        let read = self.backend.read(start, &mut bytes);
        read.map_err(|error| FsError::Io(format!("tables: {error}")))?;
        Ok(Some(bytes))
    }

    /// Gives every entry below a page to `entry`; false if something below is no tree, or `entry` says so.
    fn walk(
        &mut self,
        number: u64,
        key_width: Option<usize>,
        depth: usize,
        entry: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool, FsError> {
        let Some(page) = self.read(number)?.filter(|_| depth < DEPTH_MAX) else { return Ok(false) };
        let Some(count) = u16_at(&page, 2).filter(|count| *count > 0) else { return Ok(false) };
        match page[0] {
            LEAF => Ok(leaf(&page, count, key_width, entry).is_some()),
            BRANCH => {
                for child in 0..=count {
                    let Some(child) = u64_at(&page, 8 + (count + 1) * 16 + child * 8) else {
                        return Ok(false);
                    };
                    if !self.walk(child, key_width, depth + 1, entry)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// The entries of a leaf whose values are of any length.
fn leaf(
    page: &[u8],
    count: usize,
    key_width: Option<usize>,
    entry: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Option<()> {
    let value_ends = 4 + if key_width.is_none() { count * 4 } else { 0 };
    let first_key = value_ends + count * 4;
    let key_end = |n: usize| match key_width {
        Some(width) => Some(first_key + (n + 1) * width),
        None => u32_at(page, 4 + n * 4),
    };
    let (mut key, mut value) = (first_key, key_end(count - 1)?);
    for n in 0..count {
        let (key_stop, value_stop) = (key_end(n)?, u32_at(page, value_ends + n * 4)?);
        if !entry(page.get(key..key_stop)?, page.get(value..value_stop)?) {
            return None;
        }
        (key, value) = (key_stop, value_stop);
    }
    Some(())
}

/// Refuses tables whose lists redb must not act on.
pub(super) fn check(backend: &dyn StorageBackend) -> Result<(), FsError> {
    let foreign = || corrupt("tables: the list of freed pages names pages that cannot be".to_string());
    let mut head = [0; HEAD_BYTES];
    let io = |error: std::io::Error| FsError::Io(format!("tables: {error}"));
    let len = backend.len().map_err(io)?;
    backend.read(0, &mut head).map_err(io)?;
    let commit = &head[COMMITS[usize::from(head[GOD_BYTE] & 1)]..];
    if commit[HAS_SYSTEM] == 0 {
        return Ok(());
    }
    let number = |at: usize| u32_at(&head, at).unwrap_or_default() as u64 * PAGE;
    let header_bytes = number(REGION_HEADER_PAGES);
    let region_bytes = header_bytes + number(REGION_PAGES);
    let mut pages = Pages { backend, len, header_bytes, region_bytes, left: len / PAGE };
    let root = u64_at(commit, SYSTEM_ROOT).ok_or_else(foreign)?;
    let mut roots = Vec::new();
    let whole = pages.walk(root, None, 0, &mut |name, table| {
        if LISTS.contains(&name) && table.get(HAS_ROOT).is_some_and(|there| *there != 0) {
            roots.push(u64_at(table, TABLE_ROOT));
        }
        true
    })?;
    if !whole {
        return Err(foreign());
    }
    let mut listed = Vec::new();
    for root in roots {
        let root = root.ok_or_else(foreign)?;
        let whole = pages.walk(root, Some(LIST_KEY), 0, &mut |_, list| {
            let numbers = u16_at(list, 0).and_then(|count| list.get(2..2 + count * 8));
            listed.extend(
                numbers
                    .into_iter()
                    .flat_map(|numbers| numbers.as_chunks::<8>().0)
                    .map(|raw| u64::from_le_bytes(*raw)),
            );
            numbers.is_some()
        })?;
        if !whole {
            return Err(foreign());
        }
    }
    // No two may overlap: what is freed twice is given out twice.
    let mut places: Vec<(u64, u64)> =
        listed.into_iter().map(|number| pages.place(number)).collect::<Option<_>>().ok_or_else(foreign)?;
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        return Err(foreign());
    }
    Ok(())
}
