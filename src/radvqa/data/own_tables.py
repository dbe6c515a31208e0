"""The tables of own data: which files they are, what their columns mean, which split each is."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from radvqa.data.columns import columns_of, roles_of
from radvqa.data.dicom_codes import DICOM_SUFFIXES, is_dicom
from radvqa.data.dicom_series import files_below
from radvqa.data.hub_layout import split_in_name
from radvqa.data.paths import path_inside
from radvqa.data.tables import TABLE_SUFFIXES, Row, read_parquet, read_table
from radvqa.errors import DataError
from radvqa.sample import Split

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")

_SHARD = re.compile(r"\d+-of-\d+$")
_RECOGNISED_WITHIN = 500


class OwnTable(NamedTuple):
    """A table with the columns of its roles; ``split`` is None where only a column or nothing says it."""

    path: Path
    split: Split | None
    roles: Mapping[str, str]


def find_tables(
    given: Path, name: str, columns: Mapping[str, str]
) -> tuple[tuple[OwnTable, ...], tuple[DataError, ...]]:
    """The tables to read, and why others are not; none where pictures with text files or DICOM are read instead."""
    if given.is_file():
        split = split_in_name(given, given.parent)
        return (OwnTable(given, split, roles_of(columns_of(given), given, given=columns)),), ()
    if name:
        path = path_inside(given, name)
        if not path.is_file():
            raise DataError(
                "the table is not there", where=str(path), expected="a table file inside root", got="no such file",
                fix="correct table",
            )  # fmt: skip
        return (OwnTable(path, split_in_name(path, given), roles_of(columns_of(path), path, given=columns)),), ()
    found: list[OwnTable] = []
    unclear: dict[Path, DataError] = {}
    for path in table_files(given):
        try:
            found.append(OwnTable(path, split_in_name(path, given), roles_of(columns_of(path), path, given=columns)))
        except DataError as error:
            unclear[path] = error
    if not found and unclear and (columns or not holds_pictures(given)):
        raise next(iter(unclear.values()))
    if not found and not unclear and not holds_pictures(given):
        _require_no_archive(given)
        raise DataError(
            "there are no own data in this folder",
            where=str(given),
            expected="a table, pictures with a .txt beside each, or DICOM files",
            got=", ".join(path.name for path in some_files(given)[:5]),
            fix="lay them out as docs/own_data.md shows",
        )
    _require_one_per_split(found, given)
    for path, reason in unclear.items():
        if _is_of_a_split(path, found, given):
            raise reason
    return tuple(found), tuple(unclear.values())


def _is_of_a_split(path: Path, found: list[OwnTable], root: Path) -> bool:
    """Whether a table that cannot be read belongs to a split by its name, or by a folder that has no other table.

    A file of the name of a picture tells something about that picture and is no table of a split.
    """
    if any(path.with_suffix(suffix).is_file() for suffix in (*PICTURE_SUFFIXES, *DICOM_SUFFIXES)):
        return False
    if split_in_name(path, path.parent) is not None:
        return True
    return (
        bool(found)
        and split_in_name(path, root) is not None
        and all(table.path.parent != path.parent for table in found)
    )


def _require_no_archive(root: Path) -> None:
    for path in some_files(root):
        if path.suffix.lower() in ARCHIVE_SUFFIXES:
            raise DataError(
                "own data lie in an archive", where=str(path), expected="plain files", got=path.suffix,
                fix="unpack it first",
            )  # fmt: skip


def _require_one_per_split(tables: list[OwnTable], root: Path) -> None:
    """Several tables are read only if their names tell them apart; else rows would be read twice."""
    by_split: dict[Split | None, list[Path]] = {}
    for table in tables:
        by_split.setdefault(table.split, []).append(table.path)
    repeated = any(len(paths) > 1 and not all(_SHARD.search(one.stem) for one in paths) for paths in by_split.values())
    if repeated or (None in by_split and len(by_split) > 1):
        names = [table.path.relative_to(root).as_posix() for table in tables]
        raise DataError(
            "it is not clear which table to read",
            where=str(root),
            expected="one table, or one for each split with train, val or test in its name or folder",
            got=", ".join(names)[:400],
            fix="name one with the option table, or move the others away",
        )


def table_files(root: Path) -> list[Path]:
    """The files in a folder and its folders that could be tables, sorted."""
    files = sorted([*root.glob("*"), *root.glob("*/*")])
    return [path for path in files if path.suffix.lower() in TABLE_SUFFIXES and _is_plain(path)]


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and not path.parent.name.startswith(".")


def require_readable(root: Path) -> None:
    """Raise ``DataError`` where there is neither a table file nor a folder with anything in it."""
    got = ""
    if not root.exists():
        got = "nothing there"
    elif root.is_file() and root.suffix.lower() in ARCHIVE_SUFFIXES:
        raise DataError(
            "own data lie in an archive", where=str(root), expected="a folder, or a table file", got=root.suffix,
            fix="unpack it first and point root at the folder",
        )  # fmt: skip
    elif root.is_file() and root.suffix.lower() not in TABLE_SUFFIXES:
        got = f"a file ending in {root.suffix or 'nothing'}"
    elif root.is_dir() and next(files_below(root), None) is None:
        got = "an empty folder"
    if got:
        raise DataError(
            "own data are not at this place",
            where=str(root),
            expected=f"a folder, or a table ending in {', '.join(TABLE_SUFFIXES)}",
            got=got,
            fix="correct root; docs/own_data.md shows how to lay out own images",
        )


def rows_with(table: OwnTable, roles: Iterable[str]) -> Iterator[Row]:
    """The rows of a table with the columns of some roles at least; of Parquet only these are read.

    Rows that are broken are left out: they are rejects of their split. Raises ``DataError`` if it cannot be read.
    """
    columns = [table.roles[role] for role in roles if role in table.roles]
    parquet = table.path.suffix.lower() == ".parquet"
    rows = read_parquet(table.path, columns=columns) if parquet else read_table(table.path)
    return (row for row in rows if row.broken is None)


def is_usable(path: Path) -> bool:
    """Whether a file is a table whose columns are clear by their names."""
    try:
        roles_of(columns_of(path), path, given={})
    except DataError:
        return False
    return True


def some_files(root: Path) -> list[Path]:
    """The first files below a folder."""
    return [path for path, _ in zip(files_below(root), range(_RECOGNISED_WITHIN), strict=False)]


def holds_pictures(root: Path) -> bool:
    """Whether there is DICOM, or a picture with its text, among the first files."""
    files = some_files(root)
    texts = {path.with_suffix("") for path in files if path.suffix.lower() == ".txt"}
    pictured = (path.suffix.lower() in PICTURE_SUFFIXES and path.with_suffix("") in texts for path in files)
    return any(pictured) or any(is_dicom(path) for path in files)
