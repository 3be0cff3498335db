//! Simulated links: one ordered stream between the nodes at a time, and datagrams.
//!
//! Decides when bytes arrive. Does not know what they say. Invariants: a stream delivers in order and without holes
//! for as long as it lives; a cut holds bytes back, it does not reorder them; datagrams may be lost, late, doubled or
//! overtaken.

use std::collections::VecDeque;

use super::rng::Rng;

const MS: u64 = 1_000_000;

/// How the links behave at the moment.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Datagrams lost, of a thousand.
    pub loss: u64,
    /// Datagrams delivered twice, of a thousand.
    pub twice: u64,
    /// Datagrams delayed by up to `late_max`, of a thousand.
    pub late: u64,
    pub late_max: u64,
    /// Usual one-way delay, nanoseconds.
    pub delay: u64,
    /// Nanoseconds a KiB takes on the stream.
    pub per_kib: u64,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather { loss: 0, twice: 0, late: 0, late_max: 0, delay: 150_000, per_kib: 2_000 }
    }
}

struct Direction<M> {
    queue: VecDeque<(u64, M)>,
    last: u64,
    open: bool,
}

impl<M> Direction<M> {
    fn new() -> Direction<M> {
        Direction { queue: VecDeque::new(), last: 0, open: true }
    }
}

/// One connection; `to[x]` is what travels to node x.
pub struct Conn<M> {
    pub id: u64,
    to: [Direction<M>; 2],
}

/// The links between the two nodes.
pub struct Net<M> {
    /// `cut[x]`: nothing reaches node x from its peer.
    pub cut: [bool; 2],
    /// `witness_cut[x]`: node x does not reach the witness.
    pub witness_cut: [bool; 2],
    pub weather: Weather,
    conns: Vec<Conn<M>>,
    next_conn: u64,
}

/// What the stream has for a receiver.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<M> {
    Message(M),
    /// Nothing before this moment.
    At(u64),
    /// Nothing until something is sent or a cut heals.
    Nothing,
}

impl<M> Default for Net<M> {
    fn default() -> Net<M> {
        let weather = Weather::default();
        Net { cut: [false; 2], witness_cut: [false; 2], weather, conns: Vec::new(), next_conn: 1 }
    }
}

impl<M> Net<M> {
    pub fn whole(&self) -> bool {
        self.cut == [false; 2]
    }

    /// Opens a connection; the ones before stop carrying anything new, but may still hold undelivered bytes.
    pub fn connect(&mut self) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        self.conns.push(Conn { id, to: [Direction::new(), Direction::new()] });
        id
    }

    fn conn(&mut self, id: u64) -> Option<&mut Conn<M>> {
        self.conns.iter_mut().find(|conn| conn.id == id)
    }

    /// Node `at` closes its end: it sends nothing more; what it sent already still travels.
    pub fn close_end(&mut self, id: u64, at: usize) {
        if let Some(conn) = self.conn(id) {
            conn.to[1 - at].open = false;
        }
    }

    /// Queues a message to `to`; the moment it may arrive, if the connection still exists.
    pub fn send(&mut self, id: u64, to: usize, bytes: u64, message: M, now: u64) -> Option<u64> {
        let (delay, per_kib) = (self.weather.delay, self.weather.per_kib);
        let direction = &mut self.conn(id)?.to[to];
        if !direction.open {
            return None;
        }
        let busy = direction.last.max(now + delay);
        direction.last = busy + bytes.div_ceil(1024) * per_kib;
        let due = direction.last;
        direction.queue.push_back((due, message));
        Some(due)
    }

    /// Takes the next message for `to` if it is due and the link carries it.
    pub fn arrive(&mut self, id: u64, to: usize, now: u64) -> Arrival<M> {
        if self.cut[to] {
            return Arrival::Nothing;
        }
        let Some(conn) = self.conn(id) else { return Arrival::Nothing };
        let queue = &mut conn.to[to].queue;
        match queue.front() {
            None => Arrival::Nothing,
            Some((due, _)) if *due > now => Arrival::At(*due),
            Some(_) => queue.pop_front().map_or(Arrival::Nothing, |(_, message)| Arrival::Message(message)),
        }
    }

    /// Connections that still hold something for `to`.
    pub fn pending(&self, to: usize) -> Vec<u64> {
        self.conns.iter().filter(|conn| !conn.to[to].queue.is_empty()).map(|conn| conn.id).collect()
    }

    /// The delays after which copies of a datagram arrive: none, one or two.
    pub fn datagram(&self, to: usize, rng: &mut Rng) -> Vec<u64> {
        let weather = &self.weather;
        if self.cut[to] || rng.permille(weather.loss) {
            return Vec::new();
        }
        let copies = if rng.permille(weather.twice) { 2 } else { 1 };
        let mut one = || {
            let late = if rng.permille(weather.late) { rng.below(weather.late_max) } else { 0 };
            weather.delay + rng.below(MS) + late
        };
        (0..copies).map(|_| one()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_keeps_its_order_through_a_cut() {
        let mut net = Net::default();
        let id = net.connect();
        let due = (0..3).map(|n| net.send(id, 1, 4096, n, 10).unwrap()).max().unwrap();
        net.cut[1] = true;
        assert_eq!(net.arrive(id, 1, due), Arrival::Nothing);
        assert_eq!(net.pending(1), vec![id]);
        net.cut[1] = false;
        assert!(matches!(net.arrive(id, 1, 10), Arrival::At(_)));
        let seen: Vec<_> = (0..3).map(|_| net.arrive(id, 1, due)).collect();
        assert_eq!(seen, vec![Arrival::Message(0), Arrival::Message(1), Arrival::Message(2)]);
        net.close_end(id, 0);
        assert_eq!(net.send(id, 1, 1, 9, due), None);
    }

    #[test]
    fn datagrams_are_lost_doubled_and_late() {
        let weather =
            Weather { loss: 300, twice: 300, late: 300, late_max: 5_000 * MS, ..Weather::default() };
        let mut net = Net::<()> { weather, ..Net::default() };
        let mut rng = Rng::new(3);
        let all: Vec<Vec<u64>> = (0..200).map(|_| net.datagram(0, &mut rng)).collect();
        assert!(all.iter().any(Vec::is_empty) && all.iter().any(|copies| copies.len() == 2));
        assert!(all.iter().flatten().any(|delay| *delay > 1_000 * MS));
        net.cut[0] = true;
        assert!(net.datagram(0, &mut rng).is_empty());
    }
}
