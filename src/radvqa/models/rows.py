"""Training rows of a corpus, each laid out when it is asked for: a million questions start as fast as a few."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int

from radvqa.models.layout import Row
from radvqa.models.vlm import Vlm
from radvqa.records import RecordFile
from radvqa.sample import VqaSample


@final
class SampleRows(Sequence[Row]):
    """The rows of some samples: one for each, or in the shared-image layout one for each image.

    Args:
        vlm: gives layout and token ids.
        files: the records, in order.
        kept: which of all records are used, by their place among all; every one if None.

    Raises:
        ModelError: a text holds a special token that the model must not read from text, or an answer has no tokens.
    """

    def __init__(
        self, vlm: Vlm, files: Sequence[RecordFile[VqaSample]], *, kept: Int[np.ndarray, " k"] | None = None
    ) -> None:
        self._vlm = vlm
        self._files = tuple(files)
        self._starts = np.cumsum([0, *(len(file) for file in files)])
        names, numbers = _images(files)
        places = np.arange(len(numbers)) if kept is None else kept
        distinct, first, which = np.unique(numbers[places], return_index=True, return_inverse=True)
        order = np.argsort(first)
        self.images = [Path(names[number]) for number in distinct[order]]
        if vlm.layout == "shared_image":
            # Rows come in the order of first appearance; a stable sort keeps the questions of each in their order.
            rank = np.argsort(order)[which]
            self._places = places[np.argsort(rank, kind="stable")]
            self._begins = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=len(first)))])
        else:
            self._places, self._begins = places, np.arange(len(places) + 1)
        self._require_readable()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._begins) - 1

    @property
    def questions(self) -> int:
        """The number of questions in all rows."""
        return len(self._places)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        """The row of an index from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is not among {len(self)} rows")
        samples = [self._sample(place) for place in self._places[self._begins[index] : self._begins[index + 1]]]
        return Row(samples[0].image, tuple(self._vlm.question(sample, answer=True) for sample in samples))

    def longest(self, count: int) -> list[int]:
        """The indices of the rows with the longest texts, by the bytes of their records."""
        sizes = np.concatenate([file.line_bytes() for file in self._files])[self._places]
        by_row = np.add.reduceat(sizes, self._begins[:-1])
        return [int(index) for index in np.argsort(-by_row, kind="stable")[:count]]

    def _sample(self, place: int) -> VqaSample:
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self._files[number][int(place - self._starts[number])]

    def _require_readable(self) -> None:
        """Lay out every question that may hold a special token now, and not in the middle of a long training."""
        for start, file in zip(self._starts, self._files, strict=False):
            suspects = file.containing("<")
            for place in suspects[np.isin(start + suspects, self._places)]:
                self._vlm.question(file[int(place)], answer=True)


def _images(files: Sequence[RecordFile[VqaSample]]) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """The distinct image paths of all files, and which one each record has."""
    known: dict[str, int] = {}
    numbers = []
    for file in files:
        names, which = file.column("image")
        numbers.append(np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)[which])
    return list(known), np.concatenate([np.zeros(0, dtype=np.int64), *numbers])
