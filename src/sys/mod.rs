//! The kernel's facilities, one a file; the only folder for `unsafe` system calls.

pub mod listen_fds;
pub mod sync_file_range;
