//! The data plane: plain threads, no tokio, no lock between a claim and its publish.
//!
//! The folders sort in the order of travel: [`accept`], [`buffer`], [`drain`], [`store`].
//! [`record`] is the layout of the bytes that travel, from a writer's claim to the file and back to a person's eyes;
//! [`counters`] is the account of them.

pub mod accept;
pub mod buffer;
pub mod counters;
pub mod drain;
pub mod histogram;
pub mod progress;
pub mod pulse;
pub mod record;
pub mod store;
