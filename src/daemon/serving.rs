//! Carries out *promote* and *demote* for one volume, one at a time, on one thread.
//!
//! Decides the order: mount, symlinks, address, services; and back. Does not know why. Invariants: the address is
//! raised after the mount and dropped before it goes; a graceful demotion flushes before it answers; an ungraceful one
//! first stops every answer, then tidies up; every step has a time limit.
#![allow(clippy::disallowed_methods, reason = "a shell: threads and mounts")]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::{BlockNo, Span};
use crate::events;
use crate::format::KeptMount;
use crate::fs::Store;
use crate::node::Event;
use crate::services::address::Addresses;
use crate::services::adopt;
use crate::services::run::Services;

use super::reflexes::Reflexes;

/// For the symlinks of adopted directories: they are read through the mount, which may stall.
const FOLLOW_LIMIT: Duration = Duration::from_secs(5);
/// For users of the mount to leave after the services stopped.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(5);
const ADDRESS_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks whether services still have a volume to be stopped on.
const LOOK: Duration = Duration::from_millis(200);

/// What the thread is asked for.
#[derive(Debug)]
pub enum Task {
    Promote,
    Demote {
        graceful: bool,
    },
    /// The volume is larger: what is mounted takes the new room.
    Grow,
    /// Come to rest: nothing is begun until told how it goes on.
    Rest(Rest),
    Quit,
}

/// The serving thread's side of a rest.
#[derive(Debug)]
pub struct Rest {
    /// Told once nothing is under way.
    pub rested: Sender<()>,
    /// How it goes on: with what waits, if the other side is gone.
    pub end: Receiver<RestOver>,
}

/// The volume is a successor's: what waits to be done is not done any more.
#[derive(Debug)]
pub struct RestOver;

/// The mount, as the rest of the daemon may see it.
pub type Slot = Arc<Mutex<Option<Arc<dyn Served>>>>;

/// Everything a volume's serving thread works with.
pub struct Serving {
    pub mounter: Box<dyn Mounter>,
    pub slot: Slot,
    pub reflexes: Arc<Reflexes>,
    pub addresses: Arc<Addresses>,
    pub services: Arc<Services>,
    pub service_count: usize,
    /// For one start or stop of one service.
    pub service_timeout: Span,
    /// For all of them when the right to serve is gone.
    pub release_time: Span,
    pub places: adopt::Places,
    pub deliver: Box<dyn Fn(Event) + Send>,
    pub tell: Arc<dyn Fn(events::Event) + Send + Sync>,
}

/// A mount that is being served.
pub trait Served: Send + Sync {
    /// Everything written so far becomes stable on every member.
    fn sync(&self) -> Result<(), String>;
    /// Takes into use what the volume has grown by.
    fn grow(&self) -> Result<(), String>;
    /// Whose a block is, for people; `None` if nobody can tell.
    fn whose(&self, block: BlockNo) -> Option<String>;
    /// Shows the filesystem to whoever only reads it; not called if it cannot.
    fn look(&self, see: &mut dyn FnMut(&Store)) {
        let _ = see;
    }
    /// Answers every further request with an error, in every mount name space.
    fn abort(&self);
    /// Ends what is under way and takes no more until `resume`; everything is stable then.
    fn pause(&self, limit: Duration) -> Result<(), String>;
    /// Goes on after `pause`.
    fn resume(&self);
    /// What a successor needs, after `pause`.
    fn describe(&self) -> Result<KeptMount, String>;
    /// Ends the threads after `pause`: only a successor can go on.
    fn retire(&self);
    /// Unmounts, waiting for users at most so long, and makes everything stable unless aborted. `false`: somebody still
    /// held it, and gets errors now.
    fn unmount(&self, limit: Duration) -> Result<bool, String>;
}

/// Opens the filesystem and mounts it.
pub trait Mounter: Send {
    fn mount(&self) -> Result<Arc<dyn Served>, String>;
    /// Where.
    fn place(&self) -> PathBuf;
    /// Whether a predecessor's mount waits to be gone on with.
    fn keeps(&self) -> bool {
        false
    }
    /// How long requests waited for the predecessor's mount, if this process went on with one.
    fn pause_ms(&self) -> Option<u64> {
        None
    }
    /// Ends a predecessor's mount, if one waits.
    fn give_up(&self) {}
}

impl Serving {
    /// The thread's life.
    pub fn run(&self, tasks: &Receiver<Task>) {
        while let Ok(task) = tasks.recv() {
            match task {
                Task::Promote => match (self.mounter.keeps(), self.promote()) {
                    (_, Ok(())) => (self.deliver)(Event::Promoted),
                    (kept, Err(reason)) => {
                        if kept {
                            // Its services and its address are still there.
                            self.demote(false);
                        }
                        let at = self.mounter.place().display().to_string();
                        (self.tell)(events::Event::MountFailed { at, reason });
                        (self.deliver)(Event::PromoteFailed);
                    }
                },
                Task::Demote { graceful } => {
                    self.demote(graceful);
                    (self.deliver)(Event::Demoted);
                }
                Task::Grow => self.grow(),
                Task::Rest(rest) => {
                    let _ = rest.rested.send(());
                    if let Ok(RestOver) = rest.end.recv() {
                        return;
                    }
                }
                Task::Quit => return,
            }
        }
    }

    fn grow(&self) {
        let mounted = self.lock().clone();
        if let Some(Err(reason)) = mounted.map(|mounted| mounted.grow()) {
            (self.tell)(events::Event::GrowFailed { reason });
        }
    }

    fn promote(&self) -> Result<(), String> {
        let began = Instant::now();
        if self.lock().is_none() {
            let kept = self.mounter.keeps();
            let mounted = self.mounter.mount()?;
            *self.lock() = Some(mounted);
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let at = self.mounter.place().display().to_string();
            (self.tell)(match self.mounter.pause_ms().filter(|_| kept) {
                Some(pause_ms) => {
                    events::Event::Upgraded { version: env!("CARGO_PKG_VERSION").to_string(), pause_ms }
                }
                None => events::Event::Mounted { at, took_ms },
            });
        }
        self.follow_links();
        self.reflexes.promoted();
        self.services.up();
        Ok(())
    }

    fn demote(&self, graceful: bool) {
        let at = self.mounter.place().display().to_string();
        if graceful {
            // Every service may need its full time; more than that nobody waits.
            let each = self.service_timeout.0.saturating_mul(self.service_count.max(1) as u64);
            self.stop_in_order(Span(each));
            self.reflexes.leaving();
            self.addresses.drop_and_wait(ADDRESS_LIMIT);
        } else {
            self.reflexes.stop();
            self.addresses.drop_and_wait(ADDRESS_LIMIT);
            let mounted = self.lock().clone();
            if let Some(mounted) = mounted {
                mounted.abort();
            }
            if self.mounter.keeps() {
                self.mounter.give_up();
                (self.tell)(events::Event::MountGivenUp { at: at.clone() });
            }
            self.services.down(self.release_time);
        }
        let mounted = self.lock().take();
        if let Some(mounted) = mounted {
            let limit = if graceful { UNMOUNT_LIMIT } else { Duration::ZERO };
            match mounted.unmount(limit) {
                Ok(_) => {}
                Err(reason) if graceful => {
                    (self.tell)(events::Event::Frozen {
                        reason: format!("the last flush before unmounting: {reason}"),
                    });
                }
                Err(_) => {}
            }
            (self.tell)(events::Event::Unmounted { at });
        }
        self.reflexes.stop();
    }

    /// Services get their time, unless what they work on is gone meanwhile.
    fn stop_in_order(&self, limit: Span) {
        let end = Instant::now() + limit.as_duration();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            self.services.down(Span::from_millis(u64::try_from(left.min(LOOK).as_millis()).unwrap_or(0)));
            if self.services.settled() == Some(false) || left.is_zero() || self.reflexes.has_stopped() {
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn Served>>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this node's symlinks agree with the list on the volume, before services look for their directories. On a
    /// thread of its own: reading through the mount waits when the lease lapses meanwhile.
    fn follow_links(&self) {
        let (done, wait) = std::sync::mpsc::channel();
        let places = self.places.clone();
        std::thread::spawn(move || {
            let changed = adopt::list(&places.mount).map(|entries| adopt::follow(&entries, &places));
            let _ = done.send(changed);
        });
        let problem = match wait.recv_timeout(FOLLOW_LIMIT) {
            Err(_) => Some("the list could not be read in time".to_string()),
            Ok(Err(e)) => Some(e),
            Ok(Ok(results)) => results.into_iter().find_map(|result| result.err().map(|e| e.to_string())),
        };
        if let Some(reason) = problem {
            let service = "adopted directories".to_string();
            (self.tell)(events::Event::ServiceFailed {
                service,
                reason,
                then: "services are started all the same".into(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
