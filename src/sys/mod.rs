//! One kernel facility a file, where neither nix nor rustix wraps it. `unsafe` is allowed here.

pub mod listen_fds;
pub mod recvmmsg;
pub mod sync_file_range;
pub mod task;
