//! What applications need from fsync and rename, as workloads with a question about every image.
//!
//! Decides what each guarantee means. The unit tests of `fs` also switch off the rule behind each; the integration
//! target `crash` asks the independent checker about the same images.

use std::sync::Arc;

use twinfs::base::Ino;
use twinfs::fs::{Ctx, Store};

use super::disk::{Event, SECTOR, Snapshot};
use super::images::{Fate, each_image};
use super::judge::{Count, Found, Judge, look};
use super::run::{History, Runner, STYLES, Start, Style, nothing, run};
use super::words::parse;
use super::{ROOMY, format, mount, small};

/// A question about the tree on an image.
pub type Also = Box<dyn Fn(&History, &Found) -> Result<(), String> + Send + Sync>;

/// One guarantee.
pub struct Property {
    pub name: &'static str,
    pub words: String,
    pub styles: &'static [Style],
    roomy: bool,
    also: Also,
}

/// Old bytes of somebody else in every block that holds nothing, as on a disk that was used before.
fn soiled(image: Snapshot) -> Start {
    let mut pages = (*image.pages).clone();
    for page in pages.iter_mut().filter(|page| page.is_none()) {
        *page = Some(Arc::new([0x5E; 4096]));
    }
    // The head and the structures behind the data were written; what was not is never read.
    Start::empty(Snapshot { pages: Arc::new(pages) })
}

impl Property {
    fn new(name: &'static str, words: impl Into<String>) -> Property {
        let also = Box::new(|_: &History, _: &Found| Ok(()));
        Property { name, words: words.into(), styles: &STYLES, roomy: false, also }
    }

    fn asks(self, also: impl Fn(&History, &Found) -> Result<(), String> + Send + Sync + 'static) -> Property {
        Property { also: Box::new(also), ..self }
    }

    fn in_styles(self, styles: &'static [Style]) -> Property {
        Property { styles, ..self }
    }

    fn roomy(self) -> Property {
        Property { roomy: true, ..self }
    }

    /// Where the workload begins.
    pub fn start(&self) -> Start {
        soiled(if self.roomy { format(ROOMY) } else { small() })
    }

    /// Judges every image of the workload, in all its styles. `on_open` is called with each store.
    pub fn judge(&self, start: &Start, judge: &Judge, on_open: &dyn Fn(&Store)) -> Result<Count, String> {
        let ops = parse(&self.words);
        let mut total = Count::default();
        for style in self.styles {
            let history = run(start, &ops, *style, on_open)?;
            total.add(judge.all_with(&history, &|_, found| (self.also)(&history, found))?);
        }
        Ok(total)
    }

    /// The trees that are left when nothing survived that was not flushed.
    pub fn strictest(&self) -> Vec<Found> {
        let start = self.start();
        let left = |style: &Style| {
            let history = run(&start, &parse(&self.words), *style, &nothing).expect("runs");
            let last = history.events.iter().rposition(|event| matches!(event, Event::Flush));
            let mut image = history.base.clone();
            image.advance(&history.events[..last.map_or(0, |at| at + 1)]);
            look(&mount(&Arc::new(image.disk())).expect("mounts")).expect("reads")
        };
        self.styles.iter().map(left).collect()
    }
}

pub fn content<'a>(found: &'a Found, path: &str) -> Option<&'a Vec<u8>> {
    found.inos.get(path).and_then(|ino| found.files.get(ino))
}

/// All that the files ever contained.
fn versions(history: &History) -> impl Iterator<Item = &Vec<u8>> {
    history.files.values().flatten().map(|(_, data)| &**data)
}

/// `path` is one of the contents that some file ever had, none of them empty.
fn whole(history: &History, found: &Found, path: &str) -> Result<(), String> {
    let data = content(found, path).ok_or_else(|| format!("{path} is gone"))?;
    match !data.is_empty() && versions(history).any(|version| version == data) {
        true => Ok(()),
        false => Err(format!("{path} is neither old nor new, {} bytes", data.len())),
    }
}

pub fn one_sector() -> Property {
    let words = "create f; write f 0..64K; sync; checkpoint; begin; write f 4096..4608; fsync f; write f 8192..8704; \
                 writeback; fsync f";
    Property::new("a sector is overwritten wholly or not at all", words).asks(|history, found| {
        let data = content(found, "/f").ok_or("f is gone")?;
        for at in (0..data.len()).step_by(SECTOR) {
            let sector = Some(&data[at..at + SECTOR]);
            if !versions(history).any(|version| version.get(at..at + SECTOR) == sector) {
                return Err(format!("the sector at {at} is torn"));
            }
        }
        Ok(())
    })
}

const APPEND: &str = "an append never shows the new size without the new data";

pub fn small_append() -> Property {
    let words = "create log; write log 0..7000; sync; checkpoint; begin; write log 7000..7500; fsync log; \
                 write log 7500..9000; fsync log";
    Property::new(APPEND, words)
}

pub fn large_append() -> Property {
    Property::new(
        APPEND,
        "create log; write log 0..7000; sync; checkpoint; begin; write log 7000..300K; fsync log",
    )
}

pub fn append_without_holes() -> Property {
    let mut words = "create log; write log 0..1000; sync; begin; write log 1000..48K; ".to_string();
    // More than one record takes, in runs that ride in records.
    for n in 1..6 {
        words.push_str(&format!("write log {}K..{}K; ", n * 60, n * 60 + 48));
    }
    words.push_str("create other; fsync other; write log 400K..700K; fsync log");
    Property::new("an append is cut at a block and never has a hole inside", words).roomy()
}

pub fn synced_rename_over() -> Property {
    let words = "create dst; write dst 0..6000; sync; begin; create tmp; write tmp 0..9000; fsync tmp; rename tmp dst; \
                 create other; fsync other";
    Property::new("a rename of a synced file over another is atomic", words).asks(|history, found| {
        let data = content(found, "/dst").ok_or("dst is gone")?;
        let full = |size: usize| versions(history).any(|version| version.len() == size && version == data);
        if full(6000) || full(9000) { Ok(()) } else { Err(format!("dst has {} bytes", data.len())) }
    })
}

const NEVER_EMPTY: &str = "a rename over a file without fsync never leaves an empty one";

pub fn rename_over() -> Property {
    let words = "create dst; write dst 0..6000; sync; begin; create tmp; write tmp 0..9000; rename tmp dst; \
                 create other; fsync other; create more; sync";
    Property::new(NEVER_EMPTY, words).asks(|history, found| whole(history, found, "/dst"))
}

/// Zeroing takes the written buffers away: what is left of the write is how far the file reaches.
pub fn rename_over_of_zeros() -> Property {
    let words = "create dst; write dst 0..6000; sync; begin; create tmp; write tmp 0..12288; zero tmp 0..12288; \
                 rename tmp dst; create other; fsync other; create more; sync";
    Property::new(NEVER_EMPTY, words)
        .in_styles(&[Style::Idle, Style::CheckpointBehind])
        .asks(|history, found| whole(history, found, "/dst"))
}

/// Somebody else's fsync comes after the write: what it makes stable of the cut comes with the data.
pub fn rewritten() -> Property {
    let words = "create f; write f 0..6000; sync; begin; truncate f 0; write f 0..9000; create other; fsync other; \
                 sync";
    Property::new("a file cut to nothing and written again is never seen empty", words)
        .in_styles(&[Style::Idle, Style::CheckpointBehind])
        .asks(|history, found| whole(history, found, "/f"))
}

pub fn order_of_names() -> Property {
    const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
    let mut words = "mkdir D; sync; begin; ".to_string();
    for (nth, name) in NAMES.iter().enumerate() {
        words.push_str(&format!("create D/{name}; "));
        if nth % 3 == 2 {
            words.push_str("writeback; ");
        }
    }
    words.push_str("fsync D; rename D/a D/z; unlink D/b; create D/h; fsync D/h");
    Property::new("operations on directories reach the disk in their order", words).asks(|_, found| {
        let has = |name: &str| found.inos.contains_key(&format!("/D/{name}"));
        let made = NAMES.iter().filter(|name| has(name)).count();
        let removed = [has("z"), !has("b"), has("h")];
        let ordered = match made {
            7 => removed == [false, true, false] || removed == [false, false, false],
            _ if has("z") => !has("a") && (!removed[2] || removed[1]),
            _ => NAMES[..made].iter().all(|name| has(name)),
        };
        if ordered { Ok(()) } else { Err(format!("not a prefix of what was done:\n{}", found.listing)) }
    })
}

pub fn fsync_of_a_new_file() -> Property {
    let words = "mkdir d; sync; create d/new; write d/new 0..5000; fsync d/new";
    Property::new("fsync of a new file makes its name stable", words)
}

pub fn fsync_of_a_directory() -> Property {
    let words =
        "mkdir d; create d/b; create d/c; sync; create d/a; unlink d/b; rename d/c d/e; mkdir d/f; fsync d";
    Property::new("fsync of a directory makes all that was done in it stable", words)
}

pub fn fdatasync() -> Property {
    let words = "create f; write f 0..5000; fdatasync f; write f 5000..9000; fdatasync f; truncate f 8000; \
                 allocate f 8000..20000; fdatasync f; write f 100K..400K; fdatasync f";
    Property::new("fdatasync makes size and extents stable", words)
}

/// SQLite with a rollback journal: the database is what it was, or what it became, once a journal that is there and
/// whole has been rolled back. `commit` ends the journal.
fn rollback_journal(commit: &str, is_hot: fn(&[u8]) -> bool) -> Property {
    let words = format!(
        "create db; write db 0..160K; create journal; truncate journal 0; sync; begin; write journal 0..160K; \
         fsync journal; fsync .; write db 0..160K; fsync db; {commit}; fsync ."
    );
    let name = "a rollback journal protects the database however it is ended";
    Property::new(name, words).asks(move |history, found| {
        let data = content(found, "/db").ok_or("db is gone")?;
        let db = history.trees[0].find("db").expect("made");
        let versions = &history.files[&db];
        let hot = content(found, "/journal").is_some_and(|journal| is_hot(journal));
        let known = versions.iter().any(|(_, version)| **version == *data);
        // Hot: the old pages are copied back, whatever the database holds.
        if hot || known { Ok(()) } else { Err("the database is torn and there is no journal".to_string()) }
    })
}

/// The three ways to end a rollback journal.
pub fn rollback_journals() -> [Property; 3] {
    const FULL: usize = 160 << 10;
    [
        rollback_journal("unlink journal", |journal| journal.len() == FULL),
        rollback_journal("truncate journal 0", |journal| journal.len() == FULL),
        rollback_journal("zero-keep-size journal 0..512; fsync journal", |journal| {
            journal.len() == FULL && journal[..512].iter().any(|byte| *byte != 0)
        }),
    ]
}

pub fn write_ahead_log() -> Property {
    let mut words = "create wal; create db; write db 0..64K; sync; begin; ".to_string();
    for n in 0..6u64 {
        words.push_str(&format!("write wal {}..{}; fdatasync wal; ", n * 4120, (n + 1) * 4120));
    }
    // The log is moved into the database, in large runs over blocks that were small writes before.
    words.push_str("write db 0..8K; fsync db; write db 0..160K; fsync db; write wal 0..4120; fsync wal");
    Property::new("a write-ahead log holds every commit that was synced", words)
}

/// PostgreSQL pages of 8 KiB may tear, but are never older than their fsync; a control file is replaced by rename.
pub fn database_pages() -> Property {
    let words = "create table; write table 0..128K; create control; write control 0..8K; sync; checkpoint; begin; \
                 write table 8K..16K; write table 64K..72K; fsync table; create control.new; write control.new 0..8K; \
                 fsync control.new; rename control.new control; fsync control; fsync .; write table 8K..24K; \
                 fsync table";
    Property::new("pages are never older than their fsync", words)
        .asks(|history, found| whole(history, found, "/control"))
}

/// LMDB: data, fsync, one of two meta pages in turn, fsync. The meta page that is newest and whole names whole data.
pub fn two_meta_pages() -> Property {
    let mut words = "create db; write db 0..64K; sync; checkpoint; begin; ".to_string();
    for turn in 0..4u64 {
        let (data, meta) = (8192 + turn * 8192, (turn % 2) * 4096);
        words.push_str(&format!("write db {data}..{}; fdatasync db; ", data + 8192));
        words.push_str(&format!("write db {meta}..{}; fdatasync db; ", meta + 4096));
    }
    Property::new("a meta page is never ahead of the data it names", words).asks(|history, found| {
        let data = content(found, "/db").ok_or("db is gone")?;
        let versions: Vec<&Vec<u8>> = versions(history).collect();
        // The version in which each range became what it is.
        let since = |from: usize, to: usize| {
            versions.iter().position(|version| version.get(from..to) == data.get(from..to))
        };
        for turn in 0..4usize {
            let (place, meta) = (8192 + turn * 8192, turn % 2 * 4096);
            let Some(named) = since(meta, meta + 4096) else { continue };
            let written = 1 + 2 * turn;
            if named > written && since(place, place + 8192) == Some(0) {
                return Err(format!("the meta page of version {named} names data that is not there"));
            }
        }
        Ok(())
    })
}

/// All but that of a failed fsync, which is no workload.
pub fn all() -> Vec<Property> {
    let mut all = vec![
        one_sector(),
        small_append(),
        large_append(),
        append_without_holes(),
        synced_rename_over(),
        rename_over(),
        rename_over_of_zeros(),
        rewritten(),
        order_of_names(),
        fsync_of_a_new_file(),
        fsync_of_a_directory(),
        fdatasync(),
        write_ahead_log(),
        database_pages(),
        two_meta_pages(),
    ];
    all.extend(rollback_journals());
    all
}

/// After an fsync that failed every later one fails too, nothing is changed any more, and whatever of the lost writes
/// is on the disk, the image is sound and shows each sector as it was or as it was written.
pub fn failed_fsync(judge: &Judge) -> Result<Count, String> {
    let start = soiled(small());
    let mut total = Count::default();
    for style in STYLES {
        let mut runner = Runner::start(&start, style, &nothing)?;
        for op in parse("create f; write f 0..9000; fsync f; begin") {
            runner.step(&op)?;
        }
        let old = runner.tree.nodes[&runner.tree.find("f").expect("made")].data.clone();
        let fs = &runner.live().fs;
        let text = |error: twinfs::fs::FsError| error.to_string();
        let ino = fs.lookup(Ino::ROOT, b"f").map_err(text)?.ino;
        fs.write(&Ctx::default(), ino, 0, &[7; 9000], false).map_err(text)?;
        runner.disk.fail_flushes_after(0);
        let synced = |data_only| fs.fsync(ino, data_only).is_ok() && fs.store().commit().is_ok();
        if synced(false) {
            return Err(format!("{style:?}: the disk failed and fsync did not"));
        }
        // The disk answers again, but nobody knows what it lost.
        runner.disk.mend();
        for _ in 0..3 {
            if synced(false) || synced(true) {
                return Err(format!("{style:?}: success for data that is lost"));
            }
            if fs.write(&Ctx::default(), ino, 0, &[8; 100], false).is_ok() {
                return Err(format!("{style:?}: a change after it"));
            }
        }
        let history = runner.finish(&[]);
        let depth = &judge.depth;
        let mut number = judge.seed;
        total.images +=
            each_image(&history.base, &history.events, depth, judge.seed, &mut |base, over, cut| {
                number += 1;
                let disk = Arc::new(base.with(over));
                let mounted = judge.sound(&disk, number)?;
                let found = look(&mounted)?;
                let data = content(&found, "/f").ok_or("f is gone")?;
                let lost = cut.fates.iter().all(|fate| *fate == Fate::Lost);
                let new = |sector: &[u8]| !lost && sector.iter().all(|byte| *byte == 7);
                let mut sectors = data.chunks(SECTOR).zip(old.chunks(SECTOR));
                match data.len() == old.len() && sectors.all(|(now, was)| now == was || new(now)) {
                    true => Ok(()),
                    false => Err(format!("{style:?} {}: f is not what it was", cut.show())),
                }
            })?;
        total.workloads += 1;
    }
    Ok(total)
}
