"""Sends the records of the logging module, and never makes the program wait, unless it is asked to.

Enters: logging's records, from any thread. Leaves: one event for each, whatever its text. What can fail: there is no
room, which is counted, and reported by an event as soon as there is; a record that the daemon does not store, which
goes to ``handleError``.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from typing import Callable

from . import process, wire
from .client import BUFFER_BYTES, Client
from .errors import NotStored
from .paths import Path
from .unacknowledged import Refusal, Statistics
from .values import Bytes, PackedFields, field_name, to_bytes, to_tag
from .wire import Level

LEFT_OUT = b"FIELDS_LEFT_OUT"
"""The field that names the fields which had no room."""
LEFT_OUT_BYTES_MAX = 512
"""The longest value of that field."""
FIELD_HEAD_BYTES = 5
"""What a field takes in addition to its name and value."""

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
    """Sends each record as one event to dbufd, also tracebacks and texts of several lines.

    ::

        logging.config.dictConfig({
            "version": 1,
            "handlers": {"dbuf": {"class": "dbuf.Handler", "tag": "shop"}},
            "root": {"handlers": ["dbuf"], "level": "INFO"},
        })

    Records wait in memory, at most ``buffer_bytes``, for a thread that sends them and for the daemon's acknowledgement;
    they stay there over a restart of the daemon. A record that finds no room is counted, and an event says how many are
    missing where they are missing. At exit the handler waits for what is still there: :meth:`flush` and :meth:`close`
    wait for their timeouts at most. A forked child gets a connection of its own.

    A record without text gets its logger's name as text. A record that is larger than the daemon takes
    (``ingest.max_event``) is cut, and says so at its end.

    :param level: as for every handler.
    :param tag: of all events; unless given, each has the name of its logger.
    :param path: the daemon's ``stream.sock``; unless given, where dbufctl would look.
    :param ack: see :class:`dbuf.Client`.
    :param buffer_bytes: see :class:`dbuf.Client`.
    :param block: whether a record that finds no room waits for it, at most ``block_timeout`` seconds.
    :param flush_timeout: how long :meth:`flush` waits until everything is settled, in seconds.
    :param close_timeout: the same for :meth:`close`.
    :param fields: whether events have fields: ``LOGGER``, ``CODE_FILE``, ``CODE_LINE``, ``CODE_FUNC``, ``THREAD_NAME``,
        and what ``extra`` brings: ``logger.info("card refused", extra={"order": 17})`` is found by ``dbufctl cat
        ORDER=17``.
    :param quiet: see :class:`dbuf.Client`.
    """

    def __init__(
        self,
        level: int | str = logging.NOTSET,
        *,
        tag: Bytes | None = None,
        path: Path | None = None,
        ack: str | Level = Level.PERSISTED,
        buffer_bytes: int = BUFFER_BYTES,
        block: bool = False,
        block_timeout: float = 1.0,
        flush_timeout: float = 2.0,
        close_timeout: float = 2.0,
        fields: bool = True,
        quiet: bool = False,
    ) -> None:
        super().__init__(level)
        self._with_fields = fields
        self._tag = None if tag is None else to_tag(tag)
        self._flush_timeout = flush_timeout
        self._fields_left_out = 0
        self._client = Client(
            "python" if self._tag is None else self._tag,
            path=path,
            ack=ack,
            buffer_bytes=buffer_bytes,
            when_full="wait" if block else "drop",
            when_too_big="cut",
            block_timeout=block_timeout,
            close_timeout=close_timeout,
            on_refused=_calling(weakref.ref(self)),
            quiet=quiet,
        )
        # logging.shutdown flushes and closes every handler; closed earlier, it would miss what others log until then.
        self._client.leave_exit_to_owner()
        process.begin_anew_in_child(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a record, or counts it as lost."""
        try:
            self._client.send(
                to_bytes(self.format(record)) or to_bytes(record.name or "record"),
                priority=self.priority_of(record),
                tag=self.tag_of(record),
                time_ns=_time_ns(record),
                fields=self.fields_of(record) if self._with_fields else None,
            )
        except Exception:
            self.handleError(record)

    def priority_of(self, record: logging.LogRecord) -> int:
        """The record's priority as syslog counts; a level between INFO and WARNING is a notice."""
        return next((priority for level, priority in _PRIORITIES if record.levelno >= level), 7)

    def tag_of(self, record: logging.LogRecord) -> bytes:
        """The tag of the record's event."""
        if self._tag is not None:
            return self._tag
        # A name is cut where a character begins.
        return to_bytes(record.name or "")[: wire.TAG_BYTES_MAX].decode("utf-8", "ignore").encode()

    def fields_of(self, record: logging.LogRecord) -> PackedFields:
        """The fields of the record's event: where it comes from, under the names that systemd's own clients use, and
        what ``extra`` brought, in capitals. What finds no room is left out, and named in ``FIELDS_LEFT_OUT``."""
        fields = [
            (b"LOGGER", _value_bytes(record.name)),
            (b"CODE_FILE", _value_bytes(record.pathname)),
            (b"CODE_LINE", _value_bytes(record.lineno)),
            (b"CODE_FUNC", _value_bytes(record.funcName)),
            (b"THREAD_NAME", _value_bytes(record.threadName)),
        ]
        for name, value in record.__dict__.items():
            if name not in _OWN:
                fields.append((field_name(name).encode(), _value_bytes(value)))
        try:
            return PackedFields(wire.pack_fields(fields))
        except ValueError:
            self._fields_left_out += 1
            return PackedFields(wire.pack_fields(_fitting(fields)))

    def statistics(self) -> Statistics:
        """What became of the events of this process."""
        return dataclasses.replace(self._client.statistics(), fields_left_out=self._fields_left_out)

    def flush(self) -> None:
        """Waits until all events so far are settled, or ``flush_timeout`` has passed."""
        self._client.drain(self._flush_timeout)

    def close(self) -> None:
        """Waits as :meth:`flush` does, at most ``close_timeout``, and ends the connection."""
        self._client.close()
        super().close()

    def _report(self, refusal: Refusal) -> None:
        """Hands events that the daemon did not store to ``handleError``. Their records are gone by then."""
        what = "dbufd did not store the events %d to %d: %s (%s)"
        arguments = refusal.first, refusal.last, refusal.text, wire.code_name(refusal.code)
        record = logging.LogRecord("dbuf", logging.ERROR, __file__, 0, what, arguments, None)
        try:
            raise NotStored(max(refusal.last - refusal.first + 1, 1), 0)
        except NotStored:
            self.handleError(record)

    def _in_child(self) -> None:
        self._fields_left_out = 0


def _calling(handler: weakref.ref[Handler]) -> Callable[[Refusal], None]:
    # The client's thread must not keep a handler alive that the program has dropped.
    def call(refusal: Refusal) -> None:
        alive = handler()
        if alive is not None:
            alive._report(refusal)

    return call


def _value_bytes(value: object) -> bytes:
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return to_bytes(value)
    try:
        return to_bytes(str(value))
    except Exception as error:
        # The record is worth more than one of its values.
        return f"<{type(error).__name__} in __str__ of {type(value).__name__}>".encode()


def _fitting(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The fields that have room, and one that names the others."""
    room = wire.FIELDS_BYTES_MAX - _size(LEFT_OUT, bytes(LEFT_OUT_BYTES_MAX))
    kept, left_out = [], []
    for name, value in fields:
        if _size(name, value) <= room:
            kept.append((name, value))
            room -= _size(name, value)
        else:
            left_out.append(name)
    return [*kept, (LEFT_OUT, b",".join(left_out)[:LEFT_OUT_BYTES_MAX])]


def _size(name: bytes, value: bytes) -> int:
    return FIELD_HEAD_BYTES + len(name) + len(value)


def _time_ns(record: logging.LogRecord) -> int:
    # A float has no nanoseconds of this century.
    return int(record.created * 1_000_000) * 1000
