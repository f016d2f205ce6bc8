//! Packs what an epoll event is about into the 64 bits that the kernel hands back with it.
//!
//! Input and output: plain values. Thread: any. Nothing can fail.

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The writer's own bell: clients from other writers, or the order to stop.
    Bell,
    /// The bell of the reader's progress.
    Progress,
    /// The process with this number has ended.
    Process(u32),
    /// The connection with this index.
    Connection(u32),
    /// The listening socket with this index.
    Listener(u32),
    /// The datagram socket with this index.
    Datagrams(u32),
}

impl Token {
    pub(super) fn number(self) -> u64 {
        let (kind, low): (u64, u32) = match self {
            Self::Bell => (0, 0),
            Self::Progress => (0, 1),
            Self::Process(pid) => (1, pid),
            Self::Connection(index) => (2, index),
            Self::Listener(index) => (3, index),
            Self::Datagrams(index) => (4, index),
        };
        kind << 32 | u64::from(low)
    }

    pub(super) fn of(number: u64) -> Self {
        let low = number as u32;
        match (number >> 32, low) {
            (0, 0) => Self::Bell,
            (0, _) => Self::Progress,
            (1, _) => Self::Process(low),
            (3, _) => Self::Listener(low),
            (4, _) => Self::Datagrams(low),
            _ => Self::Connection(low),
        }
    }
}
