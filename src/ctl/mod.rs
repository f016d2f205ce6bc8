//! `dbufctl`, the command that people type.

pub mod context;

pub use context::Context;
