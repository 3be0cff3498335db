//! Runs another program: a list of arguments, never a shell; a fixed environment; a time limit for its whole process
//! group.
//!
//! Does not know what the program does or what its exit code means. Invariants: the call returns within the limit plus
//! `GRACE`; what the program prints can neither block it nor fill memory; a daemon that it leaves behind is not
//! disturbed.
#![allow(clippy::disallowed_methods, reason = "a shell: processes and the clock")]

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Whence, lseek};

/// Search path of every program that is started.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Between the request to stop and the kill.
const GRACE: Duration = Duration::from_secs(2);
/// Output that is kept.
const OUTPUT_BYTES: u64 = 64 << 10;

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// Absolute, or a bare name to be found in the fixed search path.
    pub path: PathBuf,
    pub args: Vec<String>,
    /// Added to the fixed environment (PATH, LANG=C).
    pub env: Vec<(String, String)>,
    pub timeout: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    /// The first 64 KiB of standard output and standard error together.
    pub output: String,
}

/// The end of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
    /// Its time was over: its process group was killed.
    TimedOut,
}

/// Why a program did not even start.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {}: {source}", .path.display())]
pub struct ExecError {
    pub path: PathBuf,
    pub source: std::io::Error,
}

impl Outcome {
    pub fn succeeded(&self) -> bool {
        self.end == End::Exit(0)
    }

    /// `exit code 3: the last line it printed`.
    pub fn describe(&self) -> String {
        let end = match self.end {
            End::Exit(code) => format!("exit code {code}"),
            End::Signal(number) => format!("killed by signal {number}"),
            End::TimedOut => "not finished in time, killed".to_string(),
        };
        match self.output.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => format!("{end}: {}", line.trim()),
            None => end,
        }
    }
}

/// Runs `program` to its end. Blocks.
pub fn run(program: &Program) -> Result<Outcome, ExecError> {
    run_unless(program, &AtomicBool::new(false))
}

/// `run`, with `input` to be read from standard input: what no list of processes may show.
pub fn run_fed(program: &Program, input: &[u8]) -> Result<Outcome, ExecError> {
    let fed = || -> std::io::Result<Outcome> {
        let mut file = File::from(memfd_create("twinfs-input", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(input)?;
        file.rewind()?;
        start(program, file.into(), &AtomicBool::new(false))
    };
    fed().map_err(|source| ExecError { path: program.path.clone(), source })
}

/// Whether root alone, or whoever runs this, can change what is executed as `path`: the file and every directory above
/// it. The error says what is wrong.
pub fn check_trusted(path: &Path) -> Result<(), String> {
    let real = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    let me = nix::unistd::geteuid().as_raw();
    for part in real.ancestors() {
        let meta = part.metadata().map_err(|error| format!("{}: {error}", part.display()))?;
        let shown = part.display();
        if meta.uid() != 0 && meta.uid() != me {
            return Err(format!("{shown} belongs to user {}: chown root {shown}", meta.uid()));
        }
        // A sticky directory lets nobody rename what is not his own.
        let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        if meta.mode() & 0o022 != 0 && !sticky {
            return Err(format!("{shown} can be changed by others: chmod go-w {shown}"));
        }
    }
    let meta = real.metadata().map_err(|error| format!("{}: {error}", path.display()))?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err(format!("{} is no program", path.display()));
    }
    Ok(())
}

/// Kills every process whose environment holds `mark` (`NAME=VALUE`); answers how many were found.
pub fn kill_marked(mark: &str) -> std::io::Result<usize> {
    let mut found = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process that is gone meanwhile, or is the kernel's, has none.
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
            found += 1;
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(found)
}

/// `run`, but as if the time were over as soon as `cancel` becomes true.
pub fn run_unless(program: &Program, cancel: &AtomicBool) -> Result<Outcome, ExecError> {
    start(program, Stdio::null(), cancel).map_err(|source| ExecError { path: program.path.clone(), source })
}

fn start(program: &Program, input: Stdio, cancel: &AtomicBool) -> std::io::Result<Outcome> {
    let output = output_file()?;
    let mut command = Command::new(&program.path);
    command.args(&program.args).env_clear().env("PATH", PATH).env("LANG", "C");
    command.envs(program.env.iter().map(|(name, value)| (name, value))).current_dir("/");
    command.stdin(input).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let mut child = command.process_group(0).spawn()?;
    let end = wait(&mut child, program.timeout, cancel)?;
    Ok(Outcome { end, output: printed(&output)? })
}

/// A file in memory that cannot grow: a daemon that keeps it as its output gets an error once it is full, and neither a
/// signal nor all memory.
fn output_file() -> std::io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create("twinfs-output", flags)?);
    file.set_len(OUTPUT_BYTES)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK))?;
    Ok(file)
}

fn printed(file: &File) -> std::io::Result<String> {
    // The position is shared with the program: so many bytes it wrote.
    let len = lseek(file, 0, Whence::SeekCur)?;
    let len = u64::try_from(len).unwrap_or(0).min(OUTPUT_BYTES);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn wait(child: &mut Child, timeout: Duration, cancel: &AtomicBool) -> std::io::Result<End> {
    if let Some(end) = wait_until(child, Instant::now() + timeout, cancel)? {
        return Ok(end);
    }
    // The group has the child's number: it leads it.
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    // Fails only when nobody is left in the group.
    let _ = killpg(group, Signal::SIGTERM);
    let ended = wait_until(child, Instant::now() + GRACE, &AtomicBool::new(false))?;
    let _ = killpg(group, Signal::SIGKILL);
    if ended.is_none() {
        child.wait()?;
    }
    Ok(End::TimedOut)
}

fn wait_until(child: &mut Child, deadline: Instant, cancel: &AtomicBool) -> std::io::Result<Option<End>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            let signal = status.signal().map(End::Signal);
            return Ok(Some(signal.unwrap_or(End::Exit(status.code().unwrap_or(-1)))));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || cancel.load(Ordering::SeqCst) {
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Outcome {
        let args = vec!["-c".to_string(), script.to_string()];
        run(&Program { path: "sh".into(), args, env: vec![("GIVEN".into(), "yes".into())], timeout }).unwrap()
    }

    #[test]
    fn output_and_exit_code_come_back_and_the_environment_is_fixed() {
        let outcome = sh("echo one; echo two >&2; echo $GIVEN $HOME; exit 3", Duration::from_secs(5));
        assert_eq!(outcome, Outcome { end: End::Exit(3), output: "one\ntwo\nyes\n".to_string() });
        assert_eq!(outcome.describe(), "exit code 3: yes");
        assert_eq!(sh("kill -9 $$", Duration::from_secs(5)).end, End::Signal(9));
    }

    #[test]
    fn a_program_over_its_time_is_killed_with_its_children() {
        let marker = std::env::temp_dir().join(format!("twinfs-exec-{}", std::process::id()));
        let _ = std::fs::remove_file(&marker);
        let begun = Instant::now();
        let script = format!("trap '' TERM; (trap '' TERM; sleep 4; touch {}) & sleep 60", marker.display());
        assert_eq!(sh(&script, Duration::from_millis(200)).end, End::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        std::thread::sleep(Duration::from_secs(3));
        assert!(!marker.exists(), "the grandchild lived on");
    }

    #[test]
    fn endless_output_neither_blocks_nor_fills_memory() {
        let outcome =
            sh("head -c 1000000 /dev/zero | tr '\\0' x; echo done >&2; exit 0", Duration::from_secs(5));
        assert_eq!(outcome.end, End::Exit(0));
        assert_eq!(outcome.output.len(), 64 << 10);
    }

    #[test]
    fn a_daemon_left_behind_does_not_delay_the_answer() {
        let begun = Instant::now();
        let outcome = sh("sleep 5 & echo started", Duration::from_secs(4));
        assert_eq!((outcome.end, outcome.output.as_str()), (End::Exit(0), "started\n"));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_program_whose_result_is_not_wanted_any_more_is_killed() {
        let cancel = AtomicBool::new(false);
        let args = vec!["-c".to_string(), "sleep 30".to_string()];
        let program = Program { path: "sh".into(), args, env: vec![], timeout: Duration::from_secs(20) };
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                cancel.store(true, Ordering::SeqCst);
            });
            assert_eq!(run_unless(&program, &cancel).unwrap().end, End::TimedOut);
        });
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }

    #[test]
    fn input_is_read_and_a_marked_process_is_found_and_killed() {
        let mark = format!("mark-{}", std::process::id());
        let program = Program {
            path: "sh".into(),
            args: vec!["-c".into(), "cat; sleep 30 & exit 0".into()],
            env: vec![("TWINFS_TEST".into(), mark.clone())],
            timeout: Duration::from_secs(5),
        };
        assert_eq!(run_fed(&program, b"action=off\nkey=1\n").unwrap().output, "action=off\nkey=1\n");
        let begun = Instant::now();
        while kill_marked(&format!("TWINFS_TEST={mark}")).unwrap() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(5), "it lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(kill_marked(&format!("TWINFS_TEST={mark}x")).unwrap(), 0);
    }

    #[test]
    fn a_program_that_others_could_change_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("twinfs-trust-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("agent");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        chmod(&dir, 0o755);
        chmod(&file, 0o644);
        assert!(check_trusted(&file).unwrap_err().contains("is no program"));
        chmod(&file, 0o755);
        assert_eq!(check_trusted(&file), Ok(()));
        chmod(&file, 0o775);
        assert!(check_trusted(&file).unwrap_err().contains("chmod go-w"));
        chmod(&file, 0o755);
        chmod(&dir, 0o777);
        assert!(check_trusted(&file).unwrap_err().contains("can be changed by others"));
        chmod(&dir, 0o755);
        assert!(check_trusted(&dir.join("none")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let program = Program {
            path: "/no/such/thing".into(),
            args: vec![],
            env: vec![],
            timeout: Duration::from_secs(1),
        };
        assert!(run(&program).unwrap_err().to_string().starts_with("cannot run /no/such/thing:"));
    }
}
