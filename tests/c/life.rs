//! A program's life with `dbuf.h`: no daemon, forks, exec, closed descriptors, its end by any way. With `ends` and
//! `behaviour` it has a test for each row of the table in `docs/CLIENTS.md`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dbuf_wire::frames::{Code, Level};
use dbuf_wire::ring::{flag, state};

use crate::harness::*;
use crate::support::{Home, TIMEOUT};

const NO_FILE: &str = "No such file or directory (is dbufd running?)";
const NO_PERMISSION: &str = "Permission denied (the socket's mode does not let this user in: \
                             SocketMode= in dbufd.socket, or ingest.socket_mode)";

fn cannot_connect(fake: &Fake, why: &str) -> String {
    format!("cannot connect to {}: {why}", fake.path().display())
}

#[test]
fn the_first_failure_to_connect_is_one_line_on_standard_error_unless_it_is_to_be_quiet() {
    let mut fake = Fake::new();
    fake.stop();
    let why = cannot_connect(&fake, NO_FILE);
    for (options, line) in [
        ("-", format!("dbuf: {why}; events wait in memory\n")),
        ("f", format!("dbuf: {why}; events are dropped\n")),
        ("q", String::new()),
    ] {
        let mut driver = Driver::new();
        driver.ask(&fake.open(0, options));
        if options != "f" {
            // Later attempts, which fail as well, write nothing more.
            driver.ok("send 9");
            driver.expect("sync 300", NO_DAEMON);
            assert_eq!(driver.ask("error"), why);
        }
        assert_eq!(driver.errors(), line, "{options}");
    }
}

#[test]
fn a_producer_that_has_been_connected_writes_nothing_when_the_daemon_goes() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    let ring = fake.with_ring(&mut driver, 0, "-");
    fake.stop();
    drop(ring);
    driver.ok("until none");
    driver.expect("sync 300", "0");
    driver.ok("send 9");
    driver.expect("sync 300", NO_DAEMON);
    assert_eq!(driver.errors(), "");
}

#[test]
fn a_socket_that_does_not_let_the_user_in_is_not_mistaken_for_a_daemon_that_is_down() {
    let fake = Fake::new();
    fs::set_permissions(fake.path(), fs::Permissions::from_mode(0o000)).expect("a mode");
    fs::set_permissions(fake.folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    // Root may always connect. So the driver runs as an ordinary user, from a folder that this user can reach.
    let program = fake.folder.path().join("driver");
    fs::copy(command("driver").get_program(), &program).expect("a copy");
    let mut command = Command::new(&program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let mut driver = Driver::of(&mut command);
    driver.ok(&fake.open(0, "-"));
    let why = cannot_connect(&fake, NO_PERMISSION);
    assert_eq!(driver.ask("error"), why);
    assert_eq!(driver.errors(), format!("dbuf: {why}; events wait in memory\n"));
}

#[test]
fn a_daemon_that_has_not_accepted_earlier_connections_yet_is_no_failure() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    // The queue has room for one connection.
    rustix::net::listen(fake.listener.as_ref().expect("it listens"), 0).expect("it listens");
    let first = UnixStream::connect(fake.path()).expect("a connection");
    driver.ok(&fake.open(0, "-"));
    assert_eq!(driver.ask("error"), cannot_connect(&fake, "Resource temporarily unavailable"));
    driver.ok("send 9");
    drop(fake.listener.as_ref().expect("it listens").accept().expect("the first"));
    drop(first);
    driver.tell("until ring");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), [1]);
    assert_eq!(driver.errors(), "");
}

#[test]
fn a_daemon_that_gives_no_link_is_a_failure() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    driver.tell(&fake.open(0, "-"));
    drop(fake.accept());
    assert_eq!(driver.answer(), "0");
    assert_eq!(driver.errors(), "dbuf: dbufd closed the connection; events wait in memory\n");
}

#[test]
fn what_is_not_delivered_is_said_at_close_and_at_the_end_of_a_thread_and_of_the_program() {
    let mut fake = Fake::new();
    fake.stop();
    let why = cannot_connect(&fake, NO_FILE);
    let left = |events: u64| match events {
        1 => format!("dbuf: 1 event not delivered: {why}\n"),
        _ => format!("dbuf: {events} events not delivered: {why}\n"),
    };
    let begin = format!("dbuf: {why}; events wait in memory\n");

    let mut driver = Driver::new();
    driver.ok(&fake.open(0, "-"));
    driver.ok("send 100 5");
    driver.ok("closing 0");
    assert_eq!(driver.ask("close"), TIMED_OUT);
    assert_eq!(driver.errors(), begin.clone() + &left(5));

    // What found no room counts, too.
    let mut driver = Driver::new();
    driver.ok(&fake.open(0, "-"));
    let kept: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.expect("send 1000", FULL);
    driver.ok("closing 0");
    assert_eq!(driver.ask("close"), TIMED_OUT);
    assert_eq!(driver.errors(), begin.clone() + &left(kept + 1));

    let mut driver = Driver::new();
    driver.ok(&fake.open(0, "-"));
    driver.ok("log hello");
    assert_eq!(driver.errors(), begin.clone() + &begin + &left(1), "the thread is over");
    driver.ok("log hello");
    let second = begin.clone() + &begin + &left(1) + &left(1);
    assert_eq!(driver.errors(), second, "another thread need not say why, too");
    driver.ok("send 100 7");
    assert_eq!(driver.end(), second + &left(7), "the program has closed nothing");

    let mut driver = Driver::new();
    driver.ok(&fake.open(0, "q"));
    driver.ok("send 100 7");
    assert_eq!(driver.end(), "");
}

#[test]
fn a_program_that_closes_nothing_says_nothing_if_a_ring_has_its_events_and_says_it_if_their_daemon_is_dead() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 3");
    assert_eq!(driver.end(), "");
    assert_eq!(ring.numbers(), [1, 2, 3]);

    let mut driver = Driver::new();
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 5");
    ring.take(2);
    fake.stop();
    drop(ring);
    assert_eq!(driver.end(), "dbuf: 3 events not delivered: dbufd closed the connection\n");
}

/// That thread may be replacing the memory while the program ends.
#[test]
fn the_end_of_a_program_does_not_read_a_ring_that_another_thread_has_used_last() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    ring.consumer.set_state(state::ASLEEP);
    driver.ok("elsewhere 100");
    assert_eq!(ring.rings(), 1);
    fake.stop();
    drop(ring);
    // The same thread as before would count the event that the daemon has not taken.
    assert_eq!(driver.end(), "");
}

#[test]
fn what_an_exit_handler_of_the_program_closes_is_not_reported_before() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    fake.stop();
    // Registered before the client's own handler, so it runs after that one.
    driver.ok("close_at_exit");
    driver.ok(&fake.open(0, "-"));
    driver.ok("send 100 5");
    driver.ok("closing 60000");
    fake.listen();
    driver.end_input();
    let mut ring = fake.give_ring();
    assert_eq!((ring.line.read(), ring.numbers()), (Sent::End, numbers(1..=5)));
    assert_eq!(driver.end(), format!("dbuf: {}; events wait in memory\n", cannot_connect(&fake, NO_FILE)));
}

#[test]
fn close_does_not_believe_a_dead_ring() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    // As a child does that another test has just forked.
    let _copy = ring.line.stream.try_clone().expect("a descriptor");
    driver.ok("send 100 5");
    ring.take(2);
    fake.stop();
    drop(ring);
    driver.ok("send 100 10");
    assert_eq!(driver.ask("close"), TIMED_OUT);
    assert_eq!(driver.errors(), format!("dbuf: 13 events not delivered: {}\n", cannot_connect(&fake, NO_FILE)));
}

#[test]
fn by_frames_the_close_says_what_was_lost_only_if_no_event_says_it() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.expect("send 1000", FULL);
    driver.ok("closing 60000");
    driver.tell("close");
    for _ in 0..sent {
        line.read_event();
    }
    line.ack(Level::Persisted, sent);
    let text = b"dbuf: 1 event was lost here: there was no room for it".to_vec();
    assert_eq!(line.read_event().1.payload, text);
    line.ack(Level::Persisted, sent + 1);
    assert_eq!(driver.answer(), "0");
    assert_eq!(driver.errors(), "");
}

#[test]
fn an_event_that_reports_losses_and_is_not_delivered_counts_as_the_losses() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    for _ in 0..3 {
        driver.expect("send 1000", FULL);
    }
    driver.tell(&format!("within 1000 {}", TIMEOUT.as_millis()));
    for _ in 0..sent {
        line.read_event();
    }
    line.ack(Level::Persisted, sent);
    assert_eq!(line.read_event().1.payload, b"dbuf: 3 events were lost here: there was no room for them");
    assert_eq!((line.read_event().0, driver.answer()), (sent + 2, "0".into()));
    // Later losses wait until that report is acknowledged.
    driver.ask("fill 1000");
    driver.expect("send 1000", FULL);
    fake.stop();
    drop(line);
    driver.ok("until none");
    driver.ok("closing 0");
    let left = driver.count("events") - sent;
    assert_eq!(driver.ask("close"), TIMED_OUT);
    let events = left - 1 + 3 + 1;
    let why = cannot_connect(&fake, NO_FILE);
    assert_eq!(driver.errors(), format!("dbuf: {events} events not delivered: {why}\n"));
}

/// Standard error that takes nothing: its reader is gone, it is full, or it is closed.
#[test]
fn standard_error_that_takes_nothing_neither_blocks_nor_ends_the_program() {
    let mut fake = Fake::new();
    fake.stop();
    for kind in ["broken", "full", "closed"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        if kind == "full" {
            rustix::io::ioctl_fionbio(&writer, true).expect("it is a pipe");
            while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
            rustix::io::ioctl_fionbio(&writer, false).expect("it is a pipe");
        }
        let reader = (kind != "broken").then_some(reader);
        let mut command = command("driver");
        if kind == "closed" {
            let program = command.get_program().to_owned();
            command = Command::new("sh");
            command.args(["-c", "exec \"$0\" 2>&-"]).arg(program).stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        let mut driver = Driver::with_errors(command.stderr(writer), tempfile::tempfile().expect("a file"));
        driver.ok(&fake.open(0, "-"));
        driver.ok("send 100 3");
        assert_eq!(driver.ask("close"), TIMED_OUT, "{kind}");
        drop(reader);
    }
}

#[test]
fn a_file_of_data_that_is_open_in_place_of_standard_error_gets_no_line() {
    let mut fake = Fake::new();
    fake.stop();
    let line = format!("dbuf: {}; events wait in memory\n", cannot_connect(&fake, NO_FILE));
    for (how, wanted) in [("not", ""), ("append", line.as_str())] {
        let (mut driver, file) = (Driver::new(), fake.folder.path().join(how));
        driver.ok(&format!("errors_to {how} {}", file.display()));
        driver.ok(&fake.open(0, "-"));
        assert_eq!(fs::read_to_string(&file).expect("a file"), wanted, "{how}");
    }
}

#[test]
fn a_line_on_standard_error_has_no_control_characters() {
    let (mut driver, mut fake) = (Driver::new(), Fake::new());
    let path = fake.folder.path().join("\u{1b}[1m\u{7f}\u{9b}ü");
    driver.ok(&format!("open {} {CAPACITY} 0 -", path.display()));
    let plain = format!("{}/?[1m???ü", fake.folder.path().display());
    let line = format!("dbuf: cannot connect to {plain}: {NO_FILE}; events wait in memory\n");
    assert_eq!(driver.errors(), line);
    // The daemon's words.
    let mut driver = Driver::new();
    driver.tell(&fake.open(0, "-"));
    fake.accept().error(Code::Busy, 0, 0, "busy\r\n");
    assert_eq!(driver.answer(), "0");
    assert_eq!(driver.errors(), "dbuf: dbufd: busy??; events wait in memory\n");
    fake.stop();
}

/// A program whose standard error is closed writes its errors into the descriptor that has this number.
#[test]
fn no_descriptor_of_the_client_gets_the_number_of_standard_error() {
    let (fake, program) = (Fake::new(), command("driver").get_program().to_owned());
    for options in ["-", "r"] {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" 2>&-"]).arg(&program).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut driver = Driver::of(&mut command);
        driver.tell(&fake.open(0, options));
        let line = fake.accept().welcome(EVERYTHING, 0);
        let mut ring = (options == "-").then_some(line).map(|line| line.grant(flag::TICKS));
        assert_eq!(driver.answer(), "0");
        let standard_error = format!("/proc/{}/fd/2", driver.child.id());
        assert!(!Path::new(&standard_error).exists(), "{:?}", fs::read_link(&standard_error));
        driver.ok("send 9");
        if let Some(ring) = &mut ring {
            assert_eq!(ring.numbers(), [1]);
        }
    }
}

#[test]
fn events_in_a_ring_survive_every_death_of_the_program() {
    let fake = Fake::new();
    for how in ["_exit", "abort", "kill"] {
        let mut driver = Driver::new();
        let mut ring = fake.with_ring(&mut driver, 0, "-");
        driver.ok("send 100 5");
        driver.tell(&format!("die {how}"));
        assert_eq!(ring.line.read(), Sent::End, "{how}");
        assert_eq!(ring.numbers(), [1, 2, 3, 4, 5], "{how}");
    }
}

#[test]
fn a_childs_events_are_in_its_ring_before_it_can_leave_by_exit() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 3");
    driver.tell("quitter 100");
    let mut of_child = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(of_child.numbers(), numbers(4..=103));
    assert_eq!(ring.numbers(), [1, 2, 3]);
}

fn forks(how: &str, fake: &Fake) -> Driver {
    let folder = fake.folder.path();
    let flags = ["-std=gnu11", "-O1", "-g", "-pthread"];
    let mut command = Command::new(build(folder, "gcc", &flags, "forks.c"));
    Driver::of(command.arg(how).arg(fake.path()).stdin(Stdio::null()).stdout(Stdio::piped()))
}

fn payloads(ring: &mut Ring) -> Vec<String> {
    ring.take_all().into_iter().map(|event| String::from_utf8(event.payload).expect("text")).collect()
}

#[test]
fn fork_handlers_of_the_program_may_lock_and_send() {
    let fake = Fake::new();
    let mut driver = forks("handlers", &fake);
    let mut rings = [(); 3].map(|()| fake.give_ring());
    assert_eq!(driver.answer(), "0");
    // The producer that was opened first, the thread's own, and the child's.
    assert_eq!(rings.each_mut().map(payloads), [["parent"], ["thread"], ["child"]]);
}

#[test]
fn a_child_that_another_thread_forks_has_no_connection_of_a_producer_that_opens_or_closes() {
    for moment in ["close", "open"] {
        let fake = Fake::new();
        let mut driver = forks(moment, &fake);
        let _ring = fake.give_ring();
        assert_eq!(driver.answer(), "0", "{moment}: sockets of the child");
    }
}

#[test]
fn a_grandchild_that_has_closed_all_descriptors_sends_with_a_ring_of_its_own() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 3");
    driver.ok("daemonize");
    let mut of_daemon = fake.give_ring();
    assert_eq!(of_daemon.line.read(), Sent::End);
    let payloads: Vec<Vec<u8>> = of_daemon.take_all().into_iter().map(|event| event.payload).collect();
    assert_eq!(payloads, [b"daemon".to_vec()]);
    assert_eq!(ring.numbers(), [1, 2, 3]);
}

#[test]
fn no_descriptor_outlives_exec() {
    let fake = Fake::new();
    for kind in ["ring", "frames"] {
        let mut driver = Driver::new();
        let inherited = |driver: &Driver| -> BTreeSet<String> {
            let folder = format!("/proc/{}/fdinfo", driver.child.id());
            let entries = fs::read_dir(folder).expect("it runs").map(|entry| entry.expect("an entry"));
            let is_inherited = |entry: &fs::DirEntry| {
                let info = fs::read_to_string(entry.path()).unwrap_or_default();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
                u32::from_str_radix(flags.trim(), 8).expect("octal") & libc::O_CLOEXEC as u32 == 0
            };
            let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
            entries.filter(is_inherited).map(name).collect()
        };
        // Once it answers, its libraries have closed what they open at the start.
        driver.ask("hello");
        let before = inherited(&driver);
        let all = |driver: &Driver| fs::read_dir(format!("/proc/{}/fd", driver.child.id())).expect("it runs").count();
        let count = all(&driver);
        if kind == "ring" {
            let _ring = fake.with_ring(&mut driver, 0, "-");
            assert_eq!((inherited(&driver), all(&driver)), (before, count + 1));
        } else {
            let _line = fake.with_frames(&mut driver, 0);
            assert_eq!((inherited(&driver), all(&driver)), (before, count + 1));
        }
    }
}

/// What the program opens in place of the descriptors that it closes.
const REPLACEMENTS: [&str; 4] = ["nothing", "file", "socket", "eventfd"];

fn replace(driver: &mut Driver, fake: &Fake, with: &str) {
    let file = fake.folder.path().join("file-of-the-program");
    let _ = File::create(&file).expect("a file");
    driver.ok(&format!("replace {with} {}", file.display()));
}

#[test]
fn a_ring_whose_descriptors_are_the_programs_now_is_left_and_nothing_is_written_to_them() {
    for with in REPLACEMENTS {
        let (fake, mut driver) = (Fake::new(), Driver::new());
        let mut ring = fake.with_ring(&mut driver, 0, "-");
        driver.ok("send 100 5");
        replace(&mut driver, &fake, with);
        // The daemon sees the end of the connection, and takes what is there.
        assert_eq!(ring.line.read(), Sent::End);
        assert_eq!(ring.numbers(), numbers(1..=5));
        // It had fallen asleep before: the next event rings.
        ring.consumer.set_state(state::ASLEEP);
        driver.ok("send 100 3");
        driver.ok("until none");
        driver.tell("until ring");
        let mut next = fake.give_ring();
        assert_eq!(driver.answer(), "0", "{with}");
        driver.ok("send 100 2");
        assert_eq!(next.numbers(), numbers(6..=10), "{with}: each once");
        driver.expect("touched", "0");
        driver.ok("close");
        driver.expect("touched", "0");
    }
}

#[test]
fn events_that_the_daemon_still_takes_from_a_ring_that_is_left_are_not_sent_again() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 5");
    driver.ok("replace nothing");
    driver.tell("until none");
    let mut taken = Vec::new();
    for _ in 0..5 {
        // The daemon is slow, but fast enough for the time that the client gives it.
        std::thread::sleep(Duration::from_millis(10));
        taken.extend(ring.take(1).iter().map(Owned::number));
    }
    assert_eq!((driver.answer(), taken), ("0".into(), numbers(1..=5)));
    driver.tell("until ring");
    let mut next = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    driver.ok("send 100");
    assert_eq!(next.numbers(), [6]);
}

#[test]
fn losses_that_the_daemon_still_records_from_a_ring_that_is_left_are_not_reported_again() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ask("fill 1000");
    driver.expect("send 1000", FULL);
    driver.ok("replace nothing");
    driver.tell("until none");
    // The client waits by now. The daemon records the losses after the events, and is slow.
    std::thread::sleep(Duration::from_millis(30));
    ring.take_all();
    assert!(!driver.answers_within(Duration::from_millis(20)), "the losses are not recorded yet");
    let losses = ring.consumer.losses().expect("a count");
    assert_eq!(losses, (1, 1000));
    ring.consumer.take_losses(losses);
    assert_eq!(driver.answer(), "0");
    driver.tell("until ring");
    let next = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(next.consumer.losses(), Ok((0, 0)));
}

#[test]
fn a_connection_of_frames_that_is_the_programs_now_is_left_and_nothing_is_written_to_it() {
    for with in REPLACEMENTS {
        let (fake, mut driver) = (Fake::new(), Driver::new());
        let mut line = fake.with_frames(&mut driver, 0);
        driver.ok("send 100 5");
        let session = line.session;
        replace(&mut driver, &fake, with);
        for sequence in 1..=5 {
            assert_eq!(line.read_event().0, sequence);
        }
        assert_eq!(line.read(), Sent::End);
        driver.tell("send 100 3");
        // The daemon has five, and has acknowledged none.
        let mut next = fake.accept().welcome(EVERYTHING, 5);
        assert_eq!((driver.answer().as_str(), next.session), ("0", session), "{with}");
        driver.ok("until frames");
        for sequence in 6..=8 {
            let (is, event) = next.read_event();
            assert_eq!((is, event.number()), (sequence, sequence), "{with}");
        }
        next.ack(Level::Persisted, 8);
        driver.expect("touched", "0");
        driver.ok("close");
        driver.expect("touched", "0");
        assert_eq!((next.read(), next.read()), (Sent::Bye, Sent::End));
    }
}

#[test]
fn a_connection_that_another_thread_replaces_while_it_is_made_is_made_anew_without_a_word() {
    for rob in ["rob", "rob early"] {
        let (fake, mut driver) = (Fake::new(), Driver::new());
        driver.ok(rob);
        driver.ok(&fake.open(0, "r"));
        driver.ok("send 9");
        driver.tell("until frames");
        let mut line = fake.accept().welcome(EVERYTHING, 0);
        assert_eq!(driver.answer(), "0");
        assert_eq!(line.read_event().0, 1);
        driver.expect("lost", "0");
        assert_eq!(driver.errors(), "");
    }
}

#[test]
fn the_real_daemon_gets_every_event_once_although_the_program_closes_all_its_descriptors() {
    let home = Home::new();
    let daemon = home.start(&[]);
    for (options, links) in [("-", "ring"), ("r", "frames")] {
        let mut driver = Driver::new();
        driver.ok(&format!("open {} {} 5000 {options}", home.socket("stream.sock").display(), 1 << 20));
        driver.ok(&format!("until {links}"));
        for _ in 0..5 {
            driver.ok("send 50 200");
            driver.ok("replace nothing");
        }
        driver.ok("send 50 200");
        driver.ok("closing 60000");
        driver.ok("close");
        assert_eq!(driver.errors(), "");
    }
    home.wait_persisted(2400);
    daemon.stop();
    let mut found: Vec<u64> =
        home.cat().lines().map(|line| line.trim_end_matches([':', 'x']).parse().expect("a number")).collect();
    found.sort_unstable();
    let wanted: Vec<u64> = (1..=1200).flat_map(|number| [number, number]).collect();
    assert_eq!(found, wanted);
}

#[test]
fn an_argument_that_breaks_a_rule_is_named() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let _ring = fake.with_ring(&mut driver, 0, "-");
    driver.expect("send 0", INVALID);
    assert_eq!(driver.ask("error"), "the payload is empty");
    driver.expect("long 0", INVALID);
    assert_eq!(driver.ask("error"), "the payload is empty");
    driver.expect("send 20001", TOO_BIG);
    let words = "20001 bytes are too big: dbufd takes at most 20000 (ingest.max_event), and the ring half of its 65536";
    assert_eq!(driver.ask("error"), words);
    driver.ok("claim 10");
    driver.expect("publish 11", INVALID);
    assert_eq!(driver.ask("error"), "the payload is larger than the claim");
}
