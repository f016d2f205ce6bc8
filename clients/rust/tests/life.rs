//! Tests a client's life: what becomes of events, descriptors and the program when something ends, forks or is
//! replaced.

mod daemon;

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Daemon, TIMEOUT, Talk, in_child, numbers, send_numbers, texts, until};
use dbuf_client::wire::{Event, feature, kind};
use dbuf_client::{Client, ClientOptions, LinkKind, Producer, ProducerOptions, local};

/// The ways that a program can be linked to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ring,
    Frames,
    Client,
}

/// A sender, whichever it is. Producers are only held.
enum Sender {
    Producer { _held: Box<Producer> },
    Client(Box<Client>),
}

impl Way {
    const ALL: [Self; 3] = [Self::Ring, Self::Frames, Self::Client];

    /// Opens a sender; what the daemon holds of it must be kept by the caller.
    fn open(self, daemon: &Daemon) -> (Sender, Talk, Option<daemon::Ring>) {
        match self {
            Self::Ring => {
                let (producer, talk, ring) = daemon.ring(daemon.options());
                (Sender::Producer { _held: Box::new(producer) }, talk, Some(ring))
            }
            Self::Frames => {
                let (producer, talk) = daemon.frames(daemon.options());
                (Sender::Producer { _held: Box::new(producer) }, talk, None)
            }
            Self::Client => std::thread::scope(|scope| {
                let player = scope.spawn(|| welcomed(daemon, 0));
                let options = ClientOptions { quiet: true, ..ClientOptions::default() };
                let client = Client::connect(daemon.path(), &options).unwrap();
                (Sender::Client(Box::new(client)), player.join().unwrap(), None)
            }),
        }
    }
}

/// Lets one test run at a time: a forked child has the descriptors of every test that runs when it is forked, and the
/// locks that their threads hold.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The next connection, which has no ring.
fn welcomed(daemon: &Daemon, last: u64) -> Talk {
    let mut talk = daemon.accept();
    talk.welcome(last, feature::FIELDS);
    talk
}

/// Options that give the end of a producer all the time that it needs.
fn unhurried(daemon: &Daemon) -> ProducerOptions {
    ProducerOptions { close_wait: TIMEOUT, ..daemon.options() }
}

// The daemon ends.

#[test]
fn closing_a_ring_whose_daemon_has_died_says_how_many_events_are_left() {
    let _alone = alone();
    let mut daemon = Daemon::new();
    let (mut producer, talk, mut ring) = daemon.ring(ProducerOptions { stamp: false, ..unhurried(&daemon) });
    send_numbers(&mut producer, 1, 5);
    assert_eq!(ring.take(2).len(), 2);
    daemon.go();
    drop((talk, ring));
    send_numbers(&mut producer, 6, 7);
    assert_eq!(producer.close(), Err(5));
}

#[test]
fn closing_a_ring_whose_daemon_has_died_hands_its_events_to_the_next() {
    let _alone = alone();
    let daemon = Daemon::new();
    let (mut producer, talk, mut ring) = daemon.ring(ProducerOptions { stamp: false, ..unhurried(&daemon) });
    send_numbers(&mut producer, 1, 5);
    assert_eq!(ring.take(2).len(), 2);
    drop((talk, ring));
    let came = std::thread::scope(|scope| {
        let player = scope.spawn(|| welcomed(&daemon, 0).events_until_bye());
        producer.close().unwrap();
        player.join().unwrap()
    });
    assert_eq!(texts(&came), numbers(3, 5));
}

// The program ends, in order or not.

#[test]
fn what_was_published_to_a_ring_survives_a_program_that_dies() {
    let _alone = alone();
    let deaths: [fn(); 3] = [
        // SAFETY: it ends the process and runs nothing of it.
        || unsafe { libc::_exit(0) },
        || std::process::abort(),
        || {
            // SAFETY: a signal to the process itself.
            unsafe { libc::raise(libc::SIGKILL) };
        },
    ];
    for die in deaths {
        let daemon = Daemon::new();
        let (talk, mut ring) = std::thread::scope(|scope| {
            let player = scope.spawn(|| daemon.accept().into_ring(0, 0));
            in_child(|| {
                let mut producer = Producer::open(daemon.options()).unwrap();
                until(&mut producer, |producer| producer.statistics().link == LinkKind::Ring);
                send_numbers(&mut producer, 1, 3);
                die();
                true
            });
            player.join().unwrap()
        });
        assert_ended(talk);
        assert_eq!(texts(&ring.take_all()), numbers(1, 3));
    }
}

/// The client's end of the connection is closed everywhere.
fn assert_ended(mut talk: Talk) {
    let mut rest = Vec::new();
    talk.stream.read_to_end(&mut rest).expect("an end, and no timeout");
}

thread_local! {
    static LATE: Late = const { Late };
}

struct Late;

impl Drop for Late {
    fn drop(&mut self) {
        dbuf_client::log(6, b"in the last destructor of a thread").unwrap();
    }
}

extern "C" fn at_exit() {
    dbuf_client::log(6, b"at exit").unwrap();
}

#[test]
fn events_of_the_last_destructors_and_of_exit_handlers_are_sent() {
    let _alone = alone();
    let daemon = Daemon::new();
    let (status, came) = std::thread::scope(|scope| {
        let player = scope.spawn(|| (0..3).map(|_| welcomed(&daemon, 0).events_until_bye()).collect::<Vec<_>>());
        let status = in_child(|| {
            // SAFETY: it runs at the end of this process, which does nothing else then.
            unsafe { libc::atexit(at_exit) };
            local::configure(ProducerOptions { ring: false, ..unhurried(&daemon) });
            // Destructors run in the order in which their values were used first, backwards.
            LATE.with(|_| ());
            dbuf_client::log(6, b"early").unwrap();
            // SAFETY: this thread is the process's only one.
            unsafe { libc::exit(7) }
        });
        (status, player.join().unwrap())
    });
    assert_eq!(libc::WEXITSTATUS(status), 7);
    let came: Vec<_> = came.iter().flat_map(|came| texts(came)).collect();
    assert_eq!(came, ["early", "in the last destructor of a thread", "at exit"]);
}

// Forks.

#[test]
fn a_forked_child_begins_anew_and_does_not_disturb_its_parent() {
    let _alone = alone();
    let daemon = Daemon::new();
    let options = ProducerOptions { close_wait: TIMEOUT, ..daemon.options() };
    let (producer, mut talk, mut ring) = daemon.ring(options);
    let mut producer = Some(producer);
    send_numbers(producer.as_mut().unwrap(), 1, 2);
    let (status, childs) = std::thread::scope(|scope| {
        let player = scope.spawn(|| {
            let mut talk = daemon.accept();
            talk.welcome(0, feature::FIELDS);
            let events = talk.events(2);
            assert!(talk.is_kind(kind::BYE));
            (talk.session, events)
        });
        let status = in_child(|| {
            let mut producer = producer.take().unwrap();
            let has_sent = producer.send(6, b"of the child").is_ok() && producer.statistics().events == 1;
            let mut claim = producer.claim(6, 10).unwrap();
            claim.write_all(b"claimed").unwrap();
            claim.publish().unwrap();
            has_sent && producer.close().is_ok()
        });
        (status, player.join().unwrap())
    });
    assert_eq!(status, 0);
    assert_eq!(texts(&childs.1), ["of the child", "claimed"]);
    assert_eq!(childs.1[0].sequence, 1);
    assert!(childs.0 != talk.session, "another session");
    let producer = producer.as_mut().unwrap();
    send_numbers(producer, 3, 4);
    assert_eq!(texts(&ring.take_all()), numbers(1, 4), "the child has written nothing into its parent's ring");
    producer.tend();
    assert_eq!((producer.statistics().link, producer.statistics().links), (LinkKind::Ring, 1));
    talk.stream.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let silent =
        std::io::Read::read(&mut talk.stream, &mut byte).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
    assert!(silent, "and its connection is neither closed nor spoken on");
}

#[test]
fn a_child_that_lets_go_of_a_producer_or_a_claim_changes_nothing_for_its_parent() {
    let _alone = alone();
    let daemon = Daemon::new();
    for by_frames in [false, true] {
        let (producer, mut talk, mut ring) = if by_frames {
            let (producer, talk) = daemon.frames(daemon.options());
            (producer, talk, None)
        } else {
            let (producer, talk, ring) = daemon.ring(daemon.options());
            (producer, talk, Some(ring))
        };
        let mut producer = Some(producer);
        assert_eq!(in_child(|| producer.take().is_some()), 0);
        let mut claim = Some(producer.as_mut().unwrap().claim(6, 20).unwrap());
        let status = in_child(|| {
            let mut theirs = claim.take().unwrap();
            let is_refused = theirs.write_all(b"of the child").is_err();
            drop(theirs);
            is_refused
        });
        assert_eq!(status, 0);
        assert!(ring.as_mut().is_none_or(|ring| ring.consumer.look() == Ok(0) && ring.consumer.is_torn()));
        let mut claim = claim.unwrap();
        claim.write_all(b"of the parent").unwrap();
        claim.publish().unwrap();
        let came = ring.as_mut().map_or_else(|| talk.events(1), daemon::Ring::take_all);
        assert_eq!(texts(&came), ["of the parent"]);
    }
}

#[test]
fn the_end_of_a_parent_is_seen_while_its_child_lives() {
    let _alone = alone();
    for way in Way::ALL {
        let daemon = Daemon::new();
        let (sender, talk, _ring) = way.open(&daemon);
        // SAFETY: the child does nothing but wait for its end.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: it ends this child, should the test fail before it does.
            unsafe { libc::alarm(60) };
            loop {
                // SAFETY: it waits for a signal.
                unsafe { libc::pause() };
            }
        }
        drop(sender);
        assert_ended(talk);
        // SAFETY: the child is this process's own, and was not waited for.
        unsafe { libc::kill(child, libc::SIGKILL) };
        // SAFETY: as above; its status does not matter.
        assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child, "{way:?}");
    }
}

#[test]
fn a_forked_child_that_leaves_at_once_has_sent_its_events() {
    let _alone = alone();
    let daemon = Daemon::new();
    let (mut producer, _talk, _ring) = daemon.ring(daemon.options());
    // The daemon may take a while to answer. On a machine that is too busy for that while, it is tried again.
    let has_arrived = (0..5).any(|_| {
        std::thread::scope(|scope| {
            let player = scope.spawn(|| {
                let talk = daemon.accept();
                std::thread::sleep(Duration::from_millis(50));
                // The child may be gone by now, and the connection with it.
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| talk.into_ring(0, 0)))
            });
            in_child(|| {
                send_numbers(&mut producer, 1, 100);
                // SAFETY: it ends the process and runs nothing of it.
                unsafe { libc::_exit(0) }
            });
            player.join().unwrap().is_ok_and(|(_talk, mut ring)| texts(&ring.take_all()) == numbers(1, 100))
        })
    });
    assert!(has_arrived, "a child's events are in its own memory when it leaves");
}

#[test]
fn a_try_in_a_forked_child_does_not_wait_for_the_daemon() {
    let _alone = alone();
    let daemon = Daemon::new();
    let (mut producer, _talk, _ring) = daemon.ring(daemon.options());
    // No answer comes. On a machine that is too busy to run the child at once, it is tried again.
    let is_quick = (0..5).any(|_| {
        let status = in_child(|| {
            let begun = Instant::now();
            producer.try_send(&Event { pri: 6, payload: b"x", ..Event::default() }).is_ok()
                && begun.elapsed() < Duration::from_millis(200)
        });
        status == 0
    });
    assert!(is_quick);
}

/// A logger's lock, as a program has one, which its own handlers hold over a fork.
static LOGGER: std::sync::Mutex<()> = std::sync::Mutex::new(());

thread_local! {
    static HELD: std::cell::RefCell<Option<std::sync::MutexGuard<'static, ()>>> =
        const { std::cell::RefCell::new(None) };
    static TELL: std::cell::RefCell<Option<std::sync::mpsc::Sender<()>>> = const { std::cell::RefCell::new(None) };
}

extern "C" fn programs_handler_before() {
    TELL.with_borrow_mut(Option::take).unwrap().send(()).unwrap();
    HELD.set(Some(LOGGER.lock().unwrap()));
}

extern "C" fn programs_handler_in_parent() {
    HELD.take();
}

extern "C" fn programs_handler_in_child() {
    HELD.take();
    dbuf_client::log(6, b"of the child's handler").unwrap();
}

#[test]
#[ignore = "a program that the next test runs: handlers for forks stay for as long as a process"]
fn program_with_handlers_for_forks_of_its_own() {
    let (before, in_parent, in_child) =
        (programs_handler_before, programs_handler_in_parent, programs_handler_in_child);
    // SAFETY: the handlers are functions of this program. It forks while its other threads wait, or hold `LOGGER`.
    assert_eq!(unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) }, 0);
    // SAFETY: a program that waits for ever is ended by a signal, and that is seen.
    unsafe { libc::alarm(20) };
    let path = Some(std::env::var_os("TEST_SOCKET").unwrap().into());
    let options = ProducerOptions { path, capacity_bytes: daemon::CAPACITY, ..ProducerOptions::default() };
    local::configure(options.clone());
    let is_linked = |producer: &Producer| producer.statistics().link != LinkKind::None;
    local::with(|producer| until(producer, is_linked)).unwrap();
    dbuf_client::log(6, b"of the parent").unwrap();
    let (tell, hear) = std::sync::mpsc::channel();
    let (tell_held, hear_held) = std::sync::mpsc::channel();
    TELL.set(Some(tell));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _logger = LOGGER.lock().unwrap();
            tell_held.send(()).unwrap();
            // The fork has begun, and waits for the logger.
            hear.recv().unwrap();
            until(&mut Producer::open(options).unwrap(), is_linked);
        });
        hear_held.recv().unwrap();
        let status = self::in_child(|| local::with(|producer| until(producer, is_linked)).is_some());
        assert_eq!(status, 0);
    });
    dbuf_client::log(6, b"of the parent again").unwrap();
}

#[test]
fn handlers_for_forks_of_the_program_may_wait_for_its_locks_and_send() {
    let _alone = alone();
    let daemon = Daemon::new();
    let (output, came) = std::thread::scope(|scope| {
        let player = scope.spawn(|| {
            let (parents, mut parents_ring) = daemon.accept().into_ring(0, 0);
            let other = welcomed(&daemon, 0);
            let (childs, mut childs_ring) = daemon.accept().into_ring(0, 0);
            [other, childs, parents].into_iter().for_each(assert_ended);
            (parents_ring.take_all(), childs_ring.take_all())
        });
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "program_with_handlers_for_forks_of_its_own"])
            .env("TEST_SOCKET", daemon.path())
            .output()
            .unwrap();
        (output, player.join())
    });
    assert!(output.status.success(), "{output:?}");
    let (parents, childs) = came.unwrap();
    assert_eq!(texts(&parents), ["of the parent", "of the parent again"]);
    assert_eq!(texts(&childs), ["of the child's handler"]);
}

#[test]
fn a_client_is_its_parents_alone() {
    let _alone = alone();
    let daemon = Daemon::new();
    let (sender, mut talk, _) = Way::Client.open(&daemon);
    let Sender::Client(mut client) = sender else { unreachable!("a client was asked for") };
    client.send(6, b"", 0, b"gathered by the parent").unwrap();
    let mut in_child_too = Some(client);
    let status = in_child(|| {
        let mut client = in_child_too.take().unwrap();
        client.push().is_err()
    });
    assert_eq!(status, 0);
    in_child_too.unwrap().close().unwrap();
    assert_eq!(texts(&talk.events_until_bye()), ["gathered by the parent"]);
}

#[test]
fn a_daemon_in_the_old_sense_closes_all_descriptors_and_sends_all_the_same() {
    let _alone = alone();
    let daemon = Daemon::new();
    let (producer, talk, mut ring) = daemon.ring(unhurried(&daemon));
    let mut producer = Some(producer);
    let (status, came) = std::thread::scope(|scope| {
        let player = scope.spawn(|| welcomed(&daemon, 0).events_until_bye());
        let status = in_child(|| {
            // SAFETY: it changes the session of this process, which is no leader of a group.
            unsafe { libc::setsid() };
            let status = in_child(|| {
                close_from(0);
                let mut producer = producer.take().unwrap();
                send_numbers(&mut producer, 1, 3);
                producer.close().is_ok()
            });
            status == 0
        });
        (status, player.join().unwrap())
    });
    assert_eq!((status, texts(&came)), (0, numbers(1, 3).iter().map(String::as_str).collect()));
    drop(producer);
    assert_ended(talk);
    assert!(ring.take_all().is_empty());
}

// Descriptors.

#[test]
fn no_descriptor_is_there_after_an_exec() {
    let _alone = alone();
    let daemon = Daemon::new();
    let _senders: Vec<_> = Way::ALL.iter().map(|way| way.open(&daemon)).collect();
    let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let listing = String::from_utf8(listing.unwrap().stdout).unwrap();
    assert!(listing.contains("pipe:"), "its own output: {listing}");
    assert!(!listing.contains("socket:") && !listing.contains("memfd:"), "{listing}");
}

#[test]
fn standard_streams_that_are_closed_never_become_a_connection() {
    let _alone = alone();
    let daemon = Daemon::new();
    let status = std::thread::scope(|scope| {
        let player = scope.spawn(|| welcomed(&daemon, 0).events_until_bye());
        let status = in_child(|| {
            close_from(0);
            let mut producer =
                Producer::open(ProducerOptions { ring: false, quiet: false, ..unhurried(&daemon) }).unwrap();
            send_numbers(&mut producer, 1, 2);
            let are_closed = (0..=2).all(|number| !is_open(number));
            are_closed && producer.close().is_ok()
        });
        assert_eq!(texts(&player.join().unwrap()), numbers(1, 2));
        status
    });
    assert_eq!(status, 0);
}

/// What a program may have where a descriptor of the library was.
#[derive(Clone, Copy, Debug)]
enum Foreign {
    File,
    Socket,
    Event,
}

/// Opens some of a kind, which take the numbers from 3.
fn open_foreign(kind: Foreign) -> Vec<RawFd> {
    let open = |_| match kind {
        Foreign::File => vec![OwnedFd::from(tempfile::tempfile().unwrap())],
        Foreign::Socket => {
            let (one, other) = UnixStream::pair().unwrap();
            vec![one.into(), other.into()]
        }
        Foreign::Event => {
            let flags = rustix::event::EventfdFlags::NONBLOCK;
            vec![rustix::event::eventfd(0, flags).unwrap()]
        }
    };
    // They stay open for as long as the process.
    (0..8).flat_map(open).map(std::os::fd::IntoRawFd::into_raw_fd).collect()
}

/// Whether nothing was written to it, and it is open.
fn is_untouched(kind: Foreign, raw: RawFd) -> bool {
    let mut bytes = [0_u8; 8];
    let is_empty = match kind {
        Foreign::File => std::fs::metadata(format!("/proc/self/fd/{raw}")).is_ok_and(|file| file.len() == 0),
        // SAFETY: it reads into an array of that size, whatever the number stands for.
        Foreign::Socket => unsafe { libc::recv(raw, bytes.as_mut_ptr().cast(), 8, libc::MSG_DONTWAIT) < 0 },
        // SAFETY: as above.
        Foreign::Event => unsafe { libc::read(raw, bytes.as_mut_ptr().cast(), 8) < 0 },
    };
    is_empty && is_open(raw)
}

fn is_open(raw: RawFd) -> bool {
    // SAFETY: it asks about a number.
    unsafe { libc::fcntl(raw, libc::F_GETFD) >= 0 }
}

fn close_from(first: u32) {
    // SAFETY: what it closes is of this child, whose owners have to live with that: it is what the tests are about.
    assert_eq!(unsafe { libc::close_range(first, u32::MAX, 0) }, 0);
}

#[test]
fn a_descriptor_that_the_program_has_replaced_is_left_alone_and_events_go_by_another() {
    let _alone = alone();
    for kind in [Foreign::File, Foreign::Socket, Foreign::Event] {
        let daemon = Daemon::new();
        let (status, came) = std::thread::scope(|scope| {
            let player = scope.spawn(|| {
                let mut talk = welcomed(&daemon, 0);
                assert_eq!(texts(&talk.events(5)), numbers(1, 5));
                let mut next = welcomed(&daemon, 5);
                assert_eq!(next.session, talk.session, "the daemon knows what it has");
                next.events_until_bye()
            });
            let status = in_child(|| {
                let mut producer = Producer::open(ProducerOptions { ring: false, ..unhurried(&daemon) }).unwrap();
                until(&mut producer, |producer| producer.statistics().link == LinkKind::Frames);
                send_numbers(&mut producer, 1, 5);
                close_from(3);
                let own = open_foreign(kind);
                send_numbers(&mut producer, 6, 20);
                until(&mut producer, |producer| producer.statistics().links == 2);
                let is_closed = producer.close().is_ok();
                is_closed && own.iter().all(|raw| is_untouched(kind, *raw))
            });
            (status, player.join().unwrap())
        });
        assert_eq!(status, 0, "{kind:?}");
        assert_eq!(texts(&came), numbers(6, 20));
    }
}

#[test]
fn a_ring_whose_descriptors_were_replaced_is_given_up_and_its_events_go_by_another() {
    let _alone = alone();
    for kind in [Foreign::File, Foreign::Socket, Foreign::Event] {
        let daemon = Daemon::new();
        let (status, came) = std::thread::scope(|scope| {
            let player = scope.spawn(|| {
                let (talk, _ring) = daemon.accept().into_ring(0, 0);
                assert_ended(talk);
                welcomed(&daemon, 0).events_until_bye()
            });
            let status = in_child(|| {
                let mut producer = Producer::open(unhurried(&daemon)).unwrap();
                until(&mut producer, |producer| producer.statistics().link == LinkKind::Ring);
                send_numbers(&mut producer, 1, 5);
                close_from(3);
                let own = open_foreign(kind);
                send_numbers(&mut producer, 6, 20);
                until(&mut producer, |producer| producer.statistics().links == 2);
                let is_closed = producer.close().is_ok();
                is_closed && own.iter().all(|raw| is_untouched(kind, *raw))
            });
            (status, player.join().unwrap())
        });
        assert_eq!(status, 0, "{kind:?}");
        assert_eq!(texts(&came), numbers(1, 20));
    }
}

/// Runs a child that closes the descriptors of its producer, which has a ring, after `prepare`; then it sends events 6
/// to 20 by the next connection. Returns its exit status, and what `play` returns.
fn leave_ring<T: Send>(
    daemon: &Daemon,
    prepare: impl FnOnce(&mut Producer),
    play: impl FnOnce(&Daemon) -> T + Send,
) -> (i32, T) {
    std::thread::scope(|scope| {
        let player = scope.spawn(|| play(daemon));
        let status = in_child(|| {
            let mut producer = Producer::open(ProducerOptions { stamp: false, ..unhurried(daemon) }).unwrap();
            until(&mut producer, |producer| producer.statistics().link == LinkKind::Ring);
            prepare(&mut producer);
            close_from(3);
            until(&mut producer, |producer| producer.statistics().link == LinkKind::None);
            send_numbers(&mut producer, 6, 20);
            until(&mut producer, |producer| producer.statistics().links == 2);
            let statistics = producer.statistics();
            producer.close().is_ok() && (statistics.events, statistics.lost) == (20, 0)
        });
        (status, player.join().unwrap())
    })
}

#[test]
fn what_the_daemon_still_takes_from_a_ring_that_is_left_is_not_sent_again() {
    let _alone = alone();
    let daemon = Daemon::new();
    let play = |daemon: &Daemon| {
        let (talk, mut ring) = daemon.accept().into_ring(0, 0);
        assert_ended(talk);
        let mut taken = Vec::new();
        for _ in 0..5 {
            // The daemon is slow, but fast enough for the time that the client gives it.
            std::thread::sleep(Duration::from_millis(10));
            taken.extend(ring.take(1));
        }
        (taken, welcomed(daemon, 0).events_until_bye())
    };
    let (status, (taken, came)) = leave_ring(&daemon, |producer| send_numbers(producer, 1, 5), play);
    assert_eq!((texts(&taken), texts(&came)), (refs(&numbers(1, 5)), refs(&numbers(6, 20))));
    assert_eq!(status, 0);
}

#[test]
fn a_daemon_that_takes_the_rest_of_a_left_ring_too_late_gets_events_twice_and_none_counts_as_lost() {
    let _alone = alone();
    let daemon = Daemon::new();
    let play = |daemon: &Daemon| {
        let (talk, mut ring) = daemon.accept().into_ring(0, 0);
        assert_ended(talk);
        // The client waits no longer: it has connected again.
        let next = daemon.accept();
        let late = ring.take_all();
        let (next, mut next_ring) = next.into_ring(0, 0);
        // The client has closed its connection: everything is there.
        assert_ended(next);
        (late, next_ring.take_all())
    };
    let (status, (late, came)) = leave_ring(&daemon, |producer| send_numbers(producer, 1, 5), play);
    assert_eq!((texts(&late), texts(&came)), (refs(&numbers(1, 5)), refs(&numbers(1, 20))));
    assert_eq!(status, 0);
}

#[test]
fn losses_that_the_daemon_still_counts_in_a_ring_that_is_left_are_not_reported_again() {
    let _alone = alone();
    let daemon = Daemon::new();
    let play = |daemon: &Daemon| {
        let (talk, mut ring) = daemon.accept().into_ring(0, 0);
        assert_ended(talk);
        let taken = ring.take_all().len();
        // The daemon writes its record of losses after the events.
        std::thread::sleep(Duration::from_millis(30));
        let losses = ring.consumer.losses().unwrap();
        ring.consumer.take_losses(losses);
        let (next, mut ring) = daemon.accept().into_ring(0, 0);
        assert_ended(next);
        (taken, losses.0, ring.consumer.losses().unwrap(), ring.take_all().len())
    };
    let prepare = |producer: &mut Producer| {
        // Five events, and losses behind them.
        for _ in 0..5 {
            producer.send(6, &[0; 13_000]).unwrap();
        }
        assert!(producer.send(6, &[0; 13_000]).is_err());
    };
    let (status, seen) = leave_ring(&daemon, prepare, play);
    assert_eq!((seen, status), ((5, 1, (0, 0), 15), 0));
}

/// Borrows the texts, as [`texts`] does.
fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[test]
fn a_client_whose_descriptor_was_replaced_has_ended_and_leaves_it_alone() {
    let _alone = alone();
    for kind in [Foreign::File, Foreign::Socket, Foreign::Event] {
        let daemon = Daemon::new();
        let status = std::thread::scope(|scope| {
            let player = scope.spawn(|| assert_ended(welcomed(&daemon, 0)));
            let status = in_child(|| {
                let mut client = Client::connect(daemon.path(), &ClientOptions::default()).unwrap();
                close_from(3);
                let own = open_foreign(kind);
                client.send(6, b"", 0, b"x").unwrap();
                let has_ended = matches!(client.push(), Err(dbuf_client::Error::Closed));
                let stays_so = matches!(client.sync(TIMEOUT), Err(dbuf_client::Error::Closed));
                drop(client);
                has_ended && stays_so && own.iter().all(|raw| is_untouched(kind, *raw))
            });
            player.join().unwrap();
            status
        });
        assert_eq!(status, 0, "{kind:?}");
    }
}

// Standard error.

fn become_standard_error(writer: &impl AsRawFd) {
    // SAFETY: it replaces the standard error of a child.
    assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 2) }, 2);
}

/// What a child writes to its standard error while it does `work`.
fn standard_error_of(work: impl FnOnce() -> bool) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let status = in_child(|| {
        become_standard_error(&writer);
        work()
    });
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(status, 0, "{text}");
    text
}

#[test]
fn a_daemon_that_cannot_be_reached_is_named_once_and_what_is_lost_in_the_end() {
    let _alone = alone();
    let daemon = Daemon::absent();
    let work = |quiet: bool| {
        let mut producer = Producer::open(ProducerOptions { quiet, ..daemon.options() }).unwrap();
        send_numbers(&mut producer, 1, 3);
        let _ = producer.sync(Duration::from_millis(250));
        producer.close() == Err(3)
    };
    let cannot =
        format!("cannot connect to {}: No such file or directory (is dbufd running?)", daemon.path().display());
    let expected = format!("dbuf: {cannot}; events wait in memory\ndbuf: 3 events not delivered: {cannot}\n");
    assert_eq!(standard_error_of(|| work(false)), expected);
    assert_eq!(standard_error_of(|| work(true)), "");
}

#[test]
fn a_daemon_whose_queue_of_connections_is_full_is_not_called_unreachable() {
    let _alone = alone();
    let daemon = Daemon::new();
    let _waiting = daemon.fill_queue();
    let has_said =
        |producer: &Producer, words: &str| producer.statistics().last_error.is_some_and(|error| error.ends_with(words));
    let text = standard_error_of(|| {
        let mut producer = Producer::open(ProducerOptions { quiet: false, ..daemon.options() }).unwrap();
        assert!(has_said(&producer, "Resource temporarily unavailable"));
        std::fs::remove_file(daemon.path()).unwrap();
        until(&mut producer, |producer| has_said(producer, "(is dbufd running?)"));
        true
    });
    let why = "No such file or directory (is dbufd running?); events wait in memory";
    assert_eq!(text, format!("dbuf: cannot connect to {}: {why}\n", daemon.path().display()));
}

#[test]
fn where_events_cannot_be_kept_the_line_says_that_they_are_dropped() {
    let _alone = alone();
    let daemon = Daemon::absent();
    let text = standard_error_of(|| {
        let without_daemon = dbuf_client::WithoutDaemon::Fail;
        let handles = local::Handles::new(ProducerOptions { without_daemon, quiet: false, ..daemon.options() });
        let event = Event { pri: 6, payload: b"x", ..Event::default() };
        let refused = Err(dbuf_client::SendError::NoProducer);
        assert_eq!((handles.send(&event), handles.send(&event)), (refused.clone(), refused));
        Producer::open(ProducerOptions { without_daemon, quiet: false, ..daemon.options() }).is_err()
    });
    let why = "No such file or directory (is dbufd running?); events are dropped";
    let line = format!("dbuf: cannot connect to {}: {why}\n", daemon.path().display());
    assert_eq!(text, line.repeat(2), "the handles once, the producer once");
}

#[test]
fn neither_a_forked_child_nor_another_thread_says_again_that_the_daemon_cannot_be_reached() {
    let _alone = alone();
    let daemon = Daemon::absent();
    let options = ProducerOptions { quiet: false, ..daemon.options() };
    let why = format!("cannot connect to {}: No such file or directory (is dbufd running?)", daemon.path().display());
    let expected =
        format!("dbuf: {why}; events wait in memory\n") + &format!("dbuf: 1 event not delivered: {why}\n").repeat(2);
    let of_a_child = standard_error_of(|| {
        let mut producer = Producer::open(options.clone()).unwrap();
        let status = in_child(|| {
            producer.send(6, b"of the child").unwrap();
            // The copy of the parent's is closed here.
            std::mem::replace(&mut producer, Producer::open(daemon.options()).unwrap()).close() == Err(1)
        });
        producer.send(6, b"of the parent").unwrap();
        (status, producer.close()) == (0, Err(1))
    });
    assert_eq!(of_a_child, expected);
    let of_threads = standard_error_of(|| {
        let handles = local::Handles::new(options.clone());
        let send = || handles.send(&Event { pri: 6, payload: b"x", ..Event::default() });
        std::thread::scope(|scope| (0..2).all(|_| scope.spawn(send).join().unwrap().is_ok()))
    });
    assert_eq!(of_threads, expected);
}

#[test]
#[ignore = "a program that the next test runs with a file as its standard error"]
fn program_that_finds_no_daemon() {
    let path = Some(std::env::var_os("TEST_SOCKET").unwrap().into());
    drop(Producer::open(ProducerOptions { path, ..ProducerOptions::default() }));
}

#[test]
fn no_line_goes_into_a_file_that_the_program_has_put_in_place_of_standard_error() {
    let _alone = alone();
    let daemon = Daemon::absent();
    let file = daemon.path().with_file_name("file");
    let lines = || std::fs::read_to_string(&file).unwrap().lines().filter(|line| line.starts_with("dbuf: ")).count();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "program_that_finds_no_daemon"])
        .env("TEST_SOCKET", daemon.path())
        .stderr(std::fs::File::create(&file).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(lines(), 1, "as a shell redirects it");
    for (appends, expected) in [(false, 0), (true, 1)] {
        std::fs::remove_file(&file).unwrap();
        let replacement = std::fs::File::options().create(true).write(true).append(appends).open(&file).unwrap();
        let status = in_child(|| {
            become_standard_error(&replacement);
            Producer::open(ProducerOptions { quiet: false, ..daemon.options() }).is_ok()
        });
        assert_eq!((status, lines()), (0, expected), "appends: {appends}");
    }
}

#[test]
fn losses_that_no_event_reports_count_as_not_delivered() {
    let _alone = alone();
    let daemon = Daemon::absent();
    let text = standard_error_of(|| {
        let mut producer = Producer::open(ProducerOptions { quiet: false, ..daemon.options() }).unwrap();
        let mut events = 0;
        while producer.send(6, &[0; 1000]).is_ok() {
            events += 1;
        }
        events += 1;
        let expected = format!("dbuf: {events} events not delivered: ");
        drop(producer);
        // The last line is that of the end.
        std::fs::write(daemon.path().with_file_name("expected"), expected).is_ok()
    });
    let expected = std::fs::read_to_string(daemon.path().with_file_name("expected")).unwrap();
    assert!(text.lines().last().unwrap().starts_with(&expected), "{text}, and not {expected}");
}

#[test]
fn where_events_are_delivered_nothing_is_written_to_standard_error() {
    let _alone = alone();
    let daemon = Daemon::new();
    let text = std::thread::scope(|scope| {
        let player = scope.spawn(|| welcomed(&daemon, 0).events_until_bye());
        let text = standard_error_of(|| {
            let mut producer = Producer::open(ProducerOptions { quiet: false, ..unhurried(&daemon) }).unwrap();
            send_numbers(&mut producer, 1, 3);
            producer.close().is_ok()
        });
        assert_eq!(texts(&player.join().unwrap()), numbers(1, 3));
        text
    });
    assert_eq!(text, "");
}

#[test]
fn a_socket_that_does_not_let_the_user_in_is_named_with_its_remedy() {
    use std::os::unix::fs::PermissionsExt;
    let _alone = alone();
    let daemon = Daemon::new();
    std::fs::set_permissions(daemon.path(), std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(daemon.path().parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = standard_error_of(|| {
        // SAFETY: the child becomes another user. If it is not root, it cannot, and need not: a mode keeps it out.
        unsafe { libc::setuid(65534) };
        let client = Client::connect(daemon.path(), &ClientOptions::default()).unwrap_err().to_string();
        let options = ProducerOptions { quiet: false, ..daemon.options() };
        let without_daemon = dbuf_client::WithoutDaemon::Fail;
        let failing = ProducerOptions { without_daemon, quiet: true, ..options.clone() };
        let opened = Producer::open(failing).unwrap_err().to_string();
        drop(Producer::open(options));
        client == opened && client.contains("Permission denied (") && !client.contains("running")
    });
    let remedy = "(the socket's mode does not let this user in: SocketMode= in dbufd.socket, or ingest.socket_mode)";
    let path = daemon.path();
    let line =
        format!("dbuf: cannot connect to {}: Permission denied {remedy}; events wait in memory\n", path.display());
    assert_eq!(text, line);
}

#[test]
fn a_standard_error_that_is_full_or_has_no_reader_neither_stops_nor_ends_the_program() {
    let _alone = alone();
    let daemon = Daemon::absent();
    let work = || drop(Producer::open(ProducerOptions { quiet: false, ..daemon.options() }));
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let status = in_child(|| {
        become_standard_error(&writer);
        // SAFETY: a program that waits for a reader is ended by a signal, and that is seen.
        unsafe { libc::alarm(20) };
        work();
        true
    });
    assert_eq!(status, 0, "full");
    drop(reader);
    let status = in_child(|| {
        become_standard_error(&writer);
        // SAFETY: the signal ends this child, as it ends a program in C.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        work();
        true
    });
    assert_eq!(status, 0, "no reader");
}

// A plug-in.

/// What `examples/plugin.rs` exports.
type Say = unsafe extern "C" fn(*const libc::c_char) -> libc::c_int;

/// The plug-in's file. `cargo test` builds it with all examples; where only these tests are built, it is built here.
fn plugin_file() -> std::path::PathBuf {
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().and_then(std::path::Path::parent).unwrap();
    let file = folder.join("examples/libplugin.so");
    if !file.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "--quiet", "--locked", "-p", "dbuf-client", "--example", "plugin", "--target-dir"];
        assert!(Command::new(cargo).args(build).arg(folder.parent().unwrap()).status().unwrap().success());
    }
    file
}

fn load_plugin(file: std::path::PathBuf) -> (*mut libc::c_void, Say) {
    let file = CString::new(file.into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: what it runs when it is loaded is this workspace's own.
    let plugin = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW) };
    assert!(!plugin.is_null());
    // SAFETY: the object is open.
    let say = unsafe { libc::dlsym(plugin, c"plugin_say".as_ptr()) };
    assert!(!say.is_null());
    // SAFETY: the function has this type.
    (plugin, unsafe { std::mem::transmute::<*mut libc::c_void, Say>(say) })
}

#[test]
fn a_plug_in_may_be_unloaded_before_or_after_the_threads_that_used_it_end() {
    let _alone = alone();
    let file = plugin_file();
    for ends_before in [true, false] {
        let daemon = Daemon::new();
        let path = CString::new(daemon.path().into_os_string().into_encoded_bytes()).unwrap();
        let (status, came) = std::thread::scope(|scope| {
            let player = scope.spawn(|| {
                let (talk, mut ring) = daemon.accept().into_ring(0, 0);
                assert_ended(talk);
                ring.take_all()
            });
            let status = in_child(|| {
                let (plugin, say) = load_plugin(file.clone());
                let (go, wait) = std::sync::mpsc::channel::<()>();
                let (tell, hear) = std::sync::mpsc::channel::<()>();
                let worker = std::thread::spawn(move || {
                    // SAFETY: the plug-in is loaded, and the path ends with a zero.
                    let said = unsafe { say(path.as_ptr()) };
                    tell.send(()).unwrap();
                    wait.recv().unwrap();
                    said
                });
                hear.recv().unwrap();
                let unload = || {
                    // SAFETY: its functions are not called any more.
                    assert_eq!(unsafe { libc::dlclose(plugin) }, 0);
                    // What it registered for forks is gone with it, or is there still.
                    assert_eq!(in_child(|| true), 0);
                };
                if !ends_before {
                    unload();
                }
                go.send(()).unwrap();
                let said = worker.join().unwrap();
                if ends_before {
                    unload();
                    // A thread that has not ended would keep it.
                    assert!(!std::fs::read_to_string("/proc/self/maps").unwrap().contains("libplugin"));
                }
                said == 0
            });
            (status, player.join().unwrap())
        });
        assert_eq!((status, texts(&came)), (0, vec!["the plug-in is at work"]), "{ends_before}");
    }
}

// Other users.

#[test]
fn nothing_is_said_to_a_socket_in_the_temporary_directory_on_which_another_user_listens() {
    use std::os::unix::fs::{PermissionsExt, chown};
    const NOBODY: u32 = 65534;
    const OTHER: u32 = 65533;
    let _alone = alone();
    // SAFETY: it asks the kernel.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: only root can listen as another user");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join(format!("dbufd-{NOBODY}"));
    std::fs::create_dir(&folder).unwrap();
    for (path, mode) in [(temporary.path(), 0o755), (folder.as_path(), 0o777)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let status = in_child(|| {
        // SAFETY: users of this child, here and below. The kernel notes who listens.
        assert_eq!(unsafe { libc::seteuid(OTHER) }, 0);
        let listener = std::os::unix::net::UnixListener::bind(folder.join("stream.sock")).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::seteuid(0) }, 0);
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.join("stream.sock"), everybody).unwrap();
        // As if the folder had been put there after it was looked at.
        chown(&folder, Some(NOBODY), None).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setuid(NOBODY) }, 0);
        for (name, value) in [("TMPDIR", temporary.path().as_os_str()), ("XDG_RUNTIME_DIR", "".as_ref())] {
            // SAFETY: the child has one thread.
            unsafe { std::env::set_var(name, value) };
        }
        let producer = Producer::open(ProducerOptions { quiet: true, ..ProducerOptions::default() }).unwrap();
        let why = producer.statistics().last_error.unwrap();
        drop(producer);
        let mut said = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut said).unwrap();
        why.ends_with("another user's process listens there") && said.is_empty()
    });
    assert_eq!(status, 0);
}

#[test]
#[ignore = "a program that the next test runs with the setuid bit"]
fn program_that_says_where_it_looks_for_the_daemon() {
    let producer = Producer::open(ProducerOptions { quiet: true, ..ProducerOptions::default() }).unwrap();
    println!("last error: {}", producer.statistics().last_error.expect("no daemon of this user"));
}

#[test]
fn a_setuid_program_does_not_look_for_the_daemon_where_its_callers_environment_says() {
    use std::os::unix::fs::{PermissionsExt, chown};
    const NOBODY: u32 = 65534;
    let _alone = alone();
    // SAFETY: it asks the kernel.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: only root can give a program to another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let said = |mode: u32| {
        chown(&program, Some(NOBODY), None).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(&program);
        command.args(["--ignored", "--exact", "program_that_says_where_it_looks_for_the_daemon", "--nocapture"]);
        for variable in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"] {
            command.env(variable, "/nonexistent/of-the-caller");
        }
        // A child of another test may still have the copy open for writing: it inherited that at its fork.
        let output = loop {
            match command.output() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                output => break output.unwrap(),
            }
        };
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("last error: cannot connect to /"), "{text}");
        text
    };
    assert!(said(0o755).contains("/nonexistent/of-the-caller/stream.sock"), "an ordinary program believes it");
    assert!(!said(0o4755).contains("/nonexistent"));
}
