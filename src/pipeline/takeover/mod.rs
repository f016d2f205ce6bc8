//! Carries a process's work in progress across its death: memory, notes and names.
//!
//! Input: what the service manager kept of the previous process. Output: the same state in this process, in which every
//! publish is either done or not begun. Thread: the main thread, at the start; then the threads that publish. Failure:
//! there is no memory. What another version left is replaced.
//!
//! - [`names`] names everything that outlives the process, and sorts what is found.
//! - [`memory`] maps it and checks it before it is used.
//! - [`note`] is the one protocol by which a number follows a publish. Its table of steps holds for all users.
//! - [`spans`] remembers which events may still be lost, for acknowledgements.
//!
//! The users are the receive buffers, the session table, the ring table, the account, and the halves of the double
//! buffer. `daemon/lifecycle.rs` keeps the order of a start:
//!
//! 1. The halves are found. Nothing is created.
//! 2. All notes are resolved: each names a position in a half, and the half says whether that publish came.
//! 3. What is missing is created, and stored from here on.
//! 4. The reader stores what the halves hold, oldest first. Then the writers run.
//!
//! So a death during a start is one more death and needs no other rules.

pub mod memory;
pub mod names;
pub mod note;
pub mod spans;
