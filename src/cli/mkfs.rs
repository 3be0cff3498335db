//! `twinfs mkfs`, also `mkfs.twinfs`: makes an image with an empty file system for use without a peer.
//!
//! Decides what may be overwritten (nothing with a known signature, unless forced). Does not know layouts. Invariant: a
//! refused or dry run changes no byte.
#![allow(clippy::disallowed_methods, reason = "a shell: makes files, reads the clock")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;

use super::standalone::{self, Taken};
use super::{Exit, Failure, Output};
use crate::base::{Generation, Members, NodeId, Record, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark, State, Time};
use crate::fs::Store;
use crate::image::{self, Image, LocalBlocks, OpenOptions, Probe};
use crate::sys::random;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name of the file system, at most 63 bytes
    #[arg(short = 'L', value_name = "LABEL", default_value = "")]
    label: String,
    /// Identity as 32 hexadecimal digits, with or without dashes; random if not given
    #[arg(short = 'U', value_name = "UUID")]
    uuid: Option<String>,
    /// Block size; only 4096 exists
    #[arg(short = 'b', value_name = "BYTES", default_value_t = 4096)]
    block_size: u32,
    /// Overwrite whatever is there
    #[arg(short = 'f', long)]
    force: bool,
    /// Say what would be made, change nothing
    #[arg(short = 'n')]
    dry_run: bool,
    /// Print nothing on success
    #[arg(short = 'q')]
    quiet: bool,
    /// A file or a block device; a file that is missing is made
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Size of a file, such as 20G; needed when it does not exist yet
    #[arg(value_name = "SIZE")]
    size: Option<String>,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let uuid = match &args.uuid {
        Some(text) => parse_uuid(text)?,
        None => random::id128(),
    };
    if args.block_size != 4096 {
        return Err(Failure::new(Exit::USAGE, "the block size is 4096 bytes; leave out -b").into());
    }
    if args.label.len() > 63 {
        return Err(Failure::new(Exit::USAGE, "a label has at most 63 bytes").into());
    }
    let size = args.size.as_deref().map(parse_size).transpose()?;
    check_target(args, size)?;
    if args.dry_run {
        output.line(format_args!("{} would be made, uuid {uuid:032x}", args.image.display()));
        return Ok(Exit::DONE);
    }
    let taken = standalone::take_for_mkfs(&args.image, size)?;
    make(&taken, args, uuid)?;
    if !args.quiet {
        let bytes = taken.disk.len_bytes();
        output.line(format_args!("{}: {bytes} bytes, uuid {uuid:032x}", args.image.display()));
        output.object(serde_json::json!({
            "image": args.image, "bytes": bytes, "uuid": format!("{uuid:032x}"), "label": args.label,
        }));
    }
    Ok(Exit::DONE)
}

/// Looks at what is there without changing it.
fn check_target(args: &Args, size: Option<u64>) -> anyhow::Result<()> {
    let path = args.image.display();
    if !args.image.exists() {
        return match size {
            Some(_) => Ok(()),
            None => {
                let text = format!("{path} does not exist; give a size to make it, such as 20G");
                Err(Failure::new(Exit::USAGE, text).into())
            }
        };
    }
    let disk = standalone::open_disk(&args.image, false)?;
    let found = match image::probe(&*disk) {
        _ if args.force => return Ok(()),
        Ok(Probe::Blank) => return Ok(()),
        Ok(Probe::TwinfsImage { label, uuid, .. }) => format!("a twinfs image (uuid {uuid:032x} '{label}')"),
        Ok(Probe::OtherSignature { name }) => format!("{name} data"),
        // Too short to hold anything of ours.
        Err(_) if disk.len_bytes() == 0 => return Ok(()),
        Err(error) => error.to_string(),
    };
    let text = format!("{path} holds {found}; use -f to overwrite it");
    Err(Failure::new(Exit::WOULD_LOSE_DATA, text).into())
}

fn make(taken: &Taken, args: &Args, uuid: u128) -> anyhow::Result<()> {
    let path = args.image.display().to_string();
    let options = image::FormatOptions { state: fresh_state(), uuid, label: args.label.clone(), al_slots: 0 };
    image::format(&taken.disk, &options).context(path.clone())?;
    let image = Image::open(Arc::clone(&taken.disk), &OpenOptions::read_write()).context(path.clone())?;
    let image = Arc::new(image);
    let options =
        crate::fs::FormatOptions { log_id: random::id128(), now: now(), uid: 0, gid: 0, ring_blocks: None };
    let local = LocalBlocks::new(Arc::clone(&image)).context(path.clone())?;
    Store::format(Arc::new(local), &options).context(path.clone())?;
    image.close().context(path)
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

/// A volume of one: no peer has ever seen it.
fn fresh_state() -> State {
    let made = GenEntry {
        id: Generation(random::id128()),
        minted_by: NodeId::A,
        at_v: 1,
        reason: GenReason::Made,
        first_txn: 0,
    };
    State {
        volume: VolumeId(random::id128()),
        node: NodeId::A,
        incarnation: random::id128(),
        record: Some(Record { v: 1, members: Members::only(NodeId::A), primary: NodeId::A }),
        gens: vec![made],
        bitmap_base: Generation(0),
        full: true,
        resync: ResyncMark::None,
        boot_epoch: 0,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        diverged: false,
        apart: crate::format::Apart::default(),
        witness_incarnation: 0,
    }
}

fn parse_uuid(text: &str) -> anyhow::Result<u128> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(uuid) if digits.len() == 32 => Ok(uuid),
        _ => Err(Failure::new(Exit::USAGE, format!("'{text}' is no UUID: 32 hexadecimal digits")).into()),
    }
}

/// `20G`, `512M`, `1048576`: powers of 1024, an optional `iB` or `B` behind the letter.
fn parse_size(text: &str) -> anyhow::Result<u64> {
    let trimmed = text.trim_end_matches('B').trim_end_matches('i');
    let (number, shift) = match trimmed.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(bad_size(text)),
            };
            (&trimmed[..at], shift)
        }
        _ => (trimmed, 0),
    };
    let number: u64 = number.parse().map_err(|_| bad_size(text))?;
    number.checked_mul(1 << shift).ok_or_else(|| bad_size(text))
}

fn bad_size(text: &str) -> anyhow::Error {
    Failure::new(Exit::USAGE, format!("'{text}' is no size; write it like 20G or 512M")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(parse_size("20G").unwrap(), 20 << 30);
        assert_eq!(parse_size("512MiB").unwrap(), 512 << 20);
        assert_eq!(parse_size("4096").unwrap(), 4096);
        for wrong in ["", "G", "20X", "-1", "99999999T"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_uuid_may_have_dashes() {
        let plain = parse_uuid("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(parse_uuid("01234567-89ab-cdef-0123-456789abcdef").unwrap(), plain);
        assert!(parse_uuid("0123").is_err());
    }
}
