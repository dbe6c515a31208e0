from dataclasses import asdict

import pytest
import torch
from PIL import Image

from radvqa.errors import DataError
from radvqa.explain.cases import choose, explain_sample, trace_answer
from radvqa.models.layout import PROMPT_ID
from radvqa.models.lora import attach_lora
from radvqa.sample import Prediction
from radvqa.train.pictures import StoredPictures


def prediction(number, *, right=True, image="a", kind="Organ", text=None, token_ids=(9, 1)):
    return Prediction(
        sample_id=f"s{number}",
        group_id=image,
        image_id=image,
        question="Which organ is it?",
        references=("Liver",),
        answer_type="open",
        text=text if text is not None else "liver" if right else "kidney",
        prompt_id=PROMPT_ID,
        finished=True,
        token_ids=token_ids,
        logprob=-1.0,
        tags={"content_type": kind},
    )


def test_right_and_wrong_answers_take_turns():
    some = [prediction(number, right=number < 5, image=str(number)) for number in range(10)]
    assert [int(one[1:]) < 5 for one in choose(some, 6)] == [True, False] * 3


def test_each_image_comes_once_before_any_comes_twice():
    some = [prediction(number, image="abc"[number // 2]) for number in range(6)]
    by_id = {one.sample_id: one.image_id for one in some}
    assert sorted(by_id[one] for one in choose(some, 3)) == ["a", "b", "c"]


def test_content_types_are_spread():
    some = [prediction(number, image=str(number), kind="Organ" if number < 6 else "Plane") for number in range(8)]
    kinds = {one.sample_id: one.tags["content_type"] for one in some}
    assert sorted(kinds[one] for one in choose(some, 4)) == ["Organ", "Organ", "Plane", "Plane"]


def test_the_choice_does_not_depend_on_the_order():
    some = [prediction(number, right=number % 3 == 0, image=str(number % 4)) for number in range(12)]
    assert choose(some, 7) == choose(list(reversed(some)), 7)


@pytest.mark.parametrize(("there", "asked", "given"), [(3, 8, 3), (0, 8, 0), (3, 0, 0)])
def test_no_more_than_there_are(there, asked, given):
    assert len(choose([prediction(number) for number in range(there)], asked)) == given


@pytest.fixture(params=["bare", "adapted"])
def explained(request, vlm):
    """The tiny checkpoint in each layout, with and without adapters around it."""
    if request.param == "adapted":
        attach_lora(
            vlm, rank=2, alpha=4.0, dropout=0.5, targets="attention", parts=("language_model",),
            base_name=vlm.name, revision=None, seed=0,
        )  # fmt: skip
    return vlm


def test_the_traced_pass_is_the_one_that_predicts_the_answer(explained, samples, store):
    """Logits of the traced rows equal those of training on this answer, whose tokens they predict."""
    vlm, sample = explained, samples[0]
    ids = vlm.tokenizer(sample.answers[0]).input_ids
    trace, positions = trace_answer(vlm, sample, ids, store)
    rows = vlm.rows([sample], answers=True)
    batch = vlm.batch(rows)
    with torch.no_grad():
        expected = vlm.supervised_logits(batch, StoredPictures(store).vision(rows, update=0))
    length = len(sample.answers[0])  # one token per letter
    assert positions.stop - positions.start == length
    assert batch.predicting[0].nonzero().flatten().tolist() == [*range(positions.start, positions.stop + 1)]
    torch.testing.assert_close(trace.logits, expected[:-1], atol=1e-5, rtol=0)
    assert trace.image_tokens == slice(0, 16)


def test_one_question_s_image_tokens_see_it_only_in_its_own_layout(vlm, samples, store):
    trace, positions = trace_answer(vlm, samples[0], vlm.tokenizer("Small").input_ids, store)
    image_to_question = trace.fused[:, :16, 17 : positions.start + 1].sum()
    assert bool(image_to_question > 0) == (vlm.layout == "per_question")


def test_a_case_says_what_it_shows(explained, samples, store, phantom, tmp_path):
    sample = samples[0]
    answer = sample.answers[0].lower()
    ids = (*explained.tokenizer(answer).input_ids, explained.tokens.eos_id)
    answered = prediction(0, text=answer, token_ids=ids)
    case = explain_sample(
        explained, sample, answered, store,
        alpha=0.5, regions=phantom.regions(sample.image_id), folder=tmp_path / "explain",
    )  # fmt: skip
    assert (case.sample_id, case.image_id, case.question) == (sample.sample_id, sample.image_id, sample.question)
    assert case.panel == f"explain/{sample.sample_id}.png"
    with Image.open(tmp_path / case.panel) as panel:
        assert min(panel.size) > 100
    assert set(case.methods) == {"raw attention", "rollout"}
    for weights in case.methods.values():
        assert set(weights) == {"image_mass", "sink_mass", "self_mass", "entropy", "specificity"}
        assert 0 < weights["image_mass"] < 1
    assert asdict(case)["answer"] == sample.answers[0].lower()


def test_an_empty_answer_has_nothing_to_explain(vlm, samples, store):
    with pytest.raises(DataError, match="no answer token to explain") as caught:
        trace_answer(vlm, samples[0], (), store)
    assert caught.value.where == samples[0].sample_id


def test_the_generated_tokens_are_explained_not_the_text_cut_anew(vlm, samples, store):
    """The maps belong to what was generated: its most likely token at each place, whatever its text would cut into."""
    rows = vlm.rows(samples[:1], answers=False)
    vision = StoredPictures(store).vision(rows, update=0)
    (answer,) = vlm.answer(vlm.batch(rows), vision, max_new_tokens=6)
    ids = [token for token in answer.token_ids if token != vlm.tokens.eos_id]
    trace, _ = trace_answer(vlm, samples[0], ids, store)
    suppressed = [vlm.tokens.image_id, vlm.tokens.bos_id]
    trace.logits[:, suppressed] = -torch.inf
    assert trace.logits.argmax(-1).tolist() == ids
