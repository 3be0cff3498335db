//! A transaction of the activity log ring: which slot holds which extent, and the digests written since the last flush.
//!
//! Transactions are written in *groups*, one group a flush. Each says where its group starts, how long it is and the
//! lowest sequence a reader still needs. Besides activations every transaction restates a slice of all slots, so that
//! no slot is ever described only by a transaction about to be overwritten.

use super::codec::{Damage, Put, Take, salted};
use super::geometry::{BLOCK, RING_BLOCKS};
use crate::base::Digest;

const MAGIC: [u8; 8] = *b"twActLog";
const HEADER_BYTES: usize = 96;
/// Statements of a transaction.
pub const STATEMENTS_MAX: usize = 40;
/// Activations of a transaction; the rest of its statements restate slots in turn.
pub const ACTIVATIONS_MAX: usize = 16;
const STATEMENT_BYTES: usize = 12;
const PAIRS_AT: usize = HEADER_BYTES + STATEMENTS_MAX * STATEMENT_BYTES;
const PAIR_BYTES: usize = 24;
/// Digests of a transaction.
pub const PAIRS_MAX: usize = (BLOCK as usize - PAIRS_AT) / PAIR_BYTES;
/// Transactions of a group.
pub const GROUP_TXNS_MAX: u64 = 24;
/// How far before its own group a reader may have to look.
pub const WINDOW_TXNS: u64 = 64;
/// Most activity log slots.
pub const SLOTS_MAX: u32 = 512;
const FREE: u64 = u64::MAX;
const BLOCK_MASK: u64 = (1 << 56) - 1;

// A group being written must not overwrite what a reader needs if the group itself is lost: nor must a restart's
// group (all slots, no digests) behind a lost one.
const RESET_TXNS: u64 = (SLOTS_MAX as u64).div_ceil(STATEMENTS_MAX as u64);
const _: () = assert!(GROUP_TXNS_MAX * 2 + RESET_TXNS + WINDOW_TXNS < RING_BLOCKS);
// All slots are restated within the window.
const _: () = assert!((STATEMENTS_MAX - ACTIVATIONS_MAX) as u64 * WINDOW_TXNS >= SLOTS_MAX as u64);

/// Slot `slot` holds `extent` (or nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    pub slot: u32,
    pub extent: Option<u64>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    Written { block: u64, digest: Digest },
    Discarded { block: u64, count: u64 },
}

/// One 4 KiB transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub seq: u64,
    /// First sequence of the group and its length.
    pub first: u64,
    pub len: u32,
    /// Lowest sequence a reader needs; equal to `first` in a restart's group, which then must be complete.
    pub low: u64,
    pub statements: Vec<Statement>,
    pub pairs: Vec<Pair>,
}

impl Transaction {
    pub fn encode(&self, salt: u128) -> Vec<u8> {
        let mut put = Put::with_capacity(BLOCK as usize);
        put.bytes(&[0; 32]).bytes(&MAGIC).u64(self.seq).u64(self.first).u64(self.low).u32(self.len);
        put.u16(self.statements.len() as u16).u16(self.pairs.len() as u16).pad_to(HEADER_BYTES);
        for statement in &self.statements {
            put.u32(statement.slot).u64(statement.extent.unwrap_or(FREE));
        }
        put.pad_to(PAIRS_AT);
        for pair in &self.pairs {
            match pair {
                Pair::Written { block, digest } => put.u64(*block).bytes(&digest.0).u8(0),
                Pair::Discarded { block, count } => put.u64(*block | 1 << 56).u64(*count).u64(0),
            };
        }
        put.pad_to(BLOCK as usize);
        let mut bytes = put.done();
        let hash = salted(salt, &[&bytes[32..]]);
        bytes[..32].copy_from_slice(&hash);
        bytes
    }

    /// Checks against the number of slots and blocks of the image.
    pub fn decode(bytes: &[u8], salt: u128, slots: u32, blocks: u64) -> Result<Transaction, Damage> {
        let mut take = Take::new(bytes);
        let hash = take.array::<32>()?;
        if bytes.len() != BLOCK as usize || take.array::<8>()? != MAGIC {
            return Err(Damage("no activity log transaction"));
        }
        if salted(salt, &[&bytes[32..]]) != hash {
            return Err(Damage("the transaction's hash does not match"));
        }
        let (seq, first, low, len) = (take.u64()?, take.u64()?, take.u64()?, take.u32()?);
        let (statement_count, pair_count) = (usize::from(take.u16()?), usize::from(take.u16()?));
        take.zeros(HEADER_BYTES - 72)?;
        let last = first.checked_add(len.into()).ok_or(Damage("impossible sequence"))?;
        if len == 0 || u64::from(len) > GROUP_TXNS_MAX || seq < first || seq >= last || low > first {
            return Err(Damage("impossible sequence"));
        }
        if statement_count > STATEMENTS_MAX || pair_count > PAIRS_MAX {
            return Err(Damage("impossible counts in a transaction"));
        }
        let mut area = Take::new(take.bytes(STATEMENTS_MAX * STATEMENT_BYTES)?);
        let mut statements = Vec::with_capacity(statement_count);
        for _ in 0..statement_count {
            let (slot, extent) = (area.u32()?, area.u64()?);
            if slot >= slots || (extent != FREE && extent >= blocks / 1024) {
                return Err(Damage("a slot or extent that does not exist"));
            }
            statements.push(Statement { slot, extent: (extent != FREE).then_some(extent) });
        }
        area.end()?;
        let pairs = (0..pair_count).map(|_| decode_pair(&mut take, blocks)).collect::<Result<Vec<_>, _>>()?;
        take.end()?;
        Ok(Transaction { seq, first, len, low, statements, pairs })
    }
}

fn decode_pair(take: &mut Take<'_>, blocks: u64) -> Result<Pair, Damage> {
    let word = take.u64()?;
    let block = word & BLOCK_MASK;
    let pair = match word >> 56 {
        0 => {
            let digest = Digest(take.array()?);
            take.zeros(1)?;
            Pair::Written { block, digest }
        }
        1 => {
            let count = take.u64()?;
            take.zeros(8)?;
            if count == 0 || count > 1024 || block % 1024 + count > 1024 {
                return Err(Damage("an impossible discard"));
            }
            Pair::Discarded { block, count }
        }
        _ => return Err(Damage("an unknown kind of pair")),
    };
    match block < blocks {
        true => Ok(pair),
        false => Err(Damage("a block that does not exist")),
    }
}
