"""Sends events to dbufd.

* :class:`Client` sends frames: it learns what is persisted, durable or lost, and survives the daemon's restarts.
* :class:`Handler` does so for the :mod:`logging` module.
* :class:`LineClient` sends text lines, and learns nothing.
* :mod:`dbuf.wire` is the framed protocol itself, as ``docs/PROTOCOL.md`` describes it.

>>> import dbuf
>>> with dbuf.Client("shop") as client:                           # doctest: +SKIP
...     client.send("order 17 accepted")
...     client.send("card refused", priority=dbuf.Priority.ERR, tag="billing")
...     client.sync()                                             # both are on the disk now
"""

from .client import Client
from .errors import (
    Closed,
    DbufError,
    Full,
    Invalid,
    NotConnected,
    NotStored,
    SessionTaken,
    TimedOut,
    TooBig,
)
from .handler import Handler
from .lines import LineClient
from .paths import default_path
from .unacknowledged import Refusal, Statistics
from .values import Bytes, Fields, FieldValue, PackedFields, Priority, pack_fields
from .wire import Code, Level, WireError

__all__ = [
    "Bytes",
    "Client",
    "Closed",
    "Code",
    "DbufError",
    "FieldValue",
    "Fields",
    "Full",
    "Handler",
    "Invalid",
    "Level",
    "LineClient",
    "NotConnected",
    "NotStored",
    "PackedFields",
    "Priority",
    "Refusal",
    "SessionTaken",
    "Statistics",
    "TimedOut",
    "TooBig",
    "WireError",
    "default_path",
    "pack_fields",
]

__version__ = "0.1.0"
