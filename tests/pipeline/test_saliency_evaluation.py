"""Maps of a tiny run measured against phantom lesions, end to end: files, resumption, more methods later."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from radvqa import pipeline
from radvqa.data.adapters.phantom import PhantomDataset
from radvqa.errors import DataError, RunError
from radvqa.explain.map_settings import MapSettings
from radvqa.pipeline import saliency_evaluation, saliency_work
from radvqa.pipeline.saliency_evaluation import Wanted, evaluate_saliency
from radvqa.pipeline.saliency_targets import Regions, spread
from radvqa.recipe import parse_recipe
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress

QUIET = Progress(quiet=True)
SMALL = MapSettings(window=2)
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
    (run.file("explain/evaluation") / "measured.jsonl").unlink(missing_ok=True)
    return run


def keys(run: RunFolder) -> list[str]:
    path = run.file("explain/evaluation/measured.jsonl")
    return [json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()]


def result(run: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.file("explain/evaluation/localisation.json").read_text(encoding="utf-8"))
    return found


def test_everything_is_measured_and_written(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Wanted(
        methods=("raw", "rollout", "grad_cam", "token_occlusion"), limit=5, costly=0, faithfulness=1, sanity=1, seed=0
    )
    # The tiny grid has 4 x 4 cells: an occlusion window as large as it would give a constant map.
    real = saliency_work.maps_of
    monkeypatch.setattr(saliency_work, "maps_of", lambda *given, **more: real(*given, settings=SMALL, **more))
    page = evaluate_saliency(fresh, wanted, progress=QUIET)
    found = result(fresh)
    assert page.is_file()
    assert list(found["table"]["rows"]) == [
        *wanted.methods, "chance", "centre", "body_part_prior", "label_prior", "label_oracle",
    ]  # fmt: skip
    assert found["table"]["questions"] == 5
    assert found["table"]["images"] == 5
    raw = found["table"]["rows"]["raw"]["metrics"]
    assert raw["energy"]["questions"] == 5
    assert 0 < raw["energy"]["mean"] < 1
    occlusion = found["table"]["rows"]["token_occlusion"]
    assert occlusion["metrics"]["energy"]["questions"] > 0
    assert 0 <= occlusion["metrics"]["energy"]["mean"] <= 1
    assert occlusion["metrics"]["specificity"]["questions"] <= 1
    assert found["table"]["rows"]["raw"]["metrics"]["auprc_elsewhere"]["questions"] == 5
    assert found["table"]["rows"]["chance"]["metrics"]["enrichment"]["mean"] == pytest.approx(1.0)
    assert found["thresholds"]["raw"] is not None
    assert "chance" not in found["thresholds"]
    assert set(found["sanity"]["methods"]) == set(wanted.methods)
    assert list(found["sanity"]["methods"]["raw"]["blocks"])[-1] == "vision tower"
    assert found["faithfulness_questions"] == 1
    assert sum(one["raw"]["enrichment"]["questions"] for one in found["table"]["strata"]["answer"].values()) == 5
    assert (
        sum(one["raw"]["enrichment"]["questions"] for one in found["table"]["strata"]["label named in"].values()) == 5
    )
    assert found["left_out"]["are beyond the limit"] > 0
    assert any("lesion in the" in name for name in found["table"]["strata"]["target"])
    assert "finding" in found["table"]["strata"]["kind of target"]
    assert len(found["table"]["faithfulness"]["raw"]) > 5
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
    fresh.file("explain/evaluation/measured.jsonl").unlink()
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


def test_another_seed_keeps_what_was_measured(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_saliency(fresh, FEW, progress=QUIET)
    before = keys(fresh)
    more = replace(FEW, faithfulness=1, seed=1, limit=None)
    evaluate_saliency(fresh, more, progress=QUIET)
    assert keys(fresh)[: len(before)] == before
    monkeypatch.setattr(saliency_work, "maps_of", None)
    evaluate_saliency(fresh, FEW, progress=QUIET)
    evaluate_saliency(fresh, more, progress=QUIET)
    monkeypatch.setattr(saliency_work, "faithfulness", None)
    evaluate_saliency(fresh, more, progress=QUIET)
    with pytest.raises(TypeError):
        evaluate_saliency(fresh, replace(more, seed=2), progress=QUIET)


def test_maps_of_other_weights_are_put_aside(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_saliency(fresh, FEW, progress=QUIET)
    path = fresh.file("explain/evaluation/measured.jsonl")
    before = path.read_bytes()
    monkeypatch.setattr(saliency_evaluation, "MEASURED", saliency_evaluation.MEASURED + 1)
    evaluate_saliency(fresh, replace(FEW, limit=1), progress=QUIET)
    aside = path.with_name("measured-1.jsonl")
    assert aside.read_bytes() == before
    aside.unlink()
    assert len([key for key in keys(fresh) if key.startswith("maps/")]) == 1


def test_scores_follow_the_regions_without_measuring_anew(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_saliency(fresh, FEW, progress=QUIET)
    before = result(fresh)["table"]["rows"]["raw"]["metrics"]["energy"]["mean"]
    real = Regions.coverage
    monkeypatch.setattr(Regions, "coverage", lambda *arguments: real(*arguments)[::-1, ::-1])
    monkeypatch.setattr(saliency_work, "maps_of", None)
    evaluate_saliency(fresh, FEW, progress=QUIET)
    assert result(fresh)["table"]["rows"]["raw"]["metrics"]["energy"]["mean"] != before


def test_one_bad_mask_leaves_out_its_questions(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_saliency(fresh, replace(FEW, limit=None), progress=QUIET)
    whole = result(fresh)["table"]
    assert "have regions that cannot be read" not in result(fresh)["left_out"]
    scores = [json.loads(line) for line in fresh.file("explain/evaluation/scores.jsonl").read_text().splitlines()]
    bad = scores[0]["image_id"]
    real = PhantomDataset.regions

    def broken(self: PhantomDataset, image_id: str) -> Any:
        if image_id == bad:
            raise DataError("a mask is broken", where=image_id)
        return real(self, image_id)

    monkeypatch.setattr(PhantomDataset, "regions", broken)
    evaluate_saliency(fresh, replace(FEW, limit=None), progress=QUIET)
    assert result(fresh)["table"]["images"] == whole["images"] - 1
    assert result(fresh)["left_out"]["have regions that cannot be read"] > 0


def test_checks_do_not_depend_on_how_many_questions_are_chosen(
    fresh: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_saliency(fresh, replace(FEW, methods=("raw",), limit=1, sanity=1), progress=QUIET)
    before = [key for key in keys(fresh) if key.startswith("sanity/")]
    assert len(before) == 1
    monkeypatch.setattr(saliency_work, "weight_randomisation", None)
    evaluate_saliency(fresh, replace(FEW, methods=("raw",), limit=5, sanity=1), progress=QUIET)
    assert result(fresh)["sanity"]["questions"] == 1
    monkeypatch.setattr(saliency_evaluation, "stranger", lambda one, others: None)
    evaluate_saliency(fresh, replace(FEW, methods=("raw",), sanity=1), progress=QUIET)
    assert result(fresh)["sanity"] is None


def test_the_split_that_priors_learn_from_is_refused(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saliency_evaluation, "LEARNT_FROM", "val")
    with pytest.raises(DataError, match="learn from"):
        evaluate_saliency(fresh, FEW, progress=QUIET)


def test_a_run_without_answers_is_told_what_to_do(fresh: RunFolder) -> None:
    path = fresh.file("predictions/val.jsonl")
    moved = path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(RunError, match="no predictions yet"):
            evaluate_saliency(fresh, FEW, progress=QUIET)
    finally:
        moved.rename(path)


def test_data_without_regions_cannot_be_measured(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_questions_about_findings_have_tables_of_their_own(fresh: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    page = evaluate_saliency(fresh, replace(FEW, limit=None, about="finding"), progress=QUIET)
    assert page == fresh.file("explain/evaluation/finding/localisation.html")
    found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert list(found["table"]["strata"]["kind of target"]) == ["finding"]
    # The maps are shared with an evaluation of all questions.
    monkeypatch.setattr(saliency_work, "maps_of", None)
    evaluate_saliency(fresh, replace(FEW, limit=2, about="finding"), progress=QUIET)
