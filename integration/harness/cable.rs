//! A serial cable between alpha and beta: two pseudo terminals, and a thread that carries bytes from each to the other.
//!
//! The devices are named by links in the world's folder, so that a cable can be unplugged (the devices are gone) and
//! plugged in again (there are others under the same names). It can also carry nothing while the devices stay.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

/// One cable. Dropping it unplugs it.
pub struct Cable {
    dir: PathBuf,
    cut: Arc<AtomicBool>,
    pump: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

/// Where `node` finds its end of the cable of the world in `dir`.
pub fn device(dir: &Path, node: &str) -> PathBuf {
    dir.join(format!("serial-{node}"))
}

impl Cable {
    /// A cable that is plugged in.
    pub fn plugged(dir: &Path) -> Cable {
        let mut cable = Cable { dir: dir.to_path_buf(), cut: Arc::default(), pump: None };
        cable.plug();
        cable
    }

    /// Both devices are there.
    pub fn plug(&mut self) {
        self.unplug();
        let ends = ["alpha", "beta"].map(|node| end(&device(&self.dir, node)));
        let (stop, cut) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.cut));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || carry(&ends, &cut, &asked));
        self.pump = Some((stop, thread));
    }

    /// Both devices are gone, as those of USB adapters are.
    pub fn unplug(&mut self) {
        let Some((stop, thread)) = self.pump.take() else { return };
        for node in ["alpha", "beta"] {
            let _ = std::fs::remove_file(device(&self.dir, node));
        }
        stop.store(true, Ordering::SeqCst);
        let _ = thread.join();
    }

    /// Nothing passes while it is cut; the devices notice nothing.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.unplug();
    }
}

/// The far end of a new device that is named by `link`.
fn end(link: &Path) -> File {
    // Programs that inherited it would keep the cable plugged in.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let far = posix_openpt(flags).expect("a pseudo terminal");
    grantpt(&far).expect("grantpt");
    unlockpt(&far).expect("unlockpt");
    let device = ptsname_r(&far).expect("its name");
    std::os::unix::fs::symlink(device, link).expect("link to the device");
    File::from(OwnedFd::from(far))
}

fn carry(ends: &[File; 2], cut: &AtomicBool, stop: &AtomicBool) {
    let mut bytes = [0; 4096];
    while !stop.load(Ordering::SeqCst) {
        for (mut from, mut to) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            // An error: nothing there, or nobody has the device open. What the other side does not take is lost.
            if let Ok(count) = from.read(&mut bytes)
                && !cut.load(Ordering::SeqCst)
            {
                let _ = to.write(&bytes[..count]);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
