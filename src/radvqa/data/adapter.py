"""What a data set must offer. One data set is one file with ``ADAPTER = <class>``."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from radvqa.errors import DataError
from radvqa.sample import CaptionedImage, Defect, Region, Reject, Split, VqaSample

Item = VqaSample | CaptionedImage | Reject | Defect
"""What one row of a table becomes: a record, or a reject; and beside either any number of defects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One split as read, in file order: usable records, rows left out with their reason, and what was mended."""

    samples: tuple[VqaSample, ...] = ()
    captions: tuple[CaptionedImage, ...] = ()
    rejects: tuple[Reject, ...] = ()
    defects: tuple[Defect, ...] = ()

    def require_sound(self, name: str, split: Split, *, most_malformed: float) -> None:
        """Refuse a split of which too large a share of the rows is malformed, or that holds no question.

        Raises:
            DataError: names the data set, the split and the first malformed rows.
        """
        malformed = [reject for reject in self.rejects if reject.malformed]
        rows = len(self.samples) + len(self.captions) + len(self.rejects)
        if malformed and len(malformed) > most_malformed * rows:
            raise DataError(
                f"{len(malformed):,} of {rows:,} rows of the {split} split of {name!r} are malformed",
                where="; ".join(f"{one.where}: {one.detail}" for one in malformed[:3]),
                expected=f"at most {most_malformed:.0%}, as most_malformed says",
                got=", ".join(f"{count} {reason}" for reason, count in self.reasons().items()),
                fix="correct these rows or fetch the table again; with a larger most_malformed they are left out",
            )
        if not self.samples:
            raise DataError(
                f"the {split} split of {name!r} has no usable question",
                where=f"{self.rejects[0].where}: {self.rejects[0].detail}" if self.rejects else "the whole split",
                expected="at least one",
                got=f"{len(self.captions):,} captions without questions"
                if self.captions
                else ", ".join(f"{count} {reason}" for reason, count in self.reasons().items()) or "no row",
                fix="name a data set with questions"
                if self.captions
                else "complete the data folder, or correct the entry under datasets",
            )

    def reasons(self) -> dict[str, int]:
        """Number of rejects by reason, in the order of their first row."""
        return dict(Counter(reject.reason for reject in self.rejects))


class DatasetAdapter(ABC):
    """Reads one published or own data set in its official layout.

    A file that cannot be read at all raises ``DataError``. A row that cannot become a record is a reject, never an
    error: one bad row must not hide the others, and none may vanish.
    """

    licence: ClassVar[str]
    citation: ClassVar[str]
    homepage: ClassVar[str]
    audit_options: ClassVar[Mapping[str, Any]] = {}
    """Constructor options with which an audit opens the data set, such as every language at once."""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder or file ``root`` is laid out as this data set is. It must be cheap and never raise.

        ``radvqa data audit PATH`` asks every adapter; one that does not say is found by its name alone.
        """
        return False

    @abstractmethod
    def splits(self) -> tuple[Split, ...]:
        """The splits that are there, in the order train, val, test."""

    @abstractmethod
    def rows(self, split: Split) -> Iterator[Item]:
        """What became of every row of one split, in file order, a row at a time.

        Image files need not be looked for: ``records`` does that.

        Raises:
            DataError: the split is not there, or its table cannot be read at all.
        """

    @abstractmethod
    def sources(self) -> tuple[Path, ...]:
        """The table files that ``rows`` reads, for the provenance hashes."""

    def regions(self, image_id: str) -> tuple[Region, ...]:
        """Labelled regions of one image; ``()`` where the data set has none."""
        return ()

    def defects(self) -> Iterator[Defect]:
        """What is wrong beside the tables (masks, boxes, split lists), for the audit. May open many files."""
        return iter(())

    @final
    def records(self, split: Split, *, missing: set[Path] | None = None) -> Iterator[Item]:
        """``rows``, where a record is replaced by a reject if its id was used before or its image is not there.

        Streams: it remembers ids and image paths, not records. Given the set ``missing``, records without their image
        are kept and the path of the image is added to it. Raises ``DataError`` like ``rows``.
        """
        seen: set[str] = set()
        present: dict[Path, bool] = {}
        for item in self.rows(split):
            if isinstance(item, Reject | Defect):
                yield item
                continue
            if item.sample_id in seen:
                yield Reject(
                    sample_id=item.sample_id,
                    reason="repeated_id",
                    where=f"{type(self).__name__}, {split}",
                    detail=f"the id {item.sample_id} was used by an earlier row",
                    malformed=True,
                )
                continue
            seen.add(item.sample_id)
            if item.image not in present:
                present[item.image] = _is_file(item.image)
            if not present[item.image] and missing is None:
                yield Reject(
                    sample_id=item.sample_id,
                    reason="missing_image",
                    where=str(item.image),
                    detail=f"there is no file {item.image}",
                )
                continue
            if not present[item.image] and missing is not None:
                missing.add(item.image)
            yield item

    @final
    def read(self, split: Split, *, missing: set[Path] | None = None) -> Reading:
        """``records`` of one split, all in memory and sorted by kind. Raises ``DataError`` like ``rows``."""
        found: dict[type, list[Any]] = {VqaSample: [], CaptionedImage: [], Reject: [], Defect: []}
        for item in self.records(split, missing=missing):
            found[type(item)].append(item)
        return Reading(
            samples=tuple(found[VqaSample]),
            captions=tuple(found[CaptionedImage]),
            rejects=tuple(found[Reject]),
            defects=tuple(found[Defect]),
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system
        return False
