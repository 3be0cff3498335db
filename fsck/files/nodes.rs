//! What is kept of every inode, by number: ten million of them must fit into memory beside everything else.
//!
//! Decides nothing. Invariant: what is met in the order of the table lies in one sorted list; the few that a repair
//! makes lie beside it.

use std::collections::BTreeMap;

use twinfs::base::Ino;

use super::Node;

#[derive(Default)]
pub(super) struct Nodes {
    sorted: Vec<(Ino, Node)>,
    late: BTreeMap<Ino, Node>,
}

impl Nodes {
    fn place(&self, ino: Ino) -> Result<usize, usize> {
        self.sorted.binary_search_by_key(&ino, |(ino, _)| *ino)
    }

    pub(super) fn get(&self, ino: &Ino) -> Option<&Node> {
        match self.place(*ino) {
            Ok(place) => Some(&self.sorted[place].1),
            Err(_) => self.late.get(ino),
        }
    }

    pub(super) fn get_mut(&mut self, ino: &Ino) -> Option<&mut Node> {
        match self.place(*ino) {
            Ok(place) => Some(&mut self.sorted[place].1),
            Err(_) => self.late.get_mut(ino),
        }
    }

    pub(super) fn contains_key(&self, ino: &Ino) -> bool {
        self.get(ino).is_some()
    }

    pub(super) fn insert(&mut self, ino: Ino, node: Node) {
        if self.late.is_empty() && self.sorted.last().is_none_or(|(last, _)| *last < ino) {
            return self.sorted.push((ino, node));
        }
        match self.place(ino) {
            Ok(place) => self.sorted[place].1 = node,
            Err(_) => {
                self.late.insert(ino, node);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len() + self.late.len()
    }

    pub(super) fn highest(&self) -> Ino {
        let late = self.late.last_key_value().map(|(ino, _)| *ino);
        self.sorted.last().map(|(ino, _)| *ino).max(late).unwrap_or(Ino(0))
    }

    /// All of them in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Ino, &Node)> {
        let (mut sorted, mut late) = (self.sorted.iter().peekable(), self.late.iter().peekable());
        std::iter::from_fn(move || match (sorted.peek(), late.peek()) {
            (Some((known, _)), Some((ino, _))) if **ino < *known => late.next(),
            (None, _) => late.next(),
            _ => sorted.next().map(|(ino, node)| (ino, node)),
        })
    }
}

#[cfg(test)]
mod tests {
    use twinfs::format::{FileKind, InodeRec, Time};

    use super::*;

    fn node(nlink: u32) -> Node {
        Node { nlink, ..Node::of(&InodeRec::new(FileKind::File, Time::default())) }
    }

    #[test]
    fn what_comes_late_is_found_and_listed_in_its_place() {
        let mut nodes = Nodes::default();
        for ino in [3, 5, 9, 4, 12, 1] {
            nodes.insert(Ino(ino), node(ino as u32));
        }
        nodes.insert(Ino(5), node(50));
        let listed: Vec<(u64, u32)> = nodes.iter().map(|(ino, node)| (ino.0, node.nlink)).collect();
        assert_eq!(listed, [(1, 1), (3, 3), (4, 4), (5, 50), (9, 9), (12, 12)]);
        assert_eq!((nodes.len(), nodes.highest()), (6, Ino(12)));
        nodes.get_mut(&Ino(4)).unwrap().nlink = 40;
        assert_eq!(nodes.get(&Ino(4)).map(|node| node.nlink), Some(40));
        assert!(!nodes.contains_key(&Ino(2)));
    }
}
