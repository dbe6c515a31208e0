"""What a finished step vouches for, with a stand-in for the model."""

import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from radvqa import pipeline
from radvqa.errors import DataError, RunError
from radvqa.pipeline.explanation import Explanations
from radvqa.recipe import Recipe, parse_recipe
from radvqa.records import write_json
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, VqaSample

QUIET = Progress(quiet=True)


class Pictures:
    """Stands in for a store."""

    variant: ClassVar[dict[str, object]] = {"size": 224, "aspect": "squash"}

    def sha256(self, path: Path) -> str:
        return path.name


class Model:
    """Answers every question with the same word; ``stop_at`` is the condition at which the user presses Ctrl-C."""

    layout = "per_question"
    name, revision, digest, compute_dtype = "stand-in", None, "stand-in", "torch.float32"

    def __init__(self) -> None:
        self.word = "liver"
        self.stop_at = ""

    def predict(self, _vlm: Any, asked: Sequence[VqaSample], _store: Any, *, condition: str, **_: Any) -> Any:
        if condition == self.stop_at:
            raise KeyboardInterrupt
        yield [
            Prediction(
                sample_id=one.sample_id,
                group_id=one.group_id,
                image_id=one.image_id,
                question=one.question,
                references=one.answers,
                answer_type=one.answer_type,
                text=self.word,
                prompt_id="p",
                finished=True,
                token_ids=(5, 1),
                logprob=-1.0,
                tags=one.tags,
            )
            for one in asked
        ]

    def explain(self, run: RunFolder, predictions: Sequence[Prediction], _open: Any, **_: Any) -> Explanations:
        run.forget("explain")
        cases = [{"answer": one.text} for one in predictions[: run.recipe.explain.samples]]
        write_json(run.file("explain/index.json"), cases)
        return Explanations(folder=run.file("explain"))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(pipeline, "train", lambda folder, progress, processes=None: model)
    monkeypatch.setattr(pipeline, "pictures", lambda recipe, vlm, paths, progress: Pictures())
    monkeypatch.setattr(pipeline, "write_provenance", lambda folder, vlm, progress: None)
    monkeypatch.setattr(pipeline.answering, "predictions", model.predict)
    monkeypatch.setattr(pipeline, "explain_run", model.explain)
    return model


def recipe_for(tmp_path: Path, **changes: Any) -> Recipe:
    phantom = {"adapter": "phantom", "count": {"train": 2, "val": 2}, "size": 112, "root": str(tmp_path / "data")}
    values = {
        "name": "toy",
        "output": str(tmp_path / "runs"),
        "model": {"checkpoint": "tiny"},
        "datasets": {
            "phantom": {**phantom, "questions_per_image": 2},
            "unused": {"adapter": "slake", "root": "absent"},
        },
        "stages": [{"name": "align", "datasets": ["phantom"], "updates": 1}],
        "evaluate": {"dataset": "phantom"},
        "explain": {"samples": 1},
        **changes,
    }
    return parse_recipe(values, where="toy.yaml")


@pytest.fixture
def run(tmp_path: Path, model: Model) -> Iterator[RunFolder]:
    """A run that is explained."""
    run = pipeline.run(recipe_for(tmp_path), command="", until="explain", progress=QUIET)
    yield run
    run.unlock()


def explained(run: RunFolder) -> list[str]:
    return [case["answer"] for case in json.loads(run.file("explain/index.json").read_text(encoding="utf-8"))]


def test_the_same_answers_keep_their_maps(run: RunFolder) -> None:
    pipeline.evaluate(run, progress=QUIET)
    assert set(run.done_steps()) == {"samples", "evaluate", "explain"}
    assert explained(run) == ["liver"]


def test_other_answers_take_the_maps_away(run: RunFolder, model: Model) -> None:
    model.word = "spleen"
    pipeline.evaluate(run, progress=QUIET)
    assert set(run.done_steps()) == {"samples", "evaluate"}
    assert not run.file("explain/index.json").exists()
    pipeline.run(run.recipe, command="", until="explain", progress=QUIET)
    assert explained(run) == ["spleen"]


def test_a_stopped_evaluation_is_done_again(run: RunFolder, model: Model) -> None:
    model.word, model.stop_at = "spleen", "shuffled"
    with pytest.raises(KeyboardInterrupt):
        pipeline.evaluate(run, progress=QUIET)
    assert "evaluate" not in run.done_steps()
    model.stop_at = ""
    pipeline.run(run.recipe, command="", until="explain", progress=QUIET)
    assert explained(run) == ["spleen"]
    assert {one.text for one in pipeline.read_predictions(run, "blank")} == {"spleen"}


def test_nothing_to_explain_is_no_error(tmp_path: Path, model: Model) -> None:
    run = pipeline.run(recipe_for(tmp_path, explain={"samples": 0}), command="", until="explain", progress=QUIET)
    run.unlock()
    assert explained(run) == []


def test_changed_tables_are_refused(run: RunFolder) -> None:
    assert set(run.inputs_of("samples")) == {"phantom/samples.jsonl", "phantom/regions.jsonl"}
    (table,) = Path(run.recipe.datasets["phantom"].options["root"]).glob("*/regions.jsonl")
    original = table.read_bytes()
    table.write_bytes(original + b"\n")
    with pytest.raises(RunError, match="a data file has changed") as caught:
        pipeline.read_samples(run, progress=QUIET)
    assert caught.value.where == "phantom/regions.jsonl"
    table.write_bytes(original)
    pipeline.read_samples(run, progress=QUIET)


def test_samples_whose_sources_are_not_known_are_read_again(run: RunFolder) -> None:
    run.mark_done("samples", {})
    run.file("samples/phantom-val.jsonl").write_text("", encoding="utf-8")
    samples = pipeline.read_samples(run, progress=QUIET)
    assert len(samples["phantom", "val"]) == 4
    assert run.inputs_of("samples") != {}


def test_a_split_that_is_trained_on_is_not_evaluated(tmp_path: Path, model: Model) -> None:
    recipe = recipe_for(tmp_path, evaluate={"dataset": "phantom", "split": "train"})
    with pytest.raises(DataError, match="the evaluated split is trained on"):
        pipeline.run(recipe, command="", until="evaluate", progress=QUIET)
    RunFolder(recipe.output / f"toy_{recipe.digest()}", recipe).unlock()


def test_another_version_does_not_go_on_with_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(recipe_for(tmp_path), command="")
    monkeypatch.setattr(pipeline.training, "open_vlm", lambda model, say: None)
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == "radvqa" else installed(name))
    with pytest.raises(RunError, match="another version of radvqa began this training") as caught:
        pipeline.train(run, progress=QUIET)
    run.unlock()
    stored = run.path / "recipe.yaml"
    assert f"radvqa run {stored}" in str(caught.value.fix)
    assert yaml.safe_load(stored.read_text(encoding="utf-8")) == run.recipe.resolved()


def test_a_run_with_stages_left_is_not_trained(tmp_path: Path) -> None:
    run = RunFolder.create(recipe_for(tmp_path), command="")
    with pytest.raises(RunError, match="not trained yet") as caught:
        pipeline.require_trained(run)
    assert caught.value.got == "stage align is not finished"
    run.mark_done("train/align", {})
    pipeline.require_trained(run)
    run.unlock()
