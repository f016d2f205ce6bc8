//! sys

pub mod recvmmsg;
