"""The handler for logging, against a daemon that the test plays."""

import logging
import logging.config
import sys
import threading
import unittest
from typing import Any

import dbuf
from dbuf import wire
from dbuf.unacknowledged import EVENT_COST
from tests.support import TIMEOUT_S, Call, Folder, PlayedDaemon


class HandlerTest(Folder):
    def setUp(self) -> None:
        super().setUp()
        self.daemon = PlayedDaemon(self, self.path)

    def handler(self, **options: Any) -> dbuf.Handler:
        handler = dbuf.Handler(path=self.path, close_timeout=0, **{"quiet": True, **options})
        self.addCleanup(handler.close)
        return handler

    def logger(self, handler: logging.Handler, name: str = "shop.cart") -> logging.Logger:
        logger = logging.Logger(name)
        logger.addHandler(handler)
        return logger

    def test_levels_become_priorities_and_the_logger_becomes_the_tag(self) -> None:
        logger = self.logger(self.handler())
        levels = [(logging.CRITICAL + 10, 2), (logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4),
                  (25, 5), (logging.INFO, 6), (21, 6), (logging.DEBUG, 7), (1, 7)]  # fmt: skip
        for level, _ in levels:
            logger.log(level, "level %d", level)
        link = self.daemon.accept().welcome()
        for (level, priority), event in zip(levels, link.events(len(levels))):
            self.assertEqual((event.payload, event.pri), (b"level %d" % level, priority))
            self.assertEqual(event.tag, b"shop.cart")
            self.assertGreater(event.time_ns, 1_600_000_000_000_000_000)

    def test_a_given_tag_is_that_of_all_and_a_long_name_is_cut_where_a_character_begins(self) -> None:
        self.logger(self.handler(tag="one")).warning("x")
        link = self.daemon.accept().welcome()
        self.assertEqual((link.hello.name, link.events(1)[0].tag), (b"one", b"one"))
        self.logger(self.handler(), "ü" * 31 + "-ü").warning("x")
        self.assertEqual(self.daemon.accept().welcome().events(1)[0].tag, ("ü" * 31 + "-").encode())

    def test_a_traceback_and_a_text_of_many_lines_are_one_event_each(self) -> None:
        logger = self.logger(self.handler())
        logger.info("one\ntwo\n")
        try:
            raise KeyError("gone")
        except KeyError:
            logger.exception("it failed")
        first, second = self.daemon.accept().welcome().payloads(2)
        self.assertEqual(first, b"one\ntwo\n")
        self.assertRegex(second, rb"(?s)^it failed\nTraceback .*\n.*KeyError: 'gone'$")

    def test_a_text_that_is_not_unicode_arrives_as_the_bytes_that_it_came_from(self) -> None:
        logger = self.logger(self.handler())
        logger.info("name \udcff")
        logger.info("half \ud800")
        payloads = self.daemon.accept().welcome().payloads(2)
        self.assertEqual(payloads, [b"name \xff", b"half \\ud800"])

    def test_a_deaf_daemon_never_makes_the_program_wait_and_what_is_lost_is_reported_where_it_was(self) -> None:
        text = "x" * 100
        room = 10 * (EVENT_COST + len(text) + len("shop.cart"))
        handler = self.handler(buffer_bytes=room, fields=False)
        logger = self.logger(handler)
        # The daemon does not accept; that this ends is the proof.
        for _ in range(10):
            logger.info(text)
        for _ in range(17):
            logger.info("lost")
        statistics = handler.statistics()
        self.assertEqual((statistics.kept, statistics.lost), (10, {"full": 17}))
        link = self.daemon.accept().welcome()
        link.events(10)
        link.persisted(10)
        (report,) = link.events(1)
        logger.info("after")
        logger.info("and on")
        after, on = link.events(2)
        self.assertRegex(report.payload, rb"^dbuf: 17 events were lost here")
        self.assertEqual((report.pri, after.payload, on.payload), (4, b"after", b"and on"), "reported once")

    def test_what_was_lost_last_is_reported_as_soon_as_there_is_room_and_a_flush_waits_for_that(self) -> None:
        handler = self.handler(buffer_bytes=2 * EVENT_COST, flush_timeout=TIMEOUT_S)
        logger = self.logger(handler)
        logger.info("kept")
        logger.info("lost")
        link = self.daemon.accept().welcome()
        link.events(1)
        flush = Call(handler.flush)
        link.persisted(1)
        self.assertRegex(link.payloads(1)[0], rb"^dbuf: 1 event was lost here")
        self.assertTrue(flush.is_waiting())
        link.persisted(2)
        flush.result()

    def test_a_handler_that_may_block_waits_until_there_is_room(self) -> None:
        handler = self.handler(buffer_bytes=2 * EVENT_COST, block=True, block_timeout=TIMEOUT_S)
        logger = self.logger(handler)
        logger.info("1")
        second = Call(lambda: logger.info("2"))
        link = self.daemon.accept().welcome()
        link.events(1)
        self.assertTrue(second.is_waiting())
        link.persisted(1)
        second.result()
        self.assertEqual(link.payloads(1), [b"2"])
        self.assertEqual(handler.statistics().lost, {})

    def test_a_handler_that_may_block_does_so_until_its_deadline_and_then_counts(self) -> None:
        handler = self.handler(buffer_bytes=2 * EVENT_COST, block=True, block_timeout=0.01)
        logger = self.logger(handler)
        logger.info("1")
        logger.info("2")
        self.assertEqual(handler.statistics().lost, {"full": 1})

    def test_flush_and_close_end_in_time_without_an_answer(self) -> None:
        handler = dbuf.Handler(path=self.path, flush_timeout=0.01, close_timeout=0.01, quiet=True)
        self.logger(handler).info("x")
        handler.flush()
        handler.close()
        handler.close()
        handler.flush()
        self.assertEqual(handler.statistics().lost, {"abandoned": 1})

    def test_records_survive_a_restart_of_the_daemon(self) -> None:
        logger = self.logger(self.handler())
        logger.info("1")
        link = self.daemon.accept().welcome()
        link.events(1)
        self.daemon.stop()
        logger.info("2")
        self.daemon = PlayedDaemon(self, self.path)
        again = self.daemon.accept().welcome(last=1)
        self.assertEqual((again.hello.session, again.payloads(1)), (link.hello.session, [b"2"]))

    def test_a_record_that_is_too_big_is_cut_with_a_word_also_before_the_daemon_has_said_what_it_takes(self) -> None:
        handler = self.handler(quiet=True)
        logger = self.logger(handler)
        logger.info("%s", "x" * 2000)
        link = self.daemon.accept().welcome(max_event=100)
        self.assertEqual(link.payloads(1), [b"x" * 83 + b" [1917 bytes cut]"])
        logger.info("%s", "\u00fc" * 100)
        logger.info("x" * 100)
        self.assertEqual(link.payloads(2), ["\u00fc".encode() * 42 + b" [116 bytes cut]", b"x" * 100])
        self.assertEqual((handler.statistics().shortened, handler.statistics().lost), (2, {}))
        link.persisted(3)
        self.assertTrue(handler._client.drain(TIMEOUT_S))
        self.assertEqual(handler.statistics().kept_bytes, 0, "what was cut is not kept")

    def test_a_record_that_is_larger_than_the_buffer_is_cut_too(self) -> None:
        handler = self.handler(buffer_bytes=1000, fields=False, quiet=True)
        self.logger(handler).info("x" * 5000)
        (payload,) = self.daemon.accept().welcome(max_event=1 << 20).payloads(1)
        self.assertTrue(payload.startswith(b"x" * 700) and payload.endswith(b" bytes cut]"), payload)

    def test_records_that_the_daemon_does_not_store_go_to_handle_error(self) -> None:
        seen: list[str] = []
        handler = self.handler()

        def handle_error(record: logging.LogRecord) -> None:
            seen.append(f"{record.getMessage()} / {sys.exc_info()[1]}")

        handler.handleError = handle_error  # type: ignore[method-assign]
        self.logger(handler).info("x")
        link = self.daemon.accept().welcome()
        link.events(1)
        link.reply(wire.Fault(wire.Code.LOST, 1, 1, b"disk full"))
        link.persisted(1)
        self.assertTrue(handler._client.drain(TIMEOUT_S))
        self.assertEqual(seen, ["dbufd did not store the events 1 to 1: disk full (lost) / 1 event was not stored"])

    def test_a_record_without_text_has_its_loggers_name_as_text(self) -> None:
        logger = self.logger(self.handler())
        logger.error("")
        logger.error("%s", "")
        self.assertEqual(self.daemon.accept().welcome().payloads(2), [b"shop.cart"] * 2)

    def test_fields_that_have_no_room_are_named_and_counted_and_the_others_are_there(self) -> None:
        handler = self.handler()
        logger = self.logger(handler)
        logger.info("x", extra={"small": 1, "big": "x" * 20000, "huge": b"y" * 30000, "last": None})
        logger.info("y", extra={"n" * 80: 2, "http.status-code": 404, "_2nd": "z", "\u00e4": b"\xff"})
        link = self.daemon.accept().welcome(features=wire.FEATURE_FIELDS)
        first, second = (dict(event.fields) for event in link.events(2))
        self.assertEqual((first[b"SMALL"], first[b"LAST"], first[b"LOGGER"]), (b"1", b"None", b"shop.cart"))
        self.assertEqual((first[b"FIELDS_LEFT_OUT"], b"BIG" in first), (b"BIG,HUGE", False))
        self.assertEqual(handler.statistics().fields_left_out, 1)
        names = (b"N" * 64, b"HTTP_STATUS_CODE", b"ND", b"FIELD")
        self.assertEqual([second[name] for name in names], [b"2", b"404", b"z", b"\xff"])
        self.assertNotIn(b"FIELDS_LEFT_OUT", second)

    def test_a_value_that_has_no_text_costs_neither_the_record_nor_the_other_fields(self) -> None:
        class Broken:
            def __str__(self) -> str:
                raise KeyError("no")

        self.logger(self.handler()).info("x", extra={"broken": Broken(), "fine": 1})
        (event,) = self.daemon.accept().welcome(features=wire.FEATURE_FIELDS).events(1)
        fields = dict(event.fields)
        self.assertEqual((fields[b"FINE"], fields[b"BROKEN"]), (b"1", b"<KeyError in __str__ of Broken>"))

    def test_dict_config_makes_one(self) -> None:
        config = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "%(levelname)s %(message)s"}},
            "handlers": {
                "dbuf": {
                    "class": "dbuf.Handler",
                    "level": "WARNING",
                    "formatter": "plain",
                    "path": self.path,
                    "tag": "shop",
                    "ack": "durable",
                }
            },
            "loggers": {"dbuf.tests": {"handlers": ["dbuf"], "level": "DEBUG", "propagate": False}},
        }
        logging.config.dictConfig(config)
        logger = logging.getLogger("dbuf.tests")
        (handler,) = logger.handlers
        self.addCleanup(logger.removeHandler, handler)
        logger.info("below")
        logger.warning("above")
        link = self.daemon.accept().welcome()
        self.assertEqual((link.hello.ack, link.hello.name), (wire.Level.DURABLE, b"shop"))
        self.assertEqual(link.payloads(1), [b"WARNING above"])
        link.durable(1)
        handler.close()

    def test_many_threads_log_and_each_record_lands_once(self) -> None:
        logger = self.logger(self.handler())

        def log(name: str) -> None:
            for n in range(250):
                logger.info("%s %d", name, n)

        threads = [threading.Thread(target=log, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        payloads = self.daemon.accept().welcome().payloads(1000)
        for thread in threads:
            thread.join()
        self.assertEqual(len(set(payloads)), 1000)


if __name__ == "__main__":
    unittest.main()
