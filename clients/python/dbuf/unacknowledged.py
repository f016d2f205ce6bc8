"""Keeps the events that the daemon has not acknowledged yet, and counts what became of the others.

Enters: events from the application's threads; what the daemon says, from the thread of the connection. Leaves: frames
to write, and counts. The caller holds ``changed``; nothing here waits, reads or writes. What can fail: the
daemon reports a sequence that this client has never sent.

An event waits until its frame is made. Then it is under way until it is settled: acknowledged at the client's level, or
named by an ERROR; at level none, handed to the kernel. When the connection is lost, what is under way waits again, and
WELCOME says which of that the daemon has already.

Events have numbers, from 1. A frame's sequence is the number, above what the daemon had of the session before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from . import wire
from .errors import SessionTaken
from .values import shortened
from .wire import Level

EVENT_COST = 256
"""Memory that an event takes in addition to its bytes, about."""
REPORT_BYTES_MAX = 128
"""The longest text by which a client reports what is missing."""

Kept = tuple[bytes, int, bytes, int, bytes]
"""An event that is not settled: payload, pri, tag, time in nanoseconds, packed fields. Its place implies its number: a
signal handler that sends while its thread does can then not break the order of the numbers."""


@dataclass(frozen=True)
class Refusal:
    """Events that the daemon did not store."""

    first: int
    """The number of the first, as :meth:`dbuf.Client.send` returned it. Below 1: of an earlier client's, in a session
    that was given."""
    last: int
    """The number of the last. Of a range that is ``lost``, some may have been stored."""
    code: int
    """Why; a :class:`dbuf.Code`, or a number of a later version."""
    text: str
    """The daemon's words."""


@dataclass(frozen=True)
class Statistics:
    """What became of a client's events: ``accepted`` = ``settled`` + ``kept`` + ``lost["abandoned"]``."""

    accepted: int
    """Events that :meth:`dbuf.Client.send` took, and those by which the client reported a loss."""
    settled: int
    """Acknowledged at the client's level or named by an ERROR; at level none, written."""
    durable: int
    """Every event up to this number is known to be durable, or was named by an ERROR."""
    kept: int
    """Events that are kept, because they are not settled."""
    kept_bytes: int
    """Memory that the kept events take, about."""
    without_fields: int
    """Events that were sent without their fields, because the daemon does not grant the feature FIELDS."""
    resent: int
    """Frames that were sent once more after a connection was lost."""
    unconfirmed: int
    """At level none: events that were written to a daemon that is gone, and that the next does not know of."""
    connections: int
    """Connections that the daemon welcomed."""
    connected: bool
    """Whether there is one now."""
    last_error: str | None
    """Why the last connection ended, or none could be made."""
    lost: dict[str, int] = field(default_factory=dict)
    """Events by cause. ``full``: never accepted; ``too_big``, ``malformed`` and ``lost``: the daemon said so;
    ``abandoned``: the client was closed before they were settled."""
    shortened: int = 0
    """Events that were larger than the daemon or the client takes, and were cut (``when_too_big="cut"``)."""
    fields_left_out: int = 0
    """Events of a :class:`dbuf.Handler` that lack some of their fields; the field ``FIELDS_LEFT_OUT`` names them."""


def cost(payload: bytes, tag: bytes, fields: bytes) -> int:
    """Memory that such an event takes, about."""
    return EVENT_COST + len(payload) + len(tag) + len(fields)


class Unacknowledged:
    """The events of one client in one process.

    :param cuts: whether an event that is larger than the daemon takes is cut, instead of being refused there.
    """

    def __init__(self, level: Level, capacity_bytes: int, session: int, cuts: bool = False) -> None:
        self.changed = threading.Condition()
        self.level = level
        self.session = session
        self.capacity_bytes = capacity_bytes
        self.kept_bytes = 0
        self.settled = 0
        """The number of the last event that is settled; the next is the first that is under way or waits."""
        self.durable = 0
        self.synced = 0
        """Each SYNC for an event up to here is answered."""
        self.sync_wanted = 0
        self.refused_unreported = 0
        """Events that the next sync has to say were refused."""
        self.unconfirmed_unreported = 0
        """Events that the next sync has to say may be lost."""
        self.missing = 0
        """Events that found no room, and that no event has reported yet."""
        self.lost: dict[str, int] = {}

        # What the connection's thread and the callers tell each other.
        self.welcome: wire.Welcome | None = None
        self.callers = 0
        """Callers that wait for a connection, so that one is wanted although there is no event."""
        self.hurry = False
        """The next attempt to connect is not to wait."""
        self.failures = 0
        self.connections = 0
        self.closing = False
        self.stopping = False
        self.failed: Exception | None = None
        """Why this client can never do anything again."""
        self.last_error: str | None = None

        self._cuts = cuts
        self._shortened = 0
        self._waiting: deque[Kept] = deque()
        self._under_way: deque[Kept] = deque()
        self._made = 0
        """The highest number of which a frame was made."""
        self._base: int | None = None
        """What the daemon had of this session before."""
        self._syncs: deque[tuple[int, int]] = deque()
        """SYNCs on this connection: the number that it is for, and the sequence of its answer."""
        self._sync_made = 0
        self._announced = 0
        """The last sequence that the daemon knows of this session once it has read all that was made for it."""
        self._doubted = 0
        """Up to here the events are counted that no daemon can confirm any more."""
        self._resent = 0
        self._without_fields = 0
        self._unconfirmed = 0

    # The application's side.

    @property
    def number(self) -> int:
        """The number of the last event that was taken."""
        return self._number_under_way() + len(self._waiting) + self.lost.get("abandoned", 0)

    def _number_under_way(self) -> int:
        return self.settled + len(self._under_way)

    def is_empty(self) -> bool:
        """Whether everything is settled."""
        return not self._waiting and not self._under_way

    def is_over(self) -> bool:
        """Whether no event will ever be settled any more."""
        return self.stopping or self.failed is not None

    def has_room(self, needed: int) -> bool:
        """Whether an event of this cost is within the bound."""
        return self.kept_bytes + needed <= self.capacity_bytes

    def add(self, payload: bytes, pri: int, tag: bytes, time_ns: int, fields: bytes = b"") -> int:
        """Takes an event and returns its number."""
        self.kept_bytes += cost(payload, tag, fields)
        self._waiting.append((payload, pri, tag, time_ns, fields))
        return self.number

    def cut(self, payload: bytes, bytes_max: int) -> bytes:
        """The payload within this bound; counts it if it has to be cut for that."""
        if len(payload) <= bytes_max:
            return payload
        self._shortened += 1
        return shortened(payload, bytes_max)

    def count_lost(self, cause: str, events: int = 1) -> None:
        """Counts events that are lost."""
        self.lost[cause] = self.lost.get(cause, 0) + events

    def count_missing(self) -> None:
        """Counts an event that found no room, and that an event will report."""
        self.count_lost("full")
        self.missing += 1

    def report_missing(self, next_cost: int = 0) -> bool:
        """Adds the event that says how many are missing here, in the client's own name. False if there is no room for
        it and for the next event: then that one is missing here, too."""
        if self.missing == 0:
            return True
        events = "1 event was" if self.missing == 1 else f"{self.missing} events were"
        text = f"dbuf: {events} lost here: the daemon did not take them, and the buffer was full".encode()
        own_cost = cost(text, b"", b"")
        # A buffer that never holds both gets the report alone.
        if not self.has_room(own_cost + min(next_cost, max(self.capacity_bytes - own_cost, 0))):
            return False
        self.missing = 0
        self.add(text, 4, b"", time.time_ns())
        return True

    def awaits_report(self) -> bool:
        """Whether an event will say what is missing, as soon as there is room."""
        return self.missing > 0 and self.capacity_bytes >= EVENT_COST + REPORT_BYTES_MAX

    def abandon(self) -> int:
        """Gives up what is kept, because the client ends here. Returns how many events that are."""
        left = len(self._waiting) + len(self._under_way)
        self._waiting.clear()
        self._under_way.clear()
        self.kept_bytes = 0
        if left:
            self.count_lost("abandoned", left)
        return left

    def statistics(self) -> Statistics:
        """What became of the events so far."""
        return Statistics(
            accepted=self.number,
            settled=self.settled,
            durable=self.durable,
            kept=len(self._waiting) + len(self._under_way),
            kept_bytes=self.kept_bytes,
            without_fields=self._without_fields,
            resent=self._resent,
            unconfirmed=self._unconfirmed,
            connections=self.connections,
            connected=self.welcome is not None,
            last_error=self.last_error,
            lost=dict(self.lost),
            shortened=self._shortened,
        )

    @property
    def last_before(self) -> int:
        """The last sequence of this session that the daemon had accepted before this client."""
        return self._base or 0

    # The connection's side.

    def needs_connection(self) -> bool:
        """Whether there is anything to say to the daemon; an idle client does not connect."""
        return not self.is_empty() or self.missing > 0 or self.sync_wanted > self.synced or self.callers > 0

    def welcomed(self, welcome: wire.Welcome) -> None:
        """The daemon says where the session stands."""
        if self._base is None:
            self._base = welcome.last
        elif welcome.last > self._base + self._made:
            raise SessionTaken("the daemon has accepted what this client never sent: another sends in its session")
        known = welcome.last - self._base
        # What has left, and was never confirmed as durable, only this daemon can still confirm.
        unknown = self.settled - max(known, self.durable, self._doubted)
        if unknown > 0:
            self.unconfirmed_unreported += unknown
            if self.level is Level.NONE:
                self._unconfirmed += unknown
            self._doubted = self.settled
        while self._waiting and self._number_under_way() < known:
            self._under_way.append(self._waiting.popleft())
        if self.level is Level.NONE:
            self.handed_over()
        self.welcome = welcome
        self._announced = welcome.last
        self.connections += 1
        self.last_error = None
        self.changed.notify_all()

    def disconnected(self, why: str) -> None:
        """The connection has ended: what is under way waits again."""
        self._waiting.extendleft(reversed(self._under_way))
        self._under_way.clear()
        self._syncs.clear()
        self._sync_made = self.synced
        if self.welcome is None:
            self.failures += 1
        self.welcome = None
        self.last_error = why
        self.changed.notify_all()

    def gather(self, bytes_max: int) -> bytes:
        """Frames of what waits, at least one if anything does; about ``bytes_max`` bytes of them."""
        assert self.welcome is not None and self._base is not None, "the sequences are known"
        if self.missing and not self._waiting:
            self.report_missing()
        frames = bytearray()
        waiting, under_way = self._waiting, self._under_way
        takes_fields = self.welcome.compatible & wire.FEATURE_FIELDS
        while waiting and len(frames) < bytes_max:
            event = waiting.popleft()
            if self._cuts and len(event[0]) > self.welcome.max_event:
                event = self._cut_kept(event, self.welcome.max_event)
            under_way.append(event)
            payload, pri, tag, time_ns, fields = event
            number = self._number_under_way()
            if number <= self._made:
                self._resent += 1
            else:
                self._made = number
            self._announced = self._base + number
            if fields and not takes_fields:
                # The text says most; an event that is refused says nothing.
                self._without_fields += 1
                fields = b""
            frames += wire.encode_event(self._announced, payload, pri, tag, time_ns, fields)
        wanted = self.sync_wanted
        if wanted > max(self._sync_made, self.synced) and self._number_under_way() >= wanted:
            # The answer names what the daemon knows, and one that has forgotten the session may not know `wanted`.
            self._syncs.append((wanted, self._announced))
            self._sync_made = wanted
            frames += wire.encode(wire.Sync())
        return bytes(frames)

    def _cut_kept(self, event: Kept, bytes_max: int) -> Kept:
        payload, pri, tag, time_ns, fields = event
        cut = self.cut(payload, bytes_max)
        self.kept_bytes -= len(payload) - len(cut)
        return cut, pri, tag, time_ns, fields

    def handed_over(self) -> None:
        """All frames that were gathered are in the kernel's hands: at level none, that settles them."""
        if self.level is Level.NONE and self._under_way:
            self._settle(self._number_under_way())

    def acknowledged(self, level: Level, sequence: int) -> None:
        """Every event up to this sequence has reached the level, or was named before."""
        assert self._base is not None, "after WELCOME"
        number = min(sequence - self._base, self._made)
        if level >= self.level and self.level is not Level.NONE:
            self._settle(number)
        if level is Level.DURABLE:
            self.durable = max(self.durable, number)
            self.synced = max(self.synced, self.durable)
            while self._syncs and self._syncs[0][1] <= sequence:
                self.synced = max(self.synced, self._syncs.popleft()[0])
        self.changed.notify_all()

    def refused(self, fault: wire.Fault) -> Refusal:
        """The daemon names events that it did not store."""
        events = max(fault.last - fault.first + 1, 1)
        self.count_lost(wire.code_name(fault.code), events)
        self.refused_unreported += events
        base = self._base or 0
        return Refusal(fault.first - base, fault.last - base, fault.code, fault.text.decode("utf-8", "replace"))

    def fail(self, why: Exception) -> None:
        """Nothing will ever come of this client."""
        self.failed = why
        self.last_error = str(why)
        self.changed.notify_all()

    def _settle(self, number: int) -> None:
        under_way = self._under_way
        while under_way and self.settled < number:
            payload, _, tag, _, fields = under_way.popleft()
            self.kept_bytes -= cost(payload, tag, fields)
            self.settled += 1
        if self.is_empty():
            # Corrects what an addition by a signal handler in the middle of one may have changed.
            self.kept_bytes = 0
        self.changed.notify_all()
