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
    /// The witness's own key, from "twinfs key generate --witness"; once for each cluster
    #[arg(long, value_name = "FILE", default_value = "/etc/twinfs/witness.key")]
    pub key_file: Vec<PathBuf>,
}

/// The directory of each key's records: of a single cluster the directory itself, of several one below it, named as
/// the key file is.
fn places(args: &Args) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let usage = |text: String| Failure::new(Exit::USAGE, text);
    if let [only] = args.key_file.as_slice() {
        return Ok(vec![(only.clone(), args.dir.clone())]);
    }
    let mut places: Vec<(PathBuf, PathBuf)> = Vec::new();
    for file in &args.key_file {
        let stem = file.file_stem().ok_or_else(|| usage(format!("{}: not a file", file.display())))?;
        let dir = args.dir.join(stem);
        if places.iter().any(|(_, taken)| *taken == dir) {
            let text =
                format!("two key files are named {}: give each cluster's its own name", file.display());
            return Err(usage(text));
        }
        places.push((file.clone(), dir));
    }
    let records = args.dir.join("records");
    if records.is_file() {
        let text = format!(
            "{} are those of the only cluster so far: move them to {}/NAME/records, NAME being its key file's",
            records.display(),
            args.dir.display()
        );
        return Err(Failure::new(Exit::CONFIG, text));
    }
    Ok(places)
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let config = |text: String| Failure::new(Exit::CONFIG, text);
    let mut clusters: Vec<(WitnessKeys, Store)> = Vec::new();
    for (file, dir) in places(args)? {
        if !file.exists() {
            let text = "is missing: \"twinfs key generate --witness FILE\" on a node makes it; move it here";
            return Err(config(format!("{} {text}", file.display())).into());
        }
        let text = secret::read(&file).map_err(|error| config(error.to_string()))?;
        let keys =
            WitnessKeys::parse(&text).map_err(|error| config(format!("{}: {error}", file.display())))?;
        if clusters.iter().any(|(other, _)| *other == keys) {
            return Err(config(format!("{}: this key was given twice", file.display())).into());
        }
        let store = Store::open(&dir).map_err(|error| Failure::new(Exit::FAILED, error.to_string()))?;
        if let Some(aside) = store.damaged() {
            output.note(format_args!(
                "the records were damaged and are now {}: every volume is unknown until both nodes enrol it again",
                aside.display()
            ));
        }
        clusters.push((keys, store));
    }
    let volumes: usize = clusters.iter().map(|(_, store)| store.image().records.len()).sum();
    let socket = UdpSocket::bind(args.listen).map_err(|error| {
        let text = format!("cannot listen on {}: {error}; is another witness running there?", args.listen);
        Failure::new(Exit::FAILED, text)
    })?;
    let address = socket.local_addr()?;
    output.line(format_args!("witness listens on {address}, {volumes} volumes known"));
    output.object(serde_json::json!({ "listen": address, "volumes": volumes }));
    notify::ready();
    let error = Server::of(clusters).serve(&socket);
    Err(anyhow::Error::from(error).context("the witness's socket failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &std::path::Path, files: &[&str]) -> Args {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Args { listen, dir: dir.to_path_buf(), key_file: files.iter().map(PathBuf::from).collect() }
    }

    #[test]
    fn each_cluster_has_a_directory_of_its_own_and_a_single_one_the_directory_itself() {
        let dir = std::env::temp_dir().join(format!("twinfs-witness-places-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let only = places(&args(&dir, &["/k/office.key"])).ok().unwrap();
        assert_eq!(only, [(PathBuf::from("/k/office.key"), dir.clone())]);
        let two = places(&args(&dir, &["/k/office.key", "/k/branch.key"])).ok().unwrap();
        assert_eq!(two[1], (PathBuf::from("/k/branch.key"), dir.join("branch")));
        assert!(places(&args(&dir, &["/k/office.key", "/l/office.key"])).is_err(), "one name, two clusters");
        std::fs::write(dir.join("records"), b"of the first cluster").unwrap();
        let told = places(&args(&dir, &["/k/office.key", "/k/branch.key"])).err().unwrap();
        assert!(told.to_string().contains("move them to"), "{told}");
        assert!(places(&args(&dir, &["/k/office.key"])).is_ok());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
