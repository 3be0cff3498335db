//! Crash images: random operations, a power cut at every recorded event, any subset of what was not flushed, torn at
//! 512 bytes. What was flushed reads back exactly; anything else is old, new, or said to be suspect.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const EXTENTS: u64 = 9;
const LEN: u64 = 40 << 20;
/// Blocks used of each extent, so that everything happens often.
const PLACES: [u64; 6] = [0, 1, 2, 500, 1022, 1023];

/// What a block may be read as: version 0 is zeros.
#[derive(Clone, Default)]
struct Model {
    stable: BTreeMap<u64, u64>,
    since: BTreeMap<u64, BTreeSet<u64>>,
}

impl Model {
    fn allowed(&self, block: u64) -> BTreeSet<u64> {
        let mut all = self.since.get(&block).cloned().unwrap_or_default();
        all.insert(self.stable.get(&block).copied().unwrap_or(0));
        all
    }
}

/// A recorded run: the disk before, the events, and the model that holds from each event on.
struct Run {
    base: MemDisk,
    events: Vec<Event>,
    models: Vec<(usize, Model)>,
}

fn block_of(random: &mut Random) -> u64 {
    random.below(EXTENTS) * 1024 + PLACES[random.below(PLACES.len() as u64) as usize]
}

fn run(seed: u64, operations: usize) -> Run {
    let disk = disk(LEN, solo(), 4);
    let blocks = local(&disk);
    blocks.pin_hot(BlockNo(0), 1).expect("pin");
    let base = disk.fork();
    disk.record();
    let mut random = Random(seed * 77 + 1);
    let mut latest: BTreeMap<u64, u64> = BTreeMap::new();
    let mut model = Model::default();
    let mut models = vec![(0, model.clone())];
    for version in 1..=operations as u64 {
        match random.below(20) {
            0..=9 => {
                let first = block_of(&mut random);
                let count = 1 + random.below(3).min(EXTENTS * 1024 - 1 - first);
                for block in first..first + count {
                    latest.insert(block, version);
                    model.since.entry(block).or_default().insert(version);
                }
                models.push((disk.event_count(), model.clone()));
                let data: Vec<u8> = (first..first + count).flat_map(|b| super::content(b, version)).collect();
                blocks.write(BlockNo(first), &data).expect("write");
            }
            10..=16 => {
                blocks.flush().expect("flush");
                model.stable = latest.clone();
                model.since.clear();
                models.push((disk.event_count(), model.clone()));
            }
            17..=18 => {
                let (first, count) = match random.below(3) {
                    0 => (random.below(EXTENTS) * 1024, 1024),
                    _ => (block_of(&mut random), 1),
                };
                for block in first..first + count {
                    if let Some(version) = latest.get_mut(&block) {
                        *version = 0;
                        model.since.entry(block).or_default().insert(0);
                    }
                }
                models.push((disk.event_count(), model.clone()));
                blocks.discard(BlockNo(first), count).expect("discard");
            }
            _ => blocks.back(ExtentNo(random.below(EXTENTS))).expect("back"),
        }
    }
    Run { base, events: disk.events(), models }
}

impl Run {
    /// The model in force when the events before `cut` were done.
    fn model(&self, cut: usize) -> &Model {
        &self.models[self.models.partition_point(|(at, _)| *at <= cut) - 1].1
    }

    fn crash(&self, cut: usize, mode: u64, random: &mut Random) -> Arc<MemDisk> {
        let mut keep = |event: usize, _piece: usize| match mode {
            0 => false,
            1 => true,
            2 => event + 1 == cut,
            3 => random.below(2) == 0,
            _ => random.below(8) != 0,
        };
        Arc::new(MemDisk::crash_image(&self.base, &self.events, cut, &mut keep))
    }

    /// What is wrong with a disk that a cut left.
    fn judge(&self, disk: &Arc<MemDisk>, cut: usize, suspects: &mut u64) -> Result<(), String> {
        let image = match Image::open(disk.clone(), &OpenOptions::read_write()) {
            Ok(image) => image,
            Err(error) => return Err(format!("cut {cut}: {error}")),
        };
        let model = self.model(cut);
        for block in (0..EXTENTS).flat_map(|e| (0..3).map(move |p| e * 1024 + p)).chain(self.used_blocks()) {
            let allowed = model.allowed(block);
            match read(&image, block) {
                Ok(found) => {
                    let known = allowed.iter().any(|v| {
                        if *v == 0 {
                            found.iter().all(|b| *b == 0)
                        } else {
                            found == super::content(block, *v)
                        }
                    });
                    if !known {
                        return Err(format!("cut {cut}: block {block} reads as none of {allowed:?}"));
                    }
                }
                Err(ImageError::Rotten { .. }) if image.is_suspect(BlockNo(block)) && allowed.len() > 1 => {
                    // A write that did not reach the disk at all must not cost the old content.
                    let mut raw = vec![0; 4096];
                    disk.read_at(image.geometry.block_at(block), &mut raw).expect("read");
                    let old = model.stable.get(&block).copied().unwrap_or(0);
                    if old != 0 && raw == super::content(block, old) {
                        return Err(format!(
                            "cut {cut}: block {block} is suspect with its old content intact"
                        ));
                    }
                    *suspects += 1;
                }
                Err(error) => return Err(format!("cut {cut}: block {block}: {error}, allowed {allowed:?}")),
            }
        }
        Ok(())
    }

    fn used_blocks(&self) -> impl Iterator<Item = u64> {
        (0..EXTENTS).flat_map(|e| PLACES.iter().map(move |p| e * 1024 + p))
    }

    /// Tries cuts `step` apart in all modes; the first violation.
    fn violation(&self, step: usize, seed: u64) -> Option<String> {
        let mut random = Random(seed * 31 + 7);
        let mut suspects = 0;
        for cut in (0..=self.events.len()).step_by(step) {
            for mode in 0..5 {
                let disk = self.crash(cut, mode, &mut random);
                if let Err(wrong) = self.judge(&disk, cut, &mut suspects) {
                    return Some(format!("seed {seed} mode {mode}: {wrong}"));
                }
            }
        }
        None
    }
}

#[test]
fn every_cut_leaves_flushed_data_exact() {
    for seed in 1..=3 {
        let run = run(seed, 70);
        assert!(run.events.len() > 150, "only {} events", run.events.len());
        assert_eq!(run.violation(1, seed), None);
    }
}

#[test]
fn long_runs_wrap_the_ring_many_times_and_lose_nothing() {
    for seed in 10..=11 {
        let run = run(seed, 900);
        let flushes = run.events.iter().filter(|e| **e == Event::Flush).count();
        assert!(flushes > 3 * 128, "the ring did not wrap: {flushes} flushes");
        assert_eq!(run.violation(23, seed), None);
    }
}

/// A cut in the middle of opening after a cut, again and again.
#[test]
fn a_cut_while_recovering_loses_nothing() {
    let mut random = Random(99);
    for seed in 20..=22 {
        let run = run(seed, 60);
        for cut in (20..run.events.len()).step_by(17) {
            let mut disk = run.crash(cut, 3, &mut random);
            for _ in 0..4 {
                let before = disk.fork();
                disk.record();
                drop(open(&disk));
                let events = disk.events();
                let inner = random.below(events.len() as u64 + 1) as usize;
                disk =
                    Arc::new(MemDisk::crash_image(&before, &events, inner, &mut |_, _| random.below(2) == 0));
            }
            assert_eq!(run.judge(&disk, cut, &mut 0), Ok(()), "seed {seed}");
        }
    }
}

/// Each rule switched off must show: otherwise the tests above could not fail.
#[test]
fn every_broken_rule_is_caught() {
    for (rule, operations, step) in [
        ("hot before the first write", 70, 1),
        ("pages hold flushed digests only", 300, 3),
        ("evict saved extents only", 70, 1),
        ("save digests before the ring forgets them", 900, 11),
        ("restate slots in turn", 900, 11),
    ] {
        let caught = (1..=12).any(|seed| {
            BROKEN.set(rule);
            let run = std::panic::catch_unwind(|| run(seed, operations));
            BROKEN.set("");
            run.map_or(true, |run| run.violation(step, seed).is_some())
        });
        assert!(caught, "nothing notices that the rule is off: {rule}");
    }
}
