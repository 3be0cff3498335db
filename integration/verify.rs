//! Disks that lie or fail: a block that changes below a running daemon is answered rightly, healed, and told with its
//! file; verify finds all of it and nothing else; a disk that fails costs neither data nor an operator.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::need;
use harness::node::{Node, Ran};
use harness::pair::{MOUNT, Pair, Plan};
use harness::powercut::Cut;
use nix::sys::signal::Signal;

const BLOCK: usize = 4096;
const FILE: &str = "/replicated/mail/box";

fn small(volume: &str) -> Plan {
    Plan { size: "64MiB", volume: volume.into(), ..Plan::default() }
}

/// Content that is found again in an image: no two blocks alike.
fn block(number: usize) -> Vec<u8> {
    let seed = blake3::hash(format!("block {number} of the box").as_bytes());
    let mut bytes = vec![0; BLOCK];
    blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A file of two MiB, at home on both disks.
fn fill(pair: &Pair) {
    let content: Vec<u8> = (0..512).flat_map(block).collect();
    let path = pair.world.dir.join("content");
    std::fs::write(&path, content).expect("content");
    let line = format!("mkdir -p {MOUNT}/mail && cp {} {FILE} && sync {FILE}", path.display());
    pair.node("alpha").sh(&line).ok();
}

fn image(node: &Node) -> PathBuf {
    node.dir.join("images/data.img")
}

/// Where a block of the box lies in the image of a node.
#[track_caller]
fn place(node: &Node, number: usize) -> u64 {
    let (bytes, wanted) = (std::fs::read(image(node)).expect("image"), block(number));
    let found = bytes.chunks(BLOCK).position(|chunk| chunk == wanted);
    (found.unwrap_or_else(|| panic!("{}: block {number} is not at home", node.name)) * BLOCK) as u64
}

/// Other bytes on the medium, below the daemon.
fn damage(node: &Node, at: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(image(node)).expect("image");
    file.write_all_at(&[0xee; BLOCK], at).expect("damage");
    file.sync_all().expect("sync");
}

fn is_whole(node: &Node, at: u64, number: usize) -> bool {
    // What the daemon wrote past the page cache is seen past the page cache.
    let image = "/var/lib/twinfs/data.img";
    let line = format!("dd if={image} iflag=direct bs=4096 skip={} count=1 | md5sum", at / 4096);
    let wanted = format!("dd if={} bs=4096 skip={number} count=1 | md5sum", copy_of(node));
    node.sh(&line).ok().out == node.sh(&wanted).ok().out
}

fn copy_of(node: &Node) -> String {
    node.dir.parent().expect("world").join("content").display().to_string()
}

/// Reads blocks of the box past the kernel's cache.
fn read(node: &Node, number: usize, count: usize) -> Ran {
    node.sh(&format!(
        "dd if={FILE} iflag=direct bs=4096 skip={number} count={count} status=none > /tmp/got && \
         dd if={} bs=4096 skip={number} count={count} status=none | cmp - /tmp/got",
        copy_of(node)
    ))
}

fn verify(node: &Node, words: &[&str]) -> Ran {
    node.run_within(Duration::from_secs(60), &[&["twinfs", "verify"], words].concat())
}

#[track_caller]
fn ends(node: &Node, words: &[&str], code: i32, said: &[&str]) -> Ran {
    let ran = verify(node, words);
    assert_eq!(ran.code, code, "verify {words:?}: {}{}", ran.out, ran.err);
    for word in said {
        assert!(
            ran.out.contains(word) || ran.err.contains(word),
            "nothing of {word}: {}{}",
            ran.out,
            ran.err
        );
    }
    ran
}

#[test]
fn a_rotten_block_is_answered_from_the_peer_healed_and_told_with_its_file() {
    let name = "a_rotten_block_is_answered_from_the_peer_healed_and_told_with_its_file";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("rot", &small("scrub = \"never\"\n"));
    fill(&pair);
    let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
    let at: Vec<u64> = (0..16).map(|number| place(alpha, number)).collect();
    assert_eq!(at[3], place(beta, 3), "the images are equal");
    ends(alpha, &[], 0, &["nothing wrong"]);

    damage(alpha, at[3]);
    assert!(!is_whole(alpha, at[3], 3));
    read(alpha, 2, 3).ok();
    assert!(is_whole(alpha, at[3], 3), "the disk keeps what is wrong");
    let told = || alpha.run(&["twinfs", "events"]).ok().out;
    let told_of = |word: &str| harness::wait_for(Duration::from_secs(5), || told().contains(word));
    assert!(told_of("repaired from beta"), "{}", told());
    assert!(told().contains("/mail/box"), "{}", told());
    assert_eq!(pair.volume("alpha")["repaired_blocks"], 1);

    damage(beta, at[5]);
    damage(alpha, at[6]);
    ends(alpha, &[], 5, &["/mail/box", "rotten on beta", "rotten on alpha", "2 wrong, none repaired"]);
    assert!(!is_whole(beta, at[5], 5) && !is_whole(alpha, at[6], 6), "verify alone changes nothing");
    let status = alpha.run(&["twinfs", "status"]);
    assert!(status.code == 4 && status.out.contains("verify --repair"), "{}", status.out);
    ends(alpha, &["--repair"], 4, &["/mail/box", "2 wrong, 2 repaired"]);
    assert!(is_whole(beta, at[5], 5) && is_whole(alpha, at[6], 6));
    ends(alpha, &[], 0, &["nothing wrong"]);
    assert_eq!(alpha.run(&["twinfs", "status"]).code, 0);

    damage(alpha, at[7]);
    damage(beta, at[7]);
    let lost = read(alpha, 7, 1);
    assert!(lost.code != 0 && lost.err.contains("nput/output error"), "{}{}", lost.out, lost.err);
    read(alpha, 8, 4).ok();
    assert!(told_of("on every copy at hand"), "{}", told());
    assert_eq!(pair.volume("alpha")["lost_blocks"], 1);
    assert_eq!(alpha.run(&["twinfs", "status"]).code, 4);
    ends(alpha, &["--repair"], 5, &["1 wrong, none repaired"]);
    // A new content makes it whole, once it is at home: one that goes through the log takes until the checkpoint.
    let line = format!("dd if={} of={FILE} bs=1M conv=notrunc,fsync", copy_of(alpha));
    alpha.sh(&line).ok();
    assert_eq!(pair.volume("alpha")["lost_blocks"], 0);
    read(alpha, 7, 1).ok();

    // The secondary looks at its own copy alone.
    ends(beta, &[], 7, &["alpha", "--local"]);
    damage(beta, at[9]);
    ends(beta, &["--local"], 5, &["1 wrong"]);
    ends(beta, &["--local", "--repair"], 4, &["repaired from alpha"]);
    assert!(is_whole(beta, at[9], 9));
    ends(beta, &["--local"], 0, &["nothing wrong"]);
    pair.compare_images();
}

/// Writes blocks of one file at random places, each with fsync, until killed.
const LOAD: &str = r#"use Fcntl; my ($path, $seed) = @ARGV; srand($seed); $| = 1; sysopen(my $f, $path, O_RDWR|O_CREAT) or die;
for (my $n = 0;; $n++) { sysseek($f, 4096*int(rand(2048)), 0); syswrite($f, pack("N", $n) x 1024);
 require IO::Handle; $f->sync or die; }"#;

#[test]
fn verify_beside_writers_finds_nothing_where_nothing_is() {
    let name = "verify_beside_writers_finds_nothing_where_nothing_is";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    let mut pair = Pair::start("verify-load", &small("scrub = \"never\"\n"));
    fill(&pair);
    let alpha = pair.node("alpha");
    let paths: Vec<String> = (0..4).map(|n| format!("{MOUNT}/load{n}")).collect();
    let writers: Vec<_> =
        paths.iter().map(|path| alpha.spawn("load.log", &["perl", "-e", LOAD, path, "7"])).collect();
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < Duration::from_secs(12) || rounds < 3 {
        ends(alpha, if rounds % 2 == 0 { &[] } else { &["--repair"] }, 0, &["nothing wrong"]);
        ends(pair.node("beta"), &["--local"], 0, &["nothing wrong"]);
        rounds += 1;
    }
    // Rot beside the same load is found.
    damage(alpha, place(alpha, 100));
    let found = ends(alpha, &["--json", "--repair"], 4, &["/mail/box"]);
    let last: serde_json::Value =
        found.out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let numbers = ["schema", "rotten", "repaired", "differ", "lost"].map(|field| last[field].as_u64());
    assert_eq!(numbers, [Some(1), Some(1), Some(1), Some(0), Some(0)], "{last}");
    drop(writers);
    pair.compare_images();
}

#[test]
fn a_run_goes_on_after_a_restart_and_a_scrub_comes_by_itself() {
    let name = "a_run_goes_on_after_a_restart_and_a_scrub_comes_by_itself";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("scrub", &small("scrub = \"10s\"\n"));
    fill(&pair);
    ends(pair.node("alpha"), &[], 0, &["nothing wrong"]);
    // As if the daemon had been killed after the first extent.
    for node in ["beta", "alpha"] {
        pair.node(node).run(&["twinfs", "down"]).ok();
    }
    let kept = pair.node("alpha").dir.join("images/data.verify.json");
    let text = std::fs::read_to_string(&kept).expect("the state of the run");
    let mut state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    state["running"] = state["last"].take();
    state["running"]["state"] = "running".into();
    state["running"]["local"] = false.into();
    state["running"]["done_extents"] = 1.into();
    state["running"]["blocks"] = 1_000_000.into();
    state["last"] = serde_json::Value::Null;
    std::fs::write(&kept, state.to_string()).expect("the state of the run");
    for node in ["alpha", "beta"] {
        pair.start_daemon(node);
    }
    pair.wait_in_sync("alpha");
    pair.wait("alpha", "through with the run", |volume| {
        let last = &volume["verified"];
        last["local"] == false && last["state"] == "finished" && last["blocks"].as_u64() > Some(1_000_000)
    });
    let beta = pair.node("beta");
    let at = place(beta, 11);
    damage(beta, at);
    let healed = harness::wait_for(Duration::from_secs(40), || is_whole(beta, at, 11));
    assert!(healed, "no scrub came: {}", beta.run(&["twinfs", "events"]).out);
    let told = beta.run(&["twinfs", "events"]).ok().out;
    assert!(told.contains("repaired from alpha"), "{told}");
}

/// Appends numbered lines with fsync, and notes each when it is stable.
const APPEND: &str = r#"use IO::Handle; my ($notes) = @ARGV; open(my $log, ">>", "/replicated/log") or die;
open(my $out, ">>", $notes) or die; $out->autoflush(1);
for (my $n = 0;; $n++) { syswrite($log, "$n\n") or exit 3; $log->sync or exit 4; print $out "$n\n"; }"#;

#[test]
fn a_disk_that_fails_under_the_primary_moves_the_service_at_once_and_loses_nothing() {
    let name = "a_disk_that_fails_under_the_primary_moves_the_service_at_once_and_loses_nothing";
    if !need::have_nodes(name, &[("perl", "perl")]) {
        return;
    }
    // Without an arbiter only the word of the failed node itself lets the other one go on.
    for arbitration in ["manual", "witness"] {
        let plan = Plan { arbitration, power_disks: Some(192 << 20), ..small("") };
        let mut pair = Pair::start(&format!("disk-{arbitration}"), &plan);
        let notes = pair.world.dir.join("notes");
        let (alpha, beta) = (pair.node("alpha"), pair.node("beta"));
        let writer = alpha.spawn("append.log", &["perl", "-e", APPEND, &notes.display().to_string()]);
        let lines = || std::fs::read_to_string(&notes).unwrap_or_default();
        assert!(harness::wait_for(Duration::from_secs(10), || lines().lines().count() > 50), "no load");
        pair.world.disks[0].cut(Cut::Drop);
        let began = Instant::now();
        let serves = || {
            // Whatever waits for the dead disk gets an error.
            pair.world.disks[0].release();
            pair.volume("beta")["serving"] == true && pair.volume("beta")["mounted"] == true
        };
        let moved = harness::wait_for(Duration::from_secs(30), serves);
        let took = began.elapsed();
        assert!(moved, "{arbitration}: {:#}\n{}", pair.volume("beta"), alpha.log("twinfsd.log"));
        harness::say(&format!("{arbitration}: beta serves {took:?} after the disk of alpha failed"));
        drop(writer);
        let noted = lines();
        let kept = beta.sh(&format!("cat {MOUNT}/log")).ok().out;
        assert!(kept.starts_with(&noted) && !noted.is_empty(), "acknowledged lines are gone");
        let status = alpha.run(&["twinfs", "status"]);
        assert!(status.code == 5 && status.out.contains("failed"), "{}", status.out);
        let told = |node: &Node| node.run(&["twinfs", "events"]).ok().out;
        assert!(told(alpha).contains("the disk under /"), "{}", told(alpha));
        assert!(told(beta).contains("the disk of alpha failed"), "{}", told(beta));
        let shown = beta.run(&["twinfs", "status"]);
        assert!(shown.code == 4 && shown.out.contains("the only good one"), "{}", shown.out);
        let members = pair.volume("beta")["members"].clone();
        assert_eq!(members, serde_json::json!(["beta"]), "beta's record");
        // The disk works again, and the daemon that saw it fail does not come back to it. The next one brings the copy
        // up to date, whatever that says of itself.
        pair.world.disks[0].restore();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(pair.volume("alpha")["role"], "failed");
        alpha.signal("twinfs daemon", Signal::SIGKILL);
        pair.start_daemon("alpha");
        pair.wait_in_sync("beta");
        pair.compare_images();
    }
}
