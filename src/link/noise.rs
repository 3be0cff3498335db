//! The cipher of a stream: Noise `NNpsk0` (25519, BLAKE2s, AES-256-GCM where the processor has it, else
//! ChaCha20-Poly1305), one direction independent of the other.
//!
//! Does not know sockets or frames. Invariant: a nonce is never used twice with one key.

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

/// The two ciphers; the dialling side chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suite {
    Aes,
    ChaCha,
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
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Suite> {
        [Suite::Aes, Suite::ChaCha].into_iter().find(|suite| suite.code() == code)
    }

    fn params(self) -> Result<NoiseParams, LinkError> {
        let name = match self {
            Suite::Aes => "Noise_NNpsk0_25519_AESGCM_BLAKE2s",
            Suite::ChaCha => "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s",
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

/// Both directions after the handshake. Sending and receiving take the lock together and only a change of key alone.
pub(super) struct Session(RwLock<StatelessTransportState>);

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
        Ok(Session(RwLock::new(state)))
    }

    /// Encrypts `plain` behind what `out` holds.
    pub(super) fn seal(
        &self,
        progress: &mut Progress,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), LinkError> {
        let start = out.len();
        out.resize(start + plain.len() + TAG_BYTES, 0);
        let state = self.0.read().map_err(|_| LinkError::Closed)?;
        let sealed = state.write_message(progress.nonce, plain, &mut out[start..]);
        drop(state);
        sealed.map_err(|_| LinkError::TooLong { len: plain.len() })?;
        self.advance(progress, plain.len(), |state| state.rekey_outgoing())
    }

    /// Decrypts `sealed` into `out`, which must have room for the message without its tag; returns the bytes written.
    pub(super) fn open(
        &self,
        progress: &mut Progress,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, LinkError> {
        let state = self.0.read().map_err(|_| LinkError::Closed)?;
        let opened = state.read_message(progress.nonce, sealed, out);
        drop(state);
        let len = opened.map_err(|_| LinkError::Forged)?;
        self.advance(progress, len, |state| state.rekey_incoming())?;
        Ok(len)
    }

    fn advance(
        &self,
        progress: &mut Progress,
        bytes: usize,
        rekey: impl Fn(&mut StatelessTransportState),
    ) -> Result<(), LinkError> {
        progress.nonce += 1;
        progress.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        // Both sides count the same bytes of the same messages, so they change keys between the same two messages.
        if progress.bytes >= REKEY_BYTES {
            progress.bytes = 0;
            rekey(&mut *self.0.write().map_err(|_| LinkError::Closed)?);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn bytes_to_rekey() -> u64 {
        REKEY_BYTES
    }
}
