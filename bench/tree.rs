//! Works on many small files: made, looked at, listed, removed, unpacked.
//!
//! Decides how many lie in one folder. None of them waits for the disk except where it says so.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;

use crate::work::Scale;

/// Files in one folder of the many.
const PER_DIR: usize = 1_000;

fn each_file(
    dir: &Path,
    files: usize,
    mut act: impl FnMut(&Path) -> std::io::Result<()>,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    for number in 0..files {
        let path = dir.join(format!("{}/file-{number}", number / PER_DIR));
        act(&path).with_context(|| path.display().to_string())?;
    }
    Ok(files as f64 / start.elapsed().as_secs_f64())
}

pub fn create(dir: &Path, files: usize) -> anyhow::Result<f64> {
    let _ = std::fs::remove_dir_all(dir);
    for number in 0..files.div_ceil(PER_DIR) {
        std::fs::create_dir_all(dir.join(number.to_string()))?;
    }
    each_file(dir, files, |path| File::create_new(path).map(drop))
}

fn have_files(dir: &Path, files: usize) -> anyhow::Result<()> {
    if !dir.join(format!("{}/file-{}", (files - 1) / PER_DIR, files - 1)).exists() {
        create(dir, files)?;
    }
    Ok(())
}

pub fn stat(dir: &Path, files: usize) -> anyhow::Result<f64> {
    have_files(dir, files)?;
    each_file(dir, files, |path| std::fs::symlink_metadata(path).map(drop))?;
    each_file(dir, files, |path| std::fs::symlink_metadata(path).map(drop))
}

pub fn unlink(dir: &Path, files: usize) -> anyhow::Result<f64> {
    have_files(dir, files)?;
    let rate = each_file(dir, files, |path| std::fs::remove_file(path))?;
    std::fs::remove_dir_all(dir)?;
    Ok(rate)
}

/// Names listed a second: every folder of the many, the second of two passes.
pub fn readdir(dir: &Path, files: usize) -> anyhow::Result<f64> {
    have_files(dir, files)?;
    list(dir, files)?;
    list(dir, files)
}

fn list(dir: &Path, files: usize) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut names = 0;
    for number in 0..files.div_ceil(PER_DIR) {
        for entry in std::fs::read_dir(dir.join(number.to_string()))? {
            entry?;
            names += 1;
        }
    }
    anyhow::ensure!(names == files, "{names} names listed of {files}");
    Ok(files as f64 / start.elapsed().as_secs_f64())
}

/// Unpacks the archive; seconds.
pub fn untar(dir: &Path, archive: &Path) -> anyhow::Result<f64> {
    let time = unpack(dir, archive)?;
    std::fs::remove_dir_all(dir)?;
    Ok(time)
}

/// Removes what the archive unpacks to; seconds.
pub fn rmtree(dir: &Path, archive: &Path) -> anyhow::Result<f64> {
    unpack(dir, archive)?;
    nix::unistd::sync();
    let start = Instant::now();
    std::fs::remove_dir_all(dir)?;
    Ok(start.elapsed().as_secs_f64())
}

fn unpack(dir: &Path, archive: &Path) -> anyhow::Result<f64> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir(dir)?;
    let start = Instant::now();
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir).status().context("tar")?;
    anyhow::ensure!(status.success(), "tar ended with {status}");
    File::open(dir)?.sync_all()?;
    Ok(start.elapsed().as_secs_f64())
}

/// An archive of files that every machine has.
pub fn make_archive(archive: &Path, scale: Scale) -> anyhow::Result<()> {
    let mut list = Vec::new();
    let mut left = scale.archive;
    for root in
        ["/usr/include", "/usr/share/doc", "/usr/lib/python3", "/usr/share/perl", "/usr/lib/x86_64-linux-gnu"]
    {
        gather(Path::new(root), &mut list, &mut left);
    }
    anyhow::ensure!(list.len() >= 100, "only {} files for the archive below /usr", list.len());
    let names = archive.with_extension("list");
    std::fs::write(&names, list.join("\n"))?;
    let status = Command::new("tar")
        .args(["-C", "/", "-cf"])
        .arg(archive)
        .arg("-T")
        .arg(&names)
        .status()
        .context("tar is needed")?;
    anyhow::ensure!(status.success(), "tar ended with {status}");
    Ok(())
}

fn gather(dir: &Path, list: &mut Vec<String>, left: &mut u64) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        if meta.is_dir() {
            gather(&path, list, left);
        } else if meta.is_file() && meta.len() < 1 << 20 {
            let Some(next) = left.checked_sub(meta.len() + 4096) else { return };
            let Some(name) = path.to_str().map(|name| name.trim_start_matches('/')) else { continue };
            if !name.contains('\n') {
                *left = next;
                list.push(name.to_string());
            }
        }
    }
}
