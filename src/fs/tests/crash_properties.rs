//! What applications need from fsync and rename, one guarantee a test. Each fails when the rule behind it is off, where
//! the filesystem has a switch for it.

use super::crash::disk::{Event, SECTOR, Snapshot};
use super::crash::images::Depth;
use super::crash::judge::{Found, Judge, look};
use super::crash::run::{History, Runner, STYLES, Start, Style, nothing, run};
use super::crash::words::parse;
use super::crash::{Mounted, ROOMY, format, mount, small};
use crate::base::Ino;
use crate::fs::rules::Rules;
use crate::fs::{Ctx, Store};

type Also<'a> = &'a dyn Fn(&History, &Mounted, &Found) -> Result<(), String>;

const JUDGE: Judge = Judge { depth: Depth::USUAL, checker: None, whole_checks: 0, base_checks: 9, seed: 7 };

/// Old bytes of somebody else in every block that holds nothing, as on a disk that was used before.
fn soiled(image: Snapshot) -> Start {
    let mut pages = (*image.pages).clone();
    for page in pages.iter_mut().filter(|page| page.is_none()) {
        *page = Some(std::sync::Arc::new([0x5E; 4096]));
    }
    // The head and the structures behind the data were written; what was not is never read.
    Start::empty(Snapshot { pages: std::sync::Arc::new(pages) })
}

fn start() -> Start {
    soiled(small())
}

fn nothing_else(_: &History, _: &Mounted, _: &Found) -> Result<(), String> {
    Ok(())
}

/// Whether every image of the workload is right under these rules, in all styles given.
fn survives(
    start: &Start,
    words: &str,
    styles: &[Style],
    rules: Rules,
    also: Also<'_>,
) -> Result<(), String> {
    let set = move |store: &Store| store.core_write().rules = rules;
    let ops = parse(words);
    for style in styles {
        let history = run(start, &ops, *style, &set)?;
        JUDGE.all_with(&history, &|mounted, found| also(&history, mounted, found))?;
    }
    Ok(())
}

/// Right under all rules, and wrong when one is off.
fn holds_by(words: &str, styles: &[Style], off: &[Rules], also: Also<'_>) {
    let start = start();
    survives(&start, words, styles, Rules::default(), also).unwrap_or_else(|why| panic!("{why}"));
    for rules in off {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            survives(&start, words, styles, *rules, also)
        }));
        assert!(!matches!(outcome, Ok(Ok(()))), "nothing notices that a rule is off: {rules:?}");
    }
}

fn holds(words: &str, also: Also<'_>) {
    holds_by(words, &STYLES, &[], also);
}

/// The tree that is left when nothing survived that was not flushed.
fn strictest(words: &str) -> Vec<Found> {
    let start = start();
    let last_flush = |event: &Event| matches!(event, Event::Flush);
    STYLES
        .iter()
        .map(|style| {
            let history = run(&start, &parse(words), *style, &nothing).unwrap();
            let last = history.events.iter().rposition(last_flush).map_or(0, |at| at + 1);
            let mut image = history.base.clone();
            image.advance(&history.events[..last]);
            look(&mount(&std::sync::Arc::new(image.disk())).unwrap()).unwrap()
        })
        .collect()
}

fn content<'a>(found: &'a Found, path: &str) -> Option<&'a Vec<u8>> {
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

#[test]
fn one_sector_is_overwritten_wholly_or_not_at_all() {
    let words = "create f; write f 0..64K; sync; checkpoint; begin; write f 4096..4608; fsync f; write f 8192..8704; \
                 writeback; fsync f";
    holds(words, &|history, _, found| {
        let data = content(found, "/f").ok_or("f is gone")?;
        for at in (0..data.len()).step_by(SECTOR) {
            if !versions(history).any(|version| version.get(at..at + SECTOR) == Some(&data[at..at + SECTOR]))
            {
                return Err(format!("the sector at {at} is torn"));
            }
        }
        Ok(())
    });
}

#[test]
fn an_append_never_shows_the_new_size_without_the_new_data() {
    let small = "create log; write log 0..7000; sync; checkpoint; begin; write log 7000..7500; fsync log; \
                 write log 7500..9000; fsync log";
    let off = Rules { tail_goes_home: true, ..Rules::default() };
    holds_by(small, &STYLES, &[off], &nothing_else);
    let large = "create log; write log 0..7000; sync; checkpoint; begin; write log 7000..300K; fsync log";
    let off = Rules { skip_fresh_flush: true, ..Rules::default() };
    holds_by(large, &STYLES, &[off], &nothing_else);
}

#[test]
fn an_append_is_cut_at_a_block_and_never_has_a_hole_inside() {
    let mut words = "create log; write log 0..1000; sync; begin; write log 1000..48K; ".to_string();
    // More than one record takes, in runs that ride in records.
    for n in 1..6 {
        words.push_str(&format!("write log {}K..{}K; ", n * 60, n * 60 + 48));
    }
    words.push_str("create other; fsync other; write log 400K..700K; fsync log");
    let start = soiled(format(ROOMY));
    let check = |rules| survives(&start, &words, &STYLES, rules, &nothing_else);
    check(Rules::default()).unwrap_or_else(|why| panic!("{why}"));
    assert!(check(Rules { size_ahead: true, ..Rules::default() }).is_err(), "nothing notices the early size");
}

#[test]
fn a_rename_of_a_synced_file_over_another_is_atomic() {
    let words = "create dst; write dst 0..6000; sync; begin; create tmp; write tmp 0..9000; fsync tmp; rename tmp dst; \
                 create other; fsync other";
    holds(words, &|history, _, found| {
        let data = content(found, "/dst").ok_or("dst is gone")?;
        let full = |size: usize| versions(history).any(|version| version.len() == size && version == data);
        if full(6000) || full(9000) { Ok(()) } else { Err(format!("dst has {} bytes", data.len())) }
    });
}

#[test]
fn a_rename_over_a_file_without_fsync_never_leaves_an_empty_one() {
    let words = "create dst; write dst 0..6000; sync; begin; create tmp; write tmp 0..9000; rename tmp dst; \
                 create other; fsync other; create more; sync";
    let off = Rules { skip_pulls: true, ..Rules::default() };
    holds_by(words, &STYLES, &[off], &|history, _, found| whole(history, found, "/dst"));
}

#[test]
fn a_rename_over_a_file_takes_along_a_size_that_no_buffer_shows() {
    // Zeroing takes the written buffers away: what is left of the write is how far the file reaches.
    let words = "create dst; write dst 0..6000; sync; begin; create tmp; write tmp 0..12288; zero tmp 0..12288; \
                 rename tmp dst; create other; fsync other; create more; sync";
    let off = Rules { skip_pulls: true, ..Rules::default() };
    holds_by(words, &[Style::Idle, Style::CheckpointBehind], &[off], &|history, _, found| {
        whole(history, found, "/dst")
    });
}

#[test]
fn a_file_cut_to_nothing_and_written_again_is_never_seen_empty() {
    // Somebody else's fsync comes after the write: what it makes stable of the cut comes with the data.
    let words = "create f; write f 0..6000; sync; begin; truncate f 0; write f 0..9000; create other; fsync other; \
                 sync";
    let off = Rules { skip_pulls: true, ..Rules::default() };
    let styles = [Style::Idle, Style::CheckpointBehind];
    holds_by(words, &styles, &[off], &|history, _, found| whole(history, found, "/f"));
}

#[test]
fn operations_on_directories_reach_the_disk_in_their_order() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let mut words = "mkdir D; sync; begin; ".to_string();
    for (nth, name) in names.iter().enumerate() {
        words.push_str(&format!("create D/{name}; "));
        if nth % 3 == 2 {
            words.push_str("writeback; ");
        }
    }
    words.push_str("fsync D; rename D/a D/z; unlink D/b; create D/h; fsync D/h");
    holds(&words, &|_, _, found| {
        let has = |name: &str| found.inos.contains_key(&format!("/D/{name}"));
        let made = names.iter().filter(|name| has(name)).count();
        let removed = [has("z"), !has("b"), has("h")];
        let ordered = match made {
            7 => removed == [false, true, false] || removed == [false, false, false],
            _ if has("z") => !has("a") && (!removed[2] || removed[1]),
            _ => names[..made].iter().all(|name| has(name)),
        };
        if ordered { Ok(()) } else { Err(format!("not a prefix of what was done:\n{}", found.listing)) }
    });
}

#[test]
fn fsync_of_a_new_file_makes_its_name_stable() {
    let words = "mkdir d; sync; create d/new; write d/new 0..5000; fsync d/new";
    for found in strictest(words) {
        assert_eq!(content(&found, "/d/new").map(Vec::len), Some(5000));
    }
    holds(words, &nothing_else);
}

#[test]
fn fsync_of_a_directory_makes_all_that_was_done_in_it_stable() {
    let words =
        "mkdir d; create d/b; create d/c; sync; create d/a; unlink d/b; rename d/c d/e; mkdir d/f; fsync d";
    for found in strictest(words) {
        let names: Vec<&str> = found.inos.keys().filter_map(|path| path.strip_prefix("/d/")).collect();
        assert_eq!(names, ["a", "e", "f"]);
    }
    holds(words, &nothing_else);
}

#[test]
fn a_failed_fsync_is_never_followed_by_one_that_succeeds() {
    for style in STYLES {
        let start = start();
        let mut runner = Runner::start(&start, style, &nothing).unwrap();
        for op in parse("create f; write f 0..9000; fsync f") {
            runner.step(&op).unwrap();
        }
        let stable = runner.disk.freeze();
        let fs = &runner.live().fs;
        let ino = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
        fs.write(&Ctx::default(), ino, 0, &[7; 9000], false).unwrap();
        runner.disk.fail_flushes_after(0);
        let synced = |data_only| {
            fs.fsync(ino, data_only).unwrap();
            fs.store().commit()
        };
        assert!(synced(false).is_err(), "{style:?}: the disk failed and fsync did not");
        // The disk answers again, but nobody knows what it lost.
        runner.disk.mend();
        for _ in 0..3 {
            assert!(
                synced(false).is_err() && synced(true).is_err(),
                "{style:?}: success for data that is lost"
            );
            assert!(
                fs.write(&Ctx::default(), ino, 0, &[8; 100], false).is_err(),
                "{style:?}: a change after it"
            );
        }
        // All that the failed flush covered is lost: the file is as it was.
        let found = look(&mount(&std::sync::Arc::new(stable.disk())).unwrap()).unwrap();
        assert_eq!(content(&found, "/f"), Some(&*runner.tree.nodes[&ino.0].data));
    }
}

#[test]
fn fdatasync_makes_size_and_extents_stable() {
    let words = "create f; write f 0..5000; fdatasync f; write f 5000..9000; fdatasync f; truncate f 8000; \
                 allocate f 8000..20000; fdatasync f; write f 100K..400K; fdatasync f";
    for found in strictest(words) {
        assert_eq!(content(&found, "/f").map(Vec::len), Some(400 << 10));
    }
    holds(words, &nothing_else);
}

/// SQLite with a rollback journal: the database is what it was, or what it became, once a journal that is there and
/// whole has been rolled back. `commit` ends the journal.
fn rollback_journal(commit: &str, is_hot: impl Fn(&[u8]) -> bool) {
    let words = format!(
        "create db; write db 0..160K; create journal; truncate journal 0; sync; begin; write journal 0..160K; \
         fsync journal; fsync .; write db 0..160K; fsync db; {commit}; fsync ."
    );
    holds_by(&words, &STYLES, &[], &|history, _, found| {
        let data = content(found, "/db").ok_or("db is gone")?;
        let db = history.trees[0].find("db").expect("made");
        let versions = &history.files[&db];
        let hot = content(found, "/journal").is_some_and(|journal| is_hot(journal));
        let known = versions.iter().any(|(_, version)| **version == *data);
        // Hot: the old pages are copied back, whatever the database holds.
        if hot || known { Ok(()) } else { Err("the database is torn and there is no journal".to_string()) }
    });
}

#[test]
fn a_rollback_journal_protects_the_database_however_it_is_ended() {
    const FULL: usize = 160 << 10;
    rollback_journal("unlink journal", |journal| journal.len() == FULL);
    rollback_journal("truncate journal 0", |journal| journal.len() == FULL);
    rollback_journal("zero-keep-size journal 0..512; fsync journal", |journal| {
        journal.len() == FULL && journal[..512].iter().any(|byte| *byte != 0)
    });
}

#[test]
fn a_write_ahead_log_holds_every_commit_that_was_synced() {
    let mut words = "create wal; create db; write db 0..64K; sync; begin; ".to_string();
    for n in 0..6u64 {
        words.push_str(&format!("write wal {}..{}; fdatasync wal; ", n * 4120, (n + 1) * 4120));
    }
    // The log is moved into the database, in large runs over blocks that were small writes before.
    words.push_str("write db 0..8K; fsync db; write db 0..160K; fsync db; write wal 0..4120; fsync wal");
    let off = Rules { ignore_log_owned: true, ..Rules::default() };
    holds_by(&words, &STYLES, &[off], &nothing_else);
}

/// PostgreSQL pages of 8 KiB may tear, but are never older than their fsync; a control file is replaced by rename.
#[test]
fn pages_are_never_older_than_their_fsync() {
    let words = "create table; write table 0..128K; create control; write control 0..8K; sync; checkpoint; begin; \
                 write table 8K..16K; write table 64K..72K; fsync table; create control.new; write control.new 0..8K; \
                 fsync control.new; rename control.new control; fsync control; fsync .; write table 8K..24K; \
                 fsync table";
    holds(words, &|history, _, found| whole(history, found, "/control"));
}

/// LMDB: data, fsync, one of two meta pages in turn, fsync. The meta page that is newest and whole names whole data.
#[test]
fn a_meta_page_is_never_ahead_of_the_data_it_names() {
    let mut words = "create db; write db 0..64K; sync; checkpoint; begin; ".to_string();
    for turn in 0..4u64 {
        let (data, meta) = (8192 + turn * 8192, (turn % 2) * 4096);
        words.push_str(&format!("write db {data}..{}; fdatasync db; ", data + 8192));
        words.push_str(&format!("write db {meta}..{}; fdatasync db; ", meta + 4096));
    }
    holds(&words, &|history, _, found| {
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
    });
}
