//! Where the time of one replicated 4 KiB fsync goes: its parts as the kernel saw them, beside what plain programs need
//! for the same things in the same run.
//!
//! Decides what counts as explained: of FUSE, wire and disk no more than the floor, and the time that the node's
//! threads waited for a processor longer than those of the plain program do, because both nodes share the processors of
//! one machine; of computing the time that a thread ran or waited for a processor; and what the trace itself costs.
//! Everything else is the rest. Does not know how a trace is read (`trace`), what an operation consists of (`path`) or
//! how a floor is measured (`floors`).

mod floors;
mod path;
mod trace;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::latency::{prepared, within, write_until};
use crate::pair::Pair;
use crate::report::{Aim, Ratio, Row, median};
use crate::stop;

use path::{Part, Parts};

/// More than this must not be left unexplained, in percent.
const REST_MAX: f64 = 15.0;
const IMAGE: u64 = 1 << 30;

/// What is reported of one round: metric, value, unit.
type Lines = Vec<(&'static str, f64, &'static str)>;

pub fn run(scratch: &Path, twinfs: &Path, quick: bool, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let pair = Pair::start(&scratch.join("breakdown"), IMAGE, twinfs)?;
    let span = Duration::from_secs(if quick { 1 } else { 3 });
    let mut all: Vec<Lines> = Vec::new();
    for round in 1..=rounds {
        stop::check()?;
        let found = measure(&pair, scratch, span)?;
        let said: Vec<String> =
            found.iter().map(|(metric, value, unit)| format!("{metric} {value:.0} {unit}")).collect();
        eprintln!("round {round}/{rounds}  breakdown  {}", said.join(", "));
        all.push(found);
    }
    let first = all.first().cloned().unwrap_or_default();
    let row = |(index, (metric, _, unit)): (usize, (&'static str, f64, &'static str))| {
        let value = median(&all.iter().map(|lines| lines[index].1).collect::<Vec<_>>());
        let rest = Ratio { of: "15 %", value: value / REST_MAX, aim: Some(Aim::AtMost(1.0)) };
        let ratios = if unit == "%" { vec![rest] } else { Vec::new() };
        Row { work: "breakdown", setup: "pair", metric, value, unit, ratios }
    };
    Ok(first.into_iter().enumerate().map(row).collect())
}

fn measure(pair: &Pair, scratch: &Path, span: Duration) -> anyhow::Result<Lines> {
    let file = prepared(&pair.dir().join("writer"))?;
    let until = |span: Duration| {
        let end = Instant::now() + span;
        move || Instant::now() >= end
    };
    // Whoever waits for requests is awake by then.
    write_until(&file, until(Duration::from_secs(1)))?;
    let from = Instant::now();
    let mut plain = write_until(&file, until(span / 2))?;
    let events = trace::record(pair.pids(), || Ok(write_until(&file, until(span)).map(drop)?))?;
    plain.extend(write_until(&file, until(span / 2))?);
    let (parts, bytes) = path::parts(&events)?;
    drop(file);
    let behind = Duration::from_secs_f64(parts.behind.max(0.0) / 1e6);
    let floors = Floors {
        fuse: floors::fuse(pair.dir())?,
        wire: floors::wire(pair.networks(), bytes)?,
        // The blocks of the message, and the page that holds their digests.
        disk: floors::disk(scratch, (bytes[0] / 4096 + 1) * 4096, behind)?,
        hand_over: floors::hand_over()?,
    };
    Ok(lines(ordinary(&within(&plain, from, Instant::now())), &parts, &floors))
}

/// Mean of the middle half, as of the parts, in microseconds.
fn ordinary(sorted: &[Duration]) -> f64 {
    let quarter = sorted.len() / 4;
    let middle = &sorted[quarter..sorted.len() - quarter];
    middle.iter().map(Duration::as_secs_f64).sum::<f64>() * 1e6 / middle.len() as f64
}

/// What plain programs need, in microseconds.
struct Floors {
    /// One request.
    fuse: f64,
    wire: f64,
    /// Of the primary and of the peer.
    disk: [f64; 2],
    /// From one thread to another one.
    hand_over: f64,
}

fn lines(plain: f64, parts: &Parts, floors: &Floors) -> Lines {
    let above = |part: f64, floor: f64| (part - floor).max(0.0);
    // A part, what a plain program needs for it, and how often a thread is woken in it there.
    let fuse = (parts.fuse, floors.fuse * parts.requests, 2.0 * parts.requests);
    let wire = (parts.wire, floors.wire, 2.0);
    let peer_disk = (parts.peer_disk, floors.disk[1], 3.0);
    let local_disk = (parts.local_disk, floors.disk[0], 3.0);
    let outside = [fuse, wire, peer_disk, local_disk];
    let shared = |(part, floor, wakes): (Part, f64, f64)| {
        above(part.waited, wakes * floors.hand_over).min(above(part.time, floor))
    };
    let waited: f64 = outside.into_iter().map(shared).sum();
    let idle = |part: Part| above(part.time, part.busy);
    let mut rest = idle(parts.cpu) + idle(parts.peer_cpu);
    rest += outside.iter().map(|(part, floor, _)| above(part.time, *floor)).sum::<f64>() - waited;
    let trace = above(parts.all, plain);
    vec![
        ("without trace", plain, "us"),
        ("with trace", parts.all, "us"),
        ("program", parts.program, "us"),
        ("FUSE", parts.fuse.time, "us"),
        ("FUSE floor", fuse.1, "us"),
        ("CPU primary", parts.cpu.time, "us"),
        ("CPU primary, ran", parts.cpu.ran, "us"),
        ("local disk on way", parts.local_disk.time, "us"),
        ("local disk beside", parts.local_beside.time, "us"),
        ("local disk floor", local_disk.1, "us"),
        ("wire", parts.wire.time, "us"),
        ("wire floor", wire.1, "us"),
        ("CPU peer", parts.peer_cpu.time, "us"),
        ("CPU peer, ran", parts.peer_cpu.ran, "us"),
        ("peer disk", parts.peer_disk.time, "us"),
        ("peer disk floor", peer_disk.1, "us"),
        ("hand-over floor", floors.hand_over, "us"),
        ("no processor", waited, "us"),
        ("rest", 100.0 * above(rest, trace) / plain, "%"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_what_is_above_the_floors_and_what_nobody_ran_in() {
        let part = |time: f64, waited: f64, busy: f64| Part { time, ran: busy - waited, waited, busy };
        let parts = Parts {
            all: 200.0,
            fuse: part(50.0, 6.0, 0.0),
            requests: 2.0,
            cpu: part(40.0, 5.0, 35.0),
            wire: part(30.0, 30.0, 30.0),
            peer_cpu: part(10.0, 0.0, 10.0),
            peer_disk: part(70.0, 0.0, 0.0),
            ..Parts::default()
        };
        let floors = Floors { fuse: 20.0, wire: 40.0, disk: [60.0, 60.0], hand_over: 1.0 };
        let last = |plain: f64| lines(plain, &parts, &floors).pop().expect("a rest").1;
        // 10 of FUSE but for 2 that its threads waited longer, 5 in which nobody computed, nothing of the wire, 10 of
        // the peer's disk.
        assert!((last(200.0) - 100.0 * 23.0 / 200.0).abs() < 1e-9, "{}", last(200.0));
        assert!((last(190.0) - 100.0 * 13.0 / 190.0).abs() < 1e-9, "{}", last(190.0));
    }
}
