"""Data sets written in the formats of the field: a Hugging Face folder, LLaVA, chat messages, PaliGemma.

Everything streams: rows are written as they are read, so a data set larger than memory can be exported. Of the
pictures, only path, name and hash are remembered. ``radvqa.data.adapters.exported`` reads the folder back.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import radvqa
from radvqa.data.adapter import DatasetAdapter
from radvqa.data.dicom_codes import is_dicom
from radvqa.data.export.card import card
from radvqa.data.export.layouts import (
    HUB_SPLITS,
    MANIFEST,
    MANIFEST_LAYOUT,
    PLACEHOLDER,
    Format,
    Record,
    hub_row,
    hub_schema,
    kind_of,
    placeholder_side,
    row_of,
    table_name,
)
from radvqa.data.image_cache import image_cache
from radvqa.data.imaging import open_content, read_picture_file
from radvqa.errors import DataError, RunError
from radvqa.run.progress import SECONDS_BETWEEN_LINES, Progress
from radvqa.run.provenance import digest_files
from radvqa.sample import Defect, Reject, Split, VqaSample

SHARD_BYTES = 400_000_000
"""A Parquet file is closed when it is this long, about as the hub advises."""
ROW_GROUP_BYTES = 64_000_000
ROW_GROUP_ROWS = 256

_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the data came from, for manifest and card.

    ``adapter`` is the adapter's name, ``options`` what it was opened with; ``root`` is its folder, or a table file in
    it. The folder is cut from everything that is written, since an export is made to be passed on.
    """

    name: str
    adapter: str
    root: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def export_dataset(
    adapter: DatasetAdapter,
    folder: Path,
    *,
    layout: Format,
    source: Source,
    splits: Sequence[str] = (),
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The manifest of the export that now lies in ``folder``, which appears whole or not at all.

    Pictures are copied byte for byte, equal ones once (in ``hub`` they lie in the rows); a DICOM file, whose header
    names a person, becomes a PNG of what it shows. A row whose picture cannot be decoded becomes a reject
    ``unreadable_image``. Rejects and defects are written beside the tables. Two exports of the same data are equal byte
    for byte.

    Args:
        adapter: the data set, opened.
        folder: where to; it must not be there, or be empty.
        layout: see ``radvqa.data.export.layouts``.
        source: for manifest and card.
        splits: those to write; all that are there unless given.
        limit: at most so many records of each split.
        progress: told how far it is, every ten seconds.

    Raises:
        DataError: a split is not there, a table cannot be read, or not one record could be written.
        RunError: ``folder`` is in use, or full or not writable.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    wanted = _wanted(adapter, splits, source)
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name, and links must stay links
    _require_free(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        export = _Export(adapter, partial, layout=layout, source=source, limit=limit, progress=progress)
        manifest = export.write(wanted)
        partial.rename(folder)
    except OSError as error:
        raise RunError(
            "cannot write the export",
            where=str(folder),
            expected="a writable folder with free space, that nothing else fills meanwhile",
            got=error.strerror or str(error),
            fix="free some space, or choose another folder with --to DIR; nothing was left behind",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


@dataclass(slots=True)
class _Counts:
    """What became of one split."""

    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    answer_types: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    images: set[str] = field(default_factory=set)
    rejects: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)
    malformed: int = 0

    def add(self, record: Record, image: str) -> None:
        self.records += 1
        self.kinds[kind_of(record)] += 1
        if isinstance(record, VqaSample):
            self.answer_types[record.answer_type] += 1
        self.languages[record.language] += 1
        self.images.add(image)

    def plain(self, tables: Mapping[str, str]) -> dict[str, Any]:
        return {
            "records": self.records,
            "images": len(self.images),
            "kinds": _sorted(self.kinds),
            "answer_types": _sorted(self.answer_types),
            "languages": _sorted(self.languages),
            "rejects": _sorted(self.rejects),
            "malformed_rejects": self.malformed,
            "defects": _sorted(self.defects),
            "tables": dict(tables),
        }


@final
class _Export:
    """One export into the folder ``to``, which is not yet in its place."""

    def __init__(
        self,
        adapter: DatasetAdapter,
        to: Path,
        *,
        layout: Format,
        source: Source,
        limit: int | None,
        progress: Progress | None,
    ) -> None:
        self._adapter, self._to, self._layout, self._source, self._limit = adapter, to, layout, source, limit
        self._progress = progress or Progress(quiet=True)
        self._pictures = _Pictures(None if layout == "hub" else to / "images")
        self._clean = _cleaner(source.root)
        self._said_at = time.monotonic()

    def write(self, splits: Sequence[Split]) -> dict[str, Any]:
        counts: dict[Split, dict[str, Any]] = {}
        first_reject: Reject | None = None
        with (self._to / "rejects.jsonl").open("wb") as rejects, (self._to / "defects.jsonl").open("wb") as defects:

            def note(item: Reject | Defect) -> None:
                nonlocal first_reject
                if isinstance(item, Reject):
                    first_reject = first_reject or item
                values = {**dataclasses.asdict(item), "split": split}
                values = {
                    name: self._clean(value) if isinstance(value, str) else value for name, value in values.items()
                }
                # Names of files need not be Unicode.
                line = json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace")
                (rejects if isinstance(item, Reject) else defects).write(line + b"\n")

            for split in splits:
                counts[split] = self._split(split, note)
        if not any(one["records"] for one in counts.values()):
            raise _nothing(self._source.name, counts, first_reject)
        manifest = {
            "layout": MANIFEST_LAYOUT,
            "format": self._layout,
            "name": self._source.name,
            "radvqa": radvqa.__version__,
            "source": self._origin(),
            "limit": self._limit,
            "images": self._pictures.count,
            "converted_from_dicom": len(self._pictures.converted),
            "splits": counts,
        }
        (self._to / "README.md").write_text(card(manifest), encoding="utf-8")
        text = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"
        (self._to / MANIFEST).write_text(text, encoding="utf-8")
        return manifest

    def _split(self, split: Split, note: Callable[[Reject | Defect], None]) -> dict[str, Any]:
        counts = _Counts()
        with ExitStack() as stack:
            table = _table(self._to, split, self._layout)
            stack.callback(table.close)
            for item in self._adapter.records(split):
                done = item if isinstance(item, Reject | Defect) else self._record(item, table, counts)
                if isinstance(done, Reject):
                    counts.rejects[done.reason] += 1
                    counts.malformed += done.malformed
                elif isinstance(done, Defect):
                    counts.defects[done.reason] += 1
                if done is not None:
                    note(done)
                self._tell(split, counts)
                if counts.records == self._limit:
                    break
        names = table.settle()
        digests = dict(zip(names, digest_files([self._to / name for name in names]).values(), strict=True))
        self._progress.say(f"{split}: {_told(counts)}")
        return counts.plain(digests)

    def _record(self, record: Record, table: "_Table", counts: _Counts) -> Reject | None:
        """Write one record, or say why it cannot be written."""
        if self._layout == "llava" and (side := placeholder_side(record)):
            detail = f"the {side} holds {PLACEHOLDER}, which in this format stands for the picture"
            reason = f"placeholder_in_{side}"
            return Reject(sample_id=record.sample_id, reason=reason, where=str(record.image), detail=detail)
        try:
            image, content = self._pictures.add(record)
        except DataError as error:
            detail = f"{error.what}: {error.got or 'no more is known'}"
            return Reject(sample_id=record.sample_id, reason="unreadable_image", where=str(record.image), detail=detail)
        hub = self._layout == "hub"
        row = hub_row(record) if hub else row_of(record, layout=self._layout, image=f"images/{image}")
        try:
            line = json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            detail = f"the record holds text that is not valid Unicode: {error.object[error.start : error.end]!r}"
            return Reject(
                sample_id=record.sample_id, reason="not_unicode", where=str(record.image), detail=detail, malformed=True
            )
        table.add(row, line, image={"bytes": content, "path": image})
        counts.add(record, image)
        return None

    def _tell(self, split: Split, counts: _Counts) -> None:
        now = time.monotonic()
        if now - self._said_at >= SECONDS_BETWEEN_LINES:
            self._said_at = now
            self._progress.say(f"{split}: {_told(counts)} so far")

    def _origin(self) -> dict[str, Any]:
        files = self._adapter.sources()
        top = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
        digests = digest_files(files)
        return {
            "adapter": self._source.adapter,
            "options": {name: _portable(value) for name, value in self._source.options.items()},
            "licence": self._adapter.licence,
            "citation": self._adapter.citation,
            "homepage": self._adapter.homepage,
            "files": {file.relative_to(top).as_posix(): digests[str(file)] for file in files},
        }


@final
class _Pictures:
    """Names of the pictures, each distinct content once; copies them into ``folder`` if there is one."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, str | DataError] = {}
        self._by_content: dict[bytes, str] = {}
        self._taken: set[str] = set()
        self._last: tuple[str, bytes] = ("", b"")
        self.converted: set[str] = set()
        if folder is not None:
            folder.mkdir()

    @property
    def count(self) -> int:
        return len(self._by_content)

    def add(self, record: Record) -> tuple[str, bytes]:
        """Name and bytes of the picture of a record. Raises ``DataError`` if it cannot be read and decoded."""
        path = str(record.image)
        if path not in self._known:
            try:
                self._known[path] = self._new(record)
            except DataError as error:
                self._known[path] = error
        name = self._known[path]
        if isinstance(name, DataError):
            raise name
        return name, self._content(record.image) if self._folder is None else b""

    def _content(self, path: Path) -> bytes:
        # Rows about one picture mostly follow each other.
        if self._last[0] != str(path):
            content = read_picture_file(path)
            if is_dicom(content):
                content = _as_png(open_content(content, path)[0])
                self.converted.add(str(path))
            self._last = (str(path), content)
        return self._last[1]

    def _new(self, record: Record) -> str:
        content = self._content(record.image)
        digest = hashlib.sha256(content).digest()
        if digest in self._by_content:
            return self._by_content[digest]
        open_content(content, record.image)
        name = self._free_name(record, digest.hex())
        if self._folder is not None:
            (self._folder / name).write_bytes(content)
        self._by_content[digest] = name
        return name

    def _free_name(self, record: Record, digest: str) -> str:
        """The image id where it is a sound and free file name on every system, otherwise with a part of the hash."""
        suffix = ".png" if str(record.image) in self.converted else record.image.suffix.lower()
        suffix = suffix if _SUFFIX.fullmatch(suffix) else ""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", record.image_id)[:80].strip("_")
        name = f"{stem}{suffix}"
        if stem != record.image_id or not stem or _DEVICE_NAME.fullmatch(stem) or name.casefold() in self._taken:
            # Some file systems do not tell upper from lower case.
            name = f"{stem or 'image'}-{digest}{suffix}"
        self._taken.add(name.casefold())
        return name


class _Table(ABC):
    """The table of one split while it is written."""

    @abstractmethod
    def add(self, row: dict[str, Any], line: bytes, *, image: Mapping[str, Any]) -> None:
        """Write one row, given as values and as JSON."""

    @abstractmethod
    def close(self) -> None:
        """Close the files. After an error, too."""

    @abstractmethod
    def settle(self) -> list[str]:
        """Relative names of the finished files; called after ``close``."""


def _table(to: Path, split: Split, layout: Format) -> _Table:
    if layout == "hub":
        return _HubTable(to, split)
    return _TextTable(to, table_name(split, layout), as_list=layout == "llava")


@final
class _TextTable(_Table):
    """JSON Lines, or a JSON list with one entry per line."""

    def __init__(self, to: Path, name: str, *, as_list: bool) -> None:
        self._name = name
        self._file = (to / name).open("wb")
        self._before, self._between, self._after = (b"[\n", b",\n", b"\n]\n") if as_list else (b"", b"\n", b"\n")
        self._rows = 0

    def add(self, row: dict[str, Any], line: bytes, *, image: Mapping[str, Any]) -> None:
        self._file.write((self._between if self._rows else self._before) + line)
        self._rows += 1

    def close(self) -> None:
        with self._file as file:
            if self._rows or self._before:
                file.write(self._after if self._rows else self._before + b"]\n")

    def settle(self) -> list[str]:
        return [self._name]


@final
class _HubTable(_Table):
    """Parquet files of at most about ``SHARD_BYTES``, named with their number when that is known."""

    def __init__(self, to: Path, split: Split) -> None:
        self._to, self._name = to, HUB_SPLITS[split]
        self._schema = hub_schema()
        self._rows: list[dict[str, Any]] = []
        self._row_bytes = 0
        self._shards = 0
        self._sink: Any = None
        self._writer: Any = None
        (to / "data").mkdir(exist_ok=True)
        self._open()

    def add(self, row: dict[str, Any], line: bytes, *, image: Mapping[str, Any]) -> None:
        self._rows.append({**row, "image": image})
        self._row_bytes += len(line) + len(image["bytes"])
        if len(self._rows) == ROW_GROUP_ROWS or self._row_bytes >= ROW_GROUP_BYTES:
            self._flush()
            if self._sink.tell() >= SHARD_BYTES:
                self._finish()

    def close(self) -> None:
        try:
            if self._rows:
                self._flush()
        finally:
            self._finish()

    def settle(self) -> list[str]:
        names = []
        for number in range(self._shards):
            names.append(f"data/{self._name}-{number:05d}-of-{self._shards:05d}.parquet")
            self._unfinished(number).rename(self._to / names[-1])
        return names

    def _unfinished(self, number: int) -> Path:
        return self._to / "data" / f"{self._name}-{number:05d}.parquet"

    def _open(self) -> None:
        self._sink = self._unfinished(self._shards).open("wb")
        self._shards += 1
        # A dictionary large enough for the pictures of a row group: a picture with ten questions is stored once.
        self._writer = pq.ParquetWriter(
            self._sink, self._schema, compression="zstd", use_dictionary=True, dictionary_pagesize_limit=ROW_GROUP_BYTES
        )

    def _flush(self) -> None:
        if self._writer is None:
            self._open()
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._row_bytes = [], 0

    def _finish(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._sink:
                writer.close()


def _as_png(image: Image.Image) -> bytes:
    """A DICOM file names its patient, so that only what it shows may be passed on."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _wanted(adapter: DatasetAdapter, splits: Sequence[str], source: Source) -> tuple[Split, ...]:
    there = adapter.splits()
    if missing := [split for split in splits if split not in there]:
        raise DataError(
            f"the data set has no split {missing[0]!r}",
            where=source.name,
            expected=", ".join(there) or "a split",
            got=missing[0],
            fix="choose a split that is there",
        )
    return tuple(split for split in there if not splits or split in splits)


def _require_free(folder: Path) -> None:
    got = None
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        got = "something that is no folder"
    elif folder.is_dir() and any(folder.iterdir()):
        got = "a folder with files in it"
    if got is not None:
        raise RunError(
            "the folder of the export is in use",
            where=str(folder),
            expected="a folder that is not there yet, or is empty",
            got=got,
            fix="choose another folder with --to DIR, or move this one away; nothing is ever overwritten",
        )


def _nothing(name: str, counts: Mapping[Split, Mapping[str, Any]], first: Reject | None) -> DataError:
    reasons: Counter[str] = Counter()
    for one in counts.values():
        reasons.update(one["rejects"])
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return DataError(
        "there is nothing to export: no row became a record",
        where=name,
        expected="at least one record",
        got=f"rejects: {told}; the first: {first.where}: {first.detail}" if first is not None else "no rows at all",
        fix="mend what the rejects say, or open the data set with other options",
    )


def _cleaner(root: Path | None) -> Callable[[str], str]:
    """A function that cuts the folders of this machine from a message."""
    cuts = {str(image_cache()): "cache", str(Path.home()): "~"}
    if root is not None and root.is_file():
        root = root.parent
    if root is not None:
        cuts |= {str(one): "" for one in (root, root.absolute(), root.resolve())}
    cuts = {path: name for path, name in cuts.items() if path not in (".", "/", "..")}
    if not cuts:
        return str
    longest_first = sorted(cuts, key=len, reverse=True)
    pattern = re.compile(r"(?<![\w./-])(" + "|".join(map(re.escape, longest_first)) + r")(/|(?![\w.-]))")

    def cut(match: re.Match[str]) -> str:
        name = cuts[match[1]]
        if not name:
            return "" if match[2] else "."
        return name + match[2]

    return lambda text: pattern.sub(cut, text)


def _portable(value: Any) -> Any:
    """An option without the folders of this machine."""
    return Path(value).name if isinstance(value, str | Path) and Path(value).is_absolute() else value


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts)}


def _told(counts: _Counts) -> str:
    rejects = sum(counts.rejects.values())
    return f"{counts.records:,} records, {len(counts.images):,} images" + (f", {rejects:,} rejects" if rejects else "")
