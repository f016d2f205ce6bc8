"""Forks and the end of a process, against a daemon that the test plays."""

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import unittest
import warnings
from typing import Callable

import dbuf
from dbuf import process, wire
from tests.support import PYTHON_DIR, TIMEOUT_S, Call, Folder, PlayedDaemon, run_python


def in_child(work: Callable[[], object]) -> int:
    """Runs this in a forked child, which ends at once after it; returns its id."""
    with warnings.catch_warnings():
        # Newer Pythons warn of forks in a process with threads, and that is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


class ProcessTest(Folder):
    def setUp(self) -> None:
        super().setUp()
        self.daemon = PlayedDaemon(self, self.path)

    def assertEnded(self, pid: int) -> None:
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)

    def test_a_forked_child_has_a_session_of_its_own_and_nothing_of_its_parents(self) -> None:
        client = dbuf.Client(path=self.path)
        self.addCleanup(client.close, 0)
        client.send("of the parent")
        parent = self.daemon.accept().welcome()
        self.assertEqual(parent.payloads(1), [b"of the parent"])

        def work() -> None:
            assert client.send("of the child") == 1
            assert client.close(TIMEOUT_S)

        pid = in_child(work)
        child = self.daemon.accept().welcome()
        self.assertNotEqual(child.hello.session, parent.hello.session)
        self.assertEqual(child.payloads(1), [b"of the child"])
        child.persisted(1)
        self.assertEqual(child.frame(), wire.Bye())
        self.assertEnded(pid)

        client.send("of the parent again")
        event = parent.events(1)[0]
        self.assertEqual((event.sequence, event.payload), (2, b"of the parent again"))
        parent.persisted(2)
        self.assertTrue(client.drain(TIMEOUT_S))
        closing = Call(lambda: client.close(TIMEOUT_S))
        self.assertEqual(parent.frame(), wire.Bye())
        self.assertTrue(parent.at_end(), "the child has left no descriptor open")
        closing.result()

    def test_a_child_that_another_thread_forks_has_no_connection_of_a_client_that_connects(self) -> None:
        def sockets() -> set[str]:
            with os.scandir("/proc/self/fd") as entries:
                names = [entry.name for entry in entries]
            links = [os.readlink(f"/proc/self/fd/{name}") for name in names if os.path.islink(f"/proc/self/fd/{name}")]
            return {link for link in links if link.startswith("socket:")}

        before = sockets()
        stop: list[bool] = []

        def connect() -> None:
            while not stop:
                with dbuf.LineClient(path=self.path + ".none") as client:
                    self.assertRaises(dbuf.NotConnected, client.send, "x")

        def work() -> None:
            assert sockets() == before

        thread = threading.Thread(target=connect)
        thread.start()
        try:
            for _ in range(200):
                self.assertEnded(in_child(work))
        finally:
            stop.append(True)
            thread.join()

    def test_a_fork_while_other_threads_send_leaves_no_lock_behind_in_the_child(self) -> None:
        client = dbuf.Client(path=self.path, when_full="drop", quiet=True)
        handler = dbuf.Handler(path=self.path, close_timeout=0, quiet=True)
        self.addCleanup(client.close, 0)
        self.addCleanup(handler.close)
        logger = logging.Logger("x")
        logger.addHandler(handler)
        stop: list[bool] = []

        def flood() -> None:
            while not stop:
                client.send("x")
                logger.info("x")

        floods = [Call(flood) for _ in range(2)]

        def work() -> None:
            client.send("x")
            logger.info("x")
            client.statistics()

        for _ in range(20):
            self.assertEnded(in_child(work))
        stop.append(True)
        for each in floods:
            each.result()

    def test_a_signal_handler_may_log_while_the_program_does(self) -> None:
        running = self.run_to_the_end(
            "import itertools, logging, signal, dbuf\n"
            "handler = dbuf.Handler(path=sys.argv[1], flush_timeout=60)\n"
            "logging.getLogger().addHandler(handler)\n"
            "signals = itertools.count(1)\n"
            "enough = False\n"
            "def on_signal(number, frame):\n"
            "    global enough\n"
            "    if next(signals) >= 500: enough = True\n"
            "    logging.warning('of the signal')\n"
            "signal.signal(signal.SIGALRM, on_signal)\n"
            "signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)\n"
            "sent = 0\n"
            "while not enough:\n"
            "    logging.warning('of the program')\n"
            "    sent += 1\n"
            "signal.setitimer(signal.ITIMER_REAL, 0)\n"
            "taken = handler.statistics().accepted\n"
            "assert taken == next(signals) - 1 + sent, (taken, next(signals) - 2, sent)\n"
            "logging.warning('last')"
        )
        link = self.daemon.accept().welcome()
        sequence, payload = 0, b""
        while payload != b"last":
            event = link.events(1)[0]
            self.assertEqual(event.sequence, sequence + 1, "no number twice, and none left out")
            sequence, payload = event.sequence, event.payload
            link.persisted(sequence)
        self.assertEqual(link.frame(), wire.Bye())
        self.assertQuiet(running)

    def test_a_child_of_multiprocessing_delivers_what_it_logged_before_it_ends(self) -> None:
        handler = dbuf.Handler(path=self.path, close_timeout=TIMEOUT_S)
        logger = logging.Logger("worker")
        logger.addHandler(handler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            process = multiprocessing.get_context("fork").Process(target=logger.info, args=("done",))
            process.start()
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"done"])
        self.assertTrue(process.is_alive(), "it waits for the acknowledgement")
        link.persisted(1)
        process.join(TIMEOUT_S)
        self.assertEqual(process.exitcode, 0)
        handler.close()

    def test_a_fork_that_python_does_not_know_of_is_noticed_at_the_next_call(self) -> None:
        # As uWSGI forks, and with the client's lock held by a thread that the child does not have. The threads are
        # inside of system calls by then: of Python's own locks they hold none.
        running = self.run_to_the_end(
            "import ctypes, os, threading, time, dbuf\n"
            "client = dbuf.Client(path=sys.argv[1])\n"
            "lines = dbuf.LineClient(path=sys.argv[1])\n"
            "client.send('of the parent')\n"
            "client.drain(60)\n"
            "reader, writer = os.pipe()\n"
            "def hold():\n"
            "    with client._unacked.changed: os.read(reader, 1)\n"
            "def calls():\n"
            "    others = [thread.native_id for thread in threading.enumerate()[1:]]\n"
            "    return sorted(int(open(f'/proc/self/task/{n}/syscall').read().split()[0]) for n in others)\n"
            "def wait_for_calls(*expected):\n"
            "    while True:\n"
            "        try:\n"
            "            if calls() == [*expected]: break\n"
            "        except ValueError: pass\n"
            "        time.sleep(0.001)\n"
            "READ, POLL = 0, 7\n"
            "wait_for_calls(POLL)\n"
            "threading.Thread(target=hold).start()\n"
            "wait_for_calls(READ, POLL)\n"
            "pid = ctypes.PyDLL(None).fork()\n"
            "if pid == 0:\n"
            "    assert client.send('of the child') == 1\n"
            "    os._exit(not client.close(60))\n"
            "assert os.waitpid(pid, 0)[1] == 0\n"
            "os.write(writer, b'x')\n"
            "client.send('of the parent again')\n"
        )
        parent = self.daemon.accept().welcome()
        self.assertEqual(parent.payloads(1), [b"of the parent"])
        parent.persisted(1)
        child = self.daemon.accept().welcome()
        self.assertNotEqual(child.hello.session, parent.hello.session)
        self.assertEqual(child.payloads(1), [b"of the child"])
        child.persisted(1)
        self.assertEqual(child.frame(), wire.Bye())
        self.assertEqual(parent.payloads(1), [b"of the parent again"])
        parent.persisted(2)
        self.assertEqual(parent.frame(), wire.Bye())
        self.assertQuiet(running)

    def test_a_child_that_ends_at_once_disturbs_nothing_of_its_parents(self) -> None:
        client = dbuf.Client(path=self.path, quiet=True)
        self.addCleanup(client.close, 0)
        client.send("1")
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"1"])
        for _ in range(3):
            self.assertEnded(in_child(lambda: None))
        client.send("2")
        self.assertEqual(link.payloads(1), [b"2"])
        self.assertEqual(client.statistics().connections, 1)

    def test_a_client_that_was_dropped_before_a_fork_leaves_the_child_nothing(self) -> None:
        dbuf.Client(path=self.path, quiet=True).send("of the parent")
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"of the parent"])

        def work() -> None:
            names = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
            mine = self.daemon._listener.fileno(), link.stream.fileno()
            sockets = [name for name in names if "socket:" in name]
            assert len(sockets) == len(mine), sockets
            assert not process._links

        self.assertEnded(in_child(work))
        link.persisted(1)
        self.assertEqual(link.frame(), wire.Bye())

    def test_a_program_that_becomes_a_daemon_and_closes_all_descriptors_logs_on(self) -> None:
        running = self.run_to_the_end(
            "import logging, os, dbuf\n"
            "handler = dbuf.Handler(path=sys.argv[1], flush_timeout=60)\n"
            "log = logging.getLogger()\n"
            "log.addHandler(handler)\n"
            "log.error('in front')\n"
            "handler.flush()\n"
            "if os.fork(): os._exit(0)\n"
            "os.setsid()\n"
            "if os.fork(): os._exit(0)\n"
            "os.closerange(0, 1024)\n"
            "files = [os.open('/dev/null', os.O_RDWR) for _ in range(8)]\n"
            "log.error('in the background')\n"
            "handler.flush()\n"
            "for file in files: os.fstat(file)\n"
            "log.error('still all mine')\n"
        )
        front = self.daemon.accept().welcome()
        self.assertEqual(front.payloads(1), [b"in front"])
        front.persisted(1)
        self.assertQuiet(running)
        back = self.daemon.accept().welcome()
        self.assertNotEqual(back.hello.session, front.hello.session)
        self.assertEqual(back.payloads(1), [b"in the background"])
        back.persisted(1)
        self.assertEqual(back.payloads(1), [b"still all mine"])
        back.persisted(2)
        self.assertEqual(back.frame(), wire.Bye())
        self.assertTrue(back.at_end())

    def test_a_program_that_closes_all_descriptors_and_forks_loses_nothing_and_sends_nothing_twice(self) -> None:
        running = self.run_to_the_end(
            "import logging, os, dbuf\n"
            "handler = dbuf.Handler(path=sys.argv[1], flush_timeout=60)\n"
            "log = logging.getLogger()\n"
            "log.addHandler(handler)\n"
            "log.error('first')\n"
            "handler.flush()\n"
            "os.closerange(3, 1024)\n"
            "if os.fork() == 0: os._exit(0)\n"
            "for n in range(40): log.error('event %d', n)\n"
        )
        first = self.daemon.accept().welcome()
        self.assertEqual(first.payloads(1), [b"first"])
        first.persisted(1)
        again = self.daemon.accept().welcome(last=1)
        self.assertEqual(again.hello.session, first.hello.session)
        events = again.events(40)
        self.assertEqual([event.sequence for event in events], list(range(2, 42)))
        self.assertEqual([event.payload for event in events], [b"event %d" % n for n in range(40)])
        again.persisted(41)
        self.assertEqual(again.frame(), wire.Bye())
        self.assertQuiet(running)

    def test_children_that_multiprocessing_spawns_deliver_what_they_logged(self) -> None:
        folder = os.path.join(self.folder, "spawned")
        os.mkdir(folder)
        with open(os.path.join(folder, "spawned.py"), "w") as file:
            file.write(
                "import atexit, logging, multiprocessing, sys, dbuf\n"
                "def work(path):\n"
                "    handler = dbuf.Handler(path=path, flush_timeout=60, close_timeout=60)\n"
                "    logging.getLogger().addHandler(handler)\n"
                "    atexit.register(logging.error, 'at its exit')\n"
                "    logging.error('of the child')\n"
                "if __name__ == '__main__':\n"
                "    child = multiprocessing.get_context('spawn').Process(target=work, args=(sys.argv[1],))\n"
                "    child.start()\n"
                "    child.join()\n"
                "    sys.exit(child.exitcode)\n"
            )
        environment = {**os.environ, "PYTHONPATH": str(PYTHON_DIR)}
        command = [sys.executable, os.path.join(folder, "spawned.py"), self.path]
        running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        self.addCleanup(self.end, running)
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"of the child"])
        link.persisted(1)
        self.assertEqual(link.payloads(1), [b"at its exit"])
        link.persisted(2)
        self.assertEqual(link.frame(), wire.Bye())
        self.assertQuiet(running)

    def test_a_child_of_multiprocessing_that_cannot_deliver_says_so(self) -> None:
        self.daemon.stop()
        running = self.run_to_the_end(
            "import logging, multiprocessing, dbuf\n"
            "logging.getLogger().addHandler(dbuf.Handler(path=sys.argv[1], close_timeout=0.1))\n"
            "child = multiprocessing.get_context('fork').Process(target=logging.error, args=('x',))\n"
            "child.start()\n"
            "child.join()\n"
        )
        assert running.stderr is not None
        code, errors = running.wait(TIMEOUT_S), running.stderr.read().decode()
        why = f"cannot connect to {self.path}: No such file or directory (is dbufd running?)"
        expected = f"dbuf: {why}; events wait in memory\ndbuf: 1 event not delivered: {why}\n"
        self.assertEqual((code, errors), (0, expected))

    def end(self, running: subprocess.Popen[bytes]) -> None:
        running.kill()
        running.communicate()

    def run_to_the_end(self, code: str) -> subprocess.Popen[bytes]:
        running = subprocess.Popen(run_python(code, self.path), stderr=subprocess.PIPE)
        self.addCleanup(self.end, running)
        return running

    def assertQuiet(self, running: subprocess.Popen[bytes]) -> None:
        _, errors = running.communicate(timeout=TIMEOUT_S)
        self.assertEqual((running.returncode, errors), (0, b""))

    def test_a_client_that_was_not_closed_delivers_when_the_interpreter_ends(self) -> None:
        running = self.run_to_the_end("import dbuf; dbuf.Client(path=sys.argv[1]).send('last words')")
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"last words"])
        link.persisted(1)
        self.assertEqual(link.frame(), wire.Bye())
        self.assertQuiet(running)

    def test_a_handler_delivers_at_the_end_also_what_others_log_there(self) -> None:
        running = self.run_to_the_end(
            "import atexit, logging\n"
            "atexit.register(lambda: logging.warning('at the very end'))\n"
            "import dbuf\n"
            "logging.getLogger().addHandler(dbuf.Handler(path=sys.argv[1], flush_timeout=60))\n"
            "logging.warning('before')"
        )
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(2), [b"before", b"at the very end"])
        link.persisted(2)
        self.assertEqual(link.frame(), wire.Bye())
        self.assertQuiet(running)


if __name__ == "__main__":
    unittest.main()
