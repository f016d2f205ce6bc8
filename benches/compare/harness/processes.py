"""Processes that are started here, what they use, and their end.

Whatever is started is remembered, and ended by its pid: nothing else ever is.
"""

import json
import os
import select
import signal
import subprocess
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
# What the C library's clock_getcpuclockid() puts beside the pid.
PROCESS_CLOCK = 2
READY_SECONDS = 30
PIPE = subprocess.PIPE
SAMPLE_SECONDS = 0.02

started = []


class Failure(Exception):
    """Why something could not be measured, in words for the table."""


def start(command, log=None, **more):
    """Starts a program in a session of its own, so that Ctrl-C reaches only this one, which then ends the others."""
    error = open(log, "ab") if log else subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stdout=more.pop("stdout", subprocess.DEVNULL),
            stderr=error,
            start_new_session=True,
            **more,
        )
    except OSError as problem:
        raise Failure(f"{command[0]}: {problem.strerror}") from problem
    finally:
        if log:
            error.close()
    process.log = log
    started.append(process)
    return process


def said(process):
    """The last line that a process wrote to its log."""
    try:
        lines = open(process.log, errors="replace").read().split("\n") if process.log else []
    except OSError:
        lines = []
    return next((line for line in reversed(lines) if line.strip()), "")


def check(process, what):
    """Fails with the process's own words if it has ended with an error."""
    if process.wait() != 0:
        raise Failure(f"{what} ended with {process.returncode}: {said(process)}")


def end(process, timeout=60):
    """SIGTERM, and where that does not help SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
    if process in started:
        started.remove(process)


def end_all():
    for process in reversed(started[:]):
        end(process, timeout=5)


def has_ended(process):
    """Without reaping it: a zombie still shows its processor time."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def run(command, **more):
    """Runs a program to its end and returns what it printed."""
    try:
        done = subprocess.run(
            [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **more
        )
    except OSError as problem:
        raise Failure(f"{command[0]}: {problem.strerror}") from problem
    except subprocess.TimeoutExpired as problem:
        raise Failure(f"{command[0]} did not end") from problem
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).split("\n")
        # A compiler's first error says more than its last line.
        words = next((line for line in lines if "error:" in line), lines[-1])
        raise Failure(f"{os.path.basename(str(command[0]))}: {words}")
    return done.stdout


def parse(output):
    """The object on the first line of what a program has printed."""
    return json.loads(output.split("\n")[0])


def pipe_json(source, command):
    """Runs a command, on what another one prints if there is one, and returns the object that it prints. Its exit code
    may be 3, which says that it has found something."""
    feeder = start(source, stdout=PIPE) if source else None
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=feeder.stdout if feeder else subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    finally:
        if feeder:
            end(feeder)
    if done.returncode not in (0, 3):
        raise Failure(f"{os.path.basename(str(command[0]))}: {done.stderr.strip()}")
    return parse(done.stdout)


def wait_until(what, condition, seconds=READY_SECONDS, process=None):
    until = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise Failure(f"{what}: it ended with {process.returncode}: {said(process)}")
        if time.monotonic() > until:
            raise Failure(f"{what}: not within {seconds} s")
        time.sleep(0.002)


def await_line(process, what, seconds=READY_SECONDS):
    """A line that a program prints; they are short and come whole."""
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise Failure(f"{what}: nothing was said within {seconds} s")
    line = process.stdout.readline()
    if not line:
        process.wait()
        raise Failure(f"{what} ended with {process.returncode}: {said(process)}")
    return line.decode().strip()


def tree(pids):
    """These processes and all below them."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    parent = int(stat.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found, todo = [], list(pids)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(pids):
    """User and system time of these processes, with those of their children that have ended. The processes' own by the
    kernel's clock of a process, for the ticks in /proc are of 10 ms; what has ended is there in ticks only."""
    seconds = 0
    for pid in pids:
        try:
            seconds += time.clock_gettime(~pid << 3 | PROCESS_CLOCK)
            with open(f"/proc/{pid}/stat") as stat:
                seconds += sum(int(n) for n in stat.read().rsplit(")", 1)[1].split()[13:15]) / TICKS
        except OSError:
            pass
    return seconds


class Memory:
    """The most memory that some processes had together. It is looked at now and then: a process that has ended cannot
    be asked any more."""

    def __init__(self, pids):
        self.peaks, self.pids, self.over = {}, pids, threading.Event()
        self.look()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def look(self):
        for pid in self.pids:
            try:
                with open(f"/proc/{pid}/status") as status:
                    words = next((line.split() for line in status if line.startswith("VmHWM:")), None)
            except OSError:
                continue
            if words:
                self.peaks[pid] = int(words[1]) * 1024

    def watch(self):
        while not self.over.wait(SAMPLE_SECONDS):
            self.look()

    def stop(self):
        self.over.set()
        self.thread.join()
        self.look()
        return sum(self.peaks.values())


def start_sender(command, log, **more):
    """A sender that is connected and waits for the word."""
    sender = start(command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **more)
    word = await_line(sender, "a sender")
    if word != "ready":
        raise Failure(f"a sender said {word!r}")
    return sender


def go(senders):
    for sender in senders:
        sender.stdin.write(b"go\n")


def report_of(sender, seconds):
    """What a sender reports at its end."""
    return json.loads(await_line(sender, "a sender", seconds))
