"""A client of the framed protocol that keeps what is not acknowledged and outlives the daemon's restarts.

Enters: events of an application's threads. Leaves: frames on the daemon's ``stream.sock``. A call takes a lock, puts
the event down and returns; one thread of the client's own does the rest, and sleeps when there is nothing to do.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Callable, Union

from . import process, wire
from .errors import Closed, Full, Invalid, NotConnected, NotStored, SessionTaken, TimedOut, TooBig
from .link import WELCOME_TIMEOUT_S, Link
from .paths import default_path
from .unacknowledged import EVENT_COST, Refusal, Statistics, Unacknowledged, cost
from .wire import Level

BUFFER_BYTES = 8 << 20
"""How much a client keeps unless it is told otherwise."""

Bytes = Union[str, bytes, bytearray, memoryview]


def to_bytes(text: Bytes) -> bytes:
    """UTF-8 of a text. What Python made of bytes that are no UTF-8, as in names of files, becomes these bytes again."""
    if not isinstance(text, str):
        return bytes(text)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


class Client:
    """Sends events to dbufd, and keeps each until it is acknowledged, so that it lands once.

    The connection is made when the first event is sent, and made again when it is lost; then the daemon says what it
    has, and the rest is sent again. A daemon that no longer knows the session (see ``docs/PROTOCOL.md``, 3.8) may
    store again what it had not acknowledged yet.

    Threads may share a client. A forked child may use it, too: it begins there as a new client, with a session of its
    own and without the events that its parent keeps.

    :param name: the tag of events that have none; at most 64 bytes.
    :param path: the daemon's ``stream.sock``; unless given, where dbufctl would look, each time a process begins.
    :param ack: when an event is settled: ``"persisted"`` in a file, ``"durable"`` on the disk, or ``"none"``, when it
        is written to the socket: then nothing is kept, and what a dying daemon had not read is lost.
    :param session: ties the client to events that another sent before it, see :meth:`connect`; random unless given. A
        session may be open in one client at a time.
    :param buffer_bytes: the memory that events may take until they are settled, about.
    :param when_full: what :meth:`send` does when that is used up: ``"block"`` waits ``block_timeout`` seconds for room
        and then raises :class:`Full`, ``"raise"`` does so at once, ``"drop"`` counts the event as lost and returns 0.
    :param when_down: what :meth:`send` does without a connection: ``"buffer"`` keeps the event until there is one;
        ``"fail"`` tries to connect and raises :class:`NotConnected` if nobody answers.
    :param on_refused: is called with a :class:`Refusal` for events that the daemon did not store; by the client's
        thread, and not to wait for anything.
    :param close_timeout: how long the client waits at the end for what is not settled, in seconds.
    """

    def __init__(
        self,
        name: Bytes = "",
        *,
        path: str | os.PathLike[str] | None = None,
        ack: str | Level = Level.PERSISTED,
        session: int | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        when_full: str = "block",
        when_down: str = "buffer",
        block_timeout: float = 10.0,
        on_refused: Callable[[Refusal], None] | None = None,
        close_timeout: float = 5.0,
    ) -> None:
        self._name = to_tag(name)
        self._path = path
        self._level = Level.of(ack)
        if buffer_bytes <= EVENT_COST:
            raise ValueError(f"buffer_bytes is {buffer_bytes}, and an event takes more than {EVENT_COST}")
        if when_full not in ("block", "raise", "drop"):
            raise ValueError(f"when_full is {when_full!r}, and may be block, raise or drop")
        if when_down not in ("buffer", "fail"):
            raise ValueError(f"when_down is {when_down!r}, and may be buffer or fail")
        if session is not None and not 0 < session < 1 << 128:
            raise ValueError("session is a number of 128 bits, and not 0")
        self._buffer_bytes = buffer_bytes
        self._when_full = when_full
        self._when_down = when_down
        self._block_timeout = block_timeout
        self._on_refused = on_refused
        self._close_timeout = close_timeout
        self._begin(session)
        process.tell_of_fork(self)
        process.tell_of_exit(self)

    def _begin(self, session: int | None) -> None:
        self._unacked = Unacknowledged(self._level, self._buffer_bytes, session or secrets.randbits(128) or 1)
        self._link: Link | None = None

    def send(
        self,
        payload: Bytes,
        *,
        priority: int = 6,
        tag: Bytes = "",
        time_ns: int | None = None,
        fields: Mapping[str, Bytes] | None = None,
    ) -> int:
        """Takes one event and returns its number: 1, 2, and so on.

        :param payload: at least one byte; a text is sent as UTF-8.
        :param priority: 0 to 7 as in syslog, plus 8 times a facility if there is one.
        :param tag: at most 64 bytes; unless given, the client's name.
        :param time_ns: the event's own time, in nanoseconds since 1970; now unless given, 0 for none.
        :param fields: names and values beside the payload, as ``dbufctl cat -o json`` prints them and ``dbufctl cat
            NAME=VALUE`` finds them. Names are best of capital letters, digits and underscores.
        :raises Invalid: the event breaks one of these rules, or is :class:`TooBig`.
        :raises Full: see ``when_full``. :raises NotConnected: see ``when_down``. :raises Closed:
        """
        payload = to_bytes(payload)
        label = to_tag(tag) if tag else b""
        if time_ns is None:
            time_ns = time.time_ns()
        if not payload:
            raise Invalid("the payload is empty")
        if not 0 <= priority <= wire.PRI_MAX:
            raise Invalid(f"the priority is {priority}, and may be 0 to {wire.PRI_MAX}")
        if not 0 <= time_ns < 1 << 64:
            raise Invalid(f"the time {time_ns} is not within 64 bits")
        return self._put(payload, priority, label, time_ns, packed(fields) if fields else b"")

    def _put(
        self, payload: bytes, priority: int, label: bytes, time_ns: int, fields: bytes, is_counted: bool = True
    ) -> int:
        """As :meth:`send`, of what is right. ``is_counted`` says whether it is a loss if there is no room."""
        unacked = self._unacked
        with unacked.changed:
            link = self._started(unacked)
            if self._when_down == "fail":
                self._require_connection(unacked, link)
            self._check_size(unacked, len(payload), len(label) + len(fields))
            if not self._waits_for_room(unacked, link, cost(payload, label, fields)):
                if is_counted:
                    unacked.count_lost("full")
                if self._when_full == "drop":
                    return 0
                why = f": {unacked.last_error}" if unacked.last_error else ""
                raise Full(f"{unacked.kept_bytes} bytes of events wait for the daemon already{why}")
            number = unacked.add(payload, priority, label, time_ns, fields)
            link.wake_for_event()
            return number

    def _count_full(self) -> None:
        with self._unacked.changed:
            self._unacked.count_lost("full")

    def connect(self, timeout: float = 10.0) -> int:
        """Waits until there is a connection, and returns the last sequence of a given session that the daemon has
        from clients before this one; 0 of a new one. Not needed otherwise: :meth:`send` begins a connection.

        Who numbers events the same way in each run and sends all of them, can so leave out those that are stored.

        :raises NotConnected: none could be made in time.
        """
        unacked = self._unacked
        with unacked.changed:
            link = self._started(unacked)
            self._refuse_own_thread(link)
            self._await_connection(unacked, link, timeout, lambda: False)
            return unacked.last_before

    def sync(self, timeout: float = 10.0) -> None:
        """Waits until every event so far is durable: on the disk, safe from a loss of power.

        :raises TimedOut: not yet; a later call may succeed.
        :raises NotStored: all that can be durable is, but since the last sync some events were refused.
        """
        unacked = self._unacked
        with unacked.changed:
            if unacked.number == 0:
                return
            link = self._started(unacked)
            self._refuse_own_thread(link)
            wanted = unacked.number
            unacked.sync_wanted = max(unacked.sync_wanted, wanted)
            link.wake()
            if not unacked.changed.wait_for(lambda: unacked.synced >= wanted or self._is_over(unacked), timeout):
                why = f": {unacked.last_error}" if unacked.last_error else ""
                raise TimedOut(f"not durable within {timeout:g} s{why}")
            if unacked.synced < wanted:
                self._raise_if_over(unacked)
            refused, unacked.refused_untold = unacked.refused_untold, 0
            unconfirmed, unacked.unconfirmed_untold = unacked.unconfirmed_untold, 0
            if refused or unconfirmed:
                raise NotStored(refused, unconfirmed)

    def drain(self, timeout: float = 10.0) -> bool:
        """Waits until every event so far is settled, see ``ack``. False if that took too long."""
        unacked = self._unacked
        with unacked.changed:
            if self._link is not None:
                self._refuse_own_thread(self._link)
            wanted = unacked.number
            unacked.changed.wait_for(lambda: unacked.settled >= wanted or self._is_over(unacked), timeout)
            return unacked.settled >= wanted

    def close(self, timeout: float | None = None) -> bool:
        """Takes no more events, waits until all are settled, says goodbye.

        :param timeout: how long to wait; unless given, ``close_timeout``. What is not settled then is counted as
            abandoned.
        :returns: whether everything was settled.
        """
        unacked, link = self._unacked, self._link
        with unacked.changed:
            if link is not None:
                self._refuse_own_thread(link)
            unacked.closing = True
            unacked.changed.notify_all()
        is_settled = self.drain(self._close_timeout if timeout is None else timeout)
        with unacked.changed:
            unacked.stopping = True
            unacked.changed.notify_all()
            if link is not None:
                link.wake()
        if link is not None:
            # It waits for nothing but its lock and the callback.
            link.thread.join(self._close_timeout)
        with unacked.changed:
            unacked.abandon()
        return is_settled

    def statistics(self) -> Statistics:
        """What became of the events of this process."""
        with self._unacked.changed:
            return self._unacked.statistics()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        statistics = self.statistics()
        state = "connected" if statistics.connected else statistics.last_error or "not connected yet"
        return f"<dbuf.Client {self._name.decode('utf-8', 'replace')!r}: {statistics.kept} events kept, {state}>"

    # Below here the caller holds `unacked.changed`.

    def _started(self, unacked: Unacknowledged) -> Link:
        self._raise_if_over(unacked)
        if unacked.closing:
            raise Closed("the client is closed")
        if self._link is None:
            self._start(unacked)
        assert self._link is not None, "started"
        return self._link

    def _start(self, unacked: Unacknowledged) -> None:
        link = Link(unacked, self._find, self._name, self._on_refused)
        if self._link is not None:
            # A signal handler that sends came in between, and has begun one.
            link.let_go()
            return
        # Known before it runs, for the same reason.
        self._link = link
        try:
            link.thread.start()
        except RuntimeError as error:
            self._link = None
            link.let_go()
            raise Closed(f"the interpreter is ending: {error}") from error
        process.before_child_ends(lambda: self.drain(self._close_timeout))

    def _find(self) -> str:
        return default_path() if self._path is None else os.fspath(self._path)

    def _is_over(self, unacked: Unacknowledged) -> bool:
        return unacked.stopping or unacked.failed is not None

    def _raise_if_over(self, unacked: Unacknowledged) -> None:
        if isinstance(unacked.failed, SessionTaken):
            raise SessionTaken(str(unacked.failed))
        if unacked.failed is not None:
            raise Closed(f"the client has failed: {unacked.failed!r}") from unacked.failed
        if unacked.stopping:
            raise Closed("the client is closed")

    def _refuse_own_thread(self, link: Link) -> None:
        if link.is_current():
            raise RuntimeError("on_refused must not wait for what its own thread would have to do")

    def _check_size(self, unacked: Unacknowledged, payload_bytes: int, tag_bytes: int) -> None:
        # Before the first WELCOME the daemon's bound is not known; what is too big for it is refused there.
        if unacked.welcome is not None and payload_bytes > unacked.welcome.max_event:
            max_event = unacked.welcome.max_event
            raise TooBig(f"the event has {payload_bytes} bytes, and dbufd takes {max_event} (ingest.max_event)")
        room = min(unacked.capacity_bytes - EVENT_COST, wire.LENGTH_MAX)
        if payload_bytes + tag_bytes > room:
            raise TooBig(f"the event has {payload_bytes} bytes, and the client keeps {room} at most (buffer_bytes)")

    def _waits_for_room(self, unacked: Unacknowledged, link: Link, needed: int) -> bool:
        # The callback's thread is the one that makes room: it must not wait for itself.
        if not unacked.has_room(needed) and self._when_full == "block" and not link.is_current():
            unacked.changed.wait_for(
                lambda: unacked.has_room(needed) or unacked.closing or self._is_over(unacked), self._block_timeout
            )
            self._started(unacked)
        return unacked.has_room(needed)

    def _require_connection(self, unacked: Unacknowledged, link: Link) -> None:
        failures = unacked.failures
        if not link.is_current():
            self._await_connection(unacked, link, WELCOME_TIMEOUT_S, lambda: unacked.failures != failures)
        elif unacked.welcome is None:
            raise NotConnected(unacked.last_error or "not connected yet")

    def _await_connection(
        self, unacked: Unacknowledged, link: Link, timeout: float, gives_up: Callable[[], bool]
    ) -> None:
        if unacked.welcome is not None:
            return
        unacked.callers += 1
        unacked.hurry = True
        link.wake()
        try:
            unacked.changed.wait_for(
                lambda: unacked.welcome is not None or gives_up() or unacked.closing or self._is_over(unacked), timeout
            )
        finally:
            unacked.callers -= 1
        self._started(unacked)
        if unacked.welcome is None:
            raise NotConnected(unacked.last_error or f"no answer from dbufd within {timeout:g} s")

    # Of the process; see `process`.

    def _in_child(self) -> None:
        closed = self._unacked.closing
        if self._link is not None:
            self._link.let_go()
        self._begin(None)
        # The lock of the old unacked may be held by a thread that does not exist here.
        self._unacked.closing = self._unacked.stopping = closed

    def _at_exit(self) -> None:
        self.close()


def packed(fields: Mapping[str, Bytes]) -> bytes:
    """The bytes of an event's fields."""
    try:
        return wire.pack_fields((to_bytes(name), to_bytes(value)) for name, value in fields.items())
    except ValueError as error:
        raise Invalid(str(error)) from None


def to_tag(tag: Bytes) -> bytes:
    """The bytes of a tag or name."""
    label = to_bytes(tag)
    if len(label) > wire.TAG_BYTES_MAX:
        raise Invalid(f"the tag {label!r} is longer than {wire.TAG_BYTES_MAX} bytes")
    return label
