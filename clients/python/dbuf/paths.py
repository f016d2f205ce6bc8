"""Finds where the daemon listens, by the rule of dbufctl, so that both mean the same daemon."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Mapping
from typing import Union

SYSTEM_RUNTIME_DIR = "/run/dbufd"
STREAM_SOCKET = "stream.sock"

Path = Union[str, "os.PathLike[str]"]

_AT_SECURE = 23
"""The entry of the auxiliary vector that says whether the program runs with another's rights, see getauxval(3)."""
_AUXILIARY = struct.Struct("@LL")
_REMEDIES = {
    errno.ENOENT: " (is dbufd running?)",
    errno.ECONNREFUSED: " (is dbufd running?)",
    errno.EACCES: " (the socket's mode does not let this user in: SocketMode= in dbufd.socket, or ingest.socket_mode)",
}


def why_not_connected(path: str, error: OSError) -> str:
    """Why there is no connection, and what to do about it where that is certain."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"cannot connect to {path}: {reason}{_REMEDIES.get(error.errno or 0, '')}"


def default_path() -> str:
    """The path of ``stream.sock``.

    The first that applies: what systemd says in ``RUNTIME_DIRECTORY``; for root ``/run/dbufd``; for another user
    ``$XDG_RUNTIME_DIR/dbufd``, without that a private folder in the temporary directory. If no daemon has its socket
    there, the path is that of the machine's daemon, if that has one. A program that runs with another's rights, as a
    setuid program does, does not believe its environment.
    """
    environment: Mapping[str, str] = {} if _runs_with_others_rights() else os.environ
    own = runtime_dir(environment, os.geteuid(), environment.get("TMPDIR") or "/tmp")
    system = os.path.join(SYSTEM_RUNTIME_DIR, STREAM_SOCKET)
    if own is None:
        return system
    path = os.path.join(own, STREAM_SOCKET)
    return system if not os.path.exists(path) and os.path.exists(system) else path


def runtime_dir(environment: Mapping[str, str], uid: int, temporary: str) -> str | None:
    """Where this user's daemon has its sockets; None if the only place may belong to another user."""
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


def may_listen(path: str, uid: int) -> bool:
    """Whether a daemon of this user may have its socket there.

    Between the look at a folder in the temporary directory and the connect, another user may have put a folder of their
    own there. So the listener counts, too: the kernel says whose it is.
    """
    own = os.geteuid()
    is_temporary = os.path.basename(os.path.dirname(path)) == f"dbufd-{own}"
    return not is_temporary or uid in (0, own)


def _is_private(path: str, uid: int) -> bool:
    # Everybody can make a folder in the temporary directory, and would then answer in the daemon's name.
    try:
        status = os.lstat(path)
    except OSError:
        return True
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o077


def _runs_with_others_rights() -> bool:
    if os.getuid() != os.geteuid() or os.getgid() != os.getegid():
        return True
    try:
        with open("/proc/self/auxv", "rb") as file:
            vector = file.read()
    except PermissionError:
        return True  # The kernel hides it where a program has another's rights.
    except OSError:
        return False
    return any(value for kind, value in _AUXILIARY.iter_unpack(vector) if kind == _AT_SECURE)
