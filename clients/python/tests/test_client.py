"""The client, against a daemon that the test plays step by step."""

import os
import threading
import unittest
from functools import partial
from typing import Any

import dbuf
from dbuf import wire
from dbuf.unacknowledged import EVENT_COST
from dbuf.wire import Code, Fault, Level
from tests.support import TIMEOUT_S, Call, Connection, Folder, PlayedDaemon


class ClientTest(Folder):
    def client(self, name: str = "app", **options: Any) -> dbuf.Client:
        client = dbuf.Client(name, path=self.path, **{"quiet": True, **options})
        self.addCleanup(client.close, 0)
        return client

    def opened(self, **options: Any) -> tuple[PlayedDaemon, Connection, dbuf.Client]:
        """A client with a connection, and the daemon and its end of that."""
        daemon, client = PlayedDaemon(self, self.path), self.client(**options)
        connecting = Call(lambda: client.connect(TIMEOUT_S))
        link = daemon.accept().welcome()
        connecting.result()
        return daemon, link, client

    def test_what_is_sent_arrives_and_a_sync_waits_for_the_durable_acknowledgement(self) -> None:
        _, link, client = self.opened(name="shop")
        self.assertEqual((link.hello.name, link.hello.ack), (b"shop", Level.PERSISTED))
        self.assertNotEqual(link.hello.session, 0)
        self.assertEqual(client.send("grün", time_ns=0), 1)
        self.assertEqual(client.send(b"\xff\0", priority=3, tag="tag", time_ns=9), 2)
        sync = Call(lambda: client.sync(TIMEOUT_S))
        self.assertEqual(link.frame(), wire.Event(1, "grün".encode()))
        self.assertEqual(link.frame(), wire.Event(2, b"\xff\0", 3, b"tag", 9))
        self.assertEqual(link.frame(), wire.Sync())
        link.persisted(2)
        self.assertTrue(client.drain(TIMEOUT_S), "persisted is enough for that")
        link.durable(2)
        sync.result()
        client.sync(0)

    def test_an_event_states_the_time_of_its_send_unless_another_is_given(self) -> None:
        _, link, client = self.opened()
        client.send("x")
        self.assertGreater(link.events(1)[0].time_ns, 1_600_000_000_000_000_000)

    def test_after_a_lost_connection_only_what_the_daemon_does_not_have_is_sent_again(self) -> None:
        daemon, link, client = self.opened()
        for n in range(1, 6):
            client.send(str(n))
        self.assertEqual(link.payloads(5), [b"1", b"2", b"3", b"4", b"5"])
        link.persisted(2)
        link.close()
        again = daemon.accept()
        self.assertEqual(again.hello.session, link.hello.session)
        again.welcome(last=4)
        self.assertEqual(again.events(1)[0].sequence, 5)
        again.persisted(5)
        self.assertTrue(client.drain(TIMEOUT_S))
        statistics = client.statistics()
        self.assertEqual((statistics.resent, statistics.settled, statistics.connections), (1, 5, 2))

    def test_a_daemon_that_knows_nothing_of_the_session_gets_all_that_was_not_acknowledged(self) -> None:
        daemon, link, client = self.opened()
        for n in range(1, 6):
            client.send(str(n))
        link.events(5)
        link.persisted(2)
        link.close()
        again = daemon.accept().welcome()
        self.assertEqual([event.sequence for event in again.events(3)], [3, 4, 5])
        again.persisted(5)
        self.assertTrue(client.drain(TIMEOUT_S))

    def test_an_event_that_was_cut_in_the_middle_is_sent_again_whole(self) -> None:
        daemon, link, client = self.opened()
        payload = b"x" * 1000
        for _ in range(3):
            client.send(payload)
        link.events(1)
        link.read(500)
        link.close()
        again = daemon.accept().welcome(last=1)
        self.assertEqual([(event.sequence, event.payload) for event in again.events(2)], [(2, payload), (3, payload)])

    def test_what_is_accepted_but_not_acknowledged_is_waited_for_over_a_reconnect(self) -> None:
        daemon, link, client = self.opened()
        client.send("1")
        link.events(1)
        link.close()
        again = daemon.accept().welcome(last=1)
        client.send("2")
        self.assertEqual(again.payloads(1), [b"2"])
        self.assertEqual(client.statistics().kept, 2)
        again.persisted(2)
        self.assertTrue(client.drain(TIMEOUT_S))

    def test_a_sync_that_was_not_answered_is_asked_again(self) -> None:
        daemon, link, client = self.opened()
        client.send("1")
        sync = Call(lambda: client.sync(TIMEOUT_S))
        link.events(1)
        self.assertEqual(link.frame(), wire.Sync())
        link.close()
        again = daemon.accept().welcome(last=1)
        self.assertEqual(again.frame(), wire.Sync())
        again.durable(1)
        sync.result()

    def test_events_that_are_lost_are_counted_named_and_make_the_sync_an_error_once(self) -> None:
        refusals: list[dbuf.Refusal] = []
        _, link, client = self.opened(on_refused=refusals.append)
        for n in range(3):
            client.send(str(n))
        sync = Call(lambda: client.sync(TIMEOUT_S))
        link.events(3)
        link.reply(Fault(Code.LOST, 1, 2, b"disk"), wire.Ack(Level.DURABLE, 3))
        with self.assertRaisesRegex(dbuf.NotStored, "^2 events were not stored$") as caught:
            sync.result()
        self.assertEqual((caught.exception.refused, caught.exception.unconfirmed), (2, 0))
        self.assertEqual(refusals, [dbuf.Refusal(1, 2, Code.LOST, "disk")])
        self.assertEqual(client.statistics().lost, {"lost": 2})
        client.sync(0)

    def test_a_callback_that_fails_is_seen_and_harms_nothing(self) -> None:
        seen = []
        before, threading.excepthook = threading.excepthook, lambda arguments: seen.append(arguments.exc_type)
        self.addCleanup(setattr, threading, "excepthook", before)
        _, link, client = self.opened(on_refused=lambda refusal: 1 // 0)
        client.send("x")
        link.events(1)
        link.reply(Fault(Code.MALFORMED, 1, 1), wire.Ack(Level.PERSISTED, 1))
        self.assertTrue(client.drain(TIMEOUT_S))
        client.send("y")
        self.assertEqual(link.payloads(1), [b"y"])
        self.assertEqual(seen, [ZeroDivisionError])

    def test_a_callback_may_send_and_gets_an_error_when_it_may_not_wait(self) -> None:
        done: list[str] = []

        def on_refused(refusal: dbuf.Refusal) -> None:
            for call in (client.sync, client.drain, client.close, client.connect):
                try:
                    call()
                except RuntimeError as error:
                    done.append(str(error)[:10])
            client.send("told")

        _, link, client = self.opened(on_refused=on_refused)
        client.send("x")
        link.events(1)
        link.reply(Fault(Code.MALFORMED, 1, 1))
        self.assertEqual(link.payloads(1), [b"told"])
        self.assertEqual(done, ["on_refused"] * 4)

    def test_an_event_that_breaks_a_rule_is_refused_before_it_is_sent_and_takes_no_number(self) -> None:
        _, link, client = self.opened()
        self.assertRaises(dbuf.TooBig, client.send, b"x" * 1001)
        for arguments in ({"payload": ""}, {"payload": "x", "tag": "t" * 65}, {"payload": "x", "priority": 192},
                          {"payload": "x", "priority": -1}, {"payload": "x", "time_ns": -1}):  # fmt: skip
            self.assertRaises(dbuf.Invalid, client.send, **arguments)
        self.assertEqual(client.send("x", priority=191, tag="t" * 64), 1)
        self.assertEqual(link.events(1)[0].tag, b"t" * 64)
        self.assertRaises(dbuf.Invalid, dbuf.Client, "n" * 65)
        for wrong in (
            {"when_full": "x"},
            {"when_too_big": "x"},
            {"when_down": "x"},
            {"ack": "all"},
            {"session": 0},
            {"buffer_bytes": 1},
        ):
            self.assertRaises(ValueError, dbuf.Client, **wrong)

    def test_fields_are_texts_bytes_and_whole_numbers_and_everything_else_is_refused(self) -> None:
        daemon, client = PlayedDaemon(self, self.path), self.client()
        client.send("x", fields={"ORDER": 17, "BIG": 10**30, "TEXT": "gr\u00fcn", "RAW": b"\xff", "MINUS": -1})
        client.send("y", fields=dbuf.pack_fields([("TWICE", 1), ("TWICE", 2)]))
        for value in (True, None, 3.5, [1, 2], (1,), {"a": 1}, object()):
            with self.assertRaisesRegex(dbuf.Invalid, "^the field N is of type .*; allowed: str, bytes, int$"):
                client.send("x", fields={"N": value})  # type: ignore[dict-item]
        for name in ("", "lower", "WITH SPACE", "\u00c4", "N=", "N\n"):
            with self.assertRaisesRegex(dbuf.Invalid, "allowed: capital letters, digits and underscores$"):
                client.send("x", fields={name: "x"})
        self.assertRaises(dbuf.Invalid, client.send, "x", fields={"N" * 65: "x"})
        self.assertRaises(dbuf.Invalid, client.send, "x", fields={"N": "x" * wire.FIELDS_BYTES_MAX})
        link = daemon.accept().welcome(features=wire.FEATURE_FIELDS)
        first, second = link.events(2)
        numbers = ((b"ORDER", b"17"), (b"BIG", b"1" + b"0" * 30))
        self.assertEqual(
            first.fields, (*numbers, (b"TEXT", "gr\u00fcn".encode()), (b"RAW", b"\xff"), (b"MINUS", b"-1"))
        )
        self.assertEqual(second.fields, ((b"TWICE", b"1"), (b"TWICE", b"2")))

    def test_a_number_is_never_taken_for_that_many_zeros(self) -> None:
        client, lines = self.client(), dbuf.LineClient(path=self.path)
        for wrong in (17, 3.5, None, [1]):
            self.assertRaises(dbuf.Invalid, client.send, wrong)
            self.assertRaises(dbuf.Invalid, lines.send, wrong)
            self.assertRaises(dbuf.Invalid, client.send, "x", tag=wrong or 1)
            self.assertRaises(dbuf.Invalid, dbuf.Client, wrong)
        for priority in ("3", 3.0, True, None, 192, -1):
            with self.assertRaisesRegex(dbuf.Invalid, "^the priority is .*; allowed: 0 to 191$"):
                client.send("x", priority=priority)  # type: ignore[arg-type]
        self.assertEqual(client.statistics().accepted, 0)

    def test_an_event_that_is_too_big_is_cut_with_a_word_where_that_is_wanted(self) -> None:
        _, link, client = self.opened(when_too_big="cut")
        client.send(b"x" * 1001, priority=dbuf.Priority.ERR)
        client.send(b"\xff" * 1001)
        self.assertEqual(link.payloads(2), [b"x" * 983 + b" [18 bytes cut]", b"\xff" * 983 + b" [18 bytes cut]"])
        self.assertEqual(client.statistics().shortened, 2)
        link.persisted(2)
        link.close()

    def test_what_a_client_drops_is_reported_by_an_event_where_it_is_missing(self) -> None:
        room = 3 * (EVENT_COST + 100)
        client = self.client("shop", buffer_bytes=room, when_full="wait", block_timeout=0.01)
        numbers = [client.send(b"x" * 100) for _ in range(5)]
        self.assertEqual(numbers, [1, 2, 3, 0, 0])
        link = PlayedDaemon(self, self.path).accept().welcome()
        link.events(3)
        link.persisted(3)
        (report,) = link.events(1)
        self.assertEqual((report.sequence, report.tag, report.pri), (4, b"", 4))
        self.assertRegex(report.payload, b"^dbuf: 2 events were lost here")
        self.assertEqual(client.send("y"), 5)
        self.assertEqual(link.payloads(1), [b"y"])
        statistics = client.statistics()
        self.assertEqual((statistics.accepted, statistics.lost), (5, {"full": 2}))

    def test_a_full_buffer_raises_or_counts_or_waits_until_a_deadline(self) -> None:
        room = 10 * (EVENT_COST + 1)
        raising = self.client(buffer_bytes=room, when_full="raise")
        dropping = self.client(buffer_bytes=room, when_full="drop")
        blocking = self.client(buffer_bytes=room, when_full="block", block_timeout=0.01)
        for client in (raising, dropping, blocking):
            self.assertEqual([client.send("x") for _ in range(10)], list(range(1, 11)))
        self.assertRaisesRegex(dbuf.Full, "is dbufd running", blocking.send, "x")
        self.assertRaises(dbuf.Full, raising.send, "x")
        self.assertEqual(dropping.send("x"), 0)
        for client in (raising, dropping, blocking):
            statistics = client.statistics()
            self.assertEqual((statistics.accepted, statistics.kept, statistics.lost), (10, 10, {"full": 1}))
            self.assertRaises(dbuf.TooBig, client.send, b"x" * room)

    def test_a_sender_that_waits_for_room_goes_on_when_the_daemon_acknowledges(self) -> None:
        _, link, client = self.opened(buffer_bytes=2 * (EVENT_COST + 1), block_timeout=TIMEOUT_S)
        client.send("1")
        client.send("2")
        third = Call(lambda: client.send("3"))
        link.events(2)
        self.assertTrue(third.is_waiting())
        link.persisted(1)
        self.assertEqual(third.result(), 3)
        self.assertEqual(link.payloads(1), [b"3"])

    def test_closing_ends_the_wait_of_a_sender(self) -> None:
        client = self.client(buffer_bytes=EVENT_COST + 1, block_timeout=TIMEOUT_S)
        client.send("1")
        second = Call(lambda: client.send("2"))
        client.close(0)
        self.assertRaises(dbuf.Closed, second.result)

    def test_without_a_daemon_events_wait_and_arrive_in_order_when_there_is_one(self) -> None:
        client = self.client()
        for n in range(100):
            client.send(str(n))
        daemon = PlayedDaemon(self, self.path)
        link = daemon.accept().welcome()
        self.assertEqual(link.payloads(100), [str(n).encode() for n in range(100)])

    def test_a_client_that_is_to_fail_without_a_daemon_fails_at_once_and_says_where_it_looked(self) -> None:
        client = self.client(when_down="fail")
        for _ in range(3):
            with self.assertRaisesRegex(dbuf.NotConnected, f"{self.path}: .*is dbufd running"):
                client.send("x")
        self.assertEqual(client.statistics().accepted, 0)
        daemon = PlayedDaemon(self, self.path)
        sending = Call(lambda: client.send("x"))
        link = daemon.accept().welcome()
        self.assertEqual((sending.result(), link.payloads(1)), (1, [b"x"]))

    def test_a_session_that_is_open_elsewhere_is_asked_for_again(self) -> None:
        daemon, client = PlayedDaemon(self, self.path), self.client()
        client.send("x")
        refused = daemon.accept()
        refused.reply(Fault(Code.BUSY, 0, 0, b"come back later"))
        refused.close()
        again = daemon.accept()
        self.assertEqual(again.hello.session, refused.hello.session)
        self.assertEqual(client.statistics().last_error, "dbufd ended the connection: come back later (busy)")
        self.assertEqual(again.welcome().payloads(1), [b"x"])

    def test_a_given_session_goes_on_where_the_daemon_says(self) -> None:
        refusals: list[dbuf.Refusal] = []
        daemon = PlayedDaemon(self, self.path)
        client = self.client(session=5, on_refused=refusals.append)
        client.send("before the daemon has spoken")
        link = daemon.accept()
        self.assertEqual(link.hello.session, 5)
        link.welcome(last=41)
        self.assertEqual(client.connect(TIMEOUT_S), 41)
        self.assertEqual(client.send("x"), 2)
        self.assertEqual([event.sequence for event in link.events(2)], [42, 43])
        link.reply(Fault(Code.LOST, 42, 42, b"disk"))
        link.persisted(42)
        self.assertTrue(Call(lambda: self.settles(client, 1)).result())
        self.assertEqual(refusals, [dbuf.Refusal(1, 1, Code.LOST, "disk")], "by the client's own numbers")
        link.persisted(43)
        self.assertTrue(client.drain(TIMEOUT_S))

    def settles(self, client: dbuf.Client, number: int) -> bool:
        unacked = client._unacked
        with unacked.changed:
            return unacked.changed.wait_for(lambda: unacked.settled >= number, TIMEOUT_S)

    def test_a_session_in_which_another_sends_is_given_up(self) -> None:
        daemon, client = PlayedDaemon(self, self.path), self.client(session=5)
        client.send("1")
        link = daemon.accept().welcome()
        link.events(1)
        link.close()
        daemon.accept().welcome(last=2)
        self.assertRaises(dbuf.SessionTaken, client.sync, TIMEOUT_S)
        self.assertRaises(dbuf.SessionTaken, client.send, "2")

    def test_without_acknowledgements_an_event_is_settled_when_it_is_written(self) -> None:
        _, link, client = self.opened(ack="none")
        client.send("x")
        self.assertTrue(client.drain(TIMEOUT_S))
        self.assertEqual(link.payloads(1), [b"x"])
        self.assertEqual(client.statistics().kept, 0)
        sync = Call(lambda: client.sync(TIMEOUT_S))
        self.assertEqual(link.frame(), wire.Sync())
        link.durable(1)
        sync.result()

    def test_what_left_for_a_daemon_that_is_gone_is_never_called_durable(self) -> None:
        for ack, counted in (("none", 2), ("persisted", 0)):
            with self.subTest(ack):
                daemon, link, client = self.opened(ack=ack)
                for n in ("1", "2"):
                    client.send(n)
                link.events(2)
                if ack == "persisted":
                    link.persisted(2)
                self.assertTrue(client.drain(TIMEOUT_S))
                link.close()
                sync = Call(lambda: client.sync(TIMEOUT_S))
                again = daemon.accept().welcome()
                self.assertEqual(again.frame(), wire.Sync())
                again.durable(0)
                with self.assertRaises(dbuf.NotStored) as caught:
                    sync.result()
                self.assertEqual((caught.exception.refused, caught.exception.unconfirmed), (0, 2))
                self.assertEqual(client.statistics().unconfirmed, counted)
                client.send("3")
                sync = Call(lambda: client.sync(TIMEOUT_S))
                again.events(1)
                again.durable(3)
                sync.result()
                client.close(0)
                daemon.stop()

    def test_a_sync_that_is_not_answered_ends_in_time_and_says_why(self) -> None:
        client = self.client()
        client.sync(0)
        client.send("x")
        with self.assertRaisesRegex(dbuf.TimedOut, "^not durable within 0.5 s: cannot connect"):
            client.sync(0.5)
        daemon = PlayedDaemon(self, self.path)
        link = daemon.accept().welcome()
        link.events(1)
        self.assertEqual(link.frame(), wire.Sync(), "it is still wanted")
        link.durable(1)
        client.sync(TIMEOUT_S)

    def test_closing_waits_for_what_is_not_settled_and_says_goodbye_last(self) -> None:
        _, link, client = self.opened()
        client.send("x")
        closing = Call(lambda: client.close(TIMEOUT_S))
        link.events(1)
        self.assertTrue(closing.is_waiting())
        link.persisted(1)
        self.assertTrue(closing.result())
        self.assertEqual(link.frame(), wire.Bye())
        self.assertTrue(link.at_end())
        self.assertRaises(dbuf.Closed, client.send, "y")
        self.assertTrue(client.close(), "again, and nothing happens")

    def test_what_a_closed_client_could_not_deliver_is_counted_as_abandoned(self) -> None:
        client = self.client()
        with client:
            client.send("1")
            client.send("2")
            self.assertFalse(client.close(0))
        statistics = client.statistics()
        self.assertEqual((statistics.accepted, statistics.settled, statistics.kept), (2, 0, 0))
        self.assertEqual(statistics.lost, {"abandoned": 2})
        self.assertRaises(dbuf.Closed, client.sync)

    def test_answers_cut_at_any_byte_are_understood(self) -> None:
        daemon, client = PlayedDaemon(self, self.path), self.client()
        client.send("x")
        link = daemon.accept()
        answers = (wire.Welcome(0, 10), wire.Ignored(0xF0), wire.Ack(Level.DURABLE, 1))
        welcome, *rest = (wire.encode(frame) for frame in answers)
        for byte in welcome:
            link.stream.sendall(bytes([byte]))
        link.events(1)
        for byte in b"".join(rest):
            link.stream.sendall(bytes([byte]))
        self.assertTrue(client.drain(TIMEOUT_S))
        self.assertEqual(client.statistics().durable, 1)

    def test_a_daemon_that_talks_nonsense_is_left_and_asked_again(self) -> None:
        daemon, client = PlayedDaemon(self, self.path), self.client()
        client.send("x")
        for nonsense, what in (
            (b"HTTP/1.1 400 Bad Request\r\n", "beyond all bounds"),
            (wire.encode(wire.Ack(Level.DURABLE, 1)), "Ack that has no place"),
            (wire.encode(wire.Welcome(0, 10, version=2)), "version 2"),
            (wire.encode(wire.Sync()), "Sync that has no place"),
        ):
            link = daemon.accept()
            link.stream.sendall(nonsense)
            self.assertTrue(link.at_end())
            self.assertIn(what, self.last_error(client, what))
        self.assertEqual(daemon.accept().welcome().payloads(1), [b"x"])

    def last_error(self, client: dbuf.Client, what: str) -> str:
        unacked = client._unacked
        with unacked.changed:
            unacked.changed.wait_for(lambda: what in (unacked.last_error or ""), TIMEOUT_S)
            return unacked.last_error or ""

    def test_an_idle_client_lets_a_daemon_alone_that_has_gone(self) -> None:
        daemon, link, client = self.opened()
        client.send("x")
        link.events(1)
        link.persisted(1)
        self.assertTrue(client.drain(TIMEOUT_S))
        link.close()
        self.assertEqual(self.last_error(client, "closed the connection"), "dbufd closed the connection")
        self.assertFalse(daemon.is_asked())
        client.send("y")
        self.assertEqual(daemon.accept().welcome(last=1).payloads(1), [b"y"])

    def test_a_daemon_that_reads_nothing_costs_no_more_than_the_buffer(self) -> None:
        _, link, client = self.opened(buffer_bytes=1 << 20, when_full="drop")
        payload = b"x" * 1000
        numbers = [client.send(payload) for _ in range(5000)]
        taken = [number for number in numbers if number]
        statistics = client.statistics()
        self.assertLess(len(taken), 5000)
        self.assertLessEqual(statistics.kept_bytes, 1 << 20)
        self.assertEqual(statistics.accepted + statistics.lost["full"], 5000)
        events = link.events(len(taken))
        self.assertEqual([event.sequence for event in events], taken)

    def test_the_order_of_each_thread_is_kept(self) -> None:
        _, link, client = self.opened()

        def send(name: str) -> None:
            for n in range(500):
                client.send(f"{name} {n}")

        calls = [Call(partial(send, name)) for name in "abcd"]
        payloads = [payload.decode().split() for payload in link.payloads(2000)]
        for call in calls:
            call.result()
        for name in "abcd":
            self.assertEqual([int(n) for who, n in payloads if who == name], list(range(500)))

    def test_a_closed_client_leaves_no_descriptor_and_no_thread(self) -> None:
        daemon = PlayedDaemon(self, self.path)

        def life() -> None:
            client = self.client()
            client.send("x")
            link = daemon.accept().welcome()
            link.events(1)
            link.persisted(1)
            self.assertTrue(client.close(TIMEOUT_S))
            link.close()

        life()
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        for _ in range(5):
            life()
        self.assertEqual((len(os.listdir("/proc/self/fd")), threading.active_count()), before)


if __name__ == "__main__":
    unittest.main()
