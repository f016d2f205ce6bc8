//! Takes events from a ring: memory that a program fills without a system call.
//!
//! Input: what the program has published. Output: events in the publisher, and words that tell the program how far its
//! events are. Thread: the ring's writer. Failure: the reader is gone; or the program has written something impossible,
//! and then it is disconnected with its ring and named in the log ([`Taken::Broken`]).
//!
//! The other end may be hostile. `pass` says what a look may believe of its bytes. No number is read twice. What is
//! taken at a time is bounded. A program can reach only its own ring.
//!
//! The way through the files: [`registry`] grants a ring, `row` stores it, `connection` serves it, `take` looks into
//! it, `pass` encodes its events, `loss_budget` bounds the losses that it claims, and [`table`] says how far it was
//! taken.

pub(crate) mod connection;
mod loss_budget;
mod pass;
pub mod registry;
mod row;
pub mod table;
mod take;
#[cfg(test)]
mod tests;

pub(crate) use take::{Ring, Taken};
