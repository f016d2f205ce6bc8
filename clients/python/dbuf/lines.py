"""Sends text lines: the simplest way, without an answer.

Enters: texts. Leaves: ``<N>text`` and a newline, on the daemon's ``stream.sock``. The caller's thread does all the
work, and waits while the daemon has no room. What can fail: the connection.
"""

from __future__ import annotations

import socket
import threading
import time

from . import process
from .descriptors import OwnedSocket
from .errors import Closed, NotConnected
from .paths import Path, why_not_connected
from .sender import Sender
from .values import Bytes, check_number, to_bytes


class LineClient(Sender):
    """Sends each line of a text as an event.

    A newline ends an event, so a text with newlines inside is several events of one priority, and an empty line is
    no event. Everything else is kept; but a text that begins as syslog does, with a time or a version, is read as
    syslog. Where that is not good enough, :class:`dbuf.Client` sends any bytes as one event.

    If the connection is lost, it is made anew once and the text is sent again. What the daemon had read of it before
    may then be stored twice, and a line that was cut off by its end stored as it is.

    Threads may share it; a forked child gets a connection of its own.

    :param path: the daemon's ``stream.sock``; unless given, where dbufctl would look.
    :param timeout: the longest that a call waits for the daemon, in seconds; None for as long as it takes. A call that
        has waited so long raises :class:`NotConnected`, and a part of its text may be stored.
    """

    def __init__(self, *, path: Path | None = None, timeout: float | None = 10.0) -> None:
        self._timeout = timeout
        self._closed = False
        self._begin()
        super().__init__(path)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._socket: OwnedSocket | None = None

    def send(self, text: Bytes, *, priority: int = 6) -> None:
        """Sends each line of the text as an event of this priority, 0 to 7, see :class:`dbuf.Priority`.

        :raises NotConnected: no daemon takes it.
        """
        check_number("priority", priority, 7)
        prefix = b"<%d>" % priority
        # Split at newlines alone: every other byte is the sender's.
        lines = b"".join(prefix + line + b"\n" for line in to_bytes(text, "text").split(b"\n") if line)
        if not lines:
            return
        process.check()
        with self._lock:
            if self._closed:
                raise Closed("the client is closed")
            deadline = None if self._timeout is None else time.monotonic() + self._timeout
            if self._socket is not None and self._send(self._socket, lines, deadline) is None:
                return
            error = self._send(self._connected(deadline), lines, deadline)
            if error is not None:
                raise NotConnected(f"the connection to dbufd failed: {error.strerror or error}") from error

    def _connected(self, deadline: float | None) -> OwnedSocket:
        path = self._find()
        try:
            with process.no_fork():
                self._socket = made = OwnedSocket(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            made.connect(path, _left(deadline))
        except OSError as error:
            self._let_go()
            raise NotConnected(why_not_connected(path, error)) from error
        return made

    def _send(self, made: OwnedSocket, lines: bytes, deadline: float | None) -> OSError | None:
        try:
            made.send_all(lines, _left(deadline))
        except OSError as error:
            # Half a line may have gone: nothing may follow it on this connection.
            self._let_go()
            if isinstance(error, socket.timeout):
                # The daemon is there and has no room. On a new connection it would have none, and half a line twice.
                raise NotConnected(f"dbufd had no room for the text within {self._timeout:g} s") from error
            return error
        return None

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Ends the connection. The daemon reads what was sent."""
        process.check()
        with self._lock:
            self._closed = True
            self._let_go()

    def _in_child(self) -> None:
        self._let_go()
        self._begin()


def _left(deadline: float | None) -> float | None:
    """The time that is left, but never 0, which would mean not to wait at all."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)
