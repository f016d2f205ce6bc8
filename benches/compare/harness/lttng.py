"""A session of LTTng-UST, with a session daemon of one's own.

Root's session daemon is the machine's. So for root it is started as the user `nobody`, which then also runs what is
traced; any other user has one of their own in the temporary folder.
"""

import contextlib
import os
import select
import shutil
import signal

from . import processes

NOBODY = 65534
# How long what is told to end may take.
END_SECONDS = 5


def programs():
    """lttng and its session daemon, or Failure."""
    found = [os.environ.get("LTTNG", "lttng"), os.environ.get("LTTNG_SESSIOND", "lttng-sessiond")]
    if not all(shutil.which(name) for name in found):
        raise processes.Failure("apt install lttng-tools")
    return found


class Session:
    def __init__(self, folder, trace, buffers_mib):
        self.lttng, self.sessiond = programs()
        self.folder, self.trace, self.who = folder, trace, {}
        if os.geteuid() == 0:
            self.who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        for made in (folder, trace):
            made.mkdir()
            if self.who:
                os.chown(made, NOBODY, NOBODY)
        # An application waits until it is traced, and where there is no room, so that nothing is lost.
        self.environment = os.environ | {
            "HOME": str(folder),
            "LTTNG_HOME": str(folder),
            "LTTNG_UST_ALLOW_BLOCKING": "1",
            "LTTNG_UST_REGISTER_TIMEOUT": "-1",
        }
        self.shared = set(os.listdir("/dev/shm"))
        self.daemon = self.start([self.sessiond, "--no-kernel", "--quiet"], "lttng-sessiond.log")
        try:
            self.trace_events(buffers_mib)
        except BaseException:
            self.stop()
            raise

    def trace_events(self, buffers_mib):
        """With buffers of this many MiB for each processor, in parts of one."""
        processes.wait_until("lttng-sessiond", self.answers, process=self.daemon)
        self.run("create", "compare", f"--output={self.trace}")
        channel = ["--userspace", "--session=compare"]
        buffers = ["--buffers-uid", "--subbuf-size=1M", f"--num-subbuf={buffers_mib}"]
        self.run("enable-channel", *channel, *buffers, "--blocking-timeout=inf", "main")
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

    def stop_tracing(self, program):
        """Returns when all is in the files."""
        processes.run([program, "compare"], env=self.environment, timeout=120, **self.who)

    def files(self):
        return sorted(file for file in self.trace.rglob("main_*") if file.suffix != ".idx")

    def stop(self):
        if self.daemon.poll() is None:
            with contextlib.suppress(processes.Failure):
                self.run("destroy", "--no-wait", "compare")
        # By descriptors, which cannot come to mean another process.
        below = [os.pidfd_open(pid) for pid in processes.tree([self.daemon.pid])[1:]]
        processes.end(self.daemon)
        # Its consumers end by themselves when it has ended; none is left in any case.
        for descriptor in below:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
                if select.select([descriptor], [], [], END_SECONDS)[0]:
                    break
            os.close(descriptor)
        # What LTTng leaves in shared memory, if it was not there before.
        for name in set(os.listdir("/dev/shm")) - self.shared:
            if name.startswith("lttng-ust-wait-"):
                os.unlink(f"/dev/shm/{name}")
