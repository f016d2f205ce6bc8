//! Decides how a command of dbufctl ends: the exit code of each outcome, and one line for people.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use dbuf_client::Error;
use nix::errno::Errno;

use super::access::{Use, denied};

/// Damage or loss was found in the data that was read.
pub(crate) const DAMAGE_EXIT: u8 = 3;

/// Failures that have an exit code of their own. Any other error is 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The request makes no sense: 2.
    #[error("{0}")]
    Usage(String),
    /// No daemon answers: 4.
    #[error("{0}")]
    NoDaemon(String),
    /// The reader of our output has gone, as with `| head`. This is no failure: 0.
    #[error("the reader of the output has gone")]
    OutputClosed,
}

/// Why no daemon answers at `path`, and what to do. Only an error that says that nothing listens asks for a start.
pub(crate) fn no_answer(path: &Path, errno: Errno) -> String {
    let path = path.display();
    match errno {
        Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR => {
            format!(
                "{path}: no daemon listens there; start dbufd, or name the directory of its sockets with --runtime DIR"
            )
        }
        Errno::ETIMEDOUT => {
            format!("{path}: the daemon does not answer in time; see 'systemctl status dbufd'")
        }
        Errno::EPIPE | Errno::ECONNRESET => {
            format!("{path}: the daemon closed the connection without an answer; try again, or see the daemon's log")
        }
        other => format!("{path}: {}; name the directory of the daemon's sockets with --runtime DIR", other.desc()),
    }
}

/// What a failed call of the client means for dbufctl.
pub(crate) fn client_failure(error: Error) -> anyhow::Error {
    match error {
        Error::Connect { path, source } if source.kind() == ErrorKind::PermissionDenied => anyhow::anyhow!(
            "{}: {}; who may send is set by SocketMode= in dbufd.socket, or without systemd by ingest.socket_mode",
            path.display(),
            denied(&path, Use::Connect)
        ),
        Error::Connect { path, source } => {
            let errno = source.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            Failure::NoDaemon(no_answer(&path, errno)).into()
        }
        Error::TooBig { bytes, max_event } => anyhow::anyhow!(
            "the event has {bytes} bytes and the daemon accepts {max_event}; raise ingest.max_event, or send it in \
             parts"
        ),
        Error::Refused(events) => {
            anyhow::anyhow!("the daemon could not store {events} events; 'dbufctl stats' says why")
        }
        other => other.into(),
    }
}

/// Prints what failed on standard error, and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let code = match error.downcast_ref::<Failure>() {
        Some(Failure::OutputClosed) => return ExitCode::SUCCESS,
        Some(Failure::Usage(_)) => 2,
        Some(Failure::NoDaemon(_)) => 4,
        None => 1,
    };
    print_error(&format!("{error:#}"));
    ExitCode::from(code)
}

/// Prints one line on standard error. Line feeds and control bytes, which paths may contain, are made visible.
pub(crate) fn print_error(text: &str) {
    let mut line = b"dbufctl: ".to_vec();
    crate::escape::put_visible(&mut line, text.as_bytes(), b"; ");
    line.push(b'\n');
    // If standard error is gone as well, there is no place left to report to.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), &line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_failure_keeps_its_exit_code_under_any_context() {
        let error = Err::<(), _>(Failure::OutputClosed).context("while printing").unwrap_err();
        assert_eq!(format!("{:?}", report(&error)), format!("{:?}", ExitCode::SUCCESS));
        let error = anyhow::Error::new(Failure::NoDaemon("x".into()));
        assert_eq!(format!("{:?}", report(&error)), format!("{:?}", ExitCode::from(4)));
    }
}
