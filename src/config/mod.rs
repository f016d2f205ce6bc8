//! Reads and checks the configuration: what the daemon will do.
//!
//! Input: files and flags. Output: a checked [`Config`]. Control thread, and dbufctl. Failures: reading and checking.
//!
//! Imports nothing from the pipeline: what both need is in [`crate::options`].

pub mod keys;
pub mod load;
pub mod paths;
pub mod settings;
pub mod units;
pub mod value;

pub use load::{ConfigError, Sources};
pub use settings::Config;
