//! The `-o` options of a mount, as administrators, fstab and harnesses write them.
//!
//! Decides what each word means and that an unknown word is refused by name. Does not know FUSE or files.
//! Invariant: whatever mount(8) may pass on for any file system is accepted.

use crate::base::KeepAwake;
use crate::fs::Atime;
use crate::sys::mount::KernelFlags;

/// How to mount. The default is what root expects of any file system: devices and set-id programs work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The first field in /proc/mounts, letter by letter.
    pub source: String,
    pub flags: KernelFlags,
    pub atime: Atime,
    /// Every write(2) is answered only when it is stable.
    pub strict_writes: bool,
    /// Threads that read requests of the kernel.
    pub workers: usize,
    pub keep_awake: KeepAwake,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            source: "twinfs".to_string(),
            flags: KernelFlags::default(),
            atime: Atime::default(),
            strict_writes: false,
            workers: workers(),
            keep_awake: KeepAwake::default(),
        }
    }
}

/// With two processors one reader answers faster than two take turns: medians of a chmod(2) 9 instead of 9-13 us, of
/// creating a file 32-34 instead of 34-48 us. With more of them there is room for callers beside each other.
#[allow(clippy::disallowed_methods, reason = "asks for the number of processors")]
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).clamp(1, 4))
}

/// A word in `-o` that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown mount option '{0}'; known: ro, rw, [no]dev, [no]suid, [no]exec, noatime, relatime, strictatime, \
         nodiratime, sync, dirsync, memory=SIZE, threads=N, keep_awake=auto|on|off, fsname=NAME"
)]
pub struct UnknownOption(pub String);

/// Words that mean nothing here, or what is so anyway.
const IGNORED: &[&str] = &[
    "defaults",
    "rw",
    "dev",
    "suid",
    "exec",
    "async",
    "nofail",
    "_netdev",
    "allow_other",
    "default_permissions",
    "lazytime",
    "nolazytime",
    "noiversion",
    "nostrictatime",
    "norelatime",
    "auto",
    "noauto",
    "nouser",
    "loud",
    "silent",
    "mand",
    "nomand",
    "subtype=twinfs",
];

impl MountOptions {
    /// Applies one comma separated list; a later word wins. `sloppy` lets unknown words pass.
    pub fn apply(&mut self, list: &str, sloppy: bool) -> Result<(), UnknownOption> {
        for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            if !self.apply_word(word) && !sloppy {
                return Err(UnknownOption(word.to_string()));
            }
        }
        Ok(())
    }

    fn apply_word(&mut self, word: &str) -> bool {
        let flags = &mut self.flags;
        match word {
            "ro" => flags.read_only = true,
            "rw" => flags.read_only = false,
            "nodev" => flags.no_dev = true,
            "dev" => flags.no_dev = false,
            "nosuid" => flags.no_suid = true,
            "suid" => flags.no_suid = false,
            "noexec" => flags.no_exec = true,
            "exec" => flags.no_exec = false,
            "nodiratime" => flags.no_dir_atime = true,
            "diratime" => flags.no_dir_atime = false,
            "dirsync" => flags.dir_sync = true,
            "async" => (flags.sync, flags.dir_sync) = (false, false),
            "sync" => flags.sync = true,
            "noatime" | "relatime" | "strictatime" | "atime" => self.apply_atime(word),
            _ => return self.apply_value(word),
        }
        true
    }

    fn apply_atime(&mut self, word: &str) {
        self.atime = match word {
            "noatime" => Atime::Never,
            "strictatime" => Atime::Strict,
            _ => Atime::Relative,
        };
        self.flags.no_atime = self.atime == Atime::Never;
        self.flags.strict_atime = self.atime == Atime::Strict;
    }

    fn apply_value(&mut self, word: &str) -> bool {
        if let Some(name) = word.strip_prefix("fsname=") {
            self.source = name.to_string();
            return true;
        }
        if let Some(count) = word.strip_prefix("threads=") {
            return count.parse().ok().filter(|n| (1..=64).contains(n)).map(|n| self.workers = n).is_some();
        }
        if let Some(mode) = word.strip_prefix("keep_awake=") {
            return KeepAwake::parse(mode).map(|mode| self.keep_awake = mode).is_some();
        }
        // What /proc/mounts shows of a mount comes back in a remount.
        let shown = ["user_id=", "group_id=", "rootmode=", "fd=", "max_read=", "blksize="];
        let foreign = ["x-", "X-", "comment="].iter().chain(&shown).any(|start| word.starts_with(start));
        foreign || IGNORED.contains(&word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> MountOptions {
        let mut options = MountOptions::default();
        options.apply(list, false).unwrap();
        options
    }

    #[test]
    fn root_gets_devices_and_set_id_programs_unless_told_otherwise() {
        assert_eq!(
            parsed("defaults,_netdev,nofail,x-systemd.requires=a.mount").flags,
            KernelFlags::default()
        );
        let closed = parsed("ro,nosuid,nodev,noexec").flags;
        assert!(closed.read_only && closed.no_suid && closed.no_dev && closed.no_exec);
    }

    #[test]
    fn the_last_word_wins() {
        assert!(!parsed("ro,rw").flags.read_only);
        assert_eq!(parsed("noatime,relatime").atime, Atime::Relative);
        assert!(parsed("relatime,noatime").flags.no_atime);
        assert!(!parsed("nodiratime,diratime").flags.no_dir_atime);
    }

    #[test]
    fn an_unknown_word_is_named_unless_sloppy() {
        let mut options = MountOptions::default();
        assert_eq!(options.apply("ro,frobnicate", false), Err(UnknownOption("frobnicate".to_string())));
        assert_eq!(options.apply("frobnicate", true), Ok(()));
        assert!(options.apply("threads=0", false).is_err());
    }
}
