//! The witness's directory: one small file with all records, replaced as a whole.
//!
//! Does not know which records are right. Invariants: after `save` returned the file survives a power cut; at any
//! moment the file is the old or the new one; two processes never use one directory at once.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::base::{Generation, Members, NodeId, Record, VolumeId};
use crate::cluster::WitnessImage;
use crate::sys::random;
use crate::wire::WitnessRecord;

const MAGIC: &[u8; 8] = b"twwit\0\0\x01";
const HASH_BYTES: usize = 32;
/// Bytes of one record in the file: volume, v, members, primary, head, lineage, nonce.
pub(super) const RECORD_BYTES: usize = 16 + 8 + 1 + 1 + 16 * 3;
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is in use by another witness: one directory, one process", .0.display())]
    InUse(PathBuf),
}

/// The directory, locked, and what its file says.
pub struct Store {
    dir: PathBuf,
    image: WitnessImage,
    /// Where a damaged file was put aside at start.
    damaged: Option<PathBuf>,
    _lock: Flock<File>,
}

impl Store {
    /// Opens `dir`, making it if need be. A missing file, and a damaged one, mean that the memory is lost: a fresh
    /// incarnation without records, so that every volume is answered "unknown".
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let fail = |source| StoreError::Io { path: dir.to_path_buf(), source };
        fs::create_dir_all(dir).map_err(fail)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(fail)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StoreError::InUse(dir.to_path_buf()))?;
        let path = dir.join("records");
        let fresh = WitnessImage { incarnation: random::id128(), records: BTreeMap::new() };
        let (image, damaged) = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, None),
            Err(error) => return Err(fail(error)),
            Ok(meta) => {
                let bytes =
                    if meta.len() > FILE_BYTES_MAX { Vec::new() } else { fs::read(&path).map_err(fail)? };
                match decode(&bytes) {
                    Some(image) => (Some(image), None),
                    None => {
                        let aside = dir.join(format!("records.damaged-{:016x}", random::id64()));
                        fs::rename(&path, &aside).map_err(fail)?;
                        (None, Some(aside))
                    }
                }
            }
        };
        let is_new = image.is_none();
        let mut store = Store { dir: dir.to_path_buf(), image: image.unwrap_or(fresh), damaged, _lock: lock };
        if is_new {
            let image = store.image.clone();
            store.save(&image)?;
        }
        Ok(store)
    }

    /// What is stable.
    pub fn image(&self) -> &WitnessImage {
        &self.image
    }

    /// Where a damaged file was put aside when the directory was opened.
    pub fn damaged(&self) -> Option<&Path> {
        self.damaged.as_deref()
    }

    /// Makes `image` stable.
    pub fn save(&mut self, image: &WitnessImage) -> Result<(), StoreError> {
        let (path, new) = (self.dir.join("records"), self.dir.join("records.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&encode(image))?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| StoreError::Io { path: path.clone(), source })?;
        self.image = image.clone();
        Ok(())
    }
}

/// Magic, incarnation, records, BLAKE3 of all before.
fn encode(image: &WitnessImage) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&image.incarnation.to_le_bytes());
    for (volume, kept) in &image.records {
        encode_record(*volume, kept, &mut out);
    }
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out
}

pub(super) fn encode_record(volume: VolumeId, kept: &WitnessRecord, out: &mut Vec<u8>) {
    out.extend_from_slice(&volume.0.to_le_bytes());
    out.extend_from_slice(&kept.record.v.to_le_bytes());
    out.extend_from_slice(&[kept.record.members.bits(), kept.record.primary.index()]);
    for number in [kept.head.0, kept.lineage, kept.nonce] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn decode(bytes: &[u8]) -> Option<WitnessImage> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let body = body.strip_prefix(MAGIC.as_slice())?;
    let (incarnation, mut rest) = body.split_first_chunk::<16>()?;
    let mut records = BTreeMap::new();
    while !rest.is_empty() {
        let (one, next) = rest.split_first_chunk::<RECORD_BYTES>()?;
        let (volume, record) = decode_record(one)?;
        records.insert(volume, record);
        rest = next;
    }
    Some(WitnessImage { incarnation: u128::from_le_bytes(*incarnation), records })
}

pub(super) fn decode_record(bytes: &[u8; RECORD_BYTES]) -> Option<(VolumeId, WitnessRecord)> {
    let number = |at: usize| Some(u128::from_le_bytes(bytes.get(at..at + 16)?.try_into().ok()?));
    let v = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
    let members = Members::from_bits(bytes[24])?;
    let primary = NodeId::from_index(bytes[25])?;
    let record = Record { v, members, primary };
    let kept =
        WitnessRecord { record, head: Generation(number(26)?), lineage: number(42)?, nonce: number(58)? };
    Some((VolumeId(number(0)?), kept))
}

#[cfg(test)]
pub(super) fn decode_for_tests(bytes: &[u8]) -> Option<WitnessImage> {
    decode(bytes)
}
