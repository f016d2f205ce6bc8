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
//! buffer. `docs/ARCHITECTURE.md`, "The order of a start", numbers the steps of a start. They keep one rule: nothing is
//! created before all notes are resolved, because a note names a position in memory of the previous process. So a death
//! during a start is one more death and needs no other rules.

pub mod memory;
pub mod names;
pub mod note;
pub mod spans;
