"""Typed records as JSON Lines: read with validation, write atomically.

Every layer hands its result to the next one as such a file, so each can be inspected, replaced and resumed alone.
"""

import dataclasses
import json
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, final, overload

import numpy as np
from jaxtyping import Int
from platformdirs import user_cache_path
from pydantic import TypeAdapter, ValidationError

from radvqa.errors import DataError, RunError

T = TypeVar("T")

_BLOCK = 1 << 22


def read_records(path: Path, record_type: type[T]) -> list[T]:
    """All records of one JSON Lines file.

    Raises:
        DataError: the file is missing, or a line is not a valid record; names file, line and field.
    """
    _require_file(path, record_type)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not a file of {record_type.__name__} records",
            where=str(path),
            expected="JSON Lines in UTF-8",
            got=str(error),
            fix="delete the file and run the step that writes it again",
        ) from error
    adapter, records = TypeAdapter(record_type), []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        records.append(_validated(adapter, line, path, number))
    return records


@final
class RecordFile(Sequence[T], Generic[T]):
    """The records of a file that radvqa has written, each read and validated when it is asked for.

    A million records cost eight megabytes here, and half a second to open. The file must not change meanwhile.

    Raises:
        DataError: the file is missing, or, when it is asked for, a record is not valid.
    """

    def __init__(self, path: Path, record_type: type[T]) -> None:
        _require_file(path, record_type)
        self.path = path
        self._adapter = TypeAdapter(record_type)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        newlines = [np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10) + at for at, block in self._blocks()]
        self._ends = np.concatenate([np.zeros(0, dtype=np.int64), *newlines])

    def __len__(self) -> int:
        """The number of records."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """One record, or a list of some."""
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} is not among {len(self)} records of {self.path}")
        return self._read(index % len(self))

    def __iter__(self) -> Iterator[T]:
        """All records in order."""
        return map(self._read, range(len(self)))

    def line_bytes(self) -> Int[np.ndarray, " n"]:
        """The length of each record's line, its newline included."""
        return np.diff(self._ends, prepend=-1)

    def containing(self, text: str) -> Int[np.ndarray, " k"]:
        """The indices of records whose line holds ``text``, found without reading them as JSON."""
        wanted = text.encode()
        found: set[int] = set()
        for at, block in self._blocks():
            start = 0
            while (place := block.find(wanted, start)) >= 0:
                number = int(np.searchsorted(self._ends, at + place))
                found.add(number)
                start = int(self._ends[number]) - at
        return np.array(sorted(found), dtype=np.int64)

    def column(self, field: str) -> tuple[list[str], Int[np.ndarray, " n"]]:
        """The distinct values of a text field in order of appearance, and which of them each record has.

        Only this field is parsed, on all cores.
        """
        import pyarrow as pa

        known: dict[str, int] = {}
        which: list[np.ndarray] = []
        for batch in self._batches(pa.schema([(field, pa.string())])):
            encoded = batch.column(0).dictionary_encode()
            numbers = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
            which.append(np.array(numbers, dtype=np.int64)[encoded.indices.to_numpy()])
        return list(known), np.concatenate([np.zeros(0, dtype=np.int64), *which])

    def texts_in(self, field: str, keys: Sequence[str]) -> Iterator[dict[str, str]]:
        """Of every record, those of the texts under ``keys`` in a mapping that it has. Only these are parsed."""
        import pyarrow as pa

        wanted = pa.struct([(key, pa.string()) for key in dict.fromkeys(keys)])
        for batch in self._batches(pa.schema([(field, wanted)])):
            for found in batch.column(0).to_pylist():
                yield {key: value for key, value in (found or {}).items() if value is not None}

    def _batches(self, schema: Any) -> Iterator[Any]:
        """The fields of a schema, parsed in pieces on all cores."""
        from pyarrow import json as arrow_json

        if len(self):
            yield from arrow_json.open_json(
                self.path,
                read_options=arrow_json.ReadOptions(block_size=_BLOCK),
                parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )

    def _read(self, number: int) -> T:
        start = int(self._ends[number - 1]) + 1 if number else 0
        line = os.pread(self._file, int(self._ends[number]) - start, start)
        return _validated(self._adapter, line, self.path, number + 1)

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """The file in pieces that end with a line, each with its place."""
        at = 0
        while block := os.pread(self._file, _BLOCK, at):
            whole = block.rfind(b"\n") + 1
            while not whole and len(block) % _BLOCK == 0:
                more = os.pread(self._file, _BLOCK, at + len(block))
                block, whole = block + more, (block + more).rfind(b"\n") + 1
                if not more:
                    break
            if not whole:
                return
            yield at, block[:whole]
            at += whole


def _require_file(path: Path, record_type: type[Any]) -> None:
    if not path.is_file():
        raise DataError(
            "records file not found",
            where=str(path),
            expected=f"JSON Lines of {record_type.__name__}",
            fix="check the path, or run the step that writes it",
        )


def _validated(adapter: TypeAdapter[T], line: str | bytes, path: Path, number: int) -> T:
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            "not a valid record",
            where=f"{path}, line {number}, field {'.'.join(map(str, first['loc'])) or '(whole line)'}",
            expected=first["msg"],
            got=repr(first["input"])[:200],
            fix="correct the line, or delete the file and run the step that writes it again",
        ) from error


def read_json(path: Path, kind: type[T]) -> T | None:
    """The validated content of a JSON file that a step wrote, or None if there is no such file.

    Raises:
        RunError: it is damaged or from another version; names the field.
    """
    if not path.is_file():
        return None
    try:
        value: T = TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise RunError(
            "a file of the folder is damaged or from another version of radvqa",
            where=f"{path}, field {'.'.join(map(str, first['loc'])) or '(whole file)'}",
            expected=first["msg"],
            got=repr(first["input"])[:200],
            fix="delete the file and run the step that writes it again",
        ) from error
    return value


def read_optional(path: Path, kind: type[T]) -> list[T]:
    """The records of a JSON Lines file, none if there is no such file. Raises ``DataError`` like ``read_records``."""
    return read_records(path, kind) if path.is_file() else []


def write_records(path: Path, records: Iterable[Any]) -> int:
    """Write dataclass records as JSON Lines in one atomic step and return how many there were.

    Raises:
        RunError: the folder is full or not writable. An older file at ``path`` stays as it was.
    """
    lines = [json.dumps(dataclasses.asdict(record), ensure_ascii=False, default=str) for record in records]
    write_text(path, "".join(line + "\n" for line in lines))
    return len(lines)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, indented, in one atomic step. Raises ``RunError`` like ``write_text``."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` atomically; what UTF-8 cannot hold, such as half a surrogate pair, is escaped.

    Raises ``RunError`` like ``write_bytes``.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` so that a reader sees the old or the new file, never a part.

    Raises:
        RunError: the folder is full or not writable. An older file at ``path`` stays as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        try:
            partial.unlink(missing_ok=True)
        except OSError:
            pass
        raise unwritable(path, error) from error


def settle(unfinished: Path, folder: Path) -> None:
    """Rename a finished folder into its place; where another process was first, its equal one stays.

    Raises:
        OSError: the folder is not there afterwards.
    """
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def unwritable(path: Path, error: OSError) -> RunError:
    """The one message for an output or cache folder that is full, read-only or not a folder."""
    cached = path.absolute().is_relative_to(user_cache_path("radvqa"))
    other = "point XDG_CACHE_HOME to another folder" if cached else "choose another folder with --set output=DIR"
    return RunError(
        f"cannot write to the {'cache' if cached else 'output'} folder",
        where=str(path),
        expected="a writable folder with free space",
        got=error.strerror or str(error),
        fix=f"free some space or {other}; everything written before is intact",
    )
