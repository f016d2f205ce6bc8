//! Sends one event from the command line, or one for each line of standard input. This is `dbufctl send`.
//!
//! Input: words or lines. Output: events over the framed protocol. One thread. Failures: no daemon (exit code 4), a
//! line that is too long (it is named, the others are sent, exit code 1), a loss that the daemon reports.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use dbuf_client::{Client, ClientOptions, Error};
use dbuf_wire::frames::{self as wire, FIELD_NAME_BYTES_MAX, FIELDS_BYTES_MAX};

use super::context::Context;
use super::daemon::DISK_TIMEOUT;
use super::failure::{Failure, client_failure};
use super::select::priority;
use super::values::field;
use crate::config::paths::STREAM_SOCKET;
use crate::stats::format::plural;

/// `send`
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Priority: a name (emerg to debug) or a number from 0 to 7
    #[arg(short, long, value_name = "PRIO", default_value = "info", value_parser = priority::parse)]
    pub priority: u8,
    /// Tag of the events, at most 64 bytes
    #[arg(short, long, value_name = "TAG", value_parser = tag)]
    pub tag: Option<OsString>,
    /// Add a field to the event; repeat -F for more. FIELD has capitals, digits and underscores, and begins with a
    /// letter: other names are shown as FIELD_...
    #[arg(short = 'F', long = "field", value_name = "FIELD=VALUE", value_parser = field)]
    pub fields: Vec<(String, Vec<u8>)>,
    /// Return only when all events are durable, so that they survive a loss of power
    #[arg(long)]
    pub sync: bool,
    /// The text of the event, joined by spaces; without it, each line of standard input is one event
    #[arg(value_name = "MESSAGE")]
    pub words: Vec<OsString>,
}

fn tag(text: &str) -> Result<OsString, String> {
    if text.len() <= wire::TAG_BYTES_MAX {
        Ok(text.into())
    } else {
        Err(format!("a tag has at most {} bytes, and this one has {}", wire::TAG_BYTES_MAX, text.len()))
    }
}

/// Runs `send`.
///
/// # Errors
/// No daemon answers, or an event could not be sent or stored.
pub(super) fn run(args: &SendArgs, context: &Context) -> anyhow::Result<ExitCode> {
    // dbufctl says itself what failed.
    let options = ClientOptions { quiet: true, ..ClientOptions::default() };
    let mut client = Client::connect(context.runtime.join(STREAM_SOCKET), &options).map_err(client_failure)?;
    let mut fields = Vec::new();
    if !args.fields.iter().all(|(name, value)| wire::put_field(&mut fields, name.as_bytes(), value)) {
        let bounds = format!("a name has at most {} bytes, all fields {}", FIELD_NAME_BYTES_MAX, FIELDS_BYTES_MAX);
        return Err(Failure::Usage(format!("--field: {bounds}")).into());
    }
    let tag = args.tag.as_deref().map_or(&b""[..], OsStrExt::as_bytes);
    let mut sender = Sender { client: &mut client, pri: args.priority, tag, fields: &fields };
    let sent = if args.words.is_empty() {
        sender.lines(BufReader::with_capacity(64 << 10, io::stdin().lock()))
    } else {
        sender.send(&args.words.join(" ".as_ref()).into_vec())
    };
    // Events that were sent before a failure are finished like the rest.
    let finished = if args.sync { client.sync(DISK_TIMEOUT) } else { Ok(()) };
    let closed = client.close();
    sent?;
    finished.map_err(client_failure)?;
    closed.map_err(client_failure)?;
    Ok(ExitCode::SUCCESS)
}

struct Sender<'a> {
    client: &'a mut Client,
    pri: u8,
    tag: &'a [u8],
    fields: &'a [u8],
}

impl Sender<'_> {
    fn send(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        match self.client.send_with_fields(self.pri, self.tag, 0, self.fields, payload) {
            Err(Error::Invalid(_)) if payload.is_empty() => {
                Err(Failure::Usage("an event has at least one byte; give some text".into()).into())
            }
            sent => sent.map(|_| ()).map_err(client_failure),
        }
    }

    /// Sends one event for each line. An empty line is skipped. A line that is too long is not sent, and makes the
    /// command fail in the end.
    fn lines(&mut self, mut from: BufReader<impl Read>) -> anyhow::Result<()> {
        let max_event = self.client.max_event();
        let mut too_long = TooLong::default();
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            // One byte more than fits, and the newline: this distinguishes a line that just fits from a longer one.
            let taken = (&mut from).take(max_event as u64 + 1).read_until(b'\n', &mut line);
            if taken.context("cannot read standard input")? == 0 {
                break;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if line.len() > max_event {
                from.skip_until(b'\n').context("cannot read standard input")?;
                too_long.add(number);
                continue;
            }
            if !line.is_empty() {
                self.send(&line)?;
            }
            // No more input for now: a slow program wants each event sent at once.
            if from.buffer().is_empty() {
                self.client.push().map_err(client_failure)?;
            }
        }
        too_long.verdict(max_event)
    }
}

#[derive(Default)]
struct TooLong {
    lines: u64,
    first: u64,
}

impl TooLong {
    fn add(&mut self, line: u64) {
        if self.lines == 0 {
            self.first = line;
        }
        self.lines += 1;
    }

    fn verdict(&self, max_event: usize) -> anyhow::Result<()> {
        if self.lines == 0 {
            return Ok(());
        }
        anyhow::bail!(
            "not sent: {} {} longer than {max_event} bytes, the first is line {}; raise ingest.max_event, or write to \
             {STREAM_SOCKET} as text of any length",
            self.lines,
            plural(self.lines, "line"),
            self.first
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbuf_wire::frames::{Frame, HEAD_BYTES, MAGIC, Welcome};
    use std::io::Write;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// Runs `act` as a client of a daemon whose largest event has 8 bytes; returns the payloads that arrived.
    fn arriving(act: impl FnOnce(&mut Sender<'_>) -> anyhow::Result<()>) -> (Vec<Vec<u8>>, anyhow::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STREAM_SOCKET);
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut welcome = Vec::new();
            Frame::Welcome(Welcome { version: 1, max_event: 8, compatible: 0, incompatible: 0, last: 0 })
                .encode(&mut welcome);
            stream.write_all(&welcome).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut client = Client::connect(&path, &ClientOptions::default()).unwrap();
        let result = act(&mut Sender { client: &mut client, pri: 3, tag: b"tag", fields: b"" });
        client.close().unwrap();
        let bytes = daemon.join().unwrap();
        let mut rest = &bytes[MAGIC.len()..];
        let mut payloads = Vec::new();
        while rest.len() >= HEAD_BYTES {
            let (frame, consumed) = Frame::decode(rest).unwrap().unwrap();
            if let Frame::Event(event) = frame {
                assert_eq!((event.pri, event.tag), (3, &b"tag"[..]));
                payloads.push(event.payload.to_vec());
            }
            rest = &rest[consumed..];
        }
        (payloads, result)
    }

    fn lines(input: &'static [u8]) -> (Vec<Vec<u8>>, anyhow::Result<()>) {
        arriving(|sender| sender.lines(BufReader::with_capacity(4, input)))
    }

    #[test]
    fn each_line_is_one_event_and_the_last_needs_no_newline() {
        let (payloads, result) = lines(b"one\n\ntwo\0\n  three");
        result.unwrap();
        assert_eq!(payloads, [&b"one"[..], b"two\0", b"  three"]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_sent_and_a_longer_one_is_named() {
        let (payloads, result) = lines(b"12345678\n123456789\nok\n1234567890123\n12345678");
        assert_eq!(payloads, [&b"12345678"[..], b"ok", b"12345678"]);
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("not sent: 2 lines longer than 8 bytes") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn too_long_an_event_names_the_limit() {
        let (payloads, result) = arriving(|sender| sender.send(b"123456789"));
        assert!(payloads.is_empty());
        assert!(result.unwrap_err().to_string().contains("9 bytes and the daemon accepts 8"));
    }

    #[test]
    fn no_daemon_is_an_ending_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context { runtime: dir.path().into(), directory: dir.path().into(), color: false };
        let args = SendArgs { priority: 6, tag: None, fields: Vec::new(), sync: false, words: vec!["hi".into()] };
        let error = run(&args, &context).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Failure::NoDaemon(_))));
    }
}
