"""The bytes of the protocol, against the vectors that every client is held by, and against the document's example."""

import json
import random
import unittest
from typing import Any, Callable

from dbuf import wire
from dbuf.wire import Ack, Bye, Event, Fault, Grant, Hello, Ignored, Level, Ring, Sync, Welcome
from tests.support import ROOT, frames_of

KINDS: dict[str, Callable[..., wire.Frame]] = {
    "hello": Hello,
    "event": Event,
    "sync": Sync,
    "bye": Bye,
    "ring": Ring,
    "grant": Grant,
    "welcome": Welcome,
    "ack": Ack,
    "error": Fault,
    "ignored": Ignored,
}


def vectors() -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((ROOT / "clients/golden/frames.json").read_text())
    return vectors


def frame_of(fields: dict[str, Any]) -> wire.Frame:
    fields = dict(fields)
    kind = KINDS[fields.pop("kind")]
    for name in ("name", "tag", "payload", "text"):
        if name in fields:
            fields[name] = bytes.fromhex(fields[name])
    for name in ("ack", "level"):
        if name in fields:
            fields[name] = Level.of(fields[name])
    if "session" in fields:
        fields["session"] = int.from_bytes(bytes.fromhex(fields["session"]), "little")
    if "fields" in fields:
        fields["fields"] = tuple(
            (bytes.fromhex(field["name"]), bytes.fromhex(field["value"])) for field in fields["fields"]
        )
    if kind is Ignored:
        fields = {"kind": fields["number"]}
    return kind(**fields)


def dump(name: str) -> bytes:
    """The bytes of a hex dump in docs/PROTOCOL.md: what stands before # on each line."""
    document = (ROOT / "docs/PROTOCOL.md").read_text()
    block = document.split(f"```{name}\n")[1].split("```")[0]
    return bytes.fromhex("".join(line.split("#")[0] for line in block.splitlines()))


class WireTest(unittest.TestCase):
    def test_every_golden_frame_is_read_and_written_byte_by_byte(self) -> None:
        good = [vector for vector in vectors() if "error" not in vector]
        self.assertGreater(len(good), 20)
        for vector in good:
            with self.subTest(vector["name"]):
                golden, frame = bytes.fromhex(vector["hex"]), frame_of(vector["frame"])
                if vector.get("only") != "encode":
                    self.assertEqual(wire.decode(golden), (frame, len(golden)))
                    self.assertEqual(wire.decode(b"before" + golden + b"behind", 6), (frame, 6 + len(golden)))
                    for cut in range(len(golden)):
                        self.assertIsNone(wire.decode(golden[:cut]), f"cut at {cut}")
                if vector.get("only") != "decode":
                    self.assertEqual(wire.encode(frame), golden)

    def test_bytes_that_are_not_a_frame_are_refused_for_the_reason_that_is_given(self) -> None:
        bad = [vector for vector in vectors() if "error" in vector]
        self.assertGreater(len(bad), 8)
        for vector in bad:
            with self.subTest(vector["name"]), self.assertRaises(wire.WireError) as caught:
                wire.decode(bytes.fromhex(vector["hex"]))
            self.assertEqual(str(caught.exception), vector["error"])

    def test_the_worked_example_of_the_document_is_what_the_code_writes_and_reads(self) -> None:
        client = dump("client-bytes")
        self.assertTrue(client.startswith(wire.MAGIC))
        frames = frames_of(client[len(wire.MAGIC) :])
        self.assertEqual([type(frame) for frame in frames], [Hello, Event, Event, Sync, Bye])
        self.assertEqual(frames[0], Hello(b"shop", Level.DURABLE, 0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF))
        self.assertEqual(frames[2], Event(2, b"card refused", 3, b"billing", 1_700_000_000_000_000_000))
        self.assertEqual(wire.MAGIC + b"".join(map(wire.encode, frames)), client)
        daemon = dump("daemon-bytes")
        answers: list[wire.Frame] = [
            Welcome(0, 65536),
            Ack(Level.DURABLE, 2),
            Fault(wire.Code.LOST, 3, 9, b"disk full"),
        ]
        self.assertEqual(frames_of(daemon), answers)
        self.assertEqual(b"".join(map(wire.encode, answers)), daemon)

    def test_the_tables_of_the_document_have_every_number_under_its_name(self) -> None:
        document = (ROOT / "docs/PROTOCOL.md").read_text()
        for name in ("HELLO", "EVENT", "EVENT_WITH_FIELDS", "SYNC", "BYE", "RING", "WELCOME", "ACK", "ERROR", "GRANT"):
            self.assertIn(f"| `0x{getattr(wire, name):02X}` | {name} |", document)
        for code in wire.Code:
            ends = "yes" if wire.is_final(code) else "no"
            self.assertIn(f"| `0x{code:02X}` | {wire.code_name(code)} | {ends} |", document)
        for level in Level:
            self.assertIn(f"| {level:d} | {level.name.lower()} |", document)
        for bound in (wire.LENGTH_MAX, wire.CONTROL_BYTES_MAX, wire.PRI_MAX, wire.TAG_BYTES_MAX, wire.FIELDS_BYTES_MAX):
            self.assertIn(f"**{bound}**", document)

    def test_a_frame_of_unknown_type_is_skipped_only_if_it_says_so(self) -> None:
        for kind in range(256):
            data = wire._HEAD.pack(40, kind, 0, 0, 0, 0) + bytes(40)
            if kind in (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x41, 0x42, 0x43, 0x44) or kind >= wire.IGNORABLE:
                self.assertEqual((wire.decode(data) or (None, 0))[1], 64, f"type {kind:#04x}")
            else:
                self.assertRaises(wire.WireError, wire.decode, data)

    def test_arbitrary_bytes_never_harm_the_decoder(self) -> None:
        numbers = random.Random(1)
        for _ in range(5000):
            length = numbers.randrange(60)
            head = wire._HEAD.pack(length, numbers.randrange(256), numbers.randrange(4), numbers.randrange(9), 1, 2)
            data = numbers.choice((b"", head)) + bytes(numbers.randrange(256) for _ in range(length))
            try:
                found = wire.decode(data)
            except wire.WireError:
                continue
            if found is not None:
                self.assertTrue(wire.HEAD_BYTES <= found[1] <= len(data))

    def test_a_number_that_does_not_fit_is_a_wrong_argument(self) -> None:
        for frame in (Event(1 << 64, b"x"), Event(-1, b"x"), Hello(session=1 << 128), Ack(Level.NONE, -1)):
            self.assertRaises(ValueError, wire.encode, frame)


if __name__ == "__main__":
    unittest.main()
