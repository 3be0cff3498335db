//! A superblock slot: state, geometry, feature bits, and one bit a group that says whether the group was written.
//!
//! Two slots are written in turn; the valid one with the higher sequence counts. A torn slot fails its hash.

use super::codec::{Damage, Put, Take, salted};
use super::geometry::Geometry;
use super::state::State;
use super::undo::UndoHead;
use crate::base::limits;

const MAGIC: [u8; 8] = *b"twSuperB";
/// Incarnations of replaced copies that are remembered.
pub const RETIRED_MAX: usize = 64;
const HEADER_BYTES: usize = 256;
/// Room for the state.
pub const STATE_AREA_BYTES: usize = 8192 - HEADER_BYTES;
const GEN_BYTES: usize = 40;
const STATE_FIXED_BYTES: usize = 136 + 16 + 56;
const _: () = assert!(
    STATE_FIXED_BYTES + GEN_BYTES * limits::GENERATIONS_MAX + 16 * RETIRED_MAX <= STATE_AREA_BYTES,
    "the largest state fits its area"
);

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub seq: u64,
    /// Features an older program may ignore, may only read, must refuse.
    pub compatible: u64,
    pub read_only: u64,
    pub refuse: u64,
    pub geometry: Geometry,
    pub undo: UndoHead,
    pub state: State,
    /// One bit a group, `group_count().div_ceil(8)` bytes.
    pub groups: Vec<u8>,
}

impl Superblock {
    /// The slot's bytes, or what does not fit.
    pub fn encode(&self, salt: u128) -> Result<Vec<u8>, Damage> {
        if self.state.gens.len() > limits::GENERATIONS_MAX {
            return Err(Damage("too many generations"));
        }
        if self.state.retired.len() > RETIRED_MAX {
            return Err(Damage("too many retired incarnations of the peer"));
        }
        let mut put = Put::with_capacity(self.geometry.slot_bytes as usize);
        put.bytes(&[0; 32]).bytes(&MAGIC).u64(self.seq);
        put.u64(self.compatible).u64(self.read_only).u64(self.refuse);
        self.geometry.encode(&mut put);
        self.undo.encode(&mut put);
        put.pad_to(HEADER_BYTES);
        self.state.encode(&mut put);
        put.pad_to(HEADER_BYTES + STATE_AREA_BYTES)
            .bytes(&self.groups)
            .pad_to(self.geometry.slot_bytes as usize);
        let mut bytes = put.done();
        let hash = salted(salt, &[&bytes[32..]]);
        bytes[..32].copy_from_slice(&hash);
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8], salt: u128) -> Result<Superblock, Damage> {
        let mut take = Take::new(bytes);
        let hash = take.array::<32>()?;
        if bytes.get(32..40) != Some(&MAGIC[..]) {
            return Err(Damage("no superblock"));
        }
        if salted(salt, &[&bytes[32..]]) != hash {
            return Err(Damage("the superblock's hash does not match"));
        }
        take.bytes(8)?;
        let seq = take.u64()?;
        let (compatible, read_only, refuse) = (take.u64()?, take.u64()?, take.u64()?);
        let geometry = Geometry::decode(&mut take)?;
        let undo = UndoHead::decode(&mut take)?;
        take.zeros(HEADER_BYTES - 72 - Geometry::BYTES - UndoHead::BYTES)?;
        let mut area = Take::new(take.bytes(STATE_AREA_BYTES)?);
        let state = State::decode(&mut area)?;
        area.end()?;
        let groups = take.bytes(geometry.group_count().div_ceil(8) as usize)?.to_vec();
        take.end()?;
        if geometry.slot_bytes as usize != bytes.len() {
            return Err(Damage("the superblock has another size than it says"));
        }
        Ok(Superblock { seq, compatible, read_only, refuse, geometry, undo, state, groups })
    }
}
