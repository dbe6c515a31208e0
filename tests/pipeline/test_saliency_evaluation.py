"""Maps of a tiny run measured against phantom lesions, end to end: files, resumption, more methods later."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from radvqa import pipeline
from radvqa.errors import DataError, RunError
from radvqa.pipeline import saliency_work
from radvqa.pipeline.saliency_evaluation import Wanted, evaluate_saliency
from radvqa.pipeline.saliency_targets import spread
from radvqa.recipe import parse_recipe
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress

QUIET = Progress(quiet=True)
FEW = Wanted(methods=("raw", "rollout"), limit=4, costly=4, faithfulness=0, sanity=0, seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A run of the tiny checkpoint that has answered questions about phantom lesions."""
    folder = tmp_path_factory.mktemp("saliency")
    values = {
        "name": "toy",
        "output": str(folder / "runs"),
        "model": {"checkpoint": "tiny"},
        "datasets": {
            "phantom": {
                "adapter": "phantom",
                "count": {"train": 12, "val": 8},
                "size": 112,
                "root": str(folder / "data"),
                "questions_per_image": 3,
                "content_types": ["Abnormality", "Position"],
            }
        },
        "stages": [{"name": "align", "datasets": ["phantom"], "updates": 1}],
        "evaluate": {"dataset": "phantom", "controls": [], "max_new_tokens": 3},
    }
    made = pipeline.run(parse_recipe(values, where="toy.yaml"), command="", until="evaluate", progress=QUIET)
    assert made is not None
    yield made
    made.unlock()


@pytest.fixture
def fresh(run: RunFolder) -> RunFolder:
    """The run without an evaluation of its maps."""
    (run.file("explain/evaluation") / "scores.jsonl").unlink(missing_ok=True)
    return run


def keys(run: RunFolder) -> list[str]:
    path = run.file("explain/evaluation/scores.jsonl")
    return [json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()]


def result(run: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.file("explain/evaluation/localisation.json").read_text(encoding="utf-8"))
    return found


def test_everything_is_measured_and_written(fresh: RunFolder) -> None:
    wanted = Wanted(
        methods=("raw", "rollout", "grad_cam", "token_occlusion"), limit=5, costly=0, faithfulness=1, sanity=1, seed=0
    )
    page = evaluate_saliency(fresh, wanted, progress=QUIET)
    found = result(fresh)
    assert page.is_file()
    assert list(found["table"]["rows"]) == [
        *wanted.methods, "chance", "centre", "body_part_prior", "label_prior",
    ]  # fmt: skip
    assert found["table"]["questions"] == 5
    assert found["table"]["images"] == 5
    raw = found["table"]["rows"]["raw"]["metrics"]
    assert raw["energy"]["questions"] == 5
    assert 0 < raw["energy"]["mean"] < 1
    assert found["table"]["rows"]["chance"]["metrics"]["enrichment"]["mean"] == pytest.approx(1.0)
    assert found["thresholds"]["raw"] is not None
    assert "chance" not in found["thresholds"]
    assert set(found["sanity"]["methods"]) == set(wanted.methods)
    assert list(found["sanity"]["methods"]["raw"]["blocks"])[-1] == "vision tower"
    assert found["faithfulness_questions"] == 1
    assert set(found["table"]["strata"]["answer"]) <= {"right", "wrong"}
    assert found["left_out"]["are beyond the limit"] > 0
    assert any("lesion in the" in name for name in found["table"]["strata"]["target"])
    assert set(found["table"]["strata"]["kind of target"]) <= {"finding", "organ"}
    assert (fresh.file("explain/evaluation") / "localisation.md").is_file()


def test_a_stop_loses_one_question_and_the_rest_is_not_done_again(
    fresh: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = saliency_work.maps_of, []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[0].sample_id)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(saliency_work, "maps_of", stopping)
    stop_at = -1
    evaluate_saliency(fresh, FEW, progress=QUIET)
    whole, in_all = result(fresh), len(calls)
    fresh.file("explain/evaluation/scores.jsonl").unlink()
    calls.clear()
    stop_at = in_all - 2
    with pytest.raises(KeyboardInterrupt):
        evaluate_saliency(fresh, FEW, progress=QUIET)
    kept = keys(fresh)
    stop_at = -1
    evaluate_saliency(fresh, FEW, progress=QUIET)
    assert keys(fresh)[: len(kept)] == kept
    assert len(calls) == in_all + 1
    assert result(fresh) == whole


def test_a_method_can_be_added_later(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_saliency(fresh, FEW, progress=QUIET)
    real, asked = saliency_work.maps_of, []

    def noting(one: Any, methods: Any, **options: Any) -> Any:
        asked.append(tuple(methods))
        return real(one, methods, **options)

    monkeypatch.setattr(saliency_work, "maps_of", noting)
    more = Wanted(methods=("raw", "raw_value"), limit=4, costly=4, faithfulness=0, sanity=0, seed=0)
    evaluate_saliency(fresh, more, progress=QUIET)
    assert set(asked) == {("raw_value",)}
    assert list(result(fresh)["methods"]) == ["raw", "raw_value"]


def test_another_seed_is_measured_anew(fresh: RunFolder) -> None:
    evaluate_saliency(fresh, FEW, progress=QUIET)
    evaluate_saliency(
        fresh, Wanted(methods=("raw",), limit=2, costly=4, faithfulness=0, sanity=0, seed=1), progress=QUIET
    )
    assert len([key for key in keys(fresh) if key.startswith("scores/")]) == 2


def test_a_run_without_answers_is_told_what_to_do(fresh: RunFolder) -> None:
    path = fresh.file("predictions/val.jsonl")
    moved = path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(RunError, match="no predictions yet"):
            evaluate_saliency(fresh, FEW, progress=QUIET)
    finally:
        moved.rename(path)


def test_data_without_regions_cannot_be_measured(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from radvqa.data.adapters.phantom import PhantomDataset

    monkeypatch.setattr(PhantomDataset, "regions", lambda self, image_id: ())
    with pytest.raises(DataError, match="labelled region"):
        evaluate_saliency(fresh, FEW, progress=QUIET)


def test_few_questions_see_many_images() -> None:
    class One:
        def __init__(self, image: int) -> None:
            self.sample = type("Sample", (), {"image_id": str(image)})

    some: Any = [One(image) for image in range(5) for _ in range(4)]
    assert len({one.sample.image_id for one in spread(some, 5, seed=0)}) == 5
    assert spread(some, 12, seed=0)[:5] == spread(some, 5, seed=0)
    assert len(spread(some, None, seed=0)) == 20
