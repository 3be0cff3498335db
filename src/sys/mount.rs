//! mount(2), umount2(2) and /proc/self/mountinfo for FUSE mounts of the type `fuse.twinfs`.
//!
//! Decides the strings that the kernel is given, and how a mount is ended when the polite way fails. Does not know
//! what is served. Invariant: nothing here touches the *content* of a mount (no stat below or on a mount point that
//! could be dead) before mountinfo was asked what lies there.
#![allow(unsafe_code, clippy::disallowed_methods, reason = "a shell: system calls, one ioctl by number")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

/// The type in /proc/mounts.
pub const FS_TYPE: &str = "fuse.twinfs";
const O_CLOEXEC: i32 = nix::fcntl::OFlag::O_CLOEXEC.bits();

/// What the kernel itself applies to a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelFlags {
    pub read_only: bool,
    pub no_dev: bool,
    pub no_suid: bool,
    pub no_exec: bool,
    pub no_atime: bool,
    pub no_dir_atime: bool,
    pub strict_atime: bool,
    pub sync: bool,
    pub dir_sync: bool,
}

impl KernelFlags {
    fn bits(self) -> MsFlags {
        let table = [
            (self.read_only, MsFlags::MS_RDONLY),
            (self.no_dev, MsFlags::MS_NODEV),
            (self.no_suid, MsFlags::MS_NOSUID),
            (self.no_exec, MsFlags::MS_NOEXEC),
            (self.no_atime, MsFlags::MS_NOATIME),
            (self.no_dir_atime, MsFlags::MS_NODIRATIME),
            (self.strict_atime, MsFlags::MS_STRICTATIME),
            (self.sync, MsFlags::MS_SYNCHRONOUS),
            (self.dir_sync, MsFlags::MS_DIRSYNC),
        ];
        table.iter().filter(|(set, _)| *set).fold(MsFlags::empty(), |all, (_, bit)| all | *bit)
    }
}

/// From here on what this thread, and those that it starts, mount is seen by nobody else and ends with them.
pub fn private_namespace() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?)
}

/// The ioctl by which a remount tells the daemon what changed: type 0xe7, number 1, a 32-bit word to the daemon.
pub const REMOUNT_WORD: u32 = 0x4004_e701;

/// What the daemon of a mount decides by itself and a remount may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemountWord {
    pub writable: bool,
    pub no_atime: bool,
    pub strict_atime: bool,
    pub dir_sync: bool,
    pub no_dir_atime: bool,
}

impl RemountWord {
    pub fn from_bits(bits: u32) -> RemountWord {
        let has = |bit: u32| bits & bit != 0;
        RemountWord {
            writable: has(1),
            no_atime: has(2),
            strict_atime: has(4),
            dir_sync: has(8),
            no_dir_atime: has(16),
        }
    }

    fn bits(self) -> u32 {
        let table = [
            (self.writable, 1),
            (self.no_atime, 2),
            (self.strict_atime, 4),
            (self.dir_sync, 8),
            (self.no_dir_atime, 16),
        ];
        table.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum()
    }
}

/// Changes the flags of a mount that is served. What was written before is stable when a mount becomes read-only;
/// EROFS if the daemon can no longer, or never could, accept changes.
pub fn remount(dir: &Path, flags: KernelFlags) -> io::Result<()> {
    let word = RemountWord {
        writable: !flags.read_only,
        no_atime: flags.no_atime,
        strict_atime: flags.strict_atime,
        dir_sync: flags.dir_sync || flags.sync,
        no_dir_atime: flags.no_dir_atime,
    };
    let root = std::fs::File::open(dir)?;
    if word.writable {
        tell_remount(&root, word)?;
    } else {
        sync(&root)?;
    }
    nix::mount::mount(None::<&str>, dir, None::<&str>, flags.bits() | MsFlags::MS_REMOUNT, None::<&str>)?;
    if !word.writable {
        tell_remount(&root, word)?;
        sync(&root)?;
    }
    Ok(())
}

/// The ioctl that makes everything stable, as sync(2) does elsewhere: type 0xe7, number 2.
pub const SYNC_ALL: u32 = 0xe702;

/// Makes everything stable that was written to the mount whose root directory this is.
pub fn sync(root: &std::fs::File) -> io::Result<()> {
    nix::ioctl_none!(sync_all, 0xe7, 2);
    // SAFETY: the request has no argument.
    unsafe { sync_all(root.as_raw_fd()) }?;
    Ok(())
}

/// Bytes of what is said and answered about handing a mount on.
pub const HAND_ON_BYTES: usize = 4096;
/// The ioctl that asks a mount to go on in another program, or, without one, how often it did: type 0xe7, number 3.
pub const HAND_ON: u32 = 0xe703;

/// What a mount answers about handing it on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedOn {
    /// How often it was.
    pub count: u32,
    /// Of the program that serves it.
    pub version: String,
    /// How long requests waited for it.
    pub pause_ms: u64,
    /// Why it was not; empty: no reason known.
    pub refusal: String,
}

impl HandedOn {
    /// As the ioctl carries it.
    pub fn bytes(&self) -> Vec<u8> {
        let refusal = self.refusal.replace('\n', "; ");
        let mut bytes =
            format!("{}\n{}\n{}\n{refusal}", self.count, self.version, self.pause_ms).into_bytes();
        bytes.resize(HAND_ON_BYTES, 0);
        bytes[HAND_ON_BYTES - 1] = 0;
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<HandedOn> {
        let text = String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default());
        let mut lines = text.lines();
        let count = lines.next().and_then(|line| line.parse().ok());
        let count = count.ok_or_else(|| io::Error::other("the mount gives no proper answer"))?;
        let mut next = || lines.next().unwrap_or_default().to_string();
        Ok(HandedOn { count, version: next(), pause_ms: next().parse().unwrap_or(0), refusal: next() })
    }
}

/// Asks the mount whose root directory this is to go on in `program`; `None`: only asks how it stands. The inner error:
/// it refuses, and says why.
pub fn hand_on(root: &std::fs::File, program: Option<&Path>) -> io::Result<Result<HandedOn, HandedOn>> {
    use std::os::unix::ffi::OsStrExt;
    nix::ioctl_readwrite!(hand_on, 0xe7, 3, [u8; HAND_ON_BYTES]);
    let mut bytes = [0; HAND_ON_BYTES];
    let path = program.map_or(&[][..], |program| program.as_os_str().as_bytes());
    match bytes.get_mut(..path.len()) {
        Some(place) if path.len() < HAND_ON_BYTES => place.copy_from_slice(path),
        _ => return Err(nix::errno::Errno::ENAMETOOLONG.into()),
    }
    // SAFETY: the request reads and writes the array, which outlives the call.
    let refused = unsafe { hand_on(root.as_raw_fd(), &raw mut bytes) }? != 0;
    let state = HandedOn::read(&bytes)?;
    Ok(if refused { Err(state) } else { Ok(state) })
}

fn tell_remount(root: &std::fs::File, word: RemountWord) -> io::Result<()> {
    nix::ioctl_write_ptr!(remount_word, 0xe7, 1, u32);
    let bits = word.bits();
    // SAFETY: the request reads one 32-bit word through the pointer, which outlives the call.
    unsafe { remount_word(root.as_raw_fd(), &raw const bits) }?;
    Ok(())
}

/// One line of mountinfo, as far as it is needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountLine {
    pub minor: u32,
    pub point: PathBuf,
    pub fs_type: String,
    pub source: String,
}

/// Bytes of the largest read that the kernel asks for at once. Half of what it could: one half is checked and copied
/// while the disk reads the other. Streaming from a cold file, 4 MiB ahead: 1.7-1.9 GB/s instead of 0.9-1.0.
const READ_MAX: u32 = 512 << 10;

/// Mounts an unserved FUSE file system at `dir` and returns the descriptor of `/dev/fuse` that serves it.
pub fn fuse_mount(source: &str, dir: &Path, flags: KernelFlags) -> io::Result<OwnedFd> {
    let dev = OpenOptions::new().read(true).write(true).custom_flags(O_CLOEXEC).open("/dev/fuse")?;
    let uid = nix::unistd::getuid();
    let gid = nix::unistd::getgid();
    let data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions,allow_other,max_read={READ_MAX}",
        dev.as_raw_fd()
    );
    nix::mount::mount(Some(source), dir, Some(FS_TYPE), flags.bits(), Some(data.as_str()))?;
    Ok(dev.into())
}

/// Ends the mount if nobody uses it.
pub fn unmount(dir: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(dir, MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Takes the mount out of the name space now; users keep what they have open until they let go.
pub fn detach(dir: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Aborts the FUSE connection with this number: every call waiting for an answer gets ECONNABORTED, in every mount
/// name space that holds a copy. Without a mounted `fusectl` the forced unmount of `dir` does the same.
pub fn abort_connection(minor: u32, dir: &Path) -> io::Result<()> {
    let control = format!("/sys/fs/fuse/connections/{minor}/abort");
    match std::fs::write(control, "1") {
        Ok(()) => Ok(()),
        Err(_) => match nix::mount::umount2(dir, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
            // The abort comes before the answer that somebody still uses the mount.
            Ok(()) | Err(nix::errno::Errno::EBUSY | nix::errno::Errno::EINVAL) => Ok(()),
            Err(error) => Err(error.into()),
        },
    }
}

/// What is mounted on top at exactly this path, by name only: nothing is stat'ed.
pub fn mounted_at(dir: &Path) -> io::Result<Option<MountLine>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse_mountinfo(&text).into_iter().rfind(|line| line.point == dir))
}

fn parse_mountinfo(text: &[u8]) -> Vec<MountLine> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /point options opt-fields - type source super-options`, octal escapes in the paths.
fn parse_line(line: &[u8]) -> Option<MountLine> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    let numbers = std::str::from_utf8(fields.get(2)?).ok()?;
    let minor = numbers.split_once(':')?.1.parse().ok()?;
    Some(MountLine {
        minor,
        point: std::ffi::OsString::from_vec(unescape(fields.get(4)?)).into(),
        fs_type: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
        source: String::from_utf8_lossy(&unescape(fields.get(dash + 2)?)).into_owned(),
    })
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|d| d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match (field[at], octal) {
            (b'\\', Some(digits)) => {
                let value = digits.iter().fold(0_u32, |all, digit| all * 8 + u32::from(digit - b'0'));
                out.push(u8::try_from(value & 0xff).unwrap_or(b'?'));
                at += 4;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// `dir` as an absolute path without links in its parents; the last part is not touched, so that a dead mount there
/// cannot answer with an error.
pub fn absolute(dir: &Path) -> io::Result<PathBuf> {
    let full = std::path::absolute(dir)?;
    match (full.parent(), full.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(full),
    }
}

/// Whether the daemon of the FUSE mount at `dir` is gone. Asked with statfs(2): a stat could be answered from a cache
/// that outlives the daemon.
pub fn is_dead(dir: &Path) -> bool {
    use nix::errno::Errno;
    matches!(nix::sys::statvfs::statvfs(dir), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// How far the kernel reads ahead in files of the mount with this device number (its major number is 0).
pub fn set_read_ahead(minor: u32, kib: u32) -> io::Result<()> {
    std::fs::write(format!("/sys/class/bdi/0:{minor}/read_ahead_kb"), kib.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_gives_the_mount_point_with_its_escapes_and_the_connection_number() {
        let text = b"22 1 0:21 / /proc rw,relatime - proc proc rw\n\
            99 22 0:57 / /mnt/a\\040b rw shared:1 master:2 - fuse.twinfs /img\\0111 rw,user_id=0\n";
        let lines = parse_mountinfo(text);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].point, Path::new("/mnt/a b"));
        assert_eq!(lines[1].minor, 57);
        assert_eq!(lines[1].fs_type, FS_TYPE);
        assert_eq!(lines[1].source, "/img\t1");
    }

    #[test]
    fn the_word_of_a_remount_survives_its_bits() {
        for bits in 0..16 {
            assert_eq!(RemountWord::from_bits(bits).bits(), bits);
        }
    }

    #[test]
    fn what_a_mount_says_about_itself_survives_its_bytes() {
        let said =
            HandedOn { count: 3, version: "1.2.3".into(), pause_ms: 70, refusal: "no room; really".into() };
        assert_eq!(HandedOn::read(&said.bytes()).unwrap(), said);
        let long = HandedOn { refusal: "x".repeat(9000), ..said };
        assert_eq!(long.bytes().len(), HAND_ON_BYTES);
        assert!(HandedOn::read(&long.bytes()).unwrap().refusal.len() > 4000);
        assert!(HandedOn::read(&[0; 8]).is_err());
    }

    #[test]
    fn every_kernel_flag_has_its_bit() {
        assert_eq!(KernelFlags::default().bits(), MsFlags::empty());
        let some = KernelFlags { read_only: true, no_exec: true, ..KernelFlags::default() };
        assert_eq!(some.bits(), MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
    }
}
