//! The machine under its lock: events in, actions executed in order, work queued for those who may block.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::{BlockNo, ExtentNo, FastMap};
use crate::format::State;
use crate::image::{FlushEpoch, Image, RangeGuard};
use crate::node::{Action, Event, LinkId, Mark, Mutations, OpId, Order, Refusal, Task, Token};
use crate::wire::{CopyKind, Kind, Message, Run, Seq, Session};

use super::copy::CopyMap;
use super::fetch::Fetched;
use super::machine::Machine;
use super::rot::Rot;
use super::verify::Looking;
use super::{Env, Key, Payload, Worker};

/// How far an operation of a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Held by the machine.
    Issued,
    Started(Mark),
    Complete,
    Failed(Refusal),
}

pub(super) struct Op {
    pub kind: Kind,
    pub first: BlockNo,
    pub count: u64,
    pub payload: Payload,
    pub phase: Phase,
    /// Writes started before this operation; with `Core::starts`, tells whether others came between.
    pub starts_before: u64,
    /// The newest local flush when this operation was started: everything in it precedes this operation.
    pub epoch_before: FlushEpoch,
}

/// Blocks that were read for a resync and wait, locked, to be sent.
pub(super) struct CopyRead {
    pub guard: RangeGuard,
    pub run: Run,
    pub hole: bool,
    pub payload: Payload,
}

/// Work for the threads that may block.
pub(super) enum Job {
    Apply {
        session: Session,
        seq: Seq,
        kind: Kind,
        run: Run,
        payload: Payload,
        mark: bool,
    },
    Mark {
        token: Token,
        runs: Vec<Run>,
    },
    SendMarks {
        session: Session,
        kind: CopyKind,
    },
    AddDigests {
        session: Session,
        extent: ExtentNo,
        payload: Payload,
    },
    AddMarks {
        session: Session,
        runs: Vec<Run>,
        last: bool,
    },
    StartCopy {
        session: Session,
        kind: CopyKind,
        source: bool,
    },
    Compare {
        session: Session,
        extent: ExtentNo,
        last: bool,
        payload: Payload,
    },
    Copy {
        session: Session,
        blocks: u64,
    },
    ClearMarks,
    Grow {
        token: Token,
        blocks: u64,
        prepare: bool,
    },
    GoBack {
        token: Token,
    },
    Keep {
        token: Token,
    },
    Store {
        token: Token,
        state: Box<State>,
    },
    Fetch {
        link: LinkId,
        id: u64,
        block: BlockNo,
    },
    Look {
        token: Token,
        task: Task,
        from: ExtentNo,
    },
    /// The peer's part of a look.
    Check {
        link: LinkId,
        id: u64,
        first: ExtentNo,
        count: u64,
        hash: [u8; 15],
    },
    /// The peer's answer to one of ours.
    Checked {
        id: u64,
        upto: ExtentNo,
        payload: Option<Payload>,
    },
    /// Behind everything that the peer sent before: no write of an old session may land in what is served or copied.
    Order(Order),
    Then(Worker, Box<Job>),
}

pub(super) struct Core {
    pub machine: Box<dyn Machine>,
    pub ops: FastMap<OpId, Op>,
    pub copies: FastMap<OpId, CopyRead>,
    pub copy_map: CopyMap,
    pub next_op: u64,
    pub starts: u64,
    pub last_epoch: FlushEpoch,
    pub jobs: [VecDeque<Job>; 4],
    pub link: Option<LinkId>,
    /// Answers to `Fetch`: `None` = not yet.
    pub fetches: FastMap<u64, Option<Fetched>>,
    /// The look that waits for the peer's part.
    pub looking: Option<Looking>,
    pub rot: Rot,
    scratch: Vec<Action>,
}

/// One volume on this node: an image, the machine, and the way to the peer.
pub struct Mirror {
    pub(super) image: Arc<Image>,
    pub(super) env: Arc<dyn Env>,
    pub(super) core: Mutex<Core>,
    pub(super) mutations: Mutations,
    /// `Action::LeaveDisk` came: the image here is not touched by operations any more. For good.
    pub(super) left: AtomicBool,
}

impl Mirror {
    /// What a start stores before anything else happens: a boot epoch that no start had before. The machine is made
    /// from the state that this answers.
    pub fn raise_epoch(image: &Image) -> Result<State, crate::image::ImageError> {
        let mut state = image.state();
        state.boot_epoch += 1;
        image.store(&state)?;
        Ok(state)
    }

    /// Joins an open image to its machine; the caller delivers a first `Event::Tick`.
    ///
    /// Blocks that a crash may have left different become marks here: the extents that were hot.
    pub fn new(
        image: Arc<Image>,
        env: Arc<dyn Env>,
        machine: Box<dyn Machine>,
        mutations: Mutations,
    ) -> Result<Arc<Mirror>, crate::image::ImageError> {
        let state = image.state();
        let followed = state.record.is_some_and(|record| record.primary != state.node);
        for (block, count) in image.hot_ranges() {
            if !(followed && mutations.no_receiver_marks || mutations.no_marks_on_start) {
                image.mark(block, count)?;
            }
        }
        image.start_copy(false)?;
        if mutations.undo_unflushed {
            image.leave_undo_volatile();
        }
        let core = Core {
            machine,
            ops: FastMap::default(),
            copies: FastMap::default(),
            copy_map: CopyMap::default(),
            next_op: 1,
            starts: 0,
            last_epoch: FlushEpoch::default(),
            jobs: Default::default(),
            link: None,
            fetches: FastMap::default(),
            looking: None,
            rot: Rot::default(),
            scratch: Vec::new(),
        };
        let left = AtomicBool::new(false);
        Ok(Arc::new(Mirror { image, env, core: Mutex::new(core), mutations, left }))
    }

    /// Operations work on the peer's copy: this node's disk failed.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Looks at the machine.
    pub fn with_machine<T>(&self, look: impl FnOnce(&dyn Machine) -> T) -> T {
        look(&*self.lock().machine)
    }

    /// Blocks that the peer may still lose: they must lie in hot extents of the image, for this list dies with us.
    pub fn in_doubt(&self) -> Vec<Run> {
        self.lock().machine.in_doubt()
    }

    /// Whether a reply with data may be given now; asked after the data was taken.
    pub fn may_answer(&self) -> bool {
        let core = self.lock();
        // Read under the lock: whoever waited for it, or was stopped meanwhile, must not judge by an earlier time.
        core.machine.may_answer(self.env.now())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps the machine and executes its actions. Never blocks.
    pub fn deliver(&self, event: Event) {
        self.step(event, None);
    }

    /// A message came from the peer. Never blocks.
    pub fn received(&self, link: LinkId, message: Message, payload: Payload) {
        match message {
            Message::Fetch { id, block } => {
                let mut core = self.lock();
                // Not the Copy worker: it may itself wait for an answer of the peer.
                self.push(&mut core, Worker::Apply, Job::Fetch { link, id, block });
            }
            Message::Block { id, found, .. } => {
                let mut core = self.lock();
                if let Some(answer) = core.fetches.get_mut(&id) {
                    *answer = Some(if found { Fetched::Content(payload) } else { Fetched::NotThere });
                }
                self.env.wake(Key::Fetch(id));
            }
            Message::Check { id, first, count, hash } => {
                self.asked_to_check(Job::Check { link, id, first, count, hash });
            }
            Message::Checked { id, upto, equal } => {
                let payload = (!equal).then_some(payload);
                self.push(&mut self.lock(), Worker::Check, Job::Checked { id, upto, payload });
            }
            message => self.step(Event::Received { link, message }, Some(payload)),
        }
    }

    fn step(&self, event: Event, payload: Option<Payload>) {
        let mut core = self.lock();
        match &event {
            Event::LinkUp { link } => {
                self.link_changed(&mut core, Some(*link));
                core.machine.changed_alone(self.image.dirty_blocks());
            }
            Event::LinkDown { link } if core.link == Some(*link) => self.link_changed(&mut core, None),
            _ => {}
        }
        let mut actions = std::mem::take(&mut core.scratch);
        let now = self.env.now();
        core.machine.log_at(self.env.log_mark());
        core.machine.step(now, event, &mut actions);
        for action in actions.drain(..) {
            self.execute(&mut core, action, payload.as_ref());
        }
        core.scratch = actions;
        self.ask_tick(&core);
    }

    fn leave_disk(&self, for_peer: bool) {
        self.image.abandon("the disk failed");
        if for_peer {
            self.left.store(true, Ordering::SeqCst);
        }
    }

    /// What was asked on the old link will not be answered.
    fn link_changed(&self, core: &mut Core, link: Option<LinkId>) {
        core.link = link;
        for (id, answer) in &mut core.fetches {
            answer.get_or_insert(Fetched::NoPeer);
            self.env.wake(Key::Fetch(*id));
        }
    }

    fn ask_tick(&self, core: &Core) {
        if let Some(moment) = core.machine.next_timeout() {
            self.env.tick_at(moment);
        }
    }

    pub(super) fn push(&self, core: &mut Core, worker: Worker, job: Job) {
        core.jobs[worker as usize].push_back(job);
        self.env.wake(Key::Work(worker));
    }

    fn execute(&self, core: &mut Core, action: Action, payload: Option<&Payload>) {
        match action {
            Action::Start { op, send, mark } => self.start(core, op, send, mark),
            Action::Resend { op, link, session, seq } => {
                if let Some(found) = core.ops.get(&op) {
                    self.send_op(link, session, seq, found);
                }
            }
            Action::Complete { op } => self.answer(core, op, Phase::Complete),
            Action::Fail { op, refusal } => self.answer(core, op, Phase::Failed(refusal)),
            Action::Apply { session, seq, kind, first, count, mark } => {
                let (run, payload) = (Run { first, count }, payload.cloned().unwrap_or_default());
                self.push(core, Worker::Apply, Job::Apply { session, seq, kind, run, payload, mark });
            }
            Action::Mark { token, runs } => self.push(core, Worker::Store, Job::Mark { token, runs }),
            Action::LeaveDisk { for_peer } => self.leave_disk(for_peer),
            Action::Settled { .. } => {}
            Action::SendMarks { session, kind } => {
                core.copy_map.touch(session);
                // Reads extents: not in the way of records.
                self.push(core, Worker::Copy, Job::SendMarks { session, kind });
            }
            Action::AddDigests { session, extent } => {
                let payload = payload.cloned().unwrap_or_default();
                self.push(core, Worker::Store, Job::AddDigests { session, extent, payload });
            }
            Action::AddMarks { session, runs, last } => {
                self.push(core, Worker::Store, Job::AddMarks { session, runs, last });
            }
            Action::StartCopy { session, kind, source } => {
                core.copy_map.begin(session);
                let start = Box::new(Job::StartCopy { session, kind, source });
                self.push(core, Worker::Apply, Job::Then(Worker::Copy, start));
            }
            Action::SendDigests { link, session, extent, last } => {
                self.send_read_digests(core, link, session, extent, last);
            }
            Action::CompareDigests { session, extent, last } => {
                let payload = payload.cloned().unwrap_or_default();
                core.copy_map.touch(session);
                self.push(core, Worker::Copy, Job::Compare { session, extent, last, payload });
            }
            Action::Copy { session, blocks } => self.push(core, Worker::Copy, Job::Copy { session, blocks }),
            Action::SendCopy { op, link, session, seq } => self.send_copy(core, op, link, session, seq),
            Action::DropCopy { op } => self.drop_copy(core, op),
            Action::Copied { first, count } => self.copied(core, Run { first, count }),
            Action::Look { token, task, from } => {
                self.push(core, Worker::Check, Job::Look { token, task, from });
            }
            // It takes its time: not in the way of records, nor of what the peer sends.
            Action::Grow { token, blocks, prepare } => {
                self.push(core, Worker::Copy, Job::Grow { token, blocks, prepare });
            }
            Action::ClearMarks => self.push(core, Worker::Store, Job::ClearMarks),
            Action::Keep { token } => self.push(core, Worker::Check, Job::Keep { token }),
            // Behind whatever the peer sent before.
            Action::GoBack { token } => self.push(core, Worker::Apply, Job::GoBack { token }),
            Action::Store { token, state } => self.push(core, Worker::Store, Job::Store { token, state }),
            Action::Send { link, message } => self.env.send(link, message, Payload::default()),
            Action::Order(order @ (Order::Promote | Order::Demote { .. })) => {
                self.push(core, Worker::Apply, Job::Order(order));
            }
            Action::Order(order) => {
                if matches!(order, Order::CloseLink(link) if core.link == Some(link)) {
                    self.link_changed(core, None);
                }
                self.env.order(order);
            }
        }
    }

    fn start(&self, core: &mut Core, op: OpId, send: Option<(LinkId, Session, Seq)>, mark: Mark) {
        let (starts, epoch) = (core.starts, core.last_epoch);
        let Some(found) = core.ops.get_mut(&op) else { return };
        found.phase = Phase::Started(mark);
        found.starts_before = starts;
        found.epoch_before = epoch;
        let writes = found.kind.writes();
        if let Some((link, session, seq)) = send {
            self.send_op(link, session, seq, found);
        }
        core.starts += u64::from(writes);
        self.env.wake(Key::Op(op.0));
    }

    fn send_op(&self, link: LinkId, session: Session, seq: Seq, op: &Op) {
        let message = Message::Op { session, seq, kind: op.kind, first: op.first, count: op.count };
        self.env.send(link, message, op.payload.clone());
    }

    fn answer(&self, core: &mut Core, op: OpId, phase: Phase) {
        if let Some(found) = core.ops.get_mut(&op) {
            found.phase = phase;
            self.env.wake(Key::Op(op.0));
        }
    }
}
