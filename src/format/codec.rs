//! Little-endian writing and checked reading of fixed fields.
//!
//! Decides nothing about meaning. Invariant: a reader never goes beyond its bytes and says what was wrong.

/// What is wrong with bytes from disk, for the administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damage(pub &'static str);

/// Appends fields.
#[derive(Default)]
pub struct Put(Vec<u8>);

impl Put {
    pub fn with_capacity(bytes: usize) -> Put {
        Put(Vec::with_capacity(bytes))
    }
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Put {
        self.0.extend_from_slice(bytes);
        self
    }
    pub fn u8(&mut self, value: u8) -> &mut Put {
        self.bytes(&[value])
    }
    pub fn u16(&mut self, value: u16) -> &mut Put {
        self.bytes(&value.to_le_bytes())
    }
    pub fn u32(&mut self, value: u32) -> &mut Put {
        self.bytes(&value.to_le_bytes())
    }
    pub fn u64(&mut self, value: u64) -> &mut Put {
        self.bytes(&value.to_le_bytes())
    }
    pub fn u128(&mut self, value: u128) -> &mut Put {
        self.bytes(&value.to_le_bytes())
    }
    /// Zeros up to `len` bytes in all.
    pub fn pad_to(&mut self, len: usize) -> &mut Put {
        debug_assert!(self.0.len() <= len, "fields outgrew their place");
        self.0.resize(len, 0);
        self
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Reads fields from the front.
pub struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    pub fn new(bytes: &'a [u8]) -> Take<'a> {
        Take(bytes)
    }
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Damage("too short"))?;
        self.0 = rest;
        Ok(head)
    }
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Damage("too short"))?;
        self.0 = rest;
        Ok(*head)
    }
    pub fn u8(&mut self) -> Result<u8, Damage> {
        Ok(self.array::<1>()?[0])
    }
    pub fn u16(&mut self) -> Result<u16, Damage> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }
    pub fn u128(&mut self) -> Result<u128, Damage> {
        self.array().map(u128::from_le_bytes)
    }
    /// `len` bytes that must be zero.
    pub fn zeros(&mut self, len: usize) -> Result<(), Damage> {
        match self.bytes(len)?.iter().all(|b| *b == 0) {
            true => Ok(()),
            false => Err(Damage("reserved bytes are not zero")),
        }
    }
    /// The rest must be zero.
    pub fn end(&mut self) -> Result<(), Damage> {
        self.zeros(self.0.len())
    }
}

/// BLAKE3 of `parts`, salted with the image's incarnation.
pub(super) fn salted(salt: u128, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
