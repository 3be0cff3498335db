//! fsck.twinfs: the independent checker. Reads an image that nobody uses and says what is wrong.
//!
//! Decides the calling convention of fsck(8): options and the sum of exit bits. Shares only `base`, `format` and the
//! read side of `image` with the program it checks. Invariant: nothing is written to the image.
#![allow(clippy::disallowed_methods, reason = "a program of its own: arguments, files")]

mod files;
mod findings;
mod medium;
mod options;
mod space;
mod store;

use std::fs::File;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use twinfs::format::ResyncMark;
use twinfs::image::Disk;
use twinfs::offline::ReadOnlyFile;
use twinfs::sys::lock::ImageLock;

use findings::{Findings, Progress};
use medium::Stop;

use options::{Options, ProgressTo};

/// Bits of the exit status, as in fsck(8).
const CLEAN: u8 = 0;
const ERRORS_LEFT: u8 = 4;
const OPERATIONAL: u8 = 8;
const USAGE: u8 = 16;
/// A daemon that was told to stop a moment ago may still hold its image.
const LOCK_WAIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let options = match options::parse(&arguments) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("fsck.twinfs: {text}\nusage: fsck.twinfs [-apnyfMTV] [-C [FD]] IMAGE");
            return ExitCode::from(USAGE);
        }
    };
    if !options.no_title {
        println!("fsck.twinfs {}", env!("CARGO_PKG_VERSION"));
    }
    let Some(image) = &options.image else { return ExitCode::from(CLEAN) };
    ExitCode::from(run(Path::new(image), &options))
}

fn run(path: &Path, options: &Options) -> u8 {
    let mut progress = match progress(path, options) {
        Ok(progress) => progress,
        Err(text) => {
            eprintln!("fsck.twinfs: {text}");
            return OPERATIONAL;
        }
    };
    let mut findings = Findings::default();
    let outcome = check(path, options, &mut findings, &mut progress);
    progress.end();
    for line in findings.report() {
        println!("{line}");
    }
    for line in findings.notes() {
        println!("note: {line}");
    }
    match outcome {
        Err(Stop::Unusable(text)) => {
            eprintln!("fsck.twinfs: {}: {text}", path.display());
            return OPERATIONAL;
        }
        Err(Stop::Damaged) if findings.count() == 0 => findings.add("image", "not readable"),
        Err(Stop::Damaged) => {}
        Ok(Some(seen)) => println!(
            "{}: {} inodes, {} of {} blocks free, {} log records",
            path.display(),
            seen.inodes,
            seen.free,
            seen.blocks,
            seen.records
        ),
        Ok(None) => {}
    }
    match findings.count() {
        0 => {
            println!("{}: clean", path.display());
            CLEAN
        }
        count => {
            println!("{}: {count} things are wrong", path.display());
            if options.repair {
                println!(
                    "nothing was repaired: this version repairs nothing; copy the volume again from the peer"
                );
            }
            ERRORS_LEFT
        }
    }
}

fn check(
    path: &Path,
    options: &Options,
    findings: &mut Findings,
    progress: &mut Progress,
) -> Result<Option<store::Seen>, Stop> {
    // Held to the end: what changes while it is read cannot be checked.
    let _lock = ImageLock::shared(path, LOCK_WAIT).map_err(|error| Stop::Unusable(error.to_string()))?;
    let file = ReadOnlyFile::open(path).map_err(|error| Stop::Unusable(error.to_string()))?;
    let disk: Arc<dyn Disk> = Arc::new(file);
    let image = Arc::new(medium::check(&disk, options.contents, findings, progress)?);
    let state = image.state();
    if state.record.is_none() && state.gens.is_empty() {
        findings.note("a blank copy: it gets its filesystem from the peer".to_string());
        return Ok(None);
    }
    if let ResyncMark::Target { .. } = state.resync {
        findings.note(
            "a copy is being brought up to date here; its files can be checked when that is done".to_string(),
        );
        return Ok(None);
    }
    progress.pass();
    Ok(store::check(&image, findings))
}

fn progress(path: &Path, options: &Options) -> Result<Progress, String> {
    let device = path.display().to_string();
    match options.progress {
        ProgressTo::Nowhere => Ok(Progress::silent()),
        ProgressTo::Terminal if std::io::stderr().is_terminal() => {
            Ok(Progress::to(Box::new(std::io::stderr()), false, &device))
        }
        ProgressTo::Terminal => Ok(Progress::silent()),
        ProgressTo::Descriptor(number) => {
            // Opened anew by its name: the descriptor itself stays the caller's.
            let file = File::options().write(true).open(format!("/proc/self/fd/{number}"));
            let file = file.map_err(|error| format!("-C {number}: {error}"))?;
            Ok(Progress::to(Box::new(file), true, &device))
        }
    }
}
