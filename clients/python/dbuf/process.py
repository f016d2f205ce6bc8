"""What happens to clients when their process forks or ends.

A child must not go on with its parent's connection: both would write into one stream, and the daemon would take the
child's events for its parent's. A process that ends should not take with it what a moment would have saved.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Any, Callable, Protocol


class Forks(Protocol):
    """Something that is to be told that it is in a child now."""

    def _in_child(self) -> None: ...


class Ends(Protocol):
    """Something that is to be told that the process ends."""

    def _at_exit(self) -> None: ...


_forking: weakref.WeakSet[Any] = weakref.WeakSet()
_ending: weakref.WeakSet[Any] = weakref.WeakSet()


def tell_of_fork(forks: Forks) -> None:
    """Calls ``_in_child`` in a child, before anything else runs there."""
    _forking.add(forks)


def tell_of_exit(ends: Ends) -> None:
    """Calls ``_at_exit`` when the interpreter ends."""
    _ending.add(ends)


def leave_exit_to_owner(ends: Ends) -> None:
    """Somebody else sees to its end."""
    _ending.discard(ends)


def before_child_ends(drain: Callable[[], object]) -> None:
    """Calls ``drain`` when this process ends, if it is one of multiprocessing: these leave without atexit."""
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, drain, exitpriority=0)


def _after_fork_in_child() -> None:
    for forks in list(_forking):
        forks._in_child()


def _at_exit() -> None:
    for ends in list(_ending):
        ends._at_exit()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
