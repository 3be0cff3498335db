//! PostgreSQL from Debian: its own programs find on twinfs, alone and on a pair, nothing that they do not find on ext4.
//! And on a pair again and again the primary dies in mid-write; every acknowledged row is there.
//!
//! Three rounds, ten with TWINFS_LONG=1. The dead node is restarted as systemd would do it, and must be in sync before
//! it is its turn to survive. The benchmark runs for two seconds, twenty with TWINFS_LONG=1.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use harness::alone::Alone;
use harness::need;
use harness::node::{Node, Ran};
use harness::pair::{MOUNT, Pair, Plan};
use nix::sys::signal::Signal;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const DATA: &str = "/var/lib/postgresql/15/main";
const ADDRESS: &str = "192.0.2.20";
const CLIENTS: u64 = 3;
/// Acknowledged in a round before the primary dies.
const ROWS: usize = 300;

/// start, stop and status with LSB exit codes, as an administrator would write it.
const SCRIPT: &str = r#"#!/bin/sh
run() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
ctl="/usr/lib/postgresql/15/bin/pg_ctl -D /var/lib/postgresql/15/main"
case "$1" in
  start)
    mkdir -p /run/postgresql && chown postgres: /run/postgresql
    # Whatever a dead node left behind on this machine must be gone before the data is used again.
    run $ctl -w -t 50 -l /tmp/postgresql.log start ;;
  stop) run $ctl -m fast -w -t 50 stop || run $ctl -m immediate -w stop || [ ! -e /var/lib/postgresql/15/main/postmaster.pid ] ;;
  status) run $ctl status >/dev/null || exit 3 ;;
esac
"#;

const NEEDS: &[need::Program] = &[("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"), ("perl", "perl")];

/// From initdb to the check of every page, in the folder that it starts in; `$SECONDS_EACH` of the benchmark before and
/// after a crash of the server. Prints `ok STEP` or `FAIL STEP`, with what was said.
const STEPS: &str = r#"
work=$PWD/postgres; bin=/usr/lib/postgresql/15/bin; data=$work/data
mkdir $work && chown postgres: $work && cd $work
export PGHOST=$work PGUSER=postgres PGDATABASE=postgres PGOPTIONS='-c client_min_messages=warning'
step() {
    name=$1; shift
    if setpriv --reuid postgres --regid postgres --clear-groups "$@" > $work/said 2>&1
    then echo "ok $name"; else echo "FAIL $name"; tail -n 20 $work/said; fi
}
sql() { step "$1" $bin/psql -v ON_ERROR_STOP=1 -Atqc "$2"; }
start() { step "$1" $bin/pg_ctl -D $data -w -t 50 -l $work/log -o "-k $work -c listen_addresses=''" start; }
check() { step "$1" $bin/pg_amcheck --all --install-missing --heapallindexed --parent-check; }
sums="DO \$\$ BEGIN ASSERT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
    AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history); END \$\$"
step initdb $bin/initdb -D $data --auth trust --data-checksums --no-instructions
start start
step pgbench-init $bin/pgbench -q -i -s 2
step pgbench $bin/pgbench -n -c 4 -T $SECONDS_EACH
check amcheck
step crash $bin/pg_ctl -D $data -m immediate -w stop
start recovery
sql sums-after-crash "$sums"
check amcheck-after-crash
step pgbench-after-crash $bin/pgbench -n -c 4 -T $SECONDS_EACH
sql reindex "REINDEX DATABASE postgres"
sql vacuum "VACUUM FULL"
sql sums "$sums"
check amcheck-last
step basebackup $bin/pg_basebackup -D $work/copy -c fast
step verifybackup $bin/pg_verifybackup $work/copy
step stop $bin/pg_ctl -D $data -m fast -w stop
step checksums $bin/pg_checksums --check -D $data
step controldata sh -c "$bin/pg_controldata $data | grep -q 'shut down'"
cd .. && rm -r $work
"#;
const STEP_COUNT: usize = 19;

/// Every step by its name, and whether it went well.
fn steps(ran: &Ran) -> BTreeMap<String, bool> {
    let word = |line: &str| {
        let ok = line.strip_prefix("ok ").map(|name| (name.to_string(), true));
        ok.or_else(|| line.strip_prefix("FAIL ").map(|name| (name.to_string(), false)))
    };
    let found: BTreeMap<String, bool> = ran.out.lines().filter_map(word).collect();
    assert!(ran.code == 0 && found.len() == STEP_COUNT, "{}\n{}{}", found.len(), ran.out, ran.err);
    found
}

fn script() -> String {
    let seconds = if std::env::var_os("TWINFS_LONG").is_some() { 20 } else { 2 };
    format!("SECONDS_EACH={seconds}\n{STEPS}")
}

/// Runs the steps on a file system of its own, in a thread of its own: a mount namespace belongs to one.
fn steps_on(make: fn(&str, &str) -> Alone) -> BTreeMap<String, bool> {
    let run = || {
        let alone = make("postgres-steps", "1G");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&alone.root, mode).expect("others may enter");
        let start = std::time::Instant::now();
        let ran = Ran::from(alone.command("sh").args(["-c", &script()]).output().expect("sh starts"));
        harness::say(&format!("postgres: {} took {:.1} s", alone.kind, start.elapsed().as_secs_f64()));
        let failed = ran.out.contains("FAIL ");
        if failed {
            harness::say(&ran.out);
        }
        let found = steps(&ran);
        alone.check();
        found
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[track_caller]
fn judge(place: &str, ours: &BTreeMap<String, bool>, ext4: &BTreeMap<String, bool>) {
    let less: Vec<&String> =
        ext4.iter().filter(|(name, ok)| **ok && !ours[*name]).map(|(name, _)| name).collect();
    assert!(less.is_empty(), "{place}: goes well on ext4 only: {less:?}");
    let failed: Vec<&String> = ours.iter().filter(|(_, ok)| !**ok).map(|(name, _)| name).collect();
    harness::say(&format!(
        "postgres: {place}: {} of {} steps go well, {failed:?} fail on ext4 too",
        ours.len() - failed.len(),
        ours.len()
    ));
}

#[test]
fn its_own_programs_find_nothing_that_they_do_not_find_on_ext4() {
    let name = "its_own_programs_find_nothing_that_they_do_not_find_on_ext4";
    if !need::have_nodes(name, &[NEEDS, &[("mkfs.ext4", "e2fsprogs")]].concat()) {
        return;
    }
    let ext4 = steps_on(Alone::ext4);
    judge("standalone", &steps_on(Alone::twinfs), &ext4);
    let mut pair = Pair::start("postgres-steps", &Plan { size: "1GiB", ..Plan::default() });
    let script = format!("cd {MOUNT}\n{}", script());
    let ran = pair.node("alpha").run_within(Duration::from_secs(300), &["sh", "-c", &script]);
    judge("pair", &steps(&ran), &ext4);
    pair.compare_images();
    pair.check_images();
}

#[test]
fn no_acknowledged_row_is_lost_when_the_primary_dies_again_and_again() {
    let name = "no_acknowledged_row_is_lost_when_the_primary_dies_again_and_again";
    if !need::have_nodes(name, NEEDS) {
        return;
    }
    let plan = Plan { size: "1GiB", ..Plan::default() };
    let mut pair = Pair::start("postgres", &plan);
    for node in ["alpha", "beta"].map(|name| pair.node(name)) {
        node.sh("rm -rf /var/lib/postgresql && mkdir -p /var/lib/postgresql && chown postgres: /var/lib/postgresql").ok();
        std::fs::write(node.dir.join("script"), SCRIPT).expect("script");
        node.sh(&format!("install -m 755 {}/script /etc/twinfs/postgres", node.dir.display())).ok();
    }
    make_cluster(pair.node("alpha"));
    pair.node("alpha").run(&["twinfs", "adopt", "/var/lib/postgresql"]).ok();
    let volume = format!(
        "address = \"{ADDRESS}/24\"\nservices = [\"exec:/etc/twinfs/postgres\"]\nservice_timeout = \"60s\"\n"
    );
    pair.restart_with(&Plan { volume, ..plan });

    let acknowledged = Mutex::new(BTreeSet::new());
    sql(pair.node("gamma"), "CREATE TABLE rows (n bigint PRIMARY KEY, filler text)");
    let rounds = if std::env::var_os("TWINFS_LONG").is_some() { 10 } else { 3 };
    for round in 0..rounds {
        let victim = pair.primary().expect("somebody serves");
        let survivor = if victim == "alpha" { "beta" } else { "alpha" };
        let before = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len();
        write_while(&pair, &acknowledged, round as u64, || {
            harness::wait_for(Duration::from_secs(20), || {
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len() > before + ROWS
            });
            match round % 2 {
                0 => pair.node(victim).signal("twinfs daemon", Signal::SIGKILL),
                _ => pair.node(victim).kill_all(),
            }
        });
        pair.wait_serving(survivor);
        check_rows(&pair, &acknowledged.lock().unwrap_or_else(PoisonError::into_inner), before, round);
        amcheck(pair.node("gamma"));
        pair.start_daemon(victim);
        pair.wait_in_sync(survivor);
    }
    let rows = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len();
    harness::say(&format!(
        "postgres: {rounds} takeovers, {rows} rows acknowledged, 0 lost, pg_amcheck clean after each"
    ));
    pair.compare_images();
}

/// Tables and indexes are sound.
fn amcheck(node: &Node) {
    let program = format!("{BIN}/pg_amcheck");
    let words = ["-h", ADDRESS, "-U", "postgres", "--all", "--install-missing", "--heapallindexed"];
    let checked = node.run(&[&[program.as_str()], words.as_slice()].concat());
    assert!(checked.code == 0 && checked.out.trim().is_empty(), "pg_amcheck: {}{}", checked.out, checked.err);
}

/// A database that the network may use, tuned for nothing but a quick start.
fn make_cluster(node: &Node) {
    let run = "setpriv --reuid postgres --regid postgres --clear-groups";
    node.sh(&format!("{run} {BIN}/initdb -D {DATA} --auth trust --data-checksums --no-instructions")).ok();
    node.sh(&format!(
        "echo \"host all all 192.0.2.0/24 trust\" >> {DATA}/pg_hba.conf; \
         echo \"listen_addresses = '*'\" >> {DATA}/postgresql.conf"
    ))
    .ok();
}

/// Runs one statement from the witness machine, at the service address, until it succeeds.
fn sql(node: &Node, statement: &str) -> String {
    let mut last = String::new();
    let mut answer = None;
    harness::wait_for(Duration::from_secs(60), || {
        let psql = format!("{BIN}/psql");
        let target = format!("host={ADDRESS} user=postgres connect_timeout=2");
        let ran = node.run(&[&psql, "-v", "ON_ERROR_STOP=1", "-Atqc", statement, &target]);
        last = ran.err;
        answer = (ran.code == 0).then_some(ran.out);
        answer.is_some()
    });
    answer.unwrap_or_else(|| panic!("`{statement}` never succeeded: {last}"))
}

/// Clients insert rows, each noting what was acknowledged, while `disturb` runs and a little longer.
fn write_while(pair: &Pair, acknowledged: &Mutex<BTreeSet<u64>>, round: u64, disturb: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let node = pair.node("gamma");
    let next = AtomicU64::new(round * 1_000_000 + 1);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    client(node, &next, acknowledged, &stop);
                }
            });
        }
        disturb();
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
    });
}

/// One connection: inserts until it breaks.
fn client(node: &Node, next: &AtomicU64, acknowledged: &Mutex<BTreeSet<u64>>, stop: &AtomicBool) {
    let mut command = node.command("timeout");
    // A connection to a node that is gone ends after three seconds, not when the kernel gives up.
    let target = format!("host={ADDRESS} user=postgres connect_timeout=2 tcp_user_timeout=3000");
    command.args(["-k", "1", "60", &format!("{BIN}/psql"), "-Atq", &target]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return };
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { return };
    let mut lines = BufReader::new(output).lines();
    while !stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let insert = format!("INSERT INTO rows VALUES ({number}, repeat('x', 200)) RETURNING n;\n");
        if input.write_all(insert.as_bytes()).is_err() {
            break;
        }
        match lines.next() {
            Some(Ok(line)) if line == number.to_string() => {
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
            }
            _ => break,
        }
    }
    drop(input);
    let _ = child.kill();
    let _ = child.wait();
}

/// Every acknowledged row is in the table.
fn check_rows(pair: &Pair, acknowledged: &BTreeSet<u64>, before: usize, round: usize) {
    let listed = sql(pair.node("gamma"), "SELECT n FROM rows");
    let there: BTreeSet<u64> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    let lost: Vec<&u64> = acknowledged.difference(&there).take(10).collect();
    assert!(lost.is_empty(), "round {round}: acknowledged, but not there: {lost:?}");
    assert!(
        acknowledged.len() > before + ROWS,
        "round {round}: only {} rows: nothing tested",
        acknowledged.len()
    );
    eprintln!("round {round}: {} rows acknowledged, {} there", acknowledged.len(), there.len());
}
