//! The witness's record of a volume in an etcd cluster: nobody has to run a witness where etcd runs anyway.
//!
//! Decides nothing about who wins: each question fetches the record, lets `cluster::witness` answer, and puts what
//! changed back by compare-and-swap, again from the start when another node was quicker. Does not know time, leases or
//! the nodes' data. Invariants: an answer that changed something is given only after etcd took the change; a value that
//! was not sealed with the cluster's key is an error, never "unknown", and is not overwritten; a cluster that went back
//! in time is taken for one that forgot.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::base::{NodeId, VolumeId};
use crate::cluster::{Asked, Witness, WitnessImage};
use crate::link::{Etcd, EtcdError, Found};
use crate::sys::random;
use crate::wire::{WitnessReply, WitnessRequest};

use super::store::{RECORD_BYTES, decode_record, encode_record};

const MAGIC: &[u8; 8] = b"twetcd\0\x01";
const HASH_BYTES: usize = 32;
/// Two nodes and their repetitions: more than so many lost races in a row have another reason.
const RACES_MAX: usize = 8;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error(
        "what etcd holds under {0} was not written with this cluster's key: two clusters of one name, or somebody \
         else wrote there; it is left alone"
    )]
    Foreign(String),
    #[error("{0} changes in etcd all the time")]
    Busy(String),
}

/// The records of one cluster.
pub struct EtcdHome {
    etcd: Etcd,
    cluster: String,
    me: NodeId,
    /// Of what is stored, shared by both nodes.
    seal: [u8; 32],
    /// The etcd cluster and the newest revision of it that answered about each volume.
    seen: Mutex<BTreeMap<VolumeId, (u64, i64)>>,
}

impl EtcdHome {
    pub fn new(etcd: Etcd, cluster: String, me: NodeId, seal: [u8; 32]) -> EtcdHome {
        EtcdHome { etcd, cluster, me, seal, seen: Mutex::default() }
    }

    /// Where it is, as configured.
    pub fn target(&self) -> String {
        self.etcd.target()
    }

    fn key(&self, volume: VolumeId) -> String {
        format!("twinfs/{}/{:032x}", self.cluster, volume.0)
    }

    /// Asks `request` about `volume`. Blocks.
    pub fn ask(&self, volume: VolumeId, request: &WitnessRequest) -> Result<WitnessReply, HomeError> {
        let key = self.key(volume);
        for _ in 0..RACES_MAX {
            let found = self.etcd.read(&key)?;
            let enrols = matches!(request, WitnessRequest::Enrol { .. });
            if self.went_back(volume, &found) && !enrols {
                return Ok(WitnessReply::Unknown { incarnation: 0 });
            }
            let mut witness = self.witness(volume, &key, &found)?;
            let before = (witness.image().clone(), witness.asked().clone());
            let (reply, _) = witness.answer(volume, self.me, request);
            if before == (witness.image().clone(), witness.asked().clone()) {
                self.saw(volume, &found);
                return Ok(reply);
            }
            let value = encode(&witness, volume, &key, &self.seal);
            if self.etcd.swap(&key, found.changed_at, &value)? {
                self.saw(volume, &found);
                return Ok(reply);
            }
        }
        Err(HomeError::Busy(key))
    }

    fn witness(&self, volume: VolumeId, key: &str, found: &Found) -> Result<Witness, HomeError> {
        match &found.value {
            None => Ok(Witness::new(WitnessImage { incarnation: random::id128(), records: BTreeMap::new() })),
            Some(value) => {
                decode(value, volume, key, &self.seal).ok_or_else(|| HomeError::Foreign(key.to_string()))
            }
        }
    }

    /// A backup was restored, or it is another etcd: what it says may be older than what it said before.
    fn went_back(&self, volume: VolumeId, found: &Found) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&volume).copied();
        seen.is_some_and(|(cluster, revision)| cluster != found.cluster || revision > found.revision)
    }

    fn saw(&self, volume: VolumeId, found: &Found) {
        let now = (found.cluster, found.revision);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(volume, now);
    }
}

/// Magic, incarnation, three times a flag and a record (the volume's, what A and what B asked to enrol), keyed BLAKE3
/// of the key and all that.
fn encode(witness: &Witness, volume: VolumeId, key: &str, seal: &[u8; 32]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&witness.image().incarnation.to_le_bytes());
    let asked = |node| witness.asked().get(&(volume, node));
    for record in [witness.image().records.get(&volume), asked(NodeId::A), asked(NodeId::B)] {
        out.push(u8::from(record.is_some()));
        match record {
            Some(record) => encode_record(volume, record, &mut out),
            None => out.resize(out.len() + RECORD_BYTES, 0),
        }
    }
    let hash = sealed(&out, key, seal);
    out.extend_from_slice(&hash);
    out
}

fn sealed(body: &[u8], key: &str, seal: &[u8; 32]) -> [u8; HASH_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(seal);
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes()).update(body);
    *hasher.finalize().as_bytes()
}

fn decode(bytes: &[u8], volume: VolumeId, key: &str, seal: &[u8; 32]) -> Option<Witness> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    if blake3::Hash::from(sealed(body, key, seal)) != blake3::Hash::from_slice(hash).ok()? {
        return None;
    }
    let (incarnation, mut rest) = body.strip_prefix(MAGIC.as_slice())?.split_first_chunk::<16>()?;
    let mut image = WitnessImage { incarnation: u128::from_le_bytes(*incarnation), records: BTreeMap::new() };
    let mut asked = Asked::new();
    for whose in [None, Some(NodeId::A), Some(NodeId::B)] {
        let (flag, after) = rest.split_first()?;
        let (one, after) = after.split_first_chunk::<RECORD_BYTES>()?;
        rest = after;
        if *flag == 0 {
            continue;
        }
        let (owner, record) = decode_record(one)?;
        if *flag != 1 || owner != volume {
            return None;
        }
        match whose {
            None => drop(image.records.insert(volume, record)),
            Some(node) => drop(asked.insert((volume, node), record)),
        }
    }
    rest.is_empty().then(|| Witness::resumed(image, asked))
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
