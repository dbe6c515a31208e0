"""Which rows an update trains on: a pure function of seed, stage and update, so that resuming needs no replay."""

from collections.abc import Sequence

import numpy as np

from radvqa.models.layout import Row


class Feed:
    """Rows in an order that is reshuffled at every pass; nothing is iterated, any update can be asked for.

    ``questions_per_row`` keeps that many questions of a row, drawn anew at each use; ``None`` keeps all.
    """

    def __init__(self, rows: Sequence[Row], *, batch_size: int, seed: int, questions_per_row: int | None) -> None:
        self.rows = tuple(rows)
        self.batch_size = batch_size
        self._seed = seed
        self._questions_per_row = questions_per_row

    def batch(self, update: int) -> list[Row]:
        """The rows of update 1, 2, …; every row comes once per pass."""
        first = (update - 1) * self.batch_size
        return [self._row(place) for place in range(first, first + self.batch_size)]

    def _row(self, place: int) -> Row:
        epoch, index = divmod(place, len(self.rows))
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self.rows))
        row = self.rows[int(order[index])]
        limit = self._questions_per_row
        if limit is None or len(row.questions) <= limit:
            return row
        chosen = np.random.default_rng((self._seed, epoch, index, 1)).permutation(len(row.questions))[:limit]
        return Row(row.image, tuple(row.questions[number] for number in sorted(chosen)))
