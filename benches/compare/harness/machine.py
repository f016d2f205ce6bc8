"""The machine's facts, without which no figure means anything."""

import contextlib
import ctypes
import os
import pathlib
import platform

from . import processes

QUEUE = pathlib.Path("/proc/sys/net/unix/max_dgram_qlen")
# What systemd sets where it is process 1; the kernel's own default is 10.
QUEUE_LENGTH = 512
CLONE_NEWNET = 0x40000000


def use_systemds_queue():
    """Makes datagram queues as long as systemd makes them on nearly every machine, in a network namespace of this
    program's own. That takes root. Otherwise they stay as they are, and the facts say how long."""
    if os.geteuid() != 0 or int(QUEUE.read_text()) >= QUEUE_LENGTH or ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        return
    with contextlib.suppress(OSError):
        QUEUE.write_text(str(QUEUE_LENGTH))


def first(path, key):
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return "unknown"


def file_system(folder):
    """Type and device of the file system that a folder is on: the mount whose path is the longest prefix of the
    folder's."""
    best = ("", "unknown", "unknown")
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind = line.split()[:3]
        if (str(folder) + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(best[0]):
            best = (mount, kind, device)
    return f"{best[1]} on {best[2]}"


def facts(folder):
    return {
        "processor": first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{int(first('/proc/meminfo', 'MemTotal').split()[0]) / (1 << 20):.0f} GiB",
        "file system": file_system(folder.resolve()),
        "kernel": platform.release(),
        "datagram queue": QUEUE.read_text().strip(),
        "compiler": version(["cc", "--version"]),
    }


def version(command):
    try:
        return processes.run(command).splitlines()[0].strip()
    except processes.Failure:
        return "none"
