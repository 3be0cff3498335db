//! The witness process: one socket, one directory, no data, no root.
//!
//! Decides nothing: `cluster::witness` does. Does not know time, leases or the nodes' data. Invariants: requests are
//! answered one after the other; what an answer says is stable before it is sent; a packet without a valid code gets no
//! answer at all; when the directory cannot be written, nothing is answered that would need it.
#![allow(clippy::disallowed_methods, reason = "a shell: a socket and files")]

mod etcd;
mod store;

pub use etcd::{EtcdHome, HomeError};
pub use store::{Store, StoreError};

use std::io;
use std::net::{SocketAddr, UdpSocket};

use crate::base::NodeId;
use crate::cluster::Witness;
use crate::config::WitnessKeys;
use crate::wire::{WitnessAnswer, WitnessQuestion, decode_question, encode_answer};

/// Largest datagram that is looked at; a question is shorter than half of it.
const DATAGRAM_BYTES_MAX: usize = 512;
/// Volumes one cluster keeps: a bound for memory, far above any need.
const VOLUMES_MAX: usize = 4096;

/// A cluster with its records at hand, in a directory of their own: whoever holds the key of one cluster cannot ask
/// about the volumes of another.
struct Cluster {
    keys: WitnessKeys,
    store: Store,
    witness: Witness,
}

/// The witness of one or more clusters.
pub struct Server {
    clusters: Vec<Cluster>,
}

impl Server {
    pub fn new(keys: WitnessKeys, store: Store) -> Server {
        Server::of(vec![(keys, store)])
    }

    /// Each cluster has a key and a directory of its own.
    pub fn of(clusters: Vec<(WitnessKeys, Store)>) -> Server {
        let one = |(keys, store): (WitnessKeys, Store)| {
            let witness = Witness::new(store.image().clone());
            Cluster { keys, store, witness }
        };
        Server { clusters: clusters.into_iter().map(one).collect() }
    }

    /// Answers for ever. Returns only when the socket fails for good.
    pub fn serve(&mut self, socket: &UdpSocket) -> io::Error {
        let mut buffer = [0u8; DATAGRAM_BYTES_MAX];
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((len, from)) => self.datagram(socket, &buffer[..len], from),
                // An earlier answer met a closed port, or a signal came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error,
            }
        }
    }

    fn datagram(&mut self, socket: &UdpSocket, bytes: &[u8], from: SocketAddr) {
        if let Some(answer) = self.answer(bytes) {
            // A lost answer is asked for again.
            let _ = socket.send_to(&answer, from);
        }
    }

    /// The answer to one packet; `None` for one that is not authentic, and when the answer could not be made stable.
    pub fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.clusters.iter_mut().find_map(|cluster| cluster.answer(bytes))
    }
}

impl Cluster {
    fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let question = self.authentic(bytes)?;
        let full = self.store.image().records.len() >= VOLUMES_MAX;
        if full && !self.store.image().records.contains_key(&question.volume) {
            return None;
        }
        let (reply, changed) = self.witness.answer(question.volume, question.from, &question.request);
        if changed && let Err(error) = self.store.save(self.witness.image()) {
            tracing::error!("the record is not stable and nothing is answered: {error}");
            // What is in memory must not be told to anybody: back to what is on the disk.
            self.witness = Witness::new(self.store.image().clone());
            return None;
        }
        let answer = WitnessAnswer { volume: question.volume, nonce: question.nonce, reply };
        Some(encode_answer(&answer, &self.keys.reply[usize::from(question.from.index())]))
    }

    /// The question, if the node that it names really sent it.
    fn authentic(&self, bytes: &[u8]) -> Option<WitnessQuestion> {
        [NodeId::A, NodeId::B].into_iter().find_map(|node| {
            let key = &self.keys.request[usize::from(node.index())];
            decode_question(bytes, key).ok().filter(|question| question.from == node)
        })
    }
}

#[cfg(test)]
mod tests;
