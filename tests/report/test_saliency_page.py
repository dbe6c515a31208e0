"""The page of measured maps: self-contained, and its words say no more than its numbers."""

import copy
import json
from pathlib import Path

import pytest
from html_page import Page

from radvqa.explain.evaluation import localisation_table
from radvqa.explain.measured import Evaluation, Scored
from radvqa.report.localisation import write_localisation
from radvqa.report.localisation_wording import conclusions, markdown, reading

HOSTILE = "<script>alert(1)</script>|x"


def case(number: int) -> Scored:
    """The oracle hits always, the prior in every third case, chance in none."""
    metrics = (
        "hit",
        "hit@1",
        "hit@2",
        "energy",
        "enrichment",
        "auprc",
        "auprc_elsewhere",
        "rra",
        "iou_otsu",
        "iou_tuned",
        "iou_area",
    )
    scores = {
        "oracle": dict.fromkeys(metrics, 0.9 + number / 1000),
        "rollout": dict.fromkeys(metrics, 0.02 + number / 1000),
        "chance": dict.fromkeys(metrics, 0.02 + (number % 3) / 100),
        "label_prior": dict.fromkeys(metrics, 0.2 + (number % 3) / 10),
    }
    for method in ("oracle", "rollout"):
        scores[method]["auprc_elsewhere"] = 0.02 + (number % 3) / 100
    if number < 7:
        scores["costly"] = dict.fromkeys(metrics, 0.5 + number / 1000)
    return Scored(
        sample_id=str(number),
        image_id=str(number // 2),
        area=0.02,
        reliance=0.0 if number % 4 == 0 else 1.0,
        scores=scores,
        excluded={"rollout": "target_below_half_a_cell"} if number == 3 else {},
        specificity={"oracle": 0.4, "rollout": 0.001},
        faithfulness={"oracle": {"gap_over_random": 0.2 + number / 100}} if number < 5 else {},
        tags={"modality": HOSTILE, "answer": "right"},
    )


@pytest.fixture(scope="module")
def found() -> Evaluation:
    alike = {"spearman": 0.97, "ssim": 0.9, "questions": 2}
    nothing = {"spearman": None, "ssim": None, "questions": 0}
    other = {"spearman": 0.2, "ssim": 0.1, "questions": 2}
    methods = ("oracle", "rollout", "costly", "never")
    return {
        "subject": HOSTILE,
        "dataset": "slake",
        "split": "val",
        "weights": "sha256 1",
        "seed": 0,
        "limit": None,
        "grid": (16, 16),
        "methods": {name: f"What {name} is." for name in methods},
        "priors": {"chance": "a point anywhere", "label_prior": "where this label lies"},
        "left_out": {"are about no labelled region": 700},
        "thresholds": {"oracle": 0.5, "rollout": None},
        "tuned_on": 16,
        "priors_fitted_on": 925,
        "faithfulness_questions": 5,
        "table": localisation_table(
            [case(number) for number in range(40)],
            methods=methods,
            priors=("chance", "label_prior"),
            strata=("modality", "answer"),
            resamples=200,
        ),
        "sanity": {
            "questions": 2,
            "methods": {
                name: {
                    "questions": 2,
                    "blocks": {"decoder": copy.copy(other), "vision tower": alike if name == "rollout" else other},
                    "wrong_question": alike if name == "rollout" else other,
                    "wrong_image": other,
                    "survives_weights": name == "rollout",
                    "survives_question": name == "rollout",
                    "survives_image": False,
                }
                for name in ("oracle", "rollout")
            }
            | {
                "costly": {
                    "questions": 1,
                    "blocks": {"decoder": nothing, "vision tower": nothing},
                    "wrong_question": other,
                    "wrong_image": nothing,
                    "survives_weights": None,
                    "survives_question": False,
                    "survives_image": None,
                }
            },
        },
    }


def test_conclusions_say_what_the_numbers_say(found: Evaluation) -> None:
    text = " ".join(conclusions(found))
    assert "On 40 questions about 20 images of slake" in text
    assert "Above the label-position prior, which never sees the image: oracle (hit, energy, auprc); costly (" in text
    assert "Below it: rollout (hit, energy, auprc)." in text
    assert "In 25.0 % of the answers" in text
    assert "specificity below 0.02): rollout" in text
    assert "with all weights randomised, so it is a prior rather than an explanation: rollout" in text
    assert "on another image" not in text
    assert "Not measured against it: never." in text
    assert "Specificity was not measured: costly, never." in text


def test_what_was_not_measured_is_never_told_as_passed(found: Evaluation) -> None:
    text = " ".join(conclusions(found))
    assert "Changes with weights, question and image: oracle (2 questions)." in text
    assert "Sanity not shown for all of it: costly (not measured: model, image), never (not measured)." in text
    assert "rollout (2 questions)" in text
    nothing = copy.deepcopy(found)
    assert nothing["sanity"] is not None
    for row in nothing["sanity"]["methods"].values():
        row["survives_weights"] = row["survives_question"] = row["survives_image"] = None
    text = " ".join(conclusions(nothing))
    assert "Changes with" not in text
    assert "oracle (not measured: model, question, image)" in text
    assert reading(nothing["sanity"]["methods"]["oracle"]) == "not measured: model, question, image"


def test_every_row_tells_its_questions(found: Evaluation, tmp_path: Path) -> None:
    lines = markdown(found).splitlines()
    assert any(line.startswith("| costly | 7 |") for line in lines)
    assert any(line.startswith("| oracle | 40 |") for line in lines)
    assert any(line.startswith("| never | 0 |") for line in lines)
    never = [line for line in lines if line.startswith(("| never | label_prior", "| never | chance"))]
    assert len(never) == 6
    assert all(line.endswith("| n/a | n/a to n/a | n/a | 0 | not measured |") for line in never)
    page = write_localisation(found, tmp_path).read_text(encoding="utf-8")
    assert page.count("not measured</td>") == 6
    assert '<th scope="row">costly</th><td class="num">7</td>' in page
    assert "not measured: model, image" in page
    assert "n = 5" in page


def test_nothing_is_claimed_without_a_difference(found: Evaluation) -> None:
    plain = copy.deepcopy(found)
    for one in plain["table"]["differences"]:
        one["verdict"] = ""
    plain["sanity"] = None
    text = " ".join(conclusions(plain))
    assert "No method is shown to be above the label-position prior" in text
    assert "Below it" not in text
    assert "The sanity checks were not done." in text


def test_the_page_is_whole_and_harmless(found: Evaluation, tmp_path: Path) -> None:
    path = write_localisation(found, tmp_path)
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    tables = Page(page).tables
    assert [len(row) for row in tables["table"]] == [len(tables["table"][0])] * 7
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "data:image/png;base64," in page
    for text in ("label prior", "1 target below half a cell", "blind to the model", "+ vision tower", "0.220"):
        assert text in page, text
    assert "What this does not show" in page
    assert "Not for clinical use" in page
    stored = json.loads((tmp_path / "localisation.json").read_text(encoding="utf-8"))
    assert stored["table"]["rows"]["oracle"]["metrics"]["hit"]["questions"] == 40
    assert (tmp_path / "localisation.png").read_bytes().startswith(b"\x89PNG")


def test_markdown_tables_stay_tables(found: Evaluation) -> None:
    assert "<" not in markdown(found)
    lines = markdown(found).splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("|---")]
    assert len(heads) == 6
    for number in heads:
        width = lines[number].count("|")
        rows = [lines[number - 1]]
        rows += [line for line in lines[number + 1 :][: lines[number + 1 :].index("")] if line]
        assert {row.count("|") for row in rows} == {width}, lines[number - 1]
