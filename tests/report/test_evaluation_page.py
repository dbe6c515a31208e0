import base64
import hashlib
import random
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from html_page import Page
from PIL import Image

from radvqa.errors import RunError
from radvqa.evaluate.comparison import compare_conditions
from radvqa.evaluate.controls import reliance
from radvqa.evaluate.probes.result import result
from radvqa.evaluate.protocols import PROTOCOLS
from radvqa.evaluate.scoring import score_predictions
from radvqa.evaluate.summary import summarise
from radvqa.records import write_json, write_records, write_text
from radvqa.report import browser
from radvqa.report.browser import browse
from radvqa.report.evaluation import write_evaluation
from radvqa.sample import Prediction, VqaSample

HOSTILE = '</script><script>alert("1")</script> & "CT"?'
TEXTS = ("Yes", "Yes", "No", "", "I am not sure.", "The answer is Yes.")


def sample(number, folder):
    return VqaSample(
        sample_id=f"q{number}", image_id=f"i{number // 4}", image=folder / f"{number // 4}.png",
        question=HOSTILE if number == 0 else f"Is finding {number % 7} seen?", answers=("Yes",),
        answer_type="closed" if number % 2 else "open", group_id=f"g{number // 4}", split="val",
        tags={"modality": ("CT", "MRI")[number // 4 % 2], "content_type": ("Organ", HOSTILE)[number % 2]},
        link_id=f"l{number // 2}",
    )  # fmt: skip


def answered(samples, name):
    choose = random.Random(name)
    return [
        Prediction(
            sample_id=one.sample_id, group_id=one.group_id, image_id=one.image_id, question=one.question,
            references=one.answers, answer_type=one.answer_type, tags=one.tags, link_id=one.link_id, prompt_id="p",
            text=choose.choice(TEXTS if name == "model" else ("Yes", "No")), finished=choose.random() > 0.1,
            token_ids=(1,), logprob=None,
        )
        for one in samples
    ]  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(16):
        Image.new("L", (40, 30), 10 * number).save(folder / f"{number}.png")
    return [sample(number, folder) for number in range(64)]


@pytest.fixture(scope="module")
def conditions(samples):
    return {name: answered(samples, name) for name in ("model", "shuffled", "question_only")}


PROBE = result(
    tests="Whether <b>mirrored</b> pictures change the side.",
    questions=3,
    left_out={"no_side": 2},
    shares={"held": ([1.0, 0.0, 1.0], ["a", "b", "c"])},
    meanings={"held": "answers that changed sides"},
    examples=[
        {
            "sample_id": "q1", "question": "Left?", "answer": "Yes", "probe_question": "Left, mirrored?",
            "probe_answer": HOSTILE, "wanted": "No", "held": False,
        }
    ],
)  # fmt: skip


SHARED = {
    "kind": "trained_on", "samples": 900, "images": 80, "shared_pictures": 2, "questions_on_them": 9,
    "pictures": [f"a and b: {HOSTILE}"], "shared_groups": 0, "same_rows": 1, "rows": [], "share_of_questions_seen": 0.5,
    "share_of_open_answers_seen": None,
}  # fmt: skip
LEAKS = {"evaluated": {"samples": 64}, "compared_with": {"slake, train": SHARED}, "ancestry": {"run": "earlier"}}


@pytest.fixture(scope="module")
def folder(samples, conditions, tmp_path_factory):
    made = tmp_path_factory.mktemp("evaluations") / "slake-val"
    for name, predictions in conditions.items():
        suffix = "" if name == "model" else f"_{name}"
        write_records(made / "predictions" / f"val{suffix}.jsonl", predictions)
    write_records(made / "samples" / "slake-val.jsonl", samples)
    write_json(
        made / "summary.json",
        {
            "split": "val", "dataset": "slake", "condition": "model", "limit": None, "layout": "per_question",
            "prompt_id": "p", "conditions": {name: summarise(one) for name, one in conditions.items()},
            "comparisons": compare_conditions(conditions, reference="model"),
            "reliance": {"shuffled": reliance(conditions["model"], conditions["shuffled"], name="shuffled")},
        },
    )  # fmt: skip
    write_json(made / "scores.json", score_predictions(conditions["model"], resamples=200))
    write_json(made / "probes.json", {"side_flips": PROBE})
    write_json(made / "judge.json", {"model": "some-judge", "agreement": {"repeats": 0.9}})
    write_json(made / "leaks.json", LEAKS)
    return made


@pytest.fixture(scope="module")
def text(folder):
    path = write_evaluation(folder)
    assert path == folder / "evaluation.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def scores_of(conditions):
    return score_predictions(conditions["model"], resamples=200)


def percent(share):
    return f"{100 * share:.1f}"


def test_only_our_script_may_run(text, page):
    assert text.lower().count("<script") == 1
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy == (f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'")
    assert "innerHTML" not in script
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        assert attributes.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)


def test_the_page_is_accessible(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert set(links) <= set(ids)
    assert all(attributes["alt"].strip() for tag, attributes in page.tags if tag == "img")
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    labels = sum(tag == "label" for tag, _ in page.tags)
    assert labels == sum(tag in ("select", "input") for tag, _ in page.tags) == 5


def test_intervals_and_states_are_those_of_the_scores(page, conditions):
    scores = scores_of(conditions)
    for part, label in (("overall", "all questions"), ("closed", "closed questions")):
        one = scores["intervals"][part]["accuracy"]
        row = page.row("intervals", label)
        assert row[1] == percent(one["clustered_t"]["mean"])
        assert row[2:5] == [
            f"{percent(one[kind]['low'])} to {percent(one[kind]['high'])}"
            for kind in ("clustered_t", "bootstrap", "wilson")
        ]
    for state in ("answered", "empty", "unsure", "missing"):
        assert page.row("states", state)[0] == str(scores["counts"]["states"].get(state, 0))


def test_what_the_image_is_worth(page, conditions):
    found = reliance(conditions["model"], conditions["shuffled"], name="shuffled")["overall"]
    row = page.row("reliance", "that of another question")
    assert row[:2] == ["all questions", "64"]
    assert row[2].startswith(f"{100 * found['score']['mean']:+.1f}|".replace("-", "−"))
    assert row[3].startswith(f"{percent(found['changed']['mean'])}|")


def test_worst_slices_have_their_adjusted_p(page, conditions):
    worst = scores_of(conditions)["worst_slices"][0]
    rows = [row for row in page.tables["breakdown"] if ": " in row[0]]
    assert rows[0][0] == f"{worst['tag'].replace('_', ' ')}: {worst['value']}"
    assert rows[0][2] == percent(worst["mean"])
    assert rows[0][5] == f"{worst['p_holm']:.3f}"


def test_all_protocols_stand_side_by_side_with_their_cards(text, page, conditions):
    scores = scores_of(conditions)
    assert page.row("protocols", "radvqa")[2].startswith(
        percent(scores["summary"]["overall"]["metrics"]["accuracy"]["mean"])
    )
    assert len(scores["protocols"]) == len(PROTOCOLS) > 0
    for name, protocol in PROTOCOLS.items():
        row = page.row("protocols", protocol.title)
        for metric in protocol.headline:
            value = scores["protocols"][name]["metrics"][metric]["value"]
            assert ("none" if value is None else f"{value:.1f}") in " ".join(row)
    assert text.count('class="card-of-rule"') == len(PROTOCOLS)
    assert text.count("<dt>Known defects</dt>") == len(PROTOCOLS)


def test_probes_judge_and_leaks_are_shown(text, page):
    assert page.row("consistency", "held")[0].startswith("66.7|")
    assert "Whether &lt;b&gt;mirrored&lt;/b&gt; pictures" in text
    assert page.row("judge", "agreement.repeats") == ["0.9"]
    assert page.row("leaks", "slake, train") == ["2", "9", "0", "1", "50.0", "n/a"]
    assert "Some of the test was trained on." in text
    assert page.row("leaks", "run") == ["earlier"]


def leak_section(conditions, folder, **sets):
    shared = {"samples": 9, "images": 8, "shared_groups": 0, "share_of_questions_seen": 0.5}
    write_json(folder / "scores.json", scores_of(conditions))
    write_json(folder / "leaks.json", {"compared_with": {name: {**shared, **one} for name, one in sets.items()}})
    text = write_evaluation(folder).read_text(encoding="utf-8")
    return " ".join(text.partition('<section id="leaks">')[2].partition("</section>")[0].split())


def test_what_is_not_known_to_be_trained_on_is_not_claimed_to_be(tmp_path, conditions):
    text = leak_section(conditions, tmp_path, own={"kind": "own_train", "shared_pictures": 2, "same_rows": 1})
    assert "trained on.</strong>" not in text
    assert "Some of the test is also in own." in text
    assert "not known to be trained on; 9 questions" in text
    assert "No set that the model is known to be trained on was compared" in text
    text = leak_section(conditions, tmp_path, own={"kind": "own_train", "shared_pictures": 0, "same_rows": 0})
    assert "No picture, group or row" in text
    assert "does not tell what it has seen" in text


def test_pictures_that_were_not_compared_are_not_said_to_be_apart(tmp_path, conditions):
    large = {"kind": "trained_on", "shared_pictures": None, "same_rows": None}
    text = leak_section(conditions, tmp_path, large=large)
    assert "No picture" not in text
    assert "<strong>Pictures not compared</strong> with large" in text
    assert text.count('<td class="num">not compared</td>') == 2
    text = leak_section(conditions, tmp_path, large=large, other={**large, "shared_pictures": 1, "same_rows": 0})
    assert "Some of the test was trained on." in text
    assert "<strong>Pictures not compared</strong> with large:" in text


def test_consistency_is_shown(page, conditions):
    found = scores_of(conditions)["consistency"]
    assert any(row[0].startswith(f"{percent(found['same_answer']['mean'])}|") for row in page.tables["consistency"])


def test_every_answer_is_in_the_list_with_what_the_filter_needs(text, page, conditions):
    rows = [attributes for _, attributes in page.tags if attributes.get("class") == "asked"]
    assert len(rows) == 64
    right = sum(one.text in ("Yes", "The answer is Yes.") for one in conditions["model"])
    assert sum(row["data-result"] == "right" for row in rows) == right
    assert {row["data-state"] for row in rows} == {"answered", "empty", "unsure"}
    assert {row["data-modality"] for row in rows} == {"CT", "MRI"}
    assert sum(tag == "article" for tag, _ in page.tags) == 16
    assert text.count("data:image/jpeg;base64,") == 16
    assert "read as “Yes”" in text or "read as “yes”" in text
    assert "&lt;/script&gt;&lt;script&gt;alert(" in text


def test_pictures_with_most_wrong_answers_come_first(conditions):
    cases = browse(conditions["model"], {}).cases
    assert [case.wrong for case in cases] == sorted((case.wrong for case in cases), reverse=True)
    assert sum(case.wrong for case in cases) > 0
    assert all(case.picture.note == "no picture file known" for case in cases)


def test_what_is_too_much_is_counted(folder, samples, conditions, monkeypatch):
    monkeypatch.setattr(browser, "ANSWERS", 30)
    monkeypatch.setattr(browser, "PICTURES", 5)
    found = browse(conditions["model"], {one.sample_id: one.image for one in samples})
    assert sum(len(case.answers) for case in found.cases) == 30
    assert (found.answers, found.answers_left_out) == (64, 34)
    assert sum(case.picture.uri is not None for case in found.cases) == 5
    assert found.pictures_left_out == len(found.cases) - 5
    text = write_evaluation(folder).read_text(encoding="utf-8")
    assert "34 of 64 answers are not listed here" in text
    assert "3 listed pictures are not embedded" in text


def test_scores_alone_are_enough(tmp_path, conditions):
    scores = {**scores_of(conditions), "file": "/secret/place/answers.jsonl"}
    write_json(tmp_path / "scores.json", {**scores, "reading": {"notes": ["a <- b"], "warnings": ["<i>odd</i>"]}})
    text = write_evaluation(tmp_path).read_text(encoding="utf-8")
    Page(text)
    assert f"{percent(scores['summary']['overall']['metrics']['accuracy']['mean'])} % of 64 answers" in text
    for note in (
        "no answers on shuffled or blank images", "carry no probabilities", "No probes were run",
        "No language model judged", "was not checked here", "no predictions in this folder",
    ):  # fmt: skip
        assert note in text
    assert "/secret" not in text
    assert "File answers.jsonl. a &lt;- b" in text
    assert "&lt;i&gt;odd&lt;/i&gt;" in text


def test_a_summary_alone_is_enough(tmp_path, conditions):
    values = {name: summarise(one) for name, one in conditions.items()}
    write_json(
        tmp_path / "summary.json",
        {"split": "val", "dataset": "slake", "condition": "model", "conditions": values, "comparisons": {}},
    )
    text = write_evaluation(tmp_path).read_text(encoding="utf-8")
    assert "holds no scores.json" in text
    assert "were not scored under published protocols" in text


def test_nothing_at_all_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="no scores to show") as caught:
        write_evaluation(tmp_path)
    assert "radvqa score --to" in str(caught.value)
    write_text(tmp_path / "scores.json", '{"counts": 3}')
    with pytest.raises(RunError, match="damaged"):
        write_evaluation(tmp_path)


def test_calibration_is_drawn_when_there(tmp_path, conditions):
    sure = [replace(one, logprob=-0.1 * (number % 9)) for number, one in enumerate(conditions["model"])]
    scores = score_predictions(sure, resamples=100)
    if scores["calibration"] is None:
        pytest.fail("answers with probabilities have no calibration")
    write_json(tmp_path / "scores.json", scores)
    page = Page(write_evaluation(tmp_path).read_text(encoding="utf-8"))
    shown = page.row("calibration", "Expected calibration error, %")[0]
    assert shown.startswith(f"{percent(scores['calibration']['ece']['mean'])}|")


def test_the_same_files_give_the_same_page(folder, text, monkeypatch):
    assert write_evaluation(folder).read_text(encoding="utf-8") == text


def test_the_page_needs_no_torch():
    code = "import sys, radvqa.report.evaluation; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
