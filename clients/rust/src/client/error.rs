//! Says why a call of a client failed.
//!
//! Input: what the kernel or the daemon said. Output: an error, whose text is for people. Any thread. Failures: none.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::connection::End;
use crate::{reason, wire};

/// Why a call of [`Client`](crate::Client) failed.
///
/// ```
/// use dbuf_client::{Client, ClientOptions, Error};
///
/// let error = Client::connect("/nonexistent/stream.sock", &ClientOptions::default()).unwrap_err();
/// assert!(matches!(error, Error::Connect { .. }));
/// assert!(error.to_string().ends_with("No such file or directory (is dbufd running?)"));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon does not listen there, or this user may not connect.
    #[error("cannot connect to {}: {}", path.display(), reason::connect(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The connection failed. Events after [`Client::acknowledged`](crate::Client::acknowledged) may not have arrived.
    #[error("the connection to dbufd failed: {0}")]
    Io(#[from] io::Error),
    /// The daemon closed the connection; or this is a forked child, and the connection is its parent's.
    #[error("dbufd closed the connection")]
    Closed,
    /// The daemon ended the connection with a reason.
    #[error("dbufd ended the connection: {text} ({code})")]
    Ended {
        /// The code's name, or its number if it is of a later version.
        code: String,
        /// The daemon's words.
        text: String,
    },
    /// The daemon's bytes are no frames that this client knows.
    #[error("dbufd sent something that this client does not understand: {0}")]
    Wire(#[from] wire::WireError),
    /// No answer in time.
    #[error("no answer from dbufd within {0:?}")]
    Timeout(Duration),
    /// Not sent: larger than the daemon takes.
    #[error("the event has {bytes} bytes, and dbufd takes {max_event} (ingest.max_event)")]
    TooBig {
        /// Bytes of its payload.
        bytes: usize,
        /// The most that the daemon takes.
        max_event: usize,
    },
    /// Not sent: it breaks a rule of the protocol.
    #[error("not a valid event: {0}")]
    Invalid(&'static str),
    /// Events that were sent are not stored; [`Client::refusals`](crate::Client::refusals) names them.
    #[error("{0} events were not stored")]
    Refused(u64),
}

impl From<End> for Error {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self::Closed,
            End::Refused { text, code } => Self::Ended { code, text },
            End::Wire(error) => Self::Wire(error),
            // The program has closed the descriptor, or it is the parent's of this process.
            End::Failed(error) if error.raw_os_error() == Some(libc::EBADF) => Self::Closed,
            End::Failed(error) => Self::Io(error),
        }
    }
}
