//! What the configuration says, and so what the daemon will do.
//!
//! Enters: files, flags. Leaves: a checked [`Config`]. Control thread, and dbufctl. What can fail: reading and checking.

pub mod keys;
pub mod load;
pub mod paths;
pub mod settings;
pub mod units;
pub mod value;

pub use load::{ConfigError, Sources};
pub use settings::Config;
