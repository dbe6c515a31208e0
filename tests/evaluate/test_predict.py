import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from radvqa.errors import DataError
from radvqa.evaluate import predict as module
from radvqa.evaluate.predict import BLANK_GREY, other_images, predict, predictions
from radvqa.models.layout import PROMPT_ID
from radvqa.models.vlm import Answer, Vlm


@pytest.fixture
def shown(monkeypatch):
    """What the model was shown for each question, by sample id; the answers are the sample ids."""
    seen = {}

    def answer(self, batch, vision, *, max_new_tokens):
        ids = []
        for row, number in zip(batch.rows, vision.row_image.tolist(), strict=True):
            for question in row.questions:
                seen[question.sample_id] = vision.projected[number].numpy()
                ids.append(question.sample_id)
        return [Answer(f"to {one}", True, (5, 1), -0.5) for one in ids]

    monkeypatch.setattr(Vlm, "image_tokens", lambda self, pixels: pixels)
    monkeypatch.setattr(Vlm, "answer", answer)
    return seen


def run(vlm, samples, store, condition="model", **changes):
    settings = {"max_new_tokens": 4, "batch_size": 3, "seed": 0} | changes
    return predict(vlm, samples, store, condition=condition, **settings)


def test_one_prediction_per_sample_in_their_order(vlm, samples, store, shown):
    mixed = [samples[index] for index in np.random.default_rng(0).permutation(len(samples))]
    told = []
    found = run(vlm, mixed, store, done=told.append)
    assert [one.sample_id for one in found] == [one.sample_id for one in mixed]
    assert [one.text for one in found] == [f"to {one.sample_id}" for one in mixed]
    assert sum(told) == len(mixed)


def test_a_prediction_holds_its_sample(per_question, samples, store, shown):
    for one, sample in zip(run(per_question, samples, store), samples, strict=True):
        assert (one.group_id, one.image_id, one.question) == (sample.group_id, sample.image_id, sample.question)
        assert (one.references, one.answer_type, one.tags) == (sample.answers, sample.answer_type, sample.tags)
        assert (one.prompt_id, one.finished, one.token_ids, one.logprob) == (PROMPT_ID, True, (5, 1), -0.5)


def test_the_model_sees_the_sample_s_own_image(vlm, samples, store, shown):
    run(vlm, samples, store)
    for sample in samples:
        assert np.array_equal(shown[sample.sample_id], store.pixels(sample.image))


def test_blank_is_grey_for_everyone(vlm, samples, store, shown):
    run(vlm, samples, store, "blank")
    assert len(shown) == len(samples)
    assert all((picture == BLANK_GREY).all() for picture in shown.values())


def test_shuffled_is_always_another_image(vlm, samples, store, shown):
    run(vlm, samples, store, "shuffled")
    pictures = {sample.image: store.pixels(sample.image).tobytes() for sample in samples}
    for sample in samples:
        given = shown[sample.sample_id].tobytes()
        assert given != pictures[sample.image]
        assert given in pictures.values()


@pytest.mark.parametrize("count", [2, 3, 10])
def test_other_images_use_each_image_once(samples, count):
    images = [samples[0].image.with_name(f"{number}.png") for number in range(count)]
    for seed in range(20):
        other = other_images(images * 2, seed=seed)
        assert sorted(other) == sorted(other.values()) == sorted(images)
        assert all(here != there for here, there in other.items())
    assert other_images(images, seed=3) == other_images(list(reversed(images)), seed=3)


def test_one_image_cannot_be_shuffled(per_question, samples, store):
    with pytest.raises(DataError, match="needs two images") as caught:
        run(per_question, samples[:2], store, "shuffled")
    assert caught.value.got == "1 image"


def test_batch_size_changes_nothing(vlm, samples, store):
    one = run(vlm, samples[:6], store, batch_size=1)
    all_ = run(vlm, samples[:6], store, batch_size=8)
    assert [replace(found, logprob=0) for found in one] == [replace(found, logprob=0) for found in all_]
    assert [found.logprob for found in one] == pytest.approx([found.logprob for found in all_], abs=1e-4)


def test_answers_are_not_fed_to_the_model(vlm, samples, store, monkeypatch):
    """The references play no part in what is generated."""
    batches = []
    original = Vlm.answer
    monkeypatch.setattr(
        Vlm, "answer", lambda self, batch, *a, **k: batches.append(batch) or original(self, batch, *a, **k)
    )
    run(vlm, samples[:4], store)
    assert batches
    assert all(not batch.suffix.any() and torch.equal(batch.labels, batch.labels.clamp(max=-100)) for batch in batches)
    other = [replace(one, answers=("Something else",)) for one in samples[:4]]
    texts = [one.text for one in run(vlm, samples[:4], store)]
    assert texts == [one.text for one in run(vlm, other, store)]


def test_conditions_are_those_of_the_recipe_and_mirrored():
    assert set(module.Condition.__args__) == {"model", "blank", "shuffled", "mirrored"}


def test_mirrored_exchanges_left_and_right(vlm, samples, store, shown):
    run(vlm, samples, store, "mirrored")
    for sample in samples:
        own = store.pixels(sample.image)
        assert np.array_equal(shown[sample.sample_id], own[:, ::-1])
        assert not np.array_equal(shown[sample.sample_id], own)


def test_a_prediction_tells_how_and_from_what(per_question, samples, store, shown):
    marked = [replace(one, link_id="l", dialogue_id="d", turn=2) for one in samples]
    by_condition = {name: run(per_question, marked, store, name) for name in module.Condition.__args__}
    for found in by_condition.values():
        assert {(one.decoding, one.dtype) for one in found} == {("greedy, at most 4 new tokens", "float32")}
        assert {(one.link_id, one.dialogue_id, one.turn) for one in found} == {("l", "d", 2)}
    files = [hashlib.sha256(one.image.read_bytes()).hexdigest() for one in samples]
    assert [one.image_hash for one in by_condition["model"]] == files
    assert [one.image_hash for one in by_condition["mirrored"]] == files
    assert {one.image_hash for one in by_condition["blank"]} == {""}
    others = [one.image_hash for one in by_condition["shuffled"]]
    assert set(others) == set(files)
    assert all(one != own for one, own in zip(others, files, strict=True))


def test_each_picture_goes_through_the_tower_once(vlm, samples, store):
    seen = []
    vlm.vision_encoder.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    run(vlm, samples, store, batch_size=2)
    assert sum(seen) == len({one.image for one in samples})


def test_known_answers_are_not_asked_for_again_and_change_no_other(vlm, samples, store):
    settings = {"condition": "model", "max_new_tokens": 4, "batch_size": 2, "seed": 0}
    batches = list(predictions(vlm, samples, store, **settings))
    known = {one.sample_id for one in batches[0]} | {batches[1][0].sample_id}
    again = list(predictions(vlm, samples, store, **settings, known=known))
    # All of a layout's first batch is known; the second is asked whole, because one of it is not.
    whole = [some for some in batches if not all(one.sample_id in known for one in some)]
    assert again == whole
    assert len(again) < len(batches)


def test_windows_of_few_pictures_give_the_same_answers(vlm, samples, store, monkeypatch):
    expected = [one.token_ids for one in run(vlm, samples, store)]
    monkeypatch.setattr(module, "PICTURES_HELD", 2)
    monkeypatch.setattr(module, "PICTURES_PER_PASS", 1)
    assert [one.token_ids for one in run(vlm, samples, store)] == expected
