"""Daemons for tests: one that a test plays itself, step by step, and the real one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

from dbuf import wire

TIMEOUT_S = float(os.environ.get("DBUF_TEST_TIMEOUT", "60"))
"""Longer than anything here takes on the slowest machine; a test that meets it has failed."""
PYTHON_DIR = Path(__file__).resolve().parent.parent
ROOT = PYTHON_DIR.parent.parent


class Folder(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="dbufd-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = os.path.join(self.folder, "stream.sock")


class Connection:
    """The daemon's end of a connection."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(TIMEOUT_S)
        self.stream = stream
        self._bytes = b""
        assert self.read(len(wire.MAGIC)) == wire.MAGIC, "framed"
        hello = self.frame()
        assert isinstance(hello, wire.Hello), hello
        self.hello = hello

    def read(self, count: int) -> bytes:
        while len(self._bytes) < count:
            more = self.stream.recv(65536)
            if not more:
                raise EOFError("the client went away too early")
            self._bytes += more
        taken, self._bytes = self._bytes[:count], self._bytes[count:]
        return taken

    def frame(self) -> wire.Frame:
        while True:
            decoded = wire.decode(self._bytes)
            if decoded is not None:
                frame, end = decoded
                self._bytes = self._bytes[end:]
                return frame
            more = self.stream.recv(65536)
            if not more:
                raise EOFError("the client went away too early")
            self._bytes += more

    def events(self, count: int) -> list[wire.Event]:
        frames = [self.frame() for _ in range(count)]
        assert all(isinstance(frame, wire.Event) for frame in frames), frames
        return frames  # type: ignore[return-value]

    def payloads(self, count: int) -> list[bytes]:
        return [event.payload for event in self.events(count)]

    def reply(self, *frames: wire.Frame) -> None:
        self.stream.sendall(b"".join(wire.encode(frame) for frame in frames))

    def welcome(self, last: int = 0, max_event: int = 1000, features: int = 0) -> Connection:
        self.reply(wire.Welcome(last, max_event, compatible=features))
        return self

    def persisted(self, sequence: int) -> None:
        self.reply(wire.Ack(wire.Level.PERSISTED, sequence))

    def durable(self, sequence: int) -> None:
        self.reply(wire.Ack(wire.Level.DURABLE, sequence))

    def at_end(self) -> bool:
        """Whether the client has closed, and sent nothing more."""
        return self._bytes == b"" and self.stream.recv(1) == b""

    def close(self) -> None:
        self.stream.close()


class PlayedDaemon:
    """A daemon that does what the test says."""

    def __init__(self, test: unittest.TestCase, path: str) -> None:
        self.path = path
        self._connections: list[socket.socket] = []
        self.listen()
        test.addCleanup(self.stop)

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(8)
        self._listener.settimeout(TIMEOUT_S)

    def accept(self) -> Connection:
        stream, _ = self._listener.accept()
        self._connections.append(stream)
        return Connection(stream)

    def accept_bytes(self) -> socket.socket:
        """A connection on which no frames come."""
        stream, _ = self._listener.accept()
        stream.settimeout(TIMEOUT_S)
        self._connections.append(stream)
        return stream

    def is_asked(self) -> bool:
        """Whether somebody waits to be accepted."""
        self._listener.setblocking(False)
        try:
            self._connections.append(self._listener.accept()[0])
        except BlockingIOError:
            return False
        finally:
            self._listener.settimeout(TIMEOUT_S)
        return True

    def stop(self) -> None:
        self._listener.close()
        for stream in self._connections:
            stream.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


class Call:
    """A call in a thread of its own, for those that wait."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def is_waiting(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "the call does not return"
        if self._error is not None:
            raise self._error
        return self._result


def _program(name: str) -> str | None:
    """The program that the environment names, or the one that was built in this repository."""
    named = os.environ.get(name.upper())
    built = ROOT / "target" / "debug" / name
    return named or (str(built) if built.exists() else None)


DBUFD = _program("dbufd")
DBUFCTL = _program("dbufctl")
HAS_DAEMON = DBUFD is not None and DBUFCTL is not None
needs_daemon = unittest.skipUnless(HAS_DAEMON, "dbufd and dbufctl are not there")
if not HAS_DAEMON:
    print("skipped: tests with the real daemon; `cargo build` it, or set DBUFD and DBUFCTL", file=sys.stderr)


class Home(Folder):
    """A test with a real daemon of its own, which it may end and start again."""

    def setUp(self) -> None:
        super().setUp()
        self.run_dir = os.path.join(self.folder, "run")
        self.segments = os.path.join(self.folder, "segments")
        self.path = os.path.join(self.run_dir, "stream.sock")
        self._daemon: subprocess.Popen[bytes] | None = None
        self.addCleanup(self.kill)

    def start(self, *settings: str) -> None:
        """Starts a daemon and returns when it says that it is ready."""
        notify_path = os.path.join(self.folder, "notify.sock")
        environment = {**os.environ, "NOTIFY_SOCKET": notify_path}
        for name in ("JOURNAL_STREAM", "INVOCATION_ID", "RUNTIME_DIRECTORY", "LOGS_DIRECTORY"):
            environment.pop(name, None)
        command = [str(DBUFD), "--directory", self.segments, "--runtime", self.run_dir, "--config", "/dev/null"]
        for setting in settings:
            command += ["--set", setting]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(notify_path)
            notify.settimeout(TIMEOUT_S)
            with open(os.path.join(self.folder, "stderr"), "ab") as errors:
                nothing = subprocess.DEVNULL
                self._daemon = subprocess.Popen(command, env=environment, stdin=nothing, stdout=nothing, stderr=errors)
            while b"READY=1" not in notify.recv(4096).split(b"\n"):
                pass
        os.unlink(notify_path)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(number)
            self._daemon.wait(TIMEOUT_S)
            self._daemon = None

    def stop(self) -> None:
        self.kill(signal.SIGTERM)

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [str(DBUFCTL), "--runtime", self.run_dir, "--directory", self.segments, *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)

    def stored(self, *filters: str) -> list[dict[str, Any]]:
        """Every event, as an object."""
        output = self.ctl("cat", "-o", "json", *filters)
        self.assertIn(output.returncode, (0, 3), output.stderr)
        return [json.loads(line) for line in output.stdout.splitlines()]

    def texts(self) -> list[str]:
        return [event["MESSAGE"] for event in self.stored()]


def frames_of(data: bytes) -> list[wire.Frame]:
    """Every frame in these bytes."""
    frames, at = [], 0
    while at < len(data):
        decoded = wire.decode(data, at)
        assert decoded is not None, "the last frame is whole"
        frame, at = decoded
        frames.append(frame)
    return frames


def numbered(prefix: str, count: int) -> Iterator[str]:
    return (f"{prefix} {number}" for number in range(count))


def run_python(code: str, *arguments: str) -> Sequence[str]:
    """The command that runs this code with this package."""
    # Newer Pythons warn of forks in a process with threads, and such forks are tried here.
    return [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        f"import sys; sys.path.insert(0, {str(PYTHON_DIR)!r})\n{code}",
        *arguments,
    ]
