"""Tables of data sets, row by row: JSON lists, JSON Lines, CSV, Parquet and lines of text.

Reading never stops at a bad row. A row that is no row, or lacks what an adapter asks of it, becomes a reject that names
file and row; only a file that cannot be read at all is an error.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from radvqa.data.adapter import Item
from radvqa.data.paths import path_inside
from radvqa.errors import DataError
from radvqa.sample import Reject

TABLE_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
UNCLOSED_QUOTE = "unclosed_quote"
LONGEST_TEXT = 100_000
"""Characters; a longer field is a damaged file (a quotation mark that is never closed), not a question."""

_MOST_DIGITS = 1_000
_RESTORE = "fetch the file again from the data set's source, or correct it"
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
# What pyarrow raises for damaged files and for values that Python has no type for, such as a date in the year 20000.
_PARQUET_ERRORS = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    ImportError,
    MemoryError,
    RecursionError,
)


class RowError(Exception):
    """This row cannot become a record. ``reason`` is a short machine name, ``detail`` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that its file holds but Python cannot have; ``problem`` says why."""

    problem: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row as read. ``where`` names file and row; ``name`` is an id for the row that needs none of its values.

    ``broken`` is set where the file holds something else than a row at this place: every access then raises it.
    """

    where: str
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    broken: RowError | None = None

    def text(self, key: str, *, may_be_empty: bool = False) -> str:
        """The text under ``key``, as it stands.

        Raises:
            RowError: the key is absent, or its value is no text, no Unicode, empty, or longer than ``LONGEST_TEXT``.
        """
        value = self._value(key)
        if not isinstance(value, str):
            raise RowError("wrong_type", f"{key} should be text, got {shown(value)}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            detail = f"{key} is not valid Unicode text: {shown(value)}; save the file as UTF-8"
            raise RowError("not_unicode", detail)
        if len(value) > LONGEST_TEXT:
            raise RowError("too_long", f"{key} has {len(value):,} characters: {shown(value)}")
        if not may_be_empty and not value.strip():
            raise RowError("empty_value", f"{key} is empty")
        return value

    def optional_text(self, key: str) -> str:
        """The text under ``key``, or ``""`` where the key is absent or null. Raises ``RowError`` like ``text``."""
        return "" if self._values().get(key) is None else self.text(key, may_be_empty=True)

    def whole_number(self, key: str, *, least: int = 0) -> int:
        """The integer under ``key``. Raises ``RowError`` if there is none or it is below ``least``."""
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise RowError("wrong_type", f"{key} should be a whole number, got {shown(value)}")
        if value < least:
            raise RowError("out_of_range", f"{key} should be at least {least}, got {value}")
        return value

    def one_of(self, key: str, known: Mapping[str, Any] | Sequence[str]) -> str:
        """The text under ``key`` if it is one of ``known``. Raises ``RowError`` like ``text``, and if it is none."""
        value = self.text(key, may_be_empty=True)
        if value not in known:
            raise RowError("unknown_value", f"{key} should be one of {', '.join(known)}, got {shown(value)}")
        return value

    def _value(self, key: str) -> Any:
        values = self._values()
        if key not in values:
            raise RowError("missing_key", f"there is no {key!r}, only {shown(list(values))}")
        value = values[key]
        if isinstance(value, Unreadable):
            raise RowError("unreadable_value", f"{key} cannot be read: {value.problem}")
        return value

    def _values(self) -> Mapping[str, Any]:
        if self.broken is not None:
            raise self.broken
        return self.values


def image_inside(root: Path, relative: str, *, key: str) -> Path:
    """The path of a row's picture inside the folder ``root``; it need not be there.

    Raises:
        RowError: it would lie outside; ``key`` names the value in the message.
    """
    try:
        return path_inside(root, relative)
    except DataError as error:
        raise RowError("path_leaves_folder", f"{key} {relative!r:.200} leaves the data folder: {error.got}") from error


def items_of(rows: Iterable[Row], make: Callable[[Row], Iterable[Item]]) -> Iterator[Item]:
    """What ``make`` makes of each row, or the reject of the row for which it raises ``RowError``."""
    for row in rows:
        try:
            if row.broken is not None:
                raise row.broken
            items = list(make(row))
        except RowError as error:
            yield Reject(sample_id=row.name, reason=error.reason, where=row.where, detail=error.detail, malformed=True)
        else:
            yield from items


def read_table(path: Path) -> Iterator[Row]:
    """The rows of a table, by the suffix of its name: see ``TABLE_SUFFIXES``.

    Raises:
        DataError: another suffix; the file is missing, or cannot be read at all.
    """
    readers: Mapping[str, Callable[[Path], Iterator[Row]]] = {
        ".json": read_json,
        ".jsonl": read_json_lines,
        ".csv": read_csv,
        ".tsv": lambda table: read_csv(table, delimiter="\t"),
        ".parquet": read_parquet,
    }
    if path.suffix.lower() not in readers:
        raise DataError(
            "not a table that can be read",
            where=str(path),
            expected=f"a file ending in {', '.join(TABLE_SUFFIXES)}",
            got=path.suffix or "no suffix",
            fix="save the table in one of these formats",
        )
    return readers[path.suffix.lower()](path)


def read_json(path: Path) -> Iterator[Row]:
    """The entries of a JSON list; one that is no object is a broken row.

    Raises:
        DataError: the file is missing, no JSON or no list.
    """
    for number, value in enumerate(read_json_list(path), start=1):
        yield _json_row(value, path, number)


def read_json_list(path: Path) -> list[Any]:
    """The entries of a JSON list as they are. Raises ``DataError`` like ``read_json``."""
    try:
        value = parsed_json(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(
            "file is not valid JSON", where=str(path), expected="a JSON list", got=str(error), fix=_RESTORE
        ) from error
    if not isinstance(value, list):
        raise DataError(
            "file is not a JSON list", where=str(path), expected="[...]", got=type(value).__name__, fix=_RESTORE
        )
    return value


def parsed_json(content: bytes | str) -> Any:
    """The value of JSON. A whole number of more than 1,000 digits stays text: Python refuses to read long ones.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(content, parse_int=_whole_number)


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def read_json_lines(path: Path) -> Iterator[Row]:
    """One JSON object per line; blank lines are skipped, and a line that is no object is a broken row.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = parsed_json(line)
        except (ValueError, RecursionError) as error:
            where, name = f"{path}, line {number}", _name(path, number)
            yield Row(where, name, broken=RowError("not_json", f"the line is not valid JSON: {error}"))
        else:
            yield _json_row(value, path, number)


def read_csv(path: Path, *, delimiter: str = ",", columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a CSV file, all values as text; ``columns`` for a file without a header line.

    A row with more or fewer fields than columns is a broken row, and so is one with a quotation mark that is never
    closed, which makes the rest of the file one field (``UNCLOSED_QUOTE``). A header line that has semicolons and no
    comma tells that semicolons separate the values, as spreadsheet programs write them in many countries.

    Raises:
        DataError: the file is missing, cannot be read, is UTF-16 or UTF-32, or has no header or the same column twice.
    """
    text = _lines(path)
    if delimiter == "," and columns is None:
        first = next(text, "")
        delimiter = ";" if ";" in first and "," not in first else delimiter
        text = chain([first] if first else [], text)
    ended: list[bool] = []
    lines = csv.reader(_noting_the_end(text, ended), delimiter=delimiter)
    # A quotation mark that is never closed makes the rest of the file one field.
    csv.field_size_limit(sys.maxsize)
    header = list(columns) if columns is not None else next(_csv_rows(lines, path), (0, []))[1]
    header = [name.strip() for name in header]
    if not header or len(set(header)) != len(header) or "" in header:
        raise DataError(
            "table has no usable header",
            where=f"{path}, line 1",
            expected="the names of the columns, each once",
            got=shown(header) if header else "nothing",
            fix="add or correct the first line",
        )
    number, line_before = 0, lines.line_num
    for line, values in _csv_rows(lines, path):
        began, line_before = line_before + 1, line
        if not values:
            continue
        number += 1
        where, name = f"{path}, row {number} (line {line})", _name(path, number)
        # Only inside a quotation is a row whose line has ended asked for more.
        if ended:
            detail = f"a quotation mark in line {began} or later is never closed: all lines to {line} became one field"
            yield Row(where, name, broken=RowError(UNCLOSED_QUOTE, detail))
        elif len(values) != len(header):
            detail = f"the row has {len(values)} fields, the table {len(header)} columns"
            yield Row(where, name, broken=RowError("wrong_columns", detail))
        else:
            yield Row(where, name, dict(zip(header, values, strict=True)))


def read_parquet(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a Parquet file, read a batch at a time, with all or some of its columns.

    A value that Python cannot have is ``Unreadable``.

    Raises:
        DataError: the file cannot be read.
    """
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for values in _batch_rows(batch):
                    number += 1
                    yield Row(f"{path}, row {number}", _name(path, number), values)
    except _PARQUET_ERRORS as error:
        raise DataError(
            "Parquet file cannot be read",
            where=f"{path}, after row {number}",
            expected="a whole Parquet file",
            got=_problem(error),
            fix=_RESTORE,
        ) from error


def _batch_rows(batch: pa.RecordBatch) -> Iterable[Mapping[str, Any]]:
    try:
        return cast(list[dict[str, Any]], batch.to_pylist())
    except _PARQUET_ERRORS:
        columns = list(zip(batch.schema.names, batch.columns, strict=True))
        return ({name: _value_at(column, place) for name, column in columns} for place in range(batch.num_rows))


def _value_at(column: pa.Array, place: int) -> Any:
    try:
        return column[place].as_py()
    except _PARQUET_ERRORS as error:
        return Unreadable(_problem(error))


def _problem(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Names of the columns of a Parquet file; ``()`` if it is none."""
    try:
        return tuple(pq.read_schema(path).names)
    except _PARQUET_ERRORS:
        return ()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank; bytes that are no UTF-8 become lone surrogates.

    ``Row.text`` refuses those, so that such a line is a reject. Raises ``DataError`` if the file cannot be read.
    """
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def shown(value: Any) -> str:
    """A value as messages show it: with its type, and cut."""
    return f"{value!r:.160} ({type(value).__name__})"


def _json_row(value: Any, path: Path, number: int) -> Row:
    where, name = f"{path}, row {number}", _name(path, number)
    if not isinstance(value, dict):
        return Row(where, name, broken=RowError("not_an_object", f"the row should be an object, got {shown(value)}"))
    return Row(where, name, value)


def _name(path: Path, number: int) -> str:
    return f"{path.name}:{number}"


def _noting_the_end(text: Iterable[str], ended: list[bool]) -> Iterator[str]:
    yield from text
    ended.append(True)


def _csv_rows(lines: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    while True:
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                "table cannot be read",
                where=f"{path}, line {lines.line_num}",
                expected="comma-separated values",
                got=str(error),
                fix=_RESTORE,
            ) from error
        yield lines.line_num, values


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as start:
            _require_utf8(start.read(64), path)
        # utf-8-sig drops the mark that spreadsheet programs put in front.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from file
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _require_utf8(start: bytes, path: Path) -> None:
    """Refuse UTF-16 and UTF-32; in other encodings some lines may be sound, and the others become rejects."""
    # Without a mark, nearly every second byte of such a file is zero. Zeros elsewhere are a bad row, not a bad file.
    shares = [start[first::2].count(0) / max(1, len(start[first::2])) for first in (0, 1)]
    every_second = len(start) >= 16 and min(shares) < 0.75 <= max(shares)
    if start.startswith(_BYTE_ORDER_MARKS) or every_second:
        raise DataError(
            "the table is not UTF-8 text",
            where=str(path),
            expected="UTF-8",
            got="UTF-16 or UTF-32",
            fix="save the table as UTF-8 (in a spreadsheet program: CSV UTF-8)",
        )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | ValueError) -> DataError:
    return DataError(
        "file cannot be read",
        where=str(path),
        got=(error.strerror if isinstance(error, OSError) else None) or str(error),
        fix="check that it is there and its rights",
    )
