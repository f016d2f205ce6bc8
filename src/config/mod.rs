//! What the configuration says, and so what the daemon will do.
//!
//! Enters: files, flags. Leaves: a checked [`Config`]. Control thread, and dbufctl. What can fail: reading and checking.

pub mod paths;
pub mod settings;

pub use settings::Config;
