//! `twinfs witness`: the third process that keeps one record per volume, so that two nodes never both decide.
//!
//! Decides nothing: it opens the directory, reads the key and serves. Invariant: it never holds the cluster's key.
#![allow(clippy::disallowed_methods, reason = "a shell: binds a socket")]

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

use super::{Exit, Failure, Output};
use crate::config::WitnessKeys;
use crate::daemon::witness::{Server, Store};
use crate::sys::{notify, secret};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Address and UDP port to listen on
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8791")]
    pub listen: SocketAddr,
    /// Directory for the records; nothing else may use it
    #[arg(long, value_name = "DIR", default_value = "/var/lib/twinfs-witness")]
    pub dir: PathBuf,
    /// The witness's own key, from "twinfs key generate --witness"
    #[arg(long, value_name = "FILE", default_value = "/etc/twinfs/witness.key")]
    pub key_file: PathBuf,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let config = |text: String| Failure::new(Exit::CONFIG, text);
    if !args.key_file.exists() {
        let text = "is missing: \"twinfs key generate --witness FILE\" on a node makes it; move it here";
        return Err(config(format!("{} {text}", args.key_file.display())).into());
    }
    let text = secret::read(&args.key_file).map_err(|error| config(error.to_string()))?;
    let keys =
        WitnessKeys::parse(&text).map_err(|error| config(format!("{}: {error}", args.key_file.display())))?;
    let store = Store::open(&args.dir).map_err(|error| Failure::new(Exit::FAILED, error.to_string()))?;
    if let Some(aside) = store.damaged() {
        output.note(format_args!(
            "the records were damaged and are now {}: every volume is unknown until both nodes enrol it again",
            aside.display()
        ));
    }
    let volumes = store.image().records.len();
    let socket = UdpSocket::bind(args.listen).map_err(|error| {
        let text = format!("cannot listen on {}: {error}; is another witness running there?", args.listen);
        Failure::new(Exit::FAILED, text)
    })?;
    let address = socket.local_addr()?;
    output.line(format_args!("witness listens on {address}, {volumes} volumes known"));
    output.object(serde_json::json!({ "listen": address, "volumes": volumes }));
    notify::ready();
    let error = Server::new(keys, store).serve(&socket);
    Err(anyhow::Error::from(error).context("the witness's socket failed"))
}
