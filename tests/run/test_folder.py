import contextlib
import errno
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from radvqa.errors import RunError
from radvqa.recipe import Recipe, parse_recipe, parse_synth_recipe
from radvqa.run.folder import RunFolder, SynthFolder, list_runs, open_folder

HOLD = """
import sys, time
from pathlib import Path
from radvqa.run.folder import RunFolder
RunFolder.open(Path(sys.argv[1])).lock()
print("locked", flush=True)
time.sleep(60)
"""


def make_recipe(output: Path, **changes: object) -> Recipe:
    values = {
        "name": "toy",
        "output": str(output),
        "datasets": {"phantom": {"adapter": "phantom"}},
        "stages": [{"name": "align", "datasets": ["phantom"], "epochs": 1}],
        "evaluate": {"dataset": "phantom"},
        **changes,
    }
    return parse_recipe(values, where="toy.yaml")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return make_recipe(tmp_path / "runs")


@pytest.fixture
def run(recipe: Recipe) -> Iterator[RunFolder]:
    run = RunFolder.create(recipe, command="radvqa run toy.yaml")
    yield run
    run.unlock()


@pytest.fixture
def holder(run: RunFolder) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``run``."""
    run.unlock()
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_is_found_again_by_its_recipe(run: RunFolder, recipe: Recipe) -> None:
    assert run.path == recipe.output / f"toy_{recipe.digest()}"
    again = RunFolder.create(recipe, command="radvqa run toy.yaml\n--quiet")
    assert again.path == run.path
    lines = (run.path / "command.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["radvqa run toy.yaml", "radvqa run toy.yaml --quiet"]
    assert RunFolder.open(run.path).recipe == recipe


def test_a_changed_recipe_gets_another_folder(run: RunFolder, recipe: Recipe) -> None:
    other = RunFolder.create(make_recipe(recipe.output, seed=1), command="")
    other.unlock()
    assert other.path != run.path


def test_every_default_is_written_out(run: RunFolder) -> None:
    stored = yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))
    assert stored["stages"][0]["learning_rate"] == 1e-3
    assert stored["evaluate"]["max_new_tokens"] == 24


def test_an_edited_recipe_is_refused(run: RunFolder, recipe: Recipe) -> None:
    path = run.path / "recipe.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("seed: 0", "seed: 1"), encoding="utf-8")
    with pytest.raises(RunError, match="holds another recipe"):
        RunFolder.create(recipe, command="")


@pytest.mark.parametrize("text", ["a: [", "- 1", "nonsense: 1", "\udce9"])
def test_a_damaged_recipe_is_told(run: RunFolder, text: str) -> None:
    (run.path / "recipe.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match="recipe kept in the run folder cannot be read"):
        RunFolder.open(run.path)


@pytest.mark.parametrize("name", ["", "absent", "file.txt"])
def test_other_folders_are_no_runs(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder.open(tmp_path / name)


def test_a_foreign_folder_is_not_taken_over(recipe: Recipe) -> None:
    path = recipe.output / f"toy_{recipe.digest()}"
    path.mkdir(parents=True)
    (path / "thesis.txt").write_text("")
    with pytest.raises(RunError, match="holds something else") as caught:
        RunFolder.create(recipe, command="")
    assert caught.value.got == "thesis.txt"
    (path / "thesis.txt").unlink()
    RunFolder.create(recipe, command="").unlock()


def test_paths_stay_inside(run: RunFolder) -> None:
    assert run.file("predictions/val.jsonl") == run.path / "predictions" / "val.jsonl"
    for name in ("../x", "/x", "a/../../x", ""):
        with pytest.raises(ValueError, match="no path inside"):
            run.file(name)


def test_done_marks_follow_their_inputs(run: RunFolder) -> None:
    assert not run.is_done("train/align", {})
    run.mark_done("train/align", {"recipe": "a"})
    run.mark_done("train", {})
    again = RunFolder.open(run.path)
    assert again.is_done("train/align", {"recipe": "a"})
    assert not again.is_done("train/align", {"recipe": "b"})
    assert not again.is_done("train/align", {"recipe": "a", "data": "c"})
    assert again.is_done("train", {})
    assert set(again.done_steps()) == {"train/align", "train"}
    again.forget("train/align")
    again.forget("train/align")
    assert not run.is_done("train/align", {"recipe": "a"})


def test_the_inputs_of_a_step_are_kept(run: RunFolder) -> None:
    assert run.inputs_of("samples") == {}
    run.mark_done("samples", {"slake/train.json": "1f"})
    assert run.inputs_of("samples") == {"slake/train.json": "1f"}


def test_another_version_gets_another_folder_and_does_not_go_on_in_this_one(
    run: RunFolder, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.require_same_version()
    assert run.digest == recipe.digest()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    other = RunFolder.create(recipe, command="")
    other.unlock()
    assert other.path != run.path
    old = RunFolder.open(run.path)
    assert old.recipe == recipe
    assert run.path.name.endswith(old.digest)
    with pytest.raises(RunError, match="another version of radvqa began this training") as caught:
        old.require_same_version()
    assert caught.value.expected == "radvqa 99.0"


def test_a_stored_run_opens_wherever_its_checkpoint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "mine"
    checkpoint.mkdir()
    run = RunFolder.create(make_recipe(tmp_path / "runs", model={"checkpoint": str(checkpoint)}), command="")
    run.unlock()
    checkpoint.rmdir()
    monkeypatch.chdir("/")
    assert RunFolder.open(run.path).recipe.model.checkpoint == str(checkpoint)


@pytest.mark.parametrize("text", ["{half", "[]", "{}", '"text"', '{"step": "a", "inputs": 3, "time": ""}'])
def test_a_damaged_mark_is_told(run: RunFolder, text: str) -> None:
    run.mark_done("train", {})
    (run.path / ".done" / "train.json").write_text(text)
    with pytest.raises(RunError, match="done mark is damaged"):
        run.is_done("train", {})


def test_a_second_process_is_kept_out_and_told_who_is_in(
    run: RunFolder, recipe: Recipe, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(RunError, match="another process works in this run folder") as caught:
        RunFolder.create(recipe, command="")
    assert caught.value.got == f"process {holder.pid}"
    assert RunFolder.open(run.path).recipe == recipe  # reading is free


def test_a_killed_process_leaves_no_lock(run: RunFolder, holder: subprocess.Popen[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    run.lock()


def test_half_written_files_of_a_killed_process_are_removed(run: RunFolder, recipe: Recipe) -> None:
    run.unlock()
    (run.path / "train" / ".state.partial").mkdir(parents=True)
    (run.path / "train" / ".state.partial" / "a").write_text("")
    (run.path / "train" / ".metrics.jsonl.partial").write_text("")
    (run.path / "train" / "kept.partial").write_text("")
    RunFolder.create(recipe, command="")
    assert [entry.name for entry in (run.path / "train").iterdir()] == ["kept.partial"]


def test_a_file_in_place_of_the_output_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="cannot write to the output folder"):
        RunFolder.create(make_recipe(tmp_path / "runs"), command="")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_folder_that_nobody_may_write_is_told() -> None:
    with pytest.raises(RunError, match="cannot write to the output folder"):
        RunFolder.create(make_recipe(Path("/proc/radvqa-runs")), command="")


def test_a_full_disk_is_told_and_the_next_start_goes_on(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(RunError, match="cannot write to the output folder"):
            RunFolder.create(recipe, command="")
    run = RunFolder.create(recipe, command="")
    run.unlock()
    assert RunFolder.open(run.path).recipe == recipe


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with no byte left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    arguments = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run([mount, *arguments], capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a small file system here")
    (disk / "runs").mkdir()
    with (disk / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    yield disk / "runs"
    subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk_is_told(full_disk: Path) -> None:
    with pytest.raises(RunError, match="cannot write to the output folder") as caught:
        RunFolder.create(make_recipe(full_disk), command="")
    assert caught.value.got == "No space left on device"


def test_runs_are_listed_with_damaged_ones_named(run: RunFolder, recipe: Recipe) -> None:
    run.mark_done("train", {})
    damaged = RunFolder.create(make_recipe(recipe.output, seed=1), command="")
    damaged.unlock()
    (damaged.path / "recipe.yaml").write_text("a: [")
    (recipe.output / "other").mkdir()
    good, bad = list_runs(recipe.output)
    assert (good.path, good.name, good.done, good.problem) == (run.path, "toy", ("train",), None)
    assert good.started.endswith("Z")
    assert bad.path == damaged.path
    assert "cannot be read" in str(bad.problem)
    with pytest.raises(RunError, match="no folder of runs here"):
        list_runs(recipe.output / "absent")


def test_marks_are_json(run: RunFolder) -> None:
    run.mark_done("evaluate/val", {"weights": "1f"})
    mark = json.loads((run.path / ".done" / "evaluate" / "val.json").read_text(encoding="utf-8"))
    assert mark["step"] == "evaluate/val"
    assert mark["inputs"] == {"weights": "1f"}


def test_a_synthesis_is_listed_and_not_taken_for_a_run(run: RunFolder, recipe: Recipe) -> None:
    values = {"name": "asks", "output": str(recipe.output), "captions": {"adapter": "phantom"}}
    synthesis = SynthFolder.create(parse_synth_recipe(values, where="asks.yaml"), command="radvqa synth asks.yaml")
    synthesis.unlock()
    assert {entry.name: entry.problem for entry in list_runs(recipe.output)} == {"toy": None, "asks": None}
    assert isinstance(open_folder(synthesis.path), SynthFolder)
    assert isinstance(open_folder(run.path), RunFolder)
    with pytest.raises(RunError, match="belongs to a synthesis"):
        RunFolder.open(synthesis.path)
    with pytest.raises(RunError, match="belongs to a run"):
        SynthFolder.open(run.path)
