import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from safetensors import SafetensorError
from test_check import slake
from typer.testing import CliRunner, Result

from radvqa.cli.app import app
from radvqa.cli.console import NOTICE, command_line
from radvqa.errors import RunError, TrainError
from radvqa.evaluate.metrics import METRICS
from radvqa.recipe import load_recipe
from radvqa.run.folder import RunFolder

HEAVY = ("torch", "transformers", "scipy", "matplotlib", "skimage", "peft", "onnx")
SUMMARY = {
    "conditions": {
        name: {"overall": {"metrics": {"exact_match": {"mean": mean, "low": 0.25, "high": None}}}}
        for name, mean in (("model", 0.5), ("blank", None))
    }
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with recipes/toy.yaml about a sound SLAKE folder of three questions."""
    tables = {
        "train.json": [slake.row(1), slake.row(2, img_id=2)],
        "validate.json": [slake.row(3, img_id=3)],
    }
    slake.write_folder(tmp_path / "Slake1.0", tables, images=[1, 2, 3])
    values = {
        "name": "toy",
        "model": {"checkpoint": "tiny"},
        "datasets": {"slake": {"adapter": "slake", "root": "Slake1.0"}},
        "stages": [{"name": "align", "datasets": ["slake"], "epochs": 1}],
        "evaluate": {"dataset": "slake"},
    }
    (tmp_path / "recipes").mkdir()
    text = "\n# A toy recipe.\n# More about it.\n" + yaml.safe_dump(values)
    (tmp_path / "recipes" / "toy.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Iterator[RunFolder]:
    """An evaluated run of the toy recipe."""
    run = RunFolder.create(load_recipe(folder / "recipes" / "toy.yaml"), command="radvqa run recipes/toy.yaml")
    run.mark_done("evaluate", {})
    run.file("summary.json").write_text(json.dumps(SUMMARY))
    run.file("report.html").write_text("")
    run.unlock()
    yield run
    run.unlock()


class Pipeline:
    """Stands in for ``radvqa.pipeline`` and notes the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.error: BaseException | None = None
        self.untrained = False

    def run(self, recipe: Any, *, command: str, until: str, progress: Any) -> RunFolder:
        run = RunFolder.create(recipe, command=command)
        run.unlock()
        self._note("run", until, progress)
        return run

    def train_again(self, run: RunFolder, *, command: str, progress: Any) -> bool:
        run.note_command(command)
        self._note("train", run.path.name, progress)
        return True

    def require_trained(self, run: RunFolder) -> None:
        if self.untrained:
            raise RunError("this run is not trained yet")

    def evaluate(self, run: RunFolder, *, probes: Any, command: str, progress: Any) -> None:
        assert command.startswith("radvqa")
        self._note("evaluate", run.path.name, progress)

    def explain(self, run: RunFolder, *, sample_ids: Any, progress: Any, **_: Any) -> Any:
        self._note("explain", list(sample_ids), progress)
        return SimpleNamespace(folder=run.file("explain"), made=1, kept=2, right=2, wrong=1, empty=())

    def report(self, run: RunFolder, *, progress: Any) -> Path:
        self._note("report", run.path.name, progress)
        return run.file("report.html")

    def _note(self, name: str, detail: Any, progress: Any) -> None:
        self.calls.append((name, detail))
        progress.say(f"{name} goes on")
        if self.error is not None:
            raise self.error


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    import radvqa

    double = Pipeline()
    monkeypatch.setitem(sys.modules, "radvqa.pipeline", double)
    monkeypatch.setattr(radvqa, "pipeline", double, raising=False)
    return double


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def failed(result: Result) -> str:
    """The message of a call that ended as it must when the user has to mend something."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert sum(line.startswith("error: ") for line in result.stderr.splitlines()) == 1
    return result.stderr


def own_process(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "radvqa", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


# Help and light imports


def test_help_is_fast() -> None:
    def seconds() -> float:
        """Of the processor, since a busy machine is no fault of the program."""
        began = os.times()
        assert NOTICE.split(",")[0] in " ".join(own_process("--help").stdout.split())
        ended = os.times()
        return ended.children_user - began.children_user + ended.children_system - began.children_system

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["check", "recipes/toy.yaml"],
        ["list", "datasets"],
        ["list", "recipes"],
        ["list", "runs"],
        ["list", "models"],
        ["list", "metrics"],
        ["show", "RUN"],
        ["run", "recipes/toy.yaml", "--set", "sead=1"],
    ],
    ids=" ".join,
)
def test_light_verbs_load_nothing_heavy(run: RunFolder, folder: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom radvqa.cli.app import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    given = [str(run.path) if argument == "RUN" else argument for argument in arguments]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=folder, check=False)
    # Every adapter is imported to be listed, and that of the phantoms draws with scipy.
    loaded = ["scipy"] if "datasets" in given else []
    assert done.stdout.splitlines()[-1] == f"HEAVY {loaded}", done.stderr
    assert done.returncode == (2 if "sead=1" in given else 0), done.stderr


def test_unknown_options_and_verbs_end_with_2(folder: Path) -> None:
    for arguments in (["run", "--bogus", "x"], ["bogus"], ["list", "bogus"], ["run", "x", "--until", "bogus"], ["run"]):
        result = call(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


# Bad input


def edit(folder: Path, **changes: Any) -> None:
    """Write one changed row as the validation table."""
    slake.write_table(folder / "Slake1.0", "validate.json", [slake.row(3, **{"img_id": 3, **changes})])


def drop_key(folder: Path) -> None:
    row = slake.row(3, img_id=3)
    del row["question"]
    slake.write_table(folder / "Slake1.0", "validate.json", [row])


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (drop_key, ["there is no 'question'", "validate.json, row 1"]),
        (lambda folder: edit(folder, answer="  "), ["answer is empty", "validate.json, row 1"]),
        (
            lambda folder: edit(folder, img_name="../../secret/source.jpg"),
            ["leaves the data folder", "validate.json, row 1", "../../secret"],
        ),
        (lambda folder: edit(folder, img_id=77), ["has no usable question", "1 missing_image"]),
        (lambda folder: (folder / "Slake1.0").rename("elsewhere"), ["SLAKE is not at this place", "no such folder"]),
    ],
    ids=["missing key", "empty answer", "leaves the folder", "missing image", "missing folder"],
)
def test_bad_data_is_one_clear_message(folder: Path, spoil: Callable[[Path], object], parts: list[str]) -> None:
    spoil(folder)
    message = failed(call("check", "recipes/toy.yaml"))
    for part in parts:
        assert part in message


def test_an_empty_data_folder_is_told(folder: Path) -> None:
    (folder / "empty").mkdir()
    message = failed(call("check", "recipes/toy.yaml", "--set", "datasets.slake.root=empty"))
    assert "an empty folder" in message
    assert "what to do: " in message


def test_an_unknown_recipe_key_names_the_right_one(folder: Path, pipeline: Pipeline) -> None:
    for verb in ("run", "check", "train"):
        message = failed(call(verb, "recipes/toy.yaml", "--set", "stages.0.learning_rte=1"))
        assert "stages.0.learning_rte: unknown key (did you mean 'learning_rate'?)" in message
    assert pipeline.calls == []


def test_a_missing_recipe_names_a_near_one(folder: Path) -> None:
    assert "did you mean 'toy.yaml'?" in failed(call("run", "recipes/toyy.yaml"))


def test_a_file_in_place_of_the_output_folder(folder: Path, pipeline: Pipeline) -> None:
    (folder / "runs").write_text("")
    for verb in ("run", "check"):
        message = failed(call(verb, "recipes/toy.yaml"))
        assert "cannot write to the output folder" in message
        assert "--set output=DIR" in message


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_an_output_folder_that_cannot_be_made(folder: Path, pipeline: Pipeline) -> None:
    for verb in ("run", "check"):
        assert "cannot write to the output folder" in failed(
            call(verb, "recipes/toy.yaml", "--set", "output=/proc/runs")
        )


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write to the output folder"),
        (OSError(errno.EROFS, "Read-only file system", "runs/x"), "cannot write to the output folder"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), "no right to read or write a file"),
        (TrainError("the loss is NaN", where="update 3"), "the loss is NaN"),
        (
            SafetensorError("Error: I/O error: No space left on device (os error 28)"),
            "cannot write to the output folder",
        ),
        (Exception("Read-only file system (os error 30)"), "cannot write to the output folder"),
    ],
)
def test_errors_in_the_middle_of_a_run(folder: Path, pipeline: Pipeline, error: Exception, what: str) -> None:
    pipeline.error = error
    result = call("run", "recipes/toy.yaml", "--quiet")
    assert failed(result).startswith(f"error: {what}\n  where: ")
    assert result.stdout == ""


def test_a_bug_keeps_its_traceback(folder: Path, pipeline: Pipeline) -> None:
    for bug in (
        ZeroDivisionError("x"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        SafetensorError("Error while deserializing header: header too large"),
        SafetensorError("No such file or directory (os error 2)"),
    ):
        pipeline.error = bug
        result = call("run", "recipes/toy.yaml")
        assert result.exit_code == 1
        assert result.exception is bug


def test_an_interrupt_says_how_to_go_on(folder: Path, pipeline: Pipeline) -> None:
    pipeline.error = KeyboardInterrupt()
    result = call("run", "recipes/toy.yaml")
    assert result.exit_code == 130
    assert result.stderr.endswith("stopped; run the same command to go on\n")


def test_a_folder_in_use_is_told(run: RunFolder, pipeline: Pipeline) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom radvqa.run.folder import RunFolder\n"
        "RunFolder.open(Path(sys.argv[1])).lock()\nprint('locked', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        try:
            for arguments in (["run", "recipes/toy.yaml"], ["evaluate", str(run.path)]):
                assert f"process {holder.pid}" in failed(call(*arguments))
            assert call("show", str(run.path)).exit_code == 0
        finally:
            holder.kill()


@pytest.mark.parametrize("verb", ["evaluate", "explain", "show"])
def test_verbs_about_runs_need_a_run(folder: Path, pipeline: Pipeline, verb: str) -> None:
    assert "not a run folder" in failed(call(verb, "recipes"))
    assert "radvqa list runs" in failed(call(verb, "absent"))


# What verbs do


def test_run_prints_where_things_are(run: RunFolder, pipeline: Pipeline) -> None:
    result = call("run", "recipes/toy.yaml", "--until", "explain")
    assert result.exit_code == 0
    assert pipeline.calls == [("run", "explain")]
    assert f"run: {run.path}" in result.stdout
    assert "report.html" in result.stdout
    assert re.search(r"model +exact_match +0\.500 \(0\.250 to undefined\)", result.stdout)
    assert NOTICE in result.stdout
    assert "run goes on" not in result.stdout
    assert "run goes on" in result.stderr


def test_run_prints_json_and_nothing_else_on_stdout(run: RunFolder, pipeline: Pipeline) -> None:
    result = call("run", "recipes/toy.yaml", "--json")
    told = json.loads(result.stdout)
    assert told["run"] == str(run.path)
    assert told["report"] == str(run.file("report.html"))
    assert told["summary"]["model"]["exact_match"] == {"mean": 0.5, "low": 0.25, "high": None}
    assert pipeline.calls == [("run", "report")]


def test_train_takes_a_recipe_or_a_run(run: RunFolder, pipeline: Pipeline) -> None:
    assert call("train", "recipes/toy.yaml").exit_code == 0
    assert call("train", str(run.path)).exit_code == 0
    assert pipeline.calls == [("run", "train"), ("train", run.path.name)]
    assert "cannot be changed" in failed(call("train", str(run.path), "--set", "seed=1"))


def test_evaluate_and_explain_renew_the_report(run: RunFolder, pipeline: Pipeline) -> None:
    assert call("evaluate", str(run.path)).exit_code == 0
    assert call("explain", str(run.path), "--sample", "slake-3", "--sample", "slake-4").exit_code == 0
    name = run.path.name
    assert pipeline.calls == [
        ("evaluate", name),
        ("report", name),
        ("explain", ["slake-3", "slake-4"]),
        ("report", name),
    ]
    assert len(run.commands()) == 3


@pytest.mark.parametrize("verb", ["evaluate", "explain"])
def test_an_untrained_run_is_not_trained_by_the_way(run: RunFolder, pipeline: Pipeline, verb: str) -> None:
    pipeline.untrained = True
    assert "not trained yet" in failed(call(verb, str(run.path)))
    assert pipeline.calls == []


def test_check_tells_facts_and_problems_as_json(folder: Path) -> None:
    told = json.loads(call("check", "recipes/toy.yaml", "--json").stdout)
    assert told["ok"] is True
    assert told["problems"] == []
    result = call("check", "recipes/toy.yaml", "--json", "--set", "datasets.slake.root=absent")
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert "SLAKE is not at this place" in told["problems"][0]


def test_several_problems_are_several_messages(folder: Path) -> None:
    (folder / "runs").write_text("")
    result = call("check", "recipes/toy.yaml", "--set", "datasets.slake.root=absent")
    assert result.exit_code == 2
    starts = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert starts == ["error: SLAKE is not at this place", "error: cannot write to the output folder"]


def test_lists(run: RunFolder) -> None:
    def rows(what: str) -> list[dict[str, str]]:
        return json.loads(call("list", what, "--json").stdout)

    assert rows("recipes") == [{"recipe": "recipes/toy.yaml", "about": "A toy recipe."}]
    assert [(row["run"], row["done"]) for row in rows("runs")] == [(str(run.path), "evaluate")]
    by_name = {row["adapter"]: row for row in rows("datasets")}
    assert by_name["slake"]["licence"].startswith("CC BY 4.0")
    assert by_name["slake"]["options"] == "root: str, language: str = 'en'"
    assert "seed: int = 0" in by_name["phantom"]["options"]
    assert [row["metric"] for row in rows("metrics")] == list(METRICS)
    assert rows("models")[0]["checkpoint"] == "embedded"
    for what in ("recipes", "runs", "datasets", "metrics", "models"):
        assert call("list", what).exit_code == 0


def test_lists_of_nothing(folder: Path) -> None:
    assert "no folder of runs here" in failed(call("list", "runs"))
    assert "no folder of recipes here" in failed(call("list", "recipes", "--folder", "absent"))
    (folder / "runs").mkdir()
    result = call("list", "runs")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "none\n")


def test_listed_data_sets_agree_with_their_classes() -> None:
    from radvqa.data import DATASETS, adapter_class

    rows = json.loads(call("list", "datasets", "--json").stdout)
    adapters = {name: adapter_class(name, where="here") for name in DATASETS}
    assert {row["adapter"]: (row["licence"], row["homepage"]) for row in rows} == {
        name: (adapter.licence, adapter.homepage or "none") for name, adapter in adapters.items()
    }


def test_show(run: RunFolder) -> None:
    text = call("show", str(run.path)).stdout
    for part in ("radvqa run recipes/toy.yaml", "evaluate", "report.html", "0.500", "learning_rate: 0.001", NOTICE):
        assert part in text
    told = json.loads(call("show", str(run.path), "--json").stdout)
    assert told["digest"] == run.recipe.digest()
    assert told["done"] == ["evaluate"]
    assert told["recipe"]["stages"][0]["warmup"] == 0.05


def test_a_damaged_summary_is_told(run: RunFolder) -> None:
    for text in ("{half", "[]", "{}", '{"conditions": {"model": 3}}'):
        run.file("summary.json").write_text(text)
        assert "summary of the run is damaged" in failed(call("show", str(run.path)))


def test_version() -> None:
    import radvqa

    assert call("--version").stdout == f"radvqa {radvqa.__version__}\n"


def test_the_command_is_kept_as_typed(run: RunFolder, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/radvqa", "run", "recipes/toy.yaml", "--set", "name=a b"])
    assert command_line() == "radvqa run recipes/toy.yaml --set 'name=a b'"


def test_the_environment_changes_nothing(folder: Path) -> None:
    plain = own_process("check", "recipes/toy.yaml", "--json", cwd=folder)
    names = {"RADVQA_SEED": "3", "RADVQA_RUN_QUIET": "1", "RADVQA_CHECK_CHANGES": "seed=x", "RADVQA_OUTPUT": "/"}
    other = own_process("check", "recipes/toy.yaml", "--json", cwd=folder, **names)
    drop_free = re.compile(r", [0-9.]+ GiB free")
    assert plain.returncode == other.returncode == 0
    assert drop_free.sub("", plain.stdout) == drop_free.sub("", other.stdout)
