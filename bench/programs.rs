//! Works of programs that others wrote: pgbench on a PostgreSQL of its own, and dbench.
//!
//! Decides their options and reads their figures. Does not know which filesystem they run on. Invariant: the server
//! runs only while it is measured and ends by its pid.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::need::Program;

const BIN: &str = "/usr/lib/postgresql/15/bin";
pub const POSTGRES: &[Program] =
    &[("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"), ("setpriv", "util-linux")];
pub const DBENCH: &[Program] = &[("dbench", "dbench")];
const CLIENTS: &str = "4";
/// How long the server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(120);
/// Hundred thousands of rows.
const SCALE: &str = "10";

/// Transactions per second of four clients for `time`; the database is made the first time.
pub fn pgbench(dir: &Path, time: Duration) -> anyhow::Result<f64> {
    let data = dir.join("postgres");
    let is_new = !data.join("PG_VERSION").exists();
    if is_new {
        make_cluster(&data)?;
    }
    let server = Server::start(&data)?;
    if is_new {
        said(server.client("pgbench").args(["-i", "-q", "-s", SCALE, "postgres"]))?;
    }
    let seconds = time.as_secs().max(1).to_string();
    let words = ["-c", CLIENTS, "-j", "2", "-T", &seconds, "postgres"];
    let output = said(server.client("pgbench").args(words))?;
    figure(&output, "tps = ").context("pgbench says no tps")
}

/// PostgreSQL takes no folder that others may look into, and will not run as root.
fn make_cluster(data: &Path) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(data);
    std::fs::create_dir(data)?;
    said(Command::new("chown").arg("postgres:postgres").arg(data))?;
    let mut initdb = as_postgres("initdb");
    said(initdb.arg("-D").arg(data).args(["--auth", "trust", "--no-instructions"]))?;
    let more = "listen_addresses = ''\nmax_wal_size = '256MB'\n";
    let file = data.join("postgresql.conf");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text + more).with_context(|| file.display().to_string())
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    command.arg(format!("{BIN}/{program}")).current_dir("/").stdin(Stdio::null());
    command
}

/// Runs a command to its end; what it printed.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let line = format!("{command:?}");
    let Output { status, stdout, stderr } = command.output().with_context(|| line.clone())?;
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    anyhow::ensure!(status.success(), "{line} ended with {status}: {}", err.trim());
    Ok(out.into_owned())
}

/// The number behind the last `word`.
fn figure(output: &str, word: &str) -> Option<f64> {
    let (_, rest) = output.rsplit_once(word)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A running server; stopped when dropped, with everything stable.
struct Server {
    process: Child,
    /// Where its socket lies: the path of a folder that is measured may be too long for one.
    sockets: PathBuf,
}

impl Server {
    fn start(data: &Path) -> anyhow::Result<Server> {
        let sockets = std::env::temp_dir().join(format!("twinfs-bench-sql-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&sockets);
        std::fs::create_dir(&sockets)?;
        said(Command::new("chown").arg("postgres:postgres").arg(&sockets))?;
        let log = std::fs::File::create(sockets.join("log"))?;
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(data).arg("-k").arg(&sockets).stdout(log.try_clone()?).stderr(log);
        let mut server = Server { process: command.spawn().context("postgres")?, sockets };
        let end = Instant::now() + PATIENCE;
        while !server.client("pg_isready").args(["-q"]).status()?.success() {
            let ended = server.process.try_wait()?;
            let log = std::fs::read_to_string(server.sockets.join("log")).unwrap_or_default();
            anyhow::ensure!(ended.is_none() && Instant::now() < end, "postgres does not start: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = as_postgres(program);
        command.arg("-h").arg(&self.sockets);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Without waiting for clients: there are none.
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.sockets);
    }
}

/// MB per second of four clients for `time`, with the load that dbench brings.
pub fn dbench(dir: &Path, time: Duration) -> anyhow::Result<f64> {
    let dir = dir.join("dbench");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir)?;
    let seconds = time.as_secs().max(1).to_string();
    let mut command = Command::new("dbench");
    command.stdin(Stdio::null()).arg("-D").arg(&dir).args(["-t", &seconds, CLIENTS]);
    let output = said(&mut command)?;
    let rate = figure(&output, "Throughput ").context("dbench says no throughput")?;
    std::fs::remove_dir_all(&dir)?;
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_the_programs_print() {
        let pgbench = "latency average = 3.110 ms\ninitial connection time = 6.1 ms\n\
                       tps = 1286.124 (without initial connection time)\n";
        assert_eq!(figure(pgbench, "tps = "), Some(1286.124));
        let dbench = "   4      1234  455.00 MB/sec  execute  19 sec  latency 7.1 ms\n\n\
                      Throughput 456.22 MB/sec  4 clients  4 procs  max_latency=41.1 ms\n";
        assert_eq!(figure(dbench, "Throughput "), Some(456.22));
        assert_eq!(figure("nothing", "tps = "), None);
    }
}
