"""Encodes and decodes the framed protocol: every frame, in both directions, as ``docs/PROTOCOL.md`` draws them.

Enters: bytes of a connection, or frames. Leaves: frames, or bytes. No input or output here, any thread. What can fail:
decoding, with :class:`WireError`, after which the place where the next frame begins is unknown and the connection has
to end.

``clients/golden/frames.json`` holds the bytes that this module and the Rust crate both have to make and to read.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Union

from .errors import DbufError

MAGIC = b"\xdbufd\r\n\x1a\x00"
"""What a framed connection opens with."""
HEAD_BYTES = 24
"""Bytes of every frame's head."""
VERSION = 1
"""The version of the protocol that this module speaks best."""
VERSION_MIN = 1
"""The oldest version that it still speaks."""
TAG_BYTES_MAX = 64
"""The longest tag or name, in bytes."""
LENGTH_MAX = 64 << 20
"""The largest length that a head may state, in bytes."""
CONTROL_BYTES_MAX = 4 << 10
"""The largest length of a frame that is neither an event nor ignorable, in bytes."""
IGNORABLE = 0x80
"""The bit of a frame type that lets a receiver skip it unread."""
PRI_MAX = 191
"""The highest value of an event's ``pri``: facility 23, priority 7."""
FIELDS_BYTES_MAX = 16 << 10
"""The most bytes that the fields of one event may take, all names and values together."""
FIELD_NAME_BYTES_MAX = 64
"""The longest name of a field, in bytes."""
FEATURE_FIELDS = 1 << 0
"""The bit, in HELLO and WELCOME, that lets events have fields."""

HELLO = 0x01
EVENT = 0x02
SYNC = 0x03
BYE = 0x04
EVENT_WITH_FIELDS = 0x05
RING = 0x06
WELCOME = 0x41
ACK = 0x42
ERROR = 0x43
GRANT = 0x44

_HEAD = struct.Struct("<IBBHQQ")
_HELLO = struct.Struct("<HH4xQQ16s")
_WELCOME = struct.Struct("<HHIQQ")
_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_FIELD = struct.Struct("<BI")

Buffer = Union[bytes, bytearray, memoryview]


class WireError(DbufError):
    """The bytes are not frames of this protocol; what follows them cannot be trusted."""


class Level(enum.IntEnum):
    """What an acknowledgement promises."""

    NONE = 0
    """Nothing: no acknowledgements, except those that SYNC asks for."""
    PERSISTED = 1
    """Written to the file: survives the daemon, not a loss of power."""
    DURABLE = 2
    """A sync has covered it: survives a loss of power."""

    @classmethod
    def of(cls, level: str | int) -> Level:
        """The level with this name or number."""
        try:
            return cls[level.upper()] if isinstance(level, str) else cls(level)
        except (KeyError, ValueError):
            raise ValueError(f"{level!r} is no level: none, persisted or durable") from None


class Code(enum.IntEnum):
    """What an ERROR is about."""

    TOO_BIG = 0x01
    MALFORMED = 0x02
    LOST = 0x03
    NO_RING = 0x04
    """There is no ring for this client now."""
    BROKEN = 0x80
    VERSION = 0x81
    BUSY = 0x82


def code_name(code: int) -> str:
    """The code's name in ``docs/PROTOCOL.md``, or its number if it is of a later version."""
    try:
        return Code(code).name.lower()
    except ValueError:
        return f"code {code}"


def is_final(code: int) -> bool:
    """Whether the connection ends with this code."""
    return code >= Code.BROKEN


@dataclass(frozen=True)
class Hello:
    """Client: its name and what it asks for; the first frame, once."""

    name: bytes = b""
    ack: Level = Level.NONE
    session: int = 0
    version: int = VERSION
    version_min: int = VERSION_MIN
    compatible: int = 0
    incompatible: int = 0


@dataclass(frozen=True)
class Event:
    """Client: one event."""

    sequence: int
    payload: bytes
    pri: int = 6
    tag: bytes = b""
    time_ns: int = 0
    fields: tuple[tuple[bytes, bytes], ...] = ()
    """Names and values."""


@dataclass(frozen=True)
class Sync:
    """Client: make everything before this durable now, and acknowledge it."""


@dataclass(frozen=True)
class Bye:
    """Client: nothing more will come."""


@dataclass(frozen=True)
class Ring:
    """Client: asks for a ring of this many bytes of data. This package has no use for one."""

    capacity: int


@dataclass(frozen=True)
class Welcome:
    """Daemon: the answer to HELLO."""

    last: int
    max_event: int
    version: int = VERSION
    compatible: int = 0
    incompatible: int = 0


@dataclass(frozen=True)
class Ack:
    """Daemon: every event up to ``sequence`` has reached ``level``, or was named by an ERROR before this."""

    level: Level
    sequence: int


@dataclass(frozen=True)
class Fault:
    """Daemon, as ERROR: what is not stored, or why the connection ends. A later version may have codes of its own."""

    code: int
    first: int
    last: int
    text: bytes = b""


@dataclass(frozen=True)
class Grant:
    """Daemon: here is the ring."""

    capacity: int


@dataclass(frozen=True)
class Ignored:
    """A frame of a later version that may be skipped."""

    kind: int


Frame = Union[Hello, Event, Sync, Bye, Ring, Welcome, Ack, Fault, Grant, Ignored]


class Head(NamedTuple):
    """The fixed part of a frame."""

    length: int
    kind: int
    detail: int
    tag_length: int
    sequence: int
    time_ns: int


def decode_head(data: Buffer, at: int = 0) -> Head | None:
    """Reads the head at ``at``; None if there are not enough bytes.

    Only what would make the rest of the stream unreadable is an error, and it is seen before the body has come.
    """
    if len(data) - at < HEAD_BYTES:
        return None
    head = Head._make(_HEAD.unpack_from(data, at))
    if head.length > LENGTH_MAX:
        raise WireError("a frame states a length beyond all bounds")
    if head.tag_length > head.length:
        raise WireError("a frame's tag is longer than the frame")
    if head.kind not in (EVENT, EVENT_WITH_FIELDS) and not head.kind & IGNORABLE and head.length > CONTROL_BYTES_MAX:
        raise WireError("a frame that is no event is too long")
    return head


def decode(data: Buffer, at: int = 0) -> tuple[Frame, int] | None:
    """Decodes the frame at ``at`` and says where the next begins; None if it is not whole yet."""
    head = decode_head(data, at)
    if head is None:
        return None
    start, end = at + HEAD_BYTES, at + HEAD_BYTES + head.length
    if len(data) < end:
        return None
    middle = start + head.tag_length
    return _from_parts(head, bytes(data[start:middle]), bytes(data[middle:end])), end


def _from_parts(head: Head, tag: bytes, payload: bytes) -> Frame:
    kind = head.kind
    if kind == EVENT:
        return Event(head.sequence, payload, head.detail, tag, head.time_ns)
    if kind == EVENT_WITH_FIELDS:
        fields, payload = _split_fields(payload)
        return Event(head.sequence, payload, head.detail, tag, head.time_ns, fields)
    if kind == HELLO:
        return _hello(head, tag, payload)
    if kind == SYNC:
        return Sync()
    if kind == BYE:
        return Bye()
    if kind == WELCOME:
        if len(payload) < _WELCOME.size:
            raise WireError("a WELCOME cut short")
        version, _, max_event, compatible, incompatible = _WELCOME.unpack_from(payload)
        return Welcome(head.sequence, max_event, version, compatible, incompatible)
    if kind == ACK:
        return Ack(_level(head.detail, "an ACK of unknown level"), head.sequence)
    if kind == ERROR:
        if len(payload) < _U64.size:
            raise WireError("an ERROR cut short")
        return Fault(head.detail, head.sequence, _U64.unpack_from(payload)[0], payload[_U64.size :])
    if kind in (RING, GRANT):
        if len(payload) < _U64.size:
            raise WireError("a RING or a GRANT cut short")
        (capacity,) = _U64.unpack_from(payload)
        return Ring(capacity) if kind == RING else Grant(capacity)
    if kind & IGNORABLE:
        return Ignored(kind)
    raise WireError("a frame of unknown type")


def pack_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of fields, as they stand in a frame and in a file.

    :raises ValueError: a name is empty or too long, or all together are.
    """
    parts = []
    for name, value in fields:
        if not 0 < len(name) <= FIELD_NAME_BYTES_MAX:
            raise ValueError(
                f"the field's name {name!r} has {len(name)} bytes, and may have 1 to {FIELD_NAME_BYTES_MAX}"
            )
        parts += [_FIELD.pack(len(name), len(value)), name, value]
    packed = b"".join(parts)
    if len(packed) > FIELDS_BYTES_MAX:
        raise ValueError(f"the fields take {len(packed)} bytes, and may take {FIELDS_BYTES_MAX}")
    return packed


def _split_fields(data: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    cut_off = "an event whose fields are cut off"
    if len(data) < _U32.size:
        raise WireError(cut_off)
    length = _U32.unpack_from(data)[0]
    if length > FIELDS_BYTES_MAX:
        raise WireError("an event whose fields are longer than 16 KiB")
    at, end = _U32.size, _U32.size + length
    if len(data) < end:
        raise WireError(cut_off)
    fields = []
    while at < end:
        name_length, value_length = _FIELD.unpack_from(data[:end], at) if end - at >= _FIELD.size else (0, 0)
        name_at = at + _FIELD.size
        value_at = name_at + name_length
        at = value_at + value_length
        if not 0 < name_length <= FIELD_NAME_BYTES_MAX or at > end:
            raise WireError("an event whose fields are no fields")
        fields.append((data[name_at:value_at], data[value_at:at]))
    return tuple(fields), data[end:]


def _hello(head: Head, name: bytes, payload: bytes) -> Hello:
    if len(payload) < _HELLO.size:
        raise WireError("a HELLO cut short")
    if len(name) > TAG_BYTES_MAX:
        raise WireError("a HELLO with too long a name")
    level = _level(head.detail, "a HELLO that asks for an unknown level")
    version, version_min, compatible, incompatible, session = _HELLO.unpack_from(payload)
    return Hello(name, level, int.from_bytes(session, "little"), version, version_min, compatible, incompatible)


def _level(number: int, otherwise: str) -> Level:
    try:
        return Level(number)
    except ValueError:
        raise WireError(otherwise) from None


def encode(frame: Frame) -> bytes:
    """The bytes of a frame. Tags, names and texts are cut to their bounds; a number out of its field is a ValueError.

    An :class:`Ignored` becomes an empty frame of its type.
    """
    try:
        return _encode(frame)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"a number does not fit into its field: {frame}") from error


def _encode(frame: Frame) -> bytes:
    if isinstance(frame, Event):
        fields = pack_fields(frame.fields)
        return encode_event(frame.sequence, frame.payload, frame.pri, frame.tag[:TAG_BYTES_MAX], frame.time_ns, fields)
    if isinstance(frame, Hello):
        session = frame.session.to_bytes(16, "little")
        features = frame.compatible, frame.incompatible
        body = _HELLO.pack(frame.version, frame.version_min, *features, session)
        return _control(HELLO, frame.ack, 0, body, frame.name[:TAG_BYTES_MAX])
    if isinstance(frame, Welcome):
        body = _WELCOME.pack(frame.version, 0, frame.max_event, frame.compatible, frame.incompatible)
        return _control(WELCOME, 0, frame.last, body)
    if isinstance(frame, Ack):
        return _control(ACK, frame.level, frame.sequence)
    if isinstance(frame, Fault):
        body = _U64.pack(frame.last) + frame.text[: CONTROL_BYTES_MAX - _U64.size]
        return _control(ERROR, frame.code, frame.first, body)
    if isinstance(frame, (Ring, Grant)):
        return _control(RING if isinstance(frame, Ring) else GRANT, body=_U64.pack(frame.capacity))
    if isinstance(frame, Sync):
        return _control(SYNC)
    if isinstance(frame, Bye):
        return _control(BYE)
    return _control(frame.kind)


def encode_event(sequence: int, payload: bytes, pri: int, tag: bytes, time_ns: int, fields: bytes = b"") -> bytes:
    """The bytes of an event whose parts are within their bounds; fast, for many. ``fields`` are packed."""
    if fields:
        length = len(tag) + _U32.size + len(fields) + len(payload)
        head = _HEAD.pack(length, EVENT_WITH_FIELDS, pri, len(tag), sequence, time_ns)
        return head + tag + _U32.pack(len(fields)) + fields + payload
    return _HEAD.pack(len(tag) + len(payload), EVENT, pri, len(tag), sequence, time_ns) + tag + payload


def _control(kind: int, detail: int = 0, sequence: int = 0, body: bytes = b"", tag: bytes = b"") -> bytes:
    return _HEAD.pack(len(tag) + len(body), kind, detail, len(tag), sequence, 0) + tag + body
