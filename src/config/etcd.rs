//! `etcd`: an existing etcd cluster in the place of a witness.
//!
//! Decides which of the two is asked and what their keys may say. Invariant: exactly one of them is configured with
//! `arbitration = "witness"`, and none without.

use std::path::PathBuf;

use super::parse::{Reader, Value, Values};
use super::types::{Arbitration, HostPort};

/// Where an etcd cluster is, and how it knows this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdPlace {
    /// `http://HOST:PORT` or `https://HOST:PORT`, at least one.
    pub urls: Vec<String>,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// The address of one member.
pub(super) fn url(text: &str) -> Result<String, String> {
    let wrong = || {
        format!("\"{text}\" must be http://HOST:PORT or https://HOST:PORT, such as \"https://10.0.0.5:2379\"")
    };
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(wrong)?;
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(wrong)?;
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)),
    };
    let numbered = port.parse::<u16>().is_ok_and(|port| port != 0);
    match named && numbered && host.len() <= 253 {
        true => Ok(text.trim_end_matches('/').to_string()),
        false => Err(wrong()),
    }
}

/// Whom a node asks that cannot hear the other one, with `arbitration = "witness"`.
pub(super) fn arbiter(
    values: &Values,
    arbitration: Arbitration,
    reader: &mut Reader,
) -> (Option<HostPort>, Option<EtcdPlace>) {
    let witness = match values.get("witness") {
        Some(Value::HostPort(witness)) => Some(witness.clone()),
        _ => None,
    };
    let etcd = place(values, reader);
    match (arbitration, &witness, &etcd) {
        (Arbitration::Witness, None, None) => {
            let text =
                "arbitration = \"witness\" needs witness = \"HOST:PORT\", or etcd = [\"https://HOST:2379\"]";
            reader.problem_at("cluster.arbitration", text.to_string());
        }
        (_, Some(_), Some(_)) => {
            let text = "a witness and etcd would be two judges: give one of them";
            reader.problem_at("cluster.etcd", text.to_string());
        }
        (Arbitration::Witness, ..) | (_, None, None) => {}
        (_, asked, _) => {
            let name = if asked.is_some() { "witness" } else { "etcd" };
            let text = format!(
                "{} {name} is not used with arbitration = \"{}\": remove it, or choose \"witness\"",
                if asked.is_some() { "a" } else { "an" },
                arbitration.as_str()
            );
            reader.problem_at(&format!("cluster.{name}"), text);
        }
    }
    (witness, etcd)
}

fn place(values: &Values, reader: &mut Reader) -> Option<EtcdPlace> {
    let file = |name: &str| match values.get(name) {
        Some(Value::Text(text)) if !text.is_empty() => Some(PathBuf::from(text)),
        _ => None,
    };
    let (ca, cert, key) = (file("etcd_ca"), file("etcd_cert"), file("etcd_key"));
    let Some(Value::Texts(urls)) = values.get("etcd").filter(|value| !is_empty(value)) else {
        for (name, given) in [("etcd_ca", &ca), ("etcd_cert", &cert), ("etcd_key", &key)] {
            if given.is_some() {
                let text = format!("{name} says nothing without etcd = [\"https://HOST:2379\"]");
                reader.problem_at(&format!("cluster.{name}"), text);
            }
        }
        return None;
    };
    let secure = urls.iter().filter(|url| url.starts_with("https:")).count();
    if secure != 0 && secure != urls.len() {
        let text =
            "some members are asked in secret and some are not: use https:// for all, or http:// for all";
        reader.problem_at("cluster.etcd", text.to_string());
    }
    if secure == 0 && (ca.is_some() || cert.is_some() || key.is_some()) {
        let text = "certificates are of use with https:// only";
        reader.problem_at("cluster.etcd", text.to_string());
    }
    if secure > 0 && ca.is_none() {
        let text = "https:// needs etcd_ca = \"/etc/.../ca.pem\": who signed the certificates of etcd";
        reader.problem_at("cluster.etcd", text.to_string());
    }
    if cert.is_some() != key.is_some() {
        let (there, missing) =
            if cert.is_some() { ("etcd_cert", "etcd_key") } else { ("etcd_key", "etcd_cert") };
        reader.problem_at(&format!("cluster.{there}"), format!("{there} needs {missing} as well"));
    }
    Some(EtcdPlace { urls: urls.clone(), ca, cert, key })
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Texts(texts) if texts.is_empty())
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
