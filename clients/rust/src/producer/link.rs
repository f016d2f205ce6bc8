//! Names what empties a producer's memory.
//!
//! Input and output: plain data, with a connection. The producer's thread. Failures: none.

use std::time::Duration;

use super::frames::{Framed, Phase};
use super::options::LinkKind;
use crate::connection::Connection;

/// The least time between two attempts to connect; twice as long after each that fails.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(100);

/// Who empties the memory.
#[derive(Debug)]
pub(super) enum Link {
    /// There is no daemon.
    None,
    /// The producer, once the connection is open.
    Framed(Box<Framed>),
    /// The daemon.
    Ring(Connection),
}

impl Link {
    pub(super) fn kind(&self) -> LinkKind {
        match self {
            Self::Ring(_) => LinkKind::Ring,
            Self::Framed(framed) if framed.phase == Phase::Open => LinkKind::Frames,
            Self::None | Self::Framed(_) => LinkKind::None,
        }
    }
}
