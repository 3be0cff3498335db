//! What is measured on: ext4 on a loop image, a twinfs image mounted alone, a pair of twinfs daemons on this machine,
//! and GlusterFS with two replicas.
//!
//! Decides how each is made and taken down. Does not know what is measured. All images are files in one folder, hence
//! on one disk. The images of ext4 are written with zeros beforehand, which is the fastest kind: the limit. Both
//! mirrors have the same wire: a cable of a bridge between two network namespaces.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::gluster::Gluster;
use crate::pair::Pair;
use crate::work::Scale;

/// Names by position; ext4 is first, all ratios refer to it.
const NAMES: [&str; 4] = ["ext4", "standalone", "pair", GLUSTER];
/// Only where it is named: what it needs is installed for it.
const GLUSTER: &str = "gluster";

/// Who ends a mount.
enum Mount {
    Ours(PathBuf),
    Pair(Pair),
    Gluster(Gluster),
}

/// A mounted filesystem; unmounted when dropped.
pub struct Setup {
    name: &'static str,
    mount: Mount,
}

impl Setup {
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn dir(&self) -> &Path {
        match &self.mount {
            Mount::Ours(dir) => dir,
            Mount::Pair(pair) => pair.dir(),
            Mount::Gluster(gluster) => gluster.dir(),
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if let Mount::Ours(dir) = &self.mount
            && let Err(error) = run(Command::new("umount").arg(dir))
        {
            eprintln!("twinfs-bench: {error:#}");
        }
    }
}

/// Makes and mounts ext4 and the wanted others (none named: all but GlusterFS).
pub fn start(scratch: &Path, wanted: &[String], twinfs: &Path, scale: Scale) -> anyhow::Result<Vec<Setup>> {
    if let Some(name) = wanted.iter().find(|name| !NAMES.contains(&name.as_str())) {
        anyhow::bail!("no such setup: {name}; there are: {}", NAMES.join(" "));
    }
    let mut setups = vec![Setup { name: NAMES[0], mount: ext4(scratch, scale)? }];
    let want = |name: &str| match wanted.is_empty() {
        true => name != GLUSTER,
        false => wanted.iter().any(|wanted| wanted == name),
    };
    for name in NAMES.into_iter().skip(1).filter(|name| want(name)) {
        let mount = match name {
            "standalone" => standalone(scratch, scale, twinfs),
            "pair" => Pair::start(&scratch.join("pair"), scale.image, twinfs).map(Mount::Pair),
            _ => Gluster::start(&scratch.join(GLUSTER), scale.image).map(Mount::Gluster),
        };
        let mount = mount.with_context(|| format!("setup {name}"))?;
        setups.push(Setup { name, mount });
    }
    Ok(setups)
}

/// An ext4 whose blocks the disk below has already.
pub fn make_ext4(image: &Path, bytes: u64, options: &[&str]) -> anyhow::Result<()> {
    zeros(image, bytes)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]).args(options);
    run(mkfs.arg(image))
}

fn ext4(scratch: &Path, scale: Scale) -> anyhow::Result<Mount> {
    let (image, dir) = (scratch.join("ext4.img"), scratch.join("ext4"));
    std::fs::create_dir(&dir)?;
    make_ext4(&image, scale.image, &[])?;
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&dir))?;
    Ok(Mount::Ours(dir))
}

fn standalone(scratch: &Path, scale: Scale, twinfs: &Path) -> anyhow::Result<Mount> {
    let (image, dir) = (scratch.join("alone.img"), scratch.join("alone"));
    std::fs::create_dir(&dir)?;
    run(Command::new(twinfs).arg("mkfs").arg(&image).arg(scale.image.to_string()))?;
    run(Command::new(twinfs).args(["mount", "--standalone"]).arg(&image).arg(&dir))?;
    Ok(Mount::Ours(dir))
}

fn zeros(path: &Path, bytes: u64) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    let block = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Runs a command; its standard error is the reason if it fails.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} ended with {}: {}", output.status, said.trim());
    Ok(())
}

/// The program beside this one, as an administrator would run it. Cargo builds only the package that it runs, so it
/// is built here when that is where we come from.
pub fn twinfs_program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name("twinfs");
    if let (Some(cargo), Some(profile)) = (std::env::var_os("CARGO"), own.parent().and_then(Path::file_name))
    {
        let mut build = Command::new(cargo);
        build.args(["build", "--locked", "--quiet", "-p", "twinfs", "--bin", "twinfs"]);
        if profile == "release" {
            build.arg("--release");
        }
        run(&mut build)?;
    }
    anyhow::ensure!(path.exists(), "{} is missing: cargo build --release", path.display());
    Ok(path)
}
