"""Why a call failed. Everything that this package raises of its own is a :class:`DbufError`, or a ValueError for an
argument that could never be right."""

from __future__ import annotations


class DbufError(Exception):
    """Something of this package failed."""


class Closed(DbufError):
    """The client was closed."""


class Full(DbufError):
    """Not taken: as much as the client may keep waits for the daemon already."""


class NotConnected(DbufError):
    """No daemon answers; the text says why."""


class TimedOut(DbufError):
    """Not yet; a later call may succeed."""


class Invalid(DbufError, ValueError):
    """Not sent: the event breaks a rule of the protocol."""


class TooBig(Invalid):
    """Not sent: larger than the daemon takes, or than the client may keep."""


class SessionTaken(DbufError):
    """Another client sends in the same session, so that nobody can tell which event is whose."""


class NotStored(DbufError):
    """Not all is durable. ``refused`` events are not stored: :class:`dbuf.Refusal` names them. Of ``unconfirmed``
    events nobody knows: they had left this client when the daemon was replaced by one that does not know of them."""

    def __init__(self, refused: int, unconfirmed: int) -> None:
        parts = []
        if refused:
            parts.append("1 event was not stored" if refused == 1 else f"{refused} events were not stored")
        if unconfirmed:
            parts.append(f"whether {unconfirmed} events are durable is not known: the daemon that had them is gone")
        super().__init__("; ".join(parts))
        self.refused = refused
        self.unconfirmed = unconfirmed
