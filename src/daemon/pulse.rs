//! Heartbeats out and in: the one thread that talks to the sockets, and what it hands to the volumes' clocks.
//!
//! Decides nothing about ownership: it authenticates, counts and hands over. Where the kernel permits, this thread and
//! the volumes' clocks are real-time threads, so that a machine under load is slow but not silent. Never touches a
//! machine and waits for nothing but its sockets: a machine that is stuck does not hold up the others' heartbeats.
//!
//! What a real-time sender repeats: nothing (`link::Datagrams`). A heartbeat is the machine's word of one moment; the
//! machine makes each, with its own number, and each leaves once. So a daemon whose machine is stuck falls silent with
//! its last word, and neither a promise nor a lease of the peer outlives that word because a thread still runs.
//!
//! What arrived is known before silence is judged: a volume's clock calls `take_in` and hands its machine whatever came
//! before it says that time has passed, so a late wake-up is no silence of the peer. The machine counts a promise from
//! when it is told, which is never before the heartbeat was sent; the kernel's stamps, made with a clock that somebody
//! can set, go into the book of the paths only.
//!
//! Invariants: what is not authentic under the peer's key reaches no machine; what is repeated makes neither a path nor
//! the peer look alive; a flood costs a bounded share of one processor.
#![allow(clippy::disallowed_methods, reason = "a shell: a thread")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::{Moment, NodeId, SerialLine, Span, VolumeId};
use crate::config::{ClusterKey, Config, Purpose};
use crate::link::{
    DATAGRAM_BYTES_MAX, Datagrams, Heard, Late, Limits, LinkBook, LinkError, Path, Received, Refusal, Sender,
};
use crate::node::{Event, PathId};
use crate::sys::clock::{self, SleepWatch};
use crate::sys::realtime::{self, Locked};
use crate::wire::{
    Datagram, Heartbeat, Probe, Released, claims_to_be_ours, decode_datagram, encode_heartbeat, encode_probe,
};

use super::status::RealtimeStatus;

/// Datagrams of one path that are looked at in one go; a path that has more gives way for `REST` first.
const TAKE_MAX: usize = 64;
const REST: Duration = Duration::from_millis(1);
/// Goes before silence is judged, so that what lies behind a heap of rubbish is found.
const GOES_MAX: usize = 8;
/// What waits for a volume's clock, and for the book, at most: the oldest go.
const ARRIVED_MAX: usize = 256;
const NOTES_MAX: usize = 1024;
/// Real-time priorities: the lowest for the volumes' clocks, and one more for the sockets.
const CLOCK_PRIORITY: u8 = 1;
const SOCKET_PRIORITY: u8 = 2;
/// Keepalives for which a word waits for its turn on a serial line, and a round of all that may wait there: by then the
/// machine has said a newer one, or says nothing.
const HOLD: u64 = 2;
/// Beside what the volumes take.
const MEMORY_BESIDE: u64 = 64 << 20;

/// The two keys of heartbeats.
struct Keys {
    mine: [u8; 32],
    theirs: [u8; 32],
}

/// One volume's place: what has arrived for it.
pub struct Seat {
    pub id: VolumeId,
    arrived: Mutex<VecDeque<Event>>,
    poke: OnceLock<Box<dyn Fn() + Send + Sync>>,
    heard: AtomicU64,
}

impl Seat {
    /// `poke` wakes the volume's clock.
    pub fn attend(&self, poke: Box<dyn Fn() + Send + Sync>) {
        let _ = self.poke.set(poke);
    }

    /// When the newest heartbeat that counts arrived.
    pub fn heard(&self) -> Option<Moment> {
        Some(self.heard.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Moment)
    }

    fn push(&self, event: Event) {
        {
            let mut arrived = lock(&self.arrived);
            if arrived.len() == ARRIVED_MAX {
                arrived.pop_front();
            }
            arrived.push_back(event);
        }
        if let Some(poke) = self.poke.get() {
            poke();
        }
    }

    /// What arrived since the last call, oldest first.
    pub fn arrived(&self) -> VecDeque<Event> {
        std::mem::take(&mut *lock(&self.arrived))
    }
}

/// For the book of the paths, which is entered when nobody reads it.
enum Note {
    Beat {
        path: usize,
        at: Moment,
        heartbeat: Heartbeat,
        number: Option<u16>,
    },
    Probe {
        path: usize,
        at: Moment,
        probe: Probe,
    },
    Refused {
        path: usize,
        at: Moment,
        why: Refusal,
    },
    /// What says nothing about a path.
    Nothing,
    Turn {
        now: Moment,
        slept: bool,
    },
}

/// Whoever holds it looks at the sockets.
struct Intake {
    sleep: SleepWatch,
    /// When each path was last found empty.
    empty: Vec<Moment>,
    notes: VecDeque<Note>,
}

/// What is worth telling and was not told yet.
#[derive(Default)]
pub struct News {
    pub late: Vec<(usize, Late)>,
    pub slept: Vec<Span>,
}

/// The heartbeats of a node.
pub struct Pulse {
    me: NodeId,
    keys: Keys,
    datagrams: Datagrams,
    seats: Vec<Arc<Seat>>,
    book: Mutex<LinkBook>,
    intake: Mutex<Intake>,
    news: Mutex<News>,
    realtime: Mutex<RealtimeStatus>,
    closing: AtomicBool,
    keepalive: Span,
}

/// Every change under these locks is a single assignment or is looked at as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulse {
    /// Binds the sockets of `paths`, and opens this node's serial lines; nothing leaves and nothing is looked at yet.
    pub fn new(
        config: &Config,
        key: &ClusterKey,
        me: NodeId,
        paths: &[Path],
        volumes: &[VolumeId],
    ) -> Result<Arc<Pulse>, LinkError> {
        let lines = config.node(me).serial.iter().map(|line| {
            // Beside the volumes there are a question and an answer.
            let round = line.takes(SerialLine::FRAME_BYTES_MAX * (volumes.len() + 2));
            (line.clone(), Span(config.timing.keepalive.0.saturating_mul(HOLD)) + round)
        });
        let datagrams = Datagrams::bind(paths, &lines.collect::<Vec<_>>())?;
        let name = &config.cluster.name;
        let derive = |node| key.derive(name, Purpose::Heartbeat, node);
        let t = &config.timing;
        let (keepalive, warntime, lease, deadtime) = (t.keepalive, t.warntime, t.lease(), t.deadtime);
        let now = clock::now();
        let seat = |id: &VolumeId| {
            let (arrived, poke, heard) = (Mutex::default(), OnceLock::new(), AtomicU64::new(0));
            Arc::new(Seat { id: *id, arrived, poke, heard })
        };
        let empty = vec![now; datagrams.count()];
        let limits = Limits { keepalive, warntime, lease, deadtime };
        Ok(Arc::new(Pulse {
            me,
            keys: Keys { mine: derive(me), theirs: derive(me.other()) },
            seats: volumes.iter().map(seat).collect(),
            book: Mutex::new(LinkBook::new(now, datagrams.count(), limits)),
            intake: Mutex::new(Intake { sleep: SleepWatch::new(), empty, notes: VecDeque::new() }),
            news: Mutex::default(),
            realtime: Mutex::new(RealtimeStatus { wanted: config.cluster.realtime, ..Default::default() }),
            closing: AtomicBool::new(false),
            keepalive,
            datagrams,
        }))
    }

    pub fn seat(&self, id: VolumeId) -> Option<&Arc<Seat>> {
        self.seats.iter().find(|seat| seat.id == id)
    }

    /// How good each path is.
    pub fn book(&self) -> MutexGuard<'_, LinkBook> {
        lock(&self.book)
    }

    /// Why the serial line `path` cannot be used.
    pub fn trouble(&self, path: usize) -> Option<String> {
        self.datagrams.trouble(path)
    }

    /// What is to be told, once.
    pub fn news(&self) -> News {
        std::mem::take(&mut *lock(&self.news))
    }

    pub fn realtime(&self) -> RealtimeStatus {
        lock(&self.realtime).clone()
    }

    /// The machine's word: it leaves on every path, unless a newer one of the volume comes before it did.
    pub fn post(&self, heartbeat: &Heartbeat) {
        self.datagrams.post(Sender::Volume(heartbeat.volume.0), encode_heartbeat(heartbeat, &self.keys.mine));
    }

    /// Asks over one path.
    pub fn ask(&self, path: usize, nonce: u128) {
        let question = Probe { from: self.me, nonce, answer: false };
        self.datagrams.send(path, Sender::Question, &encode_probe(&question, &self.keys.mine));
    }

    /// Starts the thread of the sockets. `memory`: what the volumes may take, bytes.
    pub fn start(self: &Arc<Pulse>, memory: u64) -> std::io::Result<JoinHandle<()>> {
        if lock(&self.realtime).wanted {
            self.note_memory(realtime::lock_memory(memory.saturating_add(MEMORY_BESIDE)));
        }
        let pulse = Arc::clone(self);
        let thread = std::thread::Builder::new().name("twinfs-pulse".to_string());
        thread.spawn(move || {
            pulse.prefer(SOCKET_PRIORITY);
            while !pulse.closing.load(Ordering::SeqCst) {
                pulse.datagrams.turn(pulse.half().as_duration());
                if pulse.take_in() {
                    std::thread::sleep(REST);
                }
            }
        })
    }

    /// Nothing leaves any more.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.datagrams.wake();
    }

    /// Called by each volume's clock at its start.
    pub fn prefer_clock(&self) {
        self.prefer(CLOCK_PRIORITY);
    }

    fn prefer(&self, priority: u8) {
        if !lock(&self.realtime).wanted {
            return;
        }
        let done = realtime::prefer(priority);
        let mut status = lock(&self.realtime);
        status.threads = done.is_ok() && status.threads_problem.is_none();
        status.threads_problem = status.threads_problem.take().or(done.err());
    }

    fn note_memory(&self, locked: Result<Locked, String>) {
        let mut status = lock(&self.realtime);
        status.memory = match &locked {
            Ok(Locked::All) => "all",
            Ok(Locked::Start) => "start",
            Err(_) => "",
        }
        .to_string();
        status.memory_problem = locked.err();
    }

    fn half(&self) -> Span {
        Span(self.keepalive.0 / 2)
    }

    /// Hands over whatever has arrived: before a volume's clock says that time has passed.
    pub fn take_all_in(&self) {
        for _ in 0..GOES_MAX {
            if !self.take_in() {
                return;
            }
        }
    }

    /// One go through the paths; whether there may be more.
    pub fn take_in(&self) -> bool {
        let mut intake = lock(&self.intake);
        let now = clock::now();
        let slept = intake.sleep.slept(self.keepalive);
        if let Some(slept) = slept {
            self.seats.iter().for_each(|seat| seat.push(Event::Suspended));
            lock(&self.news).slept.push(slept);
        }
        intake.notes.push_back(Note::Turn { now, slept: slept.is_some() });
        let mut more = false;
        for path in 0..self.datagrams.count() {
            more |= self.look(&mut intake, path);
        }
        self.enter(&mut intake);
        more
    }

    fn look(&self, intake: &mut Intake, path: usize) -> bool {
        let mut buffer = [0_u8; DATAGRAM_BYTES_MAX];
        for _ in 0..TAKE_MAX {
            let before = clock::now();
            let Some(Received { len, age, number }) = self.datagrams.recv(path, &mut buffer) else {
                intake.empty[path] = before;
                return false;
            };
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            // Whatever wall time says: not before the path was last found empty.
            let at = Moment(clock::now().0.saturating_sub(age)).max(intake.empty[path]);
            let note = self.sort(path, at, &buffer[..len], number);
            if intake.notes.len() >= NOTES_MAX {
                intake.notes.pop_front();
            }
            intake.notes.push_back(note);
        }
        true
    }

    /// Hands a heartbeat to its volume. One that is repeated is shown to the machine, which judges by itself, and
    /// counts for nothing else.
    fn sort(&self, path: usize, at: Moment, bytes: &[u8], number: Option<u16>) -> Note {
        let refused = |why| Note::Refused { path, at, why };
        match decode_datagram(bytes, &self.keys.theirs) {
            Ok(Datagram::Heartbeat(heartbeat)) => {
                let seat = self.seat(heartbeat.volume).filter(|_| heartbeat.from != self.me);
                let Some(seat) = seat else { return refused(Refusal::Foreign) };
                let path_id = PathId(u8::try_from(path).unwrap_or(u8::MAX));
                seat.push(Event::Heartbeat { path: path_id, heartbeat });
                Note::Beat { path, at, heartbeat, number }
            }
            Ok(Datagram::Probe(probe)) if probe.from == self.me => refused(Refusal::Foreign),
            Ok(Datagram::Probe(probe)) => Note::Probe { path, at, probe },
            Ok(Datagram::Released(Released { volume, from, boot_epoch })) => {
                let seat = self.seat(volume).filter(|_| from != self.me);
                let Some(seat) = seat else { return refused(Refusal::Foreign) };
                seat.push(Event::PeerReleased { boot_epoch });
                Note::Nothing
            }
            Err(_) if claims_to_be_ours(bytes) => refused(Refusal::Forged),
            Err(_) => refused(Refusal::Foreign),
        }
    }

    /// Enters the notes, unless somebody reads the book just now: he may be one whom load holds up.
    fn enter(&self, intake: &mut Intake) {
        let mut book = match self.book.try_lock() {
            Ok(book) => book,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        while let Some(note) = intake.notes.pop_front() {
            match note {
                Note::Nothing => {}
                Note::Turn { now, slept } => book.turn(now, self.half(), slept),
                Note::Beat { path, at, heartbeat, number } => {
                    self.enter_beat(&mut book, (path, number), at, &heartbeat);
                }
                Note::Probe { path, at, probe } => self.enter_probe(&mut book, path, at, &probe),
                Note::Refused { path, at, why } => {
                    if let Some(book) = book.paths.get_mut(path) {
                        book.refuse(at, why);
                    }
                }
            }
        }
    }

    fn enter_beat(
        &self,
        book: &mut LinkBook,
        (path, number): (usize, Option<u16>),
        at: Moment,
        heartbeat: &Heartbeat,
    ) {
        // What was replayed is counted where that was found out.
        let Heard::Fresh { late } = book.heartbeat(at, path, heartbeat, number) else { return };
        if let Some(seat) = self.seat(heartbeat.volume) {
            seat.heard.store(at.0, Ordering::Relaxed);
        }
        if let Some(late) = late {
            lock(&self.news).late.push((path, late));
        }
    }

    fn enter_probe(&self, book: &mut LinkBook, path: usize, at: Moment, probe: &Probe) {
        let Some(book) = book.paths.get_mut(path) else { return };
        if !probe.answer && book.probes.may_reply(at) {
            let answer = Probe { from: self.me, nonce: probe.nonce, answer: true };
            self.datagrams.send(path, Sender::Answer, &encode_probe(&answer, &self.keys.mine));
        } else if probe.answer && !book.probes.answer(at, probe.nonce) {
            book.refuse(at, Refusal::Replayed);
        }
    }
}

#[cfg(test)]
#[path = "pulse_tests.rs"]
mod tests;
