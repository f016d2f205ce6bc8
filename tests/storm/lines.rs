//! Senders of lines and of datagrams.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use crate::clients::{ANSWER_TIMEOUT, BLACK_HOLE, Place, rest};
use crate::event::{self, MAX_EVENT, Random};
use crate::manager::{connect_named, unique};
use crate::promise::Promise;

/// A send that takes longer has met a daemon that takes nothing.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
const NOISE_MAX: usize = 200;
const SHORT_LINES_MAX: u64 = 6;
/// Between two lines of a long connection.
const LONG_REST: Duration = Duration::from_millis(4);
/// Lines in pieces are large.
const PIECES_REST: Duration = Duration::from_millis(40);
const SHORT_REST: Duration = Duration::from_millis(5);
const TOLD_TO_BREAK: &str = "a connection that the manager had has broken";

/// How a long connection writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Whole,
    /// Half a line is always on its way.
    Torn,
    /// Lines longer than an event may be.
    Pieces,
}

impl Style {
    fn noise_max(self) -> usize {
        if self == Self::Pieces { 3 * MAX_EVENT } else { NOISE_MAX }
    }
}

fn connect(place: &Place, connection: &str) -> Option<UnixStream> {
    // The listener is the manager's: it is there while the daemon is not.
    let stream = connect_named(&place.stream, connection).ok()?;
    stream.set_write_timeout(Some(SEND_TIMEOUT)).expect("a timeout");
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a timeout");
    Some(stream)
}

/// A connection that stays. Where it breaks in the documented gap there is another, which is another sender.
pub(crate) fn long(place: &Place, name: &str, mut random: Random, style: Style) {
    for number in 0.. {
        let connection = unique(name);
        let mut promise = Promise { sender: format!("{name}.{number}"), transport: "lines", ..Promise::default() };
        let Some(mut stream) = connect(place, &connection) else { continue };
        let sent = send_lines(place, &mut stream, &mut promise, &mut random, style);
        if let Err((error, line)) = sent {
            if place.taken.has_taken(&connection) {
                place.book.wrong(TOLD_TO_BREAK, format!("{} at {}: {error}", promise.sender, promise.sent));
            }
            place.book.count("long connections broken in the gap");
            (promise.may_miss, promise.half) = (Some(1..=promise.sent), Some(line));
        }
        let is_over = promise.half.is_none();
        place.book.promise(promise);
        if is_over {
            return;
        }
    }
}

/// Until the storm is over, or the connection breaks; then with the line that was being written.
fn send_lines(
    place: &Place,
    stream: &mut UnixStream,
    promise: &mut Promise,
    random: &mut Random,
    style: Style,
) -> Result<(), (io::Error, Vec<u8>)> {
    while !place.is_over() {
        let line = event::text(&promise.sender, promise.sent + 1, style.noise_max());
        let bytes = [&line[..], b"\n"].concat();
        // At any place of the line, its very ends included.
        let cut = if style == Style::Torn { random.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
        let (first, second) = bytes.split_at(cut);
        let written = stream.write_all(first).and_then(|()| {
            rest(random, if style == Style::Pieces { PIECES_REST } else { LONG_REST });
            stream.write_all(second)
        });
        if let Err(error) = written {
            return Err((error, line));
        }
        promise.sent += 1;
    }
    Ok(())
}

/// Connections that send some lines and close: some wait until the daemon has ended the connection, too, which tells
/// whether it was read; others do not.
pub(crate) fn short(place: &Place, name: &str, mut random: Random, waits: bool) {
    for number in 0.. {
        if place.is_over() {
            return;
        }
        let connection = unique(name);
        let mut promise = Promise { sender: format!("{name}.{number}"), transport: "lines", ..Promise::default() };
        let Some(stream) = connect(place, &connection) else { continue };
        place.book.count("short connections");
        short_one(place, stream, &connection, &mut promise, &mut random, waits);
        place.book.promise(promise);
        rest(&mut random, SHORT_REST);
    }
}

fn short_one(
    place: &Place,
    mut stream: UnixStream,
    connection: &str,
    promise: &mut Promise,
    random: &mut Random,
    waits: bool,
) {
    let broken = |promise: &mut Promise, error: io::Error| {
        if place.taken.has_taken(connection) {
            place.book.wrong(TOLD_TO_BREAK, format!("{} at {}: {error}", promise.sender, promise.sent));
        }
        place.book.count("short connections broken in the gap");
        promise.may_miss = Some(1..=promise.sent);
    };
    for _ in 0..random.below(SHORT_LINES_MAX) + 1 {
        let mut line = event::text(&promise.sender, promise.sent + 1, NOISE_MAX);
        line.push(b'\n');
        if let Err(error) = stream.write_all(&line) {
            line.pop();
            promise.half = Some(line);
            return broken(promise, error);
        }
        promise.sent += 1;
        if random.percent(20) {
            rest(random, LONG_REST);
        }
    }
    if !waits {
        // Unless the manager has it, this side cannot know whether it was read before the daemon died.
        drop(stream);
        promise.left = Some(connection.to_owned());
        return;
    }
    let _ = stream.shutdown(Shutdown::Write);
    match stream.read(&mut [0; 16]) {
        // It was read to its end: the kernel makes a reset of the end of a connection in which something was not read.
        Ok(0) => {}
        Ok(_) => place.book.wrong("a client of lines is told something", promise.sender.clone()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => place.book.wrong(BLACK_HOLE, promise.sender.clone()),
        Err(error) => broken(promise, error),
    }
}

/// A sender of datagrams. The socket is the manager's, so each that it takes is promised.
pub(crate) fn datagrams(place: &Place, name: &str, mut random: Random) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(&place.datagram).expect("the manager has it");
    socket.set_write_timeout(Some(SEND_TIMEOUT)).expect("a timeout");
    let mut promise = Promise { sender: name.to_owned(), transport: "dgram", ..Promise::default() };
    while !place.is_over() {
        match socket.send(&event::text(name, promise.sent + 1, NOISE_MAX)) {
            Ok(_) => promise.sent += 1,
            Err(error) => place.book.wrong("a sender of datagrams sees an error", format!("{name}: {error}")),
        }
        rest(&mut random, LONG_REST);
    }
    place.book.promise(promise);
}
