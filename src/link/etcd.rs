//! One value at a time in an etcd cluster, read and replaced by compare-and-swap through its JSON gateway.
//!
//! Decides which endpoint is asked and what counts as an answer. Does not know what a value means. Calls block, for at
//! most the given time per endpoint. Invariants: what is read is linearizable; a value is replaced only if it is still
//! the one that was read; whatever cannot be understood is an error, and never taken for an absent value.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// Longest answer that is read; one with a value of ours takes less than 1 KiB.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Why there is no answer. A swap without an answer may have happened: it must be read again.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("etcd does not answer: {0}")]
    Silent(String),
    #[error("etcd at {url} refuses: {text}")]
    Refused { url: String, text: String },
    #[error("what answers at {url} is no etcd: {text}")]
    Strange { url: String, text: String },
    #[error("{}: {text}", .path.display())]
    File { path: PathBuf, text: String },
}

/// Where an etcd cluster is, and how it knows this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdAccess {
    /// `http://HOST:PORT` or `https://HOST:PORT`, at least one.
    pub urls: Vec<String>,
    /// PEM files: who signed its certificates, and this node's certificate and key.
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// For one request to one endpoint.
    pub timeout: Duration,
}

/// What was found under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub value: Option<Vec<u8>>,
    /// When it was last changed, as a revision of the cluster; 0: there is none.
    pub changed_at: i64,
    /// Which etcd cluster answered, and its revision then: it only grows as long as nobody restores a backup.
    pub cluster: u64,
    pub revision: i64,
}

/// The way to an etcd cluster.
pub struct Etcd {
    agent: ureq::Agent,
    urls: Vec<String>,
    /// The endpoint that answered last.
    good: AtomicUsize,
}

impl Etcd {
    /// Reads the files that `access` names; connects to nothing yet.
    pub fn new(access: &EtcdAccess) -> Result<Etcd, EtcdError> {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(access.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The environment of a daemon does not decide whom it asks.
            .proxy(None)
            // A connection that was idle may be dead without anybody knowing.
            .max_idle_connections(0)
            .tls_config(tls(access)?)
            .build()
            .into();
        Ok(Etcd { agent, urls: access.urls.clone(), good: AtomicUsize::new(0) })
    }

    /// Every endpoint, as configured.
    pub fn target(&self) -> String {
        self.urls.join(", ")
    }

    pub fn read(&self, key: &str) -> Result<Found, EtcdError> {
        let (url, answer) = self.ask("/v3/kv/range", &json!({ "key": STANDARD.encode(key) }))?;
        found(&answer).map_err(|text| EtcdError::Strange { url, text })
    }

    /// Replaces what was last changed at `changed_at` (0: makes it); `false`: it is not the one any more.
    pub fn swap(&self, key: &str, changed_at: i64, value: &[u8]) -> Result<bool, EtcdError> {
        let key = STANDARD.encode(key);
        let request = json!({
            "compare": [{ "key": key, "target": "MOD", "result": "EQUAL", "modRevision": changed_at.to_string() }],
            "success": [{ "requestPut": { "key": key, "value": STANDARD.encode(value) } }],
        });
        let (url, answer) = self.ask("/v3/kv/txn", &request)?;
        header(&answer).map_err(|text| EtcdError::Strange { url, text })?;
        Ok(answer["succeeded"] == true)
    }

    /// Asks the endpoints in turn, the one first that answered last.
    fn ask(&self, path: &str, request: &Value) -> Result<(String, Value), EtcdError> {
        let (first, body) = (self.good.load(Ordering::Relaxed), request.to_string());
        let mut silent = Vec::new();
        for turn in 0..self.urls.len() {
            let index = (first + turn) % self.urls.len();
            let url = self.urls[index].clone();
            match self.post(&format!("{}{path}", url.trim_end_matches('/')), &body) {
                Ok((200, text)) => {
                    self.good.store(index, Ordering::Relaxed);
                    let answer = serde_json::from_str(&text);
                    let answer =
                        answer.map_err(|e| EtcdError::Strange { url: url.clone(), text: e.to_string() })?;
                    return Ok((url, answer));
                }
                // Without a leader, or too slow: another member may be better off.
                Ok((status, text)) if status >= 500 => {
                    silent.push(format!("{url}: {}", reason(status, &text)));
                }
                Ok((status, text)) => return Err(EtcdError::Refused { url, text: reason(status, &text) }),
                Err(error) => silent.push(format!("{url}: {error}")),
            }
        }
        Err(EtcdError::Silent(silent.join("; ")))
    }

    fn post(&self, url: &str, body: &str) -> Result<(u16, String), ureq::Error> {
        let mut response = self.agent.post(url).content_type("application/json").send(body)?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()?;
        Ok((status, text))
    }
}

/// What it says about a refusal, in one short line.
fn reason(status: u16, text: &str) -> String {
    let said: Option<Value> = serde_json::from_str(text).ok();
    let word = said.as_ref().and_then(|said| said["error"].as_str().or_else(|| said["message"].as_str()));
    let shown: String = word.unwrap_or(text).chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{shown} (HTTP {status})")
}

/// Cluster and revision of an answer.
fn header(answer: &Value) -> Result<(u64, i64), String> {
    let header = &answer["header"];
    let number = |name: &str| header[name].as_str().ok_or_else(|| format!("its answer has no {name}"));
    let cluster = number("cluster_id")?.parse().map_err(|_| "its cluster_id is no number".to_string())?;
    let revision = number("revision")?.parse().map_err(|_| "its revision is no number".to_string())?;
    Ok((cluster, revision))
}

fn found(answer: &Value) -> Result<Found, String> {
    let (cluster, revision) = header(answer)?;
    let absent = Found { value: None, changed_at: 0, cluster, revision };
    let all = match &answer["kvs"] {
        Value::Null if answer["count"].is_null() => return Ok(absent),
        Value::Array(all) => all,
        _ => return Err("its answer has no list of values".to_string()),
    };
    let [one] = all.as_slice() else { return Err(format!("{} values under one key", all.len())) };
    // A value of no bytes is left out by the gateway.
    let value = STANDARD.decode(one["value"].as_str().unwrap_or_default());
    let changed_at = one["mod_revision"].as_str().and_then(|text| text.parse().ok()).filter(|at| *at > 0);
    match (value, changed_at) {
        (Ok(value), Some(changed_at)) => Ok(Found { value: Some(value), changed_at, ..absent }),
        _ => Err("its value or mod_revision cannot be read".to_string()),
    }
}

fn tls(access: &EtcdAccess) -> Result<TlsConfig, EtcdError> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = &access.ca {
        tls = tls.root_certs(RootCerts::new_with_certs(&certificates(path)?));
    }
    if let (Some(cert), Some(key)) = (&access.cert, &access.key) {
        let wrong = |error: ureq::Error| EtcdError::File { path: key.clone(), text: error.to_string() };
        let key = PrivateKey::from_pem(&contents(key)?).map_err(wrong)?;
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&certificates(cert)?, key)));
    }
    Ok(tls.build())
}

fn contents(path: &Path) -> Result<Vec<u8>, EtcdError> {
    std::fs::read(path).map_err(|e| EtcdError::File { path: path.to_path_buf(), text: e.to_string() })
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, EtcdError> {
    let wrong = |text: String| EtcdError::File { path: path.to_path_buf(), text };
    let mut found = Vec::new();
    for item in parse_pem(&contents(path)?) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| wrong(e.to_string()))? {
            found.push(certificate);
        }
    }
    match found.is_empty() {
        true => Err(wrong("there is no PEM certificate in it".to_string())),
        false => Ok(found),
    }
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
