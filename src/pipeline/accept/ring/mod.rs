//! Takes events from a ring: memory that a program fills without a system call.
//!
//! Input: what the program has published. Output: events in the publisher, and words that tell the program how far
//! they are. Thread: the ring's writer. Failure: the reader can go; or what the program has written cannot be true,
//! and then it is cut off with its ring, by name ([`Taken::Broken`]).
//!
//! The other end may be hostile. What a look believes of its bytes is said in `pass`; no number is read twice; what
//! is taken at a time is bounded. What a program can reach is its own ring and no other.
//!
//! The way through the files: [`registry`] grants a ring, `row` stores it, `connection` serves it, `take` looks into
//! it, `pass` takes what lies in it, [`table`] says how far it was taken.

pub(crate) mod connection;
mod pass;
pub mod registry;
mod row;
pub mod table;
mod take;
#[cfg(test)]
mod tests;

pub(crate) use take::{Ring, Taken};
