"""A handler for the logging module that never makes the program wait, unless it is asked to.

Enters: logging's records, from any thread. Leaves: one event for each, whatever its text. What can fail: there is no
room, which is counted, and told by an event as soon as there is.
"""

from __future__ import annotations

import logging
import os
import time

from . import process, wire
from .client import BUFFER_BYTES, Bytes, Client, to_bytes, to_tag
from .errors import Closed, Full
from .unacknowledged import Statistics
from .wire import Level

FIELD_HEAD_BYTES = 5
"""What a field takes beside its name and value."""
_OWN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
"""What a record has of its own; the rest came with ``extra``."""
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO + 5, 5),
    (logging.INFO, 6),
)


class Handler(logging.Handler):
    """Sends each record as one event to dbufd: tracebacks and texts of several lines, too.

    ::

        logging.config.dictConfig({
            "version": 1,
            "handlers": {"dbuf": {"class": "dbuf.Handler", "tag": "shop"}},
            "root": {"handlers": ["dbuf"], "level": "INFO"},
        })

    Records wait in memory, at most ``buffer_bytes``, for a thread that sends them and for the daemon's
    acknowledgement; over a restart of the daemon they stay there. What finds no room is counted, and an event tells of
    it where it is missing. The interpreter's end waits for what is still there, each of :meth:`flush` and
    :meth:`close` at most its timeout. A forked child gets a connection of its own.

    :param level: as of every handler.
    :param tag: of all events; unless given, each has the name of its logger.
    :param path: the daemon's ``stream.sock``; unless given, where dbufctl would look.
    :param ack: see :class:`dbuf.Client`.
    :param block: whether a record that finds no room waits for it, at most ``block_timeout`` seconds.
    :param flush_timeout: how long :meth:`flush` waits until everything is settled, in seconds.
    :param close_timeout: the same for :meth:`close`.
    :param fields: whether events have fields: ``LOGGER``, ``CODE_FILE``, ``CODE_LINE``, ``CODE_FUNC``, ``THREAD_NAME``,
        and what ``extra`` brings: ``logger.info("card refused", extra={"order": 17})`` is found by ``dbufctl cat ORDER=17``.
    """

    def __init__(
        self,
        level: int | str = logging.NOTSET,
        *,
        tag: Bytes | None = None,
        path: str | os.PathLike[str] | None = None,
        ack: str | Level = Level.PERSISTED,
        buffer_bytes: int = BUFFER_BYTES,
        block: bool = False,
        block_timeout: float = 1.0,
        flush_timeout: float = 2.0,
        close_timeout: float = 2.0,
        fields: bool = True,
    ) -> None:
        super().__init__(level)
        self._with_fields = fields
        self._tag = None if tag is None else to_tag(tag)
        self._flush_timeout = flush_timeout
        self._client = Client(
            "python" if self._tag is None else self._tag,
            path=path,
            ack=ack,
            buffer_bytes=buffer_bytes,
            when_full="block" if block else "drop",
            block_timeout=block_timeout,
            close_timeout=close_timeout,
        )
        # logging.shutdown flushes and closes every handler; closed earlier, it would miss what others log until then.
        process.leave_exit_to_owner(self._client)
        self._untold = 0
        process.tell_of_fork(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a record, or counts it as lost."""
        try:
            payload = to_bytes(self.format(record))
            if not payload:
                return
            tag = self.tag_of(record)
            # Where there is no room to tell of a loss, there may be for a shorter event; but what is told afterwards
            # would then stand in the wrong place.
            if not self._tell(tag):
                self._client._count_full()
                self._untold += 1
                return
            fields = self.fields_of(record) if self._with_fields else b""
            if not self._send(payload, self.priority_of(record), tag, _time_ns(record), fields):
                self._untold += 1
        except Exception:
            self.handleError(record)

    def priority_of(self, record: logging.LogRecord) -> int:
        """The record's priority as syslog counts; a level between INFO and WARNING is a notice."""
        return next((priority for level, priority in _PRIORITIES if record.levelno >= level), 7)

    def tag_of(self, record: logging.LogRecord) -> bytes:
        """The tag of the record's event."""
        # A name is cut where a character begins.
        name = to_bytes(record.name)[: wire.TAG_BYTES_MAX] if self._tag is None else self._tag
        return name if self._tag is not None else name.decode("utf-8", "ignore").encode()

    def fields_of(self, record: logging.LogRecord) -> bytes:
        """The fields beside the record's event, packed: where it comes from, under the names that systemd's own clients
        use, and what ``extra`` brought, in capitals. What finds no room is left out."""
        named = [
            ("LOGGER", record.name),
            ("CODE_FILE", record.pathname),
            ("CODE_LINE", record.lineno),
            ("CODE_FUNC", record.funcName),
            ("THREAD_NAME", record.threadName),
        ]
        named += [(name.upper(), value) for name, value in record.__dict__.items() if name not in _OWN]
        fields, room = [], wire.FIELDS_BYTES_MAX
        for name, value in named:
            pair = to_bytes(name), value if isinstance(value, bytes) else to_bytes(str(value))
            room_left = room - FIELD_HEAD_BYTES - len(pair[0]) - len(pair[1])
            if 0 < len(pair[0]) <= wire.FIELD_NAME_BYTES_MAX and room_left >= 0:
                fields.append(pair)
                room = room_left
        return wire.pack_fields(fields)

    def statistics(self) -> Statistics:
        """What became of the events of this process."""
        return self._client.statistics()

    def flush(self) -> None:
        """Waits until all events so far are settled, or ``flush_timeout`` has passed."""
        self.acquire()
        try:
            self._tell(self._tag or b"")
        except Closed:
            return
        finally:
            self.release()
        self._client.drain(self._flush_timeout)

    def close(self) -> None:
        """Waits as :meth:`flush` does, at most ``close_timeout``, and ends the connection."""
        self.acquire()
        try:
            self._tell(self._tag or b"")
        except Closed:
            pass
        finally:
            self.release()
        self._client.close()
        super().close()

    def _tell(self, tag: bytes) -> bool:
        """Tells of events that found no room. False if there is none still."""
        if self._untold == 0:
            return True
        text = f"dbuf: {self._untold} events were lost here: the daemon did not take them, and the buffer was full"
        if not self._send(text.encode(), 4, tag, time.time_ns(), b"", is_counted=False):
            return False
        self._untold = 0
        return True

    def _send(
        self, payload: bytes, priority: int, tag: bytes, time_ns: int, fields: bytes, is_counted: bool = True
    ) -> bool:
        try:
            return self._client._put(payload, priority, tag, time_ns, fields, is_counted) > 0
        except Full:
            return False

    def _in_child(self) -> None:
        # The parent tells of its own.
        self._untold = 0


def _time_ns(record: logging.LogRecord) -> int:
    # A float has no nanoseconds of this century.
    return int(record.created * 1_000_000) * 1000
