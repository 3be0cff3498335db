//! Puts this node's copy of a volume aside: a whole image beside the one in use, or in the volume's `salvage_dir`.
//!
//! Decides where it goes, how it is called, and whether there is room. Does not know why. Invariants: a name that
//! `salvage list` shows is a whole copy, read back and stable; what is not finished has another name and goes with the
//! next try; the image in use is only read.
#![allow(clippy::disallowed_methods, reason = "a shell: makes files")]

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::NodeId;
use crate::config;
use crate::config::units::format_size;
use crate::image::{Disk, DiskError, Image, ImageError};
use crate::sys::clock;
use crate::sys::disk::FileDisk;

use super::make::ASIDE;

/// Behind the name of an image while its copy is being made.
const UNFINISHED: &str = ".keeping";
/// Left free on the disk, and for the copy's own metadata.
const ROOM_BYTES: u64 = 32 << 20;

/// Where the copies of one volume go.
#[derive(Clone, Debug)]
pub struct Keeper {
    image: PathBuf,
    folder: Option<PathBuf>,
    base: String,
}

/// Folder and first part of the name of every copy that is put aside from `volume` on `me`: beside the image, and in
/// `salvage_dir` if there is one.
pub fn places(volume: &config::Volume, me: NodeId) -> Vec<(PathBuf, String)> {
    let image = volume.image_on(me);
    let mut places = Vec::new();
    if let (Some(folder), Some(name)) = (image.parent(), image.file_name().and_then(|name| name.to_str())) {
        places.push((folder.to_path_buf(), name.to_string()));
    }
    if let Some(folder) = &volume.salvage_dir {
        places.push((folder.clone(), format!("{}.img", volume.name)));
    }
    places
}

impl Keeper {
    pub fn new(volume: &config::Volume, me: NodeId) -> Keeper {
        let place = places(volume, me).pop();
        let (folder, base) = place.map_or((None, String::new()), |(folder, base)| (Some(folder), base));
        Keeper { image: volume.image_on(me).clone(), folder, base }
    }

    /// Puts the copy aside; answers the number that ends its name, seconds after 1970. `halted`: give up.
    pub fn keep(&self, image: &Image, halted: &dyn Fn() -> bool) -> Result<u64, String> {
        let device = fs::metadata(&self.image).is_ok_and(|meta| meta.file_type().is_block_device());
        let beside = self.folder.as_deref() == self.image.parent();
        let Some(folder) = self.folder.as_deref().filter(|_| !(device && beside)) else {
            return Err(format!(
                "{} is a device, and nothing can be kept beside it: give the volume a salvage_dir on both nodes",
                self.image.display()
            ));
        };
        let mut go_on = |_: u64| match halted() {
            true => Err(ImageError::Disk(DiskError::Dead)),
            false => Ok(()),
        };
        if let Some(at) = self.kept_before(folder, image, &mut go_on) {
            return Ok(at);
        }
        let unfinished = folder.join(format!("{}{UNFINISHED}", self.base));
        let made = self.make(folder, &unfinished, image, &mut go_on);
        if made.is_err() {
            // Whatever is left of it goes with the next try.
            let _ = fs::remove_file(&unfinished);
        }
        made
    }

    fn make(
        &self,
        folder: &Path,
        unfinished: &Path,
        image: &Image,
        go_on: &mut dyn FnMut(u64) -> Result<(), ImageError>,
    ) -> Result<u64, String> {
        let wrong = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        match fs::remove_file(unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(wrong(unfinished, &error));
            }
            _ => {}
        }
        let needed = image.written_bytes().map_err(|e| e.to_string())? / 64 * 65 + ROOM_BYTES;
        let free = nix::sys::statvfs::statvfs(folder).map_err(|e| wrong(folder, &e))?;
        let free = free.blocks_available().saturating_mul(free.fragment_size());
        if free < needed {
            return Err(format!(
                "{} has room for {}, and {} are needed: make room there, then say \"twinfs resolve --keep\" once more",
                folder.display(),
                size(free),
                size(needed)
            ));
        }
        let disk = FileDisk::create(unfinished, image.medium_bytes()).map_err(|e| wrong(unfinished, &e))?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        image.keep(&disk, go_on).map_err(|e| wrong(unfinished, &e))?;
        drop(disk);
        let mut at = clock::unix_ms() / 1000;
        let name = |at: u64| folder.join(format!("{}{ASIDE}{at}", self.base));
        while name(at).exists() {
            at += 1;
        }
        fs::rename(unfinished, name(at)).map_err(|e| wrong(unfinished, &e))?;
        // The name itself has to survive a power cut.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| wrong(folder, &e))?;
        Ok(at)
    }

    /// An earlier try was cut off behind the copy: it is found again if nothing changed since.
    fn kept_before(
        &self,
        folder: &Path,
        image: &Image,
        go_on: &mut dyn FnMut(u64) -> Result<(), ImageError>,
    ) -> Option<u64> {
        let mut found: Vec<(u64, PathBuf)> = fs::read_dir(folder)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let at = kept_at(entry.file_name().to_str()?, &self.base)?;
                Some((at, entry.path()))
            })
            .collect();
        found.sort();
        let (at, path) = found.pop()?;
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(&path, false).ok()?);
        image.is_kept_in(&disk, go_on).ok()?.then_some(at)
    }
}

/// When the file called `name` was put aside, if it was an image called `base`.
pub fn kept_at(name: &str, base: &str) -> Option<u64> {
    let digits = name.strip_prefix(base)?.strip_prefix(ASIDE)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

fn size(bytes: u64) -> String {
    format_size(bytes.next_multiple_of(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_put_aside_from_this_image_is_a_kept_copy() {
        assert_eq!(kept_at("data.img.replaced-1700000000", "data.img"), Some(1_700_000_000));
        for other in [
            "data.img",
            "data.img.replaced-",
            "data.img.replaced-17x",
            "data.img.replaced--17",
            "mydata.img.replaced-17",
            "data.img.keeping",
            "data.img.replaced-99999999999999999999999",
        ] {
            assert_eq!(kept_at(other, "data.img"), None, "{other}");
        }
    }
}
