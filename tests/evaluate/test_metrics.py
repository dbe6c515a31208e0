import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.errors import DataError
from radvqa.evaluate.metrics import METRICS, exact_match, token_f1
from radvqa.sample import Prediction


def answered(text, *references):
    return Prediction(
        sample_id="s1",
        group_id="g1",
        image_id="i1",
        question="Which organ?",
        references=references,
        answer_type="open",
        text=text,
        prompt_id="p",
        finished=True,
        token_ids=(5, 1),
        logprob=-0.5,
    )


@pytest.mark.parametrize(
    ("text", "references", "match", "f1"),
    [
        ("Lung", ("lung",), 1.0, 1.0),
        ("the lung.", ("Lung",), 1.0, 1.0),
        ("Kidney, Liver", ("Liver, Kidney",), 1.0, 1.0),
        ("right lung upper left", ("Right Lung, Upper Left",), 1.0, 1.0),
        ("Right Lung, Left", ("Left Lung, Right",), 0.0, 1.0),
        ("left lung", ("lung",), 0.0, 2 / 3),
        ("lung", ("liver", "left lung", "Lung"), 1.0, 1.0),
        ("lung", ("liver", "left lung"), 0.0, 2 / 3),
        ("lung lung lung lung lung", ("lung",), 0.0, 1 / 3),
        ("lung lung", ("lung lung heart",), 0.0, 0.8),
        ("liver", ("lung",), 0.0, 0.0),
        ("3.5", ("35",), 0.0, 0.0),
        ("50 HU", ("-50 HU",), 0.0, 0.5),
        ("yes or no", ("Yes",), 0.0, 0.5),
        ("normal", ("No",), 0.0, 0.0),
        ("I am not sure.", ("No",), 0.0, 0.0),
        ("", ("No",), 0.0, 0.0),
        (" . ", ("No",), 0.0, 0.0),
        ("", ("?", "No"), 0.0, 0.0),
    ],
)
def test_hand_computed_scores(text, references, match, f1):
    prediction = answered(text, *references)
    assert exact_match(prediction) == match
    assert token_f1(prediction) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS.values())
@pytest.mark.parametrize("references", [(), ("",), (" ?", "The")])
def test_empty_references_are_an_error_even_for_an_empty_answer(metric, references):
    with pytest.raises(DataError, match="'s1'"):
        metric(answered("", *references))


words = st.lists(st.sampled_from(["lung", "left", "Liver", "x-ray", "2.5", "no"]), min_size=1, max_size=5).map(" ".join)


@settings(deadline=None)
@given(words, words)
def test_f1_is_symmetric_bounded_and_one_wherever_exact_match_is(a, b):
    f1 = token_f1(answered(a, b))
    assert f1 == token_f1(answered(b, a))
    assert 0.0 <= f1 <= 1.0
    assert f1 >= exact_match(answered(a, b))


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=3))
def test_the_reference_itself_scores_one(references):
    for metric in METRICS.values():
        assert metric(answered(references[-1], *references)) == 1.0
