"""One run of one subject, from its start to the proof that all is there."""

import contextlib
import os
import shutil
import time

from . import processes
from .subjects import SENDER_SECONDS, Floor, Run

BLOCK = b"\1" * (1 << 20)


class Workload:
    def __init__(self, name, sizes, events, programs):
        self.name, self.sizes, self.events, self.programs = name, sizes, events, programs
        self.known = {}

    def bytes_of(self, each):
        """The payload of this many events of each producer."""
        if each not in self.known:
            output = processes.run([self.programs.get("verify"), "bytes", 2, each, self.sizes])
            self.known[each] = processes.parse(output)["bytes"]
        return self.known[each]


def warm(folder, size):
    """Touches more memory, as a file's, than any run takes. Memory that a virtual machine's host took back is slow at
    its first touch, and the first program to run after it was given back would pay for all."""
    path = folder / "warm"
    with open(path, "wb", buffering=0) as file:
        for _ in range(0, size, len(BLOCK)):
            file.write(BLOCK)
    path.unlink()


def measure(bench, subject, workload):
    """What a run took, as a dictionary; or Failure."""
    share = subject.share[0 if "." not in workload.sizes else 1]
    events = max(int(workload.events * share), min(workload.events, 1000))
    run = Run(bench, workload, events)
    if not bench.chosen.quick:
        # What the run before has left to write is not this one's. First, for it takes a while, in which memory cools.
        os.sync()
        warm(bench.folder, 2 * workload.bytes_of(workload.events // 2))
    try:
        result = floor(subject, run) if isinstance(subject, Floor) else daemon(subject, run)
    finally:
        shutil.rmtree(run.folder, ignore_errors=True)
        shutil.rmtree(run.sockets, ignore_errors=True)
    result |= {"events": run.events, "bytes": run.bytes}
    return result


def floor(subject, run):
    return subject.measure(run) | {"disk_bytes": 0 if subject.transport == "memcpy" else run.bytes + run.events}


def daemon(subject, run):
    for folder in (run.folder, run.sockets):
        folder.mkdir()
        # Where a subject runs as another user, its files are below.
        folder.chmod(0o711)
    senders, memory, stopped = [], None, False
    try:
        subject.start(run)
        senders = subject.senders(run)
        pids = processes.tree(subject.pids)
        memory = processes.Memory(pids)
        before = processes.cpu_seconds(pids)
        begin = time.monotonic()
        processes.go(senders)
        reports = [processes.report_of(sender, SENDER_SECONDS) for sender in senders]
        seconds = (subject.wait(run) or time.monotonic()) - begin
        # It may have begun others meanwhile.
        cpu = processes.cpu_seconds(processes.tree(subject.pids)) - before
        peak = memory.stop()
        for sender in senders:
            processes.check(sender, "a sender")
        stopped = True
        subject.stop(run)
        found = subject.verify(run)
        sender_cpu_us = sum(report["cpu_us"] for report in reports)
        return {
            "seconds": seconds,
            "cpu_us": subject.daemon_cpu_us(cpu * 1e6, sender_cpu_us),
            "sender_cpu_us": sender_cpu_us,
            "memory_bytes": peak,
            "disk_bytes": subject.disk_bytes(run),
            "found": found,
        }
    finally:
        if memory:
            memory.stop()
        for sender in senders:
            processes.end(sender, timeout=0)
        if not stopped:
            # After a failure nothing that this subject has started is to be left; what it says now is of no interest.
            with contextlib.suppress(Exception):
                subject.stop(run)
            processes.end_all()
