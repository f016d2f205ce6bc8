"""What a user could take instead: logging daemons, and libraries that need none.

Each gets the configuration with which it loses nothing and is fastest here, in files below the run's own folders. Each
writes the payload alone, which is less than it writes for its users.
"""

import os
import pathlib
import shutil
import sys
import time

from . import lttng, processes
from .subjects import PRODUCERS, SENDER_SECONDS, STALL_SECONDS, Subject, verify, wait_for_bytes


def find(variable, names, package):
    """A program: what an environment variable says, else by its name, also where only root looks."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/lib/systemd", "/lib/systemd"])
    for name in [os.environ[variable]] if variable in os.environ else names:
        found = shutil.which(name, path=path)
        if found:
            return found
    raise processes.Failure(f"apt install {package}, or say where it is with {variable}=")


class Syslog(Subject):
    """A daemon that takes lines and datagrams and writes one file."""

    def target(self, run):
        return run.sockets / "sock"

    def start(self, run):
        configuration = run.sockets / "conf"
        configuration.write_text(self.configuration(run))
        self.process = processes.start(self.command(run, configuration), run.sockets / "log", env=self.environment())
        self.pids = [self.process.pid]
        processes.wait_until(self.group, self.target(run).exists, process=self.process)

    def environment(self):
        return dict(os.environ)

    def wait(self, run):
        return wait_for_bytes(self.files(run), run.bytes + run.events, self.process)

    def stop(self, run):
        processes.end(self.process)


class Rsyslog(Syslog):
    def __init__(self, transport):
        super().__init__("rsyslog", transport, transport, (0.1, 0.3) if transport == "lines" else (0.02, 0.3))

    def program(self):
        return find("RSYSLOGD", ["rsyslogd"], "rsyslog")

    def version(self, bench):
        return processes.run([self.program(), "-v"]).split(" (")[0]

    def configuration(self, run):
        if self.transport == "lines":
            source = f'module(load="imptcp")\ninput(type="imptcp" path="{self.target(run)}" rateLimit.interval="0")'
        else:
            source = (
                'module(load="imuxsock" SysSock.Use="off")\n'
                f'input(type="imuxsock" Socket="{self.target(run)}" RateLimit.Interval="0")'
            )
        # Senders wait for the queue, instead of having events discarded. Of the ways to write the file this one took
        # the least time.
        return f"""
global(workDirectory="{run.sockets}" maxMessageSize="64k")
main_queue(queue.size="100000" queue.dequeueBatchSize="1024" queue.timeoutEnqueue="600000" queue.discardMark="0")
{source}
template(name="payload" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{run.folder / 'out'}" template="payload" asyncWriting="on" ioBufferSize="256k")
"""

    def command(self, run, configuration):
        modules = os.environ.get("RSYSLOG_MODULES")
        where = ["-M", modules] if modules else []
        return [self.program(), "-n", "-f", configuration, "-i", run.sockets / "pid", *where]


class SyslogNg(Syslog):
    def __init__(self, transport):
        super().__init__("syslog-ng", transport, transport, (0.1, 0.5) if transport == "lines" else (0.01, 0.3))

    def program(self):
        return find("SYSLOG_NG", ["syslog-ng"], "syslog-ng-core")

    def environment(self):
        """Where it is unpacked and not installed, its own libraries stand beside its modules."""
        environment = super().environment()
        if "SYSLOG_NG_LIBRARIES" in environment:
            environment["LD_LIBRARY_PATH"] = environment["SYSLOG_NG_LIBRARIES"]
        return environment

    def version(self, bench):
        text = processes.run([self.program(), "--version"], env=self.environment())
        # As a configuration names it: without the last of the three numbers.
        self.number = ".".join(text.split("(")[1].split(")")[0].split(".")[:2])
        return f"syslog-ng {self.number}"

    def configuration(self, run):
        kind, more = ("unix-stream", "max-connections(10)") if self.transport == "lines" else ("unix-dgram", "")
        # A source may have as many events on their way as its window is large, and the file's queue has room for them.
        return f"""@version: {self.number}
options {{ threaded(yes); stats-freq(0); log-msg-size(65536); use-dns(no); keep-hostname(yes); }};
source s {{ {kind}("{self.target(run)}" flags(no-parse) {more} log-iw-size(20000) log-fetch-limit(1000)); }};
destination d {{ file("{run.folder / 'out'}" template("${{MESSAGE}}\\n") log-fifo-size(100000) flush-lines(1000)); }};
log {{ source(s); destination(d); flags(flow-control); }};
"""

    def command(self, run, configuration):
        modules = os.environ.get("SYSLOG_NG_MODULES")
        where = [f"--module-path={modules}"] if modules else []
        files = [f"--{name}={run.sockets / name}" for name in ("persist-file", "pidfile", "control")]
        return [self.program(), "--foreground", "--no-caps", f"--cfgfile={configuration}", *files, *where]


class S6Log(Subject):
    """Reads a pipe. Under s6 each service has one of its own; the processes of a service may also share it."""

    def __init__(self, pipes):
        name = "a pipe each" if pipes == PRODUCERS else "one pipe"
        super().__init__("s6-log", name, "pipe" if pipes == PRODUCERS else "small-pipe", (0.1, 1))
        self.pipes = pipes

    def does(self, workload):
        if self.pipes < PRODUCERS and "." in workload.sizes:
            return "not: a pipe keeps what several write whole up to 4 KiB only"
        return None

    def program(self):
        return find("S6_LOG", ["s6-log"], "s6")

    def version(self, bench):
        self.program()
        try:
            return "s6 " + processes.run(["dpkg-query", "-W", "-f", "${Version}", "s6"])
        except processes.Failure:
            return "s6"

    def start(self, run):
        self.processes, self.inputs = [], []
        for number in range(self.pipes):
            folder = run.folder / str(number)
            folder.mkdir()
            read, write = os.pipe()
            # It waits where the disk does (-b), keeps all files, and rotates as late as it can.
            command = [self.program(), "-b", "-l", "65536", "--", "n1000", "s268435455", folder]
            try:
                self.processes.append(processes.start(command, run.sockets / f"log{number}", stdin=read))
            finally:
                os.close(read)
            self.inputs.append(write)
        self.pids = [process.pid for process in self.processes]

    def senders(self, run):
        send = run.programs.get("send")
        senders = []
        for producer in range(PRODUCERS):
            to = self.inputs[producer % self.pipes]
            command = [send, self.transport, to, producer, run.each, run.sizes]
            senders.append(processes.start_sender(command, run.sockets / f"sender{producer}", pass_fds=[to]))
        # It ends when the last sender does.
        for to in self.inputs:
            os.close(to)
        return senders

    def wait(self, run):
        def have_ended():
            return all(processes.has_ended(process) for process in self.processes)

        processes.wait_until("s6-log's end", have_ended, SENDER_SECONDS)

    def stop(self, run):
        for process in self.processes:
            processes.end(process)

    def files(self, run):
        files = []
        for number in range(self.pipes):
            folder = run.folder / str(number)
            files += sorted(folder.glob("@*")) + [folder / "current"]
        return files


class Lttng(Subject):
    """Tracepoints: events lie in memory that the application shares with a consumer, which writes a file for each
    processor."""

    def __init__(self, buffers_mib):
        super().__init__("LTTng-UST", f"tracepoints, {buffers_mib} MiB a processor", "lttng", (1, 1))
        self.buffers_mib = buffers_mib

    def version(self, bench):
        for name in ("send_lttng", "stop_lttng"):
            bench.programs.get(name)
        return processes.run([lttng.programs()[0], "--version"]).split(" - ")[0]

    def start(self, run):
        self.session = lttng.Session(run.sockets / "lttng", run.folder / "trace", self.buffers_mib)
        self.pids = [self.session.daemon.pid]

    def senders(self, run):
        send = run.programs.get("send_lttng")
        more = {"env": self.session.environment} | self.session.who
        return [
            processes.start_sender([send, producer, run.each, run.sizes], run.sockets / f"sender{producer}", **more)
            for producer in range(PRODUCERS)
        ]

    def wait(self, run):
        """The end is the last write, not the answer that no more will come, which takes the session daemon a while."""
        self.session.stop_tracing(run.programs.get("stop_lttng"))
        written = max(file.stat().st_mtime for file in self.files(run))
        return time.monotonic() - (time.time() - written)

    def stop(self, run):
        self.session.stop()

    def files(self, run):
        return self.session.files()

    def verify(self, run):
        return verify(run, "lttng", self.files(run))


class Spdlog(Subject):
    """A library: the daemon is a thread of the program."""

    def __init__(self):
        super().__init__("spdlog", "async logger, in the program", "spdlog", (0.1, 1))

    def version(self, bench):
        bench.programs.get("send_spdlog")
        try:
            return "spdlog " + processes.run(["pkg-config", "--modversion", "spdlog"]).strip()
        except processes.Failure:
            return "spdlog"

    def senders(self, run):
        command = [run.programs.get("send_spdlog"), run.folder / "out", PRODUCERS, run.each, run.sizes]
        sender = processes.start_sender(command, run.sockets / "log")
        self.pids = [sender.pid]
        return [sender]

    def daemon_cpu_us(self, all_us, senders_us):
        return all_us - senders_us


class Journald(Subject):
    """In a mount namespace of its own, with sockets as the service manager would give it."""

    def __init__(self, name, transport):
        super().__init__("journald", name, transport, (0.01, 0.1))

    def version(self, bench):
        find("JOURNALD", ["systemd-journald"], "systemd")
        find("JOURNALCTL", ["journalctl"], "systemd")
        return processes.run(["journalctl", "--version"]).split("\n")[0]

    def target(self, run):
        name = "stdout" if "lines" in self.transport else "socket"
        return f"/proc/{self.process.pid}/root/run/systemd/journal/{name}"

    def start(self, run):
        run.folder.chmod(0o755)
        journald = find("JOURNALD", ["systemd-journald"], "systemd")
        box = pathlib.Path(__file__).with_name("journald_box.py")
        command = [find("UNSHARE", ["unshare"], "util-linux"), "--mount"]
        if os.geteuid() != 0:
            command += ["--user", "--map-root-user"]
        self.process = processes.start([*command, sys.executable, box, run.folder, journald], run.sockets / "log")
        self.pids = [self.process.pid]
        processes.wait_until("journald", lambda: self.entries(run) > 0, process=self.process)
        self.before = self.entries(run)

    def journals(self, run):
        return list(run.folder.rglob("*.journal"))

    def entries(self, run):
        """What the heads of the files say, see systemd's JOURNAL_FILE_FORMAT: the number of entries is at byte 152."""
        total = 0
        for path in self.journals(run):
            try:
                with open(path, "rb") as file:
                    file.seek(152)
                    total += int.from_bytes(file.read(8), "little")
            except OSError:
                pass
        return total

    def wait(self, run):
        """It writes of itself, too, so there may be more entries than events: the end is when no more come."""
        last, changed = -1, time.monotonic()
        while True:
            have, now = self.entries(run), time.monotonic()
            if have != last:
                last, changed = have, now
            timeout = 0.2 if have - self.before >= run.events else STALL_SECONDS
            if now - changed > timeout:
                return changed
            time.sleep(0.002)

    def stop(self, run):
        processes.end(self.process)

    def files(self, run):
        return self.journals(run)

    def verify(self, run):
        source = ["journalctl", "--directory", run.folder, "--output=cat", "--all", "--quiet", "--no-pager"]
        return verify(run, "lines", source=[*source, "SYSLOG_IDENTIFIER=compare"])


def all_of_them():
    # A producer that finds them full sleeps for 100 ms. With 8 MiB, as much as one of dbufd's halves, events of mixed
    # sizes were discarded here although it waits; with 128 MiB it hardly ever waits.
    yield Lttng(32)
    yield Lttng(128)
    yield Spdlog()
    yield S6Log(PRODUCERS)
    yield S6Log(1)
    for transport in ("lines", "datagrams"):
        yield Rsyslog(transport)
    for transport in ("lines", "datagrams"):
        yield SyslogNg(transport)
    yield Journald("lines (its stream for services)", "journal-lines")
    yield Journald("datagrams (its own protocol)", "journal")
