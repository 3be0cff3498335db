//! The digest of a block: the first 15 bytes of its BLAKE3. Whether a block was ever written is a separate bit,
//! never a magic digest.

use std::fmt;

/// First 15 bytes of BLAKE3 of one 4 KiB block.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 15]);

impl Digest {
    /// Digest of `block` (any length; callers hand in 4096 bytes).
    pub fn of(block: &[u8]) -> Digest {
        let hash = blake3::hash(block);
        let mut out = [0u8; 15];
        out.copy_from_slice(&hash.as_bytes()[..15]);
        Digest(out)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
