"""What ``radvqa data export`` wrote, in any of its four formats, read back as the records it was written from.

The file ``radvqa-export.json`` in the folder says which format it is and which splits there are; the formats are
described in ``radvqa.data.export.layouts``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.export.layouts import (
    FORMATS,
    MANIFEST,
    MANIFEST_LAYOUT,
    Format,
    Record,
    hub_record,
    image_name,
    record_of,
    table_name,
)
from radvqa.data.image_cache import embedded_image
from radvqa.data.tables import Row, RowError, image_inside, items_of, read_json, read_json_lines, read_parquet
from radvqa.errors import DataError
from radvqa.sample import SPLITS, Defect, Split

_FIX = "export the data set again with `radvqa data export`"


@final
class ExportedDataset(DatasetAdapter):
    """A folder written by `radvqa data export`, in any of its formats.

    * Records are equal to those that were exported, but for the path of the picture.
    * ``licence``, ``citation`` and ``homepage`` of an opened folder are those of the data set it came from.
    * A row whose visible text no longer agrees with its key ``radvqa`` becomes a reject ``fields_disagree``.
    * A table with more or fewer rows than were written is read, and a defect ``other_row_count``.
    * Regions are not exported, so there are none.
    """

    licence: ClassVar[str] = "as the folder's own README.md states it"
    citation: ClassVar[str] = ""
    homepage: ClassVar[str] = ""

    def __init__(self, root: str) -> None:
        """Read the manifest.

        Args:
            root: the folder that was written.

        Raises:
            DataError: there is no such folder, or its manifest is missing, damaged or of a later version.
        """
        self.root = Path(root)
        manifest = _read_manifest(self.root / MANIFEST)
        self.format: Format = manifest["format"]
        self._records: dict[Split, int] = {
            split: manifest["splits"][split]["records"] for split in SPLITS if split in manifest["splits"]
        }
        source = manifest["source"]
        # They differ from folder to folder, unlike those of other adapters.
        vars(self).update({name: source[name] for name in ("licence", "citation", "homepage")})

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with ``radvqa-export.json``."""
        try:
            return (root / MANIFEST).is_file()
        except (OSError, ValueError):  # no right to look, or no possible name
            return False

    def splits(self) -> tuple[Split, ...]:
        """The splits that were exported."""
        return tuple(self._records)

    def rows(self, split: Split) -> Iterator[Item]:
        """The records of one split in the order they were written.

        Raises:
            DataError: the split was not exported, or its table is missing or cannot be read.
        """
        found = 0
        for table in self._tables(split):
            for item in items_of(self._read(table), lambda row: self._items(row, split)):
                found += 1
                yield item
        if found != (written := self._records[split]):
            detail = f"{written} records were exported, the tables hold {found} rows now"
            yield Defect(subject=split, reason="other_row_count", where=str(self.root), detail=detail)

    def sources(self) -> tuple[Path, ...]:
        """The tables of all splits that are there."""
        return tuple(table for split in self._records for table in self._tables(split) if table.is_file())

    def _items(self, row: Row, split: Split) -> Iterator[Item]:
        record = self._hub_record(row) if self.format == "hub" else self._text_record(row, self.format)
        if record.split != split:
            raise RowError("other_split", f"the record says {record.split}, its table is that of {split}")
        yield record

    def _hub_record(self, row: Row) -> Record:
        return hub_record(row.values, image=embedded_image(row, "image"))

    def _text_record(self, row: Row, layout: Format) -> Record:
        name = image_name(row.values, layout=layout)
        image = image_inside(self.root, name, key="image")
        return record_of(row.values, layout=layout, image=image)

    def _read(self, table: Path) -> Iterator[Row]:
        reader = {"hub": read_parquet, "llava": read_json}.get(self.format, read_json_lines)
        return reader(table)

    def _tables(self, split: Split) -> tuple[Path, ...]:
        if split not in self._records:
            raise DataError(
                f"the split {split!r} was not exported",
                where=str(self.root),
                expected=", ".join(self._records),
                got=split,
                fix=f"choose a split that is there, or {_FIX}",
            )
        name = table_name(split, self.format)
        if self.format != "hub":
            return (self.root / name,)
        tables = tuple(sorted(self.root.glob(f"{name}-*-of-*.parquet")))
        if {table.name for table in tables} != set(_shards(name, len(tables))) or not tables:
            raise DataError(
                "the Parquet files of a split are not complete",
                where=str(self.root / name),
                expected=f"all files of {name}-00000-of-N.parquet",
                got=", ".join(table.name for table in tables[:5]) or "none",
                fix=f"copy the whole folder again, or {_FIX}",
            )
        return tables


ADAPTER = ExportedDataset


def _shards(name: str, count: int) -> list[str]:
    """The file names of a split in ``count`` Parquet files."""
    return [f"{Path(name).name}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
        problem = _problem(manifest)
    except (OSError, ValueError, RecursionError) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if problem is not None:
        raise DataError(
            "this is no folder that radvqa exported",
            where=str(path),
            expected=f"a manifest of layout {MANIFEST_LAYOUT} with a format and the records of each split",
            got=problem,
            fix=_FIX,
        )
    assert isinstance(manifest, dict)
    return manifest


def _problem(manifest: Any) -> str | None:
    """What is wrong with a manifest, or None."""
    if not isinstance(manifest, dict) or manifest.get("layout") != MANIFEST_LAYOUT:
        return f"layout {manifest.get('layout')!r}" if isinstance(manifest, dict) else type(manifest).__name__
    if manifest.get("format") not in FORMATS:
        return f"format {manifest.get('format')!r:.100}"
    splits, source = manifest.get("splits"), manifest.get("source")
    if not isinstance(splits, dict) or not set(splits) <= set(SPLITS) or not splits:
        return f"splits {splits!r:.100}"
    for split, one in splits.items():
        if not isinstance(one, dict) or type(one.get("records")) is not int:
            return f"split {split}: {one!r:.100}"
    if not isinstance(source, dict) or any(
        not isinstance(source.get(name), str) for name in ("licence", "citation", "homepage")
    ):
        return f"source {source!r:.100}"
    return None
