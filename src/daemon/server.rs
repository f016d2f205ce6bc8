//! Serves dbufctl's socket: one JSON object a line, a request and then its answer.
//!
//! Input: bytes from any process that may connect. Output: answers. Control thread, one task for each client. Failures:
//! none that other clients notice. A client that is wrong, silent, slow or greedy costs one task, [`LINE_BYTES_MAX`]
//! and the time limits below.
//!
//! Access: the socket's mode admits the daemon's user and group, and root. Requests that change the daemon (reload,
//! rotate) are for its user and root alone. The users of the group share [`CLIENTS_MAX`] places, and a quarter of them
//! is always left for root and the daemon's user ([`crate::pipeline::shares`]).

use std::future::Future;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::pipeline::shares::{Refusal, Resource, Shares};
use crate::sync::Arc;

/// The longest request.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// The most clients at a time.
pub(super) const CLIENTS_MAX: u64 = 64;
/// How long a new client may be silent before its first request is complete.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a client may be silent after its first request. dbufctl itself connects for each request.
const NEXT_REQUEST: Duration = Duration::from_secs(60);
/// How long an answer may wait for the client to read it.
const ANSWER_READ: Duration = Duration::from_secs(10);
/// How long the data plane may take for an answer. A disk may be slow, but dbufctl must get an answer.
const ANSWER_READY: Duration = Duration::from_secs(120);
/// The pause before accepting again if there are no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// What dbufctl may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlCommand {
    /// All counters.
    Stats,
    /// What became of each producer's events.
    Account,
    /// Seal the active segment and begin the next.
    Rotate,
    /// Answer when all events that were accepted before are durable.
    Sync,
    /// Read the configuration again.
    Reload,
    /// Which daemon answers.
    Ping,
    /// The configuration in force.
    Config,
}

impl ControlCommand {
    fn changes_the_daemon(self) -> bool {
        matches!(self, Self::Rotate | Self::Reload)
    }
}

#[derive(Deserialize)]
struct Request {
    command: ControlCommand,
}

/// An answer in progress: data, or one line that says what failed.
pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

/// The function that answers.
pub(super) type Answers = Arc<dyn Fn(ControlCommand) -> Answer + Send + Sync>;

/// Parses a request.
///
/// # Errors
/// One line that says what a request looks like.
pub fn parse_request(line: &[u8]) -> Result<ControlCommand, String> {
    let request: Result<Request, _> = serde_json::from_slice(line);
    request.map(|request| request.command).map_err(|error| {
        let why = error.to_string().replace(char::is_control, " ");
        format!("not a request: {why}; a request looks like {{\"command\":\"stats\"}}")
    })
}

/// Serves until the runtime ends.
pub(super) async fn serve(listener: UnixListener, shares: Arc<Shares>, answers: Answers) {
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Most likely there are no descriptors left. A client that leaves frees one; until then this must not
                // be a busy loop.
                tracing::debug!(%error, "cannot accept a connection of dbufctl");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        // A client without credentials does not exist.
        let Ok(peer) = client.peer_cred() else { continue };
        match shares.take(Resource::ControlConnections, peer.uid(), 1) {
            Ok(place) => {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move {
                    // An error of the conversation concerns only this client.
                    let _ = converse(client, peer.uid(), answers).await;
                    drop(place);
                });
            }
            Err(refusal) => refuse(client, &refusal),
        }
    }
}

fn refuse(client: UnixStream, refusal: &Refusal) {
    let text = line(&Err(format!("busy: {refusal}; try again")));
    // Bypasses the runtime, which has not yet asked the kernel whether the socket is writable. A new socket is, and the
    // call never blocks.
    if let Ok(mut client) = client.into_std() {
        let _ = client.write(&text);
    }
}

async fn converse(client: UnixStream, uid: u32, answers: Answers) -> io::Result<()> {
    let owner = uid == 0 || uid == nix::unistd::Uid::effective().as_raw();
    let (read, mut write) = client.into_split();
    let mut read = BufReader::new(read);
    let mut request_timeout = FIRST_REQUEST;
    let mut request = Vec::new();
    while next_line(&mut read, &mut request, request_timeout).await? {
        let answer = match parse_request(&request) {
            Err(why) => Err(why),
            Ok(command) if command.changes_the_daemon() && !owner => {
                Err("not permitted: you must be root or the user that dbufd runs as".to_owned())
            }
            Ok(command) => timeout(ANSWER_READY, answers(command)).await.unwrap_or_else(|_| {
                Err(format!("no answer from the disk within {} s; see dbufctl stats", ANSWER_READY.as_secs()))
            }),
        };
        timeout(ANSWER_READ, write.write_all(&line(&answer))).await??;
        request_timeout = NEXT_REQUEST;
    }
    if request.len() > LINE_BYTES_MAX {
        let answer = line(&Err(format!("a request has at most {LINE_BYTES_MAX} bytes")));
        timeout(ANSWER_READ, write.write_all(&answer)).await??;
    }
    Ok(())
}

/// Reads one line; false at the end of the conversation, or if the line is too long.
async fn next_line(
    read: &mut BufReader<OwnedReadHalf>,
    request: &mut Vec<u8>,
    request_timeout: Duration,
) -> io::Result<bool> {
    request.clear();
    let mut bounded = read.take(LINE_BYTES_MAX as u64 + 1);
    timeout(request_timeout, bounded.read_until(b'\n', request)).await??;
    if request.last() == Some(&b'\n') {
        request.pop();
    }
    // The last request needs no line end if the client closes its side: `echo -n ... | nc -N`.
    Ok(!request.is_empty() && request.len() <= LINE_BYTES_MAX)
}

fn line(answer: &Result<Value, String>) -> Vec<u8> {
    let object = match answer {
        Ok(data) => json!({"ok": true, "data": data}),
        Err(error) => json!({"ok": false, "error": error}),
    };
    let mut text = object.to_string().into_bytes();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::io::{BufRead, Read};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream as Client;
    use std::path::Path;

    fn with_server(test: impl FnOnce(&Path) + Send + 'static) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("control.sock");
            let listener = UnixListener::bind(&path).unwrap();
            for (path, mode) in [(dir.path(), 0o711), (&path, 0o666)] {
                std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            }
            let shares = Shares::new([CLIENTS_MAX; Resource::ALL.len()], nix::unistd::geteuid().as_raw());
            let answers: Answers = Arc::new(|command| {
                Box::pin(async move {
                    match command {
                        ControlCommand::Ping => Ok(json!({"pid": 7})),
                        // Larger than any socket's queue.
                        ControlCommand::Stats => Ok(json!("x".repeat(4 << 20))),
                        _ => Err("no".to_owned()),
                    }
                })
            });
            tokio::spawn(serve(listener, shares, answers));
            let client = std::thread::spawn(move || test(&path));
            while !client.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            client.join().unwrap();
        });
    }

    fn ask(client: &mut Client, request: &str) -> Value {
        client.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        std::io::BufReader::new(client).read_line(&mut reply).unwrap();
        serde_json::from_str(&reply).unwrap()
    }

    #[test]
    fn a_client_asks_several_times_on_one_connection() {
        with_server(|path| {
            let mut client = Client::connect(path).unwrap();
            assert_eq!(ask(&mut client, "{\"command\":\"ping\"}\n"), json!({"ok": true, "data": {"pid": 7}}));
            assert_eq!(ask(&mut client, "{\"command\":\"sync\"}\n"), json!({"ok": false, "error": "no"}));
            let wrong = ask(&mut client, "{\"command\":\"dance\"}\n");
            assert!(wrong["error"].as_str().unwrap().contains("dance"), "{wrong}");
            assert_eq!(ask(&mut client, "{\"command\":\"ping\"}\n")["ok"], true);
        });
    }

    #[test]
    fn a_request_that_never_ends_is_refused_at_its_bound() {
        with_server(|path| {
            let mut client = Client::connect(path).unwrap();
            client.write_all(&vec![b'x'; LINE_BYTES_MAX + 1]).unwrap();
            let mut reply = String::new();
            client.read_to_string(&mut reply).unwrap();
            assert!(reply.contains("at most 65536 bytes"), "{reply}");
        });
    }

    #[test]
    fn clients_that_say_nothing_or_read_nothing_do_not_block_others() {
        with_server(|path| {
            let silent: Vec<Client> = (0..CLIENTS_MAX - 2).map(|_| Client::connect(path).unwrap()).collect();
            let mut deaf = Client::connect(path).unwrap();
            deaf.write_all(b"{\"command\":\"stats\"}\n").unwrap();
            let mut client = Client::connect(path).unwrap();
            assert_eq!(ask(&mut client, "{\"command\":\"ping\"}\n")["ok"], true);
            let mut one_too_many = Client::connect(path).unwrap();
            let mut reply = String::new();
            one_too_many.read_to_string(&mut reply).unwrap();
            assert!(reply.contains("busy: the daemon has no connections of dbufctl left"), "{reply}");
            drop((silent, deaf));
        });
    }

    /// Connects as another user, `count` times. Only root can.
    fn connect_as(uid: u32, count: usize, path: &Path) -> Vec<Client> {
        let path = path.to_owned();
        let connect = move || {
            // Of this thread alone, which ends.
            rustix::thread::set_thread_res_uid(None, Some(rustix::process::Uid::from_raw(uid)), None).unwrap();
            (0..count).map(|_| Client::connect(&path).unwrap()).collect()
        };
        std::thread::spawn(connect).join().unwrap()
    }

    #[test]
    fn a_thousand_idle_clients_of_one_user_keep_neither_root_nor_another_user_out() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: only root can connect as another user");
        }
        with_server(|path| {
            let idle = connect_as(65534, 1000, path);
            for uid in [65533, 0] {
                let reply = ask(&mut connect_as(uid, 1, path)[0], "{\"command\":\"ping\"}\n");
                assert_eq!(reply["ok"], true, "user {uid}");
            }
            // They came before, so their fate is decided: one that has a place hears nothing, because it asks nothing.
            let has_place = |mut client: &Client| {
                client.set_nonblocking(true).unwrap();
                client.read(&mut [0; 8]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            };
            assert_eq!(idle.iter().filter(|client| has_place(client)).count() as u64, CLIENTS_MAX / 4);
        });
    }

    #[test]
    fn a_last_request_needs_no_line_end() {
        with_server(|path| {
            let mut client = Client::connect(path).unwrap();
            client.write_all(b"{\"command\":\"ping\"}").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut reply = String::new();
            client.read_to_string(&mut reply).unwrap();
            assert!(reply.contains("\"ok\":true"), "{reply}");
        });
    }

    #[test]
    fn every_error_of_a_request_is_one_line() {
        for bad in ["", "{", "\"\n\u{1b}\"", "{\"command\":\"a\\nb\"}", "[]", "{\"command\":null}"] {
            let error = parse_request(bad.as_bytes()).unwrap_err();
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
