//! One facility of the kernel or the processor a file, where neither nix nor rustix wraps it. `unsafe` is allowed here.

#[cfg(not(dbuf_loom))]
pub mod fdstore;
#[cfg(not(dbuf_loom))]
pub mod listen_fds;
#[cfg(not(dbuf_loom))]
pub mod mapping;
#[cfg(not(dbuf_loom))]
pub mod membarrier;
#[cfg(not(dbuf_loom))]
pub mod notify;
#[cfg(not(dbuf_loom))]
pub mod recvmmsg;
#[cfg(not(dbuf_loom))]
pub mod sync_file_range;
#[cfg(not(dbuf_loom))]
pub mod task;
#[cfg(not(dbuf_loom))]
pub mod ticks;
pub mod vector;
#[cfg(not(dbuf_loom))]
pub mod words;
