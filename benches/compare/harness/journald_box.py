"""Starts systemd-journald as the service manager would, in a mount namespace that is this process's own.

    unshare --mount python3 journald_box.py FOLDER JOURNALD

Nothing outside changes: /run is an empty file system here, and FOLDER is where the journal is. The sockets can be
reached from outside through /proc/PID/root.
"""

import os
import pathlib
import socket
import subprocess
import sys

RECEIVE_BYTES = 8 << 20  # as in systemd-journald.socket
SO_RCVBUFFORCE = 33
CONFIGURATION = """[Journal]
Storage=persistent
RateLimitIntervalSec=0
RateLimitBurst=0
SystemMaxUse=1T
SystemKeepFree=1
ReadKMsg=no
Audit=no
ForwardToSyslog=no
ForwardToWall=no
"""


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


def bind(path, kind):
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(path)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
    except PermissionError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    if kind == socket.SOCK_STREAM:
        made.listen(128)
    return made


def main():
    folder, journald = sys.argv[1:]
    # By its descriptor, for its path may be below what is covered.
    place = os.open(folder, os.O_PATH)
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "tmpfs", "/run")
    mount("-t", "tmpfs", "tmpfs", "/var/log")
    os.mkdir("/var/log/journal")
    mount("--bind", f"/proc/{os.getpid()}/fd/{place}", "/var/log/journal")
    os.close(place)
    journal = pathlib.Path("/run/systemd/journal")
    journal.mkdir(parents=True)
    # Straight to the disk, as after a boot.
    (journal / "flushed").touch()
    settings = pathlib.Path("/run/systemd/journald.conf.d")
    settings.mkdir()
    (settings / "compare.conf").write_text(CONFIGURATION)
    sockets = [
        bind(str(journal / "stdout"), socket.SOCK_STREAM),
        bind(str(journal / "dev-log"), socket.SOCK_DGRAM),
        bind(str(journal / "socket"), socket.SOCK_DGRAM),
    ]
    # Out of the way first, so that none is overwritten.
    high = [os.dup(made.fileno()) for made in sockets]
    high = [os.dup2(descriptor, 100 + at, inheritable=True) for at, descriptor in enumerate(high)]
    for at, descriptor in enumerate(high):
        os.dup2(descriptor, 3 + at, inheritable=True)
        os.close(descriptor)
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high)), "PATH": os.environ.get("PATH", "")}
    os.execve(journald, [journald], environment)


if __name__ == "__main__":
    main()
