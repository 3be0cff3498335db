//! What is measured on: ext4 on a loop image, a twinfs image mounted alone, a pair of twinfs daemons on this machine.
//!
//! Decides how each is made and taken down. Does not know what is measured. All images are files in one folder, hence
//! on one disk. The ext4 image is written with zeros beforehand, which is the fastest kind: the limit.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::pair::Pair;
use crate::work::Scale;

/// Names by position; ext4 is first, all ratios refer to it.
pub const NAMES: [&str; 3] = ["ext4", "standalone", "pair"];

/// A mounted filesystem; unmounted when dropped.
pub struct Setup {
    name: &'static str,
    dir: PathBuf,
    /// Unmounted by its own daemons, not by us.
    pair: Option<Pair>,
}

impl Setup {
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if self.pair.take().is_none()
            && let Err(error) = run(Command::new("umount").arg(&self.dir))
        {
            eprintln!("twinfs-bench: {error:#}");
        }
    }
}

/// Makes and mounts ext4 and the wanted others (none named: all).
pub fn start(scratch: &Path, wanted: &[String], twinfs: &Path, scale: Scale) -> anyhow::Result<Vec<Setup>> {
    if let Some(name) = wanted.iter().find(|name| !NAMES.contains(&name.as_str())) {
        anyhow::bail!("no such setup: {name}; there are: {}", NAMES.join(" "));
    }
    let mut setups = vec![ext4(scratch, scale)?];
    let want = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    for name in NAMES.into_iter().skip(1).filter(|name| want(name)) {
        let setup = match name {
            "standalone" => standalone(scratch, scale, twinfs),
            _ => Pair::start(&scratch.join("pair"), scale.image, twinfs).map(|pair| Setup {
                name: "pair",
                dir: pair.dir().to_path_buf(),
                pair: Some(pair),
            }),
        };
        setups.push(setup.with_context(|| format!("setup {name}"))?);
    }
    Ok(setups)
}

fn ext4(scratch: &Path, scale: Scale) -> anyhow::Result<Setup> {
    let (image, dir) = (scratch.join("ext4.img"), scratch.join("ext4"));
    std::fs::create_dir(&dir)?;
    zeros(&image, scale.image)?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
        .arg(&image))?;
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&dir))?;
    Ok(Setup { name: "ext4", dir, pair: None })
}

fn standalone(scratch: &Path, scale: Scale, twinfs: &Path) -> anyhow::Result<Setup> {
    let (image, dir) = (scratch.join("alone.img"), scratch.join("alone"));
    std::fs::create_dir(&dir)?;
    run(Command::new(twinfs).arg("mkfs").arg(&image).arg(scale.image.to_string()))?;
    run(Command::new(twinfs).args(["mount", "--standalone"]).arg(&image).arg(&dir))?;
    Ok(Setup { name: "standalone", dir, pair: None })
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
