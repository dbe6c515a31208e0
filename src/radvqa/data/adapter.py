"""What a data set must offer. One data set is one file with ``ADAPTER = <class>``."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from radvqa.sample import Region, Reject, Split, VqaSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One split as read: usable samples in file order, and every row left out with its reason."""

    samples: tuple[VqaSample, ...]
    rejects: tuple[Reject, ...]


class DatasetAdapter(ABC):
    """Reads one published or own data set in its official layout.

    Malformed files and rows raise ``DataError`` with file, row and key; rows that are sound but unusable
    (their image is missing, another language was asked for) are counted as rejects.
    """

    licence: ClassVar[str]
    citation: ClassVar[str]
    homepage: ClassVar[str]

    @abstractmethod
    def read(self, split: Split) -> Reading:
        """One split, in the order of its file.

        Raises:
            DataError: a missing or empty folder, a malformed file or row, a path that leaves the data folder.
        """

    @abstractmethod
    def regions(self, image_id: str) -> tuple[Region, ...]:
        """Labelled regions of one image; ``()`` where the data set has none."""

    @abstractmethod
    def sources(self) -> tuple[Path, ...]:
        """The table files that ``read`` reads, for the provenance hashes."""
