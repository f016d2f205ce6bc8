"""Holds the connection of a client: one thread that connects, writes, reads, and connects again.

Enters: what :class:`dbuf.unacknowledged.Unacknowledged` wants to be said. Leaves: what the daemon answers, into the
same. What can fail: the connection, which is then made anew, sooner or later, and the reason is kept; a thread that
cannot be started, as at the end of the interpreter: then the callers do its work; a descriptor that the program has
closed or replaced (:mod:`dbuf.descriptors`): then there is a new one, and nothing is sent twice.

The thread sleeps when there is nothing to do: it wakes neither the processor nor the daemon. It does not refer to the
client, so that a client which is dropped without a close is collected; the thread delivers the rest and ends.
"""

from __future__ import annotations

import errno
import select
import signal
import socket
import threading
import time
from typing import Callable

from . import process, wire
from .descriptors import Bell, NotOurs, OwnedSocket
from .errors import SessionTaken
from .notices import notify
from .paths import why_not_connected
from .unacknowledged import Refusal, Unacknowledged

BATCH_BYTES = 64 << 10
"""Frames are gathered up to about this many bytes before they are written."""
LINGER_S = 0.001
"""How long the first event after a silence waits for more, so that the events of a busy program do not each get a
turn of the thread. Without it a record of logging took 1.1 to 1.7 times as long, in three pairs of runs."""
WELCOME_TIMEOUT_S = 10.0
"""The longest that the daemon may take to answer HELLO."""
RETRY_MIN_S = 0.02
"""How long after a failure the next attempt to connect is made; twice as long after the next failure."""
RETRY_MAX_S = 1.0
"""The longest that this becomes."""
NO_BELL_S = 0.1
"""How often a thread looks for work that cannot be woken, because the process has no descriptor left."""

# What the bell says: an event has come, or a caller waits for an answer.
_EVENT = b"e"
_CALLER = b"c"

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
"""Signals that a thread causes itself; faulthandler reports them."""


class Link:
    """The thread of one client in one process, and its connection.

    :param find: says where the daemon listens, at each attempt to connect.
    :param quiet: whether nothing is written to standard error.
    :param drop_timeout: how long the thread tries to deliver the rest of a client that was dropped, in seconds.
    """

    def __init__(
        self,
        unacked: Unacknowledged,
        find: Callable[[], str],
        name: bytes,
        on_refused: Callable[[Refusal], None] | None,
        quiet: bool,
        drop_timeout: float,
    ) -> None:
        self.unacked = unacked
        self.quiet = quiet
        self.drop_timeout = drop_timeout
        self.has_owner_at_exit = False
        """Whether another sees to it that this ends with the process, as logging does for a handler."""
        self._find = find
        self._hello = wire.MAGIC + wire.encode(
            wire.Hello(name, unacked.level, unacked.session, compatible=wire.FEATURE_FIELDS)
        )
        self._on_refused = on_refused
        self._socket: OwnedSocket | None = None
        self._outgoing = memoryview(b"")
        self._incoming = bytearray()
        self._since = 0.0
        """When the connection was begun."""
        self._retry_at = 0.0
        self._retry_s = RETRY_MIN_S
        self._bell: Bell | None = None
        self._asleep = False
        """Whether a ring is heard."""
        self._idle = False
        """Whether an event is a reason to ring: not while others wait for the socket, or for a connection."""
        self._drop_at: float | None = None
        """When the rest of a dropped client is given up."""
        self._is_stale = False
        """Whether another link has taken over the events."""
        self._is_warned = False
        self._is_working = False
        """Whether a caller does the thread's work."""
        self._has_worked = False
        """Whether the last turn did more than wait."""
        self._tickets: list[None] = [None]
        """The caller that starts the thread takes it away."""
        self.thread: threading.Thread | None = None

    # The callers' side; they hold `unacked.changed`, unless stated otherwise.

    def start(self) -> None:
        """Starts the thread. Without one, as at the end of the interpreter, the callers do its work."""
        try:
            # In one step: a signal handler that sends may come in between.
            self._tickets.pop()
        except IndexError:
            return
        process.keep(self)
        self.thread = threading.Thread(target=self._run, name="dbuf", daemon=True)
        try:
            # The program's signals are for its own threads, also for one that waits for them by sigwait.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
            try:
                self.thread.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except RuntimeError:
            self.thread = None
            self._tickets.append(None)

    def is_alive(self) -> bool:
        """Whether a thread that has nothing to do can be woken. One that waits for an answer, or for the next attempt
        to connect, wakes on its own."""
        return not self._idle or self._bell is None or self._bell.is_ours()

    def wake(self, why: bytes = _CALLER) -> None:
        """Makes the thread look for work."""
        # A bell that cannot be rung is found by the next call, see `is_alive`.
        if self._asleep and (self._bell is None or self._bell.ring(why)):
            self._asleep = self._idle = False

    def wake_for_event(self) -> None:
        """As :meth:`wake`, if the thread has nothing to do until an event comes."""
        if self.thread is None:
            self._work(lambda: False, 0.0)
        elif self._idle:
            self.wake(_EVENT)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until this holds, and returns whether it does. Without a thread, does its work until then."""
        if self.thread is None:
            return self._work(predicate, timeout)
        return self.unacked.changed.wait_for(predicate, timeout)

    def is_current(self) -> bool:
        """Whether it is the link's own thread that asks."""
        return threading.current_thread() is self.thread

    def drop(self) -> None:
        """The client is gone without a close. The thread delivers the rest and ends. Takes no lock: the collector runs
        this at any place of any thread."""
        self.has_owner_at_exit = False
        self._drop_at = time.monotonic() + self.drop_timeout
        if self._bell is not None:
            self._bell.ring(_CALLER)

    def finish(self, timeout: float) -> bool:
        """Waits until all is settled, ends the connection and the thread. Returns whether all was settled. The caller
        does not hold the lock."""
        unacked = self.unacked
        with unacked.changed:
            unacked.closing = True
            unacked.changed.notify_all()
            self.wait_for(lambda: (unacked.is_empty() and not unacked.awaits_report()) or unacked.is_over(), timeout)
            is_settled = unacked.is_empty()
            unacked.stopping = True
            unacked.changed.notify_all()
            self.wake()
            thread = self.thread
            if thread is None:
                self._end()
        if thread is not None:
            # It waits for nothing but its lock and the callback.
            thread.join(self.drop_timeout)
        with unacked.changed:
            self._give_up(timeout)
        return is_settled

    def settle(self) -> None:
        """Waits until all is settled, and ends only what is not. The caller does not hold the lock."""
        unacked = self.unacked
        with unacked.changed:
            is_settled = self.wait_for(lambda: unacked.is_empty() or unacked.is_over(), self.drop_timeout)
        if not is_settled:
            self.finish(0)

    def let_go(self) -> None:
        """Closes the connection here. After a fork the parent's goes on without the child."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    def leave(self) -> None:
        """Ends this link so that another can take over the events. Its thread may sleep where no ring is heard."""
        self._is_stale = True
        process.forget(self)
        if self._socket is not None:
            # The thread's poll would hold a connection that is only closed.
            self._socket.shut_down()
        self.let_go()
        self.unacked.disconnected("the program closed or replaced a descriptor of the client")

    def _work(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Does what the thread would do. Holds the lock all the time: there is no other thread to serve."""
        if self._is_working:
            return predicate()  # A callback or a signal handler, in the middle of it.
        self._is_working = True
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            while not predicate():
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                if not self._turn(left) or (left == 0.0 and not self._has_worked):
                    break
        finally:
            self._is_working = False
        return predicate()

    def _give_up(self, timeout: float) -> None:
        """Counts what is left as lost, and says so once."""
        unacked = self.unacked
        reason = unacked.last_error
        left, missing = unacked.abandon(), unacked.missing
        unacked.missing = 0
        if left + missing == 0 or self.quiet:
            return
        if reason is None:
            reason = f"no acknowledgement within {timeout:g} s" if left else "the buffer was full"
        events = "1 event" if left + missing == 1 else f"{left + missing} events"
        notify(f"{events} not delivered: {reason}")

    # The thread's side.

    def _run(self) -> None:
        unacked = self.unacked
        try:
            while self._turn(None):
                pass
        except Exception as error:  # A bug here must not look like a daemon that does not answer.
            with unacked.changed:
                unacked.fail(error)
            raise
        finally:
            with unacked.changed:
                if not self._is_stale:
                    self._end()
                    if self._drop_at is not None:
                        unacked.stopping = True
                        self._give_up(self.drop_timeout)

    def _end(self) -> None:
        """Says goodbye and closes. From here on no ring is heard."""
        self._asleep = self._idle = False
        # Not into the middle of a frame.
        if self._socket is not None and self.unacked.welcome is not None and not self._outgoing:
            try:
                self._socket.send(wire.encode(wire.Bye()))
            except OSError:
                pass
        self.unacked.welcome = None
        self.let_go()
        process.forget(self)

    def _turn(self, wait_max_s: float | None) -> bool:
        """Does what there is to do, and waits for more at most this long. False at the end of this link."""
        unacked = self.unacked
        self._has_worked = False
        with unacked.changed:
            self._asleep = self._idle = False
            now = time.monotonic()
            if self._is_stale or unacked.is_over() or self._is_dropped(now):
                return False
            wait_s = wait_max_s
            connects = False
            if self._socket is None:
                if unacked.needs_connection():
                    retry_s = 0.0 if unacked.hurry else max(self._retry_at - now, 0.0)
                    wait_s, connects = _earlier(wait_s, retry_s), retry_s == 0.0
            elif unacked.welcome is None:
                wait_s = _earlier(wait_s, max(self._since + WELCOME_TIMEOUT_S - now, 0.0))
            elif not self._outgoing:
                self._outgoing = memoryview(unacked.gather(BATCH_BYTES))
            unacked.hurry = False
            if not connects:
                wait_s = self._sleep(wait_s)
                if self._drop_at is not None:
                    wait_s = _earlier(wait_s, max(self._drop_at - now, 0.0))
        if connects:
            self._connect()
        else:
            self._wait(wait_s)
        return True

    def _is_dropped(self, now: float) -> bool:
        return self._drop_at is not None and (self.unacked.is_empty() or now >= self._drop_at)

    def _sleep(self, wait_s: float | None) -> float | None:
        """Prepares the thread for a wait, and returns the longest that it may wait."""
        if self.thread is None:
            return wait_s
        if self._bell is not None and not self._bell.is_ours():
            self._bell.close()
            self._bell = None
        if self._bell is None:
            try:
                with process.no_fork():
                    self._bell = Bell()
            except OSError:
                return _earlier(wait_s, NO_BELL_S)
        self._asleep = True
        self._idle = wait_s is None and not self._outgoing
        return wait_s

    def _connect(self) -> None:
        self._has_worked = True
        self._since = time.monotonic()
        path = self._find()
        try:
            with process.no_fork():
                self._socket = made = OwnedSocket(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # A queue of connections that is full is an error here, and tried again.
            made.connect(path, 0.0)
        except NotOurs as error:
            # The daemon has not failed: there is nothing to warn of.
            self._lose(str(error.strerror))
            return
        except OSError as error:
            self._lose(why_not_connected(path, error), is_warning=error.errno != errno.EAGAIN)
            return
        self._outgoing = memoryview(self._hello)

    def _wait(self, wait_s: float | None) -> None:
        poll = select.poll()
        bell, link = self._bell, self._socket
        ear = number = -1
        try:
            if bell is not None:
                ear = bell.ear.fileno()
                poll.register(ear, select.POLLIN)
            if link is not None:
                number = link.fileno()
                poll.register(number, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        except OSError as error:
            # A bell that is not ours is found and made anew by the next turn.
            if link is not None and not link.is_ours():
                self._lose(f"the connection to dbufd failed: {error.strerror}")
            return
        # Rounded up, or the last millisecond would be spent in a spin.
        events = dict(poll.poll(None if wait_s is None else -int(-wait_s * 1000 // 1)))
        self._has_worked = bool(events)
        if bell is not None and ear in events and _EVENT in bell.heard():
            time.sleep(LINGER_S)
        if link is None:
            return
        ready = events.get(number, 0)
        # Read first: a daemon that ends the connection says why, and that is worth more than "broken pipe".
        if ready & ~select.POLLOUT and not self._read(link):
            return
        if ready & select.POLLOUT:
            self._write(link)
        elif self.unacked.welcome is None and time.monotonic() >= self._since + WELCOME_TIMEOUT_S:
            self._lose(f"no answer from dbufd within {WELCOME_TIMEOUT_S:g} s", is_warning=True)

    def _write(self, link: OwnedSocket) -> None:
        try:
            self._outgoing = self._outgoing[link.send(self._outgoing) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if self._read(link):
                self._lose(f"the connection to dbufd failed: {error.strerror or error}")
            return
        if not self._outgoing:
            with self.unacked.changed:
                if self.unacked.welcome is not None and not self._is_stale:
                    self.unacked.handed_over()

    def _read(self, link: OwnedSocket) -> bool:
        """Takes in what has come. False if that was the end of the connection."""
        while True:
            try:
                data = link.receive(64 << 10)
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
        with self.unacked.changed:
            if self._is_stale:
                return False
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
            self._call_back(refusal)
        if ended is not None:
            self._lose(ended)
        return ended is None

    def _take(self, frame: wire.Frame, refusals: list[Refusal]) -> str | None:
        """Does what a frame says. If that is the connection's end, returns why."""
        unacked = self.unacked
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

    def _call_back(self, refusal: Refusal) -> None:
        if self._on_refused is None:
            return
        try:
            self._on_refused(refusal)
        except Exception as error:
            # As if the callback were a thread of its own: its error is seen, and the connection lives on.
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self.thread)))

    def _lose(self, why: str, is_warning: bool = False) -> None:
        """The connection is of no use any more, or could not be made."""
        now = time.monotonic()
        unacked = self.unacked
        with unacked.changed:
            if self._is_stale:
                return
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            self._outgoing = memoryview(b"")
            self._incoming.clear()
            if now - self._since > RETRY_MAX_S:
                self._retry_s = RETRY_MIN_S
            self._retry_at = now + self._retry_s
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
            unacked.disconnected(why)
            warns = is_warning and unacked.connections == 0 and not unacked.is_empty() and not self._is_warned
            if warns and not self.quiet:
                self._is_warned = True
                notify(f"{why}; events wait in memory")


def _earlier(wait_s: float | None, other_s: float) -> float:
    return other_s if wait_s is None else min(wait_s, other_s)
