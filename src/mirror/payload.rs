//! The bytes behind a message: block contents with their digests, or the digests of an extent.
//!
//! Decides their layout in a frame: contents first, 15 bytes a block after them. Invariant: `Payload::read` accepts
//! what `parts` gives and refuses every other length.

use std::sync::Arc;

use crate::base::{BlockNo, Digest, ExtentNo, Pages};
use crate::wire::Message;

/// Bytes of an extent's map of written blocks.
const MAP_BYTES: usize = 128;
const DIGEST_BYTES: usize = 15;

/// Shared, so that a write is copied once for the disk, the peer and a resend.
#[derive(Clone, Default)]
pub struct Payload {
    pages: Arc<Pages>,
    /// Bytes of `pages` that count.
    len: usize,
    tail: Arc<[u8]>,
}

impl Payload {
    /// Block contents; hashes them.
    pub fn blocks(pages: Pages) -> Payload {
        let digests = Digest::of_blocks(&pages);
        Payload::checked(pages, &digests)
    }

    /// Block contents whose digests these are, by a check just now.
    pub fn checked(pages: Pages, digests: &[Digest]) -> Payload {
        let tail: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
        Payload { len: pages.len(), pages: Arc::new(pages), tail: tail.into() }
    }

    /// The digests of one extent, `None` = never written.
    pub fn digests_of(digests: &[Option<Digest>]) -> Payload {
        let mut bytes = vec![0; MAP_BYTES];
        for (index, digest) in digests.iter().enumerate() {
            if digest.is_some() && index / 8 < MAP_BYTES {
                bytes[index / 8] |= 1 << (index % 8);
            }
            bytes.extend(digest.unwrap_or_default().0);
        }
        Payload { len: bytes.len(), pages: Arc::new(Pages::copy_of(&bytes)), tail: Arc::default() }
    }

    /// The bytes as they travel, in two parts.
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.data(), &self.tail]
    }

    /// Bytes in a frame.
    pub fn wire_len(&self) -> usize {
        self.len + self.tail.len()
    }

    /// The payload that came behind `message`; `None` if it cannot belong to it.
    pub fn read(message: &Message, bytes: &[u8]) -> Option<Payload> {
        let blocks = match message {
            Message::Op { kind, count, .. } if kind.has_payload() => usize::try_from(*count).ok()?,
            Message::Block { found: true, .. } => 1,
            Message::Digests { .. } | Message::Checked { equal: false, .. } => {
                let whole = MAP_BYTES + ExtentNo::BLOCKS as usize * DIGEST_BYTES;
                let payload = || Payload {
                    pages: Arc::new(Pages::copy_of(bytes)),
                    len: bytes.len(),
                    tail: Arc::default(),
                };
                return (bytes.len() == whole || bytes.is_empty()).then(payload);
            }
            _ => return bytes.is_empty().then(Payload::default),
        };
        let len = blocks.checked_mul(BlockNo::SIZE)?;
        if bytes.len() == len {
            return Some(Payload::blocks(Pages::copy_of(bytes)));
        }
        let with_digests = len.checked_add(blocks * DIGEST_BYTES)?;
        let payload =
            || Payload { pages: Arc::new(Pages::copy_of(&bytes[..len])), len, tail: bytes[len..].into() };
        (bytes.len() == with_digests).then(payload)
    }

    /// Block contents.
    pub fn data(&self) -> &[u8] {
        &self.pages[..self.len]
    }

    /// One digest a block of `data`.
    pub fn digests(&self) -> Vec<Digest> {
        let one = |bytes: &[u8]| {
            let mut digest = Digest::default();
            digest.0.copy_from_slice(bytes);
            digest
        };
        self.tail.chunks_exact(DIGEST_BYTES).map(one).collect()
    }

    /// What `digests_of` was given.
    pub fn extent_digests(&self) -> Vec<Option<Digest>> {
        let Some((map, digests)) = self.data().split_at_checked(MAP_BYTES) else { return Vec::new() };
        let one = |(index, bytes): (usize, &[u8])| {
            let written = map.get(index / 8).is_some_and(|bits| bits & (1 << (index % 8)) != 0);
            let mut digest = Digest::default();
            digest.0.copy_from_slice(bytes);
            written.then_some(digest)
        };
        digests.chunks_exact(DIGEST_BYTES).enumerate().map(one).collect()
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Kind, Seq, Session};

    fn op(count: u64) -> Message {
        Message::Op { session: Session(1), seq: Seq(1), kind: Kind::Write, first: BlockNo(0), count }
    }

    #[test]
    fn blocks_travel_with_their_digests_and_another_length_is_refused() {
        let sent = Payload::blocks(Pages::copy_of(&[7; 8192]));
        let bytes = sent.parts().concat();
        let got = Payload::read(&op(2), &bytes).unwrap();
        assert_eq!((got.data(), got.digests()), (sent.data(), vec![Digest::of(&[7; 4096]); 2]));
        assert_eq!(Payload::read(&op(2), &bytes[..8192]).unwrap().digests(), sent.digests());
        assert!(Payload::read(&op(2), &bytes[..8200]).is_none());
        assert!(Payload::read(&op(u64::MAX), &bytes).is_none());
    }

    #[test]
    fn an_extent_travels_as_its_map_and_digests() {
        let mut digests = vec![None; 1024];
        digests[3] = Some(Digest::of(b"x"));
        let bytes = Payload::digests_of(&digests).parts().concat();
        let message = Message::Digests { session: Session(1), extent: ExtentNo(0), last: false };
        assert_eq!(Payload::read(&message, &bytes).unwrap().extent_digests(), digests);
        assert!(Payload::read(&message, &bytes[1..]).is_none());
    }
}
