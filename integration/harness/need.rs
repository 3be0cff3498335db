//! What a test needs from the machine: root, Debian, kernel features, programs. Missing programs are installed from
//! Debian's packages; what cannot be had makes the test print `SKIPPED name: reason`, or fail where `CI=true`.
//!
//! No service is started by an installation: a policy-rc.d that forbids it is in place for the duration.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

static SKIPPED: AtomicU32 = AtomicU32::new(0);
static INSTALLING: Mutex<bool> = Mutex::new(false);
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A program and the Debian package that brings it.
pub type Program = (&'static str, &'static str);

/// Base tools of every test with nodes.
pub const NODES: &[Program] = &[("ip", "iproute2"), ("nft", "nftables"), ("unshare", "util-linux")];

/// True if the test `name` can run. Otherwise it has been reported as skipped, and the caller returns.
#[must_use]
pub fn have(name: &str, programs: &[Program]) -> bool {
    match ensure(programs) {
        Ok(()) => true,
        Err(reason) => {
            skip(name, &reason);
            false
        }
    }
}

/// As `have`, for a test with nodes: namespaces, overlay and FUSE as well.
#[must_use]
pub fn have_nodes(name: &str, programs: &[Program]) -> bool {
    let all: Vec<Program> = NODES.iter().chain(programs).copied().collect();
    match kernel().and_then(|()| ensure(&all)) {
        Ok(()) => true,
        Err(reason) => {
            skip(name, &reason);
            false
        }
    }
}

/// Reports `name` as not run. Under `CI=true` a skip is a failure: a green run must have run everything.
pub fn skip(name: &str, reason: &str) {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Past the test runner's capture: a skip that nobody sees would look like a pass.
    let line = format!("SKIPPED {name}: {reason} ({count} skipped so far in this target)\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} was skipped in CI: {reason}");
}

/// As `have`, for a test that mounts: root, and FUSE in the kernel.
#[must_use]
pub fn have_mounts(name: &str, programs: &[Program]) -> bool {
    match mounts().and_then(|()| ensure(programs)) {
        Ok(()) => true,
        Err(reason) => {
            skip(name, &reason);
            false
        }
    }
}

fn kernel() -> Result<(), String> {
    mounts()?;
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match known.lines().any(|line| line.ends_with("overlay")) {
        true => Ok(()),
        false => Err("needs overlayfs in the kernel".into()),
    }
}

fn mounts() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root (namespaces, mounts)".into());
    }
    if !Path::new("/dev/fuse").exists() {
        return Err("needs /dev/fuse".into());
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    program.starts_with('/') && Path::new(program).exists()
        || ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).exists())
}

/// Installs what is missing of these; the reason if it cannot be had.
pub fn ensure(programs: &[Program]) -> Result<(), String> {
    let mut updated = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if std::env::var("TWINFS_TEST_INSTALL").as_deref() == Ok("0") {
        return Err(format!("needs the packages {list}, and TWINFS_TEST_INSTALL=0 forbids installing them"));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(format!("needs root to install {list}"));
    }
    if !Path::new("/etc/debian_version").exists() || !on_path("apt-get") {
        return Err(format!("needs {list}, which are installed by themselves on Debian only"));
    }
    let _ = std::io::stderr().write_all(format!("installing from Debian: {list}\n").as_bytes());
    let _policy = Policy::forbid_services()?;
    if !*updated {
        apt(&["update"])?;
        *updated = true;
    }
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    apt(&arguments)?;
    match programs.iter().find(|(program, _)| !on_path(program)) {
        Some((program, package)) => Err(format!("the package {package} did not bring {program}")),
        None => Ok(()),
    }
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .map_err(|error| format!("apt-get: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "apt-get {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("no message")
        )),
    }
}

/// Holds a policy-rc.d that refuses every start, unless the machine has one of its own.
struct Policy {
    ours: bool,
}

impl Policy {
    fn forbid_services() -> Result<Policy, String> {
        if Path::new(POLICY).exists() {
            return Ok(Policy { ours: false });
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").map_err(|error| format!("{POLICY}: {error}"))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(POLICY, mode).map_err(|error| format!("{POLICY}: {error}"))?;
        Ok(Policy { ours: true })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}
