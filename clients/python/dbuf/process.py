"""Handles the fork and the end of a process for the clients in it.

A child must not go on with its parent's connection: both would write into one stream, and the daemon would take the
child's events for its parent's. A process that ends must not lose what a moment would have saved.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .link import Link


class Forks(Protocol):
    """An object that has to know that it is in a child now."""

    def _in_child(self) -> None: ...


_forking: weakref.WeakSet[Any] = weakref.WeakSet()
_links: set[Link] = set()
"""The links whose threads run here. Strong references: a client that was dropped has events to deliver."""
_making = threading.RLock()
_is_ending = False
_pid = os.getpid()


def no_fork() -> threading.RLock:
    """A lock to hold while a socket is made and stored, and while it is closed and forgotten: a child that another
    thread forks in between would have a descriptor that nothing there closes. A signal handler may still fork.
    """
    return _making


def begin_anew_in_child(forks: Forks) -> None:
    """Calls ``_in_child`` in a child, before anything else runs there."""
    _forking.add(forks)


def check() -> None:
    """Notices a fork that Python does not know of: uWSGI's, unless it is told to call Python's hooks.

    Called before a lock is taken: in such a child it may be held by a thread that does not exist there.
    """
    if os.getpid() != _pid:
        _after_fork_in_child()


def keep(link: Link) -> None:
    """Closes this link in a child, and finishes it when the process ends."""
    if link in _links:
        return
    _links.add(link)
    # A child of multiprocessing leaves without atexit. The last of its finalizers, so that others may still log.
    parent = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if parent is not None and util is not None and parent.parent_process() is not None:
        util.Finalize(None, _settle_all, exitpriority=-1000)


def forget(link: Link) -> None:
    """This link has ended."""
    _links.discard(link)


def is_ending() -> bool:
    """Whether the clients of this process have been finished already: no one waits for what is sent from here on."""
    return _is_ending


def _settle_all() -> None:
    check()
    for link in list(_links):
        link.settle()


def _after_fork_in_child() -> None:
    global _pid, _making
    _pid = os.getpid()
    # A new one: the fork may have been one that Python does not know of, while another thread held the lock.
    _making = threading.RLock()
    for link in list(_links):
        link.let_go()
    _links.clear()
    for forks in list(_forking):
        forks._in_child()


def _at_exit() -> None:
    global _is_ending
    check()
    _is_ending = True
    for link in list(_links):
        if not link.has_owner_at_exit:
            link.finish(link.drop_timeout)


os.register_at_fork(
    before=lambda: _making.acquire(),
    after_in_parent=lambda: _making.release(),
    after_in_child=_after_fork_in_child,
)
atexit.register(_at_exit)
