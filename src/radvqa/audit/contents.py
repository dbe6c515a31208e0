"""What the audit looks at: everything a data set holds, read once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radvqa.data.adapter import DatasetAdapter, Reading
from radvqa.errors import DataError
from radvqa.sample import CaptionedImage, Defect, Split, VqaSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All splits of one data set as read, with what is wrong beside the tables and splits that could not be read.

    Unlike a run, the audit keeps rows whose image is missing: their groups, questions and answers are part of the
    published splits. ``missing`` holds their image paths.
    """

    label: str
    adapter: str
    licence: str
    citation: str
    homepage: str
    readings: dict[Split, Reading]
    missing: frozenset[Path]
    defects: tuple[Defect, ...]
    unreadable: dict[Split, DataError]

    def samples(self) -> Iterator[VqaSample]:
        """The questions of all splits, in the order train, val, test."""
        return (sample for reading in self.readings.values() for sample in reading.samples)

    def captions(self) -> Iterator[CaptionedImage]:
        """The captions of all splits, in the order train, val, test."""
        return (caption for reading in self.readings.values() for caption in reading.captions)

    def records(self) -> Iterator[VqaSample | CaptionedImage]:
        """Questions, then captions."""
        yield from self.samples()
        yield from self.captions()


def read_contents(label: str, adapter_name: str, adapter: DatasetAdapter) -> Contents:
    """Everything that ``adapter`` holds. A split whose table cannot be read is kept as its error."""
    readings: dict[Split, Reading] = {}
    unreadable: dict[Split, DataError] = {}
    missing: set[Path] = set()
    for split in adapter.splits():
        try:
            readings[split] = adapter.read(split, missing=missing)
        except DataError as error:
            unreadable[split] = error
    return Contents(
        label=label,
        adapter=adapter_name,
        licence=adapter.licence,
        citation=adapter.citation,
        homepage=adapter.homepage,
        readings=readings,
        missing=frozenset(missing),
        defects=tuple(adapter.defects()),
        unreadable=unreadable,
    )
