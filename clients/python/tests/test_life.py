"""A client's life: what becomes of events, descriptors and threads when a program, or its daemon, does odd things."""

import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import weakref
from functools import partial
from typing import Any, Callable, Optional
from unittest import mock

import dbuf
from dbuf import paths, wire
from dbuf.descriptors import Bell, NotOurs, OwnedSocket
from tests.support import TIMEOUT_S, Call, Connection, Folder, PlayedDaemon, run_python

LOGGING = """
import atexit, logging, os, signal, threading, time, dbuf
log = logging.getLogger("shop")
def install(**options):
    handler = dbuf.Handler(path=sys.argv[1], **options)
    log.addHandler(handler)
    return handler
"""


class Program(Folder):
    """A test of a whole program."""

    def program(self, code: str, stdin: Optional[int] = None) -> "subprocess.Popen[bytes]":
        command = run_python(LOGGING + code, self.path)
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.end, process)
        return process

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.communicate()

    def outcome(self, process: "subprocess.Popen[bytes]") -> tuple[int, str]:
        """How it ended, and what it wrote to standard error."""
        _, errors = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, errors.decode()

    def run_program(self, code: str) -> tuple[int, str]:
        return self.outcome(self.program(code))


class DangerTest(Program):
    """The line on standard error."""

    def test_a_missing_daemon_is_reported_once_and_what_is_left_at_the_end_is_counted(self) -> None:
        where = f"cannot connect to {self.path}: No such file or directory (is dbufd running?)"
        code, errors = self.run_program(
            "handler = install(flush_timeout=0.2, close_timeout=0.2)\n"
            "for n in range(3):\n"
            "    log.error('event')\n"
            "    handler.flush()\n"
        )
        expected = f"dbuf: {where}; events wait in memory\ndbuf: 3 events not delivered: {where}\n"
        self.assertEqual((code, errors), (0, expected))

    def test_a_quiet_handler_and_a_quiet_client_say_nothing(self) -> None:
        code = (
            "install(flush_timeout=0.1, close_timeout=0.1, quiet=True)\n"
            "log.error('event')\n"
            "client = dbuf.Client(path=sys.argv[1], close_timeout=0.1, quiet=True)\n"
            "client.send('event')\n"
        )
        self.assertEqual(self.run_program(code), (0, ""))

    def test_a_program_that_delivers_says_nothing(self) -> None:
        daemon = PlayedDaemon(self, self.path)
        process = self.program("install()\nlog.error('event')")
        link = daemon.accept().welcome()
        link.events(1)
        link.persisted(1)
        self.assertEqual(self.outcome(process), (0, ""))

    def test_a_daemon_that_acknowledges_nothing_is_named_at_the_end(self) -> None:
        daemon = PlayedDaemon(self, self.path)
        code = "client = dbuf.Client(path=sys.argv[1], close_timeout=0.2)\nclient.send('event')\ninput()"
        process = self.program(code, subprocess.PIPE)
        daemon.accept().welcome().events(1)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        self.assertEqual(self.outcome(process), (0, "dbuf: 1 event not delivered: no acknowledgement within 0.2 s\n"))

    def test_a_client_that_is_never_asked_to_keep_anything_says_nothing(self) -> None:
        code = (
            "client = dbuf.Client(path=sys.argv[1], when_down='fail')\n"
            "try:\n"
            "    client.send('x')\n"
            "except dbuf.NotConnected:\n"
            "    pass\n"
        )
        self.assertEqual(self.run_program(code), (0, ""))

    def test_a_closed_standard_error_gets_no_line_and_no_connection_gets_its_number(self) -> None:
        daemon = PlayedDaemon(self, self.path)
        process = self.program(
            "os.close(0); os.close(1); os.close(2)\n"
            "install(close_timeout=60)\n"
            "log.error('first')\n"
            "try:\n"
            "    while True:\n"
            "        log.handlers[0].statistics().connected and os.write(2, b'not for the daemon')\n"
            "except OSError:\n"
            "    pass\n"
            "log.error('second')\n"
        )
        link = daemon.accept().welcome()
        self.assertEqual(link.payloads(2), [b"first", b"second"])
        link.persisted(2)
        self.assertEqual(link.frame(), wire.Bye())
        self.assertEqual(self.outcome(process), (0, ""))

    def test_a_line_never_waits_and_never_raises_a_signal(self) -> None:
        # SIGPIPE as C programs have it, and a pipe that is full, then one whose reader is gone.
        code = (
            "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
            "reader, writer = os.pipe()\n"
            "os.set_blocking(writer, False)\n"
            "try:\n"
            "    while True: os.write(writer, bytes(65536))\n"
            "except BlockingIOError:\n"
            "    pass\n"
            "os.set_blocking(writer, True)\n"
            "kept = os.dup(2)\n"
            "os.dup2(writer, 2)\n"
            "dbuf.notices.notify('it is full')\n"
            "os.close(reader)\n"
            "dbuf.notices.notify('it is full and has no reader')\n"
            "reader, writer = os.pipe()\n"
            "os.dup2(writer, 2)\n"
            "os.close(reader)\n"
            "dbuf.notices.notify('it has no reader')\n"
            "os.dup2(kept, 2)\n"
            "dbuf.notices.notify('a line\\nwith \\x1b control')\n"
            "assert not signal.sigpending()\n"
        )
        self.assertEqual(self.run_program(code), (0, "dbuf: a line?with ? control\n"))

    def test_only_a_reason_that_a_remedy_is_known_for_has_one(self) -> None:
        for number, remedy in (
            (2, r"No such file or directory \(is dbufd running\?\)$"),
            (111, r"Connection refused \(is dbufd running\?\)$"),
            (13, r"Permission denied \(the socket's mode does not let this user in: SocketMode= in dbufd\.socket, or"),
            (24, r"Too many open files$"),
        ):
            self.assertRegex(paths.why_not_connected("/x", OSError(number, "")), f"^cannot connect to /x: {remedy}")

    def test_a_lost_connection_does_not_end_a_program_that_has_sigpipe_back(self) -> None:
        daemon = PlayedDaemon(self, self.path)
        process = self.program(
            "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
            "lines = dbuf.LineClient(path=sys.argv[1])\n"
            "lines.send('one')\n"
            "input()\n"
            "lines.send('two')\n",
            stdin=subprocess.PIPE,
        )
        first = daemon.accept_bytes()
        self.assertEqual(first.recv(7), b"<6>one\n")
        first.close()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        self.assertEqual(daemon.accept_bytes().recv(7), b"<6>two\n")
        self.assertEqual(self.outcome(process), (0, ""))


class EndTest(Program):
    """The end of the interpreter, of a thread, of a client that is dropped."""

    def setUp(self) -> None:
        super().setUp()
        self.daemon = PlayedDaemon(self, self.path)

    def deliver(self, *payloads: bytes) -> Connection:
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(len(payloads)), list(payloads))
        link.persisted(len(payloads))
        self.assertEqual(link.frame(), wire.Bye())
        return link

    def test_the_first_record_in_an_atexit_handler_is_delivered(self) -> None:
        # Some Pythons refuse to start a thread there: then the caller sends.
        process = self.program("install(flush_timeout=60)\natexit.register(lambda: log.error('bye'))")
        self.deliver(b"bye")
        self.assertEqual(self.outcome(process), (0, ""))

    def test_the_first_event_of_a_client_in_an_atexit_handler_is_delivered(self) -> None:
        process = self.program("client = dbuf.Client(path=sys.argv[1])\natexit.register(lambda: client.send('bye'))")
        self.deliver(b"bye")
        self.assertEqual(self.outcome(process), (0, ""))

    def test_a_client_that_begins_after_all_were_finished_delivers_before_its_call_returns(self) -> None:
        command = run_python(
            "import atexit\n"
            "atexit.register(lambda: dbuf.Client(path=sys.argv[1]).send('later than all'))\n"
            "import dbuf\n",
            self.path,
        )
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.addCleanup(self.end, process)
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"later than all"])
        link.persisted(1)
        self.assertEqual(self.outcome(process), (0, ""))

    def test_where_no_thread_can_be_had_the_callers_send(self) -> None:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "dbuf":
                raise RuntimeError("can't start new thread")
            start(thread)

        with mock.patch.object(threading.Thread, "start", refuse):
            client = dbuf.Client(path=self.path, quiet=True)
            self.addCleanup(client.close, 0)
            self.assertEqual(client.send("1"), 1)
            link = self.daemon.accept().welcome()
            self.assertEqual(client.send("2"), 2)
            self.assertEqual(link.payloads(2), [b"1", b"2"])
            link.persisted(2)
            self.assertTrue(client.drain(TIMEOUT_S))
            sync = Call(lambda: client.sync(TIMEOUT_S))
            self.assertEqual(link.frame(), wire.Sync())
            link.durable(2)
            sync.result()
        # As soon as there is one, it takes over.
        client.send("3")
        self.assertEqual(link.payloads(1), [b"3"])
        link.persisted(3)
        self.assertTrue(client.close(TIMEOUT_S))
        self.assertEqual(link.frame(), wire.Bye())
        self.assertTrue(link.at_end())

    def test_what_a_daemon_thread_has_logged_when_the_interpreter_ends_is_delivered(self) -> None:
        process = self.program(
            "install(flush_timeout=60)\n"
            "logged = threading.Event()\n"
            "def work():\n"
            "    log.error('of the thread')\n"
            "    logged.set()\n"
            "    time.sleep(3600)\n"
            "threading.Thread(target=work, daemon=True).start()\n"
            "logged.wait()\n"
        )
        self.deliver(b"of the thread")
        self.assertEqual(self.outcome(process), (0, ""))

    def test_what_an_ended_thread_has_sent_is_kept_and_delivered(self) -> None:
        client = dbuf.Client(path=self.path)
        self.addCleanup(client.close, TIMEOUT_S)
        thread = threading.Thread(target=client.send, args=("of the thread",))
        thread.start()
        thread.join()
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"of the thread"])
        link.persisted(1)

    def dropped(self, make: Callable[[], object], close_timeout: float) -> "weakref.ref[object]":
        client = make()
        reference = weakref.ref(client)
        del client
        gc.collect()
        return reference

    def test_a_client_that_is_dropped_is_collected_and_its_thread_delivers_the_rest_and_ends(self) -> None:
        before = threading.active_count()

        def make() -> dbuf.Client:
            client = dbuf.Client(path=self.path, close_timeout=TIMEOUT_S)
            client.send("x")
            return client

        reference = self.dropped(make, TIMEOUT_S)
        self.assertIsNone(reference())
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"x"])
        link.persisted(1)
        self.assertEqual(link.frame(), wire.Bye())
        self.assertTrue(link.at_end())
        self.threads_end(before)

    def test_a_handler_that_is_dropped_is_collected_with_its_client(self) -> None:
        before = threading.active_count()

        def make() -> dbuf.Handler:
            handler = dbuf.Handler(path=self.path, close_timeout=TIMEOUT_S)
            handler.handle(logging.LogRecord("shop", logging.INFO, __file__, 1, "x", (), None))
            return handler

        reference = self.dropped(make, TIMEOUT_S)
        self.assertIsNone(reference())
        link = self.daemon.accept().welcome()
        self.assertEqual(link.payloads(1), [b"x"])
        link.persisted(1)
        self.assertEqual(link.frame(), wire.Bye())
        self.threads_end(before)

    def test_a_dropped_client_without_a_daemon_gives_up_in_time_and_leaves_nothing(self) -> None:
        self.daemon.stop()
        before = threading.active_count(), len(os.listdir("/proc/self/fd"))

        def make() -> dbuf.Client:
            client = dbuf.Client(path=self.path, close_timeout=0.05, quiet=True)
            client.send("x")
            return client

        self.assertIsNone(self.dropped(make, 0.05)())
        self.threads_end(before[0])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before[1])

    def threads_end(self, count: int) -> None:
        for thread in threading.enumerate():
            if thread.name == "dbuf":
                thread.join(TIMEOUT_S)
        self.assertEqual(threading.active_count(), count)

    def test_the_thread_takes_no_signal_that_the_program_waits_for(self) -> None:
        process = self.program(
            "install(flush_timeout=60)\n"
            "log.error('x')\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
            "print('ready', flush=True)\n"
            "input()\n"
            "assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM\n",
            stdin=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        link = self.daemon.accept().welcome()
        link.events(1)
        link.persisted(1)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        process.send_signal(signal.SIGTERM)
        process.stdin.write(b"\n")
        process.stdin.flush()
        self.assertEqual(link.frame(), wire.Bye())
        self.assertEqual(self.outcome(process), (0, ""))

    def test_what_was_flushed_is_with_the_daemon_however_the_program_dies(self) -> None:
        for death, code in (
            ("os._exit(3)", 3),
            ("os.abort()", -signal.SIGABRT),
            ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ):
            with self.subTest(death):
                process = self.program(f"handler = install(flush_timeout=60)\nlog.error('x')\nhandler.flush()\n{death}")
                link = self.daemon.accept().welcome()
                self.assertEqual(link.payloads(1), [b"x"])
                link.persisted(1)
                self.assertTrue(link.at_end(), "no goodbye")
                self.assertEqual(self.outcome(process)[0], code)


class DescriptorTest(Folder):
    """Descriptors that the program closes or replaces."""

    def setUp(self) -> None:
        super().setUp()
        self.daemon = PlayedDaemon(self, self.path)
        self.client = dbuf.Client("app", path=self.path, quiet=True, close_timeout=TIMEOUT_S)
        self.addCleanup(self.client.close, 0)
        self.client.send("1")
        self.link = self.daemon.accept().welcome()
        self.assertEqual(self.link.payloads(1), [b"1"])
        self.link.persisted(1)
        self.assertTrue(self.client.drain(TIMEOUT_S))
        self.asleep()

    def asleep(self) -> None:
        """Waits until the client's thread waits for work."""
        unacked, link = self.client._unacked, self.client._link
        assert link is not None
        while True:
            with unacked.changed:
                if link._idle:
                    return
            time.sleep(0.001)

    def numbers(self) -> list[int]:
        """The descriptors of the client: its connection, and both ends of its bell."""
        link = self.client._link
        assert link is not None
        with link.unacked.changed:
            assert link._socket is not None and link._bell is not None
            return [link._socket._number, link._bell.ear._number, link._bell._rope._number]

    def close_all(self) -> None:
        """Closes all of them. A thread that was not quite asleep may have seen the first, and have closed the rest."""
        for number in self.numbers():
            os.closerange(number, number + 1)

    def goes_on(self) -> None:
        """A new connection of the same session takes what comes, and nothing twice."""
        self.client.send("2")
        again = self.daemon.accept()
        self.assertEqual(again.hello.session, self.link.hello.session)
        again.welcome(last=1)
        event = again.events(1)[0]
        self.assertEqual((event.sequence, event.payload), (2, b"2"))
        again.persisted(2)
        self.assertTrue(self.client.close(TIMEOUT_S))
        self.assertEqual(again.frame(), wire.Bye())
        self.assertTrue(again.at_end())

    def replaced_by(self, make: Callable[[], int], which: int) -> None:
        other = make()
        number = self.numbers()[which]
        os.dup2(other, number)
        os.close(other)
        self.addCleanup(os.close, number)
        before = os.fstat(number)
        self.goes_on()
        after = os.fstat(number)
        self.assertEqual((after.st_ino, after.st_size), (before.st_ino, before.st_size), "open, and nothing in it")

    def test_a_connection_that_is_a_file_by_now_is_left_alone_and_made_anew(self) -> None:
        self.replaced_by(lambda: tempfile.mkstemp(dir=self.folder)[0], 0)

    def test_a_bells_ear_that_is_a_file_by_now_is_left_alone_and_made_anew(self) -> None:
        number = self.numbers()[1]
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), number)
        self.addCleanup(os.close, number)
        self.client.send("2")
        connection = self.link
        try:
            # A thread that was not quite asleep has seen it: then the connection stays.
            payloads = connection.payloads(1)
        except EOFError:
            connection = self.daemon.accept().welcome(last=1)
            payloads = connection.payloads(1)
        self.assertEqual(payloads, [b"2"])
        connection.persisted(2)
        self.assertTrue(self.client.close(TIMEOUT_S))
        self.assertEqual(os.fstat(number).st_size, 0, "open, and nothing in it")

    def test_a_bells_rope_that_is_a_file_by_now_is_left_alone_and_made_anew(self) -> None:
        number = self.numbers()[2]
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), number)
        self.addCleanup(os.close, number)
        # Its other end tells the thread, so that the connection can stay.
        while number in self.numbers():
            time.sleep(0.001)
        self.asleep()
        self.client.send("2")
        self.assertEqual(self.link.payloads(1), [b"2"])
        self.link.persisted(2)
        self.assertTrue(self.client.close(TIMEOUT_S))
        self.assertEqual(os.fstat(number).st_size, 0, "open, and nothing in it")

    def test_a_connection_that_is_another_socket_by_now_is_left_alone_and_made_anew(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        self.replaced_by(ours.detach, 0)
        theirs.setblocking(False)
        self.assertRaises(BlockingIOError, theirs.recv, 1)

    def test_a_connection_that_is_an_eventfd_by_now_is_left_alone_and_made_anew(self) -> None:
        number = self.numbers()[0]
        # os.eventfd came with Python 3.10.
        self.replaced_by(lambda: int(ctypes.CDLL(None).eventfd(0, os.O_NONBLOCK)), 0)
        self.assertRaises(BlockingIOError, os.read, number, 8)

    def test_descriptors_that_are_closed_are_forgotten_and_made_anew(self) -> None:
        self.close_all()
        self.goes_on()

    def test_a_socket_that_another_thread_closes_after_the_check_is_not_ours(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        owned = OwnedSocket(ours)
        check = owned.is_ours

        def is_ours_and_is_closed_then() -> bool:
            answer = check()
            ours.close()
            return answer

        with mock.patch.object(owned, "is_ours", is_ours_and_is_closed_then):
            self.assertRaises(NotOurs, owned.fileno)

    def test_a_connection_that_another_thread_replaces_while_it_is_made_is_made_anew_without_a_word(self) -> None:
        robbed: list[int] = []

        class Robbed(socket.socket):
            def connect(self, address: Any) -> None:
                if not robbed:
                    robbed.append(self.fileno())
                    with open(os.devnull, "rb") as file:
                        os.dup2(file.fileno(), self.fileno())
                super().connect(address)

        with mock.patch("socket.socket", Robbed), mock.patch("dbuf.link.notify") as notify:
            client = dbuf.Client(path=self.path)
            client.send("1")
            again = self.daemon.accept().welcome()
            self.assertEqual(again.payloads(1), [b"1"])
            again.persisted(1)
            self.assertTrue(client.close(TIMEOUT_S))
        notify.assert_not_called()
        os.close(robbed[0])

    def test_a_socket_whose_number_is_closed_or_a_file_before_it_is_held_is_not_ours(self) -> None:
        for replaces in (False, True):
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            number = made.fileno()
            with open(os.devnull, "rb") as file:
                os.dup2(file.fileno(), number)
            if not replaces:
                os.close(number)
            self.assertRaises(NotOurs, OwnedSocket, made)
            if replaces:
                os.close(number)

    def test_a_socket_that_another_thread_closes_while_it_is_closed_here_is_forgotten(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        owned = OwnedSocket(ours)
        number = ours.fileno()
        check = owned.is_ours

        def is_ours_and_is_closed_then() -> bool:
            answer = check()
            os.close(number)
            return answer

        with mock.patch.object(owned, "is_ours", is_ours_and_is_closed_then):
            owned.close()
        self.assertRaises(NotOurs, owned.fileno)

    def test_an_inherited_copy_of_the_bell_does_not_keep_the_client_asleep(self) -> None:
        # The thread's poll is not ended when the other end of its bell has another owner.
        copies = [os.dup(number) for number in self.numbers()]
        self.close_all()
        for copy in copies[1:]:
            self.addCleanup(os.close, copy)
        self.client.send("2")
        os.close(copies[0])
        again = self.daemon.accept().welcome(last=1)
        self.assertEqual(again.payloads(1), [b"2"])
        again.persisted(2)
        self.assertTrue(self.client.close(TIMEOUT_S))

    def test_a_line_clients_connection_that_is_a_file_by_now_is_left_alone_and_made_anew(self) -> None:
        with dbuf.LineClient(path=self.path) as lines:
            lines.send("1")
            self.daemon.accept_bytes()
            assert lines._socket is not None
            number = lines._socket._number
            with tempfile.TemporaryFile() as file:
                os.dup2(file.fileno(), number)
            lines.send("2")
            self.assertEqual(self.daemon.accept_bytes().recv(5), b"<6>2\n")
            self.assertEqual(os.fstat(number).st_size, 0)
        os.close(number)

    def test_no_descriptor_is_below_three_and_none_is_inherited_by_exec(self) -> None:
        for number in self.numbers():
            self.assertGreater(number, 2)
            self.assertFalse(os.get_inheritable(number))
        listing = "import os, sys; print(*[n for n in map(int, sys.argv[1:]) if os.path.exists(f'/proc/self/fd/{n}')])"
        arguments = [str(number) for number in self.numbers()]
        command = [sys.executable, "-c", listing, *arguments]
        output = subprocess.run(command, close_fds=False, capture_output=True, timeout=TIMEOUT_S)
        self.assertEqual((output.stdout, output.stderr), (b"\n", b""))

    def test_an_owned_socket_refuses_every_use_of_a_descriptor_that_is_not_its_own(self) -> None:
        ours, theirs = socket.socketpair()
        owned = OwnedSocket(ours)
        number = owned.fileno()
        with theirs, tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), number)
            uses: list[Callable[[], object]] = [
                partial(owned.send, b"x"),
                partial(owned.send_all, b"x", None),
                partial(owned.receive, 1),
                partial(owned.connect, "/x", 0.0),
                owned.fileno,
            ]
            for use in uses:
                self.assertRaises(NotOurs, use)
            del use
            owned.shut_down()
            del owned, ours, uses
            gc.collect()
            self.assertEqual(os.fstat(number).st_size, 0, "still open, and nothing in it")
            os.close(number)

    def test_a_bell_rings_at_most_until_its_socket_is_full(self) -> None:
        bell = Bell()
        for _ in range(20_000):
            self.assertTrue(bell.ring(b"e"))
        self.assertIn(b"e", bell.heard())
        bell.close()
        self.assertFalse(bell.ring(b"e"))

    def test_a_client_without_descriptors_keeps_its_events_and_sends_them_when_there_are_some(self) -> None:
        client = dbuf.Client(path=self.path, quiet=True)
        self.addCleanup(client.close, 0)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = [os.open("/dev/null", os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used[0] + 1, limit[1]))
        try:
            while True:
                used.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        finally:
            try:
                self.assertEqual(client.send("x"), 1)
                with client._unacked.changed:
                    client._unacked.changed.wait_for(lambda: client._unacked.failures > 0, TIMEOUT_S)
                why: Optional[str] = client.statistics().last_error
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
                for number in used:
                    os.close(number)
        self.assertEqual(why, f"cannot connect to {self.path}: Too many open files")
        self.assertEqual(self.daemon.accept().welcome().payloads(1), [b"x"])


class RightsTest(Folder):
    def test_a_program_with_anothers_rights_does_not_believe_its_environment(self) -> None:
        environment = {"RUNTIME_DIRECTORY": "/evil", "XDG_RUNTIME_DIR": "/evil", "TMPDIR": self.folder}
        with mock.patch.dict(os.environ, environment):
            self.assertEqual(paths.default_path(), "/evil/stream.sock")
            with mock.patch.object(os, "geteuid", return_value=os.getuid() + 1):
                found = paths.default_path()
        self.assertFalse(found.startswith(("/evil", self.folder)), found)


if __name__ == "__main__":
    unittest.main()
