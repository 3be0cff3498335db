//! The surroundings of one volume's mirror: its clock, its queues, its place to wait.
//!
//! Decides nothing: every call queues or waits. Knows neither sockets nor mounts, only the queues of those who do.
//! Invariants: no call that comes with the core locked blocks or calls the mirror; after `halt` every wait ends.
#![allow(clippy::disallowed_methods, reason = "a shell: queues between threads")]

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::base::{Moment, Span, VolumeId};
use crate::fs::LogMark;
use crate::image::Image;
use crate::mirror::{Env, Halted, Key, Mirror, Parking, Payload};
use crate::node::{Event, LinkId, Notice, Order, Token, VerifyEnd, VerifyProgress};
use crate::sys::clock;
use crate::wire::{Message, WitnessRequest};

use super::fence::{Fencer, Shot};
use super::keeper::Keeper;
use super::links::Links;
use super::node_file::NodeFile;
use super::pulse::Pulse;
use super::reflexes::Reflexes;
use super::serving::Task;

/// What the control plane's runtime asks the witness.
#[derive(Clone, Debug)]
pub struct Question {
    pub volume: VolumeId,
    pub nonce: u128,
    pub request: WitnessRequest,
}

/// What a volume's clock is woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    Halted,
    /// Something has arrived.
    Arrival,
    /// The moment that the machine asked for has come.
    Due,
}

/// What the thread that writes to history and journal is given.
#[derive(Clone, Debug)]
pub enum Telling {
    Notice(Notice),
    /// The image's disk failed at this version of the record.
    Unusable(u64),
    /// The volume is about to be asked for by this node, which belongs to it.
    Failback(Token),
    Verify(VerifyProgress, Option<VerifyEnd>),
}

/// The log of the filesystem that is mounted, if one is.
pub type LogSlot = Arc<Mutex<Option<Arc<LogMark>>>>;

/// One volume's `Env`.
pub struct Shell {
    volume: VolumeId,
    parking: Parking,
    pub links: Arc<Links>,
    ticker: Arc<Ticker>,
    tasks: Sender<Task>,
    tellings: Sender<Telling>,
    reflexes: Arc<Reflexes>,
    out: tokio::sync::mpsc::UnboundedSender<Question>,
    pub pulse: Arc<Pulse>,
    node_file: Arc<NodeFile>,
    fencer: Fencer,
    keeper: Keeper,
    pub log: LogSlot,
    mirror: Arc<OnceLock<Weak<Mirror>>>,
}

#[derive(Default)]
struct Ticker {
    state: Mutex<Ticking>,
    changed: Condvar,
}

#[derive(Default)]
struct Ticking {
    due: Option<Moment>,
    arrival: bool,
    halted: bool,
}

impl Ticker {
    fn state(&self) -> MutexGuard<'_, Ticking> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poke(&self) {
        self.state().arrival = true;
        self.changed.notify_all();
    }
}

impl Shell {
    pub fn new(
        volume: VolumeId,
        links: Arc<Links>,
        queues: (Sender<Task>, Sender<Telling>),
        reflexes: Arc<Reflexes>,
        (out, pulse): (tokio::sync::mpsc::UnboundedSender<Question>, Arc<Pulse>),
        (node_file, fencer, keeper): (Arc<NodeFile>, Fencer, Keeper),
    ) -> Shell {
        let log = LogSlot::default();
        let (parking, ticker) = (Parking::default(), Arc::<Ticker>::default());
        let (tasks, tellings) = queues;
        let mirror = Arc::default();
        Shell {
            volume,
            parking,
            links,
            ticker,
            tasks,
            tellings,
            reflexes,
            out,
            pulse,
            node_file,
            fencer,
            keeper,
            log,
            mirror,
        }
    }

    /// Where answers of others go.
    pub fn answer(&self, mirror: &Arc<Mirror>) {
        let _ = self.mirror.set(Arc::downgrade(mirror));
    }

    /// Never held up, whatever the agents do: the answer comes on another thread.
    fn shot(&self, nonce: u128, level: Option<u32>) -> Shot {
        // The machine's first step may ask before anybody knows its mirror.
        let mirror = Arc::clone(&self.mirror);
        let answer = move |end| {
            if let Some(mirror) = mirror.wait().upgrade() {
                mirror.deliver(Event::FenceResult { nonce, end });
            }
        };
        Shot { nonce, level, node_file: Arc::clone(&self.node_file), answer: Box::new(answer) }
    }

    /// Ends every wait of the mirror, now and later, and the ticker.
    pub fn halt(&self) {
        self.parking.halt();
        self.ticker.state().halted = true;
        self.ticker.changed.notify_all();
        self.links.close_all();
    }

    /// From now on this volume's clock is woken by what arrives for it.
    pub fn attend(&self) {
        if let Some(seat) = self.pulse.seat(self.volume) {
            let ticker = Arc::clone(&self.ticker);
            seat.attend(Box::new(move || ticker.poke()));
        }
    }

    /// What arrived for this volume since the last call.
    pub fn arrived(&self) -> VecDeque<Event> {
        self.pulse.seat(self.volume).map(|seat| seat.arrived()).unwrap_or_default()
    }

    /// Waits for the moment last asked for, or for an arrival.
    pub fn next_tick(&self) -> Wake {
        let mut state = self.ticker.state();
        loop {
            if state.halted {
                return Wake::Halted;
            }
            let arrival = std::mem::take(&mut state.arrival);
            let left = state.due.map_or(Span::from_secs(3600), |at| at.since(clock::now()));
            if left == Span::ZERO {
                state.due = None;
                return Wake::Due;
            }
            if arrival {
                return Wake::Arrival;
            }
            let waited = self.ticker.changed.wait_timeout(state, left.as_duration());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Env for Shell {
    fn now(&self) -> Moment {
        clock::now()
    }

    fn send(&self, link: LinkId, message: Message, payload: Payload) {
        self.links.queue(link, message, payload);
    }

    fn send_now(&self) {
        self.links.send_now();
    }

    fn order(&self, order: Order) {
        match order {
            Order::CloseLink(link) => self.links.close(link),
            Order::HangUp => self.links.close_all(),
            Order::Heartbeat(heartbeat) => self.pulse.post(&heartbeat),
            // A runtime that is gone asks nobody: the process is ending.
            Order::AskWitness { nonce, request } => {
                drop(self.out.send(Question { volume: self.volume, nonce, request }));
            }
            Order::Promote => {
                self.reflexes.promoting();
                let _ = self.tasks.send(Task::Promote);
            }
            Order::Demote { graceful } => {
                if !graceful {
                    self.reflexes.stop();
                }
                let _ = self.tasks.send(Task::Demote { graceful });
            }
            Order::Grown => drop(self.tasks.send(Task::Grow)),
            Order::Fence { nonce, level } => self.fencer.ask(self.shot(nonce, Some(level))),
            Order::SettleFence { nonce } => self.fencer.ask(self.shot(nonce, None)),
            Order::Freeze => self.reflexes.freeze(),
            Order::Thaw => self.reflexes.thaw(),
            Order::RenewAddress { seconds_left } => self.reflexes.renew(seconds_left),
            Order::NoteUnusable { v } => drop(self.tellings.send(Telling::Unusable(v))),
            Order::NoteFailback { token } => drop(self.tellings.send(Telling::Failback(token))),
            Order::NoteVerify { progress, end } => drop(self.tellings.send(Telling::Verify(progress, end))),
            Order::Tell(notice) => drop(self.tellings.send(Telling::Notice(notice))),
        }
    }

    fn tick_at(&self, moment: Moment) {
        let mut state = self.ticker.state();
        if state.due != Some(moment) {
            state.due = Some(moment);
            self.ticker.changed.notify_all();
        }
    }

    fn wait(&self, key: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        self.parking.wait(key, ready)
    }

    fn wake(&self, key: Key) {
        self.parking.wake(key);
    }

    fn breathe(&self) -> Result<(), Halted> {
        if self.parking.is_halted() { Err(Halted) } else { Ok(()) }
    }

    fn log_mark(&self) -> Option<(u64, u64)> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|mark| mark.next())
    }

    fn keep(&self, image: &Image) -> Result<u64, String> {
        self.keeper.keep(image, &|| self.parking.is_halted())
    }

    fn note_version(&self, v: u64) -> Result<(), String> {
        self.node_file.note_version(v)
    }
}
