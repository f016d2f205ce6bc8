"""Turns what a program gives into the bytes of an event, and refuses what has none.

Enters: texts, tags, priorities, fields. Leaves: bytes and numbers within the protocol's bounds. What can fail: a value
of another type, or out of its bounds, with :class:`dbuf.Invalid`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Union

from . import wire
from .errors import Invalid

Bytes = Union[str, bytes, bytearray, memoryview]
"""A text, which is sent as UTF-8, or bytes, which are sent as they are."""
FieldValue = Union[Bytes, int]
"""What a field may have: a text, bytes, or a whole number, which becomes its decimal digits."""


class PackedFields(bytes):
    """Fields in the bytes of a frame, as :func:`pack_fields` makes them."""


Fields = Union[Mapping[str, FieldValue], Sequence[tuple[str, FieldValue]], PackedFields]
"""Names and values of fields. A name may come more than once in pairs."""

_NAME = re.compile(r"[A-Z0-9_]+")
_OTHER = re.compile(r"[^A-Z0-9_]")
_BEFORE_LETTER = re.compile(r"^[^A-Z]+")


class Priority(enum.IntEnum):
    """The priorities of syslog."""

    EMERG = 0
    ALERT = 1
    CRIT = 2
    ERR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


def to_bytes(text: Bytes, what: str = "payload") -> bytes:
    """The bytes of a text or of bytes. Never of a number: ``bytes(17)`` would be 17 NUL bytes.

    A text that Python made of bytes which are not UTF-8, as in names of files, becomes these bytes again.
    """
    if isinstance(text, str):
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return text.encode("utf-8", "backslashreplace")
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    raise Invalid(f"the {what} is of type {type(text).__name__}; allowed: str, bytes")


def to_tag(tag: Bytes) -> bytes:
    """The bytes of a tag or name."""
    label = to_bytes(tag, "tag")
    if len(label) > wire.TAG_BYTES_MAX:
        raise Invalid(f"the tag {label!r} is longer than {wire.TAG_BYTES_MAX} bytes")
    return label


def check_number(what: str, number: int, number_max: int) -> None:
    """Refuses what is not a whole number from 0 to the maximum."""
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= number_max:
        raise Invalid(f"the {what} is {number!r}; allowed: 0 to {number_max}")


def pack_fields(fields: Fields) -> PackedFields:
    """The bytes of an event's fields, for :meth:`dbuf.Client.send`. A program that sends many events with the same
    fields packs them once.

    :raises dbuf.Invalid: a name or a value is not allowed, or all together take more than 16 KiB.
    """
    if isinstance(fields, PackedFields):
        return fields
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    try:
        packed = wire.pack_fields([(_name_bytes(name), _value_bytes(name, value)) for name, value in pairs])
    except ValueError as error:
        raise Invalid(str(error)) from None
    return PackedFields(packed)


@lru_cache(maxsize=1024)
def _name_bytes(name: str) -> bytes:
    # The rule of `dbufctl send --field`.
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(f"the field's name is {name!r}; allowed: capital letters, digits and underscores")
    return name.encode()


def _value_bytes(name: str, value: FieldValue) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value)).encode()
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return to_bytes(value)
    raise Invalid(f"the field {name} is of type {type(value).__name__}; allowed: str, bytes, int")


@lru_cache(maxsize=1024)
def field_name(name: str) -> str:
    """The name in capital letters, digits and underscores, the first a letter, cut to the longest that is allowed:
    what the backends of the Rust crate make of a name, too."""
    # Only ASCII letters have capitals here.
    capitals = "".join(character.upper() if character.isascii() else "_" for character in name)
    plain = _BEFORE_LETTER.sub("", _OTHER.sub("_", capitals))
    return plain[: wire.FIELD_NAME_BYTES_MAX] or "FIELD"


def shortened(payload: bytes, bytes_max: int) -> bytes:
    """The payload, cut to this many bytes where a character begins, and with a word about it at its end."""
    words = b" [%d bytes cut]"
    room = bytes_max - len(words % len(payload))
    if room <= 0:
        return payload[:bytes_max]
    for at in range(room, max(room - 4, 0), -1):
        if payload[at] & 0xC0 != 0x80:
            room = at
            break
    return payload[:room] + words % (len(payload) - room)
