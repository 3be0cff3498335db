//! The cipher of a stream: Noise `NNpsk0` (25519, BLAKE2s, AES-256-GCM where the processor has it, else
//! ChaCha20-Poly1305), one direction independent of the other; or, where the administrator chose so, plain text with a
//! keyed BLAKE3 of each message and its number.
//!
//! Does not know sockets or frames. Invariants: a nonce is never used twice with one key; what was not sealed by the
//! peer, in this session, direction and place, is refused, encrypted or not.

use std::sync::RwLock;

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState, StatelessTransportState};

use super::LinkError;

/// Largest Noise message, tag included.
pub(super) const MESSAGE_BYTES_MAX: usize = 65_535;
/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;
/// Largest plaintext of one message.
pub(super) const PLAIN_BYTES_MAX: usize = MESSAGE_BYTES_MAX - TAG_BYTES;
/// Plaintext after which a direction changes its key: forward secrecy within a long session.
const REKEY_BYTES: u64 = 1 << 30;

/// The ciphers; the dialling side chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suite {
    Aes,
    ChaCha,
    /// The handshake is encrypted, what follows is only authenticated.
    Clear,
}

impl Suite {
    /// The faster one on this processor.
    pub(super) fn best() -> Suite {
        #[cfg(target_arch = "x86_64")]
        let aes =
            std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let aes = false;
        if aes { Suite::Aes } else { Suite::ChaCha }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Suite::Aes => 1,
            Suite::ChaCha => 2,
            Suite::Clear => 3,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Suite> {
        [Suite::Aes, Suite::ChaCha, Suite::Clear].into_iter().find(|suite| suite.code() == code)
    }

    fn params(self) -> Result<NoiseParams, LinkError> {
        let name = match self {
            Suite::Aes => "Noise_NNpsk0_25519_AESGCM_BLAKE2s",
            Suite::ChaCha | Suite::Clear => "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s",
        };
        name.parse().map_err(|_| LinkError::NotTwinfs)
    }
}

/// A handshake in which both sides must hold `key` and agree on `prologue`.
pub(super) fn handshake(
    suite: Suite,
    dials: bool,
    key: &[u8; 32],
    prologue: &[u8],
) -> Result<HandshakeState, LinkError> {
    let builder = Builder::new(suite.params()?).psk(0, key).and_then(|b| b.prologue(prologue));
    let built = builder.and_then(|b| if dials { b.build_initiator() } else { b.build_responder() });
    // Fails only if the random source or the cipher is missing.
    built.map_err(|error| LinkError::Io(std::io::Error::other(error.to_string())))
}

/// Half of the secret from which the keys of a session without encryption come: one half from each side, sent in the
/// encrypted handshake. A recorded first half is of no use without the second one, which is fresh.
pub(super) type Half = [u8; 32];

/// Both directions after the handshake.
pub(super) enum Session {
    /// Sending and receiving take the lock together and only a change of key alone.
    Sealed(RwLock<StatelessTransportState>),
    Clear {
        send: [u8; 32],
        receive: [u8; 32],
    },
}

/// How far one direction has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    nonce: u64,
    bytes: u64,
}

#[cfg(test)]
impl Progress {
    /// A direction that has carried so many bytes since its last change of key.
    pub(super) fn at(bytes: u64) -> Progress {
        Progress { nonce: 0, bytes }
    }

    /// Past one message.
    pub(super) fn skip(&mut self) {
        self.nonce += 1;
    }
}

impl Session {
    pub(super) fn new(handshake: HandshakeState) -> Result<Session, LinkError> {
        let state = handshake.into_stateless_transport_mode().map_err(|_| LinkError::Key)?;
        Ok(Session::Sealed(RwLock::new(state)))
    }

    /// A session without encryption behind a finished `handshake` that carried both halves.
    pub(super) fn clear(handshake: &HandshakeState, dials: bool, dialler: &Half, listener: &Half) -> Session {
        let secret = [dialler.as_slice(), listener, handshake.get_handshake_hash()].concat();
        let key = |context| blake3::derive_key(context, &secret);
        let forth = key("twinfs stream 1, authenticated only, from the dialling side");
        let back = key("twinfs stream 1, authenticated only, from the listening side");
        let (send, receive) = if dials { (forth, back) } else { (back, forth) };
        Session::Clear { send, receive }
    }

    /// Encrypts `plain` behind what `out` holds.
    pub(super) fn seal(
        &self,
        progress: &mut Progress,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), LinkError> {
        let start = out.len();
        let lock = match self {
            Session::Sealed(lock) => lock,
            Session::Clear { send, .. } => {
                if plain.len() > PLAIN_BYTES_MAX {
                    return Err(LinkError::TooLong { len: plain.len() });
                }
                out.extend_from_slice(plain);
                out.extend_from_slice(&tag(send, progress.nonce, plain));
                progress.nonce += 1;
                return Ok(());
            }
        };
        out.resize(start + plain.len() + TAG_BYTES, 0);
        let state = lock.read().map_err(|_| LinkError::Closed)?;
        let sealed = state.write_message(progress.nonce, plain, &mut out[start..]);
        drop(state);
        sealed.map_err(|_| LinkError::TooLong { len: plain.len() })?;
        advance(lock, progress, plain.len(), |state| state.rekey_outgoing())
    }

    /// Opens `sealed` into `out`, which must have room for the message without its tag; returns the bytes written.
    pub(super) fn open(
        &self,
        progress: &mut Progress,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, LinkError> {
        let lock = match self {
            Session::Sealed(lock) => lock,
            Session::Clear { receive, .. } => {
                let at = sealed.len().checked_sub(TAG_BYTES).ok_or(LinkError::Forged)?;
                let (plain, theirs) = sealed.split_at(at);
                let right = tag(receive, progress.nonce, plain);
                // In time that does not depend on where they differ.
                let difference = right.iter().zip(theirs).fold(0_u8, |all, (a, b)| all | (a ^ b));
                if difference != 0 {
                    return Err(LinkError::Forged);
                }
                out.get_mut(..at).ok_or(LinkError::Forged)?.copy_from_slice(plain);
                progress.nonce += 1;
                return Ok(at);
            }
        };
        let state = lock.read().map_err(|_| LinkError::Closed)?;
        let opened = state.read_message(progress.nonce, sealed, out);
        drop(state);
        let len = opened.map_err(|_| LinkError::Forged)?;
        advance(lock, progress, len, |state| state.rekey_incoming())?;
        Ok(len)
    }

    #[cfg(test)]
    pub(super) fn bytes_to_rekey() -> u64 {
        REKEY_BYTES
    }
}

/// What proves that the message number `nonce` of this direction says `plain`.
fn tag(key: &[u8; 32], nonce: u64, plain: &[u8]) -> [u8; TAG_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&nonce.to_le_bytes());
    hasher.update(plain);
    let mut tag = [0; TAG_BYTES];
    hasher.finalize_xof().fill(&mut tag);
    tag
}

fn advance(
    lock: &RwLock<StatelessTransportState>,
    progress: &mut Progress,
    bytes: usize,
    rekey: impl Fn(&mut StatelessTransportState),
) -> Result<(), LinkError> {
    progress.nonce += 1;
    progress.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    // Both sides count the same bytes of the same messages, so they change keys between the same two messages.
    if progress.bytes >= REKEY_BYTES {
        progress.bytes = 0;
        rekey(&mut *lock.write().map_err(|_| LinkError::Closed)?);
    }
    Ok(())
}
