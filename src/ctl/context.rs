//! What every command of dbufctl knows: where the daemon is, where the segments are, whether to use colors.

use std::path::PathBuf;

/// Places and habits that all commands share.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where the daemon's sockets are.
    pub runtime: PathBuf,
    /// Where the segments are.
    pub directory: PathBuf,
    /// Whether standard output gets colors.
    pub color: bool,
}
