"""The connection of a client: one thread that connects, writes, reads, and connects again.

Enters: what a :class:`dbuf.unacknowledged.Unacknowledged` wants to be said. Leaves: what the daemon answers, into the same. What can
fail: the connection, which is then made anew, sooner or later; the unacked keeps the reason.

The thread sleeps when there is nothing to do: it wakes neither the processor nor the daemon.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import Callable

from . import wire
from .errors import SessionTaken
from .unacknowledged import Refusal, Unacknowledged

BATCH_BYTES = 64 << 10
"""Frames are gathered up to about this many bytes before they are written."""
LINGER_S = 0.001
"""How long the first event after a silence waits for more, so that the events of a busy program do not each get a
turn of the thread. A record of logging was cheaper with it in each of three pairs of runs, by a factor of 1.1 to 1.7."""
WELCOME_TIMEOUT_S = 10.0
"""The longest that the daemon may take to answer HELLO."""
RETRY_MIN_S = 0.02
"""How long after a failure the next attempt to connect is made; twice as long after the next failure."""
RETRY_MAX_S = 1.0
"""The longest that this becomes."""

# What the bell says: an event has come, or somebody waits for an answer.
_EVENT = b"e"
_CALLER = b"c"


class Link:
    """The thread of one client in one process, and its connection."""

    def __init__(
        self,
        unacked: Unacknowledged,
        find: Callable[[], str],
        name: bytes,
        on_refused: Callable[[Refusal], None] | None,
    ) -> None:
        self._unacked = unacked
        self._find = find
        self._hello = wire.MAGIC + wire.encode(
            wire.Hello(name, unacked.level, unacked.session, compatible=wire.FEATURE_FIELDS)
        )
        self._on_refused = on_refused
        self._socket: socket.socket | None = None
        self._outgoing = memoryview(b"")
        self._incoming = bytearray()
        self._since = 0.0
        """When the connection was begun."""
        self._retry_at = 0.0
        self._retry_s = RETRY_MIN_S
        self._bell, self._rope = os.pipe()
        self._asleep = False
        """Whether a ring is heard."""
        self._idle = False
        """Whether an event is a reason to ring: not while others wait for the socket, or for a connection."""
        self.thread = threading.Thread(target=self._run, name="dbuf", daemon=True)

    def wake(self, why: bytes = _CALLER) -> None:
        """Tells the thread to look at the unacked; the caller holds its lock."""
        if self._asleep:
            self._asleep = self._idle = False
            os.write(self._rope, why)

    def wake_for_event(self) -> None:
        """As :meth:`wake`, if the thread has nothing to do until an event comes."""
        if self._idle:
            self.wake(_EVENT)

    def is_current(self) -> bool:
        """Whether it is the link's own thread that asks."""
        return threading.current_thread() is self.thread

    def let_go(self) -> None:
        """Closes the connection here. After a fork the parent's goes on without the child."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._bell >= 0:
            os.close(self._bell)
            os.close(self._rope)
            self._bell = self._rope = -1

    def _run(self) -> None:
        try:
            while self._turn():
                pass
            self._say_goodbye()
        except Exception as error:  # A bug here must not look like a daemon that does not answer.
            with self._unacked.changed:
                self._unacked.fail(error)
            raise
        finally:
            with self._unacked.changed:
                # Nobody rings from here on.
                self._asleep = self._idle = False
                self._unacked.welcome = None
                self.let_go()

    def _turn(self) -> bool:
        unacked = self._unacked
        with unacked.changed:
            if unacked.stopping or unacked.failed is not None:
                return False
            now = time.monotonic()
            wait_s: float | None = None
            if self._socket is None:
                if unacked.needs_connection():
                    wait_s = 0.0 if unacked.hurry else max(self._retry_at - now, 0.0)
                connects = wait_s == 0.0
            else:
                connects = False
                if unacked.welcome is None:
                    wait_s = max(self._since + WELCOME_TIMEOUT_S - now, 0.0)
                elif not self._outgoing:
                    self._outgoing = memoryview(unacked.gather(BATCH_BYTES))
            unacked.hurry = False
            self._asleep = not connects
            self._idle = not connects and wait_s is None and not self._outgoing
        if connects:
            self._connect()
        else:
            self._wait(wait_s)
        return True

    def _connect(self) -> None:
        self._since = time.monotonic()
        path = self._find()
        self._socket = link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.setblocking(False)
            # A queue of connections that is full is an error here, and tried again.
            link.connect(path)
        except OSError as error:
            self._lose(f"cannot connect to {path}: {error.strerror or error}; is dbufd running?")
            return
        self._outgoing = memoryview(self._hello)

    def _wait(self, wait_s: float | None) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if self._socket is not None:
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        # Rounded up, or the last millisecond would be spent in a spin.
        events = dict(poll.poll(None if wait_s is None else int(wait_s * 1000) + 1))
        if self._bell in events:
            if _EVENT in os.read(self._bell, 64):
                time.sleep(LINGER_S)
        link = self._socket
        if link is None:
            return
        ready = events.get(link.fileno(), 0)
        # Read first: a daemon that ends the connection says why, and that is worth more than "broken pipe".
        if ready & ~select.POLLOUT and not self._read(link):
            return
        if ready & select.POLLOUT:
            self._write(link)
        elif self._unacked.welcome is None and time.monotonic() >= self._since + WELCOME_TIMEOUT_S:
            self._lose(f"no answer from dbufd within {WELCOME_TIMEOUT_S:g} s")

    def _write(self, link: socket.socket) -> None:
        try:
            self._outgoing = self._outgoing[link.send(self._outgoing) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if self._read(link):
                self._lose(f"the connection to dbufd failed: {error.strerror or error}")
            return
        if not self._outgoing:
            with self._unacked.changed:
                if self._unacked.welcome is not None:
                    self._unacked.handed_over()

    def _read(self, link: socket.socket) -> bool:
        """Takes in what has come. False if that was the end of the connection."""
        while True:
            try:
                data = link.recv(64 << 10)
            except (BlockingIOError, InterruptedError):
                return True
            except ConnectionResetError:
                data = b""
            except OSError as error:
                self._lose(f"the connection to dbufd failed: {error.strerror or error}")
                return False
            if not data:
                self._lose("dbufd closed the connection")
                return False
            self._incoming += data
            if not self._take_frames():
                return False

    def _take_frames(self) -> bool:
        refusals: list[Refusal] = []
        at = 0
        ended: str | None = None
        with self._unacked.changed:
            try:
                while ended is None:
                    decoded = wire.decode(self._incoming, at)
                    if decoded is None:
                        break
                    frame, at = decoded
                    ended = self._take(frame, refusals)
            except wire.WireError as error:
                ended = f"dbufd sent something that this client does not understand: {error}"
        del self._incoming[:at]
        for refusal in refusals:
            self._tell(refusal)
        if ended is not None:
            self._lose(ended)
        return ended is None

    def _take(self, frame: wire.Frame, refusals: list[Refusal]) -> str | None:
        """What a frame means. If that is the connection's end, why."""
        unacked = self._unacked
        if isinstance(frame, wire.Fault) and wire.is_final(frame.code):
            text = frame.text.decode("utf-8", "replace")
            return f"dbufd ended the connection: {text} ({wire.code_name(frame.code)})"
        if isinstance(frame, wire.Ignored):
            return None
        if isinstance(frame, wire.Welcome) and unacked.welcome is None:
            if not wire.VERSION_MIN <= frame.version <= wire.VERSION:
                raise wire.WireError(f"version {frame.version} of the protocol")
            try:
                unacked.welcomed(frame)
            except SessionTaken as error:
                unacked.fail(error)
                return str(error)
        elif isinstance(frame, wire.Ack) and unacked.welcome is not None:
            self._retry_s = RETRY_MIN_S
            unacked.acknowledged(frame.level, frame.sequence)
        elif isinstance(frame, wire.Fault) and unacked.welcome is not None:
            refusals.append(unacked.refused(frame))
        else:
            raise wire.WireError(f"a {type(frame).__name__} that has no place here")
        return None

    def _tell(self, refusal: Refusal) -> None:
        if self._on_refused is None:
            return
        try:
            self._on_refused(refusal)
        except Exception as error:
            # As if the callback were a thread of its own: its error is seen, and the connection lives on.
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self.thread)))

    def _lose(self, why: str) -> None:
        """The connection is of no use any more, or could not be made."""
        now = time.monotonic()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._outgoing = memoryview(b"")
        self._incoming.clear()
        if now - self._since > RETRY_MAX_S:
            self._retry_s = RETRY_MIN_S
        self._retry_at = now + self._retry_s
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
        with self._unacked.changed:
            self._unacked.disconnected(why)

    def _say_goodbye(self) -> None:
        # Not into the middle of a frame.
        if self._socket is not None and self._unacked.welcome is not None and not self._outgoing:
            try:
                self._socket.send(wire.encode(wire.Bye()))
            except OSError:
                pass
