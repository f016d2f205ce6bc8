//! Wraps facilities of the kernel and the processor that neither nix nor rustix wraps, one in each file. `unsafe` is
//! allowed here.

pub mod clock;
pub mod fdstore;
pub mod listen_fds;
pub mod local_time;
pub mod membarrier;
pub mod notify;
pub mod pidfd;
pub mod recvmmsg;
pub mod socket_options;
pub mod sync_file_range;
pub mod task;
pub mod ticks;
pub mod words;

/// Memory by mmap(2): the buffer's, and other memory that outlives a process.
pub use dbuf_buffer::mapping;
