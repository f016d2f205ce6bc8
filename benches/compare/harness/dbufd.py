"""A dbufd of one's own: its sockets, its segments, its end."""

import json
import os
import socket

from . import processes


class Daemon:
    def __init__(self, binary, runtime, segments, sync="never", settings=(), environment=None):
        self.runtime, self.segments, self.ctl = runtime, segments, binary.parent / "dbufctl"
        self.control = self.answers = None
        notify = runtime.with_suffix(".notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            ready.settimeout(processes.READY_SECONDS)
            command = [binary, "--runtime", runtime, "--directory", segments, "--config", "/dev/null"]
            # None is deleted that was not verified yet.
            for setting in (f"storage.sync={sync}", "storage.retain_bytes=none", "storage.when_full=wait", *settings):
                command += ["--set", setting]
            own = {k: v for k, v in os.environ.items() if k not in ("JOURNAL_STREAM", "INVOCATION_ID")}
            own |= {"NOTIFY_SOCKET": str(notify)} | (environment or {})
            self.process = processes.start(command, runtime.with_suffix(".log"), env=own)
            try:
                while b"READY=1" not in ready.recv(4096):
                    pass
            except OSError as problem:
                raise processes.Failure(f"dbufd is not ready: {processes.said(self.process)}") from problem
            finally:
                notify.unlink()

    def connect(self):
        """Only now: the daemon ends a client that is silent for long."""
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(str(self.runtime / "control.sock"))
        self.answers = self.control.makefile("r")

    def disconnect(self):
        if self.control:
            self.answers.close()
            self.control.close()
            self.control = None

    def ask(self, command):
        if not self.control:
            self.connect()
        self.control.sendall(json.dumps({"command": command}).encode() + b"\n")
        answer = json.loads(self.answers.readline())
        if not answer["ok"]:
            raise processes.Failure(f"dbufd does not {command}: {answer}")
        return answer.get("data")

    def events(self):
        """How many events were persisted, and how many lost."""
        events = self.ask("stats")["events"]
        return events["persisted"], events["lost_total"]

    def sync(self):
        """Returns when all that is persisted is durable."""
        self.ask("sync")

    def stop(self):
        self.disconnect()
        processes.end(self.process)
        if self.process.returncode != 0:
            raise processes.Failure(f"dbufd ended with {self.process.returncode}: {processes.said(self.process)}")

    def cat(self):
        """The command that prints all payloads, a line each."""
        return [self.ctl, "--runtime", self.runtime, "--directory", self.segments, "cat", "-o", "cat"]
