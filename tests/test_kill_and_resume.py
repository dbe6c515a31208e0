"""A training process that is killed again and again ends with the same bytes as one that was left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from radvqa.recipe import load_recipe
from radvqa.run.progress import Progress

RECIPE: dict[str, Any] = {
    "name": "killed",
    "seed": 3,
    "model": {"checkpoint": "tiny", "dtype": "float32", "threads": 1},
    "datasets": {
        "phantom": {
            "adapter": "phantom", "count": {"train": 6, "val": 2, "test": 0}, "size": 112, "questions_per_image": 3,
        }
    },
    "stages": [
        {"name": "align", "datasets": ["phantom"], "updates": 60, "batch_size": 2, "checkpoint_every": 7},
        {
            "name": "adapt", "datasets": ["phantom"], "updates": 60, "batch_size": 4, "micro_batch_size": 2,
            "lora": {"rank": 2, "dropout": 0.3}, "augment": True, "checkpoint_every": 7, "watch": {"every": 25},
        },
    ],
    "evaluate": {"dataset": "phantom", "max_new_tokens": 4},
    "explain": {"samples": 4},
}  # fmt: skip


def start(recipe: Path, output: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "radvqa", "run", str(recipe), "--set", f"output={output}", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def line_count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_when(process: "subprocess.Popen[bytes]", happened: Callable[[], bool]) -> bool:
    """Kill the process once something has happened; False when it ended before."""
    while process.poll() is None:
        if happened():
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module", params=[("per_question", "float32"), ("shared_image", "bfloat16")])
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In PaliGemma's own layout, and as the recipes of the embedded base have it."""
    layout, dtype = request.param
    path = tmp_path_factory.mktemp("recipe") / "killed.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "model": {**RECIPE["model"], "layout": layout, "dtype": dtype}}))
    return path


def run_folder(recipe: Path, output: Path) -> Path:
    return output / f"killed_{load_recipe(recipe).digest()}"


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed; in this process, which saves a start."""
    from radvqa import pipeline

    output = tmp_path_factory.mktemp("whole")
    folder = pipeline.run(load_recipe(recipe, [f"output={output}"]), command="radvqa", progress=Progress(quiet=True))
    folder.unlock()
    return folder.path


def timeless(path: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines(path)]


def test_killed_runs_end_as_if_never_killed(recipe: Path, whole: Path, tmp_path: Path) -> None:
    folder = run_folder(recipe, tmp_path)
    chance = random.Random(5)

    def at_line(stage: str, count: int) -> Callable[[], bool]:
        return lambda: line_count(folder / "train" / stage / "metrics.jsonl") >= count

    moments = [
        at_line("align", chance.randrange(1, 20)),
        # As soon as a checkpoint is there, before anything is written behind it.
        (folder / "train" / "align" / "state" / "update-00000042.safetensors").is_file,
        at_line("adapt", chance.randrange(1, 7)),  # before the first checkpoint of the stage
        # While a checkpoint is being written, or just after.
        lambda: any((folder / "train" / "adapt" / "state").glob("*update-00000028*")),
        (folder / "predictions" / "val.jsonl").is_file,  # with the controls still to be answered
        lambda: any((folder / "explain").glob("*.png")),
    ]
    kills = sum(kill_when(start(recipe, tmp_path), moment) for moment in moments)
    assert kills >= 4
    process = start(recipe, tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()

    for stage in ("align", "adapt"):
        metrics = timeless(folder / "train" / stage / "metrics.jsonl")
        assert metrics == timeless(whole / "train" / stage / "metrics.jsonl")
        assert [line["update"] for line in metrics] == list(range(1, 61))
    assert timeless(folder / "train/adapt/watch.jsonl") == timeless(whole / "train/adapt/watch.jsonl")
    for name in ("train/align/projector.safetensors", "adapter/adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    told, expected = (json.loads((one / "train/adapt/stage.json").read_text()) for one in (folder, whole))
    assert {key: value for key, value in told.items() if "seconds" not in key} == {
        key: value for key, value in expected.items() if "seconds" not in key
    }
    written = [path for name in ("predictions", "explain") for path in (whole / name).rglob("*") if path.is_file()]
    results = [path.relative_to(whole) for path in written]
    assert len(results) > 5
    for result in (*results, Path("summary.json")):
        assert (folder / result).read_bytes() == (whole / result).read_bytes(), result
    assert len(json.loads((folder / "provenance.json").read_text())["earlier_starts"]) >= 3
    assert not list(folder.rglob("*.partial"))
    assert len((folder / "command.txt").read_text().splitlines()) == len(moments) + 1


def test_sigterm_ends_with_exit_code_zero_and_the_last_update_saved(recipe: Path, whole: Path, tmp_path: Path) -> None:
    """As machines that are taken back send it; twice in training, then once while answers are written."""
    folder = run_folder(recipe, tmp_path)
    metrics = folder / "train" / "adapt" / "metrics.jsonl"
    for happened in (
        lambda: line_count(metrics) >= 3,  # before the first regular checkpoint
        lambda: line_count(metrics) >= 31,
        (folder / "predictions" / "val.jsonl").is_file,
    ):
        process = start(recipe, tmp_path)
        while process.poll() is None and not happened():
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
        assert b"stopped as asked (SIGTERM); run the same command to go on" in errors
        state = sorted((folder / "train" / "adapt" / "state").glob("*.safetensors"))
        if state:
            lines_then = line_count(metrics)
            assert state[-1].name == f"update-{lines_then:08d}.safetensors"
    process = start(recipe, tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    for name in ("train/align/projector.safetensors", "adapter/adapter_model.safetensors", "summary.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert timeless(metrics) == timeless(whole / "train/adapt/metrics.jsonl")


@pytest.mark.slow
def test_twenty_kills_at_random_moments(recipe: Path, whole: Path, tmp_path: Path) -> None:
    """At any time from the start of the process on, whatever it does then."""
    folder = run_folder(recipe, tmp_path)
    chance = random.Random(11)
    kills = 0
    for _ in range(60):
        process = start(recipe, tmp_path)
        end = time.monotonic() + chance.uniform(2.0, 9.0)
        kills += kill_when(process, lambda end=end: time.monotonic() > end)
        if kills == 20:
            break
        if (folder / "report.html").is_file():
            # It got through: take the last stage away again and go on killing.
            for name in (".done", "train/adapt", "predictions", "explain", "adapter"):
                shutil.rmtree(folder / name, ignore_errors=True)
            (folder / "report.html").unlink()
    assert kills == 20
    process = start(recipe, tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    for stage in ("align", "adapt"):
        assert timeless(folder / "train" / stage / "metrics.jsonl") == timeless(
            whole / "train" / stage / "metrics.jsonl"
        )
    for name in ("train/align/projector.safetensors", "adapter/adapter_model.safetensors", "summary.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
