//! What the machine needs for the parts of an fsync when nothing but the part itself is done.
//!
//! Decides the plain programs. Each answers with the median of many times, in microseconds.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use twinfs::base::Pages;

use crate::latency::percentile;

const TIMES: usize = 3_000;
const PAGE: usize = 4096;
/// Of the file that is written.
const FILE: usize = 32 << 20;

fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    percentile(&times, 50)
}

/// One request of the mount that has nothing to do: fdatasync of a file that nobody changed.
pub fn fuse(mount: &Path) -> anyhow::Result<f64> {
    let path = mount.join("clean");
    let mut file = File::create(&path)?;
    file.write_all(&[1; 4096])?;
    file.sync_all()?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let from = Instant::now();
        file.sync_data()?;
        times.push(from.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(middle(times))
}

/// So many bytes over a TCP connection of the two networks, and so many back. A network is that of a process.
pub fn wire(networks: [(i32, String); 2], bytes: [usize; 2]) -> anyhow::Result<f64> {
    let [(near, _), (far, address)] = networks;
    let (told, ready) = channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            enter(far)?;
            let listener = TcpListener::bind((address.as_str(), 0))?;
            let _ = told.send(listener.local_addr()?);
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let (mut got, answer) = (vec![0; bytes[0]], vec![2; bytes[1]]);
            while stream.read_exact(&mut got).is_ok() {
                stream.write_all(&answer)?;
            }
            anyhow::Ok(())
        });
        let client = scope.spawn(move || {
            enter(near)?;
            let mut stream = TcpStream::connect(ready.recv().context("nobody listens")?)?;
            stream.set_nodelay(true)?;
            let (mut got, question) = (vec![0; bytes[1]], vec![1; bytes[0]]);
            let mut times = Vec::new();
            for _ in 0..TIMES {
                let from = Instant::now();
                stream.write_all(&question)?;
                stream.read_exact(&mut got)?;
                times.push(from.elapsed());
            }
            anyhow::Ok(middle(times))
        });
        let died = || anyhow::anyhow!("a thread of the wire died");
        let times = client.join().map_err(|_| died())?;
        server.join().map_err(|_| died())??;
        times
    })
}

/// This thread is in the network of that process from now on.
fn enter(process: i32) -> anyhow::Result<()> {
    let namespace = File::open(format!("/proc/{process}/ns/net"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("setns")
}

/// A write of so many bytes past the page cache and a flush; on two files, as both copies lie on one disk, of which the
/// second one is begun so much later as the peer does. Of the first file, and of the second.
pub fn disk(dir: &Path, bytes: usize, behind: Duration) -> anyhow::Result<[f64; 2]> {
    let paths = ["floor-a", "floor-b"].map(|name| dir.join(name));
    let files = [direct(&paths[0])?, direct(&paths[1])?];
    let together = Barrier::new(2);
    let one = |file: &File, after: Duration| {
        let mut data = Pages::zeroed(bytes / PAGE);
        let mut times = Vec::new();
        let mut failed = None;
        for number in 0..TIMES {
            data[..8].copy_from_slice(&(number as u64).to_le_bytes());
            together.wait();
            let begin = Instant::now() + after;
            while Instant::now() < begin {
                std::hint::spin_loop();
            }
            let from = Instant::now();
            let at = number * bytes % (FILE - bytes) / PAGE * PAGE;
            let done = file.write_all_at(&data, at as u64).and_then(|()| file.sync_data());
            times.push(from.elapsed());
            // The other one waits at the barrier.
            failed = failed.or(done.err());
        }
        failed.map_or_else(|| Ok(middle(times)), |error| Err(anyhow::Error::from(error)))
    };
    let one = &one;
    let [a, b] = std::thread::scope(|scope| {
        let threads = [(&files[0], Duration::ZERO), (&files[1], behind)];
        let threads = threads.map(|(file, after)| scope.spawn(move || one(file, after)));
        threads.map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a writer died"))))
    });
    for path in &paths {
        std::fs::remove_file(path)?;
    }
    Ok([a?, b?])
}

/// One thread wakes another one: half of there and back.
pub fn hand_over() -> anyhow::Result<f64> {
    let ((ask, asked), (answer, answered)) = (channel(), channel());
    std::thread::scope(|scope| {
        scope.spawn(move || while asked.recv().is_ok() && answer.send(()).is_ok() {});
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let from = Instant::now();
            ask.send(())?;
            answered.recv()?;
            times.push(from.elapsed());
        }
        drop(ask);
        Ok(middle(times) / 2.0)
    })
}

/// A file whose blocks the disk below has already.
fn direct(path: &Path) -> anyhow::Result<File> {
    let mut file = File::create(path)?;
    file.write_all(&vec![7; FILE])?;
    file.sync_all()?;
    let flags = nix::libc::O_DIRECT;
    Ok(OpenOptions::new().write(true).custom_flags(flags).open(path)?)
}
