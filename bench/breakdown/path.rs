//! From what the kernel saw to the parts of one operation: the program writes 4 KiB and waits; the primary answers the
//! requests of the mount, sends a message, writes and flushes; the peer receives, writes, flushes and answers.
//!
//! Decides which way the program waited for: over the peer if its answer came after the primary's own flush, else over
//! the primary's disk. Only operations of the way that was the more frequent one count, and of those the middle half by
//! time: what else goes on, a checkpoint say, is not part of an fsync. Invariant: the parts on the way add up to the
//! whole.

use std::collections::BTreeSet;

use nix::libc;

use super::trace::{Event, Place, State, What, Who};

/// Messages with data are longer, answers are shorter.
const DATA_MIN: u64 = 4096;
/// A frame begins with its length.
const LENGTH_BYTES: i64 = 2;
/// Fewer operations say nothing.
const LEAST: usize = 50;

/// Means in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    pub time: f64,
    /// A thread of the node ran, at least one.
    pub ran: f64,
    /// A thread of the node was woken, or had to make room, and had no processor.
    pub waited: f64,
    /// One of both.
    pub busy: f64,
}

/// The parts of an operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    pub all: f64,
    /// Between the two calls of the program.
    pub program: f64,
    pub requests: f64,
    /// From a call until the daemon has the request, and from its answer until the call returns.
    pub fuse: Part,
    /// Of the primary: from a request to the message or the disk, and from what came last to the answer.
    pub cpu: Part,
    /// The primary's write and flush, if the program waited for it; and if it did not.
    pub local_disk: Part,
    pub local_beside: Part,
    pub wire: Part,
    pub peer_cpu: Part,
    pub peer_disk: Part,
    /// From the begin of the primary's write to that of the peer's.
    pub behind: f64,
}

impl Parts {
    fn fields(&mut self) -> Vec<&mut f64> {
        let mut fields = vec![&mut self.all, &mut self.program, &mut self.requests, &mut self.behind];
        for part in [
            &mut self.fuse,
            &mut self.cpu,
            &mut self.local_disk,
            &mut self.local_beside,
            &mut self.wire,
            &mut self.peer_cpu,
            &mut self.peer_disk,
        ] {
            fields.extend([&mut part.time, &mut part.ran, &mut part.waited, &mut part.busy]);
        }
        fields
    }

    fn mean(mut all: Vec<Parts>) -> Parts {
        let count = all.len() as f64;
        let mut mean = Parts::default();
        for parts in &mut all {
            for (sum, value) in mean.fields().into_iter().zip(parts.fields()) {
                *sum += *value / count;
            }
        }
        mean
    }
}

/// One operation: its parts, whether it waited for the peer, and bytes of the message and of the answer.
struct Operation {
    parts: Parts,
    over_peer: bool,
    bytes: [usize; 2],
}

/// The parts of an ordinary operation, and bytes of its message and of the answer.
pub fn parts(events: &[Event]) -> anyhow::Result<(Parts, [usize; 2])> {
    let states = [Who::Program, Who::Primary, Who::Peer].map(|who| States::of(events, who));
    let starts = events.iter().enumerate().filter_map(|(index, event)| {
        let begins = matches!(event.what, What::Enter(libc::SYS_pwrite64, ..));
        (event.who == Who::Program && begins).then_some(index)
    });
    let starts: Vec<usize> = starts.collect();
    let mut found: Vec<Operation> =
        starts.windows(2).filter_map(|pair| operation(&events[pair[0]..pair[1]], &states)).collect();
    let looked_at = found.len();
    let over_peer = found.iter().filter(|operation| operation.over_peer).count() * 2 >= looked_at;
    found.retain(|operation| operation.over_peer == over_peer);
    found.sort_by(|a, b| a.parts.all.total_cmp(&b.parts.all));
    anyhow::ensure!(found.len() >= LEAST, "the trace shows {looked_at} of {} operations", starts.len());
    let quarter = found.len() / 4;
    let ordinary = &found[quarter..found.len() - quarter];
    let bytes = ordinary[ordinary.len() / 2].bytes;
    Ok((Parts::mean(ordinary.iter().map(|operation| operation.parts).collect()), bytes))
}

/// `None` if something else was going on as well.
fn operation(events: &[Event], states: &[States; 3]) -> Option<Operation> {
    let calls = |who: Who| events.iter().filter(move |event| event.who == who);
    let times = |who: Who, is: &dyn Fn(What) -> bool| -> Vec<f64> {
        calls(who).filter(|event| is(event.what)).map(|event| event.at).collect()
    };
    let begin = events.first()?.at;
    let own: Vec<f64> = times(Who::Program, &|what| {
        matches!(what, What::Exit(libc::SYS_pwrite64, ..) | What::Enter(libc::SYS_fdatasync, ..))
    });
    let [written, synced] = own[..] else { return None };
    let end = *times(Who::Program, &|what| matches!(what, What::Exit(libc::SYS_fdatasync, ..))).last()?;
    let got = times(Who::Primary, &|what| matches!(what, What::Exit(libc::SYS_read, Place::Fuse, 1..)));
    let answered = times(Who::Primary, &|what| {
        matches!(what, What::Enter(libc::SYS_writev | libc::SYS_write, Place::Fuse, _))
    });
    if got.is_empty() || got.len() != answered.len() || got.iter().zip(&answered).any(|(a, b)| a > b) {
        return None;
    }
    let (asked, answer) = (*got.last()?, *answered.last()?);
    let sends: Vec<(f64, u64)> = sends(events, Who::Primary).filter(|(at, _)| *at > asked).collect();
    let [(sent, message)] = sends[..] else { return None };
    let (local_from, local_to) = flush(events, Who::Primary, asked)?;
    let (peer_from, peer_to) = flush(events, Who::Peer, sent)?;
    let received = arrivals(events, Who::Peer).filter(|at| (sent..peer_from).contains(at)).last()?;
    let (replied, reply) = self::sends(events, Who::Peer).find(|(at, _)| *at > peer_to)?;
    let heard = arrivals(events, Who::Primary).filter(|at| (replied..answer).contains(at)).last()?;
    let over_peer = heard >= local_to;

    let [program, primary, peer] = states;
    let mut parts = Parts { all: end - begin, program: synced - written, ..Parts::default() };
    let mut inside: Vec<(f64, f64)> = got.iter().copied().zip(answered.iter().copied()).collect();
    parts.requests = inside.len() as f64;
    parts.fuse = outside(&[(begin, written), (synced, end)], &inside, [program, primary]);
    inside.pop();
    if over_peer {
        inside.extend([(asked, sent), (heard, answer)]);
        parts.wire = peer.part(&[(sent, received)]).and(primary.part(&[(replied, heard)]));
        parts.peer_disk = peer.part(&[(peer_from, peer_to)]);
        parts.local_beside = primary.part(&[(local_from, local_to)]);
        parts.peer_cpu = peer.part(&[(received, peer_from), (peer_to, replied)]);
    } else {
        inside.extend([(asked, local_from), (local_to, answer)]);
        parts.local_disk = primary.part(&[(local_from, local_to)]);
    }
    parts.cpu = primary.part(&inside);
    parts.behind = peer_from - local_from;
    let bytes = [usize::try_from(message).ok()?, usize::try_from(reply).ok()?];
    Some(Operation { parts, over_peer, bytes })
}

/// Moments of messages that a node sends, with their lengths; of the primary only those with data.
fn sends(events: &[Event], who: Who) -> impl Iterator<Item = (f64, u64)> {
    events.iter().filter(move |event| event.who == who).filter_map(move |event| match event.what {
        What::Enter(libc::SYS_sendto, _, bytes) if who == Who::Peer || bytes > DATA_MIN => {
            Some((event.at, bytes))
        }
        _ => None,
    })
}

/// Moments at which a node has received more than the length of a message.
fn arrivals(events: &[Event], who: Who) -> impl Iterator<Item = f64> {
    events.iter().filter(move |event| event.who == who).filter_map(|event| match event.what {
        What::Exit(libc::SYS_recvfrom, _, bytes) if bytes > LENGTH_BYTES => Some(event.at),
        _ => None,
    })
}

/// From the first write of the thread that flushes until its flush is done; `None` unless there is just one flush.
fn flush(events: &[Event], who: Who, after: f64) -> Option<(f64, f64)> {
    let mine = || events.iter().filter(|event| event.who == who && event.at > after);
    let mut done =
        mine().filter(|event| matches!(event.what, What::Exit(libc::SYS_fdatasync, Place::Image, _)));
    let (first, more) = (done.next()?, done.next());
    let writes = |what| {
        matches!(
            what,
            What::Enter(libc::SYS_io_submit, ..)
                | What::Enter(libc::SYS_pwrite64 | libc::SYS_pwritev, Place::Image, _)
        )
    };
    let begun = mine().find(|event| event.thread == first.thread && writes(event.what))?;
    more.is_none().then_some((begun.at, first.at))
}

/// What lies in the calls and not inside the daemon: first it is the daemon's turn to be woken, then the program's.
fn outside(calls: &[(f64, f64); 2], inside: &[(f64, f64)], [program, daemon]: [&States; 2]) -> Part {
    let mut sum = Part::default();
    for (from, to) in calls {
        let mut at = *from;
        for (got, answered) in inside.iter().filter(|(got, _)| from < got && got < to) {
            sum = sum.and(daemon.part(&[(at, *got)]));
            at = *answered;
        }
        sum = sum.and(program.part(&[(at, *to)]));
    }
    sum
}

impl Part {
    fn and(self, other: Part) -> Part {
        Part {
            time: self.time + other.time,
            ran: self.ran + other.ran,
            waited: self.waited + other.waited,
            busy: self.busy + other.busy,
        }
    }
}

/// When at least one thread of a node ran, waited for a processor, and did one of both.
struct States {
    ran: Spans,
    waited: Spans,
    busy: Spans,
}

type Spans = Vec<(f64, f64)>;

impl States {
    fn of(events: &[Event], who: Who) -> States {
        let spans = |counts: fn(State) -> bool| {
            let mut threads = BTreeSet::new();
            let (mut spans, mut since) = (Spans::new(), 0.0);
            for event in events.iter().filter(|event| event.who == who) {
                let What::Is(state) = event.what else { continue };
                let idle = threads.is_empty();
                if counts(state) {
                    threads.insert(event.thread);
                } else {
                    threads.remove(&event.thread);
                }
                match (idle, threads.is_empty()) {
                    (true, false) => since = event.at,
                    (false, true) => spans.push((since, event.at)),
                    _ => {}
                }
            }
            spans
        };
        States {
            ran: spans(|state| state == State::Runs),
            waited: spans(|state| state == State::Waits),
            busy: spans(|state| state != State::Sleeps),
        }
    }

    fn part(&self, windows: &[(f64, f64)]) -> Part {
        Part {
            time: windows.iter().map(|(from, to)| to - from).sum(),
            ran: within(&self.ran, windows),
            waited: within(&self.waited, windows),
            busy: within(&self.busy, windows),
        }
    }
}

/// How much of the windows lies in spans.
fn within(spans: &Spans, windows: &[(f64, f64)]) -> f64 {
    let mut sum = 0.0;
    for (from, to) in windows {
        let first = spans.partition_point(|(_, end)| end <= from);
        for (begin, end) in spans[first..].iter().take_while(|(begin, _)| begin < to) {
            sum += end.min(*to) - begin.max(*from);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: i32 = 1;

    /// One operation that begins at `start`; the local flush takes `local`, the peer's 50.
    fn sample(start: f64, local: f64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut add = |at: f64, who: Who, thread: i32, what: What| {
            events.push(Event { at: start + at, who, thread, what });
        };
        let (fuse, image, other) = (Place::Fuse, Place::Image, Place::Other);
        add(0.0, Who::Program, PROGRAM, What::Enter(libc::SYS_pwrite64, other, 4096));
        add(5.0, Who::Primary, 2, What::Exit(libc::SYS_read, fuse, 4176));
        add(8.0, Who::Primary, 2, What::Enter(libc::SYS_writev, fuse, 2));
        add(12.0, Who::Program, PROGRAM, What::Exit(libc::SYS_pwrite64, other, 4096));
        add(13.0, Who::Program, PROGRAM, What::Enter(libc::SYS_fdatasync, other, 0));
        add(18.0, Who::Primary, 2, What::Exit(libc::SYS_read, fuse, 56));
        add(19.0, Who::Primary, 3, What::Is(State::Waits));
        add(20.0, Who::Primary, 3, What::Is(State::Runs));
        add(28.0, Who::Primary, 4, What::Enter(libc::SYS_sendto, other, 8289));
        add(30.0, Who::Primary, 3, What::Enter(libc::SYS_io_submit, other, 0));
        add(31.0, Who::Primary, 3, What::Is(State::Sleeps));
        add(30.0 + local, Who::Primary, 3, What::Exit(libc::SYS_fdatasync, image, 0));
        add(40.0, Who::Peer, 5, What::Exit(libc::SYS_recvfrom, other, 8287));
        add(44.0, Who::Peer, 6, What::Enter(libc::SYS_io_submit, other, 0));
        add(94.0, Who::Peer, 6, What::Exit(libc::SYS_fdatasync, image, 0));
        add(97.0, Who::Peer, 5, What::Enter(libc::SYS_sendto, other, 50));
        add(105.0, Who::Primary, 4, What::Exit(libc::SYS_recvfrom, other, 48));
        let last = 110.0_f64.max(35.0 + local);
        add(last, Who::Primary, 3, What::Enter(libc::SYS_writev, fuse, 1));
        add(last + 4.0, Who::Program, PROGRAM, What::Exit(libc::SYS_fdatasync, other, 0));
        events.sort_by(|a, b| a.at.total_cmp(&b.at));
        events
    }

    fn many(local: f64) -> Vec<Event> {
        (0..120).flat_map(|number| sample(f64::from(number) * 1_000.0, local)).collect()
    }

    #[test]
    fn the_parts_on_the_way_add_up_and_what_came_last_decides_the_way() {
        for (local, over_peer) in [(40.0, true), (200.0, false)] {
            let (parts, bytes) = parts(&many(local)).expect("parts");
            let on_way =
                [parts.fuse, parts.cpu, parts.local_disk, parts.wire, parts.peer_cpu, parts.peer_disk];
            let sum = parts.program + on_way.iter().map(|part| part.time).sum::<f64>();
            assert!((sum - parts.all).abs() < 1e-6, "{parts:?}");
            assert_eq!(bytes, [8289, 50]);
            assert!(
                (parts.local_disk.time > 0.0) != over_peer && (parts.peer_disk.time > 0.0) == over_peer,
                "{parts:?}"
            );
        }
    }

    #[test]
    fn each_part_is_what_lies_between_its_marks() {
        let (found, _) = parts(&many(40.0)).expect("parts");
        let expected = [
            (found.program, 1.0),
            (found.requests, 2.0),
            (found.fuse.time, 5.0 + 4.0 + 5.0 + 4.0),
            (found.cpu.time, 3.0 + 10.0 + 5.0),
            (found.cpu.ran, 8.0),
            (found.cpu.waited, 1.0),
            (found.cpu.busy, 9.0),
            (found.wire.time, 12.0 + 8.0),
            (found.peer_cpu.time, 4.0 + 3.0),
            (found.peer_disk.time, 50.0),
            (found.local_beside.time, 40.0),
            (found.behind, 14.0),
        ];
        for (index, (value, wanted)) in expected.into_iter().enumerate() {
            assert!((value - wanted).abs() < 1e-6, "part {index}: {value}, not {wanted}");
        }
    }

    #[test]
    fn an_operation_beside_another_flush_does_not_count() {
        let mut events = many(40.0);
        for number in 0..120 {
            let at = f64::from(number) * 1_000.0 + 50.0;
            let what = What::Exit(libc::SYS_fdatasync, Place::Image, 0);
            events.push(Event { at, who: Who::Peer, thread: 9, what });
        }
        events.sort_by(|a, b| a.at.total_cmp(&b.at));
        assert!(parts(&events).is_err());
    }
}
