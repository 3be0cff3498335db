//! A serial line to the peer as it is named: a device and its speed; and how long bytes take on it.
//!
//! Decides nothing. Does not know whether the device exists.

use std::fmt;
use std::path::PathBuf;

use super::Span;

/// One end of a line between the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialLine {
    pub device: PathBuf,
    /// Bits a second, one of `BAUDS`.
    pub baud: u32,
}

impl SerialLine {
    /// Speeds that both ends can be set to. Below them a heartbeat alone takes more than a quarter of a second.
    pub const BAUDS: &[u32] = &[
        9_600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000,
        1_152_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
    ];
    /// A heartbeat with its frame is no longer.
    pub const FRAME_BYTES_MAX: usize = 136;

    /// How long `bytes` take: eight bits, a start and a stop bit each.
    pub fn takes(&self, bytes: usize) -> Span {
        let bits = (bytes as u64).saturating_mul(10);
        Span(bits.saturating_mul(1_000_000_000) / u64::from(self.baud.max(1)))
    }
}

impl fmt::Display for SerialLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.device.display(), self.baud)
    }
}
