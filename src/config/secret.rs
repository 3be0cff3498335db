//! The shared secret and what is derived from it: one key per purpose and ordered pair, so that nothing can be
//! reflected or used elsewhere. Pure: files and their modes are `sys::secret`'s.
//!
//! Invariant: no text of an error, no `Debug` and no `Display` of a key type shows key material.

use std::fmt;

use crate::base::NodeId;

/// What a derived key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Pre-shared key of the Noise handshake; `from` is the node that dialled.
    Stream,
    /// MAC of heartbeats sent by `from`.
    Heartbeat,
}

/// Why a key file's text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "this is no twinfs key ({found}): make one with \"twinfs key generate\" and copy it to both nodes"
    )]
    NotACluster { found: &'static str },
    #[error(
        "this is no witness key ({found}): make it from the cluster's key with \"twinfs key generate --witness\""
    )]
    NotAWitness { found: &'static str },
    #[error(
        "this is the witness's key, not the cluster's: a node needs the key that \"twinfs key generate\" made"
    )]
    WitnessKeyForNode,
    #[error(
        "this is the cluster's key: the witness must hold only its own, from \"twinfs key generate --witness\""
    )]
    ClusterKeyForWitness,
}

/// The 32 random bytes that both nodes hold.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

/// What the witness holds: one key per node for requests, one for replies. It cannot speak as a node with these.
#[derive(Clone, PartialEq, Eq)]
pub struct WitnessKeys {
    /// `request[n]`: MAC of requests from node n.
    pub request: [[u8; 32]; 2],
    /// `reply[n]`: MAC of replies to node n.
    pub reply: [[u8; 32]; 2],
}

const WITNESS_TAG: &str = "twinfs-witness-key-1:";

impl ClusterKey {
    /// From 32 bytes of the system's random source.
    pub fn from_bytes(bytes: [u8; 32]) -> ClusterKey {
        ClusterKey(bytes)
    }

    /// Reads a key file: 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<ClusterKey, KeyError> {
        let text = text.trim();
        if text.starts_with(WITNESS_TAG) {
            return Err(KeyError::WitnessKeyForNode);
        }
        let bytes = hex(text).ok_or(KeyError::NotACluster { found: "something that is not hexadecimal" })?;
        let key = bytes.try_into().map_err(|_| KeyError::NotACluster { found: "the wrong length" })?;
        Ok(ClusterKey(key))
    }

    /// The text of the key file.
    pub fn render(&self) -> String {
        format!("{}\n", to_hex(&self.0))
    }

    /// The key for `purpose`, from `from` to its peer, of the cluster called `cluster`.
    pub fn derive(&self, cluster: &str, purpose: Purpose, from: NodeId) -> [u8; 32] {
        let purpose = match purpose {
            Purpose::Stream => "stream",
            Purpose::Heartbeat => "heartbeat",
        };
        self.derived(cluster, purpose, from)
    }

    /// What seals the records that are kept in etcd; the same on both nodes.
    pub fn etcd_seal(&self, cluster: &str) -> [u8; 32] {
        self.derived(cluster, "etcd record", NodeId::A)
    }

    /// The witness's keys.
    pub fn witness(&self, cluster: &str) -> WitnessKeys {
        WitnessKeys {
            request: [NodeId::A, NodeId::B].map(|node| self.derived(cluster, "witness request", node)),
            reply: [NodeId::A, NodeId::B].map(|node| self.derived(cluster, "witness reply", node)),
        }
    }

    fn derived(&self, cluster: &str, purpose: &str, node: NodeId) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("twinfs 2026-01 sub-key of the cluster key");
        hasher.update(&self.0);
        // Lengths first: no two different inputs give the same bytes.
        for part in [cluster, purpose] {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&[node.index()]);
        *hasher.finalize().as_bytes()
    }
}

impl WitnessKeys {
    /// Reads a witness's key file: `twinfs-witness-key-1:` and 256 hexadecimal digits.
    pub fn parse(text: &str) -> Result<WitnessKeys, KeyError> {
        let text = text.trim();
        if ClusterKey::parse(text).is_ok() {
            return Err(KeyError::ClusterKeyForWitness);
        }
        let digits = text
            .strip_prefix(WITNESS_TAG)
            .ok_or(KeyError::NotAWitness { found: "the first word is wrong" })?;
        let bytes =
            hex(digits).ok_or(KeyError::NotAWitness { found: "something that is not hexadecimal" })?;
        let (keys, rest) = bytes.as_chunks::<32>();
        match (keys, rest) {
            ([a, b, c, d], []) => Ok(WitnessKeys { request: [*a, *b], reply: [*c, *d] }),
            _ => Err(KeyError::NotAWitness { found: "the wrong length" }),
        }
    }

    /// The text of the witness's key file.
    pub fn render(&self) -> String {
        let all: String = self.request.iter().chain(&self.reply).map(|key| to_hex(key)).collect();
        format!("{WITNESS_TAG}{all}\n")
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

impl fmt::Debug for WitnessKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WitnessKeys(..)")
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect();
    bytes.filter(|_| rest.is_empty())
}
