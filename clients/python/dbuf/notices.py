"""Writes a line on standard error when events are in danger.

Enters: a text. Leaves: one line, by one write(2) to descriptor 2: ``sys.stderr`` may have been replaced by something
that logs, and the line would come back to the handler that wrote it. What can fail: descriptor 2 is closed, or full;
then there is no line.
"""

from __future__ import annotations

import errno
import os
import select
import signal

_STANDARD_ERROR = 2
_LINE_BYTES_MAX = 2048
"""A pipe that takes anything takes this much without a wait (PIPE_BUF is 4096)."""


def notify(text: str) -> None:
    """Writes ``dbuf: text`` and a newline. Never waits, and never raises anything."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    line = b"dbuf: " + plain.encode("utf-8", "surrogateescape")[:_LINE_BYTES_MAX] + b"\n"
    # A program may have taken back that Python ignores SIGPIPE.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        poll = select.poll()
        poll.register(_STANDARD_ERROR, select.POLLOUT)
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(_STANDARD_ERROR, line)
    except OSError as error:
        if error.errno == errno.EPIPE and signal.SIGPIPE not in before:
            # Taken from the thread before it is let in again.
            signal.sigtimedwait({signal.SIGPIPE}, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
