"""Text lines, against a daemon that the test plays."""

import os
import socket
import unittest
from unittest import mock

import dbuf
from dbuf.paths import may_listen, runtime_dir
from tests.support import Folder, PlayedDaemon


def read(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        assert more, data
        data += more
    return data


class LineTest(Folder):
    def setUp(self) -> None:
        super().setUp()
        self.daemon = PlayedDaemon(self, self.path)
        self.client = dbuf.LineClient(path=self.path)
        self.addCleanup(self.client.close)

    def sent(self, *calls: tuple[dbuf.Bytes, int]) -> bytes:
        for text, priority in calls:
            self.client.send(text, priority=priority)
        self.client.close()
        stream = self.daemon.accept_bytes()
        with stream.makefile("rb") as file:
            return file.read()

    def test_a_line_has_its_priority_before_it_and_every_byte_is_kept(self) -> None:
        sent = self.sent(("grün ", 6), (b"\xff\0\r", 3), ("<5>as it is", 7))
        self.assertEqual(sent, "<6>grün \n".encode() + b"<3>\xff\0\r\n" + b"<7><5>as it is\n")

    def test_each_line_of_a_text_is_an_event_and_an_empty_line_is_not(self) -> None:
        sent = self.sent(("one\n\ntwo\n", 4), ("", 4), ("\n", 4), ("a\u2028b\x0bc", 4))
        self.assertEqual(sent, "<4>one\n<4>two\n<4>a\u2028b\x0bc\n".encode(), "only a newline ends a line")

    def test_a_priority_is_0_to_7(self) -> None:
        for priority in (-1, 8, 3.0, "3", True):
            with self.assertRaisesRegex(dbuf.Invalid, "allowed: 0 to 7$"):
                self.client.send("x", priority=priority)  # type: ignore[arg-type]

    def test_a_path_is_given_by_its_name_because_the_first_argument_of_a_client_is_its_tag(self) -> None:
        self.assertRaises(TypeError, dbuf.LineClient, self.path)

    def test_a_connection_that_broke_is_made_anew(self) -> None:
        self.client.send("1")
        stream = self.daemon.accept_bytes()
        self.assertEqual(read(stream, 5), b"<6>1\n")
        stream.close()
        self.client.send("2")
        self.assertEqual(read(self.daemon.accept_bytes(), 5), b"<6>2\n")

    def test_without_a_daemon_it_says_where_it_looked(self) -> None:
        self.daemon.stop()
        with self.assertRaisesRegex(dbuf.NotConnected, f"{self.path}: .*is dbufd running"):
            self.client.send("x")

    def test_a_daemon_that_reads_nothing_ends_the_call_at_its_deadline(self) -> None:
        client = dbuf.LineClient(path=self.path, timeout=0.01)
        self.addCleanup(client.close)
        client.send("first")
        # More than the kernel takes.
        with self.assertRaisesRegex(dbuf.NotConnected, "^dbufd had no room for the text within 0.01 s$"):
            client.send("x" * (16 << 20))
        self.assertEqual(self.daemon.accept_bytes().recv(9), b"<6>first\n")
        self.assertFalse(self.daemon.is_asked(), "another connection would have no room either")

    def test_a_closed_client_sends_nothing_more(self) -> None:
        self.client.close()
        self.assertRaises(dbuf.Closed, self.client.send, "x")


class PathTest(unittest.TestCase):
    def test_the_place_of_the_sockets_is_found_as_dbufctl_finds_it(self) -> None:
        every = {"RUNTIME_DIRECTORY": ":/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/1"}
        user = {"XDG_RUNTIME_DIR": "/run/user/1"}
        for environment, uid, expected in (
            (every, 0, "/run/a"),
            (every, 1000, "/run/a"),
            (user, 0, "/run/dbufd"),
            (user, 1000, "/run/user/1/dbufd"),
            ({}, 7, "/nowhere/dbufd-7"),
            ({"XDG_RUNTIME_DIR": "relative"}, 7, "/nowhere/dbufd-7"),
            ({"XDG_RUNTIME_DIR": ""}, 7, "/nowhere/dbufd-7"),
        ):
            self.assertEqual(runtime_dir(environment, uid, "/nowhere"), expected)


class PrivateFolderTest(Folder):
    def test_a_folder_in_the_temporary_directory_that_others_could_have_made_is_not_trusted(self) -> None:
        uid = os.geteuid() + 1  # of an ordinary user, whichever user runs this
        path = os.path.join(self.folder, f"dbufd-{uid}")
        self.assertEqual(runtime_dir({}, uid, self.folder), path, "nobody has made it yet")
        os.mkdir(path, 0o700)
        self.assertIsNone(runtime_dir({}, uid, self.folder), "it is this user's, and not that one's")

    def test_a_listener_in_a_folder_of_the_temporary_directory_must_be_this_users_or_roots(self) -> None:
        own = os.geteuid()
        path = f"/tmp/dbufd-{own}/stream.sock"
        for user, expected in ((own, True), (0, True), (own + 1, False)):
            self.assertEqual(may_listen(path, user), expected)
        self.assertTrue(may_listen("/run/dbufd/stream.sock", own + 1))

    def test_a_listener_that_is_not_trusted_gets_nothing(self) -> None:
        daemon = PlayedDaemon(self, self.path)
        with mock.patch("dbuf.paths.may_listen", return_value=False):
            why = f"^cannot connect to {self.path}: a program of the user {os.geteuid()} listens there$"
            with self.assertRaisesRegex(dbuf.NotConnected, why):
                dbuf.LineClient(path=self.path).send("secret")
            client = dbuf.Client(path=self.path, quiet=True)
            self.addCleanup(client.close, 0)
            client.send("secret")
            self.assertRaisesRegex(dbuf.NotConnected, why, client.connect, 0.1)
            self.assertEqual(daemon.accept_bytes().recv(1), b"")
            self.assertEqual(daemon.accept_bytes().recv(1), b"")


if __name__ == "__main__":
    unittest.main()
