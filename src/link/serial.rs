//! Serial lines: the newest word of each sender in frames, at the pace of the line, on a device that may come and go.
//!
//! Decides when a line is free and whose turn it is. Does not know what a datagram says. Invariants: nothing waits for
//! a line; at most one frame is under way, and of what one sender posted only the newest waits for it, no longer than
//! `hold`: what a machine said that has stopped deciding does not leave later than that. A device that fails is closed
//! and opened again by a thread of its own, for either may take its time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cobs::{self, Deframer, Frame};
use super::datagrams::{DATAGRAM_BYTES_MAX, Received, Sender};
use crate::base::{Moment, SerialLine, Span};
use crate::sys::serial::Port;

/// Between two attempts to open a device.
const REOPEN_EVERY: Duration = Duration::from_secs(1);
/// A device that sends nothing of what it has for so long throws it away: it is old.
const STALLED: Span = Span::from_secs(1);
/// Until a device that is slower than its speed says is asked again.
const LOOK_AGAIN: Span = Span::from_millis(10);
/// Bytes that are taken off the device at once.
const CHUNK_BYTES: usize = 512;
/// Reads in which nothing but noise comes before somebody else has his turn.
const READS_MAX: usize = 4;

struct Waiting {
    sender: Sender,
    since: Moment,
    datagram: Vec<u8>,
}

/// What is to leave over one line.
struct Outbox {
    line: SerialLine,
    hold: Span,
    /// One of each sender at most; who was overtaken by nobody keeps his place.
    waiting: VecDeque<Waiting>,
    free_at: Moment,
    /// Counts heartbeats.
    number: u16,
}

impl Outbox {
    fn post(&mut self, now: Moment, sender: Sender, datagram: &[u8]) {
        let fresh = Waiting { sender, since: now, datagram: datagram.to_vec() };
        match self.waiting.iter_mut().find(|waiting| waiting.sender == sender) {
            Some(older) => *older = fresh,
            None => self.waiting.push_back(fresh),
        }
    }

    /// When the line is free for what waits; `None`: nothing does.
    fn due(&self) -> Option<Moment> {
        (!self.waiting.is_empty()).then_some(self.free_at)
    }

    /// The next frame, if the line is free: from now on it is not.
    fn next(&mut self, now: Moment) -> Option<Vec<u8>> {
        if now < self.free_at {
            return None;
        }
        while let Some(waiting) = self.waiting.pop_front() {
            if now.since(waiting.since) > self.hold {
                continue;
            }
            if matches!(waiting.sender, Sender::Volume(_)) {
                self.number = self.number.wrapping_add(1);
            }
            if let Some(frame) = cobs::encode(self.number, &waiting.datagram) {
                self.free_at = now + self.line.takes(frame.len());
                return Some(frame);
            }
        }
        None
    }
}

struct State {
    port: Option<Arc<Port>>,
    /// Failed: closed where nobody waits for it.
    failed: Option<Arc<Port>>,
    trouble: Option<String>,
    outbox: Outbox,
    deframer: Deframer,
    /// Taken off the device and not looked at yet: from the first number to the second.
    chunk: [u8; CHUNK_BYTES],
    ahead: (usize, usize),
}

impl State {
    fn fail(&mut self, error: &std::io::Error) {
        self.trouble = Some(error.to_string());
        self.failed = self.port.take();
        self.ahead = (0, 0);
    }
}

/// One end of a serial line.
pub(super) struct Line {
    settings: SerialLine,
    state: Mutex<State>,
}

impl Line {
    /// Opens nothing yet.
    pub(super) fn new(settings: &SerialLine, hold: Span) -> Line {
        let waiting = VecDeque::new();
        let outbox = Outbox { line: settings.clone(), hold, waiting, free_at: Moment(0), number: 0 };
        let state = State {
            port: None,
            failed: None,
            trouble: None,
            outbox,
            deframer: Deframer::default(),
            chunk: [0; CHUNK_BYTES],
            ahead: (0, 0),
        };
        Line { settings: settings.clone(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device, while it is open.
    pub(super) fn port(&self) -> Option<Arc<Port>> {
        self.state().port.clone()
    }

    /// Why the device cannot be used.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    pub(super) fn post(&self, now: Moment, sender: Sender, datagram: &[u8]) {
        self.state().outbox.post(now, sender, datagram);
    }

    /// Hands the next frame to the device if the line is free; when there is something to do again.
    pub(super) fn flush(&self, now: Moment) -> Option<Moment> {
        let mut state = self.state();
        let Some(port) = state.port.clone() else {
            state.outbox.waiting.clear();
            return None;
        };
        let due = state.outbox.due()?;
        if now < due {
            return Some(due);
        }
        if port.unsent() > 0 {
            if now.since(due) < STALLED {
                return Some(now + LOOK_AGAIN);
            }
            port.discard();
        }
        let frame = state.outbox.next(now)?;
        match port.write(&frame) {
            // The next one begins by ending what was cut off here.
            Ok(_) => {}
            Err(error) if passes(&error) => {}
            Err(error) => state.fail(&error),
        }
        state.outbox.due()
    }

    /// The next datagram; an empty one: noise, or something that was damaged on the way.
    pub(super) fn recv(&self, buffer: &mut [u8; DATAGRAM_BYTES_MAX]) -> Option<Received> {
        let mut state = self.state();
        let state = &mut *state;
        for _ in 0..READS_MAX {
            while state.ahead.0 < state.ahead.1 {
                let byte = state.chunk[state.ahead.0];
                state.ahead.0 += 1;
                match state.deframer.push(byte) {
                    Some(Frame::Whole { number, datagram }) => {
                        buffer[..datagram.len()].copy_from_slice(&datagram);
                        return Some(Received::from_line(datagram.len(), Some(number)));
                    }
                    Some(Frame::Damaged) => return Some(Received::from_line(0, None)),
                    None => {}
                }
            }
            match state.port.as_ref()?.read(&mut state.chunk) {
                Ok(count) => state.ahead = (0, count),
                Err(error) if passes(&error) => return None,
                Err(error) => {
                    state.fail(&error);
                    return None;
                }
            }
        }
        Some(Received::from_line(0, None))
    }

    /// Opens the device if it is not open; whether it is from now on.
    fn open(&self) -> bool {
        let failed = {
            let mut state = self.state();
            if state.port.is_some() {
                return false;
            }
            state.failed.take()
        };
        drop(failed);
        let opened = Port::open(&self.settings.device, self.settings.baud);
        let mut state = self.state();
        state.trouble = opened.as_ref().err().map(ToString::to_string);
        state.port = opened.ok().map(Arc::new);
        (state.deframer, state.outbox.free_at) = (Deframer::default(), Moment(0));
        state.port.is_some()
    }
}

/// Nothing is wrong: not now, or interrupted.
fn passes(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}

/// Opens what is not open, again and again, until the other end of `ended` is gone; `tell` after each that opened.
pub(super) fn keep_open(lines: &[Arc<Line>], ended: &Receiver<()>, tell: impl Fn()) {
    loop {
        // Each of them, whatever became of the one before.
        if lines.iter().filter(|line| line.open()).count() > 0 {
            tell();
        }
        match ended.recv_timeout(REOPEN_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Says something over a line that this process has not open, and waits until it has left.
pub fn say_over(line: &SerialLine, datagram: &[u8]) -> std::io::Result<()> {
    let port = Port::open(&line.device, line.baud)?;
    if let Some(frame) = cobs::encode(0, datagram) {
        port.write(&frame)?;
        std::thread::sleep(line.takes(frame.len() * 2).as_duration());
    }
    Ok(())
}

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;
