//! How a command of dbufctl ends: the exit code of each outcome, and the one line for people.

use std::process::ExitCode;

/// Damage or loss was found in the data that was read.
pub(crate) const DAMAGE_EXIT: u8 = 3;

/// Endings that have an exit code of their own. Any other error is 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What was asked for makes no sense: 2.
    #[error("{0}")]
    Usage(String),
    /// No daemon answers: 4.
    #[error("{0}")]
    NoDaemon(String),
    /// Whoever read our output has gone. That is how `| head` ends, and nothing to complain about: 0.
    #[error("the reader of the output has gone")]
    OutputClosed,
}

/// Says on standard error what went wrong, and returns the exit code for it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let code = match error.downcast_ref::<Failure>() {
        Some(Failure::OutputClosed) => return ExitCode::SUCCESS,
        Some(Failure::Usage(_)) => 2,
        Some(Failure::NoDaemon(_)) => 4,
        None => 1,
    };
    complain(&format!("{error:#}"));
    ExitCode::from(code)
}

/// One line on standard error. A line feed or a control byte in it (paths may hold any) is made visible.
pub(crate) fn complain(text: &str) {
    let mut line = b"dbufctl: ".to_vec();
    crate::escape::put_visible(&mut line, text.as_bytes(), b"; ");
    line.push(b'\n');
    // Nobody to tell when standard error is gone as well.
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
