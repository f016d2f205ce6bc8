"""Holds what every client has: where the daemon is, the ``with`` statement, and a new beginning in a forked child."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Callable, TypeVar

from . import process
from .paths import Path, default_path

SenderT = TypeVar("SenderT", bound="Sender")


class Sender:
    """Something that is connected to the daemon until it is closed."""

    def __init__(self, path: Path | None) -> None:
        given = None if path is None else os.fsdecode(path)
        self._find: Callable[[], str] = default_path if given is None else lambda: given
        process.begin_anew_in_child(self)

    def close(self) -> object:
        """Ends the connection."""
        raise NotImplementedError

    def __enter__(self: SenderT) -> SenderT:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _in_child(self) -> None:
        raise NotImplementedError
