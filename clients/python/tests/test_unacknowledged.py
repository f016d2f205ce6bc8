"""What a client owes and is owed, without a connection."""

import unittest
from typing import Optional

from dbuf import wire
from dbuf.unacknowledged import EVENT_COST, Unacknowledged
from dbuf.wire import Event, Level
from tests.support import frames_of


def unacked(level: Level, last: int = 0) -> Unacknowledged:
    fresh = Unacknowledged(level, 1 << 20, 7)
    # The caller holds it; here that is the test, to its end.
    fresh.changed.acquire()
    fresh.welcomed(wire.Welcome(last, 1000))
    return fresh


def add(fresh: Unacknowledged, count: int) -> None:
    for _ in range(count):
        fresh.add(b"x", 6, b"", 0)


def gathered(fresh: Unacknowledged, bytes_max: int = 1 << 20) -> list[Optional[int]]:
    """The sequences of the events, and None for a SYNC."""
    return [frame.sequence if isinstance(frame, Event) else None for frame in frames_of(fresh.gather(bytes_max))]


class UnacknowledgedTest(unittest.TestCase):
    def test_an_event_is_settled_by_an_acknowledgement_of_its_level_or_a_higher_one(self) -> None:
        for level, said, settled in (
            (Level.PERSISTED, Level.PERSISTED, 2),
            (Level.PERSISTED, Level.DURABLE, 2),
            (Level.DURABLE, Level.PERSISTED, 0),
            (Level.DURABLE, Level.DURABLE, 2),
            (Level.NONE, Level.DURABLE, 0),
        ):
            fresh = unacked(level)
            add(fresh, 3)
            self.assertEqual(gathered(fresh), [1, 2, 3])
            fresh.acknowledged(said, 2)
            self.assertEqual((fresh.settled, fresh.durable), (settled, 2 if said is Level.DURABLE else 0))
            self.assertEqual(fresh.kept_bytes, (3 - settled) * (EVENT_COST + 1))

    def test_a_daemon_that_takes_no_fields_gets_the_event_without_and_that_is_counted(self) -> None:
        for features, expected, without in ((0, (), 1), (wire.FEATURE_FIELDS, ((b"ORDER", b"17"),), 0)):
            fresh = unacked(Level.PERSISTED)
            fresh.disconnected("to another")
            fresh.welcomed(wire.Welcome(0, 1000, compatible=features))
            fresh.add(b"x", 6, b"", 0, wire.pack_fields([(b"ORDER", b"17")]))
            (frame,) = frames_of(fresh.gather(1))
            assert isinstance(frame, Event)
            self.assertEqual((frame.fields, frame.payload), (expected, b"x"))
            self.assertEqual(fresh.statistics().without_fields, without)
            fresh.acknowledged(Level.PERSISTED, 1)
            self.assertEqual(fresh.kept_bytes, 0)

    def test_without_a_level_what_is_handed_over_is_settled_and_what_is_not_waits(self) -> None:
        fresh = unacked(Level.NONE)
        add(fresh, 3)
        self.assertEqual(gathered(fresh, 1), [1])
        fresh.handed_over()
        self.assertEqual(gathered(fresh, 1), [2])
        fresh.disconnected("cut")
        fresh.welcomed(wire.Welcome(1, 1000))
        self.assertEqual((fresh.settled, gathered(fresh)), (1, [2, 3]))

    def test_a_sync_is_answered_when_all_before_it_is_durable_and_not_before(self) -> None:
        fresh = unacked(Level.NONE)
        add(fresh, 2)
        fresh.sync_wanted = 2
        add(fresh, 1)
        self.assertEqual(gathered(fresh, 1), [1])
        self.assertEqual(gathered(fresh, 30), [2, 3, None], "after all that it is for")
        self.assertEqual(gathered(fresh), [], "once")
        fresh.handed_over()
        fresh.acknowledged(Level.DURABLE, 1)
        self.assertEqual(fresh.synced, 1)
        fresh.acknowledged(Level.DURABLE, 3)
        self.assertEqual(fresh.synced, 3)
        self.assertFalse(fresh.needs_connection())

    def test_there_is_nothing_to_talk_about_once_all_is_settled(self) -> None:
        fresh = unacked(Level.PERSISTED)
        self.assertFalse(fresh.needs_connection())
        add(fresh, 1)
        self.assertTrue(fresh.needs_connection())
        gathered(fresh)
        fresh.disconnected("gone")
        self.assertTrue(fresh.needs_connection())
        fresh.welcomed(wire.Welcome(1, 1000))
        fresh.acknowledged(Level.PERSISTED, 1)
        self.assertFalse(fresh.needs_connection())

    def test_a_session_that_goes_on_counts_its_sequences_from_where_it_stood(self) -> None:
        fresh = unacked(Level.PERSISTED, last=100)
        add(fresh, 2)
        self.assertEqual(gathered(fresh), [101, 102])
        fresh.acknowledged(Level.PERSISTED, 100)
        self.assertEqual(fresh.settled, 0, "that was another's")
        fresh.disconnected("gone")
        fresh.welcomed(wire.Welcome(0, 1000))
        self.assertEqual(gathered(fresh), [101, 102], "a daemon that forgot is told the same")

    def test_an_acknowledgement_of_what_was_never_sent_settles_nothing_more(self) -> None:
        fresh = unacked(Level.PERSISTED)
        add(fresh, 2)
        self.assertEqual(gathered(fresh, 1), [1])
        fresh.acknowledged(Level.PERSISTED, 99)
        self.assertEqual((fresh.settled, gathered(fresh)), (1, [2]))

    def test_the_statistics_add_up_at_every_step(self) -> None:
        fresh = unacked(Level.PERSISTED)

        def check() -> None:
            s = fresh.statistics()
            self.assertEqual(s.accepted, s.settled + s.kept + s.lost.get("abandoned", 0))

        for step in (
            lambda: add(fresh, 5),
            lambda: fresh.gather(1),
            lambda: fresh.acknowledged(Level.PERSISTED, 1),
            lambda: fresh.gather(1 << 20),
            lambda: fresh.disconnected("gone"),
            lambda: fresh.welcomed(wire.Welcome(3, 1000)),
            lambda: fresh.refused(wire.Fault(wire.Code.LOST, 2, 3)),
            lambda: fresh.acknowledged(Level.PERSISTED, 3),
            fresh.abandon,
        ):
            step()
            check()
        self.assertEqual(fresh.statistics().lost, {"lost": 2, "abandoned": 2})


if __name__ == "__main__":
    unittest.main()
