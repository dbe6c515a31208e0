"""What the stages of a recipe will cost: work, hours, memory and disk, by arithmetic and without torch."""

import os
import subprocess
import sys
from collections.abc import Mapping

from radvqa.cli.check_disk import disk
from radvqa.cli.check_sizes import StageSize, features_are_cached, learning_of, running_of
from radvqa.cli.finding import Finding
from radvqa.cli.machine import memory_here
from radvqa.errors import ModelError, RadvqaError, RunError
from radvqa.models.cost import (
    Rows,
    distinct_pictures,
    step_memory,
    step_work,
    tower_work,
    trainable_parameters,
)
from radvqa.models.geometry import Geometry, geometry_of
from radvqa.recipe import Model, Recipe, Stage

SPEEDS = (
    (55e12, "RTX 4090"),
    (100e12, "A100"),
    (330e12, "H100"),
)
"""A third of the FLOP/s that well-known hardware is stated to reach in dense bfloat16 products."""

LEAST_PREDICTABLE = 1e16
"""FLOP below which such hardware spends its time on other things than products."""

ALONE = "for training alone, without evaluation and looks"

GIB = 2**30


def costs(
    recipe: Recipe, sizes: Mapping[str, StageSize | None], *, asked_pictures: int = 0, measure: bool = False
) -> list[Finding]:
    """Work and hours, memory, and disk of the stages; their names lead to their sizes, or None where unknown.

    Args:
        recipe: what would run.
        sizes: by stage.
        asked_pictures: of the splits that are evaluated or looked at.
        measure: find out how fast this machine is, which takes some seconds.
    """
    try:
        geometry = geometry_of(recipe.model)
    except ModelError as error:
        return [Finding(subject="costs", problem=error)]
    if geometry is None:
        return [Finding(subject="costs", fact="unknown: they are told when the checkpoint's config.json is here")]
    findings = []
    speed = _speed_here(recipe.model) if measure else None
    if isinstance(speed, RadvqaError):
        return [Finding(subject="speed", problem=speed)]
    if speed is not None:
        findings.append(
            Finding(subject="speed", fact=f"this machine multiplies matrices at {speed / 1e12:.3g} TFLOP/s")
        )
    works, exact = [], True
    for stage in recipe.stages:
        size = sizes[stage.name]
        if size is None:
            findings.append(Finding(subject=f"stage {stage.name}, work", fact="unknown: a data set cannot be read"))
            continue
        work = stage_work(recipe, geometry, size)
        works.append(work)
        exact = exact and size.exact
        findings.append(Finding(subject=f"stage {stage.name}, work", fact=_told_work(work, speed, exact=size.exact)))
        findings.append(Finding(subject=f"stage {stage.name}, memory", fact=_told_memory(recipe, geometry, size)))
    if len(works) > 1 and len(works) == len(recipe.stages):
        findings.append(Finding(subject="training, work", fact=_told_work(sum(works), speed, exact=exact)))
    findings += disk(recipe, geometry, [size for size in sizes.values() if size is not None], asked_pictures)
    return findings


def stage_work(recipe: Recipe, geometry: Geometry, size: StageSize) -> float:
    """FLOP of a stage: all forward and backward passes, and the tower's features where they are computed once."""
    stage, learning = size.stage, learning_of(size.stage)
    cached = features_are_cached(stage)
    micro = _micro_rows(stage)
    work = 0.0
    for name, share in size.means().items():
        one = size.texts[name]
        drawn = share * size.updates * stage.batch_size
        rows = Rows(
            rows=drawn,
            pictures=drawn * distinct_pictures(pictures=one.pictures, rows=one.rows, drawn=micro) / micro,
            text=one.text,
            answers=one.answers,
        )
        work += step_work(geometry, learning, running_of(recipe.model, stage), rows, cached=cached)
        if cached:
            work += tower_work(geometry.vision, pictures=min(one.pictures, drawn))
    return work


def _micro_rows(stage: Stage) -> int:
    """Rows of a forward pass; of ``auto``, which is found when the stage starts, one."""
    if stage.micro_batch_size == "auto":
        return 1
    return min(stage.micro_batch_size or stage.batch_size, stage.batch_size)


def _told_work(work: float, speed: float | None, *, exact: bool) -> str:
    told = f"{'' if exact else 'at most '}{work / 1e15:,.3g} PFLOP"
    if speed is not None:
        return f"{told}: {_hours(2 * work / speed)} here at half of that speed, {ALONE}"
    if work < LEAST_PREDICTABLE:
        return f"{told}; --measure tells how long it takes here"
    times = ", ".join(f"{_hours(work / rate)} at {rate / 1e12:.0f} TFLOP/s ({what})" for rate, what in SPEEDS)
    return f"{told}: {times}; a third of the peak is assumed, {ALONE}"


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _told_memory(recipe: Recipe, geometry: Geometry, size: StageSize) -> str:
    stage, learning, running = size.stage, learning_of(size.stage), running_of(recipe.model, size.stage)
    micro, longest = _micro_rows(stage), max(size.texts.values(), key=lambda one: one.longest_text)
    rows = Rows(
        rows=micro,
        pictures=micro,
        text=longest.longest_text,
        answers=max(one.longest_answers for one in size.texts.values()),
    )
    memory = step_memory(geometry, learning, running, rows, cached=features_are_cached(stage))
    precision = "float32" if running.number == 4 else "bfloat16" if recipe.model.dtype == "bfloat16" else "if bfloat16"
    auto = ", the least of auto" if stage.micro_batch_size == "auto" else ""
    told = (
        f"about {memory.total / GIB:.1f} GiB for {micro} rows at a time{auto}: weights {memory.weights / GIB:.1f} "
        f"({precision}), {trainable_parameters(geometry, learning):,} learning {memory.learning / GIB:.1f}, "
        f"activations {(memory.activations + memory.passing) / GIB:.1f}"
    )
    here, what = memory_here()
    if memory.total <= here:
        return told
    remedies = [] if stage.gradient_checkpointing else ["gradient_checkpointing: true"]
    remedies += ["a smaller micro_batch_size"] if micro > 1 else []
    advice = f"; less with {' or '.join(remedies)}" if remedies else ""
    return f"{told}; more than the {here / GIB:.1f} GiB of {what}{advice}"


def _speed_here(model: Model) -> float | RadvqaError:
    """FLOP/s of matrix products, measured in a process of its own, since this one is to stay without torch."""
    dtype = "float32" if model.dtype == "float32" else "bfloat16"
    environment = {**os.environ} if model.threads is None else {**os.environ, "OMP_NUM_THREADS": str(model.threads)}
    done = subprocess.run(
        [sys.executable, "-m", "radvqa.models.speed", dtype],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        return RunError(
            "the speed of this machine cannot be measured",
            got=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1],
            fix="leave out --measure",
        )
    return float(done.stdout)
