//! fsck.twinfs: the independent checker. Reads an image that nobody uses, says what is wrong, and puts it right.
//!
//! Decides the calling convention of fsck(8): options and the sum of exit bits. Shares only `base`, `format` and
//! `image` with the program it checks, never its allocator or its transactions. Invariants: without `-p` or `-y`
//! nothing is written; a repair is worked out before its first write, and what it left is examined again.
#![allow(clippy::disallowed_methods, reason = "a program of its own: arguments, files, signals")]

mod apply;
mod content;
mod examine;
mod files;
mod findings;
mod log;
mod medium;
mod options;
mod overlay;
mod pair;
mod plan;
mod plausible;
mod rebuild;
mod report;
mod source;
mod space;
mod tables;
mod tree;
mod volume;
mod xxh3;

use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use twinfs::image::Disk;
use twinfs::offline::ReadOnlyFile;
use twinfs::sys::disk::FileDisk;
use twinfs::sys::lock::ImageLock;
use twinfs::sys::signals::{Signals, Woken};

use examine::{Examined, Grow, examine};
use findings::{Findings, Progress};
use medium::Stop;
use options::{Options, ProgressTo, Repair};
use report::Report;

/// Bits of the exit status, as in fsck(8).
const CLEAN: u8 = 0;
const CORRECTED: u8 = 1;
const ERRORS_LEFT: u8 = 4;
const OPERATIONAL: u8 = 8;
const USAGE: u8 = 16;
const CANCELLED: u8 = 32;
/// A daemon that was told to stop a moment ago may still hold its image.
const LOCK_WAIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let options = match options::parse(&arguments) {
        Ok(options) => options,
        Err(text) => {
            eprintln!(
                "fsck.twinfs: {text}\nusage: fsck.twinfs [-apnyfMTV] [-C [FD]] [--force] [--json] IMAGE"
            );
            return ExitCode::from(USAGE);
        }
    };
    if !options.no_title && !options.json {
        println!("fsck.twinfs {}", env!("CARGO_PKG_VERSION"));
    }
    let Some(image) = &options.image else { return ExitCode::from(CLEAN) };
    let watch = watch_signals();
    let report = run(Path::new(image), &options);
    drop(watch);
    report.print(options.json);
    ExitCode::from(report.exit)
}

/// Ends the process with its own code when somebody wants it to end: a repair may be cut off anywhere.
fn watch_signals() -> Option<UnixStream> {
    let signals = Signals::block().ok()?;
    let (here, mut there) = UnixStream::pair().ok()?;
    std::thread::spawn(move || {
        if let Ok(Woken::Signal) = signals.wait(&mut there) {
            eprintln!("fsck.twinfs: cancelled");
            std::process::exit(CANCELLED.into());
        }
    });
    Some(here)
}

fn run(path: &Path, options: &Options) -> Report {
    let mut report = Report { image: path.display().to_string(), ..Report::default() };
    let outcome = progress(path, options).map_err(Stop::Unusable).and_then(|mut progress| {
        let outcome = attempt(path, options, &mut report, &mut progress);
        progress.end();
        outcome
    });
    match outcome {
        Ok(()) => {}
        Err(Stop::Unusable(text)) => report.fail(text),
        Err(Stop::Damaged) => {
            if report.findings.count() == 0 {
                report.findings.lose("image", "not readable");
            }
            report.exit |= ERRORS_LEFT;
        }
    }
    report
}

fn attempt(path: &Path, options: &Options, report: &mut Report, progress: &mut Progress) -> Result<(), Stop> {
    let unusable = |error: &dyn std::fmt::Display| Stop::Unusable(error.to_string());
    let writes = options.repair > Repair::Nothing;
    // Held to the end: what changes while it is read cannot be checked.
    let lock = if writes { ImageLock::take(path, LOCK_WAIT) } else { ImageLock::shared(path, LOCK_WAIT) };
    let _lock = lock.map_err(|error| unusable(&error))?;
    let disk: Arc<dyn Disk> = match writes {
        true => Arc::new(FileDisk::open(path, true).map_err(|error| unusable(&error))?),
        false => Arc::new(ReadOnlyFile::open(path).map_err(|error| unusable(&error))?),
    };
    let grow = |len: u64| lengthened(path, len);
    let Report { findings, .. } = &mut *report;
    let (seen, outcome) = examine(&disk, options.contents, findings, progress, |examined, findings| {
        settle(&disk, &grow, options, examined, findings)
    })?;
    report.seen = seen;
    match outcome {
        Outcome::Nothing => {}
        Outcome::Left(why) => {
            report.refused = why;
            report.exit |= ERRORS_LEFT;
        }
        Outcome::Failed(text) => {
            report.exit |= ERRORS_LEFT;
            report.fail(format!("the repair stopped: {text}"));
        }
        Outcome::Repaired => {
            report.repaired = true;
            report.exit |= CORRECTED;
            // It may have become longer.
            let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path, true).map_err(|error| unusable(&error))?);
            again(&disk, options, report, progress)?;
        }
    }
    Ok(())
}

/// What became of the findings.
enum Outcome {
    /// There was nothing to do.
    Nothing,
    /// Errors are left; why, if a repair was wanted.
    Left(Option<String>),
    Failed(String),
    Repaired,
}

fn settle(
    disk: &Arc<dyn Disk>,
    grow: &Grow<'_>,
    options: &Options,
    examined: &Examined<'_>,
    findings: &mut Findings,
) -> Outcome {
    let wrong = findings.count() > 0;
    let wanted = wrong || (findings.is_mendable() && options.repair > Repair::Nothing);
    if !wanted {
        return Outcome::Nothing;
    }
    let pair = pair::is_pair(&examined.medium.state);
    let why = match options.repair {
        Repair::Nothing => None,
        // What a crash left is mended at the next mount as well.
        _ if pair && !options.force && !wrong => return Outcome::Nothing,
        _ if pair && !options.force => Some(pair::refusal(&examined.medium.state)),
        _ if examined.beyond_repair => {
            Some("nothing was repaired: too much is lost; copy the volume again from the peer".to_string())
        }
        Repair::Safe if findings.lossy() > 0 => Some(format!(
            "nothing was repaired: {} repairs would lose something; run fsck.twinfs -y to allow them",
            findings.lossy()
        )),
        _ => {
            return match examined.repair(disk, grow) {
                Ok(()) => Outcome::Repaired,
                Err(text) => Outcome::Failed(text),
            };
        }
    };
    Outcome::Left(why)
}

/// The image with the length that it had. What was lost reads as zeros.
fn lengthened(path: &Path, len: u64) -> Result<Arc<dyn Disk>, String> {
    let text = |error: std::io::Error| format!("{}: {error}", path.display());
    File::options().write(true).open(path).and_then(|file| file.set_len(len)).map_err(text)?;
    Ok(Arc::new(FileDisk::open(path, true).map_err(text)?))
}

/// Examines what a repair left.
fn again(
    disk: &Arc<dyn Disk>,
    options: &Options,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<(), Stop> {
    let mut left = Findings::default();
    let (seen, ()) = examine(disk, options.contents, &mut left, progress, |_, _| ())?;
    report.seen = seen;
    if left.count() > 0 {
        report.exit |= ERRORS_LEFT;
        report.left = Some(left);
    }
    Ok(())
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

#[cfg(test)]
mod tests;
