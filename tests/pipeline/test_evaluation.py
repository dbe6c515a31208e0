"""Evaluations of runs and of other models: what is written, what is resumed, and what is never mixed."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError, RadvqaError, RecipeError, RunError
from radvqa.evaluate.predict import Condition
from radvqa.experiment.runs import CellRun
from radvqa.models.vlm import Vlm
from radvqa.pipeline import answering, elsewhere, evaluation, open_model
from radvqa.pipeline import leaks as leaks_module
from radvqa.pipeline.elsewhere import Asked, evaluate_model
from radvqa.pipeline.evaluation import Trained, prediction_file
from radvqa.pipeline.leaks import leaks
from radvqa.pipeline.subject import Opened, setup_of_model
from radvqa.publish.repository import write_learned
from radvqa.recipe import Aspect, Recipe, Transfer
from radvqa.records import RecordFile, read_records, write_json, write_records
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
    assert about["finished"] is True
    assert (about["limit"], about["max_new_tokens"], about["seed"]) == (None, 4, 0)
    own = load(folder, "leaks.json")["compared_with"]["phantom, own train split"]
    assert (own["kind"], own["samples"]) == ("own_train", 8)
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


def test_a_kill_among_the_files_leaves_no_finished_evaluation(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluate(controls=())
    assert load(folder, "evaluation.json")["finished"] is True

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(evaluation, "leaks", killed)
        evaluate(controls=(), seed=1)
    about = load(folder, "evaluation.json")
    assert (about["seed"], about["finished"]) == (1, False)
    evaluate(controls=(), seed=1)
    assert load(folder, "evaluation.json")["finished"] is True


def test_only_a_finished_evaluation_with_the_same_settings_counts(tmp_path: Path) -> None:
    further = Transfer(dataset="phantom", split="val")
    settings = SimpleNamespace(dataset="phantom", split="val", max_new_tokens=4, controls=())
    recipe = SimpleNamespace(output=tmp_path, name="run", digest=lambda: "0", evaluate=settings, seed=0)
    run = CellRun(cell="cell", seed=0, recipe=cast(Recipe, recipe))
    answers = run.further_predictions(further)
    write_json(answers, {})
    about = {
        "dataset": "phantom", "split": "val", "limit": None, "max_new_tokens": 4, "seed": 0, "finished": True,
    }  # fmt: skip
    path = answers.parents[1] / "evaluation.json"
    write_json(path, about)
    assert run.has_answered(further)
    for change in ({"finished": False}, {"limit": 2}, {"max_new_tokens": 8}, {"seed": 1}):
        write_json(path, about | change)
        assert not run.has_answered(further), change


@pytest.mark.parametrize("change", ["tags", "turn", "aspect"])
def test_a_journal_of_other_samples_or_pictures_starts_anew(
    change: str, per_question: Vlm, samples: Sequence[VqaSample], tmp_path: Path
) -> None:
    def ask(asked: Sequence[VqaSample], aspect: Aspect = "squash") -> list[Prediction]:
        pictures = [one.image for one in asked]
        store = ImageStore.build(pictures, size=per_question.image_size, aspect=aspect, cache=tmp_path / "pictures")
        return answering.answered(
            tmp_path / "val.unfinished", per_question, asked, store, condition="model", max_new_tokens=2, batch_size=2,
            seed=0, made_from="the same", progress=QUIET,
        )  # fmt: skip

    asked = list(samples[:2])
    ask(asked)
    calls: list[int] = []
    real = answering.predictions

    def counted(*given: Any, known: frozenset[str], **settings: Any) -> Iterator[Sequence[Prediction]]:
        calls.append(len(known))
        return real(*given, known=known, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "predictions", counted)
        ask(asked)
        if change == "aspect":
            ask(asked, aspect="pad")
        else:
            changed = {"tags": {"modality": "other"}, "turn": 3}[change]
            found = ask([replace(one, **{change: changed}) for one in asked])
            assert [getattr(one, change) for one in found] == [changed] * 2
    assert calls == [2, 0]


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
    with pytest.raises((RadvqaError, ValueError), match="needs a commit"):
        opened("owner/name")


# --- leaks --------------------------------------------------------------------------------------------------------


def test_leaks_are_counted(samples: Sequence[VqaSample]) -> None:
    asked, trained = samples[:6], samples[3:9]
    found = leaks(asked, {"others": trained}, own_train={}, ancestry={"base": None}, progress=QUIET)["compared_with"][
        "others"
    ]
    assert found["same_rows"] == 3
    assert (found["shared_groups"], found["shared_pictures"], found["questions_on_them"]) == (1, 1, 3)
    assert found["share_of_questions_seen"] >= 0.5
    apart = leaks(samples[:3], {"others": samples[6:9]}, own_train={}, ancestry={}, progress=QUIET)["compared_with"][
        "others"
    ]
    assert (apart["same_rows"], apart["shared_groups"], apart["shared_pictures"]) == (0, 0, 0)


def picture(path: Path, seed: int, *, left_out: int = 0) -> Path:
    """A smooth picture, or nearly the same one."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((96, 96)), 9)
    gray = 255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
    gray[:left_out, :left_out] = 0
    Image.fromarray(gray.astype(np.uint8)).convert("RGB").save(path)
    return path


def row(image: Path, number: int, *, question: str, answer: str) -> VqaSample:
    return VqaSample(
        sample_id=f"{image.stem}-{number}", image_id=image.stem, image=image, question=question, answers=(answer,),
        answer_type="open", group_id=image.stem, split="val",
    )  # fmt: skip


def test_every_evaluated_copy_of_a_training_picture_counts(tmp_path: Path) -> None:
    trained = [row(picture(tmp_path / "edition.bmp", 1), 0, question="What organ?", answer="Liver")]
    copies = [picture(tmp_path / f"{name}.png", 1, left_out=cut) for name, cut in (("a", 0), ("b", 0), ("c", 3))]
    other = picture(tmp_path / "other.png", 2)
    asked = [
        row(image, number, question=question, answer=answer)
        for image in (*copies, other)
        for number, (question, answer) in enumerate([("what organ", "liver"), ("What plane?", "Axial")])
    ]
    found = leaks(asked, {"t": trained}, own_train={}, ancestry={}, progress=QUIET)["compared_with"]["t"]
    assert (found["kind"], found["shared_pictures"], found["questions_on_them"]) == ("trained_on", 3, 6)
    # The ids differ in every row, as in another edition of a data set.
    assert (found["same_rows"], found["shared_groups"]) == (3, 0)
    assert [one.partition(":")[0] for one in found["rows"]] == ["a-0", "b-0", "c-0"]


def test_an_equal_image_id_of_another_picture_is_no_same_row(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (
        row(picture(tmp_path / f"{name}/1.png", seed), 0, question="What organ?", answer="Liver")
        for seed, name in enumerate(["one", "two"])
    )
    found = leaks([one], {"t": [two]}, own_train={}, ancestry={}, progress=QUIET)["compared_with"]["t"]
    assert (found["shared_pictures"], found["same_rows"]) == (0, 0)


def test_too_many_pictures_are_not_said_to_be_apart(
    samples: Sequence[VqaSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks_module, "MOST_PICTURES", 1)
    found = leaks(samples, {}, own_train={"own": samples}, ancestry={}, progress=QUIET)["compared_with"]["own"]
    assert (found["kind"], found["shared_pictures"], found["same_rows"]) == ("own_train", None, None)


def test_the_own_train_split_never_takes_the_place_of_what_was_trained_on(
    samples: Sequence[VqaSample], tmp_path: Path
) -> None:
    write_records(tmp_path / "samples.jsonl", samples)
    trained = Trained(
        samples={"slake, train": RecordFile(tmp_path / "samples.jsonl", VqaSample)}, ancestry={}, floors=None
    )
    split = elsewhere._not_known_to_be_trained_on
    assert split(samples, trained, "slake") == {}
    assert split([], trained, "slake") == {}
    # Another language under the same ids, and more rows than training was left with.
    other = [replace(one, question="器官？", language="zh") for one in samples]
    for own in (other, [*samples, replace(samples[0], sample_id="left out")]):
        found = split(own, trained, "slake")
        assert list(found.values()) == [own]
        assert not found.keys() & trained.samples.keys()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("runs/mistyped", "as a name on the hub it needs a commit"),
        ("mistyped", "no such run or model"),
        ("a-file", "no such run or model"),
        ("runs", "the folder holds no model"),
    ],
)
def test_what_is_no_model_is_named(given: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "a-file").touch()
    with pytest.raises(ModelError, match=told):
        opened(given)


def test_a_wrong_option_speaks_of_the_command_and_not_of_a_recipe() -> None:
    asked = Asked(dataset="phantom", options={"cuont": 3}, split="val", limit=None, controls=(), probes=())
    with pytest.raises(RecipeError, match="--set OPTION=VALUE") as error:
        elsewhere.require_questions(asked)
    assert error.value.where == "--dataset phantom"
