"""The verbs of ``radvqa explain``: which verb a first word means, what is checked before a model is opened, tables."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from radvqa.cli.app import app
from radvqa.cli.explain import CASES
from radvqa.cli.map_options import map_settings
from radvqa.explain.bundle import CaseLine, MapFacts
from radvqa.explain.bundle_files import case_key
from radvqa.explain.evaluation import localisation_table
from radvqa.explain.map_settings import MapSettings
from radvqa.explain.measured import METRICS, Scored
from radvqa.pipeline import saliency_evaluation
from radvqa.recipe import parse_recipe
from radvqa.records import write_json, write_records
from radvqa.run.folder import RunFolder


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    values = {
        "name": "toy",
        "output": str(tmp_path / "runs"),
        "model": {"checkpoint": "tiny"},
        "datasets": {"phantom": {"adapter": "phantom", "count": {"train": 2, "val": 2}, "size": 112}},
        "stages": [{"name": "align", "datasets": ["phantom"], "updates": 1}],
        "evaluate": {"dataset": "phantom"},
    }
    made = RunFolder.create(parse_recipe(values, where="toy.yaml"), command="radvqa run toy.yaml")
    made.unlock()
    yield made
    made.unlock()


def line(number: int, **changes: Any) -> CaseLine:
    key = case_key(f"s{number}")
    fields: dict[str, Any] = {
        "key": key,
        "folder": f"cases/{key}",
        "sample_id": f"s{number}",
        "image_id": f"i{number}",
        "group_id": f"i{number}",
        "question": "Is the liver bright?",
        "references": ("No",),
        "answer": "Yes",
        "answer_type": "closed",
        "correct": False,
        "confidence": 0.7 + number / 100,
        "reliance": 1.0,
        "facts": {"raw": MapFacts(low=0, high=1, enrichment=2.0)},
        "asked_regions": ("Liver",),
        "tags": {"modality": "CT"},
    }
    return CaseLine(**(fields | changes))


@pytest.mark.parametrize("words", [(CASES, "absent"), ("absent",), ("./evaluate",), ("absent", "--all")])
def test_a_word_that_is_no_verb_is_a_run(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert "not a run folder" in result.stderr


@pytest.mark.parametrize("verb", ["evaluate", "failures"])
def test_verbs_are_still_verbs(verb: str) -> None:
    assert "Missing argument" in call(verb).stderr
    assert "not a run folder" in call(verb, "absent").stderr


def test_an_unknown_method_is_refused_before_a_model_is_opened(run: RunFolder) -> None:
    result = call("evaluate", str(run.path), "--methods", "raw,grad-cam")
    assert result.exit_code == 2
    assert "grad-cam" in result.stderr
    assert "grad_cam" in result.stderr


def test_an_evaluation_is_told_with_its_counts_and_limits(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(number: int) -> dict[str, dict[str, float | None]]:
        found: dict[str, dict[str, float | None]] = {
            name: dict.fromkeys(METRICS, 0.25 + number / 100) for name in ("raw", "chance", "label_prior")
        }
        return found | ({"pixel_occlusion": dict.fromkeys(METRICS, 0.5)} if number < 2 else {})

    cases = [
        Scored(
            sample_id=str(number),
            image_id=str(number),
            area=0.1,
            reliance=0.0 if number < 3 else 1.0,
            scores=scores(number),
            excluded={"raw": "constant_map"} if number == 4 else {},
            specificity={"raw": 0.4 if number < 2 else None},
            faithfulness={"raw": {"gap_over_random": 0.125}} if number == 0 else {},
        )
        for number in range(6)
    ]
    methods, priors = ("raw", "pixel_occlusion"), ("chance", "label_prior")
    found = {
        "dataset": "phantom",
        "split": "val",
        "methods": dict.fromkeys(methods, ""),
        "left_out": {"are beyond the limit": 4},
        "table": localisation_table(cases, methods=methods, priors=priors, resamples=20),
        "sanity": None,
    }
    page = run.file("explain/evaluation/localisation.html")
    write_json(page.with_suffix(".json"), found)
    monkeypatch.setattr(saliency_evaluation, "evaluate_saliency", lambda folder, wanted, *, progress: page)
    result = call("evaluate", str(run.path), "--methods", "raw,pixel_occlusion")
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[0]: " ".join(line.split()) for line in result.stdout.splitlines() if line}
    assert "0.40 (n 2) 0.12 (n 1)" in lines["raw"]
    assert lines["raw"].startswith("raw 6 27.50")
    assert lines["raw"].endswith("1 constant map")
    assert lines["pixel_occlusion"].startswith("pixel_occlusion 2 50.00")
    assert "4 questions are beyond the limit" in result.stdout
    assert "In 50.0 % of the answers" in result.stdout
    assert "The sanity checks were not done." in result.stdout


def test_failures_need_explained_cases(run: RunFolder) -> None:
    result = call("failures", str(run.path))
    assert result.exit_code == 2
    assert f"radvqa explain {run.path} --all" in result.stderr


def test_failures_are_listed_worst_first(run: RunFolder) -> None:
    write_records(run.file("explain/cases.jsonl"), [line(1), line(2), line(3, correct=True, answer="No")])
    told = json.loads(call("failures", str(run.path), "--json").stdout)
    assert told["cases"] == 3
    assert told["thresholds"]["sure"] == pytest.approx(0.73)
    assert told["failures"] == []
    write_records(run.file("explain/cases.jsonl"), [line(1), line(2), line(3, correct=True, confidence=0.6)])
    told = json.loads(call("failures", str(run.path), "--json").stdout)
    sure = [one for one in told["failures"] if one["signature"] == "wrong_and_confident"]
    assert [one["key"] for one in sure] == [case_key("s2"), case_key("s1")]
    assert told["groups"]["modality"]["CT"]["wrong"] == 2
    text = call("failures", str(run.path), "--top", "1").stdout
    assert "wrong and confident: 2 of 3" in text
    assert "s2  Is the liver bright?" in text
    assert "s1  Is" not in text
    assert "points to: the adaptation data" in text
    assert "Not for clinical use" in text or "not for clinical use" in text


USUAL = {
    "usual_alpha": 0.5, "alpha": None, "layers": None, "heads": None, "fusion": "mean", "sinks": "mark", "foil": "",
}  # fmt: skip


def test_choices_about_maps_are_read() -> None:
    assert map_settings(["raw"], **USUAL) == MapSettings(alpha=0.5)
    chosen = map_settings(
        ["raw", "rollout", "chefer"],
        **{
            **USUAL, "alpha": 0.9, "layers": "2:10", "heads": "3, 0", "fusion": "max", "sinks": "remove", "foil": "No",
        },
    )  # fmt: skip
    assert chosen == MapSettings(alpha=0.9, layers=(2, 10), heads=(0, 3), fusion="max", sinks="remove", foil="No")


@pytest.mark.parametrize(
    "words",
    [
        ("--layers", "9"), ("--layers", "4:4"), ("--layers", "-1:2"), ("--heads", "a"), ("--heads", "1,,2"),
        ("--foil", "No", "--methods", "raw"), ("--heads", "1", "--methods", "chefer"),
        ("--alpha", "0.9", "--methods", "rollout_90"), ("--alpha", "2"), ("--fusion", "sum"), ("--sinks", "hide"),
    ],
)  # fmt: skip
def test_choices_that_no_map_can_heed_are_refused_before_a_model_is_opened(
    run: RunFolder, words: tuple[str, ...]
) -> None:
    result = call(str(run.path), *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr
