//! `benches/compare`: that it runs, with the programs of this build, and that its verifier sees what is wrong with a
//! file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare");

/// Whether a tool is there that a user may do without; where everything must hold, it has to be.
fn is_there(tool: &str) -> bool {
    let is_there = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(is_there || std::env::var_os("DBUF_CI").is_none(), "there is no {tool}");
    if !is_there {
        eprintln!("skipped: there is no {tool}");
    }
    is_there
}

/// One of the programs of `benches/compare`, for the daemon of this build, with a temporary folder of its own.
fn program(name: &str, temporary: &Path) -> Command {
    let mut command = Command::new(Path::new(FOLDER).join(name));
    command.arg("--dbufd").arg(env!("CARGO_BIN_EXE_dbufd")).stdin(Stdio::null());
    command.env("TMPDIR", temporary).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Folders for results and for what is temporary, below one that goes away.
fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let home = tempfile::Builder::new().prefix("dbufd-test-").tempdir().expect("a temporary folder");
    let (results, temporary) = (home.path().join("results"), home.path().join("temporary"));
    std::fs::create_dir(&temporary).expect("a folder");
    (home, results, temporary)
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("a folder").next().is_none()
}

#[test]
fn the_comparison_runs_and_proves_that_all_events_are_there() {
    if !is_there("cc") || !is_there("python3") {
        return;
    }
    let (_home, results, temporary) = folders();
    let mut command = program("run", &temporary);
    command.args(["--quick", "--events", "4000", "--only", "^(floor|dbufd|rsyslog: lines)"]);
    // A peer that does not work is a row that says why.
    command.arg("--output").arg(&results).env("RSYSLOGD", "/bin/false");
    let output = command.output().expect("it starts");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");

    let text = std::fs::read(results.join("results.json")).expect("results");
    let all: Value = serde_json::from_slice(&text).expect("JSON");
    for workload in ["100 bytes", "10 to 10,000 bytes"] {
        let errors = all["errors"][workload].as_object().expect("an object");
        assert_eq!(errors.keys().collect::<Vec<_>>(), ["rsyslog: lines"], "{report}");
        let subjects = all["results"][workload].as_object().expect("an object");
        assert_eq!(subjects.len(), 15, "{report}");
        for (name, runs) in subjects {
            let run = &runs[0];
            assert!(run["seconds"].as_f64() > Some(0.0), "{name}: {run}");
            if let Some(found) = run.get("found") {
                let whole = json!({ "found": run["events"], "missing": 0, "repeated": 0, "misordered": 0, "alien": 0 });
                assert_eq!(found, &whole, "{name}");
            }
        }
    }
    let table = std::fs::read_to_string(results.join("table.md")).expect("a table");
    assert!(
        table.contains("| dbufd: ring, sync = never | ") && table.contains("| rsyslog: lines | false: "),
        "{table}"
    );
    let plot = std::fs::read_to_string(results.join("plot.svg")).expect("a drawing");
    assert!(plot.starts_with("<svg ") && plot.ends_with("</svg>\n"), "{plot}");
    assert!(is_empty(&temporary), "nothing is left");
}

/// The verifier, and the lines of two producers that it takes for whole.
struct Verifier {
    program: PathBuf,
    lines: Vec<Vec<u8>>,
}

impl Verifier {
    const EVENTS: usize = 50;
    const SIZES: &str = "10..2000";

    fn new(test: &str) -> Self {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("verify-{test}"));
        let source = Path::new(FOLDER).join("programs/verify.c");
        let built = Command::new("cc").args(["-std=c11", "-O1", "-o"]).arg(&program).arg(source).status();
        assert!(built.expect("cc runs").success());
        let mut lines = Vec::new();
        for producer in ["0", "1"] {
            let output =
                Command::new(&program).args(["print", producer, &Self::EVENTS.to_string(), Self::SIZES]).output();
            let text = output.expect("it runs").stdout;
            lines.extend(text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        }
        assert_eq!(lines.len(), 2 * Self::EVENTS);
        Self { program, lines }
    }

    fn look(&self, how: &str, text: &[u8]) -> (Option<i32>, Value) {
        let mut command = Command::new(&self.program);
        command.args([how, "2", &Self::EVENTS.to_string(), Self::SIZES]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        child.stdin.take().expect("a pipe").write_all(text).expect("it reads");
        let Output { status, stdout, .. } = child.wait_with_output().expect("it ends");
        (status.code(), serde_json::from_slice(&stdout).expect("an object"))
    }

    /// What it finds in these lines, and in the same ones where they stand between other bytes.
    fn expect(&self, lines: &[Vec<u8>], missing: usize, repeated: usize, misordered: usize, alien: usize) {
        let found = 2 * Self::EVENTS - missing;
        let wanted = json!({
            "found": found, "missing": missing, "repeated": repeated, "misordered": misordered, "alien": alien
        });
        let code = if missing + repeated + misordered + alien == 0 { 0 } else { 3 };
        assert_eq!(self.look("lines", &lines.concat()), (Some(code), wanted.clone()));
        let binary: Vec<u8> = lines.iter().flat_map(|line| [b"\0A12\xffB", line.as_slice()].concat()).collect();
        assert_eq!(self.look("scan", &binary), (Some(code), wanted));
    }
}

#[test]
fn the_verifier_of_the_comparison_sees_what_is_missing_doubled_swapped_or_altered() {
    if !is_there("cc") {
        return;
    }
    let verifier = Verifier::new("lines");
    let whole = &verifier.lines;
    verifier.expect(whole, 0, 0, 0, 0);

    let mut missing = whole.clone();
    missing.remove(17);
    verifier.expect(&missing, 1, 0, 0, 0);

    let mut last_is_missing = whole.clone();
    last_is_missing.pop();
    verifier.expect(&last_is_missing, 1, 0, 0, 0);

    let mut doubled = whole.clone();
    doubled.insert(30, whole[17].clone());
    verifier.expect(&doubled, 0, 1, 0, 0);

    let mut swapped = whole.clone();
    swapped.swap(60, 61);
    verifier.expect(&swapped, 0, 0, 1, 0);

    // Between two producers there is no order.
    let mut mixed = whole.clone();
    mixed.rotate_left(Verifier::EVENTS);
    verifier.expect(&mixed, 0, 0, 0, 0);

    let mut altered = whole.clone();
    let middle = altered[17].len() / 2;
    altered[17][middle] = b'!';
    verifier.expect(&altered, 1, 0, 0, 1);

    // A line that no producer sent; a scan between other bytes does not see it.
    let mut alien = whole.clone();
    alien.insert(3, b"hello\n".to_vec());
    assert_eq!(verifier.look("lines", &alien.concat()).1["alien"], 1);

    // A torn end is not an event.
    let torn = whole.concat();
    assert_eq!(verifier.look("lines", &torn[..torn.len() - 2]).0, Some(3));
}

#[test]
fn how_the_cost_grows_is_measured_with_nothing_lost() {
    if !is_there("cc") || !is_there("python3") {
        return;
    }
    let (_home, _, temporary) = folders();
    let mut command = program("growth", &temporary);
    let output = command.args(["--quick", "--events", "2000"]).env("GROWTH_MOST", "10").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for row in ["## connections", "| 10 | ", "## writers", "| 8 | ", "## halves", "| 8 MiB | ", "## segments", "| 2 | "]
    {
        assert!(text.contains(row), "{row}: {text}");
    }
    assert!(is_empty(&temporary), "nothing is left");
}

#[test]
fn how_long_it_takes_is_measured_also_with_a_disk_that_stalls() {
    if !is_there("cc") || !is_there("python3") {
        return;
    }
    let (_home, results, temporary) = folders();
    let output =
        program("latency", &temporary).arg("--quick").arg("--output").arg(&results).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read(results.join("latency.json")).expect("results");
    let all: Value = serde_json::from_slice(&text).expect("JSON");
    let runs = all["runs"].as_object().expect("an object");
    assert_eq!(runs.len(), 3, "{all}");
    for (name, run) in runs {
        let count = |what: &str| run[what].as_array().expect("a list").len();
        assert!(count("persisted_us") > 0 && run["unseen"] == 0, "{name}");
        assert_eq!(count("persisted_us"), count("visible_us"), "{name}");
    }
    let drawing = std::fs::read_to_string(results.join("latency.svg")).expect("a drawing");
    assert_eq!(drawing.matches("<polyline").count(), 3);
    assert!(is_empty(&temporary), "nothing is left");
}

#[test]
fn the_comparison_says_what_there_is_and_what_is_to_be_installed() {
    if !is_there("python3") {
        return;
    }
    let (_home, _, temporary) = folders();
    let output = program("run", &temporary).arg("--list").env("S6_LOG", "/nowhere/s6-log").output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("s6-log: one pipe: apt install s6, or say where it is with S6_LOG="), "{text}");
    for name in ["floor: memcpy", "dbufd: lines", "LTTng-UST: ", "spdlog: ", "rsyslog: ", "syslog-ng: ", "journald: "] {
        assert!(text.contains(name), "{name}: {text}");
    }
}
