//! Who keeps the witness's record: a witness of ours, or an etcd cluster.
//!
//! Decides how many questions may wait at once. Does not know what an answer means. Belongs to the control plane's
//! runtime. Invariant: a question that cannot be asked now is an error, and asked again by whoever needs the answer.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::base::{NodeId, VolumeId};
use crate::config::{ClusterKey, Config};
use crate::link::{Etcd, EtcdAccess, WitnessClient};
use crate::wire::{WitnessReply, WitnessRequest};

use super::DaemonError;
use super::witness::EtcdHome;

/// Questions to etcd under way; each takes a thread until it is answered or given up.
const QUESTIONS_MAX: usize = 8;

/// Whom this node asks.
pub enum Arbiter {
    Witness(WitnessClient),
    Etcd(Arc<EtcdHome>, Arc<Semaphore>),
}

impl Arbiter {
    /// As configured; `None`: nobody is asked.
    pub fn of(config: &Config, key: &ClusterKey, me: NodeId) -> Result<Option<Arbiter>, DaemonError> {
        let (name, timeout) = (&config.cluster.name, config.timing.witness_timeout.as_duration());
        if let Some(witness) = &config.cluster.witness {
            let (keys, n) = (key.witness(name), usize::from(me.index()));
            let (request, reply) = (keys.request[n], keys.reply[n]);
            let client = WitnessClient::new(witness.to_string(), me, request, reply, timeout);
            return Ok(Some(Arbiter::Witness(client)));
        }
        let Some(etcd) = &config.cluster.etcd else { return Ok(None) };
        let (ca, cert, file) = (etcd.ca.clone(), etcd.cert.clone(), etcd.key.clone());
        let access = EtcdAccess { urls: etcd.urls.clone(), ca, cert, key: file, timeout };
        let etcd = Etcd::new(&access).map_err(|e| DaemonError::Config(e.to_string()))?;
        let home = EtcdHome::new(etcd, name.clone(), me, key.etcd_seal(name));
        Ok(Some(Arbiter::Etcd(Arc::new(home), Arc::new(Semaphore::new(QUESTIONS_MAX)))))
    }

    /// Where it is, as configured.
    pub fn target(&self) -> String {
        match self {
            Arbiter::Witness(client) => client.target().to_string(),
            Arbiter::Etcd(home, _) => home.target(),
        }
    }

    /// The answer, or why there is none. A swap without an answer may have happened: it must be read again.
    pub async fn ask(&self, volume: VolumeId, request: WitnessRequest) -> Result<WitnessReply, String> {
        match self {
            Arbiter::Witness(client) => client.ask(volume, request).await.map_err(|e| e.to_string()),
            Arbiter::Etcd(home, room) => {
                let Ok(place) = Arc::clone(room).try_acquire_owned() else {
                    return Err("etcd does not answer: too many questions wait already".to_string());
                };
                let home = Arc::clone(home);
                let answer = tokio::task::spawn_blocking(move || {
                    let answer = home.ask(volume, &request);
                    drop(place);
                    answer
                });
                match answer.await {
                    Ok(answer) => answer.map_err(|e| e.to_string()),
                    Err(_) => Err("asking etcd ended in a panic".to_string()),
                }
            }
        }
    }
}
