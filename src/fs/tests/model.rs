//! The engine against a model, with the power cut at every recorded write.

use std::collections::BTreeMap;

use super::mem::{Cut, Dice, Event, Player};
use super::*;
use crate::fs::rules::Rules;

/// What files must contain.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn content(store: &Store) -> Model {
    let entries = store.dirents_after(Ino::ROOT, 0, usize::MAX).unwrap();
    entries.into_iter().map(|(_, name, entry)| (name, read_all(store, entry.ino))).collect()
}

fn step(store: &Store, model: &mut Model, dice: &mut Dice) {
    let name = vec![b'a' + dice.below(5) as u8];
    let known = store.dirent(Ino::ROOT, &name).unwrap().map(|entry| entry.ino);
    let Some(ino) = known else {
        create(store, &name);
        model.insert(name, Vec::new());
        return;
    };
    let file = model.get_mut(&name).unwrap();
    match dice.below(12) {
        0 => {
            unlink(store, &name);
            model.remove(&name);
        }
        1 | 2 => {
            let size = dice.below(400_000);
            store.set_size(ino, size, NOW).unwrap();
            file.resize(size as usize, 0);
        }
        3 => {
            let (at, len) = (dice.below(300_000), dice.below(100_000) + 1);
            store.fallocate(ino, super::super::Fallocate::PunchHole, at, len, NOW).unwrap();
            let end = (at + len).min(file.len() as u64);
            if at < end {
                file[at as usize..end as usize].fill(0);
            }
        }
        4 => {
            let (at, len) = (dice.below(300_000), dice.below(100_000) + 1);
            store.fallocate(ino, super::super::Fallocate::Allocate, at, len, NOW).unwrap();
            let end = (at + len) as usize;
            file.resize(file.len().max(end), 0);
        }
        kind => {
            let len = if kind < 9 { dice.below(9000) + 1 } else { dice.below(300_000) + 1 };
            let at = dice.below(200_000);
            let data: Vec<u8> = (0..len).map(|n| (n as u8) ^ dice.0 as u8).collect();
            store.write(ino, at, &data, NOW).unwrap();
            let end = (at + len) as usize;
            file.resize(file.len().max(end), 0);
            file[at as usize..end].copy_from_slice(&data);
        }
    }
}

/// Whether `found` can be what a power cut left: the names of one moment, and in every file each 512-byte sector as it
/// was at some moment, where the moments run from the last sync to the cut.
fn explain(found: &Model, moments: &[&Model]) -> Result<(), String> {
    let names: Vec<&Vec<u8>> = found.keys().collect();
    if !moments.iter().any(|model| model.keys().collect::<Vec<_>>() == names) {
        return Err(format!("names {names:?} were never together"));
    }
    for (name, data) in found {
        let known: Vec<&Vec<u8>> = moments.iter().filter_map(|model| model.get(name)).collect();
        if known.iter().all(|file| data.len() > file.len()) {
            return Err(format!("file {name:?} was never as long as {}", data.len()));
        }
        for at in (0..data.len()).step_by(512) {
            let sector = &data[at..(at + 512).min(data.len())];
            let same = |file: &&Vec<u8>| {
                let mut was = file.get(at..).unwrap_or_default().to_vec();
                was.resize(was.len().max(sector.len()), 0);
                &was[..sector.len()] == sector
            };
            if !known.iter().any(same) {
                return Err(format!("file {name:?} never had this at {at}"));
            }
        }
    }
    Ok(())
}

struct History {
    blocks: Arc<super::mem::MemBlocks>,
    base: super::mem::Base,
    /// Content after each operation and the moment of the operation's end.
    states: Vec<(usize, Model)>,
    /// Index in `states` and moment of each sync.
    synced: Vec<(usize, usize)>,
}

fn history(seed: u64, rounds: usize, rules: Rules) -> History {
    let blocks = fresh_blocks(8192);
    let store = open(&blocks);
    store.core_write().rules = rules;
    let mut dice = Dice(seed);
    let mut model = Model::new();
    blocks.soil();
    let base = blocks.record();
    let mut states = vec![(0, Model::new())];
    let mut synced = vec![(0, 0)];
    for _ in 0..rounds {
        for _ in 0..dice.below(6) + 1 {
            step(&store, &mut model, &mut dice);
            assert!(content(&store) == model, "seed {seed}: live content differs");
            states.push((blocks.moment(), model.clone()));
            match dice.below(8) {
                0 => store.writeback(true).unwrap(),
                1 => store.checkpoint().unwrap(),
                2 => store.writeback(false).unwrap(),
                _ => {}
            }
        }
        store.fsync_ticket(None, false);
        store.commit().unwrap();
        assert!(content(&store) == model, "seed {seed}: live content differs after commit");
        synced.push((states.len() - 1, blocks.moment()));
    }
    History { blocks, base, states, synced }
}

/// Cuts at every event (or every `stride`-th, and at every sync) and compares.
fn run(seed: u64, rounds: usize, stride: usize, rules: Rules) {
    let History { blocks, base, states, synced } = history(seed, rounds, rules);
    let events = blocks.events();
    let mut player = Player::new(&base);
    for upto in 0..=events.len() {
        let at_sync = synced.iter().any(|(_, moment)| *moment == upto);
        let at_flush = matches!(events.get(upto), Some(Event::Flush)) && upto % 3 == 0;
        if upto % stride != 0 && !at_sync && !at_flush {
            continue;
        }
        let (from, _) = *synced.iter().rev().find(|(_, moment)| *moment <= upto).unwrap();
        // The operation whose events these are began before its end: everything up to the next sync may show.
        let next = synced.iter().find(|(_, moment)| *moment > upto).map_or(states.len() - 1, |(to, _)| *to);
        let window: Vec<&Model> =
            if at_sync { vec![&states[from].1] } else { states[from..=next].iter().map(|s| &s.1).collect() };
        for how in [Cut::LoseAll, Cut::KeepAll, Cut::KeepLater, Cut::Random(seed)] {
            let again = open(&player.cut(&events, upto, how));
            let found = content(&again);
            if at_sync {
                assert!(found == *window[0], "seed {seed}, cut at {upto} {how:?}: not the synced content");
            }
            if let Err(what) = explain(&found, &window) {
                panic!("seed {seed}, cut at {upto} of {} {how:?}: {what}", events.len());
            }
            if upto % 7 == 0 {
                again.close().unwrap();
                assert!(
                    content(&again) == found,
                    "seed {seed}, cut at {upto} {how:?}: close changed content"
                );
            }
        }
    }
}

#[test]
fn content_after_a_cut_at_every_write_is_explained_by_history() {
    for seed in 1..4 {
        run(seed, 6, 1, Rules::default());
    }
}

#[test]
fn many_histories_with_cuts_here_and_there() {
    for seed in 4..16 {
        run(seed, 10, 61, Rules::default());
    }
}

#[test]
fn the_model_catches_each_rule_that_is_switched_off() {
    let off = [
        Rules { ignore_log_owned: true, ..Rules::default() },
        Rules { reuse_at_once: true, ..Rules::default() },
        Rules { skip_fresh_flush: true, ..Rules::default() },
    ];
    for rules in off {
        let caught = (100..160).any(|seed| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, 10, 5, rules))).is_err()
        });
        assert!(caught, "{rules:?} was not caught");
    }
}

/// A cut while the volume is opened or closed again changes nothing either.
#[test]
fn a_second_cut_during_recovery_loses_nothing() {
    for seed in 200..206 {
        let History { blocks, states, .. } = history(seed, 5, Rules::default());
        let synced = &states.last().unwrap().1;
        let first = blocks.copy();
        let base = first.record();
        open(&first).close().unwrap();
        let events = first.events();
        let mut player = Player::new(&base);
        for upto in 0..=events.len() {
            let again = open(&player.cut(&events, upto, Cut::Random(seed)));
            assert!(content(&again) == *synced, "seed {seed}, second cut at {upto}");
        }
    }
}

/// Small synced appends: after any cut the file is a prefix of what was written that holds at least what was synced.
#[test]
fn a_synced_append_log_is_a_prefix_after_every_cut() {
    let blocks = fresh_blocks(8192);
    let store = open(&blocks);
    let ino = create(&store, b"log");
    fsync(&store, ino);
    let base = blocks.record();
    let mut written = Vec::new();
    let mut synced = vec![(0, 0)];
    for n in 0..120u32 {
        let line = format!("record {n} {}\n", "x".repeat((n as usize * 37) % 3000));
        store.write(ino, written.len() as u64, line.as_bytes(), NOW).unwrap();
        written.extend_from_slice(line.as_bytes());
        if n % 3 == 0 {
            fsync(&store, ino);
            synced.push((blocks.moment(), written.len()));
        }
        if n % 25 == 24 {
            store.checkpoint().unwrap();
        }
        if n % 10 == 9 {
            store.writeback(true).unwrap();
        }
    }
    let events = blocks.events();
    let mut player = Player::new(&base);
    for upto in 0..=events.len() {
        let (_, least) = synced.iter().rev().find(|(moment, _)| *moment <= upto).unwrap();
        for how in [Cut::LoseAll, Cut::KeepAll, Cut::Random(5), Cut::Random(6)] {
            let data = read_all(&open(&player.cut(&events, upto, how)), ino);
            assert!(data.len() >= *least, "cut at {upto} {how:?}: {} of {least} synced bytes", data.len());
            let seen = data.len();
            let broken = data.iter().zip(&written).position(|(a, b)| a != b);
            // Overwrites of the last, not yet synced block may be ahead of the recorded size, never behind it.
            assert!(broken.is_none_or(|at| at >= *least), "cut at {upto} {how:?}: byte {broken:?} of {seen}");
        }
    }
}
