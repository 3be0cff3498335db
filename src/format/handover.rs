//! What a process leaves its successor that goes on with its mounts: see `mount` for what it is for.
//!
//! Decides where each byte lies. Does not know descriptors, kernels or who reads it. Invariants: whatever the bytes,
//! decoding ends in a value or an error and takes no more memory than a small multiple of them; another version is told
//! from damage; what is decoded encodes to the same bytes.

use super::codec::{Damage, Put, Take};

/// Grows with every change that an older or a newer program would misread, and when a program no longer serves a mount
/// as its predecessor agreed on it with the kernel.
pub const HANDOVER_VERSION: u16 = 1;
/// Longest encoding: room for more than a hundred million inodes that the kernel holds.
pub const HANDOVER_BYTES_MAX: usize = 256 << 20;
/// Inodes whose counts lie together.
pub const HELD_GROUP: u64 = 16;

const MAGIC: &[u8; 8] = b"twinfsHO";
const HASH_BYTES: usize = 32;
const HASH_CONTEXT: &str = "twinfs 2026-11 handover";
/// Longest piece of text or greeting in it.
const PIECE_BYTES_MAX: usize = 4096;
const MOUNTS_MAX: usize = 1024;

/// How often the kernel looked at each inode and did not forget it. Numbers ascend in both lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Inode number / `HELD_GROUP` -> counts of that many inodes, at most 255.
    pub groups: Vec<(u64, [u8; HELD_GROUP as usize])>,
    /// Inode number -> what a full byte has no room for, never 0.
    pub more: Vec<(u64, u64)>,
}

/// One mount, and what it stood on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptMount {
    /// Of the volume; empty for an image without a pair.
    pub name: String,
    /// Paths as bytes, both absolute.
    pub image: Vec<u8>,
    pub dir: Vec<u8>,
    /// Open descriptors: /dev/fuse, and the lock on the image.
    pub device: u32,
    pub lock: u32,
    /// Minor number of the mount's device.
    pub minor: u32,
    /// The first message of the kernel with what both agreed on in it, and the answer that it got.
    pub greeting: Vec<u8>,
    pub answer: Vec<u8>,
    pub read_only: bool,
    pub dir_sync: bool,
    /// When reads move the access time: 0 relative, 1 never, 2 always; 4 more: not that of directories.
    pub atime: u8,
    /// From when the lease counts, on the boot-time clock in nanoseconds; `None`: there was none.
    pub lease_from: Option<u64>,
    pub held: Held,
}

/// Everything that one process leaves to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Version of the program that wrote it, for people.
    pub from: String,
    /// How often mounts were handed on before and with this.
    pub count: u32,
    /// When requests began to wait, on the boot-time clock in nanoseconds.
    pub paused_at: u64,
    /// Open descriptor: the lock on the run directory of a daemon.
    pub run_lock: Option<u32>,
    pub mounts: Vec<KeptMount>,
}

/// Why there is no state to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    #[error("it has version {0}, and this program reads version {HANDOVER_VERSION}")]
    Version(u16),
    #[error("it is damaged: {0}")]
    Damage(#[from] Damage),
    #[error("it would be larger than {} MiB: the kernel holds too many inodes", HANDOVER_BYTES_MAX >> 20)]
    TooLarge,
}

impl Held {
    fn encode(&self, put: &mut Put) {
        put.u64(self.groups.len() as u64);
        for (number, counts) in &self.groups {
            put.u64(*number).bytes(counts);
        }
        put.u64(self.more.len() as u64);
        for (ino, count) in &self.more {
            put.u64(*ino).u64(*count);
        }
    }

    fn decode(take: &mut Take<'_>) -> Result<Held, Damage> {
        let mut held = Held::default();
        for _ in 0..take.u64()? {
            let (number, counts) = (take.u64()?, take.array()?);
            if held.groups.last().is_some_and(|(before, _)| *before >= number)
                || number > u64::MAX / HELD_GROUP
                || counts == [0; HELD_GROUP as usize]
            {
                return Err(Damage("counts of inodes out of order"));
            }
            held.groups.push((number, counts));
        }
        for _ in 0..take.u64()? {
            let (ino, count) = (take.u64()?, take.u64()?);
            let group = held.groups.binary_search_by_key(&(ino / HELD_GROUP), |(number, _)| *number);
            let full = group.is_ok_and(|at| held.groups[at].1[(ino % HELD_GROUP) as usize] == u8::MAX);
            if !full || count == 0 || held.more.last().is_some_and(|(before, _)| *before >= ino) {
                return Err(Damage("large counts of inodes out of order"));
            }
            held.more.push((ino, count));
        }
        Ok(held)
    }
}

fn put_piece(put: &mut Put, bytes: &[u8]) {
    debug_assert!(bytes.len() <= PIECE_BYTES_MAX, "a path longer than the system takes");
    put.u16(bytes.len() as u16).bytes(bytes);
}

fn take_piece(take: &mut Take<'_>) -> Result<Vec<u8>, Damage> {
    let len = usize::from(take.u16()?);
    if len > PIECE_BYTES_MAX {
        return Err(Damage("a piece is too long"));
    }
    Ok(take.bytes(len)?.to_vec())
}

fn take_text(take: &mut Take<'_>) -> Result<String, Damage> {
    String::from_utf8(take_piece(take)?).map_err(|_| Damage("a name is not UTF-8"))
}

fn put_option(put: &mut Put, value: Option<u64>) {
    put.u8(value.is_some().into()).u64(value.unwrap_or(0));
}

fn take_flag(take: &mut Take<'_>) -> Result<bool, Damage> {
    match take.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Damage("a flag is neither set nor clear")),
    }
}

fn take_option(take: &mut Take<'_>) -> Result<Option<u64>, Damage> {
    match (take_flag(take)?, take.u64()?) {
        (true, value) => Ok(Some(value)),
        (false, 0) => Ok(None),
        (false, _) => Err(Damage("a value that is not there")),
    }
}

impl KeptMount {
    fn encode(&self, put: &mut Put) {
        for piece in [self.name.as_bytes(), &self.image, &self.dir, &self.greeting, &self.answer] {
            put_piece(put, piece);
        }
        put.u32(self.device).u32(self.lock).u32(self.minor);
        put.u8(self.read_only.into()).u8(self.dir_sync.into()).u8(self.atime);
        put_option(put, self.lease_from);
        self.held.encode(put);
    }

    fn decode(take: &mut Take<'_>) -> Result<KeptMount, Damage> {
        let name = take_text(take)?;
        let [image, dir, greeting, answer] =
            [take_piece(take)?, take_piece(take)?, take_piece(take)?, take_piece(take)?];
        let [device, lock, minor] = [take.u32()?, take.u32()?, take.u32()?];
        let (read_only, dir_sync, atime) = (take_flag(take)?, take_flag(take)?, take.u8()?);
        if !matches!(atime, 0..=2 | 4..=6) || !image.starts_with(b"/") || !dir.starts_with(b"/") {
            return Err(Damage("a mount makes no sense"));
        }
        let lease_from = take_option(take)?;
        let held = Held::decode(take)?;
        Ok(KeptMount {
            name,
            image,
            dir,
            device,
            lock,
            minor,
            greeting,
            answer,
            read_only,
            dir_sync,
            atime,
            lease_from,
            held,
        })
    }
}

impl Handover {
    /// Every descriptor in it.
    pub fn descriptors(&self) -> Vec<u32> {
        self.run_lock.into_iter().chain(self.mounts.iter().flat_map(|m| [m.device, m.lock])).collect()
    }

    /// The bytes, with their hash behind them.
    pub fn encode(&self) -> Result<Vec<u8>, HandoverError> {
        let held: usize = self.mounts.iter().map(|m| m.held.groups.len() * 24 + m.held.more.len() * 16).sum();
        if held + self.mounts.len() * 5 * PIECE_BYTES_MAX > HANDOVER_BYTES_MAX
            || self.mounts.len() > MOUNTS_MAX
        {
            return Err(HandoverError::TooLarge);
        }
        let mut put = Put::default();
        put.bytes(MAGIC).u16(HANDOVER_VERSION);
        put_piece(&mut put, self.from.as_bytes());
        put.u32(self.count).u64(self.paused_at);
        put_option(&mut put, self.run_lock.map(u64::from));
        put.u16(self.mounts.len() as u16);
        for mount in &self.mounts {
            mount.encode(&mut put);
        }
        let mut bytes = put.done();
        bytes.extend_from_slice(&hash(&bytes));
        Ok(bytes)
    }

    /// Reads what `encode` made; everything else is refused.
    pub fn decode(bytes: &[u8]) -> Result<Handover, HandoverError> {
        let mut take = Take::new(bytes);
        if take.array::<8>()? != *MAGIC {
            return Err(Damage("it is something else").into());
        }
        // Before the hash: another version may have another one.
        let version = take.u16()?;
        if version != HANDOVER_VERSION {
            return Err(HandoverError::Version(version));
        }
        let (body, sealed) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(Damage("too short"))?;
        if bytes.len() > HANDOVER_BYTES_MAX || hash(body) != *sealed {
            return Err(Damage("its hash does not fit").into());
        }
        Ok(decode_body(&mut Take::new(body))?)
    }
}

fn decode_body(take: &mut Take<'_>) -> Result<Handover, Damage> {
    take.bytes(MAGIC.len() + 2)?;
    let from = take_text(take)?;
    let (count, paused_at) = (take.u32()?, take.u64()?);
    let run_lock = take_option(take)?.map(u32::try_from).transpose();
    let run_lock = run_lock.map_err(|_| Damage("a descriptor is no descriptor"))?;
    let number = usize::from(take.u16()?);
    if number > MOUNTS_MAX {
        return Err(Damage("too many mounts"));
    }
    let mut mounts = Vec::new();
    for _ in 0..number {
        mounts.push(KeptMount::decode(take)?);
    }
    if take.u8().is_ok() {
        return Err(Damage("something follows"));
    }
    Ok(Handover { from, count, paused_at, run_lock, mounts })
}

fn hash(body: &[u8]) -> [u8; HASH_BYTES] {
    blake3::derive_key(HASH_CONTEXT, body)
}

/// The right hash over any body: what a fuzzer needs to get behind it.
#[cfg(test)]
pub(super) fn seal_raw_handover(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    bytes.extend_from_slice(&hash(body));
    bytes
}

#[cfg(test)]
#[path = "handover_tests.rs"]
pub(super) mod tests;
