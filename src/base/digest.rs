//! The digest of a block: the first 15 bytes of its BLAKE3. Whether a block was ever written is a separate bit,
//! never a magic digest.
//!
//! Decides how many blocks are hashed side by side. Invariant: `of_blocks` gives what `of` gives for each block.

use std::fmt;

use blake3::IncrementCounter;
use blake3::platform::Platform;

const BLOCK: usize = 4096;
/// Bytes of a leaf of BLAKE3's tree; a block has four.
const LEAF: usize = 1024;
/// Bytes of a chaining value, and of a parent's input: two of them.
const VALUE: usize = 32;
const PAIR: usize = 2 * VALUE;
/// Blocks hashed side by side: the widest instructions take 16 leaves at once.
const LANES: usize = 16;
/// Fewer go one by one: four leaves of one block are as many lanes.
const LANES_MIN: usize = 5;

/// The initial value and the flags of BLAKE3's specification.
const IV: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;

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

    /// Digests of whole blocks, one after the other. A tree of four leaves leaves most of a wide register empty, so
    /// the same leaf of several blocks is hashed at once.
    pub fn of_blocks(data: &[u8]) -> Vec<Digest> {
        let (blocks, _) = data.as_chunks::<BLOCK>();
        let mut out = Vec::with_capacity(blocks.len());
        let platform = Platform::detect();
        for group in blocks.chunks(LANES) {
            if group.len() < LANES_MIN {
                out.extend(group.iter().map(|block| Digest::of(block)));
            } else {
                side_by_side(platform, group, &mut out);
            }
        }
        out
    }
}

/// Up to `LANES` blocks: first their leaves, then the two levels above them.
fn side_by_side(platform: Platform, blocks: &[[u8; BLOCK]], out: &mut Vec<Digest>) {
    let count = blocks.len();
    // Values of leaf n of all blocks stand together, so that two levels later the order is that of the blocks.
    let mut leaves = [0; 4 * LANES * VALUE];
    for (leaf, values) in leaves.chunks_exact_mut(LANES * VALUE).enumerate() {
        let empty = &[0; LEAF];
        let mut inputs = [empty; LANES];
        for (input, block) in inputs.iter_mut().zip(blocks) {
            *input = &block.as_chunks::<LEAF>().0[leaf];
        }
        platform.hash_many(
            &inputs[..count],
            &IV,
            leaf as u64,
            IncrementCounter::No,
            0,
            CHUNK_START,
            CHUNK_END,
            &mut values[..count * VALUE],
        );
    }
    let mut middle = [0; 2 * LANES * VALUE];
    for (two, values) in leaves.chunks_exact(2 * LANES * VALUE).zip(middle.chunks_exact_mut(LANES * VALUE)) {
        join(platform, two, count, PARENT, values);
    }
    let mut roots = [0; LANES * VALUE];
    join(platform, &middle, count, PARENT | ROOT, &mut roots);
    for root in roots.chunks_exact(VALUE).take(count) {
        let mut digest = Digest::default();
        digest.0.copy_from_slice(&root[..15]);
        out.push(digest);
    }
}

/// One level up: the left values of all blocks stand before the right ones.
fn join(platform: Platform, values: &[u8], count: usize, flags: u8, out: &mut [u8]) {
    let (left, right) = values.split_at(LANES * VALUE);
    let mut pairs = [[0; PAIR]; LANES];
    let sides = left.chunks_exact(VALUE).zip(right.chunks_exact(VALUE));
    for (pair, (left, right)) in pairs.iter_mut().zip(sides) {
        pair[..VALUE].copy_from_slice(left);
        pair[VALUE..].copy_from_slice(right);
    }
    let inputs: [&[u8; PAIR]; LANES] = pairs.each_ref();
    let out = &mut out[..count * VALUE];
    platform.hash_many(&inputs[..count], &IV, 0, IncrementCounter::No, flags, 0, 0, out);
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hashed_side_by_side_have_the_digests_that_they_have_alone() {
        let mut dice = 1_u64;
        let mut data = vec![0; 40 * BLOCK];
        for byte in &mut data {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (dice >> 56) as u8;
        }
        for count in 0..=40 {
            let part = &data[..count * BLOCK];
            let alone: Vec<Digest> = part.chunks(BLOCK).map(Digest::of).collect();
            assert_eq!(Digest::of_blocks(part), alone, "{count} blocks");
        }
    }
}
