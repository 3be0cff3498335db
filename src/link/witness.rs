//! Asks the witness: one authenticated datagram, repeated until its answer comes or the tries are used up. Belongs to
//! the control plane's runtime.
//!
//! Does not know what a question leads to. Invariant: an answer counts only with a valid code and the nonce of this
//! very question; all tries of one question carry the same bytes.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

use crate::base::{NodeId, VolumeId};
use crate::sys::random;
use crate::wire::{WitnessQuestion, WitnessReply, WitnessRequest, decode_answer, encode_question};

/// Tries of one question.
const TRIES: u32 = 3;

/// Why there is no answer. A swap without an answer may have happened: it must be read again.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    #[error("the witness's name {0} cannot be resolved: use its address in twinfs.toml")]
    Name(String),
    #[error(
        "the witness at {address} does not answer: is \"twinfs witness\" running there, with this cluster's key?"
    )]
    Silent { address: SocketAddr },
    #[error("cannot send to the witness at {address}: {source}")]
    Unreachable { address: SocketAddr, source: std::io::Error },
}

/// A node's way to the witness.
pub struct WitnessClient {
    /// `HOST:PORT`.
    target: String,
    node: NodeId,
    request_key: [u8; 32],
    reply_key: [u8; 32],
    /// For one try.
    timeout: Duration,
    /// The last address that the name stood for: it outlives a failure of the name service.
    resolved: Mutex<Option<SocketAddr>>,
}

impl WitnessClient {
    /// `request_key` and `reply_key` are `config::WitnessKeys`' entries of `node`.
    pub fn new(
        target: String,
        node: NodeId,
        request_key: [u8; 32],
        reply_key: [u8; 32],
        timeout: Duration,
    ) -> WitnessClient {
        WitnessClient { target, node, request_key, reply_key, timeout, resolved: Mutex::new(None) }
    }

    /// Where the witness is, as configured.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Asks `request` about `volume`; up to three tries of the configured time each.
    pub async fn ask(&self, volume: VolumeId, request: WitnessRequest) -> Result<WitnessReply, WitnessError> {
        let address = self.resolve().await?;
        let fail = |source| WitnessError::Unreachable { address, source };
        let nonce = random::id128();
        let bytes =
            encode_question(&WitnessQuestion { volume, from: self.node, nonce, request }, &self.request_key);
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(local).await.map_err(fail)?;
        for _ in 0..TRIES {
            socket.send_to(&bytes, address).await.map_err(fail)?;
            if let Ok(reply) = timeout(self.timeout, self.receive(&socket, volume, nonce)).await {
                return Ok(reply);
            }
        }
        Err(WitnessError::Silent { address })
    }

    /// The answer to this question; everything else that arrives is passed over.
    async fn receive(&self, socket: &UdpSocket, volume: VolumeId, nonce: u128) -> WitnessReply {
        let mut buffer = [0u8; 512];
        loop {
            // From anywhere: a witness with several addresses may answer from another one. The code decides.
            let Ok((len, _)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            match decode_answer(&buffer[..len], &self.reply_key) {
                Ok(answer) if answer.nonce == nonce && answer.volume == volume => return answer.reply,
                _ => {}
            }
        }
    }

    async fn resolve(&self) -> Result<SocketAddr, WitnessError> {
        let found = timeout(self.timeout * TRIES, lookup_host(&self.target)).await;
        let fresh = found.ok().and_then(Result::ok).and_then(|mut addresses| addresses.next());
        let mut kept = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = fresh.or(*kept);
        kept.ok_or_else(|| WitnessError::Name(self.target.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{WitnessAnswer, decode_question, encode_answer};

    fn client(address: SocketAddr) -> WitnessClient {
        WitnessClient::new(address.to_string(), NodeId::B, [1; 32], [2; 32], Duration::from_millis(200))
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn a_lost_packet_is_repeated_unchanged_and_foreign_answers_are_passed_over() {
        run(async {
            let fake = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let client = client(fake.local_addr().unwrap());
            let volume = VolumeId(4);
            let witness = async {
                let (mut first, mut second) = ([0u8; 512], [0u8; 512]);
                let (len, _) = fake.recv_from(&mut first).await.unwrap();
                // The first one is "lost".
                let (again, from) = fake.recv_from(&mut second).await.unwrap();
                assert_eq!(first[..len], second[..again]);
                let question = decode_question(&second[..again], &[1; 32]).unwrap();
                let reply = |incarnation| WitnessReply::Unknown { incarnation };
                let good = WitnessAnswer { volume, nonce: question.nonce, reply: reply(1) };
                fake.send_to(b"garbage", from).await.unwrap();
                fake.send_to(&encode_answer(&WitnessAnswer { reply: reply(2), ..good }, &[9; 32]), from)
                    .await
                    .unwrap();
                let other = WitnessAnswer { nonce: question.nonce ^ 1, reply: reply(3), ..good };
                fake.send_to(&encode_answer(&other, &[2; 32]), from).await.unwrap();
                let other = WitnessAnswer { volume: VolumeId(5), reply: reply(4), ..good };
                fake.send_to(&encode_answer(&other, &[2; 32]), from).await.unwrap();
                fake.send_to(&encode_answer(&good, &[2; 32]), from).await.unwrap();
            };
            let (reply, ()) = tokio::join!(client.ask(volume, WitnessRequest::Read), witness);
            assert_eq!(reply.unwrap(), WitnessReply::Unknown { incarnation: 1 });
        });
    }

    #[test]
    fn silence_ends_after_three_tries_with_a_question() {
        run(async {
            let fake = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let error =
                client(fake.local_addr().unwrap()).ask(VolumeId(4), WitnessRequest::Read).await.unwrap_err();
            assert!(error.to_string().contains("is \"twinfs witness\" running there"), "{error}");
            let mut count = 0;
            while fake.try_recv_from(&mut [0u8; 512]).is_ok() {
                count += 1;
            }
            assert_eq!(count, 3);
        });
    }
}
