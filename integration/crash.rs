//! Crash consistency at every write, in the process: see `src/fs/tests/crash/mod.rs` for how images are made and
//! judged.
//!
//! Here they are also shown to the independent checker. TWINFS_LONG=1 enumerates deeper and reaches a million images.
#![allow(clippy::disallowed_methods, reason = "a test that measures its speed and uses threads")]

#[path = "crash/checker.rs"]
mod checker;
/// The modules of the checker's program; they name each other from the root of their crate.
#[path = "../fsck"]
#[allow(dead_code, reason = "the checker is a program: here it is asked for its findings only")]
mod fsck {
    pub mod apply;
    pub mod content;
    pub mod examine;
    pub mod files;
    pub mod findings;
    pub mod log;
    pub mod medium;
    pub mod overlay;
    pub mod pair;
    pub mod plan;
    pub mod plausible;
    pub mod rebuild;
    pub mod source;
    pub mod space;
    pub mod tables;
    pub mod tree;
    pub mod volume;
    pub mod xxh3;
}
#[path = "../src/fs/tests/crash/mod.rs"]
#[allow(dead_code, reason = "the unit tests of `fs` use another part of it")]
mod harness;

use fsck::{
    apply, content, examine, files, findings, log, medium, overlay, pair, plan, plausible, rebuild, source,
    space, tables, tree, volume, xxh3,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use harness::Mounted;
use harness::images::Depth;
use harness::judge::{Count, Found, Judge, look, make_ten_more};
use harness::model::{self, Done};
use harness::run::{self, History, STYLES, Start, Style};
use harness::{small_names, words};

const CI: Judge =
    Judge { depth: Depth::USUAL, checker: Some(checker::CHECKER), whole_checks: 7, base_checks: 5, seed: 1 };

fn is_long() -> bool {
    std::env::var_os("TWINFS_LONG").is_some()
}

/// Prints a line past the test runner's capture: how much was looked at is part of the result.
fn say(line: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says how fast it went.
fn report(what: &str, count: Count, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = count.images as f64 / seconds;
    let Count { images, workloads } = count;
    say(&format!("{what}: {workloads} workloads, {images} images in {seconds:.1} s: {rate:.0} images/s"));
}

/// The image on which nothing survived that was not flushed.
fn strictest(history: &History) -> Result<(Mounted, Found), String> {
    let last = history.events.iter().rposition(|event| matches!(event, harness::disk::Event::Flush));
    let mut image = history.base.clone();
    image.advance(&history.events[..last.map_or(0, |at| at + 1)]);
    let mounted = harness::mount(&std::sync::Arc::new(image.disk()))?;
    let found = look(&mounted)?;
    Ok((mounted, found))
}

/// `path`, `path=SIZE`, `path=SIZE#BLOCKS`, `!path`.
fn expect(found: &Found, after: &str) -> Result<(), String> {
    for word in after.split_whitespace() {
        let (gone, word) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
        let (path, size) = word.split_once('=').map_or((word, None), |(path, size)| (path, Some(size)));
        let ino = found.inos.get(&format!("/{path}"));
        let (size, blocks) = size.map_or((None, None), |size| match size.split_once('#') {
            Some((size, blocks)) => (Some(size), Some(blocks.parse::<u64>().expect("blocks"))),
            None => (Some(size), None),
        });
        let size = size.map(|size| size.parse::<usize>().expect("a size"));
        let right = match (ino, gone) {
            (None, gone) => gone,
            (Some(_), true) => false,
            (Some(ino), false) => {
                size.is_none_or(|size| found.files[ino].len() == size)
                    && blocks.is_none_or(|blocks| found.blocks[ino] == blocks)
            }
        };
        if !right {
            let blocks = ino.and_then(|ino| found.blocks.get(ino));
            return Err(format!("expected {word} ({blocks:?} blocks) in\n{}", found.listing));
        }
    }
    Ok(())
}

#[test]
fn the_known_crash_bugs_of_other_filesystems_are_not_ours() {
    let start = Instant::now();
    let empty = Start::empty(harness::small());
    let mut total = Count::default();
    let mut wrong = Vec::new();
    for known in harness::known::all() {
        for style in STYLES {
            let judged = run::run(&empty, &known.ops, style, &run::nothing).and_then(|history| {
                let (mounted, found) = strictest(&history)?;
                expect(&found, known.after)?;
                // C26, and as good a question after any other.
                make_ten_more(&mounted, &found)?;
                CI.all_with(&history, &|_, found| known.ask(found))
            });
            match judged {
                Ok(count) => total.add(count),
                Err(why) => wrong.push(format!("{} {style:?}: {}", known.name, &why[..why.len().min(3000)])),
            }
        }
    }
    report("known bugs", total, start);
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn what_applications_need_holds_on_every_image_and_the_checker_finds_nothing() {
    let start = Instant::now();
    let mut total = Count::default();
    let mut wrong = Vec::new();
    let properties = harness::properties::all();
    let judged = properties.iter().map(|property| {
        let judged = property.judge(&property.start(), &CI, &run::nothing);
        (property.name, judged)
    });
    let failed = ("a failed fsync", harness::properties::failed_fsync(&CI));
    for (name, judged) in judged.chain([failed]) {
        match judged {
            Ok(count) => total.add(count),
            Err(why) => wrong.push(format!("{name}: {}", &why[..why.len().min(3000)])),
        }
    }
    report("properties", total, start);
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A line for every hundred thousand images of a long run.
fn progress(images: u64) {
    const LINE: u64 = 100_000;
    static DONE: AtomicU64 = AtomicU64::new(0);
    let before = DONE.fetch_add(images, Ordering::Relaxed);
    if before / LINE != (before + images) / LINE {
        say(&format!("{} images so far; a wrong one is told at once", before + images));
    }
}

/// Where the small workloads start: what is there was unmounted, or still lies in the log.
fn starts() -> [Start; 2] {
    let setup = words::parse(small_names::SETUP);
    [true, false].map(|clean| Start::prepared(harness::small(), &setup, clean))
}

/// Workloads of `len` operations, every `step`-th of them, on all processors.
fn enumerate(len: usize, step: u64, styles: &[Style], judge: Judge) -> (Count, Vec<String>) {
    let starts = starts();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let outcomes: Vec<(Count, Vec<String>)> = std::thread::scope(|scope| {
        let starts = &starts;
        let work = move |thread: u64| {
            let (mut total, mut wrong) = (Count::default(), Vec::new());
            small_names::each_workload(&starts[0], len, &mut |number, ops| {
                if number % step != 0 || number / step % threads != thread || wrong.len() > 20 {
                    return;
                }
                let turn = number / step / threads;
                for (nth, style) in styles.iter().enumerate() {
                    if styles.len() > 2 && turn % styles.len() as u64 != nth as u64 {
                        continue;
                    }
                    let start = &starts[(turn / styles.len() as u64 % 2) as usize];
                    let judge = Judge { seed: number, ..judge };
                    match run::run(start, ops, *style, &run::nothing).and_then(|history| judge.all(&history))
                    {
                        Ok(count) => {
                            total.add(count);
                            progress(count.images);
                        }
                        // At once: a long run may be ended before it has judged all.
                        Err(why) => {
                            println!("wrong: {why}");
                            wrong.push(why);
                        }
                    }
                }
            });
            (total, wrong)
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no panic")).collect()
    });
    let (mut total, mut wrong) = (Count::default(), Vec::new());
    for (count, found) in outcomes {
        total.add(count);
        wrong.extend(found);
    }
    (total, wrong)
}

#[test]
fn every_workload_of_two_operations_survives_every_cut() {
    let little = Judge { depth: Depth::LITTLE, whole_checks: 29, base_checks: 17, ..CI };
    // In CI every so many of them; in a long run all, and a sample of those of three operations.
    let plans: &[(usize, u64)] = if is_long() { &[(2, 1), (3, 4999)] } else { &[(2, 47)] };
    for (len, step) in plans {
        let start = Instant::now();
        let (count, wrong) = enumerate(*len, *step, &STYLES, little);
        report(&format!("{len} operations, each {step}th"), count, start);
        let least = if *step == 1 { 1_000_000 } else { 10_000 };
        assert!(count.images > least, "that is no enumeration");
        assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n\n"));
    }
}

#[test]
fn random_operations_agree_with_the_model_through_power_cuts_and_remounts() {
    let start = Instant::now();
    let empty = Start::empty(harness::format(harness::ROOMY));
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let (seeds, each) = if is_long() { (500, 20_000) } else { (8, 10_000) };
    let outcomes: Vec<Result<Done, String>> = std::thread::scope(|scope| {
        let empty = &empty;
        let work = move |thread| -> Vec<Result<Done, String>> {
            (0..seeds)
                .filter(|seed| seed % threads == thread)
                .map(|seed| model::run(empty, seed, each))
                .collect()
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("no panic")).collect()
    });
    let mut total = Done::default();
    let mut wrong = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(done) => {
                total.ops += done.ops;
                total.cuts += done.cuts;
                total.remounts += done.remounts;
            }
            Err(why) => wrong.push(why),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let Done { ops, cuts, remounts } = total;
    let rate = ops as f64 / seconds;
    say(&format!("model: {ops} operations, {cuts} power cuts, {remounts} remounts, {rate:.0} operations/s"));
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n\n"));
}
