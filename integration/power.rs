//! Both nodes lose power at one instant, in mid-write: after the restart every acknowledged record is there.
//!
//! Four rounds, twenty with TWINFS_LONG=1. The images lie on disks that lose writes that were not flushed: all of them,
//! each block at random, or each sector at random (torn blocks), by the round. No flush is answered after the cut, so what
//! a writer noted was stable before it. The seed of the moments is printed and may be given as TWINFS_SEED.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use harness::need;
use harness::node::{Node, Running};
use harness::pair::{MOUNT, Pair, Plan};
use harness::powercut::Cut;

/// Bytes of each disk.
const DISK: u64 = 192 << 20;

/// Appends numbered records with fsync.
const APPEND: &str = r#"
use strict; use IO::Handle;
my ($name, $first, $notes) = @ARGV;
open(my $log, ">>", "/replicated/$name") or exit 2;
open(my $out, ">>", $notes) or exit 2;
$out->autoflush(1);
for (my $n = $first; ; $n++) {
  syswrite($log, sprintf("%08d %s\n", $n, "x" x ($n % 900))) or exit 3;
  $log->sync or exit 4;
  print $out "$n\n";
}
"#;

/// Delivers messages as a mail server does: written and synced under a temporary name, renamed, directory synced.
const DELIVER: &str = r#"
use strict; use IO::Handle; use Fcntl;
my ($name, $first, $notes) = @ARGV;
mkdir "/replicated/$name"; mkdir "/replicated/$name/tmp"; mkdir "/replicated/$name/new";
open(my $out, ">>", $notes) or exit 2;
$out->autoflush(1);
for (my $n = $first; ; $n++) {
  open(my $file, ">", "/replicated/$name/tmp/$n") or exit 3;
  syswrite($file, sprintf("%08d", $n) x (1 + $n % 3000)) or exit 3;
  $file->sync or exit 4;
  close $file;
  rename("/replicated/$name/tmp/$n", "/replicated/$name/new/$n") or exit 3;
  sysopen(my $dir, "/replicated/$name/new", O_RDONLY) or exit 3;
  $dir->sync or exit 4;
  close $dir;
  print $out "$n\n";
}
"#;

/// Overwrites pages of a table in place: page and number are noted once the number is stable.
const UPDATE: &str = r#"
use strict; use IO::Handle; use Fcntl qw(:DEFAULT :seek);
my ($name, $first, $notes) = @ARGV;
sysopen(my $table, "/replicated/$name", O_RDWR | O_CREAT) or exit 2;
open(my $out, ">>", $notes) or exit 2;
$out->autoflush(1);
for (my $n = $first; ; $n++) {
  my $page = ($n * 7919) % 512;
  sysseek($table, $page * 4096, SEEK_SET) or exit 3;
  syswrite($table, sprintf("%08d", $n) x 512) or exit 3;
  $table->sync or exit 4;
  print $out "$n\n";
}
"#;

/// Large files that nobody syncs: bulk on its way when the power goes.
const BULK: &str = r#"
use strict;
my ($name) = @ARGV;
for (my $n = 0; ; $n++) {
  my $place = "/replicated/$name." . ($n % 3);
  unlink $place;
  open(my $file, ">", $place) or exit 3;
  for (1 .. 64) { syswrite($file, chr(65 + $n % 26) x 65536) or exit 3; select(undef, undef, undef, 0.01); }
}
"#;

struct Writer {
    name: &'static str,
    program: &'static str,
    running: Option<Running>,
}

const WRITERS: [(&str, &str); 5] =
    [("log1", APPEND), ("log2", APPEND), ("box", DELIVER), ("table", UPDATE), ("bulk", BULK)];

impl Writer {
    fn notes(&self, pair: &Pair) -> PathBuf {
        pair.world.dir.join(format!("notes-{}", self.name))
    }

    /// Numbers acknowledged so far, in order.
    fn acknowledged(&self, pair: &Pair) -> Vec<u64> {
        let text = std::fs::read_to_string(self.notes(pair)).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Goes on where numbers of the earlier rounds cannot be met again.
    fn start(&mut self, pair: &Pair, node: &Node, round: u64) {
        let (first, notes) = ((round * 100_000 + 1).to_string(), self.notes(pair).display().to_string());
        let words = ["perl", "-e", self.program, self.name, &first, &notes];
        self.running = Some(node.spawn(&format!("{}.log", self.name), &words));
    }

    /// How many acknowledged records there are, and those that `node` does not serve.
    fn check(&self, pair: &Pair, node: &Node) -> (usize, Vec<u64>) {
        let acknowledged = self.acknowledged(pair);
        let lost = match self.program {
            APPEND => lost_lines(node, self.name, &acknowledged),
            DELIVER => lost_messages(node, self.name, &acknowledged),
            UPDATE => lost_pages(node, self.name, &acknowledged),
            _ => Vec::new(),
        };
        (acknowledged.len(), lost)
    }
}

/// Records acknowledged so far; panics if one is lost.
fn check(writers: &[Writer], pair: &Pair, node: &Node) -> usize {
    let mut total = 0;
    for writer in writers {
        let (count, lost) = writer.check(pair, node);
        assert!(lost.is_empty(), "{}: {} of {count} lost: {lost:?}", writer.name, lost.len());
        total += count;
    }
    total
}

/// Whole lines, each as long as it was written.
fn lost_lines(node: &Node, name: &str, acknowledged: &[u64]) -> Vec<u64> {
    let text = node.sh(&format!("cat {MOUNT}/{name}")).ok().out;
    let there: BTreeSet<(u64, usize)> =
        text.lines().filter_map(|line| Some((line.get(..8)?.parse().ok()?, line.len()))).collect();
    let length = |n: u64| 9 + usize::try_from(n % 900).expect("small");
    acknowledged.iter().copied().filter(|n| !there.contains(&(*n, length(*n)))).collect()
}

/// Every message under its final name, with its whole text.
fn lost_messages(node: &Node, name: &str, acknowledged: &[u64]) -> Vec<u64> {
    let script = "for my $f (glob \"$ARGV[0]/*\") { open(my $h, '<', $f); local $/; my $t = <$h>; my ($n) = $f =~ m{(\\d+)$}; \
                  print \"$n\\n\" if $t eq sprintf('%08d', $n) x (1 + $n % 3000) }";
    let text = node.run(&["perl", "-e", script, &format!("{MOUNT}/{name}/new")]).ok().out;
    let there: BTreeSet<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    acknowledged.iter().copied().filter(|n| !there.contains(n)).collect()
}

/// Each page holds the newest number acknowledged for it, or a later one of the same page, whole.
fn lost_pages(node: &Node, name: &str, acknowledged: &[u64]) -> Vec<u64> {
    let page_of = |n: u64| (n * 7919) % 512;
    let newest: BTreeMap<u64, u64> = acknowledged.iter().map(|n| (page_of(*n), *n)).collect();
    let script = "open(my $h, '<', $ARGV[0]); local $/ = \\4096; while (my $t = <$h>) { my $n = substr($t, 0, 8); \
                  print $t eq $n x 512 ? \"$n\\n\" : \"torn\\n\" }";
    let text = node.run(&["perl", "-e", script, &format!("{MOUNT}/{name}")]).ok().out;
    let pages: Vec<Option<u64>> = text.lines().map(|line| line.parse().ok()).collect();
    let holds = |page: u64| usize::try_from(page).ok().and_then(|page| pages.get(page).copied().flatten());
    let kept = |page: u64, n: u64| holds(page).is_some_and(|there| there >= n && page_of(there) == page);
    newest.into_iter().filter(|(page, n)| !kept(*page, *n)).map(|(_, n)| n).collect()
}

/// The power goes on both nodes; nothing of them survives but the disks.
fn cut_power(pair: &mut Pair, cuts: [Cut; 2]) -> [usize; 2] {
    let disks = &pair.world.disks;
    for (disk, cut) in disks.iter().zip(cuts) {
        disk.cut(cut);
    }
    let lost = [disks[0].unflushed(), disks[1].unflushed()];
    std::thread::scope(|scope| {
        for name in ["alpha", "beta"] {
            let node = pair.world.node(name);
            scope.spawn(move || node.kill_all());
        }
        // SIGKILL is pending everywhere by then: a process that waits for a flush can end now.
        std::thread::sleep(Duration::from_millis(500));
        for disk in disks {
            disk.release();
        }
    });
    pair.end_both();
    pair.world.disks.iter().for_each(harness::powercut::PowerDisk::restore);
    lost
}

/// Starts the writers and waits until each has acknowledged something in this round.
fn start(writers: &mut [Writer], pair: &Pair, primary: &str, round: u64) {
    for writer in writers.iter_mut() {
        writer.start(pair, pair.node(primary), round);
    }
    let enough = harness::wait_for(Duration::from_secs(20), || {
        writers[..4].iter().all(|writer| writer.acknowledged(pair).iter().any(|n| *n > round * 100_000))
    });
    assert!(enough, "round {round}: nothing is acknowledged");
}

/// The machines boot; which of the two serves then.
fn restart(writers: &mut [Writer], pair: &mut Pair) -> &'static str {
    writers.iter_mut().for_each(|writer| writer.running = None);
    for node in ["alpha", "beta"] {
        pair.start_daemon(node);
    }
    pair.wait_either_in_sync();
    pair.primary().expect("somebody serves")
}

fn all_writers() -> Vec<Writer> {
    WRITERS.iter().map(|(name, program)| Writer { name, program, running: None }).collect()
}

fn seed() -> u64 {
    let given = std::env::var("TWINFS_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos())
    })
}

#[test]
fn every_acknowledged_record_survives_the_power_cut_of_both_nodes() {
    let name = "every_acknowledged_record_survives_the_power_cut_of_both_nodes";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let seed = seed();
    let rounds = if std::env::var_os("TWINFS_LONG").is_some() { 20 } else { 4 };
    harness::say(&format!("power: seed {seed}, {rounds} rounds"));
    let mut pair = Pair::start("power", &Plan { power_disks: Some(DISK), ..Plan::default() });
    let mut writers = all_writers();
    let (mut total, mut lost_writes) = (0, 0);
    for round in 0..rounds {
        let dice = seed.wrapping_add(round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let primary = pair.primary().expect("somebody serves");
        start(&mut writers, &pair, primary, round);
        std::thread::sleep(Duration::from_millis(500 + (dice >> 33) % 2_000));
        // In mid-write: whatever was just flushed leaves nothing to lose.
        let disk = &pair.world.disks[usize::try_from(dice & 1).expect("a bit")];
        let few = 1 + usize::try_from(dice >> 60).expect("four bits");
        harness::wait_often(Duration::from_secs(2), || disk.unflushed() >= few);
        let cuts = match round % 4 {
            0 => [Cut::Random(dice), Cut::Random(dice ^ 1)],
            1 => [Cut::Torn(dice), Cut::Torn(dice ^ 1)],
            2 => [Cut::Drop, Cut::Drop],
            _ => [Cut::Torn(dice), Cut::Drop],
        };
        let unflushed = cut_power(&mut pair, cuts);
        let primary = restart(&mut writers, &mut pair);
        total = check(&writers, &pair, pair.node(primary));
        lost_writes += unflushed[0] + unflushed[1];
        eprintln!(
            "round {round}: {cuts:?}, {unflushed:?} blocks not flushed, {total} records acknowledged, 0 lost"
        );
    }
    assert!(
        total > 0 && lost_writes > 0,
        "{total} records, {lost_writes} unflushed blocks: nothing was tested"
    );
    harness::say(&format!("power: {rounds} cuts of both nodes, {total} records acknowledged, 0 lost"));
    pair.compare_images();
}

#[test]
fn disks_that_lie_about_a_flush_are_seen_to_lose_records() {
    let name = "disks_that_lie_about_a_flush_are_seen_to_lose_records";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    // The test above must be able to fail: here every acknowledgement since the lie is worthless.
    let mut pair = Pair::start("power-lie", &Plan { power_disks: Some(DISK), ..Plan::default() });
    let mut writers = all_writers();
    pair.world.disks.iter().for_each(harness::powercut::PowerDisk::lie);
    start(&mut writers, &pair, "alpha", 0);
    cut_power(&mut pair, [Cut::Drop, Cut::Drop]);
    let primary = restart(&mut writers, &mut pair);
    pair.node(primary).sh(&format!("cd {MOUNT} && touch log1 log2 table && mkdir -p box/new")).ok();
    for writer in &writers[..4] {
        let (count, lost) = writer.check(&pair, pair.node(primary));
        harness::say(&format!("{}: {count} acknowledged by lying disks, {} lost", writer.name, lost.len()));
        assert!(!lost.is_empty(), "{}: nothing lost of {count}: the check sees nothing", writer.name);
    }
}
