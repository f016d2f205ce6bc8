"""Where the daemon listens: the rule of dbufctl, so that both mean the same daemon."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

SYSTEM_RUNTIME_DIR = "/run/dbufd"
STREAM_SOCKET = "stream.sock"


def default_path() -> str:
    """The path of ``stream.sock``.

    The first that applies: what systemd says in ``RUNTIME_DIRECTORY``; for root ``/run/dbufd``; for another user
    ``$XDG_RUNTIME_DIR/dbufd``, without that a private folder in the temporary directory. Where no daemon has its
    socket there, that of the whole machine, if it has one.
    """
    own = runtime_dir(os.environ, os.geteuid(), os.environ.get("TMPDIR") or "/tmp")
    system = os.path.join(SYSTEM_RUNTIME_DIR, STREAM_SOCKET)
    if own is None:
        return system
    path = os.path.join(own, STREAM_SOCKET)
    return system if not os.path.exists(path) and os.path.exists(system) else path


def runtime_dir(environment: Mapping[str, str], uid: int, temporary: str) -> str | None:
    """Where this user's daemon has its sockets; None if the only place may be somebody else's."""
    for listed in environment.get("RUNTIME_DIRECTORY", "").split(":"):
        if listed:
            return listed
    if uid == 0:
        return SYSTEM_RUNTIME_DIR
    # The XDG specification says that a relative path is to be ignored.
    xdg = environment.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(xdg):
        return os.path.join(xdg, "dbufd")
    private = os.path.join(temporary, f"dbufd-{uid}")
    return private if _is_private(private, uid) else None


def _is_private(path: str, uid: int) -> bool:
    # Everybody can make a folder in the temporary directory, and would then answer in the daemon's name.
    try:
        status = os.lstat(path)
    except OSError:
        return True
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o077
