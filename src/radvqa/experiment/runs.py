"""The runs that an experiment consists of, and which of them are finished."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radvqa.errors import RadvqaError
from radvqa.recipe import Experiment, Recipe, Transfer, cell_recipe
from radvqa.records import read_json, write_json
from radvqa.run.folder import RunFolder

FAILURES_FILE = "failures.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """One cell with one seed: an ordinary run."""

    cell: str
    seed: int
    recipe: Recipe

    @property
    def key(self) -> str:
        """Cell and seed as part of a file's name."""
        return f"{self.cell}-s{self.seed}"

    @property
    def folder(self) -> Path:
        """Where ``radvqa run`` keeps it."""
        return self.recipe.output / f"{self.recipe.name}_{self.recipe.digest()}"

    def is_evaluated(self) -> bool:
        """Whether its own evaluation is finished. A folder that cannot be read counts as unfinished."""
        try:
            return "evaluate" in RunFolder.open(self.folder).done_steps()
        except RadvqaError:
            return False

    def predictions(self, condition: str = "model") -> Path:
        """The answers of its own evaluation."""
        return self.folder / "predictions" / _file_name(self.recipe.evaluate.split, condition)

    def has_answered(self, further: Transfer) -> bool:
        """Whether a further evaluation is finished, with the recipe's settings and this run's weights.

        One that cannot be read, or was made by hand with other settings, counts as unfinished.
        """
        try:
            found = read_json(self._further(further) / "evaluation.json", dict[str, Any])
            own = read_json(self.folder / "evaluation.json", dict[str, Any]) or {}
        except RadvqaError:
            return False
        evaluate = self.recipe.evaluate
        wanted = {
            "dataset": further.dataset,
            "split": further.split,
            "limit": None,
            "max_new_tokens": evaluate.max_new_tokens,
            "seed": self.recipe.seed,
            "finished": True,
        }
        # Runs of earlier versions did not note the weights of their own evaluation.
        wanted |= {name: own[name] for name in ("weights", "layout", "dtype", "prompt_id") if name in own}
        return (
            found is not None
            and all(name in found and found[name] == value for name, value in wanted.items())
            and all(self.further_predictions(further, one).is_file() for one in ("model", *evaluate.controls))
        )

    def leaks_file(self, further: Transfer | None = None) -> Path:
        """What the questions of its own evaluation, or of a further one, share with training."""
        return (self.folder if further is None else self._further(further)) / "leaks.json"

    def further_predictions(self, further: Transfer, condition: str = "model") -> Path:
        """The answers of a further evaluation."""
        return self._further(further) / "predictions" / _file_name(further.split, condition)

    def further_command(self, further: Transfer) -> list[str]:
        """Arguments of ``radvqa`` that answer a further split."""
        return ["evaluate", str(self.folder), "--dataset", further.dataset, "--split", further.split]

    def _further(self, further: Transfer) -> Path:
        return self.folder / "evaluations" / f"{further.dataset}-{further.split}"


def runs_of(experiment: Experiment) -> list[CellRun]:
    """Every run, seeds outermost."""
    return [
        CellRun(cell=cell, seed=seed, recipe=cell_recipe(experiment, cell, seed))
        for seed in experiment.seeds
        for cell in experiment.cells
    ]


def results_folder(experiment: Experiment) -> Path:
    """Where the page is written."""
    return experiment.output / experiment.name


def _file_name(split: str, condition: str) -> str:
    return f"{split}.jsonl" if condition == "model" else f"{split}_{condition}.jsonl"


def failures(experiment: Experiment) -> dict[str, str]:
    """The error of each run that failed when it was last tried, by key."""
    found: dict[str, Any] = read_json(results_folder(experiment) / FAILURES_FILE, dict[str, Any]) or {}
    return {key: str(error) for key, error in found.items()}


def note_failure(experiment: Experiment, run: CellRun, error: str | None) -> None:
    """Keep the error of a run, or forget it."""
    known = failures(experiment)
    if known.get(run.key) == error:
        return
    known.pop(run.key, None)
    write_json(results_folder(experiment) / FAILURES_FILE, known | ({run.key: error} if error else {}))
