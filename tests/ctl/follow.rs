use super::fixture::*;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A dbufctl that follows. It is ended when the test ends.
struct Following {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Following {
    fn of(fixture: &Fixture, line: &str) -> Self {
        let mut child = fixture.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The next lines; waits for as long as they need.
    #[track_caller]
    fn expect(&mut self, lines: &[&str]) {
        for line in lines {
            let mut read = String::new();
            self.out.read_line(&mut read).unwrap();
            assert_eq!(read, format!("{line}\n"));
        }
    }

    /// Ends it as Ctrl-C does, and returns how it ended and what it said.
    fn end(mut self) -> Ran {
        let (mut out, mut err) = (String::new(), String::new());
        let (pid, has_ended) = (Pid::from_raw(self.child.id().cast_signed()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let again = scope.spawn(|| {
                // Repeated: in a shell's background the signal is ignored until the program has begun to await it.
                while !has_ended.load(Ordering::Relaxed) {
                    kill(pid, Signal::SIGINT).unwrap();
                    std::thread::park_timeout(Duration::from_secs(1));
                }
            });
            self.out.read_to_string(&mut out).unwrap();
            self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
            has_ended.store(true, Ordering::Relaxed);
            again.thread().unpark();
        });
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Ran { code, out, err }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tail_shows_the_last_ten_and_then_what_comes_across_rotation() {
    let mut fixture = Fixture::new();
    let texts: Vec<String> = (1..=15).map(|n| n.to_string()).collect();
    fixture.texts("app", 0, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut tail = Following::of(&fixture, "tail -o cat");
    tail.expect(&["6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]);
    fixture.texts("app", 20, &["16"]);
    tail.expect(&["16"]);
    fixture.rotate().texts("app", 21, &["17", "18"]);
    tail.expect(&["17", "18"]);
    fixture.rotate().texts("app", 23, &["19"]).rotate().texts("app", 24, &["20"]);
    tail.expect(&["19", "20"]);
    assert_eq!(tail.end().fine(), "");
}

#[test]
fn what_is_followed_is_filtered_like_the_rest() {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a", "b"]).texts("two", 2, &["c"]);
    let mut tail = Following::of(&fixture, "tail -n 1 -o cat -t one");
    tail.expect(&["b"]);
    fixture.texts("two", 3, &["d"]).texts("one", 4, &["e"]);
    tail.expect(&["e"]);
    assert_eq!(tail.end().fine(), "");
}

#[test]
fn following_from_a_point_shows_all_since_then() {
    let mut fixture = Fixture::new();
    let texts: Vec<String> = (1..=15).map(|n| n.to_string()).collect();
    fixture.texts("app", 0, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut all = Following::of(&fixture, "cat -f -o cat --after 2");
    all.expect(&["3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]);
    let none = Following::of(&fixture, "cat -f -n 0 -o cat");
    fixture.texts("app", 20, &["16"]);
    all.expect(&["16"]);
    none.end();
    all.end();
}

#[test]
fn an_empty_directory_can_be_followed() {
    let mut fixture = Fixture::new();
    let mut tail = Following::of(&fixture, "tail -o cat");
    fixture.texts("app", 0, &["first"]);
    tail.expect(&["first"]);
    assert_eq!(tail.end().fine(), "");
}

#[test]
fn following_ends_when_nobody_reads() {
    let mut fixture = Fixture::new();
    fixture.texts("app", 0, &["a"]);
    let mut tail = Following::of(&fixture, "tail -o cat");
    tail.expect(&["a"]);
    let (reader, _) = std::io::pipe().unwrap();
    drop(std::mem::replace(&mut tail.out, BufReader::new(ChildStdout::from(std::os::fd::OwnedFd::from(reader)))));
    assert!(tail.child.wait().unwrap().success());
}

#[test]
fn files_that_are_renamed_while_they_are_read_leave_no_gap() {
    let mut fixture = Fixture::new();
    fixture.texts("app", 0, &["x", "y"]);
    let mut commands: Vec<_> =
        (0..60).map(|round| fixture.command(if round % 2 == 0 { "cat -o raw" } else { "cat -o raw -r" })).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut second = 1;
            // On a machine that is busy all files would be read ever more slowly, and there would be ever more of them.
            while !done.load(Ordering::Relaxed) && second < 1000 {
                fixture.texts("app", second, &["x", "y"]).rotate();
                second += 1;
                // Often enough to meet a listing, and not so often that no two listings are the same.
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let rans: Vec<_> = commands.iter_mut().map(|command| Ran::of(command.output().unwrap())).collect();
        done.store(true, Ordering::Relaxed);
        for ran in rans {
            let text = ran.fine();
            assert!(text.trim_start_matches("xy").is_empty() || text.trim_start_matches("yx").is_empty(), "{text}");
        }
    });
}

#[test]
fn nothing_is_missed_or_shown_twice_while_files_come_and_are_renamed() {
    let mut fixture = Fixture::new();
    let mut all = Following::of(&fixture, "cat -f -o cat --since @1");
    let texts: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    for (second, text) in (0..).zip(&texts) {
        fixture.texts("app", second, &[text]);
        if second % 3 == 0 {
            fixture.rotate();
        }
    }
    all.expect(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(all.end().fine(), "");
}
