//! What the kernel says of some processes: every system call's begin and end, and which thread runs when.
//!
//! Decides nothing about what it means. Uses an instance of its own of the kernel's trace, which is removed at the end.
//! Invariant: events are in the order of time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nix::libc;

use crate::setup::run;

/// Per processor.
const BUFFER_KIB: &str = "65536";
const ROOT: &str = "/sys/kernel/tracing";
/// What is recorded: each event costs the traced thread half a microsecond, and most calls are of futex(2).
const CALLS: [i64; 11] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_fdatasync,
    libc::SYS_io_submit,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
];
/// Threads that run so that a processor does not sleep.
const AWAKE: &str = "twinfs-awake";

/// Whose thread it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Program,
    Primary,
    Peer,
}

/// What a descriptor leads to, as far as that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Fuse,
    Image,
    Other,
}

/// Of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Runs,
    /// It could run and has no processor: it was woken, or had to make room.
    Waits,
    Sleeps,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// The number of the call, where its first argument leads, its third argument.
    Enter(i64, Place, u64),
    /// The number of the call, where it led, its result.
    Exit(i64, Place, i64),
    /// What the thread is from now on.
    Is(State),
}

/// Something that one thread did, at a time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    pub at: f64,
    pub who: Who,
    pub thread: i32,
    pub what: What,
}

/// Traces this thread and the two daemons while `act` runs.
pub fn record(daemons: [u32; 2], act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Vec<Event>> {
    let mut owners = BTreeMap::from([(nix::unistd::gettid().as_raw(), Who::Program)]);
    let mut places = BTreeMap::new();
    for (pid, who) in daemons.into_iter().zip([Who::Primary, Who::Peer]) {
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            if let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                owners.insert(thread, who);
            }
        }
        places.extend(places_of(pid, who)?);
    }
    let trace = Instance::make(owners.keys().copied())?;
    trace.set("tracing_on", "1")?;
    let done = act();
    trace.set("tracing_on", "0")?;
    done?;
    let text = std::fs::read_to_string(trace.path.join("trace"))?;
    anyhow::ensure!(!text.contains("LOST"), "the kernel lost events of its trace");
    Ok(parse(&text, &owners, &places))
}

type Places = BTreeMap<(u8, u64), Place>;

fn places_of(pid: u32, who: Who) -> anyhow::Result<Places> {
    let mut places = Places::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let place = match target {
            target if target == Path::new("/dev/fuse") => Place::Fuse,
            target if target.extension().is_some_and(|end| end == "img") => Place::Image,
            _ => continue,
        };
        places.insert((who as u8, number), place);
    }
    Ok(places)
}

/// One instance of the kernel's trace.
struct Instance {
    path: PathBuf,
    /// Nobody had mounted it.
    mounted: bool,
}

impl Instance {
    fn make(threads: impl Iterator<Item = i32>) -> anyhow::Result<Instance> {
        let instances = Path::new(ROOT).join("instances");
        let mounted = !instances.exists();
        if mounted {
            run(Command::new("mount").args(["-t", "tracefs", "tracefs", ROOT]))
                .context("the kernel has no trace")?;
        }
        let trace =
            Instance { path: instances.join(format!("twinfs-bench-{}", std::process::id())), mounted };
        std::fs::create_dir(&trace.path).with_context(|| trace.path.display().to_string())?;
        trace.set("tracing_on", "0")?;
        // One clock for all processors.
        trace.set("trace_clock", "mono")?;
        trace.set("buffer_size_kb", BUFFER_KIB)?;
        let threads: Vec<String> = threads.map(|thread| thread.to_string()).collect();
        trace.set("set_event_pid", &threads.join(" "))?;
        let calls: Vec<String> = CALLS.iter().map(|number| format!("id == {number}")).collect();
        trace.set("events/raw_syscalls/filter", &calls.join(" || "))?;
        for event in ["raw_syscalls", "sched/sched_switch", "sched/sched_waking"] {
            trace.set(&format!("events/{event}/enable"), "1")?;
        }
        Ok(trace)
    }

    fn set(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        std::fs::write(&path, value).with_context(|| path.display().to_string())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.set("tracing_on", "0");
        let _ = std::fs::remove_dir(&self.path);
        if self.mounted {
            let _ = run(Command::new("umount").arg(ROOT));
        }
    }
}

fn parse(text: &str, owners: &BTreeMap<i32, Who>, places: &Places) -> Vec<Event> {
    let mut events = Vec::new();
    let mut open: BTreeMap<i32, Place> = BTreeMap::new();
    let mut awake: BTreeSet<i32> = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((thread, at, name, rest)) = split(line) else { continue };
        match name {
            "sys_enter" => {
                let Some((who, (number, words))) = owners.get(&thread).zip(enter(rest)) else { continue };
                let place = places.get(&(*who as u8, words[0])).copied().unwrap_or(Place::Other);
                open.insert(thread, place);
                events.push(Event { at, who: *who, thread, what: What::Enter(number, place, words[2]) });
            }
            "sys_exit" => {
                let Some((who, (number, result))) = owners.get(&thread).zip(exit(rest)) else { continue };
                let place = open.remove(&thread).unwrap_or(Place::Other);
                events.push(Event { at, who: *who, thread, what: What::Exit(number, place, result) });
            }
            "sched_switch" | "sched_waking" => {
                for (thread, comm, state) in states(name, rest) {
                    if comm.starts_with(AWAKE) {
                        awake.insert(thread);
                    }
                    if let Some(who) = owners.get(&thread).filter(|_| !awake.contains(&thread)) {
                        events.push(Event { at, who: *who, thread, what: What::Is(state) });
                    }
                }
            }
            _ => {}
        }
    }
    events
}

/// `comm-TID [cpu] flags seconds: name: rest`
fn split(line: &str) -> Option<(i32, f64, &str, &str)> {
    let (task, rest) = line.split_once(" [")?;
    let thread = task.trim_end().rsplit_once('-')?.1.parse().ok()?;
    let (_, rest) = rest.split_once("] ")?;
    let (_, rest) = rest.trim_start().split_once(' ')?;
    let (seconds, rest) = rest.trim_start().split_once(": ")?;
    let (name, rest) = rest.split_once(": ")?;
    Some((thread, seconds.parse::<f64>().ok()? * 1e6, name, rest))
}

/// `NR 18 (a, b, c, ...)`, in hexadecimal.
fn enter(rest: &str) -> Option<(i64, [u64; 3])> {
    let (number, words) = rest.strip_prefix("NR ")?.split_once(" (")?;
    let mut words = words.split([',', ')']).map(|word| u64::from_str_radix(word.trim(), 16).unwrap_or(0));
    Some((number.parse().ok()?, [words.next()?, words.next()?, words.next()?]))
}

/// `NR 18 = 4096`
fn exit(rest: &str) -> Option<(i64, i64)> {
    let (number, result) = rest.strip_prefix("NR ")?.split_once(" = ")?;
    Some((number.parse().ok()?, result.trim().parse().ok()?))
}

/// The threads that change: `prev_comm=a prev_pid=1 prev_prio=.. prev_state=S ==> next_comm=b next_pid=2 ..`, or
/// `comm=a pid=1 ..` of one that is woken.
fn states<'a>(name: &str, rest: &'a str) -> Vec<(i32, &'a str, State)> {
    let named = |prefix: &str| {
        let (_, rest) = rest.split_once(&format!("{prefix}comm="))?;
        let (comm, rest) = rest.split_once(&format!(" {prefix}pid="))?;
        Some((rest.split_whitespace().next()?.parse().ok()?, comm))
    };
    let with = |prefix: &str, state: State| named(prefix).map(|(thread, comm)| (thread, comm, state));
    if name == "sched_waking" {
        return with("", State::Waits).into_iter().collect();
    }
    let left = if rest.contains(" prev_state=R") { State::Waits } else { State::Sleeps };
    with("prev_", left).into_iter().chain(with("next_", State::Runs)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let text = [
            "# tracer: nop",
            "   twinfs-commit-761     [001] .....  7124.000010: sys_enter: NR 75 (8, 0, ff, 0, 0, 0)",
            "   twinfs-commit-761     [001] d....  7124.000020: sched_switch: prev_comm=twinfs-commit \
             prev_pid=761 prev_prio=120 prev_state=D ==> next_comm=twinfs-awake next_pid=9 next_prio=120",
            "          <idle>-0       [001] d.h..  7124.000120: sched_waking: comm=twinfs-commit pid=761 \
             prio=120 target_cpu=001",
            "    twinfs-awake-9       [001] d....  7124.000130: sched_switch: prev_comm=twinfs-awake \
             prev_pid=9 prev_prio=120 prev_state=R+ ==> next_comm=twinfs-commit next_pid=761 next_prio=120",
            "   twinfs-commit-761     [000] .....  7124.000310: sys_exit: NR 75 = -5",
        ];
        let text = &text.join("\n");
        let owners = BTreeMap::from([(761, Who::Primary), (9, Who::Primary)]);
        let places = Places::from([((Who::Primary as u8, 8), Place::Image)]);
        let found: Vec<What> = parse(text, &owners, &places).iter().map(|event| event.what).collect();
        let expected = [
            What::Enter(75, Place::Image, 0xff),
            What::Is(State::Sleeps),
            What::Is(State::Waits),
            What::Is(State::Runs),
            What::Exit(75, Place::Image, -5),
        ];
        assert_eq!(found, expected);
        let at = parse(text, &owners, &places)[4].at;
        assert!((at - 7_124_000_310.0).abs() < 0.5, "{at}");
    }
}
