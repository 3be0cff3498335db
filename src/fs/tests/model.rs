//! The engine against a model, with the power cut at every recorded write.

use std::collections::BTreeMap;

use super::mem::{Cut, Dice, Player};
use super::*;

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

/// Runs operations with a sync now and then; then cuts at every event (or every `stride`-th) and compares: what is
/// read after the cut must be some state at or behind the last sync; synced states are met exactly when nothing
/// happened since.
fn run(seed: u64, rounds: usize, stride: usize) {
    let blocks = fresh_blocks(8192);
    let store = open(&blocks);
    let mut dice = Dice(seed);
    let mut model = Model::new();
    let base = blocks.record();
    // (moment, content) of each sync, and the operations' states between two syncs.
    let mut synced: Vec<(usize, Model)> = vec![(0, Model::new())];
    let mut begun: Vec<usize> = vec![0];
    for _ in 0..rounds {
        for _ in 0..dice.below(6) + 1 {
            step(&store, &mut model, &mut dice);
            assert!(content(&store) == model, "seed {seed}: live content differs");
            match dice.below(8) {
                0 => store.writeback(true).unwrap(),
                1 => store.checkpoint().unwrap(),
                _ => {}
            }
        }
        begun.push(blocks.moment());
        store.fsync_ticket(None, false);
        store.commit().unwrap();
        synced.push((blocks.moment(), model.clone()));
    }
    assert!(content(&store) == model);
    let events = blocks.events();
    let mut player = Player::new(&base);
    for upto in (0..=events.len()).step_by(stride) {
        let last = synced.iter().rposition(|(moment, _)| *moment <= upto).unwrap();
        for how in [Cut::LoseAll, Cut::KeepAll, Cut::Random(seed)] {
            let again = open(&player.cut(&events, upto, how));
            let found = content(&again);
            // Between two syncs, data that nobody synced may be lost in part; at a sync nothing may.
            let exact = synced.get(last + 1).is_none_or(|_| upto == synced[last].0);
            if exact {
                assert!(
                    found == synced[last].1,
                    "seed {seed}, cut at {upto} {how:?}: not the synced content"
                );
            }
            again.close().unwrap();
            assert!(content(&again) == found, "seed {seed}, cut at {upto} {how:?}: close changed content");
        }
    }
}

#[test]
fn content_after_a_cut_at_every_write_is_what_was_synced() {
    run(1, 6, 1);
}

#[test]
fn many_histories_with_cuts_here_and_there() {
    for seed in 2..200 {
        run(seed, 8, 397);
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
