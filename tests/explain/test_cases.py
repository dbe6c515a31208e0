import dataclasses

import numpy as np
import pytest
import torch

from radvqa.data.imaging import open_image
from radvqa.errors import DataError
from radvqa.explain import views
from radvqa.explain.asked import ask
from radvqa.explain.bundle_files import ARRAYS_FILE, PIXELS, case_folder, case_key, write_bundle
from radvqa.explain.capture import Keep, trace
from radvqa.explain.cases import (
    ExplainedModel,
    case_line,
    choose,
    explain_case,
    generated,
    kept_case,
    made_from,
    predicted,
    written,
)
from radvqa.explain.map_settings import MapSettings
from radvqa.explain.targets import asked_regions
from radvqa.models.layout import PROMPT_ID
from radvqa.models.lora import attach_lora
from radvqa.sample import Prediction, Region
from radvqa.train.pictures import StoredPictures

MODEL = ExplainedModel(name="tiny", weights="w", run="r", stage="align")


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


def test_an_answer_that_nobody_can_judge_is_neither_right_nor_wrong(vlm):
    some = [prediction(number, image=str(number)) for number in range(5)]
    some[:2] = [dataclasses.replace(one, references=()) for one in some[:2]]
    assert sorted(choose(some, 3)) == ["s2", "s3", "s4"]
    assert set(choose(some, 5)[3:]) == {"s0", "s1"}
    assert predicted(some[0], vlm).correct is None


@pytest.fixture(params=["bare", "adapted"])
def explained(request, vlm):
    """The tiny checkpoint in each layout, with and without adapters around it."""
    if request.param == "adapted":
        attach_lora(
            vlm, rank=2, alpha=4.0, dropout=0.5, targets="attention", parts=("language_model",),
            base_name=vlm.name, revision=None, seed=0,
        )  # fmt: skip
    return vlm


def case(vlm, sample, store, *texts, methods=("raw", "rollout"), **more):
    names = ("model", "reference", "typed")
    answers = {name: written(vlm, text, sample, correct=None) for name, text in zip(names, texts, strict=False)}
    pixels = store.pixels(sample.image)
    return explain_case(vlm, sample, pixels, answers=answers, model=MODEL, methods=methods, **more)


def test_a_case_says_what_it_shows(explained, samples, store, phantom):
    vlm, sample = explained, samples[0]
    manifest, arrays = case(vlm, sample, store, "left lung", "Yes", regions=phantom.regions(sample.image_id))
    assert (manifest.key, manifest.sample_id) == (case_key(sample.sample_id), sample.sample_id)
    assert (manifest.question, manifest.references) == (sample.question, sample.answers)
    assert manifest.model["stage"] == "align"
    assert (manifest.model["layers"], manifest.model["heads"]) == arrays["model/attention"].shape[1:3]
    assert list(manifest.views) == ["model", "reference"]
    for name, view in manifest.views.items():
        answered = [token for token in view.tokens if token.part == "answer"]
        assert "".join(token.text for token in answered) == view.text
        assert arrays[f"{name}/attention"].shape[0] == len(view.tokens)
        assert arrays[f"{name}/maps/raw"].shape == (len(answered) + 1, *vlm.image_grid)
        assert view.logprob == pytest.approx(sum(token.logprob for token in answered))
        assert view.confidence == pytest.approx(np.exp(view.logprob / len(answered)))
        for record in view.maps:
            assert len(record.tokens) == len(answered)
            grid = arrays[f"{name}/maps/{record.method}"][-1]
            assert (record.answer.low, record.answer.high) == (grid.min(), grid.max())
            assert record.answer.image_mass == pytest.approx(grid.sum(), rel=1e-5)
    image = np.asarray(open_image(sample.image))
    assert np.array_equal(arrays[PIXELS], image[..., 0] if arrays[PIXELS].ndim == 2 else image)
    line = case_line(manifest, group_id="g")
    assert (line.answer, line.group_id, line.folder) == ("left lung", "g", f"cases/{manifest.key}")
    assert set(line.facts) == {"raw", "rollout"}


def test_bytes_hold_the_attention_of_every_text_token(vlm, samples, store):
    """Of a prompt token its own row, of an answer token the row that predicts it."""
    sample = samples[0]
    _, arrays = case(vlm, sample, store, "lung")
    given = written(vlm, "lung", sample, correct=None)
    asked = ask(vlm, sample, given.token_ids, torch.from_numpy(store.pixels(sample.image)))
    found = trace(asked, Keep(image_rows=True, fused="mean"))
    # By position in the whole sequence, which the capture of text rows does not use.
    positions = [*range(asked.prompt.start, asked.prompt.stop), *range(asked.rows.start, asked.rows.stop)]
    expected = found.fused[:, positions, asked.image].permute(1, 0, 2).numpy()
    assert arrays["model/attention"].shape[0] == len(positions)
    weights = arrays["model/attention"] / 255.0 * arrays["model/attention_scale"][..., None, None]
    shown = weights.reshape(*weights.shape[:3], -1).mean(axis=2)
    np.testing.assert_allclose(shown, expected, atol=1.01 / 255 * float(arrays["model/attention_scale"].max()))
    np.testing.assert_allclose(arrays["model/image_mass"].mean(axis=2), expected.sum(-1), rtol=1e-4)
    prompt = arrays["model/image_to_prompt"]
    assert prompt.shape[-1] == asked.prompt.stop - asked.prompt.start
    sees_question = bool(prompt[..., 1:].sum() > 0)
    assert sees_question == (vlm.layout == "per_question")


def test_maps_are_measured_on_the_region_asked_about(vlm, samples, store, phantom):
    sample = next(one for one in samples if asked_regions(one, phantom.regions(one.image_id)))
    manifest, _ = case(vlm, sample, store, "Yes", regions=phantom.regions(sample.image_id))
    facts = manifest.views["model"].maps[0].answer
    assert 0 < facts.area < 1
    assert facts.enrichment == pytest.approx(facts.energy / facts.area)
    assert any(one.asked for one in manifest.outlines)
    assert case_line(manifest, group_id="g").asked_regions
    # Without regions nothing is measured, and nothing else changes.
    bare, _ = case(vlm, sample, store, "Yes")
    facts = bare.views["model"].maps[0].answer
    assert (facts.hit, facts.energy, facts.area, facts.enrichment) == (None, None, None, None)
    assert bare.outlines == ()


def test_undefined_numbers_are_none(vlm, samples, store):
    """One token has no other token to differ from."""
    manifest, _ = case(vlm, samples[0], store, "3")
    (record, _) = manifest.views["model"].maps
    assert record.answer.specificity is None
    assert record.answer.grid_specificity is None


def test_an_answer_that_needs_no_image_is_told(vlm, samples, store):
    with torch.no_grad():
        vlm.projector.linear.weight.zero_()
        vlm.projector.linear.bias.zero_()
        for layer in vlm.language_model.layers:
            layer.self_attn.v_proj.weight.zero_()
    manifest, _ = case(vlm, samples[0], store, "Yes")
    view = manifest.views["model"]
    assert abs(view.reliance) < 1e-4
    assert any("as probable without the image" in one for one in view.warnings)


def test_the_model_s_own_answer_is_token_for_token_what_it_generated(vlm, samples, store):
    sample = samples[0]
    rows = vlm.rows([sample], answers=False)
    (answer,) = vlm.answer(vlm.batch(rows), StoredPictures(store).vision(rows, update=0), max_new_tokens=6)
    found = generated(vlm, sample, store.pixels(sample.image), max_new_tokens=6)
    assert (found.text, found.finished) == (answer.text, answer.finished)
    assert found.token_ids == tuple(token for token in answer.token_ids if token != vlm.tokens.eos_id)
    assert found.correct is False or answer.text in sample.answers
    unknown = dataclasses.replace(sample, answers=())
    assert generated(vlm, unknown, store.pixels(sample.image), max_new_tokens=2).correct is None


def test_predictions_lose_their_end_token_only(vlm):
    end = vlm.tokens.eos_id
    found = predicted(prediction(0, token_ids=(9, 8, end)), vlm)
    assert (found.token_ids, found.correct) == ((9, 8), True)
    assert predicted(prediction(0, text="", token_ids=(end,)), vlm).token_ids == ()


def test_an_empty_answer_has_nothing_to_explain(vlm, samples):
    with pytest.raises(DataError, match="no tokens") as caught:
        written(vlm, "", samples[0], correct=None)
    assert caught.value.where == samples[0].sample_id


def test_a_case_is_made_anew_when_anything_that_it_depends_on_changes(samples):
    sample = samples[0]
    same = {"image_sha256": "i", "answer": (1, 2), "model": MODEL, "regions": ()}
    first = made_from(sample, **same)
    assert made_from(dataclasses.replace(sample, image=sample.image.parent / "moved.png"), **same) == first
    others = [
        made_from(dataclasses.replace(sample, question="Other?"), **same),
        made_from(sample, **{**same, "image_sha256": "j"}),
        made_from(sample, **{**same, "answer": (1, 3)}),
        made_from(sample, **{**same, "answer": None}),
        made_from(sample, **{**same, "model": dataclasses.replace(MODEL, weights="v")}),
        made_from(sample, **{**same, "regions": (Region(label="Liver", box=(0.0, 0.0, 1.0, 1.0)),)}),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_mask_that_is_drawn_anew_makes_another_case(samples, tmp_path):
    mask = tmp_path / "mask.png"
    given = {
        "image_sha256": "i", "answer": None, "model": MODEL,
        "regions": (Region(label="Liver", mask=mask, mask_value=1), Region(label="Lung", mask=mask, mask_value=2)),
    }  # fmt: skip
    found = []
    for content in (b"old", b"new", b"old"):
        mask.write_bytes(content)
        found.append(made_from(samples[0], **given))
    assert found[0] == found[2] != found[1]
    mask.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        made_from(samples[0], **given)


def test_a_case_is_kept_for_fewer_methods_and_loses_none(vlm, samples, store, tmp_path):
    def kept(*methods, made="a", settings=MapSettings()):  # noqa: B008 - frozen
        manifest, all_methods = kept_case(folder, made_from=made, methods=methods, settings=settings)
        return manifest is not None, all_methods

    sample = samples[0]
    folder = case_folder(tmp_path, case_key(sample.sample_id))
    assert kept("raw") == (False, ("raw",))
    manifest, arrays = case(vlm, sample, store, "left lung", made_from="a", settings=MapSettings(alpha=0.7))
    write_bundle(folder, manifest, arrays)
    assert manifest.model["settings"] == {
        "alpha": 0.7, "fusion": "mean", "layers": None, "heads": None, "sinks": "mark", "discard": 0.0,
    }  # fmt: skip
    assert kept("raw", "rollout", settings=MapSettings(alpha=0.7)) == (True, ("raw", "rollout"))
    # Settings count where a method heeds them.
    assert kept("raw", settings=MapSettings(window=2)) == (True, ("raw", "rollout"))
    assert kept("rollout") == (False, ("raw", "rollout"))
    assert kept("raw", settings=MapSettings(heads=(0,))) == (False, ("raw", "rollout"))
    # More methods: all of them, so that none is lost.
    assert kept("chefer") == (False, ("raw", "rollout", "chefer"))
    assert kept("raw", made="b") == (False, ("raw",))
    (folder / ARRAYS_FILE).write_bytes(b"")
    assert kept("raw") == (False, ("raw", "rollout"))


def test_layers_and_heads_are_kept_as_they_are_read_back(vlm, samples, store, tmp_path):
    settings = MapSettings(layers=(0, 1), heads=(0,))
    manifest, arrays = case(vlm, samples[0], store, "Yes", methods=("raw",), made_from="a", settings=settings)
    folder = case_folder(tmp_path, manifest.key)
    write_bundle(folder, manifest, arrays)
    assert kept_case(folder, made_from="a", methods=("raw",), settings=settings)[0] is not None


def test_the_generic_question_is_asked_in_the_question_s_language(vlm, samples, store, monkeypatch):
    asked = []
    real = views.generic_question
    monkeypatch.setattr(views, "generic_question", lambda one, *, language: asked.append(language) or real(one))
    case(vlm, dataclasses.replace(samples[0], language="zh"), store, "Yes", methods=("relative",))
    assert asked == ["zh"]
