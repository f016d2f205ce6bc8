//! Packs what an epoll event is about into the 64 bits that the kernel hands back with it.

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// The listening socket.
    Listener,
    /// The writer's own bell: newcomers, or the order to stop.
    Bell,
    /// The bell of the reader's progress.
    Progress,
    /// The datagram socket.
    Datagrams,
    /// The process with this number has ended.
    Process(u32),
    /// The connection with this index.
    Connection(u32),
    /// The doorbell of the ring of that connection.
    Doorbell(u32),
}

impl Token {
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Bell => 1,
            Self::Progress => 2,
            Self::Datagrams => 3,
            Self::Process(pid) => 1 << 32 | u64::from(pid),
            Self::Connection(index) => 2 << 32 | u64::from(index),
            Self::Doorbell(index) => 3 << 32 | u64::from(index),
        }
    }

    pub(crate) fn of(number: u64) -> Self {
        let low = number as u32;
        match (number >> 32, low) {
            (0, 0) => Self::Listener,
            (0, 1) => Self::Bell,
            (0, 2) => Self::Progress,
            (0, _) => Self::Datagrams,
            (1, _) => Self::Process(low),
            (3, _) => Self::Doorbell(low),
            _ => Self::Connection(low),
        }
    }
}
