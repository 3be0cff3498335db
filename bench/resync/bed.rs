//! The pair that parts of a resync are measured on, and what they look at.
//!
//! Decides its timing: times that a production network would take, not those of a test that wants a quick takeover.
//! Does not know what is measured.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::pair::{MOUNT, Pair, Plan};
use crate::stop;

pub const MIB: u64 = 1 << 20;
/// Between two looks at the status, each of which costs a few milliseconds of one processor.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The plan of a pair whose volume has this size.
pub fn plan(size: &'static str) -> Plan {
    Plan {
        size,
        volume: "scrub = \"never\"\n".into(),
        slow_peer: "1s",
        deadtime: "10s",
        initdead: "20s",
        ..Plan::default()
    }
}

/// The mounted folder of a node, seen from this process.
pub fn mounted(pair: &Pair, name: &str) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", pair.node(name).pid()));
    root.join(MOUNT.trim_start_matches('/'))
}

/// Bytes that crossed the cable of a node, both ways, frames and all.
pub fn wire_bytes(pair: &Pair, name: &str) -> anyhow::Result<u64> {
    let files = ["rx_bytes", "tx_bytes"].map(|file| format!("/sys/class/net/eth0/statistics/{file}"));
    let read = pair.node(name).run(&["cat", &files[0], &files[1]]).ok().out;
    let mut sum = 0;
    for line in read.lines() {
        sum += line.trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// Waits until the volume on `name` is as `check` wants it; what it was then.
pub fn wait(
    pair: &Pair,
    name: &str,
    limit: Duration,
    mut check: impl FnMut(&Value) -> bool,
) -> anyhow::Result<Value> {
    let end = Instant::now() + limit;
    loop {
        stop::check()?;
        let volume = pair.volume(name);
        if check(&volume) {
            return Ok(volume);
        }
        anyhow::ensure!(Instant::now() < end, "{name} is not as wanted after {limit:?}: {volume:#}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The volume serves here and the other copy is current.
pub fn is_in_sync(volume: &Value) -> bool {
    volume["serving"] == true && volume["mounted"] == true && volume["state"] == "in-sync"
}

/// The daemon of beta ends in an orderly way, and alpha goes on by itself.
pub fn stop_beta(pair: &Pair) -> anyhow::Result<()> {
    pair.node("beta").run(&["twinfs", "down"]).ok();
    let alone = |volume: &Value| volume["serving"] == true && volume["state"] == "alone";
    wait(pair, "alpha", Duration::from_secs(60), alone)?;
    Ok(())
}

/// A file of so many bytes that do not repeat, stable on both nodes.
pub fn fill(path: &std::path::Path, bytes: u64) -> anyhow::Result<()> {
    crate::stream::write(path, usize::try_from(bytes)?)?;
    Ok(())
}

/// Sleeps in slices, so that a signal ends it.
pub fn pass(time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        stop::check()?;
        std::thread::sleep(Duration::from_millis(50).min(time));
    }
    Ok(())
}

/// For a person who waits.
pub fn say(part: &str, round: usize, rounds: usize, text: &str) {
    eprintln!("round {round}/{rounds}  {part:18} {text}");
}
