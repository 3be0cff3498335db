//! The digest page of an extent: 1 KiB header (written map, hash) and 1024 digests of 15 bytes.
//!
//! The first sector has a hash of its own and holds the maps: after a power cut it is the old or the new one, never a
//! mixture, so "never written" is never read out of a torn page. The digests behind it may be a mixture of two flushed
//! states; what differs between the two is in the activity log ring.

use super::codec::{Damage, Put, Take, salted};
use super::geometry::PAGE_BYTES;
use crate::base::Digest;

const MAGIC: [u8; 8] = *b"twDigest";
const HEADER_BYTES: usize = 1024;
const SEALED_BYTES: usize = 512;
const BLOCKS: usize = 1024;
/// Flag: the extent was hot at a crash and its blocks were not compared with their digests since.
pub const PAGE_UNCHECKED: u32 = 1;

const _: () = assert!(HEADER_BYTES + BLOCKS * 15 == PAGE_BYTES);

/// What is known of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRec {
    /// Never written, or discarded: reads as zeros.
    Unwritten,
    Written(Digest),
    /// The page was damaged: neither content nor "unwritten" can be vouched for.
    Unknown,
}

/// How much of a decoded page can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCheck {
    Whole,
    /// The header is right, the digests are a mixture.
    Torn,
}

/// A digest page in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestPage {
    pub sequence: u64,
    pub flags: u32,
    written: [u64; 16],
    unknown: [u64; 16],
    digests: Vec<Digest>,
}

impl Default for DigestPage {
    fn default() -> DigestPage {
        DigestPage {
            sequence: 0,
            flags: 0,
            written: [0; 16],
            unknown: [0; 16],
            digests: vec![Digest::default(); BLOCKS],
        }
    }
}

impl DigestPage {
    /// A page of which nothing is known.
    pub fn unknown() -> DigestPage {
        DigestPage { unknown: [u64::MAX; 16], ..DigestPage::default() }
    }

    pub fn get(&self, index: usize) -> BlockRec {
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        if self.unknown[word] & bit != 0 {
            BlockRec::Unknown
        } else if self.written[word] & bit != 0 {
            BlockRec::Written(self.digests[index])
        } else {
            BlockRec::Unwritten
        }
    }

    pub fn set(&mut self, index: usize, rec: BlockRec) {
        let (word, bit) = (index / 64, 1u64 << (index % 64));
        self.unknown[word] &= !bit;
        self.written[word] &= !bit;
        self.digests[index] = Digest::default();
        match rec {
            BlockRec::Unwritten => {}
            BlockRec::Written(digest) => {
                self.written[word] |= bit;
                self.digests[index] = digest;
            }
            BlockRec::Unknown => self.unknown[word] |= bit,
        }
    }

    /// Every block that claims to be unwritten becomes unknown: the page is not the one that belongs here.
    pub fn distrust_unwritten(&mut self) {
        for (unknown, written) in self.unknown.iter_mut().zip(self.written) {
            *unknown |= !written;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.written == [0; 16] && self.unknown == [0; 16]
    }

    pub fn has_unknown(&self) -> bool {
        self.unknown != [0; 16]
    }

    /// Written blocks, unknown ones included.
    pub fn used_map(&self) -> [u64; 16] {
        std::array::from_fn(|word| self.written[word] | self.unknown[word])
    }

    /// Equal for pages with equal maps and digests, whatever image they lie on.
    pub fn content_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for word in self.written.iter().chain(&self.unknown) {
            hasher.update(&word.to_le_bytes());
        }
        hasher.update(&self.digest_bytes());
        *hasher.finalize().as_bytes()
    }

    /// First bytes of the content hash, as kept in the summary.
    pub fn summary_hash(&self) -> [u8; 15] {
        let mut out = [0; 15];
        out.copy_from_slice(&self.content_hash()[..15]);
        out
    }

    fn digest_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCKS * 15);
        for digest in &self.digests {
            out.extend_from_slice(&digest.0);
        }
        out
    }

    pub fn encode(&self, salt: u128, extent: u64) -> Vec<u8> {
        let mut put = Put::with_capacity(PAGE_BYTES);
        put.bytes(&MAGIC).u64(extent).u64(self.sequence).u32(self.flags).u32(0).bytes(&self.content_hash());
        for word in self.written.iter().chain(&self.unknown) {
            put.u64(*word);
        }
        put.pad_to(SEALED_BYTES - 32);
        let sealed = put.done();
        let hash = salted(salt, &[&sealed]);
        put.bytes(&sealed).bytes(&hash).pad_to(HEADER_BYTES).bytes(&self.digest_bytes());
        put.done()
    }

    /// The page of `extent`; an error if the first sector is not a page of this image and extent.
    pub fn decode(bytes: &[u8], salt: u128, extent: u64) -> Result<(DigestPage, PageCheck), Damage> {
        if bytes.len() != PAGE_BYTES {
            return Err(Damage("a digest page of a wrong length"));
        }
        let mut take = Take::new(&bytes[..SEALED_BYTES - 32]);
        if take.array::<8>()? != MAGIC {
            return Err(Damage("no digest page"));
        }
        if salted(salt, &[&bytes[..SEALED_BYTES - 32]]) != bytes[SEALED_BYTES - 32..SEALED_BYTES] {
            return Err(Damage("the digest page's header hash does not match"));
        }
        if take.u64()? != extent {
            return Err(Damage("a digest page of another extent"));
        }
        let (sequence, flags) = (take.u64()?, take.u32()?);
        take.zeros(4)?;
        let content = take.array::<32>()?;
        let mut page = DigestPage { sequence, flags, ..DigestPage::default() };
        for word in page.written.iter_mut().chain(page.unknown.iter_mut()) {
            *word = take.u64()?;
        }
        take.end()?;
        if flags & !PAGE_UNCHECKED != 0 {
            return Err(Damage("unknown flags in a digest page"));
        }
        for (digest, raw) in page.digests.iter_mut().zip(bytes[HEADER_BYTES..].chunks_exact(15)) {
            digest.0.copy_from_slice(raw);
        }
        let whole =
            page.content_hash() == content && bytes[SEALED_BYTES..HEADER_BYTES].iter().all(|b| *b == 0);
        Ok((page, if whole { PageCheck::Whole } else { PageCheck::Torn }))
    }
}
