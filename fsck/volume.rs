//! The filesystem on the image, read without the program that writes it: superblock, chunk map, tables, log.
//!
//! Decides which commit of the tables counts, and collects what can be saved below pages that do not. Does not know
//! what a sound set of tables is. Invariant: garbage ends in a finding, never in a panic or an endless walk.

use std::collections::{BTreeMap, BTreeSet};

use twinfs::base::BlockNo;
use twinfs::format::{CHUNK_BLOCKS, ExtentRec, FsSuper, LogMeta, LogOp, TableId, ino_of_key};

use crate::files::Doubtful;
use crate::findings::{Beat, Findings};
use crate::log::{self, Log};
use crate::plausible::{choose, plausible};
use crate::source::{BLOCK, Source, TableSpace};
use crate::space::{Owner, Space};
use crate::tables::{Edits, Layered, Stored};
use crate::tree::{
    Broken, Catalog, Commit, Freed, HEAD_BYTES, Head, LISTS, PageNo, Root, Saved, TableInfo, Trees, Visitor,
    Widths, below_broken, read_catalog, unreferenced,
};

/// Entries of the chunk map from here on are chunks set aside.
const SPARE: u64 = 1 << 48;
/// Widths of the table of free runs.
pub const RUN_WIDTHS: Widths = Widths { key: Some(8), value: Some(8) };
const META_LOG: &[u8] = b"log";
/// Entries kept from pages that are not sure, against garbage that looks like millions.
const SAVED_MAX: usize = 4_000_000;

/// One filesystem as far as it could be read.
pub struct Volume<'a> {
    pub sup: FsSuper,
    pub tables: Layered<'a>,
    pub log: Log,
    /// Free runs as of the last checkpoint.
    pub free: Vec<(u64, u64)>,
    pub next_ino: u64,
    pub doubtful: Doubtful,
    pub inodes_lost: bool,
}

/// Blocks in front of the data that a search for copies reads beside the continuations: more than any log has.
const SEARCHED: u64 = 1 << 17;

/// The newest whole slot of the superblock that fits the image; of the copies, if both slots are lost.
pub fn superblock(source: &Source, findings: &mut Findings) -> Option<FsSuper> {
    let (mut newest, mut torn): (Option<FsSuper>, Vec<String>) = (None, Vec::new());
    for slot in 0..2 {
        match slot_of(source, slot) {
            Err(text) => torn.push(format!("slot {slot}: {text}")),
            Ok(sup) if newest.as_ref().is_none_or(|known| known.seq < sup.seq) => newest = Some(sup),
            Ok(_) => {}
        }
    }
    if newest.is_some() {
        // One slot may be torn by a crash while it was written.
        torn.into_iter().for_each(|text| {
            findings.mend(format!("filesystem superblock: {text} (the other slot counts)"));
        });
        return newest;
    }
    let copy = copy_of_slot(source);
    match &copy {
        None => torn.into_iter().for_each(|text| findings.lose("filesystem", text)),
        Some(_) => torn.into_iter().for_each(|text| {
            findings.add("filesystem superblock", format!("{text} (a copy of it counts)"));
        }),
    }
    copy
}

fn slot_of(source: &Source, slot: u64) -> Result<FsSuper, String> {
    let mut head = vec![0; BLOCK];
    // The slot has a hash of its own, which tells more than the digest of the block.
    source.block(BlockNo(slot), &mut head);
    let (first, needed) = FsSuper::peek(&head).ok_or("no superblock")?;
    if first.checked_add(needed as u64).is_none_or(|end| end > source.block_count()) {
        return Err("its continuation lies outside the image".into());
    }
    whole(source, &head, first, needed)
}

/// The newer of the copies. Where they lie depends on a geometry that only they know, so they are looked for.
fn copy_of_slot(source: &Source) -> Option<FsSuper> {
    let blocks = source.block_count();
    let chunks_max = usize::try_from(blocks / CHUNK_BLOCKS).ok()?;
    let end = blocks.min(4 * FsSuper::cont_needed(chunks_max) as u64 + SEARCHED);
    let mut newest: Option<FsSuper> = None;
    for at in (2..end).map(BlockNo) {
        let head = source.raw(at);
        let Some(needed) = FsSuper::peek_copy(&head, at) else { continue };
        let found = whole(source, &head, at.0 + 1, needed).ok();
        if let Some(sup) = found.filter(|sup| newest.as_ref().is_none_or(|known| known.seq < sup.seq)) {
            newest = Some(sup);
        }
    }
    newest
}

/// The state in `head` and its continuation of `needed` blocks from `first` on, if it is whole and fits the image.
fn whole(source: &Source, head: &[u8], first: u64, needed: usize) -> Result<FsSuper, String> {
    let blocks = source.block_count();
    let mut cont = vec![0; needed * BLOCK];
    source.run(BlockNo(first), &mut cont);
    let sup = FsSuper::decode(head, &cont).ok_or("its hash does not match")?;
    let fits = sup.block_count <= blocks
        && sup.data_first < sup.block_count
        && sup.ring_first.checked_add(sup.ring_blocks).is_some_and(|end| end <= sup.data_first)
        && sup.ring_blocks > 0
        && sup
            .cont_first
            .iter()
            .all(|first| first.checked_add(sup.cont_blocks).is_some_and(|end| end <= sup.data_first))
        && sup.chunks.iter().all(|(_, first)| {
            *first >= sup.data_first
                && first.checked_add(CHUNK_BLOCKS).is_some_and(|end| end <= sup.block_count)
        });
    if fits {
        Ok(sup)
    } else {
        Err(format!("it speaks of {} blocks on an image of {blocks}", sup.block_count))
    }
}

/// The areas before the data, and the chunks of the tables.
pub fn areas(sup: &FsSuper, findings: &mut Findings) -> Space {
    let mut inner = Space::new(sup.data_first);
    let mut fixed = vec![(0, 2), (sup.ring_first, sup.ring_blocks)];
    fixed.extend(sup.cont_first.map(|first| (first, sup.cont_blocks)).into_iter().filter(|(_, n)| *n > 0));
    fixed.extend(sup.copies().map(|(first, count)| (first.0, count)));
    for (first, count) in fixed {
        if let Err(text) = inner.claim(BlockNo(first), count, Owner::Fixed) {
            findings.lose("filesystem", format!("its areas overlap: {text}"));
        }
    }
    let mut space = Space::new(sup.block_count);
    // Cannot be refused: nothing is in use yet, and the superblock fits.
    let _ = space.claim(BlockNo(0), sup.data_first, Owner::Fixed);
    let mut last = None;
    for (index, first) in &sup.chunks {
        if last.is_some_and(|last| last >= *index) {
            findings.add("chunk map", format!("chunk {index} is out of order"));
        }
        last = Some(*index);
        if let Err(text) = space.claim(BlockNo(*first), CHUNK_BLOCKS, Owner::Tables) {
            findings.lose("chunk map", format!("chunk {index}: {text}"));
        }
    }
    space
}

/// The address space of the tables.
pub fn table_space<'a>(source: &'a Source, sup: &FsSuper) -> TableSpace<'a> {
    let (bound, spare): (Vec<_>, Vec<_>) = sup.chunks.iter().copied().partition(|(index, _)| *index < SPARE);
    let spare = spare.into_iter().map(|(_, first)| first).collect();
    TableSpace::new(source, sup.tables_len, bound.into_iter().collect(), spare)
}

/// Notes which pages are sound, how many entries there are, and what is broken.
#[derive(Default)]
struct Survey {
    pages: BTreeSet<PageNo>,
    entries: u64,
    broken: Vec<Broken>,
}

impl Visitor for Survey {
    fn page(&mut self, page: PageNo, _: usize) -> bool {
        self.pages.insert(page)
    }
    fn entry(&mut self, _: &[u8], _: &[u8]) {
        self.entries += 1;
    }
    fn broken(&mut self, broken: Broken) {
        self.broken.push(broken);
    }
}

/// Collects entries of plain tables.
#[derive(Default)]
struct Entries(Vec<(Vec<u8>, Vec<u8>)>);

impl Visitor for Entries {
    fn entry(&mut self, key: &[u8], value: &[u8]) {
        if self.0.len() < SAVED_MAX {
            self.0.push((key.to_vec(), value.to_vec()));
        }
    }
    fn broken(&mut self, _: Broken) {}
}

struct Reader<'a> {
    trees: Trees<'a>,
    /// Tables of the commit before.
    earlier: Catalog,
    /// Offsets of all pages that are sound.
    sound: BTreeSet<u64>,
    doubtful: Doubtful,
    saved: Edits,
    saved_count: usize,
}

/// Reads the tables and the log. `beat` is told of the entries of this walk and of those that follow.
pub fn read<'a>(
    space: &'a TableSpace<'a>,
    sup: FsSuper,
    findings: &mut Findings,
    beat: Option<&'a dyn Beat>,
) -> Volume<'a> {
    let head = head(space, findings);
    let commits = head.commits;
    let mut trees = Trees::new(space, head);
    let user = |commit: Option<Commit>| commit.and_then(|commit| commit.user);
    let catalog = read_catalog(&trees, user(commits[0]));
    let earlier = read_catalog(&trees, user(commits[1]));
    if let Some(beat) = beat {
        // Each table is surveyed, then checked.
        beat.expect(
            catalog.tables.values().fold(0, |sum, info| info.length.saturating_add(sum)).saturating_mul(2),
        );
        trees.beat = Some(beat);
    }
    for broken in &catalog.broken {
        findings.lose("tables", format!("a page of the list of tables: {}", broken.why));
    }
    for name in &catalog.unreadable {
        findings.lose("tables", format!("the entry of table {name} is not readable"));
    }
    own_tables(space, &trees.head, commits[0].and_then(|commit| commit.system), findings);
    let mut reader = Reader {
        trees,
        earlier,
        sound: BTreeSet::new(),
        doubtful: Doubtful::new(),
        saved: Edits::default(),
        saved_count: 0,
    };
    let mut infos = BTreeMap::new();
    let mut inodes_lost = false;
    for table in TableId::ALL {
        let (info, whole) = reader.table(table, catalog.tables.get(table.name()).copied(), findings);
        infos.insert(table, info);
        inodes_lost |= table == TableId::Inodes && !whole;
    }
    let free = reader.runs(catalog.tables.get("free").copied(), findings);
    let meta = reader.position(catalog.tables.get("meta").copied(), findings);
    let log = match &meta {
        Some(meta) => log::read(space.source, &sup, meta, findings),
        None => Log::default(),
    };
    let mut changes = reader.saved;
    let mut next_ino = meta.map_or(2, |meta| meta.next_ino);
    for record in &log.records {
        let whole = record.each_op(|op| {
            if let LogOp::Set { table, key, value } = op {
                reader.doubtful.remove(&(table, key.to_vec()));
                changes.set(table, key.to_vec(), value.map(<[u8]>::to_vec));
                if let (TableId::Inodes, Some(ino)) = (table, ino_of_key(key)) {
                    next_ino = next_ino.max(ino.0.saturating_add(1));
                }
            }
        });
        if !whole {
            findings.lose("log", format!("record {}: an operation is not readable", record.seq));
        }
    }
    let sup = with_found_chunks(sup, space);
    let base = Stored { trees: reader.trees, infos };
    let tables = Layered { base, changes };
    Volume { sup, tables, log, free, next_ino, doubtful: reader.doubtful, inodes_lost }
}

/// The superblock with the chunks that were found: they are in use as well.
fn with_found_chunks(mut sup: FsSuper, space: &TableSpace<'_>) -> FsSuper {
    let aside: Vec<(u64, u64)> = sup.chunks.iter().copied().filter(|(index, _)| *index >= SPARE).collect();
    let bound = space.bound();
    sup.chunks = bound.iter().map(|(index, first)| (*index, *first)).collect();
    sup.chunks.extend(aside.into_iter().filter(|(_, first)| !bound.values().any(|known| known == first)));
    sup
}

/// The head of the tables; one that says nothing if it is not readable.
fn head(space: &TableSpace<'_>, findings: &mut Findings) -> Head {
    let mut bytes = vec![0; HEAD_BYTES];
    crate::tree::Bytes::read(space, 0, &mut bytes);
    match Head::decode(&bytes) {
        Ok(head) => {
            if head.swapped {
                findings.lose("tables", "the last commit is not readable: the one before counts");
            }
            head
        }
        Err(why) => {
            findings.lose("tables", format!("{why}: only what lies in their pages can be saved"));
            Head { region_header_pages: 0, region_pages: 1 << 20, commits: [None, None], swapped: false }
        }
    }
}

/// The library's own tables: nothing of ours is in them, but it refuses to open without.
fn own_tables(space: &TableSpace<'_>, head: &Head, root: Option<Root>, findings: &mut Findings) {
    let mut trees = Trees::new(space, head.clone());
    trees.ordered = false;
    let catalog = read_catalog(&trees, root);
    let mut broken = catalog.broken.len() + catalog.unreadable.len();
    for info in catalog.tables.values().filter(|info| info.plain) {
        let mut survey = Survey::default();
        if let Some(root) = info.root {
            trees.walk(root, info.widths, &mut survey);
        }
        broken += survey.broken.len();
    }
    if broken > 0 {
        findings.add("tables", format!("{broken} pages of their own bookkeeping are damaged"));
    }
    let mut freed = Freed::default();
    for info in LISTS.iter().filter_map(|name| catalog.tables.get(*name)).filter(|info| info.plain) {
        if let Some(root) = info.root {
            trees.walk(root, info.widths, &mut freed);
        }
    }
    let wrong = freed.wrong(&trees);
    if wrong > 0 {
        findings.add("tables", format!("{wrong} of the pages that they mean to free cannot be"));
    }
}

impl Reader<'_> {
    /// Surveys one table: its root as far as it can be walked, and whether all of it could.
    fn survey(
        &mut self,
        name: &str,
        info: Option<TableInfo>,
        widths: Widths,
        findings: &mut Findings,
    ) -> (TableInfo, Vec<Broken>) {
        let empty = TableInfo { root: None, length: 0, widths, plain: true };
        let everything =
            Broken { page: PageNo(0), why: "its root is lost", low: None, high: None, bytes: Vec::new() };
        let Some(info) = info.filter(|info| info.plain && info.widths == widths) else {
            findings.lose("tables", format!("there is no table {name}"));
            return (empty, vec![everything]);
        };
        let mut survey = Survey::default();
        if let Some(root) = info.root {
            self.trees.walk(root, widths, &mut survey);
            if survey.broken.is_empty() && (survey.entries != info.length || root.length != info.length) {
                let text = format!("table {name} has {} entries, {} are there", info.length, survey.entries);
                findings.add("tables", text);
            }
        }
        for broken in &survey.broken {
            findings.lose("tables", format!("page {:#x} of table {name}: {}", broken.page.0, broken.why));
        }
        self.note_sound(&survey.pages);
        (info, survey.broken)
    }

    fn note_sound(&mut self, pages: &BTreeSet<PageNo>) {
        let space = self.trees.bytes.len();
        for page in pages {
            if let Some((offset, len)) = self.trees.head.place(*page, space) {
                self.sound.extend((offset..offset + len as u64).step_by(BLOCK));
            }
        }
    }

    /// What can be saved below broken pages, best first.
    fn saved(&mut self, name: &str, broken: &[Broken], widths: Widths) -> Vec<Saved> {
        let shape = (name == TableId::Extents.name()).then_some((16, ExtentRec::BYTES));
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for page in broken {
            out.extend(below_broken(&self.trees, page, widths, shape, &mut seen));
        }
        self.note_sound(&seen);
        let before = self.earlier.tables.get(name).filter(|info| info.plain && info.widths == widths);
        if let Some(root) = before.and_then(|info| info.root) {
            let mut entries = Entries::default();
            self.trees.walk(root, widths, &mut entries);
            let wanted =
                entries.0.into_iter().filter(|(key, _)| broken.iter().any(|b| b.covers(key, widths)));
            out.extend(wanted.map(|(key, value)| Saved { key, value, sure: false }));
        }
        unreferenced(&self.trees, broken, widths, &self.sound, &mut |saved| {
            if out.len() < SAVED_MAX {
                out.push(saved);
            }
        });
        out
    }

    /// One of the six tables; false if part of it is lost.
    fn table(
        &mut self,
        table: TableId,
        info: Option<TableInfo>,
        findings: &mut Findings,
    ) -> (TableInfo, bool) {
        let (info, broken) = self.survey(table.name(), info, Widths::default(), findings);
        if broken.is_empty() {
            return (info, true);
        }
        let mut kept: BTreeMap<Vec<u8>, Saved> = BTreeMap::new();
        for saved in self.saved(table.name(), &broken, Widths::default()) {
            if !saved.sure && !plausible(table, &saved.key, &saved.value) {
                continue;
            }
            match kept.get(&saved.key) {
                Some(known) if known.sure || !choose(table, known, &saved) => {}
                _ => {
                    kept.insert(saved.key.clone(), saved);
                }
            }
        }
        let sure = kept.values().filter(|saved| saved.sure).count();
        let text = format!(
            "table {}: {sure} entries below broken pages are whole, {} were saved and may be out of date",
            table.name(),
            kept.len() - sure
        );
        findings.lose("tables", text);
        for (key, saved) in kept {
            self.saved_count += 1;
            if self.saved_count > SAVED_MAX {
                break;
            }
            if !saved.sure {
                self.doubtful.insert((table, key.clone()));
            }
            self.saved.put(table, key, saved.value);
        }
        (info, false)
    }

    /// The free runs. What is lost of them follows from what is in use.
    fn runs(&mut self, info: Option<TableInfo>, findings: &mut Findings) -> Vec<(u64, u64)> {
        let (info, _) = self.survey("free", info, RUN_WIDTHS, findings);
        let mut entries = Entries::default();
        if let Some(root) = info.root {
            self.trees.walk(root, RUN_WIDTHS, &mut entries);
        }
        let number = |bytes: &[u8]| bytes.first_chunk().map(|raw| u64::from_le_bytes(*raw));
        entries.0.iter().filter_map(|(start, count)| Some((number(start)?, number(count)?))).collect()
    }

    /// Where the log goes on behind the last checkpoint.
    fn position(&mut self, info: Option<TableInfo>, findings: &mut Findings) -> Option<LogMeta> {
        let (info, broken) = self.survey("meta", info, Widths::default(), findings);
        let stored = info.root.and_then(|root| self.trees.get(root, info.widths, META_LOG));
        if let Some(meta) = stored.as_deref().and_then(LogMeta::decode) {
            return Some(meta);
        }
        let saved = self.saved("meta", &broken, Widths::default());
        let metas = saved.iter().filter(|saved| saved.key == META_LOG);
        let newest = metas.filter_map(|saved| LogMeta::decode(&saved.value)).max_by_key(|meta| meta.applied);
        match newest {
            None => findings.lose("log", "no position: what was not checkpointed is lost"),
            Some(meta) => {
                let text = format!("position of record {} was saved from a broken page", meta.applied);
                findings.lose("log", text);
            }
        }
        newest
    }
}
