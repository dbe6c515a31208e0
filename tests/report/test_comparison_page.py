import random
import subprocess
import sys
from dataclasses import replace

import pytest
from html_page import Page

from radvqa.evaluate.model_comparison import compare_models
from radvqa.report.comparison import write_comparison
from radvqa.report.comparison_wording import conclusions, coverage, reading
from radvqa.sample import Prediction

HOSTILE = '<script>alert("1")</script>'


def answers(name, share, images=80, tag="CT"):
    choose = random.Random(name)
    return [
        Prediction(
            sample_id=f"q{number}", group_id=f"g{number}", image_id="i", question="Is it?", references=("Yes",),
            answer_type="closed" if number % 2 else "open", text="Yes" if choose.random() < share else "No",
            prompt_id="p", finished=True, token_ids=(), logprob=None, tags={"modality": tag},
        )
        for number in range(images)
    ]  # fmt: skip


def told(**shares):
    sets = {name: answers(name, share) for name, share in shares.items()}
    found = compare_models(sets, reference="a", resamples=300)
    return found, {name: " ".join(sentences) for name, sentences in conclusions(found).items()}


def test_a_clear_difference_is_claimed_with_its_interval():
    found, texts = told(a=0.2, b=0.9)
    one = found["models"]["b"]["parts"]["all"]
    limits = one["clustered_t"]
    assert texts["b"].startswith(
        f"b is better than a by {100 * one['difference']:.1f} points (95 % interval of the difference "
        f"+{100 * limits['low']:.1f} to +{100 * limits['high']:.1f}; p = 0.00"
    )
    assert "not shown" not in texts["b"]
    assert told(a=0.9, b=0.2)[1]["b"].startswith("b is worse than a by ")


def test_an_unclear_one_is_not_and_the_power_is_told():
    found, texts = told(a=0.5, b=0.55)
    detectable = found["models"]["b"]["parts"]["all"]["detectable"]
    assert texts["b"].startswith("It is not shown that b and a differ")
    assert "Nor is it shown that they are the same within 2 points." in texts["b"]
    assert f"a true difference smaller than {100 * detectable:.1f} points is missed" in texts["b"]


def test_luck_among_several_models_is_named():
    found, _ = told(a=0.5, b=0.6, c=0.6)
    one = found["models"]["b"]["parts"]["all"]
    one.update(p=0.03, adjusted_p=0.06, verdict="unclear")
    text = " ".join(conclusions(found)["b"])
    assert "Alone it would count as a difference, but 2 models were compared" in text
    assert "p = 0.030, adjusted for 2 models = 0.060" in text


def test_the_test_that_failed_is_named_beside_an_interval_without_zero():
    sets = {name: [replace(one, group_id=f"g{number % 5}") for number, one in enumerate(answers(name, share))]
            for name, share in (("a", 0.9), ("b", 0.2))}  # fmt: skip
    found = compare_models(sets, reference="a", resamples=300)
    assert found["models"]["b"]["parts"]["all"]["clustered_t"]["high"] < 0
    text = " ".join(conclusions(found)["b"])
    assert text.startswith("It is not shown that b and a differ")
    assert "The interval excludes 0, but a claim needs two tests: swapping" in text
    assert "These are too few groups: with 5 no difference, however large, could be claimed" in text
    assert "80 % power" not in text
    assert "too few groups to show a difference; random swaps of groups p = 0.062" in text
    one = found["models"]["b"]["parts"]["all"]
    one.update(p_randomisation=0.03, p=0.03, adjusted_p=0.06, least_p=0.001, verdict="unclear")
    assert reading(one, 0.95) == "no difference shown; adjusted p = 0.060"
    one["clustered_t"]["high"] = 0.01
    assert reading(one, 0.95) == "no difference shown"


def test_parts_and_equivalence_are_told_to_stand_alone():
    found, texts = told(a=0.2, b=0.9, c=0.95)
    assert "By answer type, each by itself: " in texts["b"]
    assert "adjusted for their number, each model by itself: better on modality CT" in texts["b"]
    one = found["models"]["b"]["parts"]["all"]
    one["verdict"] = "same"
    assert conclusions(found)["b"][0].startswith("b and a are the same within 2 points, each model tested by itself: ")
    one["verdict"] = "not_worse"
    assert "is not worse than a by 2 points or more, each model tested by itself." in " ".join(conclusions(found)["b"])


def test_finer_groups_are_told():
    ours = answers("a", 0.5)
    theirs = [replace(one, group_id=f"p{number // 2}") for number, one in enumerate(answers("b", 0.5))]
    text = " ".join(coverage(compare_models({"a": ours, "b": theirs}, reference="a", resamples=300)))
    assert "different groups: the 40 of b are used, which hold the finer ones (80 of a)." in text


def test_equal_answers_and_one_group():
    ours = answers("a", 0.5)
    found = compare_models({"a": ours, "b": ours}, reference="a", resamples=300)
    assert conclusions(found)["b"] == ["b gave the same text as a to every question: there is nothing to tell apart."]
    sets = {name: [replace(one, group_id="g") for one in answers(name, 0.5)] for name in "ab"}
    assert conclusions(compare_models(sets, reference="a", resamples=300))["b"][0].startswith(
        "Nothing can be concluded"
    )


def test_what_was_left_out_is_told():
    ours, theirs = answers("a", 0.5), answers("b", 0.5)[5:]
    theirs[0] = replace(theirs[0], text="", missing=True)
    text = " ".join(coverage(compare_models({"a": ours, "b": theirs}, reference="a", common=True, resamples=300)))
    assert "5 questions that a answered are missing in b, and 0 of b are missing in a." in text
    assert "Questions without any answer count as wrong: 1 by b." in text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    sets = {"a": answers("a", 0.4, tag=HOSTILE), HOSTILE: answers("b", 0.8), "c": answers("c", 0.45)}
    path = write_comparison(compare_models(sets, reference="a", resamples=300), folder, sources={"a": "runs & more"})
    assert path == folder / "comparison.html"
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole_escaped_and_loads_nothing(text):
    page = Page(text)
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert text.count("Research tool. Not for clinical use.") == 2
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert set(links) <= {attributes.get("id") for _, attributes in page.tags}
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["src"].startswith("data:image/png;base64,")
    assert image["alt"]
    assert "runs &amp; more" in text


def test_the_page_shows_the_numbers(tmp_path):
    found, texts = told(a=0.2, b=0.9)
    page = Page(write_comparison(found, tmp_path).read_text(encoding="utf-8"))
    one = found["models"]["b"]["parts"]["all"]
    row = page.row("table", "all")
    assert row[1:3] == [f"{100 * one['reference']:.1f}", f"{100 * one['model']:.1f}"]
    assert row[3].startswith(f"+{100 * one['difference']:.1f}|")
    assert row[5].startswith(f"{one['mcnemar']['only_model']} / {one['mcnemar']['only_reference']}|")
    assert row[-1] == "better"
    assert page.row("slices", "CT")[0] == "80|80 groups"
    assert texts["b"].split(". ")[0].partition(" points")[0] in write_comparison(found, tmp_path).read_text()


def test_comparing_needs_no_torch():
    code = "import sys, radvqa.cli.compare, radvqa.report.comparison, radvqa.evaluate.prediction_files"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True, timeout=100)
