//! The clients for Python, by their own tests, against the programs of this build.

use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

/// Runs python3 in the repository; None if there is none.
fn python(arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("python3");
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command.env("DBUFD", env!("CARGO_BIN_EXE_dbufd")).env("DBUFCTL", env!("CARGO_BIN_EXE_dbufctl"));
    // Nothing is left in the repository.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        result => Some(result.expect("python3 starts")),
    }
}

#[test]
fn the_clients_for_python_pass_their_own_tests_with_this_daemon() {
    let is_new_enough = python(&["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]);
    if !is_new_enough.is_some_and(|output| output.status.success()) {
        eprintln!("skipped: there is no python3, or one before 3.9");
        return;
    }
    let tests = ["-m", "unittest", "discover", "-s", "clients/python/tests", "-t", "clients/python"];
    let output = python(&tests).expect("it was there just now");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    assert!(!report.contains("skipped"), "the daemon was given, and its tests did not run: {report}");
}
