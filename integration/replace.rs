//! A machine that is replaced: on the production machines with hand-moved clocks, and with real programs.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;
mod pair;

use std::time::Duration;

use harness::need;
use harness::node::{Node, Ran};
use harness::pair::{MOUNT, Pair, Plan};
use pair::{A, B, Disk, World};
use twinfs::format::State;
use twinfs::node::{Arbitration, Mutations, Operator, StateWord};
use twinfs::wire::Kind;

const ALL: [Arbitration; 5] = [
    Arbitration::Witness,
    Arbitration::Fence,
    Arbitration::Yield,
    Arbitration::Manual,
    Arbitration::Deadtime,
];

fn other(n: usize) -> usize {
    1 - n
}

fn retired(w: &World, n: usize) -> &[u128] {
    &w.disks[n].state.retired
}

/// The survivor is alone and serves, with or without a word.
fn goes_on(w: &mut World, n: usize) {
    w.run(15_000);
    if !(w.mounted[n] && w.word(n) == StateWord::Alone) {
        w.operator(n, Operator::Promote { peer_is_down: true });
        w.run(15_000);
    }
    assert!(w.mounted[n] && w.word(n) == StateWord::Alone, "{}", w.why());
    w.write(n, Kind::WriteFlush, 2);
    w.run(1_000);
}

/// The node is struck off.
fn strike(w: &mut World, survivor: usize) {
    let incarnation = w.disks[other(survivor)].state.incarnation;
    w.operator(survivor, Operator::Retire { incarnation });
    w.settle();
    assert!(retired(w, survivor).contains(&incarnation), "{}", w.why());
}

/// A pair of which `dead` died for good, and what its disk holds; it is not struck off yet.
fn bereaved(arbitration: Arbitration, dead: usize) -> (World, Disk) {
    let mut w = World::whole(arbitration, Mutations::default());
    w.write(A, Kind::WriteFlush, 1);
    w.run(2_000);
    w.crash(dead, true);
    let old = w.disks[dead].clone();
    goes_on(&mut w, other(dead));
    (w, old)
}

/// The survivor serves and takes writes; the node that came back does not, and its disk holds what it held.
#[track_caller]
fn assert_refused(w: &mut World, survivor: usize, old: &Disk) {
    let gone = other(survivor);
    let op = w.write(survivor, Kind::WriteFlush, 1);
    w.run(4_000);
    assert!(w.is_done(op) && w.mounted[survivor] && !w.mounted[gone], "{}", w.why());
    assert_eq!(w.disks[gone].cur, old.cur, "something was copied to a disk that was replaced");
    assert_eq!(w.broken, None);
    let state = &w.disks[gone].state;
    assert!(state.is_out_of_use(), "it was not told: {}", w.why());
    let same = State { retired: vec![], boot_epoch: 0, peer_boot_epoch: 0, ..state.clone() };
    let was = State { retired: vec![], boot_epoch: 0, peer_boot_epoch: 0, ..old.state.clone() };
    assert_eq!(same, was, "nothing else of it changes");
}

#[test]
fn a_disk_that_was_replaced_is_refused_for_good_and_a_new_one_joins() {
    for arbitration in ALL {
        for dead in [A, B] {
            let survivor = other(dead);
            let (mut w, old) = bereaved(arbitration, dead);
            strike(&mut w, survivor);
            w.boot(dead);
            w.run(20_000);
            assert_refused(&mut w, survivor, &old);
            // It stays refused when nobody is there who could say so, whatever it is told.
            w.crash(survivor, true);
            w.crash(dead, true);
            w.boot(dead);
            w.run(60_000);
            w.operator(dead, Operator::Promote { peer_is_down: true });
            w.run(30_000);
            w.operator(dead, Operator::PromoteOld);
            w.run(30_000);
            assert!(!w.mounted[dead], "{arbitration:?}: {}", w.why());

            w.crash(dead, true);
            w.replace_disk(dead);
            w.boot(survivor);
            w.boot(dead);
            w.run(60_000);
            w.assert_in_sync();
            assert_eq!(retired(&w, dead), [old.state.incarnation], "the new one does not know");

            // The new one may be the survivor of the next failure: what was replaced before it stays refused.
            w.crash(survivor, true);
            let second = w.disks[survivor].state.incarnation;
            goes_on(&mut w, dead);
            strike(&mut w, dead);
            w.replace_disk(survivor);
            w.boot(survivor);
            w.run(60_000);
            w.assert_in_sync();
            assert_eq!(retired(&w, survivor), [old.state.incarnation, second]);
            w.crash(dead, true);
            goes_on(&mut w, survivor);
            w.disks[dead] = old.clone();
            w.boot(dead);
            w.run(20_000);
            assert_refused(&mut w, survivor, &old);
        }
    }
}

#[test]
fn a_replaced_disk_that_meets_nobody_but_the_arbiter_gets_no_right() {
    for arbitration in [Arbitration::Witness, Arbitration::Fence, Arbitration::Yield] {
        for dead in [A, B] {
            let survivor = other(dead);
            let (mut w, old) = bereaved(arbitration, dead);
            strike(&mut w, survivor);
            w.replace_disk(dead);
            w.boot(dead);
            w.run(60_000);
            w.assert_in_sync();
            // The new one serves alone at the end: the record at the arbiter names a node of the old one's name.
            w.crash(survivor, true);
            goes_on(&mut w, dead);
            w.crash(dead, true);
            let shown = w.witness.image().clone();
            w.disks[dead] = old;
            w.boot(dead);
            w.run(200_000);
            assert!(!w.mounted[dead], "{arbitration:?}: {}", w.why());
            assert_eq!(w.witness.image(), &shown, "it got a vote");
        }
    }
}

#[test]
fn a_replacement_cut_anywhere_is_repeated_and_nothing_old_gets_in() {
    for keep in [false, true] {
        for crash in [A, B] {
            for steps in 0..40 {
                let (mut w, old) = bereaved(Arbitration::Witness, B);
                let incarnation = old.state.incarnation;
                w.boot(B);
                w.operator(A, Operator::Retire { incarnation });
                w.connect();
                for step in 0..steps {
                    let n = step % 2;
                    let _ = w.pay(n) || w.deliver(n) || w.beat(n) || w.ask() || w.answer(n);
                }
                w.crash(crash, keep);
                w.boot(crash);
                w.run(200);
                for _ in 0..40 {
                    w.operator(A, Operator::Retire { incarnation });
                    w.run(1_000);
                }
                let told = w.disks[B].state.is_out_of_use();
                // A copy that had become a member before it was struck off is not struck off.
                let joined = w.word(A) == StateWord::InSync;
                assert!(w.broken.is_none() && w.mounted[A] && !w.mounted[B], "{steps}: {}", w.why());
                assert!(told != joined, "{steps}: {}", w.why());
                assert_eq!(told, retired(&w, A).contains(&incarnation), "{steps}: {}", w.why());
            }
        }
    }
}

#[test]
fn only_the_sole_member_strikes_off() {
    let mut w = World::whole(Arbitration::Witness, Mutations::default());
    for n in [A, B] {
        let incarnation = w.disks[other(n)].state.incarnation;
        w.operator(n, Operator::Retire { incarnation });
        w.run(2_000);
        assert!(retired(&w, n).is_empty());
        w.operator(n, Operator::Retire { incarnation: w.disks[n].state.incarnation });
        w.run(2_000);
        assert!(!w.disks[n].state.is_out_of_use());
    }
    w.assert_in_sync();
}

/// Both serve, each alone by its own record: the word that the peer is down was wrong.
fn two(arbitration: Arbitration) -> World {
    let mut w = World::whole(arbitration, Mutations::default());
    w.part();
    goes_on(&mut w, A);
    w.operator(B, Operator::Promote { peer_is_down: true });
    w.run(15_000);
    assert!(w.mounted[A] && w.mounted[B], "{}", w.why());
    w
}

#[test]
fn a_node_that_serves_and_was_replaced_stops_when_it_hears_of_it() {
    let mut w = two(Arbitration::Manual);
    strike(&mut w, A);
    w.connect();
    w.run(3_000);
    assert!(w.mounted[A] && !w.mounted[B] && w.disks[B].state.is_out_of_use(), "{}", w.why());
    assert!(!w.disks[A].state.is_out_of_use());
}

#[test]
fn two_that_replaced_each_other_both_go_on_as_they_were() {
    let mut w = two(Arbitration::Manual);
    strike(&mut w, A);
    strike(&mut w, B);
    w.connect();
    w.run(30_000);
    assert!(w.mounted[A] && w.mounted[B], "{}", w.why());
    assert!(![A, B].iter().any(|n| w.disks[*n].state.is_out_of_use()));
    assert!(w.why().contains("each node was told"), "{}", w.why());
}

const LIMIT: Duration = Duration::from_secs(60);
const DIR: &str = "/var/lib/twinfs";

/// Ends with this code and one line that says these things.
#[track_caller]
fn refused(node: &Node, words: &[&str], code: i32, said: &[&str]) -> Ran {
    let ran = node.run_within(LIMIT, words);
    assert_eq!(ran.code, code, "{words:?}: {}{}", ran.out, ran.err);
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{words:?}: {}", ran.err);
    for word in said {
        assert!(ran.err.contains(word), "{words:?} says nothing of {word}: {}", ran.err);
    }
    ran
}

/// Everything that a node keeps goes out of the way, and what lies in `from` takes its place: another machine.
fn exchange(node: &Node, to: &str, from: &str) {
    let line = format!(
        "cd {DIR} && mkdir -p {to} {from} && find . -mindepth 1 -maxdepth 1 ! -name 'machine-*' -exec mv {{}} {to}/ ';' && \
         find {from} -mindepth 1 -maxdepth 1 -exec mv {{}} . ';'"
    );
    node.sh(&line).ok();
}

/// What an administrator of the survivor, and of every machine that wants to be the other one, sees.
#[test]
fn a_dead_machine_is_replaced_and_its_disk_comes_back_in_vain() {
    let name = "a_dead_machine_is_replaced_and_its_disk_comes_back_in_vain";
    if !need::have_nodes(name, &[]) {
        return;
    }
    let mut pair = Pair::start("replaced", &Plan { size: "64MiB", ..Plan::default() });
    let daemon = pair.node("alpha").pids_of("twinfs daemon");
    let write = format!("head -c 5000000 /dev/urandom > {MOUNT}/data && sync {MOUNT}/data");
    pair.node("alpha").sh(&write).ok();
    let sum = format!("sha256sum < {MOUNT}/data");
    let before = pair.node("alpha").sh(&sum).ok().out;

    // Nothing that lives is struck off.
    let alpha = pair.node("alpha");
    refused(alpha, &["twinfs", "replace", "beta"], 7, &["alive", "stop it first"]);
    refused(alpha, &["twinfs", "replace", "beta", "--force"], 75, &["twinfs down"]);
    refused(alpha, &["twinfs", "replace", "alpha"], 2, &["say it on", "beta"]);
    refused(alpha, &["twinfs", "replace", "gamma"], 2, &["no node gamma", "beta"]);
    refused(alpha, &["twinfs", "replace", "beta", "--expires", "31d"], 2, &["30 days"]);
    refused(alpha, &["twinfs", "replace", "beta", "--token-file", "/etc/twinfs/key"], 1, &["nothing done"]);

    pair.node("beta").kill_all();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone" && volume["serving"] == true);
    let expires = ["twinfs", "replace", "beta", "--expires", "1s", "--token-file", "/etc/twinfs/expired"];
    let alpha = pair.node("alpha");
    assert!(harness::wait_for(LIMIT, || alpha.run_within(LIMIT, &expires).code == 0), "never struck off");
    assert_eq!(alpha.sh("stat -c %a /etc/twinfs/expired").ok().out, "600\n");
    std::thread::sleep(Duration::from_millis(1_200));
    let printed = alpha.run_within(LIMIT, &["twinfs", "--json", "replace", "beta"]).ok().out;
    let printed: serde_json::Value = serde_json::from_str(printed.trim()).expect("one JSON object");
    let token = printed["token"].as_str().expect("a token").to_string();
    let expired = alpha.sh("cat /etc/twinfs/expired").ok().out.trim().to_string();

    // The old disk is kept, as it was; the new machine has nothing but configuration and key.
    let beta = pair.node("beta");
    exchange(beta, "machine-old", "machine-new");
    beta.sh(&format!("cp --sparse=always {DIR}/machine-old/data.img {DIR}/machine-old.img")).ok();
    beta.sh(&format!("mkdir {DIR}/machine-kept && mv {DIR}/machine-old.img {DIR}/machine-kept/data.img"))
        .ok();
    refused(beta, &["twinfs", "join"], 1, &["beta was replaced", "--token"]);
    refused(beta, &["twinfs", "join", "--token", "nonsense"], 2, &["nonsense", "twinfs replace"]);
    refused(beta, &["twinfs", "join", "--token", &expired], 1, &["newest", "twinfs replace beta"]);
    refused(beta, &["twinfs", "join", "--token", "twinfs-join-1:00"], 1, &["newest"]);
    let join = ["twinfs", "join", "--token", &token];
    // A first try that lost its image half-way is repeated; another machine is not let in.
    beta.run_within(LIMIT, &join).ok();
    beta.sh(&format!("rm {DIR}/data.img")).ok();
    beta.run_within(LIMIT, &join).ok();
    exchange(beta, "machine-new", "machine-third");
    refused(beta, &join, 1, &["used already", "twinfs replace beta"]);
    exchange(beta, "machine-third", "machine-new");
    pair.start_daemon("beta");
    pair.wait_in_sync("alpha");
    refused(pair.node("beta"), &["twinfs", "replace", "alpha"], 7, &["alive"]);

    // The old machine is back, and cannot know.
    pair.node("beta").kill_all();
    pair.wait("alpha", "alone", |volume| volume["state"] == "alone" && volume["serving"] == true);
    exchange(pair.node("beta"), "machine-new", "machine-old");
    pair.start_daemon("beta");
    pair.wait("beta", "told that it was replaced", |volume| volume["replaced"] == true);
    let told = pair.volume("beta");
    assert!(told["role"] == "failed" && told["serving"] == false, "{told:#}");
    assert!(told["reason"].as_str().is_some_and(|why| why.contains("mkfs --force")), "{told:#}");
    let events = pair.node("alpha").run(&["twinfs", "events"]).ok().out;
    for part in ["copy that was replaced came back", "was replaced by an administrator", "joins as beta"] {
        assert!(events.contains(part), "no word of \"{part}\" in {events}");
    }
    pair.wait_serving("alpha");
    pair.node("beta").sh("twinfs promote --peer-is-down --force; true").ok();
    assert_eq!(pair.volume("beta")["serving"], false);
    pair.node("beta").kill_all();
    let start = ["twinfs", "daemon"];
    refused(pair.node("beta"), &start, 78, &["was replaced", "mkfs --force"]);
    refused(pair.node("beta"), &["twinfs", "join"], 78, &["was replaced", "mkfs --force"]);
    pair.wait_serving("alpha");

    // The old disk, as it was, in the new machine, while nobody else is there.
    let beta = pair.node("beta");
    exchange(beta, "machine-old", "machine-new");
    beta.sh(&format!("mv {DIR}/data.img {DIR}/machine-third/ && mv {DIR}/machine-kept/data.img {DIR}/")).ok();
    assert_eq!(pair.node("alpha").pids_of("twinfs daemon"), daemon, "the survivor was restarted");
    pair.node("alpha").kill_all();
    refused(pair.node("beta"), &start, 78, &["was replaced", "mkfs --force"]);
    let beta = pair.node("beta");
    beta.run_within(LIMIT, &["twinfs", "mkfs", "--force", &format!("{DIR}/data.img")]).ok();
    beta.sh(&format!("mv {DIR}/machine-third/data.img {DIR}/data.img")).ok();

    for node in ["alpha", "beta"] {
        pair.start_daemon(node);
    }
    pair.wait_in_sync("alpha");
    pair.node("alpha").run_within(LIMIT, &["twinfs", "switchover"]).ok();
    pair.wait_in_sync("beta");
    assert_eq!(pair.node("beta").sh(&sum).ok().out, before);
    pair.compare_images();
}
