//! What is measured: each work runs in a folder of a mounted filesystem and answers with one figure.
//!
//! Decides the list, the sizes and the units. Does not know which filesystem it runs on: the calls are the same for
//! all. The works themselves are in `stable`, `stream`, `tree` and `programs`.

use std::path::Path;
use std::time::Duration;

use crate::harness::need::Program;
use crate::programs;
use crate::stable;
use crate::stream;
use crate::tree;

pub const MIB: usize = 1 << 20;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Bytes of the streamed file.
    pub stream: usize,
    /// Files made, looked at and removed.
    pub files: usize,
    /// How long writers with fsync run.
    pub fsync: Duration,
    /// Transactions of a database.
    pub transactions: usize,
    /// Blocks read in no order.
    pub random_reads: usize,
    /// Bytes of the archive at most.
    pub archive: u64,
    /// Bytes of an image.
    pub image: u64,
}

impl Scale {
    pub const QUICK: Scale = Scale {
        stream: 128 * MIB,
        files: 10_000,
        fsync: Duration::from_secs(2),
        transactions: 500,
        random_reads: 8_192,
        archive: 48 << 20,
        image: 1 << 30,
    };
    pub const FULL: Scale = Scale {
        stream: 512 * MIB,
        files: 10_000,
        fsync: Duration::from_secs(10),
        transactions: 4_000,
        random_reads: 65_536,
        archive: 256 << 20,
        image: 4 << 30,
    };
}

/// One work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    OverwriteFsync(usize),
    AppendFsync(usize),
    Mail(usize),
    SqliteDelete,
    SqliteWal,
    SeqWrite,
    SeqReadCold,
    RandReadCold,
    ReadWarm,
    Create,
    StatWarm,
    ReaddirWarm,
    Unlink,
    Untar,
    Rmtree,
    Pgbench,
    Dbench,
}

impl Work {
    /// In this order: some use what an earlier one left.
    pub const ALL: &[Work] = &[
        Work::OverwriteFsync(1),
        Work::OverwriteFsync(4),
        Work::AppendFsync(1),
        Work::AppendFsync(4),
        Work::Mail(1),
        Work::Mail(4),
        Work::SqliteDelete,
        Work::SqliteWal,
        Work::SeqWrite,
        Work::SeqReadCold,
        Work::RandReadCold,
        Work::ReadWarm,
        Work::Create,
        Work::StatWarm,
        Work::ReaddirWarm,
        Work::Unlink,
        Work::Untar,
        Work::Rmtree,
        Work::Pgbench,
        Work::Dbench,
    ];

    /// The works of these names, none: all, in the order of `ALL`.
    pub fn of_names(names: &[String]) -> anyhow::Result<Vec<Work>> {
        let known = || Work::ALL.iter().map(|work| work.name());
        if let Some(wrong) = names.iter().find(|name| !known().any(|known| known == name.as_str())) {
            anyhow::bail!("no such work: {wrong}; there are: {}", known().collect::<Vec<_>>().join(" "));
        }
        let wanted = |work: &Work| names.is_empty() || names.iter().any(|name| name == work.name());
        Ok(Work::ALL.iter().copied().filter(wanted).collect())
    }

    pub fn name(self) -> &'static str {
        match self {
            Work::OverwriteFsync(1) => "overwrite_fsync_1",
            Work::OverwriteFsync(_) => "overwrite_fsync_4",
            Work::AppendFsync(1) => "append_fsync_1",
            Work::AppendFsync(_) => "append_fsync_4",
            Work::Mail(1) => "mail_1",
            Work::Mail(_) => "mail_4",
            Work::SqliteDelete => "sqlite_delete",
            Work::SqliteWal => "sqlite_wal",
            Work::SeqWrite => "seqwrite",
            Work::SeqReadCold => "seqread_cold",
            Work::RandReadCold => "randread_cold_q16",
            Work::ReadWarm => "read_warm",
            Work::Create => "create",
            Work::StatWarm => "stat_warm",
            Work::ReaddirWarm => "readdir_warm",
            Work::Unlink => "unlink",
            Work::Untar => "untar",
            Work::Rmtree => "rmtree",
            Work::Pgbench => "pgbench_4",
            Work::Dbench => "dbench_4",
        }
    }

    pub fn metric(self) -> &'static str {
        match self {
            Work::SeqWrite | Work::SeqReadCold | Work::ReadWarm | Work::Dbench => "throughput",
            Work::Untar | Work::Rmtree => "time",
            _ => "rate",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Work::SeqWrite | Work::SeqReadCold | Work::ReadWarm => "MiB/s",
            Work::Untar | Work::Rmtree => "s",
            Work::OverwriteFsync(_) | Work::AppendFsync(_) => "writes/s",
            Work::Mail(_) => "mails/s",
            Work::SqliteDelete | Work::SqliteWal => "commits/s",
            Work::RandReadCold => "reads/s",
            Work::ReaddirWarm => "names/s",
            Work::Pgbench => "tps",
            Work::Dbench => "MB/s",
            Work::Create | Work::StatWarm | Work::Unlink => "files/s",
        }
    }

    pub fn less_is_faster(self) -> bool {
        matches!(self, Work::Untar | Work::Rmtree)
    }

    /// Programs that it needs; what Debian has of them is installed.
    pub fn programs(self) -> &'static [Program] {
        match self {
            Work::Pgbench => programs::POSTGRES,
            Work::Dbench => programs::DBENCH,
            _ => &[],
        }
    }

    /// Runs once in `dir` and answers in `unit`.
    pub fn run(self, dir: &Path, scale: Scale, archive: &Path) -> anyhow::Result<f64> {
        let (stream, many, grown) = (dir.join("stream"), dir.join("many"), dir.join("tree"));
        match self {
            Work::OverwriteFsync(writers) => stable::fsync_rate(dir, writers, scale.fsync, true),
            Work::AppendFsync(writers) => stable::fsync_rate(dir, writers, scale.fsync, false),
            Work::Mail(writers) => stable::mail(&dir.join("mail"), writers, scale.fsync),
            Work::SqliteDelete => stable::sqlite(&dir.join("db"), "delete", scale.transactions),
            Work::SqliteWal => stable::sqlite(&dir.join("db"), "wal", scale.transactions),
            Work::SeqWrite => stream::write(&stream, scale.stream),
            Work::SeqReadCold => stream::read_cold(&stream, scale.stream),
            Work::RandReadCold => stream::random_cold(&stream, scale.stream, scale.random_reads),
            Work::ReadWarm => stream::read_warm(&stream, scale.stream),
            Work::Create => tree::create(&many, scale.files),
            Work::StatWarm => tree::stat(&many, scale.files),
            Work::ReaddirWarm => tree::readdir(&many, scale.files),
            Work::Unlink => tree::unlink(&many, scale.files),
            Work::Untar => tree::untar(&grown, archive),
            Work::Rmtree => tree::rmtree(&grown, archive),
            Work::Pgbench => programs::pgbench(dir, 2 * scale.fsync),
            Work::Dbench => programs::dbench(dir, 2 * scale.fsync),
        }
    }
}
