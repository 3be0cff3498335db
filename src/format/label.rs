//! The label in the first sector (and in a copy at 32 KiB): what file(1), blkid and `open` find first.
//!
//! Decides where the superblock slots are found. Fits one 512-byte sector, so that a power cut leaves the old or the
//! new one: rewriting it is the moment at which moved metadata (`grow`) becomes the valid one.

use super::codec::{Damage, Put, Take, salted};

/// Version of everything in this module.
pub const FORMAT_VERSION: u32 = 1;
pub const LABEL_BYTES: usize = 512;
/// Offsets of the label and of its copy.
pub const LABEL_COPIES: [u64; 2] = [0, 32_768];
/// Longest label text in bytes.
pub const LABEL_TEXT_MAX: usize = 63;
const MAGIC: [u8; 8] = *b"TWINFS\r\n";

/// The first thing read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub version: u32,
    pub uuid: u128,
    /// Salt of every hash on the image.
    pub incarnation: u128,
    pub text: String,
    /// Bytes that the image needs.
    pub image_bytes: u64,
    pub slots: [u64; 2],
    pub slot_bytes: u32,
}

impl Label {
    pub fn encode(&self) -> [u8; LABEL_BYTES] {
        let mut put = Put::with_capacity(LABEL_BYTES);
        put.bytes(&MAGIC).u32(self.version).u32(self.slot_bytes).bytes(&self.uuid.to_be_bytes());
        put.u128(self.incarnation).u64(self.image_bytes).u64(self.slots[0]).u64(self.slots[1]);
        let text = self.text.as_bytes();
        put.bytes(&text[..text.len().min(LABEL_TEXT_MAX)])
            .pad_to(72 + LABEL_TEXT_MAX + 1)
            .pad_to(LABEL_BYTES - 32);
        let mut out = [0; LABEL_BYTES];
        out[..LABEL_BYTES - 32].copy_from_slice(&put.done());
        let hash = salted(0, &[&out[..LABEL_BYTES - 32]]);
        out[LABEL_BYTES - 32..].copy_from_slice(&hash);
        out
    }

    /// Whether the bytes claim to be a label, whatever their version.
    pub fn has_magic(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// The version the bytes claim.
    pub fn claimed_version(bytes: &[u8]) -> Option<u32> {
        let mut take = Take::new(bytes);
        take.array::<8>().ok().filter(|magic| *magic == MAGIC)?;
        take.u32().ok()
    }

    pub fn decode(bytes: &[u8]) -> Result<Label, Damage> {
        let body = bytes.get(..LABEL_BYTES - 32).ok_or(Damage("label is too short"))?;
        let hash = bytes.get(LABEL_BYTES - 32..LABEL_BYTES).ok_or(Damage("label is too short"))?;
        let mut take = Take::new(body);
        if take.array::<8>()? != MAGIC {
            return Err(Damage("no twinfs label"));
        }
        if salted(0, &[body]) != hash {
            return Err(Damage("the label's hash does not match"));
        }
        let version = take.u32()?;
        let slot_bytes = take.u32()?;
        let uuid = u128::from_be_bytes(take.array()?);
        let (incarnation, image_bytes) = (take.u128()?, take.u64()?);
        let slots = [take.u64()?, take.u64()?];
        let text = take.bytes(LABEL_TEXT_MAX + 1)?;
        let text_len = text.iter().position(|b| *b == 0).ok_or(Damage("label text has no end"))?;
        let text = std::str::from_utf8(&text[..text_len])
            .map_err(|_| Damage("label text is not UTF-8"))?
            .to_string();
        take.end()?;
        let fits = |at: u64| {
            at.is_multiple_of(4096) && at.checked_add(slot_bytes.into()).is_some_and(|e| e <= image_bytes)
        };
        if !(4096..=1 << 24).contains(&slot_bytes)
            || !slot_bytes.is_multiple_of(4096)
            || !slots.iter().all(|s| fits(*s))
        {
            return Err(Damage("the label's slots lie outside the image"));
        }
        Ok(Label { version, uuid, incarnation, text, image_bytes, slots, slot_bytes })
    }
}
