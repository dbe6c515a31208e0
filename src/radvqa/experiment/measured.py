"""The answers of finished runs as a table of scores: the same questions, in one order, for every cell and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from radvqa.errors import DataError
from radvqa.evaluate.metrics import accuracy
from radvqa.experiment.runs import CellRun
from radvqa.recipe import Transfer
from radvqa.records import read_records
from radvqa.sample import Prediction

PARTS = ("all", "closed", "open")
CONTROLS = ("shuffled", "blank", "question_only", "majority")
"""Conditions beside the model's own answers, in the order of the page."""

Column = Float[np.ndarray, " n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Accuracy of every question, for each cell and seed that answered one split.

    ``scores``: (cell, seed) → condition → column; the condition ``model`` is always there.
    """

    where: str
    sample_ids: tuple[str, ...]
    groups: tuple[str, ...]
    closed: Bool[np.ndarray, " n"]
    scores: Mapping[tuple[str, int], Mapping[str, Column]] = field(default_factory=dict)

    def rows(self, part: str) -> Bool[np.ndarray, " n"]:
        """Which questions belong to all, closed or open."""
        return np.ones(len(self.groups), dtype=bool) if part == "all" else self.closed == (part == "closed")

    def seeds(self, cell: str) -> tuple[int, ...]:
        """Seeds with which a cell answered."""
        return tuple(seed for name, seed in self.scores if name == cell)


def measure(runs: Sequence[CellRun], *, further: Transfer | None = None) -> Measured | None:
    """The table of the own evaluations of these runs, or of a further one; None where no run has answered.

    Raises:
        DataError: two runs have answered different questions, or a file is damaged.
    """
    order: list[Prediction] = []
    first = ""
    scores: dict[tuple[str, int], dict[str, Column]] = {}
    for run in runs:
        files = {name: _file(run, further, name) for name in ("model", *CONTROLS)}
        found = {name: read_records(path, Prediction) for name, path in files.items() if path.is_file()}
        if "model" not in found or not (run.is_evaluated() if further is None else run.has_answered(further)):
            continue
        if not order:
            order, first = found["model"], run.key
        scores[run.cell, run.seed] = {
            name: _column(predictions, order, where=f"{run.key}, {name}", first=first)
            for name, predictions in found.items()
        }
    if not order:
        return None
    evaluate = runs[0].recipe.evaluate
    return Measured(
        where=str(further) if further else f"{evaluate.dataset} {evaluate.split}",
        sample_ids=tuple(one.sample_id for one in order),
        groups=tuple(one.group_id for one in order),
        closed=np.array([one.answer_type == "closed" for one in order]),
        scores=scores,
    )


def _file(run: CellRun, further: Transfer | None, condition: str) -> Path:
    return run.predictions(condition) if further is None else run.further_predictions(further, condition)


def _column(predictions: Sequence[Prediction], order: Sequence[Prediction], *, where: str, first: str) -> Column:
    by_id = {one.sample_id: one for one in predictions}
    same = by_id.keys() == {one.sample_id for one in order}
    if not same or any(by_id[one.sample_id].references != one.references for one in order):
        raise DataError(
            "runs of one experiment have answered different questions",
            where=where,
            expected=f"the {len(order)} questions of {first}, with the same references",
            got=f"{len(by_id)} questions, {len(by_id.keys() & {one.sample_id for one in order})} of them the same",
            fix="evaluate every cell on the same split, with the same limit and the same version of the data",
        )
    return np.array([accuracy(by_id[one.sample_id]) for one in order], dtype=np.float64)
