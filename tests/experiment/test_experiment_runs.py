"""A small experiment on the tiny checkpoint: three cells, two seeds, stopped between cells, gone on with, reported."""

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from radvqa.errors import DataError, RecipeError
from radvqa.experiment.page import write_page
from radvqa.experiment.running import error_of, in_own_process, run_cells
from radvqa.experiment.runs import results_folder, runs_of
from radvqa.recipe import Experiment, Transfer, parse_experiment
from radvqa.run.progress import Progress


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    place = tmp_path_factory.mktemp("experiment")
    return parse_experiment(
        {
            "name": "toy",
            "question": "Does a longer align stage help?",
            "seeds": [1, 2],
            "output": str(place / "experiments"),
            "recipe": {
                "output": str(place / "runs"),
                "model": {"checkpoint": "tiny", "dtype": "float32", "layout": "shared_image"},
                "datasets": {
                    "phantom": {
                        "adapter": "phantom",
                        "count": {"train": 6, "val": 5, "test": 0},
                        "size": 112,
                        "questions_per_image": 3,
                        "root": str(place / "phantoms"),
                    }
                },
                "stages": [
                    {"name": "align", "datasets": ["phantom"], "updates": 2, "batch_size": 2, "watch": {"every": 1}}
                ],
                "trackers": [],
                "evaluate": {"dataset": "phantom", "controls": ["shuffled"], "max_new_tokens": 4, "resamples": 100},
            },
            "cells": {
                "short": {},
                "long": {"set": {"stages.align.updates": 4}},
                "fast": {"set": {"stages.align.learning_rate": 0.01}},
            },
            "reference": "short",
            "trend": {"label": "Updates", "at": {"short": 2, "long": 4}},
            "margin": 0.05,
        },
        where="toy.yaml",
    )


class StopError(Exception):
    """What a kill is to the runner."""


@pytest.fixture(scope="module")
def commands() -> list[str]:
    return []


@pytest.fixture(scope="module")
def start(commands: list[str]) -> Callable[[Sequence[str], Callable[[str], None]], str | None]:
    """Runs the command line in this process, and stops before the third command."""
    from radvqa.cli.app import app

    def started(arguments: Sequence[str], say: Callable[[str], None]) -> str | None:
        if len(commands) == 2 and "killed" not in commands:
            commands.append("killed")
            raise StopError
        commands.append(shlex.join(arguments))
        done = CliRunner().invoke(app, list(arguments))
        return None if done.exit_code == 0 else done.output

    return started


@pytest.fixture(scope="module")
def half(experiment: Experiment, start, commands: list[str]) -> str:
    """The page after a stop between cells."""
    with pytest.raises(StopError):
        run_cells(experiment, progress=Progress(quiet=True), start=start)
    assert sum(run.is_evaluated() for run in runs_of(experiment)) == 2
    page, _ = write_page(experiment, command="radvqa experiment toy.yaml --report")
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(experiment: Experiment, start, commands: list[str], half: str) -> Path:
    """The results folder after the same command went on."""
    before = len(commands)
    assert run_cells(experiment, progress=Progress(quiet=True), start=start) == {}
    assert len(commands) == before + 4
    assert not set(commands[:before]) & set(commands[before:])
    page, _ = write_page(experiment, command="radvqa experiment toy.yaml")
    return page.parent


def test_seeds_are_outermost_and_names_follow_cells(experiment: Experiment) -> None:
    runs = runs_of(experiment)
    assert [(run.cell, run.seed) for run in runs] == [
        ("short", 1), ("long", 1), ("fast", 1), ("short", 2), ("long", 2), ("fast", 2),
    ]  # fmt: skip
    assert runs[1].folder.name.startswith("toy-long_")


def test_the_page_of_half_an_experiment_names_what_is_missing(half: str) -> None:
    assert "2 of 6 runs are finished" in half
    for line in ("- fast, seed 1: not begun", "- short, seed 2: not begun"):
        assert line in half
    assert "- long, seed 1" not in half
    assert "long against short on phantom val, all" in half
    assert "fast against short" not in half
    assert "over images alone, one seed. Interim: no claim. Seeds that are finished for both: 1." in half
    assert "Cells that are not finished: short, long" in half
    assert "every cell: interim, no claim" not in half
    assert "interim, no claim: short, long; not measured: fast" in half


def test_finished_cells_are_not_run_again(experiment: Experiment, finished: Path, start, commands: list[str]) -> None:
    before = list(commands)
    assert run_cells(experiment, progress=Progress(quiet=True), start=start) == {}
    assert commands == before


def test_the_page_says_what_follows(experiment: Experiment, finished: Path) -> None:
    page = (finished / "results.md").read_text(encoding="utf-8")
    assert "6 of 6 runs are finished" in page
    assert "Missing" not in page
    html = (finished / "results.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 3
    assert 'src="http' not in html
    numbers = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert numbers["finished"] == 6
    assert {one["cell"] for one in numbers["effects"]} == {"long", "fast"}
    assert all(one["seeds"] == [1, 2] for one in numbers["effects"])
    assert {one["condition"] for one in numbers["controls"]} == {"shuffled", "question_only", "majority"}
    for name in ("effects.png", "trend.png", "learning.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in page
    for run in runs_of(experiment):
        assert run.folder.name in page


def test_a_failing_cell_is_noted_and_the_others_go_on(experiment: Experiment, tmp_path: Path) -> None:
    other = experiment.model_copy(
        update={"output": tmp_path, "recipe": {**experiment.recipe, "output": str(tmp_path / "runs")}}
    )
    asked: list[str] = []

    def start(arguments: Sequence[str], say: Callable[[str], None]) -> str | None:
        asked.append(arguments[1])
        return "no memory" if "long" in arguments[1] else None

    failed = run_cells(other, seeds=[2], progress=Progress(quiet=True), start=start)
    assert failed == {"long-s2": "no memory"}
    assert [Path(one).stem for one in asked] == ["short-s2", "long-s2", "fast-s2"]
    page, contents = write_page(other, command="")
    assert "- long, seed 2: failed: no memory" in page.read_text(encoding="utf-8")
    assert contents.finished == 0
    assert "Nothing can be said yet" in page.read_text(encoding="utf-8")
    # It is tried again, and forgotten when it works.
    assert run_cells(other, only=["long"], progress=Progress(quiet=True), start=lambda *_: None) == {}
    assert json.loads((results_folder(other) / "failures.json").read_text()) == {}


def test_further_splits_are_asked_of_every_cell(experiment: Experiment, finished: Path, tmp_path: Path) -> None:
    transfer = Transfer(dataset="phantom", split="test")
    wider = experiment.model_copy(update={"evaluate_on": (transfer,), "output": tmp_path})
    runs = {str(run.folder): run for run in runs_of(wider)}
    asked: list[str] = []

    def start(arguments: Sequence[str], say: Callable[[str], None]) -> str | None:
        # As `radvqa evaluate RUN --dataset NAME --split SPLIT` leaves it.
        assert arguments[0] == "evaluate"
        assert arguments[2:] == ["--dataset", "phantom", "--split", "test"]
        run = runs[arguments[1]]
        asked.append(run.key)
        for condition in ("model", "shuffled"):
            target = run.further_predictions(transfer, condition)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(run.predictions(condition), target)
        facts = json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8"))
        (target.parents[1] / "evaluation.json").write_text(json.dumps({**facts, "split": "test"}))
        shutil.copy(run.leaks_file(), run.leaks_file(transfer))
        return None

    assert run_cells(wider, only=["short"], seeds=[1], progress=Progress(quiet=True), start=start) == {}
    _, contents = write_page(wider, command="")
    assert [table.where for table in contents.tables] == ["phantom val", "phantom test"]
    assert contents.tables[1].scores.keys() == {("short", 1)}
    assert [one.why for one in contents.missing] == ["no answers on phantom test yet"] * 5
    run_cells(wider, progress=Progress(quiet=True), start=start)
    page, contents = write_page(wider, command="")
    assert asked == ["short-s1", "long-s1", "fast-s1", "short-s2", "long-s2", "fast-s2"]
    assert {one.comparisons for one in contents.effects} == {4}
    text = page.read_text(encoding="utf-8")
    assert "effects-2.png" in text
    assert "Questions under evaluate_on are not guarded" in text
    assert "| short | 1, 2 | phantom test | phantom, train | pictures: 0; groups: 0; rows: 0 |" in text

    # An evaluation of other questions, settings or weights is not this one.
    run = runs[str(runs_of(wider)[0].folder)]
    file = run.leaks_file(transfer).with_name("evaluation.json")
    good = json.loads(file.read_text(encoding="utf-8"))
    for change in ({"limit": 2}, {"max_new_tokens": 5}, {"seed": 9}, {"weights": "other"}, {"split": "val"}):
        file.write_text(json.dumps(good | change), encoding="utf-8")
        assert not run.has_answered(transfer), change
    file.write_text("{", encoding="utf-8")
    assert not run.has_answered(transfer)
    file.write_text(json.dumps(good), encoding="utf-8")
    assert run.has_answered(transfer)
    run.further_predictions(transfer, "shuffled").unlink()
    assert not run.has_answered(transfer)
    run_cells(wider, progress=Progress(quiet=True), start=start)
    assert asked[6:] == ["short-s1"]


def test_what_is_shared_with_training_stands_on_the_page(experiment: Experiment, finished: Path) -> None:
    run = runs_of(experiment)[0]
    whole = run.leaks_file().read_text(encoding="utf-8")
    facts = json.loads(whole)
    facts["compared_with"]["phantom, train"] |= {"shared_pictures": 2, "shared_groups": 3, "same_rows": 4}
    facts["compared_with"]["other, train"] = facts["compared_with"]["phantom, train"] | {"shared_pictures": None}
    try:
        run.leaks_file().write_text(json.dumps(facts), encoding="utf-8")
        text = write_page(experiment, command="")[0].read_text(encoding="utf-8")
        run.leaks_file().unlink()
        without = write_page(experiment, command="")[0].read_text(encoding="utf-8")
    finally:
        run.leaks_file().write_text(whole, encoding="utf-8")
    for row in (
        "| short | 1 | phantom val | phantom, train | pictures: 2; groups: 3; rows: 4 |",
        "| short | 1 | phantom val | other, train (not trained on) | pictures: not compared; groups: 3; rows: 4 |",
        "| short | 2 | phantom val | phantom, train | pictures: 0; groups: 0; rows: 0 |",
        "| long | 1, 2 | phantom val | phantom, train | pictures: 0; groups: 0; rows: 0 |",
    ):
        assert row in text
    assert "| short | 1 | phantom val | n/a | not looked for" in without
    assert "seen_pictures guards" not in text


def test_other_questions_cannot_be_compared(experiment: Experiment, finished: Path) -> None:
    run = runs_of(experiment)[2]
    whole = run.predictions().read_text(encoding="utf-8")
    run.predictions().write_text("".join(whole.splitlines(keepends=True)[1:]), encoding="utf-8")
    try:
        with pytest.raises(DataError, match="answered different questions"):
            write_page(experiment, command="")
    finally:
        run.predictions().write_text(whole, encoding="utf-8")


def test_the_command_line_tells_what_is_missing(experiment: Experiment, tmp_path: Path) -> None:
    from radvqa.cli.app import app

    file = tmp_path / "toy.yaml"
    values = experiment.model_dump(mode="json") | {"output": str(tmp_path)}
    values["recipe"] = {**values["recipe"], "output": str(tmp_path / "runs")}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    done = CliRunner().invoke(app, ["experiment", str(file), "--report", "--json"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["finished"], len(told["missing"])) == (0, 6)
    wrong = CliRunner().invoke(app, ["experiment", str(file), "--only", "shrt"])
    assert wrong.exit_code == 2
    assert "did you mean 'short'" in wrong.output


def test_unknown_cells_and_seeds_are_refused(experiment: Experiment) -> None:
    with pytest.raises(RecipeError, match="did you mean 'short'"):
        run_cells(experiment, only=["shrt"], progress=Progress(quiet=True))
    with pytest.raises(RecipeError, match="no such seed"):
        run_cells(experiment, seeds=[3], progress=Progress(quiet=True))


def test_a_process_of_its_own_tells_its_error(tmp_path: Path) -> None:
    said: list[str] = []
    assert in_own_process(["list", "metrics"], said.append) is None
    error = in_own_process(["run", str(tmp_path / "none.yaml")], said.append)
    assert error is not None
    assert error.startswith("recipe not found")
    assert any(line.startswith("error: recipe not found") for line in said)


def test_a_crash_is_told_by_its_last_lines() -> None:
    assert error_of(["a", "b"], -9).splitlines() == ["ended by signal 9", "a", "b"]
    assert error_of(["error: first", "noise", "error: second", "  fix: x"], 2) == "second\n  fix: x"
