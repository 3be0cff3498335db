//! Tests of the history, mostly of how it fails.

use std::fs;
use std::time::Instant;

use super::*;
use crate::base::NodeId;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("twinfs-history-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn history(&self) -> PathBuf {
        self.0.join("history")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

fn nth(n: u64) -> Entry {
    let event = Event::DaemonStopping { reason: format!("test {n}") };
    Entry { unix_ms: n, node: NodeId::A, volume: Some("mail".to_string()), event }
}

fn start(dir: &Dir, limits: Limits) -> (History, Arc<Mutex<Vec<Event>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let inner = Arc::clone(&told);
    let tell = Box::new(move |event| inner.lock().unwrap().push(event));
    (History::start_with(&dir.history(), tell, limits), told)
}

#[test]
fn events_come_back_in_order_and_survive_a_restart() {
    let dir = Dir::new("order");
    let (history, told) = start(&dir, LIMITS);
    (1..=10).for_each(|n| history.record(nth(n)));
    let last = history.last(3, PATIENCE);
    assert_eq!(last, vec![(8, nth(8)), (9, nth(9)), (10, nth(10))]);
    drop(history);
    let (history, _) = start(&dir, LIMITS);
    history.record(nth(11));
    assert_eq!(history.last(2, PATIENCE), vec![(10, nth(10)), (11, nth(11))]);
    assert!(told.lock().unwrap().is_empty());
}

#[test]
fn only_the_newest_are_kept() {
    let dir = Dir::new("prune");
    let (history, _) = start(&dir, Limits { entries: 20, ..LIMITS });
    (1..=70).for_each(|n| history.record(nth(n)));
    history.last(1, PATIENCE);
    let all = history.last(1000, PATIENCE);
    assert_eq!(all.first(), Some(&(51, nth(51))));
    assert_eq!(all.len(), 20);
}

#[test]
fn a_directory_that_grew_too_large_is_replaced_by_a_small_one() {
    let dir = Dir::new("grow");
    let (history, told) = start(&dir, Limits { entries: 100, bytes: 1, ..LIMITS });
    (1..=80).for_each(|n| history.record(nth(n)));
    let last = history.last(5, PATIENCE);
    assert_eq!(last.last(), Some(&(80, nth(80))));
    assert!(last.len() == 5 && history.last(1000, PATIENCE).len() <= 80);
    assert!(told.lock().unwrap().is_empty());
    assert!(!dir.history().with_extension("new").exists());
}

#[test]
fn a_full_queue_drops_chatter_and_keeps_decisions() {
    let dir = Dir::new("queue");
    fs::write(dir.history(), b"a file where the directory should be").unwrap();
    let shared = Arc::new(Shared::default());
    let history = History { shared, thread: None };
    (0..2000).for_each(|n| history.record(nth(n)));
    assert_eq!(history.dropped(), 2000 - u64::try_from(QUEUE_MAX).unwrap());
    let decision = Event::BecamePrimary { v: 1, reason: "test".to_string() };
    history.record(Entry { event: decision, ..nth(1) });
    assert!(history.shared.lock().entries.back().unwrap().event.is_decision());
    let begun = Instant::now();
    assert!(history.last(1, Duration::from_millis(50)).is_empty());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn long_texts_are_shortened_and_nothing_is_lost_otherwise() {
    let long = Entry { event: Event::Frozen { reason: "\u{20ac}".repeat(5000) }, ..nth(1) };
    let stored = line(&long).unwrap();
    assert!(stored.len() <= LINE_BYTES_MAX);
    assert!(matches!(entry(&stored).unwrap().event, Event::Frozen { reason } if reason.ends_with("...")));
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() { files_below(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

#[test]
fn whatever_happens_to_its_files_the_next_start_works_and_says_at_most_one_thing() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut next = move |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 32).unwrap() % bound.max(1)
    };
    let mut damages = 0;
    for round in 0..24 {
        let dir = Dir::new(&format!("garble-{round}"));
        let (history, _) = start(&dir, LIMITS);
        (1..=60).for_each(|n| history.record(nth(n)));
        history.last(1, PATIENCE);
        drop(history);
        let mut files = Vec::new();
        files_below(&dir.history(), &mut files);
        for _ in 0..1 + next(2) {
            let file = &files[next(files.len())];
            let mut bytes = fs::read(file).unwrap_or_default();
            match next(4) {
                0 => bytes.truncate(next(bytes.len())),
                1 => (0..20).for_each(|_| {
                    let (at, bit) = (next(bytes.len()), next(8));
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << bit;
                    }
                }),
                2 => {
                    let from = next(bytes.len());
                    bytes[from..].fill(0);
                }
                _ => {
                    let _ = fs::remove_file(file);
                    continue;
                }
            }
            fs::write(file, bytes).unwrap();
        }
        let (history, told) = start(&dir, LIMITS);
        history.record(nth(1000));
        let last = history.last(1, PATIENCE);
        assert_eq!(last.first().map(|(_, entry)| entry), Some(&nth(1000)), "round {round}");
        drop(history);
        let told = told.lock().unwrap();
        assert!(told.len() <= 1, "round {round}: {told:?}");
        damages += told.len();
    }
    assert!(damages > 0, "no round damaged anything: the test proves nothing");
}

#[test]
fn a_place_that_cannot_be_a_directory_costs_one_event_and_nothing_else() {
    let dir = Dir::new("file");
    fs::write(dir.history(), b"in the way").unwrap();
    let (history, told) = start(&dir, LIMITS);
    history.record(nth(1));
    assert_eq!(history.last(1, PATIENCE), vec![(1, nth(1))]);
    assert_eq!(told.lock().unwrap().len(), 1);
}
