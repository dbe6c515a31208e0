"""Typed records as JSON Lines: read with validation, write atomically.

Every layer hands its result to the next one as such a file, so each can be inspected, replaced and resumed alone.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_cache_path
from pydantic import TypeAdapter, ValidationError

from radvqa.errors import DataError, RunError

T = TypeVar("T")


def read_records(path: Path, record_type: type[T]) -> list[T]:
    """All records of one JSON Lines file.

    Raises:
        DataError: the file is missing, or a line is not a valid record; names file, line and field.
    """
    if not path.is_file():
        raise DataError(
            "records file not found",
            where=str(path),
            expected=f"JSON Lines of {record_type.__name__}",
            fix="check the path, or run the step that writes it",
        )
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
        try:
            records.append(adapter.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(
                f"not a valid {record_type.__name__}",
                where=f"{path}, line {number}, field {'.'.join(map(str, first['loc'])) or '(whole line)'}",
                expected=first["msg"],
                got=repr(first["input"])[:200],
                fix="correct the line, or delete the file and run the step that writes it again",
            ) from error
    return records


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
