"""The clients with the real daemon: what they send is read back by dbufctl."""

import asyncio
import collections
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
from typing import Any

import dbuf
from tests.support import PYTHON_DIR, TIMEOUT_S, Call, Home, needs_daemon, numbered, run_python


@needs_daemon
class DaemonTest(Home):
    def client(self, name: str = "app", **options: Any) -> dbuf.Client:
        client = dbuf.Client(name, path=self.path, **{"quiet": True, **options})
        self.addCleanup(client.close, 0)
        return client

    def test_ten_thousand_events_of_four_threads_land_once_and_in_each_threads_order(self) -> None:
        self.start("storage.sync=50ms")
        client = self.client()

        def send(name: str) -> None:
            for text in numbered(name, 2500):
                client.send(text)

        threads = [threading.Thread(target=send, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.sync(TIMEOUT_S)
        by_thread = collections.defaultdict(list)
        for text in self.texts():
            by_thread[text[0]].append(text)
        self.assertEqual(by_thread, {name: list(numbered(name, 2500)) for name in "abcd"})
        statistics = client.statistics()
        self.assertEqual((statistics.settled, statistics.durable, statistics.lost), (10000, 10000, {}))

    def test_an_event_keeps_its_tag_its_time_its_priority_and_the_kernels_word_on_its_sender(self) -> None:
        self.start()
        client = self.client("shop")
        client.send("card refused", priority=3, tag="billing", time_ns=1_700_000_000_123_456_789)
        client.send(b"\xff\0")
        client.sync(TIMEOUT_S)
        first, second = self.stored()
        self.assertEqual((first["SYSLOG_IDENTIFIER"], first["PRIORITY"]), ("billing", "3"))
        self.assertEqual(first["SOURCE_REALTIME_TIMESTAMP"], "1700000000123456")
        self.assertEqual((second["SYSLOG_IDENTIFIER"], second["MESSAGE"]), ("shop", [255, 0]))
        for event in (first, second):
            self.assertEqual((event["_TRANSPORT"], event["_PID"]), ("frames", str(os.getpid())))

    def test_fields_are_stored_with_the_text_also_those_of_a_logging_record(self) -> None:
        self.start()
        client = self.client("shop")
        client.send("card refused", fields={"ORDER": 17, "RAW": b"\xff"})
        client.sync(TIMEOUT_S)
        handler = dbuf.Handler(path=self.path)
        self.addCleanup(handler.close)
        logger = logging.Logger("shop.cart")
        logger.addHandler(handler)
        logger.warning("no stock", extra={"order": 18, "too much": "x" * 20000})
        handler.flush()
        first, second = self.stored()
        self.assertEqual((first["ORDER"], first["RAW"]), ("17", [255]))
        self.assertEqual((second["ORDER"], second["LOGGER"]), ("18", "shop.cart"))
        self.assertEqual(second["CODE_FUNC"], self._testMethodName)
        self.assertTrue(second["CODE_FILE"].endswith("test_daemon.py") and int(second["CODE_LINE"]) > 0)
        for name in ("", "N" * 65):
            self.assertRaises(dbuf.Invalid, client.send, "x", fields={name: "x"})
        self.assertRaises(dbuf.Invalid, client.send, "x", fields={"N": "x" * (16 << 10)})

    def test_what_a_sync_returned_for_is_there_after_kill_9(self) -> None:
        self.start("storage.sync=never")
        client = self.client()
        for text in numbered("event", 1000):
            client.send(text)
        client.sync(TIMEOUT_S)
        self.kill()
        self.assertEqual(self.texts(), list(numbered("event", 1000)))

    def test_kill_9_and_a_new_daemon_lose_nothing_that_was_not_acknowledged(self) -> None:
        # Without systemd the new daemon knows no session, so what was stored but not acknowledged may be there twice.
        self.start("storage.sync=50ms")
        client = self.client(ack="durable")
        half = threading.Event()

        def send() -> None:
            for number, text in enumerate(numbered("event", 20000)):
                client.send(text)
                if number == 10000:
                    half.set()

        sending = Call(send)
        self.assertTrue(half.wait(TIMEOUT_S))
        self.kill()
        self.start("storage.sync=50ms")
        sending.result()
        client.sync(TIMEOUT_S)
        texts = self.texts()
        self.assertEqual(list(dict.fromkeys(texts)), list(numbered("event", 20000)))
        self.assertLessEqual(len(texts), 20000 + client.statistics().resent)
        self.assertGreaterEqual(client.statistics().connections, 2)

    def test_events_of_a_time_without_a_daemon_arrive_with_their_own_time(self) -> None:
        client = self.client()
        for text in numbered("early", 100):
            client.send(text, time_ns=1_700_000_000_000_000_000)
        self.start()
        client.sync(TIMEOUT_S)
        stored = self.stored()
        self.assertEqual([event["MESSAGE"] for event in stored], list(numbered("early", 100)))
        self.assertEqual({event["SOURCE_REALTIME_TIMESTAMP"] for event in stored}, {"1700000000000000"})

    def test_a_given_session_of_an_earlier_client_is_not_stored_twice(self) -> None:
        self.start()
        first = self.client(session=77)
        for text in numbered("line", 100):
            first.send(text)
        self.assertTrue(first.close(TIMEOUT_S))
        second = self.client(session=77)
        self.assertEqual(second.connect(TIMEOUT_S), 100)
        for text in list(numbered("line", 150))[100:]:
            second.send(text)
        second.sync(TIMEOUT_S)
        self.assertEqual(self.texts(), list(numbered("line", 150)))

    def test_an_event_too_big_for_the_daemon_is_refused_there_and_counted_on_both_sides(self) -> None:
        refusals: list[dbuf.Refusal] = []
        client = self.client(on_refused=refusals.append)
        # Before the daemon has said how much it takes.
        client.send("x" * 2000)
        client.send("small")
        self.start("ingest.max_event=1KiB")
        with self.assertRaisesRegex(dbuf.NotStored, "^1 event was not stored$"):
            client.sync(TIMEOUT_S)
        self.assertEqual([(refusal.first, refusal.code) for refusal in refusals], [(1, dbuf.Code.TOO_BIG)])
        self.assertEqual(client.statistics().lost, {"too_big": 1})
        self.assertRaises(dbuf.TooBig, client.send, "x" * 1025)
        output = self.ctl("cat", "-o", "cat")
        self.assertEqual(output.returncode, 3, "a loss is reported")
        self.assertIn(b"small\n", output.stdout)

    def test_every_way_to_end_the_daemon_is_survived_by_the_same_client(self) -> None:
        client = self.client()
        for number, end in enumerate((self.stop, self.kill, self.stop)):
            self.start()
            client.send(f"life {number}")
            client.sync(TIMEOUT_S)
            end()
        self.assertEqual(self.texts(), list(numbered("life", 3)))

    def test_the_handlers_tracebacks_are_read_back_whole(self) -> None:
        self.start()
        handler = dbuf.Handler(path=self.path, flush_timeout=TIMEOUT_S, close_timeout=TIMEOUT_S)
        logger = logging.Logger("shop.cart")
        logger.addHandler(handler)
        try:
            raise KeyError("gone")
        except KeyError:
            logger.exception("it\nfailed")
        logger.debug("%s", "fine")
        handler.flush()
        first, second = self.stored()
        self.assertEqual((first["SYSLOG_IDENTIFIER"], first["PRIORITY"]), ("shop.cart", "3"))
        self.assertRegex(first["MESSAGE"], r"(?s)^it\nfailed\nTraceback .*KeyError: 'gone'$")
        self.assertEqual((second["MESSAGE"], second["PRIORITY"]), ("fine", "7"))
        handler.close()

    def test_the_handler_goes_on_over_kill_9(self) -> None:
        self.start()
        handler = dbuf.Handler(path=self.path, flush_timeout=TIMEOUT_S, close_timeout=TIMEOUT_S)
        logger = logging.Logger("worker")
        logger.addHandler(handler)
        logger.info("before")
        handler.flush()
        self.kill(signal.SIGKILL)
        logger.info("while there is none")
        self.start()
        logger.info("after")
        handler.close()
        self.assertEqual(self.texts(), ["before", "while there is none", "after"])

    def test_a_program_that_closes_descriptors_while_it_sends_loses_nothing_and_stores_nothing_twice(self) -> None:
        self.start("storage.sync=50ms")
        code = (
            "import os, threading, dbuf\n"
            "client = dbuf.Client(path=sys.argv[1], close_timeout=60)\n"
            "steps = threading.Semaphore(0)\n"
            "def send(name):\n"
            "    for number in range(500):\n"
            "        client.send(f'{name} {number}')\n"
            "        if number % 50 == 0: steps.release()\n"
            "threads = [threading.Thread(target=send, args=(name,)) for name in 'ab']\n"
            "for thread in threads: thread.start()\n"
            "for _ in range(20):\n"
            "    steps.acquire()\n"
            "    os.closerange(3, 1024)\n"
            "    files = [os.open('/dev/null', os.O_RDWR) for _ in range(4)]\n"
            "    client.drain(60)\n"
            "    for file in files: os.close(file)\n"
            "for thread in threads: thread.join()\n"
            "client.sync(60)\n"
        )
        run = subprocess.run(run_python(code, self.path), capture_output=True, timeout=TIMEOUT_S)
        self.assertEqual((run.returncode, run.stderr), (0, b""))
        expected = [*numbered("a", 500), *numbered("b", 500)]
        self.assertEqual(sorted(self.texts()), sorted(expected))

    def test_text_lines_arrive_one_event_each_with_their_priority(self) -> None:
        self.start()
        with dbuf.LineClient(path=self.path) as client:
            client.send("one\ntwo", priority=3)
            client.send("three")
        self.stop()
        stored = [(event["MESSAGE"], event["PRIORITY"], event["_TRANSPORT"]) for event in self.stored()]
        self.assertEqual(stored, [("one", "3", "lines"), ("two", "3", "lines"), ("three", "6", "lines")])

    def test_the_loop_of_an_asyncio_program_goes_on_while_no_daemon_takes_anything(self) -> None:
        async def main() -> tuple[float, dbuf.Statistics]:
            client = self.client(when_full="drop", buffer_bytes=20_000)
            longest, last = 0.0, time.monotonic()
            for number in range(200):
                client.send(f"order {number}")
                await asyncio.sleep(0)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            return longest, client.statistics()

        longest, statistics = asyncio.run(main())
        self.assertGreater(statistics.lost["full"], 0)
        self.assertEqual(statistics.kept + statistics.lost["full"], 200)
        self.assertLess(longest, 5.0, "block_timeout is 10 s")

    def test_the_events_of_the_asyncio_example_are_all_stored(self) -> None:
        self.start()
        environment = {**os.environ, "PYTHONPATH": str(PYTHON_DIR), "DBUF_SOCKET": self.path}
        command = [sys.executable, str(PYTHON_DIR / "examples" / "asyncio_orders.py")]
        run = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_S)
        self.assertEqual((run.returncode, run.stderr), (0, b""))
        expected = sorted(f"order {number} accepted" for number in range(1, 101))
        for tag in ("orders", "shop"):
            stored = self.stored(f"SYSLOG_IDENTIFIER={tag}")
            self.assertEqual(sorted(event["MESSAGE"] for event in stored), expected)
            self.assertEqual({event["ORDER"] for event in stored}, {str(number) for number in range(1, 101)})

    def test_the_programs_of_the_readme_run_as_they_stand_there(self) -> None:
        self.start()
        environment = {**os.environ, "PYTHONPATH": str(PYTHON_DIR), "RUNTIME_DIRECTORY": self.run_dir}
        programs = re.findall(r"(?ms)^```python\n(.*?)^```$", (PYTHON_DIR / "README.md").read_text())
        self.assertEqual(len(programs), 3)
        for program in programs:
            command = [sys.executable, "-c", program]
            run = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_S)
            self.assertEqual((run.returncode, run.stderr), (0, b""), program)
        found = [(event["MESSAGE"], event["PRIORITY"]) for event in self.stored("ORDER=17")]
        self.assertEqual(found, [("card refused", "6"), ("card refused", "3")])
        self.stop()
        self.assertEqual(self.texts()[-3:], ["order 17 accepted", "card refused", "no money"])

    def test_the_examples_run(self) -> None:
        self.start()
        environment = {**os.environ, "PYTHONPATH": str(PYTHON_DIR), "DBUF_SOCKET": self.path}
        examples = sorted((PYTHON_DIR / "examples").glob("*.py"))
        self.assertGreaterEqual(len(examples), 3)
        for example in examples:
            with self.subTest(example.name):
                run = subprocess.run(
                    [sys.executable, str(example)],
                    env=environment, input=b"a line\nanother\n", capture_output=True, timeout=TIMEOUT_S,
                )  # fmt: skip
                self.assertEqual((run.returncode, run.stderr), (0, b""))


if __name__ == "__main__":
    unittest.main()
