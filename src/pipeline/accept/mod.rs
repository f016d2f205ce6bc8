//! Where bytes arrive and become events.
//!
//! Enters: bytes on the stream socket (text lines, syslog, or the framed protocol) and on the datagram socket (plain
//! bytes or syslog). Leaves: records in the front half of the buffer. N pinned writer threads run all of it.
//! What can fail: only [`Accept::start`], when the kernel gives no epoll set or no thread; nothing that a client sends
//! makes a writer end.
//!
//! ```ignore
//! pub struct Sockets { pub stream: OwnedFd /* listening */, pub datagram: OwnedFd /* bound */ }
//! pub struct AcceptOptions {
//!     pub sockets: Sockets,
//!     pub buffer: DoubleBuffer,            // writers_max at least cpus.len()
//!     pub counters: Arc<Counters>,         // Counters::new(cpus.len())
//!     pub progress: Arc<Progress>,         // Progress::new(cpus.len())
//!     pub cpus: Vec<Option<usize>>,        // one writer thread for each; Some = pinned to that core
//!     pub max_event_bytes: usize,          // ingest.max_event
//! }
//! impl Accept {
//!     pub fn start(options: AcceptOptions) -> Result<Accept, StartError>;
//!     pub fn set_max_event_bytes(&self, bytes: usize);     // live, from the next read on
//!     pub fn pulses(&self) -> Vec<Arc<Pulse>>;             // one a writer, by index
//!     /// Accepts no more, drains what the kernel holds, ends the threads. Returns at the latest after `within`.
//!     pub fn stop(self, within: Duration) -> Stopped;
//! }
//! pub struct Stopped { pub writers_left: usize /* threads that still waited for room: they end when the Reader is dropped */ }
//! ```

pub mod frames;
mod layer;
mod lines;
mod losses;
mod peer;
mod source;
mod syslog;
mod text;
