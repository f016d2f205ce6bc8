"""A session of LTTng-UST, with a session daemon of one's own.

Root's session daemon is the machine's, so root has one started as `nobody`, who then also runs what is traced; anybody else has
one of their own in the temporary folder.
"""

import os
import shutil
import signal
import subprocess
import sys

from . import processes

NOBODY = 65534
# Two processors' worth of these is what a producer may be ahead of the disk.
SUBBUFFER = ["--subbuf-size=1M", "--num-subbuf=8"]
# A wait for the data as `lttng stop` does it, which asks five times a second: too seldom to measure with.
STOP = """
import ctypes, time
control = ctypes.CDLL("liblttng-ctl.so.0")
assert control.lttng_stop_tracing_no_wait(b"compare") >= 0
while control.lttng_data_pending(b"compare") != 0:
    time.sleep(0.001)
"""


def programs():
    """lttng and its session daemon, or Failure."""
    found = [os.environ.get("LTTNG", "lttng"), os.environ.get("LTTNG_SESSIOND", "lttng-sessiond")]
    if not all(shutil.which(name) for name in found):
        raise processes.Failure("apt install lttng-tools")
    return found


class Session:
    def __init__(self, folder):
        self.lttng, sessiond = programs()
        self.folder, self.trace = folder, folder / "trace"
        folder.mkdir()
        self.who = {}
        if os.geteuid() == 0:
            self.who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(folder, NOBODY, NOBODY)
        # An application waits until it is traced, and where there is no room, so that nothing is lost.
        self.environment = os.environ | {
            "HOME": str(folder),
            "LTTNG_HOME": str(folder),
            "LTTNG_UST_ALLOW_BLOCKING": "1",
            "LTTNG_UST_REGISTER_TIMEOUT": "-1",
        }
        self.shared = set(os.listdir("/dev/shm"))
        self.daemon = self.start([sessiond, "--no-kernel", "--quiet"], "lttng-sessiond.log")
        self.was_started = False
        processes.wait_until("lttng-sessiond", self.answers, process=self.daemon)
        self.run("create", "compare", f"--output={self.trace}")
        channel = ["--userspace", "--session=compare"]
        self.run("enable-channel", *channel, *SUBBUFFER, "--blocking-timeout=inf", "main")
        self.run("enable-event", *channel, "--channel=main", "compare:event")
        self.run("start", "compare")

    def start(self, command, log):
        return processes.start(command, self.folder / log, env=self.environment, **self.who)

    def run(self, *arguments):
        return processes.run([self.lttng, "--no-sessiond", *arguments], env=self.environment, timeout=60, **self.who)

    def answers(self):
        try:
            self.run("list")
        except processes.Failure:
            return False
        return True

    def stop_tracing(self):
        """Returns when all is in the files."""
        processes.run([sys.executable, "-c", STOP], env=self.environment, timeout=120, **self.who)

    def files(self):
        return sorted(self.trace.glob("ust/*/*/*/main_*"))

    def stop(self):
        if self.daemon.poll() is None:
            try:
                self.run("destroy", "--no-wait", "compare")
            except processes.Failure:
                pass
        below = processes.tree([self.daemon.pid])
        processes.end(self.daemon)
        # Its consumers end by themselves when it has ended; none is left in any case.
        for pid in below[1:]:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        # What LTTng leaves in shared memory, if it was not there before.
        for name in set(os.listdir("/dev/shm")) - self.shared:
            if name.startswith("lttng-ust-wait-"):
                os.unlink(f"/dev/shm/{name}")
