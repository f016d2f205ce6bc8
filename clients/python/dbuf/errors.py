"""Names the reasons why a call fails.

Everything that this package raises itself is a :class:`DbufError`, or a ValueError for an argument that can never be
right.
"""

from __future__ import annotations


class DbufError(Exception):
    """The base of all errors of this package."""


class Closed(DbufError):
    """The client is closed, or has failed for good."""


class Full(DbufError):
    """The event was not taken: the events that wait for the daemon use up ``buffer_bytes``."""


class NotConnected(DbufError):
    """There is no connection to a daemon; the text says why."""


class TimedOut(DbufError):
    """Not yet durable; a later call may succeed."""


class Invalid(DbufError, ValueError):
    """The event was not sent: it breaks a rule of the protocol."""


class TooBig(Invalid):
    """The event was not sent: it is larger than the daemon takes, or than the client may keep."""


class SessionTaken(DbufError):
    """Another client sends in the same session, so the daemon cannot tell their events apart."""


class NotStored(DbufError):
    """Not all events are durable. ``refused`` events are not stored; :class:`dbuf.Refusal` names them. ``unconfirmed``
    events may be stored: a daemon took them and died, and the next daemon does not know of them."""

    def __init__(self, refused: int, unconfirmed: int) -> None:
        parts = []
        if refused:
            parts.append("1 event was not stored" if refused == 1 else f"{refused} events were not stored")
        if unconfirmed:
            events, these = ("1 event is", "it is") if unconfirmed == 1 else (f"{unconfirmed} events are", "most are")
            parts.append(
                f"{events} unconfirmed: the daemon took them and died before it called them durable; "
                f"{these} probably stored"
            )
        super().__init__("; ".join(parts))
        self.refused = refused
        self.unconfirmed = unconfirmed
