//! The bytes of a `State` in a superblock slot.
//!
//! Invariant: decoding what was encoded gives the same value; anything out of range is refused.

use super::codec::{Damage, Put, Take};
use super::state::{Apart, GenEntry, GenReason, ResyncMark, Since, State, Verdict};
use super::superblock::RETIRED_MAX;
use crate::base::{Generation, Members, NodeId, Record, VolumeId, limits};

const FULL: u8 = 1;
const HAS_RECORD: u8 = 2;
const IS_TARGET: u8 = 4;
const DIVERGED: u8 = 8;
const LED: u8 = 16;
const HAS_VERDICT: u8 = 32;
const HAS_SINCE: u8 = 64;

impl GenReason {
    fn code(self) -> u8 {
        match self {
            GenReason::Made => 1,
            GenReason::WentSolo => 2,
            GenReason::Forced => 3,
            GenReason::Standalone => 4,
            GenReason::WentBack => 5,
            GenReason::PeerDisk => 6,
        }
    }

    fn from_code(code: u8) -> Result<GenReason, Damage> {
        match code {
            1 => Ok(GenReason::Made),
            2 => Ok(GenReason::WentSolo),
            3 => Ok(GenReason::Forced),
            4 => Ok(GenReason::Standalone),
            5 => Ok(GenReason::WentBack),
            6 => Ok(GenReason::PeerDisk),
            _ => Err(Damage("unknown reason of a generation")),
        }
    }
}

fn node(index: u8) -> Result<NodeId, Damage> {
    NodeId::from_index(index).ok_or(Damage("unknown node"))
}

impl State {
    pub(super) fn encode(&self, put: &mut Put) {
        let target = match self.resync {
            ResyncMark::None => None,
            ResyncMark::Target { of } => Some(of),
        };
        let flags = if self.full { FULL } else { 0 }
            | if self.record.is_some() { HAS_RECORD } else { 0 }
            | if target.is_some() { IS_TARGET } else { 0 }
            | if self.diverged { DIVERGED } else { 0 }
            | if self.apart.led { LED } else { 0 }
            | if self.apart.since != Since::Unknown { HAS_SINCE } else { 0 }
            | if self.apart.verdict.is_some() { HAS_VERDICT } else { 0 };
        let record = self.record.unwrap_or(Record { v: 0, members: Members::BOTH, primary: NodeId::A });
        put.u128(self.volume.0).u128(self.incarnation).u8(self.node.index()).u8(flags);
        put.u8(record.members.bits()).u8(record.primary.index()).u32(0).u64(record.v);
        put.u128(self.bitmap_base.0).u128(target.unwrap_or_default().0);
        put.u64(self.boot_epoch).u64(self.peer_boot_epoch).u128(self.witness_incarnation);
        put.u32(self.gens.len() as u32).u32(self.retired.len() as u32);
        for gen_entry in &self.gens {
            put.u128(gen_entry.id.0).u64(gen_entry.at_v).u64(gen_entry.first_txn);
            put.u8(gen_entry.minted_by.index()).u8(gen_entry.reason.code()).bytes(&[0; 6]);
        }
        for retired in &self.retired {
            put.u128(*retired);
        }
        match self.apart.since {
            Since::Unknown => {}
            Since::Untouched => drop(put.u64(0).u64(0)),
            Since::From { txn, ino } => drop(put.u64(txn).u64(ino)),
        }
        if let Some(verdict) = &self.apart.verdict {
            put.u64(verdict.number).u8(verdict.winner.index()).bytes(&[0; 7]);
            put.u128(verdict.heads[0].0).u128(verdict.heads[1].0).u64(verdict.done);
        }
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<State, Damage> {
        let (volume, incarnation) = (VolumeId(take.u128()?), take.u128()?);
        let (own, flags) = (node(take.u8()?)?, take.u8()?);
        let members = Members::from_bits(take.u8()?).ok_or(Damage("impossible in-sync set"))?;
        let primary = node(take.u8()?)?;
        take.zeros(4)?;
        let record = Record { v: take.u64()?, members, primary };
        let (bitmap_base, target) = (Generation(take.u128()?), Generation(take.u128()?));
        let (boot_epoch, peer_boot_epoch) = (take.u64()?, take.u64()?);
        let witness_incarnation = take.u128()?;
        let (gen_count, retired_count) = (take.u32()? as usize, take.u32()? as usize);
        if flags & !(FULL | HAS_RECORD | IS_TARGET | DIVERGED | LED | HAS_SINCE | HAS_VERDICT) != 0 {
            return Err(Damage("unknown flags in the state"));
        }
        if gen_count > limits::GENERATIONS_MAX || retired_count > RETIRED_MAX {
            return Err(Damage("more generations than can be"));
        }
        let gens = (0..gen_count).map(|_| decode_gen(take)).collect::<Result<Vec<_>, _>>()?;
        let retired = (0..retired_count).map(|_| take.u128()).collect::<Result<Vec<_>, _>>()?;
        let since = match flags & HAS_SINCE {
            0 => Since::Unknown,
            _ => match (take.u64()?, take.u64()?) {
                (0, 0) => Since::Untouched,
                (0, _) => return Err(Damage("an impossible beginning of a copy's own changes")),
                (txn, ino) => Since::From { txn, ino },
            },
        };
        let verdict = if flags & HAS_VERDICT != 0 { Some(decode_verdict(take)?) } else { None };
        Ok(State {
            volume,
            node: own,
            incarnation,
            record: (flags & HAS_RECORD != 0).then_some(record),
            gens,
            bitmap_base,
            full: flags & FULL != 0,
            resync: if flags & IS_TARGET != 0 { ResyncMark::Target { of: target } } else { ResyncMark::None },
            diverged: flags & DIVERGED != 0,
            apart: Apart { led: flags & LED != 0, since, verdict },
            boot_epoch,
            peer_boot_epoch,
            retired,
            witness_incarnation,
        })
    }
}

fn decode_gen(take: &mut Take<'_>) -> Result<GenEntry, Damage> {
    let (id, at_v, first_txn) = (Generation(take.u128()?), take.u64()?, take.u64()?);
    let (minted_by, reason) = (node(take.u8()?)?, GenReason::from_code(take.u8()?)?);
    take.zeros(6)?;
    Ok(GenEntry { id, minted_by, at_v, reason, first_txn })
}

fn decode_verdict(take: &mut Take<'_>) -> Result<Verdict, Damage> {
    let (number, winner) = (take.u64()?, node(take.u8()?)?);
    take.zeros(7)?;
    let heads = [Generation(take.u128()?), Generation(take.u128()?)];
    Ok(Verdict { number, winner, heads, done: take.u64()? })
}
