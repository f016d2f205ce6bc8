//! `dbufctl`, the command that people type.

pub mod args;
pub mod context;
mod daemon;
mod failure;
mod output;
mod print;
mod select;
mod stats;

pub use context::Context;
