//! Names the reasons for which a connection is not stored.
//!
//! Input: what was refused. Output: a text with what helps, and a number to count by. Thread: any. Nothing here can
//! fail.

use std::io;

use crate::pipeline::shares::Refusal;
use crate::sys::fdstore::NotKept;

/// Why a connection is not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum WhyUnkept {
    #[error("{0}; {advice}", advice = advice(.0))]
    Refused(Refusal),
    #[error("no memory for its read position: {0}; free memory")]
    NoMemory(io::Error),
    #[error(transparent)]
    NotKept(#[from] NotKept),
}

/// Reasons that are counted apart.
pub(super) const REASONS: usize = 5;

impl WhyUnkept {
    /// The number of the reason.
    pub(super) fn reason(&self) -> usize {
        match self {
            Self::Refused(Refusal::NoneLeft(_)) => 0,
            Self::Refused(Refusal::Share { .. }) => 1,
            Self::Refused(Refusal::UsedUp(_)) => 2,
            Self::NoMemory(_) => 3,
            Self::NotKept(_) => 4,
        }
    }
}

/// What to do about a refusal.
fn advice(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoneLeft(_) => "raise FileDescriptorStoreMax= and FDSTORE= in dbufd.service",
        Refusal::Share { .. } => "let it open fewer connections, or raise FileDescriptorStoreMax= and FDSTORE=",
        Refusal::UsedUp(_) => "its connections are stored later if they stay open; let it connect less often",
    }
}
