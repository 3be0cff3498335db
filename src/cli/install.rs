//! `twinfs install [--root DIR]`: puts the program, its helper names, manual pages, completions and units in place.
//!
//! Decides what lies where on a machine. Everything but the two programs is inside this binary, so that an upgrade
//! never mixes two versions. Invariants: a running program is never overwritten in place (written beside, renamed);
//! nothing is started, stopped or enabled; no file of the administrator (in `/etc/twinfs`) is touched.
#![allow(clippy::disallowed_methods, reason = "a shell: copies files")]

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::completions::{self, Kind};
use super::{Exit, Failure, Output};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Install below this folder, as for a package
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Remove what an installation puts in place; configuration, keys, images and state stay
    #[arg(long)]
    uninstall: bool,
}

/// Text files: where they go and what they hold.
const FILES: &[(&str, &str)] = &[
    ("usr/lib/systemd/system/twinfs.service", include_str!("../../packaging/systemd/twinfs.service")),
    (
        "usr/lib/systemd/system/twinfs-witness.service",
        include_str!("../../packaging/systemd/twinfs-witness.service"),
    ),
    ("usr/lib/tmpfiles.d/twinfs.conf", include_str!("../../packaging/tmpfiles/twinfs.conf")),
    ("usr/lib/firewalld/services/twinfs.xml", include_str!("../../packaging/firewalld/twinfs.xml")),
    ("etc/ufw/applications.d/twinfs", include_str!("../../packaging/ufw/twinfs")),
    ("usr/share/man/man8/twinfs.8", include_str!("../../man/twinfs.8")),
    ("usr/share/man/man7/twinfs.7", include_str!("../../man/twinfs.7")),
    ("usr/share/man/man5/twinfs.toml.5", include_str!("../../man/twinfs.toml.5")),
    ("usr/share/man/man8/mkfs.twinfs.8", include_str!("../../man/mkfs.twinfs.8")),
    ("usr/share/man/man8/fsck.twinfs.8", include_str!("../../man/fsck.twinfs.8")),
    ("usr/share/man/man8/mount.twinfs.8", include_str!("../../man/mount.twinfs.8")),
];

const COMPLETIONS: &[(&str, Kind)] = &[
    ("usr/share/bash-completion/completions/twinfs", Kind::Bash),
    ("usr/share/zsh/vendor-completions/_twinfs", Kind::Zsh),
    ("usr/share/fish/vendor_completions.d/twinfs.fish", Kind::Fish),
];

const PROGRAM: &str = "usr/sbin/twinfs";
const CHECKER: &str = "usr/sbin/fsck.twinfs";
/// Names beside the program that lead to it: mkfs(8) and mount(8) look for these.
const LINKS: &[&str] = &["usr/sbin/mkfs.twinfs", "usr/sbin/mount.twinfs", "usr/sbin/mount.fuse.twinfs"];

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    if args.uninstall {
        let gone = uninstall(&args.root)?;
        gone.iter().for_each(|path| output.line(format_args!("{} removed", path.display())));
        output.object(serde_json::json!({ "removed": gone }));
        return Ok(Exit::DONE);
    }
    let own = std::env::current_exe().context("where this program lies")?;
    let done = install(&args.root, &own)?;
    for path in &done {
        output.line(path.display());
    }
    output.object(serde_json::json!({ "installed": done }));
    Ok(Exit::DONE)
}

/// Installs below `root`; `own` is this program, beside which the checker lies. Answers with what was put in place.
pub fn install(root: &Path, own: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let checker = checker_beside(own)?;
    let mut done = Vec::new();
    for (target, source) in [(PROGRAM, own), (CHECKER, checker.as_path())] {
        let path = root.join(target);
        let bytes = std::fs::read(source).with_context(|| source.display().to_string())?;
        put(&path, &bytes, 0o755)?;
        done.push(path);
    }
    for link in LINKS {
        let path = root.join(link);
        let beside = path.with_extension("new");
        let _ = std::fs::remove_file(&beside);
        symlink("twinfs", &beside)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|error| cannot(&path, &error))?;
        done.push(path);
    }
    for (target, text) in FILES {
        let path = root.join(target);
        put(&path, text.as_bytes(), 0o644)?;
        done.push(path);
    }
    let secrets = root.join("etc/twinfs");
    if !secrets.exists() {
        // The key will lie there: nobody else may look in, from the start.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&secrets);
        made.map_err(|error| cannot(&secrets, &error))?;
        done.push(secrets);
    }
    for (target, shell) in COMPLETIONS {
        let path = root.join(target);
        put(&path, completions::script(*shell)?.as_bytes(), 0o644)?;
        done.push(path);
    }
    Ok(done)
}

/// Removes everything that `install` puts below `root`, apart from the folder of configuration and keys, which is not
/// ours alone. What is not there is passed over.
pub fn uninstall(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let texts = FILES.iter().map(|(target, _)| *target).chain(COMPLETIONS.iter().map(|(target, _)| *target));
    let mut gone = Vec::new();
    for target in LINKS.iter().copied().chain(texts).chain([CHECKER, PROGRAM]) {
        let path = root.join(target);
        match std::fs::remove_file(&path) {
            Ok(()) => gone.push(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(
                    Failure::new(cannot(&path, &error).exit, format!("{}: {error}", path.display())).into()
                );
            }
        }
    }
    Ok(gone)
}

/// The checker is a program of its own; cargo puts it beside this one, an installed one has its final name.
pub fn checker_beside(own: &Path) -> anyhow::Result<PathBuf> {
    let dir = own.parent().unwrap_or(Path::new("/"));
    let names = ["fsck-twinfs", "fsck.twinfs"];
    names.iter().map(|name| dir.join(name)).find(|path| path.exists()).ok_or_else(|| {
        let text =
            format!("{}: fsck-twinfs is missing here; build it with `cargo build --release`", dir.display());
        Failure::new(Exit::FAILED, text).into()
    })
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|error| cannot(path, &error).into())
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    let exit = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Exit::NOT_PERMITTED,
        _ => Exit::FAILED,
    };
    Failure::new(exit, format!("{} cannot be installed: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_installation_is_complete_repeatable_and_leaves_no_rest() {
        let dir = std::env::temp_dir().join(format!("twinfs-install-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("build")).unwrap();
        let own = dir.join("build/twinfs");
        std::fs::write(&own, "program").unwrap();
        let error = install(&dir.join("root"), &own).unwrap_err();
        assert!(error.to_string().contains("cargo build"), "{error}");
        assert!(!dir.join("root").exists(), "something was installed before everything was there");

        std::fs::write(dir.join("build/fsck-twinfs"), "checker").unwrap();
        let root = dir.join("root");
        let first = install(&root, &own).unwrap();
        std::fs::write(&own, "newer").unwrap();
        let mode = std::fs::metadata(root.join("etc/twinfs")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(root.join("etc/twinfs/key"), "secret").unwrap();
        assert_eq!(install(&root, &own).unwrap().len(), first.len() - 1, "the folder is made once");
        assert_eq!(std::fs::read(root.join("etc/twinfs/key")).unwrap(), b"secret");
        assert_eq!(std::fs::read(root.join("usr/sbin/mkfs.twinfs")).unwrap(), b"newer");
        assert_eq!(std::fs::read_link(root.join("usr/sbin/mount.fuse.twinfs")).unwrap(), Path::new("twinfs"));
        assert_eq!(std::fs::read(root.join("usr/sbin/fsck.twinfs")).unwrap(), b"checker");
        let mode = std::fs::metadata(root.join("usr/sbin/twinfs")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        for path in &first {
            assert!(path.exists(), "{}", path.display());
            let dir = path.parent().unwrap();
            for entry in std::fs::read_dir(dir).unwrap() {
                let name = entry.unwrap().file_name();
                assert!(!name.to_string_lossy().ends_with(".new"), "left behind: {name:?}");
            }
        }
        // Installed programs can install themselves again, for instance into a package.
        let again = install(&dir.join("second"), &root.join("usr/sbin/twinfs")).unwrap();
        assert_eq!(again.len(), first.len());
        let gone = uninstall(&root).unwrap();
        assert_eq!(gone.len(), first.len() - 1, "everything but the folder of the keys");
        assert!(gone.iter().all(|path| !path.exists()));
        assert_eq!(std::fs::read(root.join("etc/twinfs/key")).unwrap(), b"secret");
        assert!(uninstall(&root).unwrap().is_empty(), "nothing is left to remove");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
