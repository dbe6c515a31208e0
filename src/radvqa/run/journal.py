"""An append-only journal: what was done, by key. A killed process loses at most the line it was writing."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from radvqa.errors import RunError
from radvqa.records import unwritable

SECONDS_BETWEEN_SYNCS = 1.0


@final
class Journal:
    """JSON Lines of entries with a ``key``; a later entry of a key replaces the earlier one. Only this process writes.

    Every entry is handed to the system in one write before ``append`` returns, so it outlives the process. It is
    forced onto the disk about once a second and on ``close``; a power cut can lose what came after. A line that was cut
    off by a kill or a full disk is taken away when the journal is opened again; ``cut_bytes`` tells its length. In
    memory are the keys and where their entries are, not the entries.

    Args:
        path: made with its folder if it is not there.

    Raises:
        RunError: another process has it open, it cannot be written, or a line is no entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut_bytes = 0
        self._places: dict[str, int] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise unwritable(path, error) from error
        self._synced_at = time.monotonic()
        try:
            self._lock()
            self._end = self._index()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of different keys."""
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The latest entry of ``key``. Raises ``KeyError`` if there is none."""
        place = self._places[key]
        with open(self._file, "rb", closefd=False) as file:
            file.seek(place)
            entry = json.loads(file.readline())
        return dict(entry)

    def entries(self) -> Iterator[dict[str, Any]]:
        """All entries in the order they were written, replaced ones too."""
        with self.path.open("rb") as file:
            for line in file:
                yield json.loads(line)

    def append(self, key: str, entry: Mapping[str, Any]) -> None:
        """Write one entry.

        Raises:
            RunError: the disk is full or the file is gone. What was written before is intact.
        """
        line = (json.dumps({"key": key, **entry}, ensure_ascii=True, separators=(",", ":")) + "\n").encode()
        try:
            written = os.pwrite(self._file, line, self._end)
            if written != len(line):
                raise OSError(28, os.strerror(28))
            if time.monotonic() - self._synced_at > SECONDS_BETWEEN_SYNCS:
                os.fsync(self._file)
                self._synced_at = time.monotonic()
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise unwritable(self.path, error) from error
        self._places[key] = self._end
        self._end += len(line)

    def close(self) -> None:
        """Force everything onto the disk and let other processes in."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                "another process is writing this journal",
                where=str(self.path),
                expected="one process at a time",
                fix="wait for it to end, or stop it; what it has written is used by the next start",
            ) from error

    def _index(self) -> int:
        """Find the place of every key, cut a torn last line off, and return where the next entry goes."""
        end = 0
        with open(self._file, "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self.cut_bytes = len(line)
                    break
                self._places[self._key(line, number)] = end
                end += len(line)
        if self.cut_bytes:
            os.ftruncate(self._file, end)
        return end

    def _key(self, line: bytes, number: int) -> str:
        try:
            key = json.loads(line)["key"]
        except (ValueError, TypeError, KeyError) as error:
            key = error
        if not isinstance(key, str):
            raise RunError(
                "a line of the journal is damaged",
                where=f"{self.path}, line {number}",
                expected="a JSON object with a key",
                got=repr(line[:80]),
                fix="take this line out; what it stood for is done again",
            )
        return key
