"""Guards the sockets of this package against a program that closes or replaces descriptors which are not its own.

Enters: a socket that was just made. Leaves: the same socket, whose every use first checks that its descriptor still
means it. What can fail: the check; then the program has closed the descriptor, or has put a file of its own in its
place, as a daemonizing program does. Such a descriptor is never written to, read from or closed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct

from . import paths, process

_CREDENTIALS = struct.Struct("=iII")
"""What the kernel says of a listener: pid, uid, gid."""
_FIRST = 3
"""No descriptor below this is used: a program that has closed its standard streams still prints to them."""


class NotOurs(OSError):
    """The descriptor is closed, or means something else by now."""

    def __init__(self) -> None:
        super().__init__(errno.EBADF, "the program closed or replaced the descriptor")


class OwnedSocket:
    """A socket that checks its descriptor before each use. Sockets have unique inodes, so the check is exact."""

    def __init__(self, made: socket.socket) -> None:
        if made.fileno() < _FIRST:
            with made:
                moved = fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, _FIRST)
            made = socket.socket(fileno=moved)
        self._socket = made
        self._number = made.fileno()
        try:
            status = os.fstat(self._number)
        except OSError:
            made.detach()
            raise NotOurs from None
        if not stat.S_ISSOCK(status.st_mode):
            # Another thread has closed it already, and the program has a file of that number.
            made.detach()
            raise NotOurs
        self._identity = status.st_dev, status.st_ino

    def is_ours(self) -> bool:
        """Whether the descriptor still means this socket."""
        try:
            status = os.fstat(self._number)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def fileno(self) -> int:
        """The number of the descriptor, for a poll. :raises NotOurs:"""
        number = self._checked().fileno()
        if number < 0:
            # Another thread has closed it since the check.
            raise NotOurs
        return number

    def connect(self, path: str, timeout: float | None) -> None:
        """Connects, within this many seconds; 0 for at once or not at all. :raises NotOurs:"""
        made = self._checked()
        try:
            made.settimeout(timeout)
            made.connect(path)
            credentials = made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            if not self.is_ours():
                raise NotOurs from None
            raise
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if not paths.may_listen(path, uid):
            raise OSError(f"a program of the user {uid} listens there")

    # A program may have taken back that Python ignores SIGPIPE: a lost connection must not end it.

    def send(self, data: bytes | memoryview) -> int:
        """Sends what there is room for, and returns how many bytes that are."""
        return self._checked().send(data, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)

    def send_all(self, data: bytes, timeout: float | None) -> None:
        """Sends all, within this many seconds."""
        made = self._checked()
        made.settimeout(timeout)
        made.sendall(data, socket.MSG_NOSIGNAL)

    def receive(self, bytes_max: int) -> bytes:
        """What has come; nothing at the end of the connection."""
        return self._checked().recv(bytes_max, socket.MSG_DONTWAIT)

    def shut_down(self) -> None:
        """Ends the connection for every descriptor of it, also one that another thread waits for."""
        try:
            self._checked().shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """Closes the descriptor if it still means this socket, and forgets it otherwise."""
        with process.no_fork():
            if self.is_ours():
                try:
                    self._socket.close()
                except OSError:
                    pass  # Another thread has closed it since the check.
            else:
                self._socket.detach()
            self._number = -1

    def _checked(self) -> socket.socket:
        if not self.is_ours():
            raise NotOurs
        return self._socket

    def __del__(self) -> None:
        # The destructor of the socket itself would close whatever has the number by now.
        if hasattr(self, "_identity"):
            self.close()


class Bell:
    """Wakes a thread that waits in a poll."""

    def __init__(self) -> None:
        ear, rope = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.ear = OwnedSocket(ear)
        self._rope = OwnedSocket(rope)

    def ring(self, why: bytes) -> bool:
        """Wakes the thread. False if it cannot be reached, because a descriptor is not ours any more."""
        try:
            self._rope.send(why)
        except BlockingIOError:
            pass  # It rings already.
        except OSError:
            return False
        return True

    def heard(self) -> bytes:
        """Why it rang."""
        try:
            return self.ear.receive(64)
        except OSError:
            return b""

    def is_ours(self) -> bool:
        """Whether both ends still are what they were."""
        return self.ear.is_ours() and self._rope.is_ours()

    def close(self) -> None:
        """Closes both ends."""
        self.ear.close()
        self._rope.close()
