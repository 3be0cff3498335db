//! Little-endian reading and writing of plain numbers, and the reasons why bytes are refused.

use crate::base::{Generation, NodeId, Record};

/// Why bytes from a link were refused. The session is closed; nothing else changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the message is shorter than it says")]
    Short,
    #[error("{0} bytes are left over behind the message")]
    Long(usize),
    #[error("this is not a twinfs message")]
    Magic,
    #[error("the peer speaks versions {min} to {max}, this node {ours}: update the older one")]
    Version { min: u8, max: u8, ours: u8 },
    #[error("unknown message type {0}")]
    Type(u8),
    #[error("field {0} has a value without meaning")]
    Value(&'static str),
    #[error("field {0} is larger than allowed")]
    TooMany(&'static str),
    #[error("the authentication code is wrong: a foreign or old key, or a damaged packet")]
    Mac,
}

/// No record was changed so often: whoever adopts a number must be able to count on from it.
const V_MAX: u64 = 1 << 62;

pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(super) fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Length prefix of a list; the lists of the machines are far below the limit of 16 bits.
    pub(super) fn len(&mut self, len: usize) {
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
    }
    /// 10 bytes: v, members (0 = no record), primary.
    pub(super) fn record(&mut self, record: Option<Record>) {
        self.u64(record.map_or(0, |r| r.v));
        self.u8(record.map_or(0, |r| r.members.bits()));
        self.u8(record.map_or(0, |r| r.primary.index()));
    }
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refused> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Refused::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        self.bytes(N)?.try_into().map_err(|_| Refused::Short)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Refused> {
        Ok(self.array::<1>()?[0])
    }
    pub(super) fn u16(&mut self) -> Result<u16, Refused> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(super) fn u32(&mut self) -> Result<u32, Refused> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(super) fn u64(&mut self) -> Result<u64, Refused> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(super) fn u128(&mut self) -> Result<u128, Refused> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, Refused> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Refused::Value(field)),
        }
    }

    pub(super) fn node(&mut self) -> Result<NodeId, Refused> {
        NodeId::from_index(self.u8()?).ok_or(Refused::Value("node"))
    }

    pub(super) fn generation(&mut self) -> Result<Generation, Refused> {
        Ok(Generation(self.u128()?))
    }

    /// A list length, refused above `max` before anything is allocated.
    pub(super) fn len(&mut self, max: usize, field: &'static str) -> Result<usize, Refused> {
        let len = usize::try_from(self.u32()?).map_err(|_| Refused::TooMany(field))?;
        if len > max { Err(Refused::TooMany(field)) } else { Ok(len) }
    }

    pub(super) fn record(&mut self) -> Result<Option<Record>, Refused> {
        let v = self.u64()?;
        if v > V_MAX {
            return Err(Refused::Value("v"));
        }
        let bits = self.u8()?;
        let primary = self.node()?;
        match crate::base::Members::from_bits(bits) {
            Some(members) => Ok(Some(Record { v, members, primary })),
            None if bits == 0 && v == 0 && primary == NodeId::A => Ok(None),
            None => Err(Refused::Value("members")),
        }
    }

    pub(super) fn some_record(&mut self) -> Result<Record, Refused> {
        self.record()?.ok_or(Refused::Value("record"))
    }

    pub(super) fn end(self) -> Result<(), Refused> {
        if self.0.is_empty() { Ok(()) } else { Err(Refused::Long(self.0.len())) }
    }
}
