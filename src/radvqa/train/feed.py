"""Which rows an update trains on: a pure function of seed, plan and update, so that resuming needs no replay."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, final

import numpy as np

from radvqa.models.layout import Row
from radvqa.train.mixture import Plan, row_order


class FedRow(NamedTuple):
    """A row and the number of the source it comes from."""

    source: int
    row: Row


@final
class Feed:
    """Rows of one or several sources; each is passed over in an order that is drawn anew at every pass.

    Nothing is iterated: any update can be asked for, by any process.

    Args:
        sources: the rows by name of their source.
        plan: which source each slot of each update draws from.
        seed: of the orders.
        questions_per_row: keeps that many questions of a row, drawn anew at each use; ``None`` keeps all.
    """

    def __init__(
        self, sources: Mapping[str, Sequence[Row]], plan: Plan, *, seed: int, questions_per_row: int | None = None
    ) -> None:
        self.names = tuple(sources)
        self.plan = plan
        self._rows = tuple(sources.values())
        self._seed = seed
        self._questions_per_row = questions_per_row
        # Two orders of each source: a batch may reach from one pass into the next.
        self._order = lru_cache(maxsize=2 * len(self._rows))(row_order)
        # Laid out once for the thread that prepares an update and the step that trains on it.
        self._made = lru_cache(maxsize=4)(self._make)

    @property
    def batch_size(self) -> int:
        """Rows of an update."""
        return self.plan.batch_size

    def batch(self, update: int) -> list[FedRow]:
        """The rows of update 1, 2, …; within a source every row comes once per pass."""
        return list(self._made(update))

    def _make(self, update: int) -> tuple[FedRow, ...]:
        sources, ordinals = self.plan.slots(update)
        return tuple(FedRow(int(s), self._row(int(s), int(n))) for s, n in zip(sources, ordinals, strict=True))

    def rows_of(self, name: str) -> Sequence[Row]:
        """The rows of a source."""
        return self._rows[self.names.index(name)]

    def passes(self, update: int) -> dict[str, float]:
        """How often each source was passed over when this update is done."""
        return dict(zip(self.names, self.plan.passes(update).tolist(), strict=True))

    def _row(self, source: int, ordinal: int) -> Row:
        rows, limit = self._rows[source], self._questions_per_row
        epoch, index = divmod(ordinal, len(rows))
        row = rows[int(self._order(self._seed, source, epoch, len(rows))[index])]
        if limit is None or len(row.questions) <= limit:
            return row
        rng = np.random.default_rng((self._seed, epoch, index, 1 + source))
        chosen = rng.permutation(len(row.questions))[:limit]
        return Row(row.image, tuple(row.questions[number] for number in sorted(chosen)))
