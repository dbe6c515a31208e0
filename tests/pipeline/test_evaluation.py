"""Evaluations of runs and of other models: what is written, what is resumed, and what is never mixed."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from radvqa.errors import ModelError, RadvqaError, RecipeError, RunError
from radvqa.evaluate.predict import Condition
from radvqa.models.vlm import Vlm
from radvqa.pipeline import answering, elsewhere, evaluation, open_model
from radvqa.pipeline.elsewhere import Asked, evaluate_model
from radvqa.pipeline.evaluation import prediction_file
from radvqa.pipeline.leaks import leaks
from radvqa.pipeline.subject import Opened, setup_of_model
from radvqa.publish.repository import write_learned
from radvqa.records import read_records, write_json
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, VqaSample

QUIET = Progress(quiet=True)
PHANTOM = {"count": {"train": 4, "val": 3}, "size": 112, "questions_per_image": 2}

Evaluate = Callable[..., Path]


def opened(given: str = "tiny", **changes: Any) -> Opened:
    values = {
        "revision": None, "base": None, "layout": None, "dtype": "float32", "image_size": 224, "threads": None,
        "say": lambda _: None,
    }  # fmt: skip
    return open_model(given, **values | changes)


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Evaluate a model on six phantom questions; without the page and all protocols, which take seconds."""

    def run(
        model: Opened | None = None,
        *,
        controls: tuple[Condition, ...] = ("blank", "shuffled"),
        probes: tuple[str, ...] = (),
        seed: int = 0,
        whole: bool = False,
    ) -> Path:
        if not whole:
            monkeypatch.setattr(elsewhere, "write_evaluation", lambda folder: folder)
            monkeypatch.setattr(evaluation, "score_predictions", lambda found, **_: {"counts": len(found)})
        asked = Asked(
            dataset="phantom",
            options={**PHANTOM, "root": str(tmp_path / "phantoms")},
            split="val",
            limit=None,
            controls=controls,
            probes=probes,
        )
        setup = setup_of_model(
            dataset="phantom", split="val", limit=None, controls=controls, probes=probes, max_new_tokens=4,
            batch_size=2, seed=seed,
        )  # fmt: skip
        return evaluate_model(
            model or opened(), asked, setup=setup, to=tmp_path / "evaluation", command="typed", progress=QUIET
        )

    return run


def load(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return found


def test_everything_a_reader_needs_is_written(evaluate: Evaluate) -> None:
    folder = evaluate(controls=("blank", "shuffled", "mirrored"), probes=("mirror",), whole=True)
    names = ("model", "blank", "shuffled", "mirrored", "majority", "question_only", "always_yes", "always_no")
    asked = [one.sample_id for one in read_records(folder / "samples/phantom-val.jsonl", VqaSample)]
    assert len(asked) == 6
    for name in names:
        found = read_records(prediction_file(folder, "val", name), Prediction)
        assert [one.sample_id for one in found] == asked
    summary = load(folder, "summary.json")
    assert tuple(summary["conditions"]) == names
    assert set(summary["reliance"]) == {"blank", "shuffled"}
    assert load(folder, "scores.json")["counts"]["samples"] == 6
    about = load(folder, "evaluation.json")
    assert (about["dataset"], about["split"], about["questions"], about["command"]) == ("phantom", "val", 6, "typed")
    assert about["weights"].startswith("sha256 ")
    assert about["floors_from"] == "phantom, train"
    assert load(folder, "leaks.json")["compared_with"]["phantom, train"]["samples"] == 8
    assert list(load(folder, "probes.json")) == ["mirror"]
    assert (folder / "evaluation.html").stat().st_size > 5_000
    assert not list(folder.rglob("*.unfinished"))


class KilledError(Exception):
    pass


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Condition]]:
    """Stop after so many batches of all conditions together, and tell which conditions were asked."""
    real = answering.predictions

    def arm(batches: int) -> list[Condition]:
        asked: list[Condition] = []

        def some(*given: Any, condition: Condition, **settings: Any) -> Iterator[Sequence[Prediction]]:
            for batch in real(*given, condition=condition, **settings):
                if len(asked) == batches:
                    raise KilledError
                asked.append(condition)
                yield batch

        monkeypatch.setattr(answering, "predictions", some)
        return asked

    return arm


def answers(folder: Path, name: str) -> list[str]:
    return [repr(one) for one in read_records(prediction_file(folder, "val", name), Prediction)]


def test_a_killed_evaluation_goes_on(evaluate: Evaluate, kill_after: Callable[[int], list[Condition]]) -> None:
    whole = {name: answers(evaluate(), name) for name in ("model", "blank", "shuffled")}
    first = kill_after(4)  # three batches for each condition: one of the second is done
    with pytest.raises(KilledError):
        evaluate()
    assert first == ["model"] * 3 + ["blank"]
    rest = kill_after(99)
    folder = evaluate()
    assert rest == ["blank"] * 2 + ["shuffled"] * 3
    assert {name: answers(folder, name) for name in whole} == whole


def test_answers_of_other_weights_are_never_used(
    evaluate: Evaluate, kill_after: Callable[[int], list[Condition]], tmp_path: Path
) -> None:
    kill_after(2)
    with pytest.raises(KilledError):
        evaluate()
    assert not (tmp_path / "evaluation/evaluation.json").exists()
    other = opened()
    other.vlm.projector.linear.weight.data.mul_(-1)
    asked = kill_after(99)
    evaluate(Opened(vlm=other.vlm, name="other", weights="others", aspect="squash", ancestry={}))
    assert asked.count("model") == 3


def test_other_settings_start_anew(evaluate: Evaluate, kill_after: Callable[[int], list[Condition]]) -> None:
    kill_after(2)
    with pytest.raises(KilledError):
        evaluate()
    asked = kill_after(99)
    evaluate(seed=1)
    assert asked.count("model") == 3


def test_a_folder_of_another_model_is_refused(evaluate: Evaluate) -> None:
    evaluate(controls=())
    model = opened()
    with pytest.raises(RunError, match="an evaluation of something else"):
        evaluate(Opened(vlm=model.vlm, name="other", weights="others", aspect="squash", ancestry={}), controls=())


def test_an_unknown_probe_is_refused_before_anything_is_asked(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no probe is called 'mirrors'"):
        evaluate(probes=("mirrors",))
    assert not list(tmp_path.rglob("*.unfinished"))


# --- models -------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path, per_question: Vlm) -> Path:
    """Adapters that turn the tiny checkpoint's answers round, as a run publishes them."""
    from radvqa.models.lora import attach_lora

    digest = per_question.digest
    attach_lora(
        per_question, rank=2, alpha=4.0, dropout=0.0, targets="attention", parts=("language_model",),
        base_name="tiny", revision=None, seed=0,
    )  # fmt: skip
    for name, parameter in per_question.network.named_parameters():
        if ".lora_B." in name:
            parameter.data.fill_(0.5)
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_learned(per_question, folder)
    manifest = {"base": {"checkpoint": "tiny", "revision": None, "weights": digest}, "layout": "per_question"}
    write_json(folder / "training_manifest.json", manifest)
    return folder


def test_published_adapters_answer_as_the_model_that_wrote_them(
    published: Path, per_question: Vlm, samples: Sequence[VqaSample], store: Any
) -> None:
    from radvqa.evaluate.predict import predict

    settings: dict[str, Any] = {
        "condition": "model", "max_new_tokens": 5, "batch_size": 4, "seed": 0,
    }  # fmt: skip
    theirs = predict(opened(str(published)).vlm, samples[:6], store, **settings)
    assert [one.token_ids for one in theirs] == [
        one.token_ids for one in predict(per_question, samples[:6], store, **settings)
    ]
    plain = predict(opened().vlm, samples[:6], store, **settings)
    assert [one.logprob for one in theirs] != pytest.approx([one.logprob for one in plain], abs=1e-3)
    assert opened(str(published)).weights != opened().weights


def test_adapters_of_another_base_are_refused(published: Path) -> None:
    path = published / "training_manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["base"]["weights"] = "sha256 0"
    write_json(path, manifest)
    with pytest.raises(ModelError, match="belong to another base"):
        opened(str(published))


def test_a_hub_name_needs_its_revision() -> None:
    with pytest.raises((RadvqaError, ValueError), match="needs revision"):
        opened("owner/name")


# --- leaks --------------------------------------------------------------------------------------------------------


def test_leaks_are_counted(samples: Sequence[VqaSample]) -> None:
    asked, trained = samples[:6], samples[3:9]
    found = leaks(asked, {"others": trained}, ancestry={"base": None}, progress=QUIET)["compared_with"]["others"]
    assert found["same_rows"] == 3
    assert (found["shared_groups"], found["shared_pictures"], found["questions_on_them"]) == (1, 1, 3)
    assert found["share_of_questions_seen"] >= 0.5
    apart = leaks(samples[:3], {"others": samples[6:9]}, ancestry={}, progress=QUIET)["compared_with"]["others"]
    assert (apart["same_rows"], apart["shared_groups"], apart["shared_pictures"]) == (0, 0, 0)
