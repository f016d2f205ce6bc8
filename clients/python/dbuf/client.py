"""Sends events by the framed protocol: keeps what is not acknowledged, and survives the daemon's restarts.

Enters: events of an application's threads. Leaves: frames on the daemon's ``stream.sock``. A call takes a lock, adds
the event and returns; one thread of the client's own does the rest, and sleeps when there is nothing to do.
"""

from __future__ import annotations

import secrets
import time
from typing import Callable

from . import process, wire
from .errors import Closed, Full, Invalid, NotConnected, NotStored, SessionTaken, TimedOut, TooBig
from .link import WELCOME_TIMEOUT_S, Link
from .paths import Path
from .sender import Sender
from .unacknowledged import EVENT_COST, Refusal, Statistics, Unacknowledged, cost
from .values import Bytes, Fields, check_number, pack_fields, to_bytes, to_tag
from .wire import Level

BUFFER_BYTES = 8 << 20
"""The memory for events that are not settled, unless another is given."""


class Client(Sender):
    """Sends events to dbufd, and keeps each until it is acknowledged, so that it is stored once.

    The client connects when the first event is sent, and again when the connection is lost; then the daemon says what
    it has, and the rest is sent again. A daemon that no longer knows the session (see ``docs/PROTOCOL.md``, 3.8) may
    store again what it had not acknowledged yet.

    Threads may share a client. A forked child may use it, too: it begins there as a new client, with a session of its
    own and without the events that its parent keeps. A client that is dropped without :meth:`close` delivers the rest,
    for ``close_timeout`` seconds at most.

    :param name: the tag of events that have none; at most 64 bytes.
    :param path: the daemon's ``stream.sock``; unless given, where dbufctl would look, at each attempt to connect.
    :param ack: when an event is settled: ``"persisted"`` in a file, ``"durable"`` on the disk, or ``"none"``, when it
        is written to the socket: then nothing is kept, and what a dying daemon had not read is lost.
    :param session: ties the client to events that another sent before it, see :meth:`connect`; random unless given. A
        session may be open in one client at a time.
    :param buffer_bytes: the memory that events may take until they are settled, about.
    :param when_full: what :meth:`send` does when that is used up. ``"block"`` waits ``block_timeout`` seconds for room
        and then raises :class:`Full`; ``"raise"`` raises it at once. ``"drop"`` counts the event as lost and returns 0,
        ``"wait"`` does so after it has waited ``block_timeout`` seconds; an event in the client's own name then says
        how many are missing, where they are missing.
    :param when_down: what :meth:`send` does without a connection: ``"buffer"`` keeps the event until there is one;
        ``"fail"`` tries to connect and raises :class:`NotConnected` if no daemon answers.
    :param when_too_big: what happens to an event that is larger than the daemon takes (``ingest.max_event``), or than
        ``buffer_bytes``: ``"raise"`` raises :class:`TooBig`, and the daemon refuses one that was sent before the first
        connection; ``"cut"`` sends its beginning, with a word about how much is missing.
    :param on_refused: is called with a :class:`Refusal` for events that the daemon did not store. The client's thread
        calls it, so it may send, but not wait for anything.
    :param close_timeout: how long the client waits at the end for what is not settled, in seconds.
    :param quiet: writes nothing to standard error. Otherwise one line says that no daemon can be reached before the
        first connection, and one at the end how many events were not delivered.
    """

    _link: Link | None = None

    def __init__(
        self,
        name: Bytes = "",
        *,
        path: Path | None = None,
        ack: str | Level = Level.PERSISTED,
        session: int | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        when_full: str = "block",
        when_down: str = "buffer",
        when_too_big: str = "raise",
        block_timeout: float = 10.0,
        on_refused: Callable[[Refusal], None] | None = None,
        close_timeout: float = 5.0,
        quiet: bool = False,
    ) -> None:
        self._name = to_tag(name)
        self._level = Level.of(ack)
        if buffer_bytes <= EVENT_COST:
            raise ValueError(f"buffer_bytes is {buffer_bytes}, and an event takes more than {EVENT_COST}")
        _check_choice("when_full", when_full, "block", "raise", "wait", "drop")
        _check_choice("when_down", when_down, "buffer", "fail")
        _check_choice("when_too_big", when_too_big, "raise", "cut")
        if session is not None and not 0 < session < 1 << 128:
            raise ValueError("session is a number of 128 bits, and not 0")
        self._buffer_bytes = buffer_bytes
        self._waits = when_full in ("block", "wait")
        self._drops = when_full in ("drop", "wait")
        self._fails = when_down == "fail"
        self._cuts = when_too_big == "cut"
        self._block_timeout = block_timeout
        self._on_refused = on_refused
        self._close_timeout = close_timeout
        self._quiet = quiet
        self._has_owner_at_exit = False
        self._begin(session)
        super().__init__(path)

    def _begin(self, session: int | None) -> None:
        session = session or secrets.randbits(128) or 1
        self._unacked = Unacknowledged(self._level, self._buffer_bytes, session, self._cuts)
        self.__dict__.pop("_link", None)

    def send(
        self,
        payload: Bytes,
        *,
        priority: int = 6,
        tag: Bytes = "",
        time_ns: int | None = None,
        fields: Fields | None = None,
    ) -> int:
        """Takes one event and returns its number. Numbers rise; 0 says that the event was dropped.

        :param payload: at least one byte; a text is sent as UTF-8.
        :param priority: 0 to 7, see :class:`dbuf.Priority`, plus 8 times a facility of syslog if there is one.
        :param tag: at most 64 bytes; unless given, the client's name.
        :param time_ns: the event's own time, in nanoseconds since 1970; now unless given, 0 for none.
        :param fields: names and values, as ``dbufctl cat -o json`` prints them and ``dbufctl cat NAME=VALUE`` finds
            them. A name has capital letters, digits and underscores. A value is a text, bytes or a whole number.
        :raises Invalid: the event breaks one of these rules, or is :class:`TooBig`.
        :raises Full: see ``when_full``. :raises NotConnected: see ``when_down``. :raises Closed:
        """
        payload = to_bytes(payload)
        label = to_tag(tag) if tag else b""
        if time_ns is None:
            time_ns = time.time_ns()
        if not payload:
            raise Invalid("the payload is empty")
        check_number("priority", priority, wire.PRI_MAX)
        check_number("time", time_ns, (1 << 64) - 1)
        packed = pack_fields(fields) if fields else b""

        process.check()
        unacked = self._unacked
        with unacked.changed:
            link = self._started(unacked)
            if self._fails:
                self._require_connection(unacked, link)
            payload = self._fitted(unacked, payload, len(label) + len(packed))
            if not self._makes_room(unacked, link, cost(payload, label, packed)):
                if self._drops:
                    unacked.count_missing()
                    link.wake_for_event()
                    return 0
                unacked.count_lost("full")
                why = f": {unacked.last_error}" if unacked.last_error else ""
                raise Full(f"{unacked.kept_bytes} bytes of events wait for the daemon already{why}")
            number = unacked.add(payload, priority, label, time_ns, packed)
            link.wake_for_event()
        if process.is_ending() and not link.has_owner_at_exit and not link.is_current():
            # The process has finished its clients already; this one began after that.
            link.settle()
        return number

    def connect(self, timeout: float = 10.0) -> int:
        """Waits until there is a connection. Returns the last sequence of the given session that the daemon had
        before this client, or 0 if the session is new. Not needed otherwise: :meth:`send` begins a connection.

        A program that numbers events the same way in each run, and sends all of them, can leave out those that are
        stored: see ``examples/once.py``.

        :raises NotConnected: none could be made in time.
        """
        process.check()
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
        process.check()
        unacked = self._unacked
        with unacked.changed:
            if unacked.number == 0:
                return
            link = self._started(unacked)
            self._refuse_own_thread(link)
            wanted = unacked.number
            unacked.sync_wanted = max(unacked.sync_wanted, wanted)
            link.wake()
            if not link.wait_for(lambda: unacked.synced >= wanted or unacked.is_over(), timeout):
                why = f": {unacked.last_error}" if unacked.last_error else ""
                raise TimedOut(f"not durable within {timeout:g} s{why}")
            if unacked.synced < wanted:
                self._raise_if_over(unacked)
            refused, unacked.refused_unreported = unacked.refused_unreported, 0
            unconfirmed, unacked.unconfirmed_unreported = unacked.unconfirmed_unreported, 0
            if refused or unconfirmed:
                raise NotStored(refused, unconfirmed)

    def drain(self, timeout: float = 10.0) -> bool:
        """Waits until every event so far is settled, see ``ack``. False if that took too long."""
        process.check()
        unacked, link = self._unacked, self._link
        if link is None:
            return True
        with unacked.changed:
            self._refuse_own_thread(link)
            if not unacked.closing and not unacked.is_over():
                link = self._started(unacked)
            # The report of what is missing is the next event.
            wanted = unacked.number + unacked.awaits_report()
            link.wait_for(lambda: unacked.settled >= wanted or unacked.is_over(), timeout)
            return unacked.settled >= wanted

    def close(self, timeout: float | None = None) -> bool:
        """Takes no more events, waits until all are settled, says goodbye.

        :param timeout: how long to wait; unless given, ``close_timeout``. What is not settled then is counted as
            abandoned.
        :returns: whether everything was settled.
        """
        process.check()
        unacked, link = self._unacked, self._link
        with unacked.changed:
            if link is None:
                unacked.closing = unacked.stopping = True
                return unacked.is_empty()
            self._refuse_own_thread(link)
            unacked.closing = True
            if not link.is_alive():
                link = self._replaced(unacked, link)
        return link.finish(self._close_timeout if timeout is None else timeout)

    def statistics(self) -> Statistics:
        """What became of the events of this process."""
        process.check()
        with self._unacked.changed:
            return self._unacked.statistics()

    def __repr__(self) -> str:
        statistics = self.statistics()
        state = "connected" if statistics.connected else statistics.last_error or "not connected yet"
        return f"<dbuf.Client {self._name.decode('utf-8', 'replace')!r}: {statistics.kept} events kept, {state}>"

    def __del__(self) -> None:
        if self._link is not None:
            self._link.drop()

    # Below here the caller holds `unacked.changed`.

    def _started(self, unacked: Unacknowledged) -> Link:
        self._raise_if_over(unacked)
        if unacked.closing:
            raise Closed("the client is closed")
        if self._link is None:
            # In one step: a signal handler that sends may come in between, and must not begin another.
            self.__dict__.setdefault("_link", self._new_link(unacked)).start()
        elif not self._link.is_alive():
            self._replaced(unacked, self._link)
        elif self._link.thread is None and not process.is_ending():
            self._link.start()
        assert self._link is not None, "started"
        return self._link

    def _new_link(self, unacked: Unacknowledged) -> Link:
        link = Link(unacked, self._find, self._name, self._on_refused, self._quiet, self._close_timeout)
        link.has_owner_at_exit = self._has_owner_at_exit
        return link

    def _replaced(self, unacked: Unacknowledged, old: Link) -> Link:
        old.leave()
        self._link = link = self._new_link(unacked)
        link.start()
        return link

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

    def _fitted(self, unacked: Unacknowledged, payload: bytes, other_bytes: int) -> bytes:
        room = min(unacked.capacity_bytes - EVENT_COST, wire.LENGTH_MAX) - other_bytes
        # Before the first WELCOME the daemon's bound is not known; then what is too big for it is found there.
        max_event = wire.LENGTH_MAX if unacked.welcome is None else unacked.welcome.max_event
        if len(payload) <= min(room, max_event):
            return payload
        if self._cuts and room > 0:
            return unacked.cut(payload, min(room, max_event))
        if len(payload) > max_event:
            raise TooBig(f"the event has {len(payload)} bytes, and dbufd takes {max_event} (ingest.max_event)")
        raise TooBig(f"the event has {len(payload)} bytes, and the client keeps {max(room, 0)} at most (buffer_bytes)")

    def _makes_room(self, unacked: Unacknowledged, link: Link, needed: int) -> bool:
        # What is reported after an event that came later would be in the wrong place.
        if unacked.report_missing(needed) and unacked.has_room(needed):
            return True
        # The callback's thread is the one that makes room: it must not wait for itself.
        if self._waits and not link.is_current():
            link.wait_for(
                lambda: (
                    (unacked.report_missing(needed) and unacked.has_room(needed))
                    or unacked.closing
                    or unacked.is_over()
                ),
                self._block_timeout,
            )
            self._started(unacked)
        return unacked.missing == 0 and unacked.has_room(needed)

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
            link.wait_for(
                lambda: unacked.welcome is not None or gives_up() or unacked.closing or unacked.is_over(), timeout
            )
        finally:
            unacked.callers -= 1
        self._started(unacked)
        if unacked.welcome is None:
            raise NotConnected(unacked.last_error or f"no answer from dbufd within {timeout:g} s")

    # Of the process; see `process`.

    def leave_exit_to_owner(self) -> None:
        """The end of the process does not close this client, because another does."""
        self._has_owner_at_exit = True

    def _in_child(self) -> None:
        # The link is closed by now. The lock of the old state may be held by a thread that does not exist here.
        closed = self._unacked.closing
        self._begin(None)
        self._unacked.closing = self._unacked.stopping = closed


def _check_choice(name: str, value: str, *choices: str) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(choices)}")
