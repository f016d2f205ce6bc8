//! Programs in C, as `clients/c` means them to be compiled.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/c");
const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"];

/// Compiles a source; what the compiler says is the error.
pub fn compile(compiler: &str, arguments: &[&str], source: &Path, to: &Path) -> Result<(), String> {
    let mut command = Command::new(compiler);
    command.args(WARNINGS).args(arguments).arg(format!("-I{FOLDER}")).arg(source).arg("-o").arg(to);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{compiler}: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {report}")) }
}

/// Whether to do without a compiler, for it is not there; then that is said. `DBUF_CI` forbids it.
pub fn is_skipped(compiler: &str) -> bool {
    let asked = || Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_skipped = std::env::var_os("DBUF_CI").is_none() && asked().is_err();
    if is_skipped {
        eprintln!("skipped: there is no {compiler}");
    }
    is_skipped
}

/// Builds a program of clients/c/tests with gcc.
pub fn build(name: &str, arguments: &[&str]) -> PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("c-{name}"));
    let built = to.with_extension(std::process::id().to_string());
    let source = Path::new(FOLDER).join("tests").join(format!("{name}.c"));
    compile("gcc", arguments, &source, &built).expect("the test program compiles");
    // Another run of these tests may be using the one that is there.
    std::fs::rename(&built, &to).expect("a place for it");
    to
}
