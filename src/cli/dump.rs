//! `twinfs dump`: the structures of an image that nobody uses, as text or JSON.
//!
//! Decides how each structure is shown. Reads with `offline`, so that an image can be looked at on any machine, also
//! one that may not serve it. Invariant: the image is opened for reading only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::base::{BlockNo, Ino};
use crate::format::{
    ExtentRec, GenEntry, InodeRec, LogOp, ResyncMark, State, TableId, UndoStage, key_ino, second_of_key,
};
use crate::image::{Disk, Image, OpenOptions};
use crate::offline::{self, ReadOnlyFile, Record, Tables, Volume};

use crate::sys::lock::ImageLock;

use super::{Exit, Failure, Output};

mod tree;

/// A process that was told to stop a moment ago may still hold its image.
const LOCK_WAIT: Duration = Duration::from_secs(2);

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Identity, size and state of the image
    Superblock {
        /// Image file or device
        image: PathBuf,
    },
    /// Who is in sync and primary by the image's own record, and its generations
    Record {
        /// Image file or device
        image: PathBuf,
    },
    /// One block: its digest and its bytes
    Block {
        /// Number of the block
        number: u64,
        /// Image file or device
        image: PathBuf,
    },
    /// One inode: its record, attributes and extents
    Inode {
        /// Number of the inode
        number: u64,
        /// Image file or device
        image: PathBuf,
    },
    /// All names, with inode, mode, owner and size
    Tree {
        /// Image file or device
        image: PathBuf,
    },
    /// Records of the intent log behind the last checkpoint
    Log {
        /// Image file or device
        image: PathBuf,
    },
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    match &args.what {
        What::Superblock { image } => superblock(&open(image)?.image, output),
        What::Record { image } => record(&open(image)?.image, output),
        What::Block { number, image } => block(&open(image)?.image, BlockNo(*number), output)?,
        What::Inode { number, image } => inode(&volume(&open(image)?, image)?.tables, Ino(*number), output)?,
        What::Tree { image } => tree::show(&volume(&open(image)?, image)?.tables, output)?,
        What::Log { image } => log(&volume(&open(image)?, image)?, output),
    }
    Ok(Exit::DONE)
}

/// An image that nobody writes to while it is looked at.
struct Opened {
    image: Arc<Image>,
    _lock: ImageLock,
}

fn open(path: &Path) -> anyhow::Result<Opened> {
    let lock =
        ImageLock::shared(path, LOCK_WAIT).map_err(|error| Failure::new(Exit::CONFIG, error.to_string()))?;
    let broken = |text: String| Failure::new(Exit::CONFIG, format!("{}: {text}", path.display()));
    let disk: Arc<dyn Disk> = Arc::new(ReadOnlyFile::open(path).map_err(|error| broken(error.to_string()))?);
    let image = Image::open(disk, &OpenOptions::read_only()).map_err(|error| broken(error.to_string()))?;
    Ok(Opened { image: Arc::new(image), _lock: lock })
}

fn volume(opened: &Opened, path: &Path) -> anyhow::Result<Volume> {
    let volume = offline::superblock(&opened.image).and_then(|(sup, _)| Volume::open(&opened.image, sup));
    volume.map_err(|text| Failure::new(Exit::CONFIG, format!("{}: {text}", path.display())).into())
}

/// Prints an object: `name value` lines, or one JSON object.
fn show(output: &Output, fields: Value) {
    if let Value::Object(fields) = &fields {
        for (name, value) in fields {
            match value {
                Value::Array(items) => {
                    items.iter().for_each(|item| output.line(format_args!("{name:14} {item}")))
                }
                Value::String(text) => output.line(format_args!("{name:14} {text}")),
                other => output.line(format_args!("{name:14} {other}")),
            }
        }
    }
    output.object(fields);
}

fn superblock(image: &Image, output: &Output) {
    let state = image.state();
    show(
        output,
        json!({
            "label": image.label(),
            "uuid": format!("{:032x}", image.uuid()),
            "volume": state.volume.to_string(),
            "node": state.node.to_string(),
            "incarnation": format!("{:032x}", state.incarnation),
            "replaced": state.retired.iter().map(|one| format!("{one:032x}")).collect::<Vec<_>>(),
            "blocks": image.block_count(),
            "clean": !image.was_unclean(),
            "full_copy_due": state.full,
            "boot_epoch": state.boot_epoch,
            "dirty_blocks": image.dirty_blocks(),
            "undo": undo(image),
        }),
    );
}

/// What is kept of the state before a resync.
fn undo(image: &Image) -> String {
    let view = image.undo();
    let kept = format!("{} blocks kept, {} of {} bytes used", view.blocks, view.used_bytes, view.room_bytes);
    match (view.stage, view.damage) {
        (UndoStage::None, _) => format!("none ({} bytes of room)", view.room_bytes),
        (UndoStage::Saving, None) => kept,
        (UndoStage::GoingBack, None) => format!("going back: {kept}"),
        (UndoStage::GivenUp, _) => "given up: there was no room".to_string(),
        (_, Some(damage)) => format!("unusable: {damage}"),
    }
}

fn record(image: &Image, output: &Output) {
    let State { record, gens, bitmap_base, resync, .. } = image.state();
    let generation = |entry: &GenEntry| {
        format!("{} minted by {} at v {} ({:?})", entry.id, entry.minted_by, entry.at_v, entry.reason)
    };
    show(
        output,
        json!({
            "v": record.map(|record| record.v),
            "members": record.map(|record| record.members.to_string()),
            "primary": record.map(|record| record.primary.to_string()),
            "bitmap_base": bitmap_base.to_string(),
            "resync": match resync {
                ResyncMark::None => "none".to_string(),
                ResyncMark::Target { of } => format!("target of {of}"),
            },
            "generations": gens.iter().map(generation).collect::<Vec<_>>(),
        }),
    );
}

fn block(image: &Image, block: BlockNo, output: &Output) -> anyhow::Result<()> {
    if block.0 >= image.block_count() {
        let text = format!("block {}: the image has {}", block.0, image.block_count());
        return Err(Failure::new(Exit::USAGE, text).into());
    }
    let digest = image.digests(block, 1)?.first().copied().flatten();
    let mut bytes = vec![0; BlockNo::SIZE];
    let read = image.read(block, &mut bytes);
    let digest_text = digest.map_or_else(|| "never written".to_string(), |digest| format!("{digest:?}"));
    let problem = read.err().map(|error| error.to_string());
    output.line(format_args!(
        "digest {digest_text}{}",
        problem.as_ref().map_or(String::new(), |p| format!("; {p}"))
    ));
    let mut last: Option<&[u8]> = None;
    let mut skipped = false;
    for (row, line) in bytes.chunks(16).enumerate() {
        // Equal lines once, as hexdump(1) does.
        if last == Some(line) {
            if !skipped {
                output.line("*");
            }
            skipped = true;
            continue;
        }
        (last, skipped) = (Some(line), false);
        let hex: String = line.iter().map(|byte| format!("{byte:02x} ")).collect();
        let text: String = line
            .iter()
            .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' })
            .collect();
        output.line(format_args!("{:04x}  {hex} |{text}|", row * 16));
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    output.object(json!({ "block": block.0, "digest": digest_text, "problem": problem, "bytes": hex }));
    Ok(())
}

fn inode(tables: &dyn Tables, ino: Ino, output: &Output) -> anyhow::Result<()> {
    let found =
        tables.get(TableId::Inodes, &key_ino(ino)).map_err(|text| Failure::new(Exit::CONFIG, text))?;
    let rec = found.and_then(|bytes| InodeRec::decode(&bytes));
    let rec = rec.ok_or_else(|| Failure::new(Exit::FAILED, format!("there is no inode {}", ino.0)))?;
    let (mut extents, mut xattrs) = (Vec::new(), Vec::new());
    let of_ino = |key: &[u8]| key.starts_with(&ino.0.to_be_bytes());
    let read = tables.scan(TableId::Extents, &mut |key, value| {
        if let (true, Some(first), Some(rec)) = (of_ino(key), second_of_key(key), ExtentRec::decode(value)) {
            let unwritten = if rec.unwritten { ", unwritten" } else { "" };
            extents.push(format!("{first}+{} at {}{unwritten}", rec.count, rec.start.0));
        }
    });
    let read = read.and_then(|()| {
        tables.scan(TableId::Xattrs, &mut |key, value| {
            if of_ino(key) {
                xattrs.push(format!("{}={}", key[8..].escape_ascii(), value.escape_ascii()));
            }
        })
    });
    read.map_err(|text| Failure::new(Exit::CONFIG, text))?;
    let time = |time: crate::format::Time| format!("{}.{:09}", time.secs, time.nanos);
    show(
        output,
        json!({
            "inode": ino.0,
            "kind": format!("{:?}", rec.kind()),
            "mode": format!("{:o}", rec.mode),
            "uid": rec.uid,
            "gid": rec.gid,
            "links": rec.nlink,
            "size": rec.size,
            "blocks": rec.blocks,
            "generation": rec.generation,
            "flags": rec.flags,
            "parent": rec.parent.0,
            "target": rec.target.escape_ascii().to_string(),
            "atime": time(rec.atime),
            "mtime": time(rec.mtime),
            "ctime": time(rec.ctime),
            "btime": time(rec.btime),
            "transaction": rec.txn,
            "xattrs": xattrs,
            "extents": extents,
        }),
    );
    Ok(())
}

fn log(volume: &Volume, output: &Output) {
    output.line(format_args!("checkpoint: record {} and before are in the tables", volume.meta.applied));
    for record in &volume.records {
        output.line(format_args!(
            "record {}: {} blocks, data for {}",
            record.seq,
            record.blocks,
            record.homes.len()
        ));
        let ops = ops_of(record);
        ops.iter().for_each(|op| output.line(format_args!("  {op}")));
        output.object(json!({ "record": record.seq, "blocks": record.blocks, "ops": ops,
            "homes": record.homes.iter().map(|home| home.0).collect::<Vec<_>>() }));
    }
    volume.log_problems.iter().for_each(|text| output.note(text));
}

fn ops_of(record: &Record) -> Vec<String> {
    let mut ops = Vec::new();
    let whole = record.each_op(|op| {
        ops.push(match op {
            LogOp::Set { table, key, value: Some(value) } => {
                format!("put {} {} ({} bytes)", table.name(), key.escape_ascii(), value.len())
            }
            LogOp::Set { table, key, value: None } => {
                format!("delete {} {}", table.name(), key.escape_ascii())
            }
            LogOp::Alloc { start, count } => format!("take {}+{count}", start.0),
            LogOp::Free { start, count } => format!("free {}+{count}", start.0),
        });
    });
    if !whole {
        ops.push("not readable from here on".to_string());
    }
    ops
}
