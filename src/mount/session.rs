//! The session with the kernel: how it begins, and how another process goes on with it.
//!
//! fuser wants to read an INIT before anything else, and the kernel sends one only to the first process. So it always
//! gets one through a pair of sockets: from the kernel for a new mount, from what the predecessor left for a kept one;
//! then the device takes the place of the socket under the same number. Decides whether a successor fits what was
//! agreed. Does not know files. Invariants: no request is read here but the first; when threads are gathered, every
//! answer that fuser gave has reached the kernel.
#![allow(clippy::disallowed_methods, reason = "a shell: threads, time")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};

use crate::sys::handover as sys;

use super::adapter::{Adapter, NOBODY};
use super::park::Parking;
use super::served::Served;
use super::worker::THREAD_NAME;

/// struct fuse_in_header, and where its fields lie in an INIT and in the answer to it.
const HEAD_BYTES: usize = 40;
const INIT_BYTES: usize = 104;
const ANSWER_HEAD_BYTES: usize = 16;
const OFFERED: [usize; 2] = [HEAD_BYTES + 12, HEAD_BYTES + 16];
const TAKEN: [usize; 2] = [ANSWER_HEAD_BYTES + 12, ANSWER_HEAD_BYTES + 32];
/// FUSE_INIT_EXT: the second word counts.
const EXTENDED: u32 = 1 << 30;
const FORGET: u32 = 2;
/// Between two looks at threads that are on their way.
const LOOK: Duration = Duration::from_millis(1);

/// What kernel and daemon said to each other first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The kernel's, with what both agreed on as its offer.
    pub init: Vec<u8>,
    pub answer: Vec<u8>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn not_ours(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_string())
}

impl Greeting {
    /// Whoever is offered what was agreed on can only take that or less.
    fn of(mut init: Vec<u8>, answer: &[u8]) -> io::Result<Greeting> {
        check_answer(answer)?;
        if init.len() < INIT_BYTES {
            return Err(not_ours("the kernel's first message is too short"));
        }
        for (offered, taken) in OFFERED.into_iter().zip(TAKEN) {
            let both = word(&init, offered) & (word(answer, taken) | EXTENDED);
            init[offered..offered + 4].copy_from_slice(&both.to_le_bytes());
        }
        Ok(Greeting { init, answer: answer.to_vec() })
    }

    /// Whether this program answers as its predecessor did, as far as the kernel holds it to that.
    fn fits(&self, answer: &[u8]) -> io::Result<()> {
        check_answer(answer)?;
        let flags = |answer: &[u8]| TAKEN.map(|at| word(answer, at));
        match flags(answer) == flags(&self.answer) {
            true => Ok(()),
            false => Err(not_ours("this version does not serve a mount as it was agreed on with the kernel")),
        }
    }
}

fn check_answer(answer: &[u8]) -> io::Result<()> {
    let refused = word(answer, 4);
    if refused != 0 || answer.len() < ANSWER_HEAD_BYTES + 36 {
        return Err(not_ours("no agreement with the kernel"));
    }
    Ok(())
}

/// What a thread that reads requests takes as the word to wait: no answer is due to it, and the kernel knows no such
/// inode.
fn word_to_wait() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + 8);
    bytes.extend_from_slice(&48_u32.to_le_bytes());
    bytes.extend_from_slice(&FORGET.to_le_bytes());
    bytes.extend_from_slice(&1_u64.to_le_bytes());
    bytes.extend_from_slice(&NOBODY.0.to_le_bytes());
    bytes.resize(HEAD_BYTES, 0);
    bytes.extend_from_slice(&1_u64.to_le_bytes());
    bytes
}

/// Whether the session of a mount still runs.
#[derive(Default)]
pub(super) struct Ended {
    done: Mutex<bool>,
    changed: Condvar,
}

impl Ended {
    fn set(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Answers whether it ended in time; `None` waits for ever.
    pub(super) fn wait(&self, patience: Option<Duration>) -> bool {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        match patience {
            None => *self.changed.wait_while(done, |d| !*d).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                *self
                    .changed
                    .wait_timeout_while(done, time, |d| !*d)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }
}

/// A session that runs.
pub(super) struct Seat {
    pub(super) greeting: Greeting,
    pub(super) ended: Arc<Ended>,
    /// Reads as closed when the session ended.
    pub(super) stream: UnixStream,
    /// The device, apart from fuser's.
    device: OwnedFd,
    /// Fuser's number for it. Open as long as the session runs.
    place: sys::Place,
    threads: usize,
    parking: Arc<Parking>,
    handle: Option<JoinHandle<()>>,
}

impl Seat {
    /// Begins to serve what `device` asks for; `before`: what a predecessor agreed on.
    pub(super) fn take(
        served: Served,
        device: OwnedFd,
        threads: usize,
        before: Option<Greeting>,
    ) -> io::Result<Seat> {
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads);
        // Requests that were read through a clone end with an error when this process closes it.
        config.clone_fd = false;
        let (fs, parking) = (Arc::clone(&served.fs), Arc::clone(&served.parking));
        let (here, there) = sys::message_pair()?;
        let init = match &before {
            Some(before) => before.init.clone(),
            None => sys::read_request(&device)?,
        };
        sys::send_message(&there, &init)?;
        let session = Session::from_fd(Adapter(Arc::new(served)), here, SessionACL::All, config)?;
        let answer = sys::next_message(&there)?.ok_or_else(|| not_ours("no answer to the kernel"))?;
        let greeting = match before {
            Some(before) => before.fits(&answer).map(|()| before)?,
            None => {
                let greeting = Greeting::of(init, &answer)?;
                sys::write_answer(&device, &answer)?;
                greeting
            }
        };
        sys::put_in_place(device.as_fd(), session.as_fd())?;
        let place = sys::Place::of(session.as_fd());
        let ended = Arc::new(Ended::default());
        let (stream, other_end) = UnixStream::pair()?;
        let told = Arc::clone(&ended);
        let run = move || {
            if let Err(error) = session.run() {
                // A thread that reads requests died: the rest must not limp on.
                tracing::error!("serving the mount ended: {error}");
                fs.make_read_only();
            }
            told.set();
            drop(other_end);
        };
        let handle = std::thread::Builder::new().name("twinfs-session".to_string()).spawn(run)?;
        Ok(Seat { greeting, ended, stream, device, place, threads, parking, handle: Some(handle) })
    }

    pub(super) fn device(&self) -> &OwnedFd {
        &self.device
    }

    /// Lets every thread end what it has in hand and wait. `idle`: nobody else has an answer to give. On an error
    /// everything goes on as before.
    pub(super) fn gather(&self, idle: impl Fn() -> bool, end: Instant) -> io::Result<()> {
        self.parking.close();
        let gathered = self.gather_all(&idle, end);
        if gathered.is_err() {
            self.parking.open();
        }
        gathered
    }

    /// Everything goes on as before.
    pub(super) fn disperse(&self) {
        self.parking.open();
    }

    fn gather_all(&self, idle: &impl Fn() -> bool, end: Instant) -> io::Result<()> {
        let late = |what: &str| io::Error::new(io::ErrorKind::TimedOut, what.to_string());
        if self.ended.wait(Some(Duration::ZERO)) {
            return Err(io::Error::other("the mount is gone"));
        }
        // Answers on the way still go to the device.
        self.wait_idle(idle, end)
            .then_some(())
            .ok_or_else(|| late("requests under way did not end in time"))?;
        let (here, there) = sys::message_pair()?;
        for _ in 0..self.threads {
            sys::send_message(&there, &word_to_wait())?;
        }
        self.place.put(here.as_fd())?;
        let gathered = self.call_in(end);
        self.place.put(self.device.as_fd())?;
        // Answers that need nobody here, of requests that were read just before.
        while let Some(answer) = sys::next_message(&there)? {
            if let Err(error) = sys::write_answer(&self.device, &answer) {
                tracing::debug!("an answer that nobody waits for any more: {error}");
            }
        }
        if !gathered {
            return Err(late("a thread that reads requests did not come"));
        }
        self.parking.drain();
        let drained = self.parking.wait_parked(self.threads, end) && self.wait_idle(idle, end);
        drained.then_some(()).ok_or_else(|| late("the last requests did not end in time"))
    }

    fn wait_idle(&self, idle: &impl Fn() -> bool, end: Instant) -> bool {
        while self.parking.wait_idle(end) {
            if idle() {
                return true;
            }
            std::thread::sleep(LOOK);
            if Instant::now() >= end {
                break;
            }
        }
        false
    }

    fn call_in(&self, end: Instant) -> bool {
        while self.parking.gathered() < self.threads {
            if Instant::now() >= end || sys::poke_threads(THREAD_NAME).is_err() {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    /// Waits for its end, at most so long.
    pub(super) fn join(&mut self, patience: Duration) {
        if let Some(handle) = self.handle.take()
            && self.ended.wait(Some(patience))
        {
            let _ = handle.join();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.handle.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(offer: [u32; 2]) -> Vec<u8> {
        let mut bytes = vec![0; INIT_BYTES];
        OFFERED
            .into_iter()
            .zip(offer)
            .for_each(|(at, w)| bytes[at..at + 4].copy_from_slice(&w.to_le_bytes()));
        bytes
    }

    fn answer(taken: [u32; 2]) -> Vec<u8> {
        let mut bytes = vec![0; ANSWER_HEAD_BYTES + 64];
        TAKEN.into_iter().zip(taken).for_each(|(at, w)| bytes[at..at + 4].copy_from_slice(&w.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_successor_is_offered_what_was_agreed_and_must_take_all_of_it() {
        let greeting = Greeting::of(init([EXTENDED | 0xff, 0xf0]), &answer([0x0f, 0x30])).unwrap();
        assert_eq!(OFFERED.map(|at| word(&greeting.init, at)), [EXTENDED | 0x0f, 0x30]);
        assert!(greeting.fits(&answer([0x0f, 0x30])).is_ok());
        assert!(greeting.fits(&answer([0x07, 0x30])).is_err());
        assert!(greeting.fits(&answer([0x0f, 0x10])).is_err());
        let mut refused = answer([0x0f, 0x30]);
        refused[4] = 0xff;
        assert!(greeting.fits(&refused).is_err() && greeting.fits(&[]).is_err());
        assert!(Greeting::of(vec![0; 10], &answer([0, 0])).is_err());
    }

    #[test]
    fn the_word_to_wait_is_a_whole_request() {
        let bytes = word_to_wait();
        assert_eq!((bytes.len(), word(&bytes, 0), word(&bytes, 4)), (48, 48, FORGET));
    }
}
