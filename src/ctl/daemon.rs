//! Asks the daemon over its control socket: one line of JSON out, one line back.
//!
//! Input: a command's name. Output: the `data` of the reply. Failures: nothing listens, no answer in time (both
//! [`Failure::NoDaemon`]), or the daemon refuses.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde_json::{Value, json};

use super::access::{Use, denied};
use super::failure::{Failure, no_answer};
use crate::config::paths::CONTROL_SOCKET;
use crate::sync::thread;

/// The timeout of a request that the daemon answers from memory.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of a request that waits for the disk. Longer than the daemon's own, so that its error arrives.
pub(crate) const DISK_TIMEOUT: Duration = Duration::from_secs(130);
/// The timeout of a request whose answer is optional.
pub(crate) const COURTESY_TIMEOUT: Duration = Duration::from_millis(500);
/// The longest reply that is accepted, in bytes.
const REPLY_BYTES_MAX: usize = 16 << 20;

/// Asks the daemon whose sockets are in `runtime` to do `command`, and returns its answer.
///
/// # Errors
/// [`Failure::NoDaemon`] if no answer comes; an error with the daemon's own words if it refuses.
pub(crate) fn ask(runtime: &Path, command: &str, timeout: Duration) -> anyhow::Result<Value> {
    let path = runtime.join(CONTROL_SOCKET);
    let deadline = Instant::now() + timeout;
    let line = match exchange(&path, command, deadline) {
        Ok(line) => line,
        Err(Errno::EACCES | Errno::EPERM) => {
            let tried = if ["reload", "rotate"].contains(&command) { Use::Order } else { Use::Connect };
            anyhow::bail!("{}: {}", path.display(), denied(&path, tried))
        }
        Err(errno) => return Err(Failure::NoDaemon(no_answer(&path, errno)).into()),
    };
    let reply: Value = serde_json::from_slice(&line)
        .map_err(|error| anyhow::anyhow!("{}: the reply is not JSON: {error}; is it a dbufd?", path.display()))?;
    match (reply.get("ok"), reply.get("data")) {
        (Some(Value::Bool(true)), data) => Ok(data.cloned().unwrap_or(Value::Null)),
        _ => {
            let said = reply.get("error").and_then(Value::as_str).unwrap_or("no reason given");
            anyhow::bail!("{command}: the daemon refused: {said}")
        }
    }
}

fn exchange(path: &Path, command: &str, deadline: Instant) -> Result<Vec<u8>, Errno> {
    let mut stream = connect_before(path, deadline)?;
    let mut request = json!({ "command": command }).to_string();
    request.push('\n');
    stream.set_write_timeout(Some(left(deadline)?)).map_err(errno_of)?;
    // A daemon with too many clients answers without reading and closes. Its answer can still be read.
    let written = stream.write_all(request.as_bytes()).map_err(errno_of);
    read_line(&mut stream, deadline).map_err(|error| written.err().unwrap_or(error))
}

/// Connects within the deadline. A stuck daemon leaves its queue of connections full, and a blocking connect would wait
/// for ever.
fn connect_before(path: &Path, deadline: Instant) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => thread::sleep(left(deadline)?.min(Duration::from_millis(20))),
            Err(errno) => return Err(errno),
        }
    }
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(UnixStream::from(fd))
}

fn read_line(stream: &mut UnixStream, deadline: Instant) -> Result<Vec<u8>, Errno> {
    let mut line = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        stream.set_read_timeout(Some(left(deadline)?)).map_err(errno_of)?;
        let count = match stream.read(&mut part) {
            Ok(0) => return Err(Errno::EPIPE),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(errno_of(error)),
        };
        match memchr::memchr(b'\n', &part[..count]) {
            Some(end) => {
                line.extend_from_slice(&part[..end]);
                return Ok(line);
            }
            None => line.extend_from_slice(&part[..count]),
        }
        if line.len() > REPLY_BYTES_MAX {
            return Err(Errno::EMSGSIZE);
        }
    }
}

fn left(deadline: Instant) -> Result<Duration, Errno> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or(Errno::ETIMEDOUT)
}

// By value, for `map_err`.
#[allow(clippy::needless_pass_by_value)]
fn errno_of(error: std::io::Error) -> Errno {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN) | None => Errno::ETIMEDOUT,
        Some(errno) => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;

    fn served(reply: &'static [u8], timeout: Duration) -> anyhow::Result<Value> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(CONTROL_SOCKET)).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            std::io::BufReader::new(&stream).read_line(&mut line).unwrap();
            // It fails if the other side has given up already.
            let _ = stream.write_all(reply);
            // Kept open until the other side gives up, if the reply is not a whole line.
            if !reply.ends_with(b"\n") && !reply.is_empty() {
                let _ = stream.read(&mut [0]);
            }
            line
        });
        let answer = ask(dir.path(), "ping", timeout);
        assert_eq!(server.join().unwrap(), "{\"command\":\"ping\"}\n");
        answer
    }

    fn is_no_daemon(error: &anyhow::Error) -> bool {
        matches!(error.downcast_ref(), Some(Failure::NoDaemon(_)))
    }

    #[test]
    fn the_data_of_the_reply_is_returned() {
        let data = served(b"{\"ok\":true,\"data\":{\"pid\":7}}\n", ANSWER_TIMEOUT).unwrap();
        assert_eq!(data, json!({ "pid": 7 }));
        assert_eq!(served(b"{\"ok\":true}\n", ANSWER_TIMEOUT).unwrap(), Value::Null);
    }

    #[test]
    fn the_daemons_own_error_is_passed_on() {
        let error = served(b"{\"ok\":false,\"error\":\"disk on fire\"}\n", ANSWER_TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), "ping: the daemon refused: disk on fire");
        assert!(!is_no_daemon(&error));
        assert!(served(b"hello\n", ANSWER_TIMEOUT).unwrap_err().to_string().contains("not JSON"));
    }

    #[test]
    fn no_daemon_and_a_silent_daemon_differ_from_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_no_daemon(&ask(dir.path(), "ping", ANSWER_TIMEOUT).unwrap_err()));
        let path = dir.path().join(CONTROL_SOCKET);
        drop(UnixListener::bind(path).unwrap());
        assert!(is_no_daemon(&ask(dir.path(), "ping", ANSWER_TIMEOUT).unwrap_err()));
        assert!(is_no_daemon(&served(b"", ANSWER_TIMEOUT).unwrap_err()));
        let error = served(b"half a line", Duration::from_millis(50)).unwrap_err();
        assert!(is_no_daemon(&error) && error.to_string().contains("does not answer"), "{error}");
    }
}
