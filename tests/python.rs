//! Runs the Python client's own tests against the programs of this build, on the newest Python that is installed; with
//! `DBUF_CI` set, on every version.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

/// The oldest Python that the package supports, and the newest that is looked for.
const MINORS: std::ops::RangeInclusive<u32> = 9..=19;
/// Prints the interpreter's own version.
const VERSION: &str = "import sys; print('%d.%d' % sys.version_info[:2])";

/// A command of this interpreter in the repository, which leaves nothing there.
fn python(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command.env("DBUFD", env!("CARGO_BIN_EXE_dbufd")).env("DBUFCTL", env!("CARGO_BIN_EXE_dbufctl"));
    // Not PYTHONPYCACHEPREFIX: the standard library would be compiled anew, too, and the tests took four times as long.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The folders that may have interpreters: those of `PATH`, and those in which pyenv keeps its versions, because its
/// commands on `PATH` run only the versions that are switched on.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let pyenv = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let pyenv = pyenv.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")));
    let versions = pyenv.and_then(|root| fs::read_dir(root.join("versions")).ok());
    folders.extend(versions.into_iter().flatten().flatten().map(|version| version.path().join("bin")));
    folders
}

/// One interpreter for each version that works.
fn interpreters() -> BTreeMap<u32, PathBuf> {
    let folders = folders();
    let find = |minor: u32| {
        let works = |program: &PathBuf| {
            let output = python(program, &["-c", VERSION]).output();
            output.is_ok_and(|output| output.stdout == format!("3.{minor}\n").as_bytes())
        };
        let candidates = folders.iter().map(|folder| folder.join(format!("python3.{minor}")));
        candidates.filter(|program| program.exists()).find(works)
    };
    MINORS.filter_map(|minor| Some((minor, find(minor)?))).collect()
}

fn run_tests(program: &Path) -> Output {
    let tests = ["-m", "unittest", "discover", "-s", "clients/python/tests", "-t", "clients/python"];
    python(program, &tests).output().expect("it ran just now")
}

#[test]
fn the_clients_for_python_pass_their_own_tests_with_this_daemon() {
    let mut interpreters = interpreters();
    // Each version takes ten seconds of a processor: where nobody asks for all of them, the newest stands for them.
    if env::var_os("DBUF_CI").is_none() {
        interpreters = interpreters.pop_last().into_iter().collect();
    }
    if interpreters.is_empty() {
        assert!(env::var_os("DBUF_CI").is_none(), "there is no python3.9 to python3.19");
        eprintln!("skipped: there is no Python from 3.9 on");
        return;
    }
    let runs: Vec<_> = interpreters.into_values().map(|at| thread::spawn(move || (run_tests(&at), at))).collect();
    let mut failures = String::new();
    for run in runs {
        let (output, program) = run.join().expect("the run does not panic");
        let report = String::from_utf8_lossy(&output.stderr);
        // A test that was skipped for the lack of a daemon is a failure, too: the daemon was given.
        if !output.status.success() || report.contains("skipped") || !report.contains("\nOK") {
            let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
            failures += &format!("== {name} ({})\n{report}\n", program.display());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}
