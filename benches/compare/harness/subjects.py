"""What is measured: the floors and dbufd. The peers, in peers.py, have the same shape."""

import os
import time

from . import dbufd, processes

PRODUCERS = 2
# How long a subject may make no progress before what is missing is lost.
STALL_SECONDS = 15
SENDER_SECONDS = 300


class Run:
    """One run of one subject: where it may put things, and what is sent."""

    def __init__(self, bench, workload, events):
        self.bench, self.programs = bench, bench.programs
        self.folder, self.sockets = bench.folder / "run", bench.short / "run"
        self.sizes, self.each = workload.sizes, events // PRODUCERS
        self.events = self.each * PRODUCERS
        self.bytes = workload.bytes_of(self.each)


class Subject:
    """A thing to measure. `share` is the part of the events that it gets, with 100 bytes and with mixed sizes: a slow
    subject gets fewer, so that a run of each takes about as long."""

    # The program of both senders.
    sender = "send"

    def __init__(self, group, name, transport, share):
        self.group, self.name, self.transport, self.share = group, name, transport, share
        self.title = f"{group}: {name}"

    def version(self, bench):
        """Of what is measured, or Failure with what is to be installed."""
        return None

    def does(self, workload):
        """Why it does not do this workload, or nothing."""
        return None

    def start(self, run):
        """Starts it, and sets `pids`; returns when senders may come."""

    def senders(self, run):
        send = run.programs.get(self.sender)
        return [
            processes.start_sender(
                [send, self.transport, self.target(run), producer, run.each, run.sizes],
                run.sockets / f"sender{producer}",
            )
            for producer in range(PRODUCERS)
        ]

    def wait(self, run):
        """Returns when all that the senders have sent is in the file, or when nothing happens any more. Gives the time
        of that, if it is over."""

    def daemon_cpu_us(self, all_us, senders_us):
        """Of what `pids` have used, what is not the senders'."""
        return all_us

    def stop(self, run):
        pass

    def files(self, run):
        return [run.folder / "out"]

    def disk_bytes(self, run):
        return sum(file.stat().st_blocks * 512 for file in self.files(run))

    def verify(self, run):
        """What verify found."""
        return verify(run, "lines", self.files(run))


def verify(run, how, files=(), source=None):
    """Runs verify on files, or on what another command prints."""
    command = [run.programs.get("verify"), how, PRODUCERS, run.each, run.sizes, *files]
    return processes.pipe_json(source, command)


def wait_for_bytes(files, wanted, process=None):
    """Until some files have this many bytes, or do not grow any more."""
    last, changed = -1, time.monotonic()
    while True:
        have = sum(os.stat(file).st_size for file in files if os.path.exists(file))
        if have >= wanted:
            return None
        if have != last:
            last, changed = have, time.monotonic()
        if time.monotonic() - changed > STALL_SECONDS:
            return changed
        if process is not None and process.poll() is not None:
            raise processes.Failure(f"it ended with {process.returncode}: {processes.said(process)}")
        time.sleep(0.001)


class Floor(Subject):
    """Memory and disk alone: a program that says itself what it took."""

    def __init__(self, name, how):
        super().__init__("floor", name, how, (1, 1))

    def measure(self, run):
        run.folder.mkdir()
        # A newline each, as in the files of the others.
        size = run.bytes + run.events
        output = processes.run([run.programs.get("floors"), self.transport, run.folder / "out", size])
        return processes.parse(output)


class Barest(Subject):
    def __init__(self, transport, share):
        super().__init__("floor", f"barest {transport}", transport, share)

    def target(self, run):
        return run.sockets / "sock"

    def start(self, run):
        command = [run.programs.get("barest"), self.transport, self.target(run), run.folder / "out", run.events]
        self.process = processes.start(command, run.sockets / "log", stdout=processes.PIPE, bufsize=0)
        self.pids = [self.process.pid]
        processes.await_line(self.process, "the barest program")

    def wait(self, run):
        processes.wait_until("the end", lambda: processes.has_ended(self.process), SENDER_SECONDS)

    def stop(self, run):
        processes.end(self.process)


class Dbufd(Subject):
    def __init__(self, transport, sync, share, until_durable=False):
        end = ", then a sync" if until_durable else ""
        super().__init__("dbufd", f"{transport}, sync = {sync}{end}", transport, share)
        self.sync, self.until_durable = sync, until_durable
        if transport in ("ring", "frames"):
            self.sender = "send_dbuf"

    def version(self, bench):
        return processes.run([bench.dbufd, "--version"]).strip() if bench.dbufd else None

    def target(self, run):
        return run.sockets / "run" / ("dgram.sock" if self.transport == "datagrams" else "stream.sock")

    def start(self, run):
        self.daemon = dbufd.Daemon(run.bench.dbufd, run.sockets / "run", run.folder / "segments", self.sync)
        self.pids = [self.daemon.process.pid]

    def wait(self, run):
        last, changed = None, time.monotonic()
        while True:
            have = self.daemon.events()
            if sum(have) >= run.events:
                if self.until_durable:
                    self.daemon.sync()
                return None
            if have != last:
                last, changed = have, time.monotonic()
            if time.monotonic() - changed > STALL_SECONDS:
                return changed
            time.sleep(0.002)

    def stop(self, run):
        self.daemon.stop()

    def files(self, run):
        return [file for file in (run.folder / "segments").rglob("*") if file.is_file()]

    def verify(self, run):
        return verify(run, "lines", source=self.daemon.cat())


def all_of_them():
    yield Floor("memcpy", "memcpy")
    yield Floor("disk, write", "write")
    yield Floor("disk, write, sync_file_range", "sync-file-range")
    yield Floor("disk, write, fdatasync", "fdatasync")
    yield Barest("lines", (1, 1))
    yield Barest("datagrams", (0.1, 1))
    for transport, share in (("ring", (1, 1)), ("lines", (1, 1)), ("frames", (0.1, 1)), ("datagrams", (0.1, 1))):
        for sync in ("never", "1s"):
            yield Dbufd(transport, sync, share)
        if transport == "lines":
            # What "disk, write, fdatasync" is to be held against.
            yield Dbufd(transport, "1s", share, until_durable=True)
