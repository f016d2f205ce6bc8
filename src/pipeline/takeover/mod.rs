//! Carries what a process was doing over its death: memory, notes and names.
//!
//! Input: what the service manager kept of the previous process. Output: the same state in this process, in which
//! every publish is either done or not begun. Main thread, at the start; then the threads that publish. What can fail:
//! there is no memory; and what another version left is replaced.
//!
//! - [`names`] names everything that outlives the process, and sorts what is found.
//! - [`memory`] maps it and checks it before it is believed.
//! - [`note`] is the one protocol by which a number follows a publish; its table of steps holds for all users.
//! - [`spans`] remembers which events may still be lost, for acknowledgements.
//!
//! The users: receive buffers, the session table, the ring table, the account, and the halves of the double buffer. The
//! order of a start, which `daemon/lifecycle.rs` keeps:
//!
//! 1. The halves are found. Nothing is created.
//! 2. All notes are resolved, by asking the halves that each note speaks of.
//! 3. What is missing is created, and kept from here on.
//! 4. The reader stores what the halves hold, oldest first. Then writers run.
//!
//! So a death during a start is one more death and nothing new.

pub mod memory;
pub mod names;
pub mod note;
pub mod spans;
