"""Everything that the page of an experiment says, reckoned from the files of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from radvqa.errors import RadvqaError
from radvqa.experiment.effects import effects, levels, reliance, slopes
from radvqa.experiment.estimates import Effect, Level, Reliance, Slope
from radvqa.experiment.figures import Course
from radvqa.experiment.measured import CONTROLS, Measured, measure
from radvqa.experiment.runs import CellRun, failures, runs_of
from radvqa.recipe import Experiment, Transfer
from radvqa.records import read_json, read_optional
from radvqa.report.figures import Update, Watch
from radvqa.report.scores import Leaks
from radvqa.run.folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRun:
    """A run that has not answered yet, and why as far as it is known."""

    cell: str
    seed: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A cell under another condition: mean accuracy over seeds, and how much better the model itself is."""

    where: str
    cell: str
    condition: str
    mean: float
    found: Reliance


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What a cell's questions of one split share with one set that its runs read: counts, None where unknown.

    ``seeds``: of the runs with these counts. ``against`` is None where it was not looked for.
    """

    cell: str
    seeds: tuple[int, ...]
    where: str
    against: str | None
    pictures: int | None
    groups: int | None
    rows: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the numbers of one run come from: its folder's name, how it was started, and the code."""

    cell: str
    seed: int
    folder: str
    commands: tuple[str, ...]
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The whole page. ``missing`` lists runs whose own evaluation is not there."""

    experiment: Experiment
    tables: tuple[Measured, ...]
    missing: tuple[MissingRun, ...]
    levels: dict[str, list[Level]]
    effects: list[Effect]
    slopes: list[Slope]
    controls: list[Control]
    shared: list[Shared]
    courses: list[Course]
    origins: list[Origin]

    @property
    def finished(self) -> int:
        """Runs that have answered."""
        return len(self.origins)


def gather(experiment: Experiment) -> Contents:
    """What is known of an experiment so far.

    Raises:
        DataError: runs have answered different questions, or a file of theirs is damaged.
    """
    runs = runs_of(experiment)
    done = [run for run in runs if run.is_evaluated()]
    found = [measure(done), *(measure(done, further=further) for further in experiment.evaluate_on)]
    tables = tuple(table for table in found if table is not None)
    cells, seeds, trend = list(experiment.cells), experiment.seeds, experiment.trend
    return Contents(
        experiment=experiment,
        tables=tables,
        missing=tuple(_missing(experiment, runs, done)),
        levels={table.where: levels(table, cells) for table in tables},
        effects=effects(
            tables,
            cells,
            reference=experiment.reference,
            seeds=seeds,
            splits=1 + len(experiment.evaluate_on),
            margin=experiment.margin,
        ),
        slopes=[one for table in tables for one in slopes(table, trend.at, seeds=seeds)] if trend is not None else [],
        controls=[one for table in tables for one in _controls(table, cells, seeds)],
        shared=_shared(experiment, done),
        courses=[_course(run) for run in done],
        origins=[_origin(run) for run in done],
    )


def _missing(experiment: Experiment, runs: Sequence[CellRun], done: Sequence[CellRun]) -> list[MissingRun]:
    known = failures(experiment)
    found = []
    for run in runs:
        if run not in done:
            if run.key in known:
                why = f"failed: {' '.join(known[run.key].split())[:300]}"
            else:
                why = "begun, not finished" if run.folder.is_dir() else "not begun"
            found.append(MissingRun(cell=run.cell, seed=run.seed, why=why))
            continue
        found += [
            MissingRun(cell=run.cell, seed=run.seed, why=f"no answers on {further} yet")
            for further in experiment.evaluate_on
            if not run.has_answered(further)
        ]
    return found


def _controls(table: Measured, cells: Sequence[str], seeds: Sequence[int]) -> list[Control]:
    found = []
    for cell in cells:
        for condition in CONTROLS:
            gain = reliance(table, cell, condition, seeds=seeds)
            if gain is not None:
                mean = next(one.mean for one in levels(table, [cell], condition=condition) if one.part == "all")
                found.append(Control(where=table.where, cell=cell, condition=condition, mean=mean, found=gain))
    return found


def _shared(experiment: Experiment, done: Sequence[CellRun]) -> list[Shared]:
    seeds: dict[Shared, list[int]] = {}
    for run in done:
        for further in (None, *(one for one in experiment.evaluate_on if run.has_answered(one))):
            for one in _shared_by(run, further):
                seeds.setdefault(one, []).append(run.seed)
    order = list(experiment.cells)
    found = [replace(one, seeds=tuple(some)) for one, some in seeds.items()]
    return sorted(found, key=lambda one: order.index(one.cell))


def _shared_by(run: CellRun, further: Transfer | None) -> list[Shared]:
    evaluate = run.recipe.evaluate
    where = f"{evaluate.dataset} {evaluate.split}" if further is None else str(further)
    blank = Shared(cell=run.cell, seeds=(), where=where, against=None, pictures=None, groups=None, rows=None)
    leaks = read_json(run.leaks_file(further), Leaks)
    if leaks is None:
        return [blank]
    trained = [f"{name}, train" for name in run.recipe.trained_on]
    return [
        replace(
            blank,
            against=name if name in trained else f"{name} (not trained on)",
            pictures=one.shared_pictures,
            groups=one.shared_groups,
            rows=one.same_rows,
        )
        for name, one in leaks.compared_with.items()
    ]


def _course(run: CellRun) -> Course:
    losses: list[tuple[int, float]] = []
    watched: list[tuple[int, float]] = []
    before = 0
    for stage in run.recipe.stages:
        folder = run.folder / "train" / stage.name
        updates = read_optional(folder / "metrics.jsonl", Update)
        losses += [(before + one.update, one.loss) for one in updates if one.loss is not None]
        watched += [
            (before + one.update, one.overall)
            for one in read_optional(folder / "watch.jsonl", Watch)
            if one.condition == "real" and one.overall is not None
        ]
        before += max((one.update for one in updates), default=0)
    return Course(cell=run.cell, seed=run.seed, losses=losses, watched=sorted(watched))


def _origin(run: CellRun) -> Origin:
    provenance = read_json(run.folder / "provenance.json", dict[str, Any]) or {}
    git = provenance.get("git") or {}
    code = f"radvqa {provenance.get('radvqa', 'unknown')}"
    if git.get("commit"):
        code += f", commit {git['commit'][:12]}{', changed' if git.get('dirty') else ''}"
    try:
        commands = tuple(dict.fromkeys(line.partition("  ")[2] for line in RunFolder.open(run.folder).commands()))
    except RadvqaError:
        commands = ()
    return Origin(
        cell=run.cell,
        seed=run.seed,
        folder=run.folder.name,
        commands=commands,
        code=code,
    )
