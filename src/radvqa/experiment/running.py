"""Running the cells of an experiment one after the other, each in a process of its own.

A process of its own gives memory back for certain, keeps settings of torch apart, and its crash ends one cell only.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from radvqa.errors import RecipeError
from radvqa.experiment.runs import CellRun, note_failure, results_folder, runs_of
from radvqa.recipe import Experiment
from radvqa.recipe.sections import did_you_mean
from radvqa.records import write_text
from radvqa.run.progress import Progress

Start = Callable[[Sequence[str], Callable[[str], None]], str | None]
"""Runs ``radvqa`` with these arguments, hands on what it says line by line; returns its error, or None."""

INTERRUPTED = 130
LINES_OF_A_CRASH = 20


def run_cells(
    experiment: Experiment,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    progress: Progress,
    start: Start | None = None,
) -> dict[str, str]:
    """Run every cell with every seed that is not finished yet; the error of each run that failed, by ``CellRun.key``.

    A run that fails is noted, and the others go on. Finished ones are found by their folders and cost nothing.

    Args:
        experiment: what to run.
        only: these cells; all when empty.
        seeds: these seeds; all when empty.
        progress: told what goes on.
        start: runs one command; in a process of its own unless given.

    Raises:
        RecipeError: a cell or seed is not one of the experiment's.
    """
    wanted = chosen(experiment, only=only, seeds=seeds)
    waiting = [run for run in wanted if not is_finished(experiment, run)]
    for run in wanted:
        if run not in waiting:
            note_failure(experiment, run, None)
    progress.say(f"experiment {experiment.name}: {len(wanted) - len(waiting)} of {len(wanted)} runs are finished")
    failed: dict[str, str] = {}
    with progress.track("runs", len(wanted), done=len(wanted) - len(waiting), unit="runs") as tick:
        for number, run in enumerate(waiting, start=1):
            progress.say(f"run {number} of {len(waiting)}: {run.cell}, seed {run.seed}")
            error = _run(experiment, run, start or in_own_process, progress.say)
            note_failure(experiment, run, error)
            if error is not None:
                failed[run.key] = error
                progress.say(f"{run.cell}, seed {run.seed} FAILED: {error}")
            tick(1, note=f"{len(failed)} failed" if failed else "")
    return failed


def chosen(experiment: Experiment, *, only: Sequence[str], seeds: Sequence[int]) -> list[CellRun]:
    """The runs of these cells and seeds, of all where none is named. Raises ``RecipeError`` for unknown ones."""
    for name in only:
        if name not in experiment.cells:
            raise RecipeError(f"no cell is called {name!r}{did_you_mean(name, list(experiment.cells))}")
    for seed in seeds:
        if seed not in experiment.seeds:
            known = ", ".join(map(str, experiment.seeds))
            raise RecipeError("the experiment has no such seed", expected=f"one of {known}", got=str(seed))
    return [run for run in runs_of(experiment) if (not only or run.cell in only) and (not seeds or run.seed in seeds)]


def is_finished(experiment: Experiment, run: CellRun) -> bool:
    """Whether a run has answered its own split and the further ones."""
    return run.is_evaluated() and all(map(run.has_answered, experiment.evaluate_on))


def _run(experiment: Experiment, run: CellRun, start: Start, say: Callable[[str], None]) -> str | None:
    folder = results_folder(experiment)
    recipe, log = folder / "recipes" / f"{run.key}.yaml", folder / "logs" / f"{run.key}.log"
    write_text(recipe, yaml.safe_dump(run.recipe.resolved(), sort_keys=False, allow_unicode=True, width=120))
    commands = [] if run.is_evaluated() else [["run", str(recipe), "--until", "evaluate"]]
    commands += [run.further_command(one) for one in experiment.evaluate_on if not run.has_answered(one)]
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        say(f"  {line}")

    try:
        for command in commands:
            hear(f"radvqa {' '.join(command)}")
            if (error := start(command, hear)) is not None:
                return error
        return None
    finally:
        write_text(log, "\n".join(said) + "\n")


def in_own_process(arguments: Sequence[str], say: Callable[[str], None]) -> str | None:
    """Run ``radvqa`` with these arguments in a process that ends with this one; its error, or None."""
    said: list[str] = []
    command = [sys.executable, "-m", "radvqa", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, encoding="utf-8", errors="replace") as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line.rstrip())
                say(said[-1])
            code = process.wait()
        except BaseException:
            # Asked to stop: so is the run, which keeps what it has done.
            process.terminate()
            raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return None if code == 0 else error_of(said, code)


def error_of(said: Sequence[str], code: int) -> str:
    """What a failed process said at its end: its message, or the last lines of its traceback."""
    begins = [number for number, line in enumerate(said) if line.startswith("error: ")]
    if begins:
        return "\n".join(said[begins[-1] :]).removeprefix("error: ")
    how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return "\n".join([how, *said[-LINES_OF_A_CRASH:]])
