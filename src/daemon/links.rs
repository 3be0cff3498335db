//! The replication streams of one volume: a sender and a reader thread for each.
//!
//! Decides that at most one stream stands (a newer one ends the older), and turns frames into messages. Does not know
//! what a message means. Invariants: frames of a stream leave in the order in which they were queued; `queue` never
//! blocks; every stream that came up is reported down exactly once, after its last message.
#![allow(clippy::disallowed_methods, reason = "a shell: threads")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::base::KeepAwake;
use crate::link::{Connection, LinkError};
use crate::mirror::{Mirror, Payload};
use crate::node::{Event, LinkId};
use crate::sys::tcp::Progress;
use crate::sys::wake::Awake;
use crate::wire;
use crate::wire::Message;

/// Told about streams for the history: `Ok` came up, `Err` went down and why.
pub type OnChange = Box<dyn Fn(Result<String, String>) + Send + Sync>;

struct Link {
    id: LinkId,
    connection: Connection,
    frames: Mutex<VecDeque<(Message, Payload)>>,
    /// Held from taking frames to their last byte, so that they leave in order whoever sends them.
    sending: Mutex<()>,
    ready: Condvar,
    ended: AtomicBool,
}

impl Link {
    fn frames(&self) -> MutexGuard<'_, VecDeque<(Message, Payload)>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let _frames = self.frames();
        self.ended.store(true, Ordering::SeqCst);
        self.connection.close();
        self.ready.notify_all();
    }
}

/// The streams of one volume.
pub struct Links {
    next: AtomicU64,
    current: Mutex<Option<Arc<Link>>>,
    changed: Condvar,
    mirror: Mutex<Weak<Mirror>>,
    closing: AtomicBool,
    on_change: OnChange,
    awake: Arc<Awake>,
}

impl Links {
    pub fn new(on_change: OnChange, keep_awake: KeepAwake) -> Links {
        Links {
            next: AtomicU64::new(1),
            current: Mutex::new(None),
            changed: Condvar::new(),
            mirror: Mutex::new(Weak::new()),
            closing: AtomicBool::new(false),
            on_change,
            awake: Awake::new(keep_awake),
        }
    }

    /// From now on messages go to this mirror.
    pub fn serve(&self, mirror: &Arc<Mirror>) {
        *self.mirror.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(mirror);
    }

    fn mirror(&self) -> Option<Arc<Mirror>> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a stream stands.
    pub fn is_up(&self) -> bool {
        self.current().is_some()
    }

    /// Waits until no stream stands, `false` when the volume is being closed; looks up at least every `patience`.
    pub fn wait_until_needed(&self, patience: Duration) -> bool {
        let mut current = self.current();
        while current.is_some() && !self.closing.load(Ordering::SeqCst) {
            current = self.changed.wait_timeout(current, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        !self.closing.load(Ordering::SeqCst)
    }

    /// Waits, at most so long, until a stream stands.
    pub fn wait_until_up(&self, patience: Duration) {
        let current = self.current();
        let waiting =
            |current: &mut Option<Arc<Link>>| current.is_none() && !self.closing.load(Ordering::SeqCst);
        drop(self.changed.wait_timeout_while(current, patience, waiting));
    }

    /// Takes a fresh stream into service; an older one ends.
    pub fn attach(self: &Arc<Links>, connection: Connection) {
        let id = LinkId(self.next.fetch_add(1, Ordering::SeqCst));
        let link = Arc::new(Link {
            id,
            connection,
            frames: Mutex::default(),
            sending: Mutex::default(),
            ready: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let reader = (Arc::clone(self), Arc::clone(&link));
        let sender = Arc::clone(&link);
        std::thread::spawn(move || send_frames(&sender));
        std::thread::spawn(move || reader.0.run(&reader.1));
    }

    /// Queues a frame; a stream that is gone swallows it.
    pub fn queue(&self, id: LinkId, message: Message, payload: Payload) {
        let link = self.current().as_ref().filter(|link| link.id == id).cloned();
        if let Some(link) = link {
            link.frames().push_back((message, payload));
            link.ready.notify_one();
        }
    }

    /// Sends what is queued on the calling thread, unless somebody is at it. Blocks while the socket is full, so it is
    /// not for a thread that reads from the peer.
    pub fn send_now(&self) {
        let Some(link) = self.current().clone() else { return };
        let Ok(_sending) = link.sending.try_lock() else { return };
        if !link.ended.load(Ordering::SeqCst) && send_queued(&link).is_err() {
            link.end();
        }
    }

    /// Ends a stream; its end is reported by its reader.
    pub fn close(&self, id: LinkId) {
        let link = self.current().as_ref().filter(|link| link.id == id).cloned();
        if let Some(link) = link {
            link.end();
        }
    }

    /// The present stream, where it leads and how far the peer follows.
    pub fn progress(&self) -> Option<(LinkId, SocketAddr, Progress)> {
        let link = self.current().clone()?;
        Some((link.id, link.connection.peer_addr(), link.connection.progress()?))
    }

    /// Ends the present stream and every later one.
    pub fn close_all(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let link = self.current().clone();
        if let Some(link) = link {
            link.end();
        }
        self.changed.notify_all();
    }

    /// The life of a stream, on its reader thread.
    fn run(&self, link: &Arc<Link>) {
        // The older stream must have been reported down before this one is reported up.
        let mut current = self.current();
        while let Some(older) = current.clone() {
            drop(current);
            older.end();
            current = self.current();
            if current.as_ref().is_some_and(|c| c.id == older.id) {
                let wait = Duration::from_millis(50);
                current = self.changed.wait_timeout(current, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        if self.closing.load(Ordering::SeqCst) {
            link.end();
            return;
        }
        *current = Some(Arc::clone(link));
        self.changed.notify_all();
        drop(current);
        (self.on_change)(Ok(link.connection.peer_addr().to_string()));
        let why = match self.mirror() {
            Some(mirror) => {
                mirror.deliver(Event::LinkUp { link: link.id });
                let why = read_frames(link, &mirror, &self.awake);
                link.end();
                mirror.deliver(Event::LinkDown { link: link.id });
                why
            }
            None => {
                link.end();
                "the volume is being closed".to_string()
            }
        };
        *self.current() = None;
        self.changed.notify_all();
        (self.on_change)(Err(why));
    }
}

fn read_frames(link: &Link, mirror: &Mirror, awake: &Arc<Awake>) -> String {
    let mut frame = Vec::new();
    loop {
        if let Err(error) = link.connection.recv(&mut frame) {
            return error.to_string();
        }
        // The peer's application waits for the answer.
        awake.asked();
        match parse(&frame) {
            Ok((message, payload)) => mirror.received(link.id, message, payload),
            Err(why) => return format!("the peer sent a frame that makes no sense: {why}"),
        }
        if link.ended.load(Ordering::SeqCst) {
            return "closed by this node".to_string();
        }
    }
}

fn parse(frame: &[u8]) -> Result<(Message, Payload), String> {
    let (head, rest) = frame.split_at_checked(wire::HEADER_BYTES).ok_or("it is too short")?;
    let header = wire::Header::read(head).map_err(|e| e.to_string())?;
    let (body, payload) = rest.split_at_checked(header.body).ok_or("its body is cut off")?;
    if payload.len() != header.payload {
        return Err("its payload has another length than its header says".to_string());
    }
    let message = wire::decode(header, body).map_err(|e| e.to_string())?;
    let payload = Payload::read(&message, payload).ok_or("its payload does not belong to its message")?;
    Ok((message, payload))
}

fn send_frames(link: &Link) {
    loop {
        {
            let mut frames = link.frames();
            while frames.is_empty() && !link.ended.load(Ordering::SeqCst) {
                frames = link.ready.wait(frames).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if link.ended.load(Ordering::SeqCst) {
            return;
        }
        let sending = link.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = send_queued(link);
        drop(sending);
        if sent.is_err() {
            link.end();
            return;
        }
    }
}

/// Sends everything queued so far; the caller holds `sending`.
fn send_queued(link: &Link) -> Result<(), LinkError> {
    let mut head = Vec::new();
    loop {
        let batch = std::mem::take(&mut *link.frames());
        if batch.is_empty() {
            return Ok(());
        }
        for (message, payload) in batch {
            head.clear();
            wire::encode(&message, payload.wire_len(), &mut head);
            let [data, tail] = payload.parts();
            send(link, &[&head, data, tail])?;
        }
    }
}

fn send(link: &Link, parts: &[&[u8]]) -> Result<(), LinkError> {
    link.connection.send(parts)
}
