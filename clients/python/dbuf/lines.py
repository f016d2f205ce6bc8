"""Text lines: the simplest way to send, which answers nothing.

Enters: texts. Leaves: ``<N>text`` and a newline, on the daemon's ``stream.sock``. The caller's thread does all the
work, and waits while the daemon has no room. What can fail: the connection.
"""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType

from . import process
from .client import Bytes, to_bytes
from .errors import Closed, Invalid, NotConnected
from .paths import default_path


class LineClient:
    """Sends each line of a text as an event.

    A newline ends an event, so a text with newlines inside is several events of one priority, and an empty line is
    none. Everything else is kept; but a text that begins as syslog does, with a time or a version, is read as syslog.
    Where that is not good enough, :class:`dbuf.Client` sends any bytes as one event.

    If the connection is lost, it is made anew once and the text is sent again; what an ended daemon had of it may then
    be there twice, and its half.

    Threads may share it; a forked child gets a connection of its own.

    :param path: the daemon's ``stream.sock``; unless given, where dbufctl would look.
    :param timeout: the longest that a call may wait for the daemon, in seconds; None for as long as it takes.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, timeout: float | None = 10.0) -> None:
        self._path = path
        self._timeout = timeout
        self._closed = False
        self._begin()
        process.tell_of_fork(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def send(self, text: Bytes, *, priority: int = 6) -> None:
        """Sends each line of the text as an event of this priority, 0 to 7.

        :raises NotConnected: nobody takes it.
        """
        if not 0 <= priority <= 7:
            raise Invalid(f"the priority is {priority}, and may be 0 to 7")
        prefix = b"<%d>" % priority
        # Split at newlines alone: every other byte is the sender's.
        lines = b"".join(prefix + line + b"\n" for line in to_bytes(text).split(b"\n") if line)
        if not lines:
            return
        with self._lock:
            if self._closed:
                raise Closed("the client is closed")
            if self._socket is not None and self._send(lines) is None:
                return
            self._connect()
            error = self._send(lines)
            if error is not None:
                raise NotConnected(f"the connection to dbufd failed: {error.strerror or error}") from error

    def _connect(self) -> None:
        path = default_path() if self._path is None else os.fspath(self._path)
        self._socket = link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(self._timeout)
            link.connect(path)
        except OSError as error:
            self._let_go()
            raise NotConnected(f"cannot connect to {path}: {error.strerror or error}; is dbufd running?") from error

    def _send(self, lines: bytes) -> OSError | None:
        assert self._socket is not None, "connected"
        try:
            self._socket.sendall(lines)
        except OSError as error:
            # Half a line may have gone: nothing may follow it on this connection.
            self._let_go()
            return error
        return None

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Ends the connection. What was sent is the daemon's to read."""
        with self._lock:
            self._closed = True
            self._let_go()

    def __enter__(self) -> LineClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _in_child(self) -> None:
        self._let_go()
        self._begin()
