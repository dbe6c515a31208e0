"""The model against transformers' own forward and generation, which is what a user without radvqa runs."""

import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from radvqa.errors import ModelError
from radvqa.evaluate.predict import predict
from radvqa.models.checkpoint_loading import load_network
from radvqa.models.features import FeatureStore
from radvqa.models.layout import Question, Row, additive_mask, attention_inputs, prompt_text, shared_image_mask
from radvqa.models.opening import weights_digest
from radvqa.models.vlm import Vision, part_of, trainable_counts
from radvqa.train.pictures import FrozenFeatures, StoredPictures

TIGHT = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def processor(tiny_folder):
    """transformers' processor around the tiny tokenizer."""
    pictures = SiglipImageProcessorPil(
        size={"height": 56, "width": 56}, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    pictures.image_seq_length = 16
    return PaliGemmaProcessor(image_processor=pictures, tokenizer=AutoTokenizer.from_pretrained(tiny_folder))


@pytest.fixture
def native(processor, store):
    """The inputs that transformers' processor makes of samples."""

    def inputs(samples, *, answers=True, side="right"):
        # The processor writes the newline itself.
        prompts = ["<image>" + prompt_text(one.question, one.language).removesuffix("\n") for one in samples]
        with warnings.catch_warnings():
            # transformers 5.23 hands torch tensors to numpy 2 in its old way.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            found = processor(
                images=[Image.fromarray(store.pixels(one.image)) for one in samples],
                text=prompts,
                suffix=[one.answers[0] for one in samples] if answers else None,
                padding="longest",
                padding_side=side,
                return_tensors="pt",
            )
        if not answers:
            found.pop("labels")
        return dict(found)

    return inputs


@pytest.fixture
def seen(store):
    """What the tower is given for a batch."""
    return lambda batch: StoredPictures(store).vision(batch.rows, update=1)


def logits(vlm, batch, vision):
    with torch.no_grad():
        return vlm.supervised_logits(batch, vision)


def forward(vlm, batch, vision, **changes):
    """Logits at every position."""
    inputs = attention_inputs(batch, torch.float32) | changes
    with torch.no_grad():
        return vlm.network(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            mm_encoder_outputs=vlm.encoded(vlm.image_embeddings(vision)),
            **{name: value for name, value in inputs.items() if value is not None},
        ).logits


def varied(vlm):
    """The same model with a head of its own, so that greedy answers differ in tokens and length."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(vlm.base.lm_head.weight.shape, generator=generator)
    weight[vlm.tokens.eos_id] *= 3.0
    vlm.base.lm_head.weight = nn.Parameter(weight, requires_grad=False)
    return vlm


def of_one_image(samples):
    return [one for one in samples if one.image_id == samples[0].image_id]


# --- against transformers itself --------------------------------------------------------------------------------


def test_tokens_equal_those_of_the_processor(per_question, native, samples):
    batch = per_question.batch(per_question.rows(samples, answers=True))
    expected = native(samples)
    assert torch.equal(batch.input_ids, expected["input_ids"])
    assert torch.equal(batch.labels, expected["labels"])
    assert torch.equal(batch.suffix.long(), expected["token_type_ids"])
    assert torch.equal(batch.valid.long(), expected["attention_mask"])


def test_per_question_logits_and_loss_equal_the_network_s_own_forward(per_question, native, seen, samples):
    batch = per_question.batch(per_question.rows(samples, answers=True))
    ours = logits(per_question, batch, seen(batch))
    with torch.no_grad():
        stock = per_question.network(**native(samples))
    before_answers = functional.pad(native(samples)["labels"][:, 1:] != -100, (0, 1))
    assert len(ours) == sum(batch.target_lengths) > len(samples)
    torch.testing.assert_close(ours, stock.logits[before_answers], **TIGHT)
    torch.testing.assert_close(functional.cross_entropy(ours, batch.targets), stock.loss, **TIGHT)


def test_the_prefix_mask_is_what_the_decoder_gets(per_question, seen, samples):
    masks = []
    first_layer = per_question.language_model.layers[0]
    first_layer.register_forward_pre_hook(lambda _, __, given: masks.append(given["attention_mask"]), with_kwargs=True)
    ids = Question("q", (70, 71), (72, 73, per_question.tokens.eos_id))
    longer = Question("r", (70, 71, 74), (72, 73, 75, per_question.tokens.eos_id))
    batch = per_question.batch([Row(samples[0].image, (one,)) for one in (ids, longer)])
    forward(per_question, batch, seen(batch))
    (mask,) = masks
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    prefix = 16 + 1 + 2
    expected = torch.ones(prefix + 3, prefix + 3).tril().bool()
    expected[:prefix, :prefix] = True
    assert torch.equal(allowed[0, 0, : prefix + 3, : prefix + 3], expected)
    assert not allowed[0, 0, : prefix + 3, prefix + 3 :].any()  # padding


@pytest.mark.parametrize("side", ["single", "left"])
def test_per_question_answers_equal_transformers_generate(per_question, native, store, samples, side):
    vlm = varied(per_question)
    ours = predict(vlm, samples, store, condition="model", max_new_tokens=9, batch_size=5, seed=0)
    groups = [[one] for one in samples] if side == "single" else [samples]
    texts, tokens = [], []
    for group in groups:
        inputs = native(group, answers=False, side="left")
        never = [vlm.tokens.image_id, vlm.tokens.bos_id]
        found = vlm.network.generate(**inputs, max_new_tokens=9, do_sample=False, suppress_tokens=never)
        for new in found[:, inputs["input_ids"].shape[1] :].tolist():
            ended = vlm.tokens.eos_id in new
            used = new.index(vlm.tokens.eos_id) if ended else len(new)
            texts.append(vlm.tokenizer.decode(new[:used], skip_special_tokens=True).strip())
            tokens.append((tuple(new[: used + ended]), ended))
    assert [one.text for one in ours] == texts
    assert [(one.token_ids, one.finished) for one in ours] == tokens
    assert len(set(texts)) > 3
    assert len({one.finished for one in ours}) == 2  # some end by themselves, some are cut


# --- what may and may not influence what ------------------------------------------------------------------------


def with_last_token(row, token):
    """The row with another last word in its first answer."""
    first, *others = row.questions
    changed = Question(first.sample_id, first.prompt, (*first.answer[:-2], token, first.answer[-1]))
    return Row(row.image, (changed, *others))


def test_later_answer_tokens_never_change_earlier_logits(vlm, seen, samples):
    row = vlm.rows([one for one in of_one_image(samples) if len(one.answers[0]) > 2], answers=True)[0]
    changed = with_last_token(row, 77)
    place = 17 + len(row.questions[0].prompt) + len(row.questions[0].answer) - 2
    before, after = (forward(vlm, batch, seen(batch))[0] for batch in (vlm.batch([row]), vlm.batch([changed])))
    torch.testing.assert_close(before[:place], after[:place], atol=1e-6, rtol=0)
    assert (before[place] - after[place]).abs().max() > 0.1


def test_without_token_types_the_answer_leaks_into_its_own_prediction(per_question, seen, samples):
    """Why token types are required: transformers is silent, and attends everything to everything."""
    vlm = per_question
    row = vlm.rows(samples[:1], answers=True)[0]
    before, after = (
        forward(vlm, batch, seen(batch), token_type_ids=None)[0]
        for batch in (vlm.batch([row]), vlm.batch([with_last_token(row, 77)]))
    )
    newline = 16 + len(row.questions[0].prompt)
    assert (before[newline] - after[newline]).abs().max() > 0.01


def test_a_batch_whose_answers_are_not_marked_is_refused(per_question, seen, samples):
    batch = per_question.batch(per_question.rows(samples[:1], answers=True))
    unmarked = replace(batch, suffix=torch.zeros_like(batch.suffix))
    with pytest.raises(ModelError, match="token_type_ids do not mark"):
        per_question.supervised_logits(unmarked, seen(batch))


@pytest.mark.parametrize(("layout", "sees"), [("per_question", True), ("shared_image", False)])
def test_only_the_per_question_image_sees_the_question(open_tiny, seen, samples, layout, sees):
    vlm = open_tiny(layout)
    row = vlm.rows(samples[:1], answers=True)[0]
    asked = row.questions[0]
    other = Row(row.image, (replace(asked, prompt=(asked.prompt[0] + 1, *asked.prompt[1:])),))
    before, after = (forward(vlm, batch, seen(batch))[0, :16] for batch in (vlm.batch([row]), vlm.batch([other])))
    assert bool((before - after).abs().max() > 1e-3) == sees


def test_the_image_reaches_the_answers(vlm, seen, samples):
    batch = vlm.batch(vlm.rows(samples, answers=True))
    vision = seen(batch)
    real = logits(vlm, batch, vision)
    other = logits(vlm, batch, Vision(vision.row_image, pixels=255 - vision.pixels))
    assert (real - other).abs().amax(dim=1).min() > 1e-3  # every supervised position
    swapped = Vision(vision.row_image.flip(0), pixels=vision.pixels)
    assert (real - logits(vlm, batch, swapped)).abs().max() > 1e-3


def test_pictures_are_scaled_to_minus_one_and_one(vlm):
    given = []
    vlm.vision_encoder.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 56, 56, 3)
    vlm.see(black_and_white)
    assert given[0].shape == (2, 3, 56, 56)
    assert given[0].amin(dim=(1, 2, 3)).tolist() == [-1.0, 1.0]


def test_no_vision_input_is_refused():
    for both in ({}, {"pixels": torch.zeros(1, 56, 56, 3, dtype=torch.uint8), "features": torch.zeros(1, 16, 16)}):
        with pytest.raises(ModelError, match="a batch needs vision input"):
            Vision(torch.zeros(1, dtype=torch.long), **both)


def test_pictures_of_another_size_are_refused(vlm):
    with pytest.raises(ModelError, match=r"wrong size for this checkpoint(?s:.)*56 x 56 pixels(?s:.)*28 x 28"):
        vlm.see(torch.zeros(1, 28, 28, 3, dtype=torch.uint8))


# --- batches, rows and layouts ----------------------------------------------------------------------------------


def test_alone_equals_inside_a_padded_batch(vlm, seen, samples):
    rows = vlm.rows(samples, answers=True)
    assert len({sum(len(one.prompt) for one in row.questions) for row in rows}) > 1
    together = logits(vlm, vlm.batch(rows), seen(vlm.batch(rows)))
    alone = torch.cat([logits(vlm, batch, seen(batch)) for batch in (vlm.batch([row]) for row in rows)])
    torch.testing.assert_close(together, alone, **TIGHT)


def test_a_shared_image_row_equals_its_questions_alone(shared_image, seen, samples):
    rows = shared_image.rows(samples, answers=True)
    assert len(rows) == 5
    assert {len(row.questions) for row in rows} == {3}
    together = logits(shared_image, shared_image.batch(rows), seen(shared_image.batch(rows)))
    alone = []
    for row in rows:
        for question in row.questions:
            batch = shared_image.batch([Row(row.image, (question,))])
            alone.append(logits(shared_image, batch, seen(batch)))
    torch.testing.assert_close(together, torch.cat(alone), **TIGHT)


def test_the_layouts_differ_visibly(per_question, shared_image, seen, samples):
    some = of_one_image(samples)
    found = []
    for vlm in (per_question, shared_image):
        batch = vlm.batch(vlm.rows(some, answers=True))
        found.append(logits(vlm, batch, seen(batch)))
    assert found[0].shape == found[1].shape
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_rows_keep_the_order_of_images_and_questions(per_question, shared_image, samples):
    mixed = samples[::2]
    assert [row.questions[0].sample_id for row in per_question.rows(mixed, answers=True)] == [
        one.sample_id for one in mixed
    ]
    rows = shared_image.rows(mixed, answers=True)
    assert [row.image for row in rows] == list(dict.fromkeys(one.image for one in mixed))
    assert sorted(question.sample_id for row in rows for question in row.questions) == sorted(
        one.sample_id for one in mixed
    )


@pytest.mark.parametrize("text", ["where is <image>?", "<image><image>"])
def test_texts_with_special_tokens_are_refused(vlm, samples, text):
    with pytest.raises(ModelError, match="special token") as caught:
        vlm.question(replace(samples[0], question=text), answer=True)
    assert caught.value.where == samples[0].sample_id
    with pytest.raises(ModelError, match="no tokens"):
        vlm.question(replace(samples[0], answers=("",)), answer=True)


# --- answers ----------------------------------------------------------------------------------------------------


def greedy(vlm, question, image, seen, *, steps):
    """One full forward per token, without cache."""
    ids: list[int] = []
    total = 0.0
    while len(ids) < steps and vlm.tokens.eos_id not in ids:
        # The last place of the answer so far predicts the next token; with none, the newline does.
        batch = vlm.batch([Row(image, (replace(question, answer=tuple(ids)),))])
        last = forward(vlm, batch, seen(batch))[0, -1].float()
        last[[vlm.tokens.image_id, vlm.tokens.bos_id]] = -torch.inf
        logprobs = last.log_softmax(-1)
        ids.append(int(logprobs.argmax()))
        total += float(logprobs.max())
    return ids, total


def test_answers_equal_repeated_full_forwards(vlm, seen, samples):
    varied(vlm)
    asked = [one for index, one in enumerate(samples[:8]) if index != 1]  # rows of unequal numbers of questions
    rows = vlm.rows(asked, answers=False)
    batch = vlm.batch(rows)
    answers = vlm.answer(batch, seen(batch), max_new_tokens=7)
    assert len(answers) == len(asked)
    questions = [(row.image, question) for row in rows for question in row.questions]
    for (image, question), answer in zip(questions, answers, strict=True):
        ids, total = greedy(vlm, question, image, seen, steps=7)
        finished = ids[-1] == vlm.tokens.eos_id
        text = vlm.tokenizer.decode(ids[: len(ids) - finished], skip_special_tokens=True).strip()
        assert (answer.text, answer.finished, answer.token_ids) == (text, finished, tuple(ids))
        assert answer.logprob == pytest.approx(total, abs=1e-4)
    assert len({answer.text for answer in answers}) > 3
    assert {answer.finished for answer in answers} == {True, False}


@pytest.mark.parametrize("name", ["image_id", "bos_id"])
def test_image_and_bos_tokens_are_never_generated(vlm, seen, samples, name):
    batch = vlm.batch(vlm.rows(samples[:4], answers=False))
    states = []
    vlm.base.lm_head.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    vlm.answer(batch, seen(batch), max_new_tokens=1)
    # The token's row now points where the states point: it would win.
    weight = torch.randn(vlm.base.lm_head.weight.shape, generator=torch.Generator().manual_seed(1)) * 0.01
    token = getattr(vlm.tokens, name)
    weight[token] = states[0].flatten(0, 1).mean(dim=0) * 10
    vlm.base.lm_head.weight = nn.Parameter(weight, requires_grad=False)
    assert vlm.base.lm_head(states[0]).argmax(-1).eq(token).any()
    for answer in vlm.answer(batch, seen(batch), max_new_tokens=3):
        assert token not in answer.token_ids
        assert answer.logprob > -40  # and their share is taken of what can be generated


def saying(vlm, text):
    """Make the model say the letters of ``text`` and stop: the state of every token predicts the next letter."""
    ids = [*vlm.tokenizer("\n" + text, add_special_tokens=False).input_ids, vlm.tokens.eos_id]
    assert len(set(ids)) == len(ids)
    codes = functional.one_hot(torch.arange(len(ids)), 32).float()
    # Layers that add nothing leave the embedding as the state of its token.
    for layer in vlm.language_model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight = nn.Parameter(torch.zeros_like(projection.weight), requires_grad=False)
    embeddings, head = torch.zeros_like(vlm.base.lm_head.weight), torch.zeros_like(vlm.base.lm_head.weight)
    embeddings[ids] = codes
    head[ids[1:]] = codes[:-1] * 20
    vlm.language_model.embed_tokens.weight = nn.Parameter(embeddings, requires_grad=False)
    vlm.base.lm_head.weight = nn.Parameter(head, requires_grad=False)


def test_an_answer_holds_what_was_generated_and_nothing_of_the_prompt(vlm, store, samples):
    saying(vlm, "Brain stem")
    for prediction in predict(vlm, samples, store, condition="model", max_new_tokens=20, batch_size=3, seed=0):
        assert prediction.text == "Brain stem"
        assert prediction.finished
        assert len(prediction.token_ids) == len("Brain stem") + 1
        assert -0.1 < prediction.logprob <= 0


def test_a_cut_answer_says_so(vlm, store, samples):
    saying(vlm, "Brain stem")
    found = predict(vlm, samples[:2], store, condition="model", max_new_tokens=5, batch_size=3, seed=0)
    assert [(one.text, one.finished, len(one.token_ids)) for one in found] == [("Brain", False, 5)] * 2


def test_answers_need_a_batch_without_answers(vlm, seen, samples):
    batch = vlm.batch(vlm.rows(samples[:1], answers=True))
    with pytest.raises(ModelError, match="generated from prompts alone"):
        vlm.answer(batch, seen(batch), max_new_tokens=1)


# --- gradients, cached features, precision ----------------------------------------------------------------------


def projector_gradient(vlm, rows, vision, *, weight=1.0):
    batch = vlm.batch(rows)
    loss = functional.cross_entropy(vlm.supervised_logits(batch, vision), batch.targets, reduction="sum") * weight
    loss.backward()
    return vlm.projector.linear.weight.grad


def test_cached_features_equal_pixels(vlm, seen, store, samples, tmp_path):
    rows = vlm.rows(samples, answers=True)
    batch = vlm.batch(rows)
    paths = list(dict.fromkeys(row.image for row in rows))
    features = FeatureStore.build(vlm, store, paths, cache=tmp_path, most_bytes=10**6, seen=lambda _: None)
    cached = FrozenFeatures(features).vision(rows, update=1)
    torch.testing.assert_close(logits(vlm, batch, cached), logits(vlm, batch, seen(batch)), atol=1e-6, rtol=0)
    vlm.projector.requires_grad_(True)
    gradients = []
    for vision in (cached, seen(batch)):
        vlm.projector.zero_grad()
        gradients.append(projector_gradient(vlm, rows, vision).clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    assert gradients[0].abs().max() > 1e-3


def test_a_frozen_tower_leaves_no_graph(vlm, seen, samples):
    vlm.projector.requires_grad_(True)
    outputs = []
    vlm.vision_encoder.register_forward_hook(lambda _, __, output: outputs.append(output.last_hidden_state))
    batch = vlm.batch(vlm.rows(samples[:3], answers=True))
    vlm.supervised_logits(batch, seen(batch)).sum().backward()
    assert outputs[0].grad_fn is None
    assert vlm.projector.linear.weight.grad.abs().max() > 0
    vlm.vision_encoder.requires_grad_(True)
    vlm.image_embeddings(seen(batch))
    assert outputs[1].grad_fn is not None


def test_each_distinct_image_is_seen_once(vlm, seen, samples):
    sizes = []
    vlm.vision_encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    batch = vlm.batch(vlm.rows(samples, answers=True))
    logits(vlm, batch, seen(batch))
    assert sizes == [5]


def test_micro_batches_equal_one_batch_in_gradients(vlm, seen, samples):
    rows = vlm.rows(samples, answers=True)
    vlm.projector.requires_grad_(True)
    whole = projector_gradient(vlm, rows, seen(vlm.batch(rows))).clone()
    vlm.projector.zero_grad()
    for first in range(0, len(rows), 2):
        some = rows[first : first + 2]
        projector_gradient(vlm, some, seen(vlm.batch(some)))
    torch.testing.assert_close(vlm.projector.linear.weight.grad, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_bfloat16_computes_close_to_float32(open_tiny, seen, store, samples, layout):
    exact, rounded = open_tiny(layout), open_tiny(layout, dtype="bfloat16")
    assert rounded.base.lm_head.weight.dtype == torch.bfloat16
    assert rounded.projector.linear.weight.dtype == torch.float32
    batch = exact.batch(exact.rows(samples, answers=True))
    expected, found = (logits(one, batch, seen(batch)) for one in (exact, rounded))
    assert found.dtype == torch.float32
    difference = (expected - found).abs().mean() / expected.std()
    assert 0 < difference < 0.05
    rounded.projector.requires_grad_(True)
    rounded.supervised_logits(batch, seen(batch)).square().mean().backward()
    gradient = rounded.projector.linear.weight.grad
    assert gradient.dtype == torch.float32
    assert bool(gradient.isfinite().all())
    assert predict(rounded, samples, store, condition="model", max_new_tokens=3, batch_size=4, seed=0)


def test_the_shared_image_mask_reaches_the_decoder_unchanged(shared_image, seen, samples):
    masks = []
    first_layer = shared_image.language_model.layers[0]
    first_layer.register_forward_pre_hook(lambda _, __, given: masks.append(given["attention_mask"]), with_kwargs=True)
    batch = shared_image.batch(shared_image.rows(samples, answers=True))
    forward(shared_image, batch, seen(batch))
    assert torch.equal(masks[0], additive_mask(shared_image_mask(batch), torch.float32))


# --- loading ----------------------------------------------------------------------------------------------------


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match="the checkpoint cannot be loaded") as caught:
        load_network(str(tmp_path))
    assert caught.value.where == str(tmp_path)
    assert "hf auth login" in caught.value.fix


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_a_checkpoint_that_lacks_weights_is_refused(copied):
    state = load_file(copied / "model.safetensors")
    lost = next(name for name in state if "language_model" in name and name.endswith("q_proj.weight"))
    save_file({name: tensor for name, tensor in state.items() if name != lost}, copied / "model.safetensors")
    with pytest.raises(ModelError, match="lacks weights") as caught:
        load_network(str(copied))
    assert "q_proj.weight" in caught.value.got


def test_a_truncated_checkpoint_is_refused(copied):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="the checkpoint cannot be loaded"):
        load_network(str(copied))


@pytest.mark.parametrize(("place", "kind"), [((), "llava"), (("text_config",), "gemma2")])
def test_another_kind_of_checkpoint_is_refused(copied, place, kind):
    values = json.loads((copied / "config.json").read_text())
    section = values
    for key in place:
        section = section[key]
    section["model_type"] = kind
    (copied / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="not supported yet") as caught:
        load_network(str(copied))
    assert kind in caught.value.got


def test_the_digest_tells_weights_apart(copied, tiny_folder):
    assert weights_digest(str(copied), None) == weights_digest(str(tiny_folder), None)
    state = load_file(copied / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, copied / "model.safetensors")
    assert weights_digest(str(copied), None) != weights_digest(str(tiny_folder), None)
    assert weights_digest("lab/name", "abc") == "commit abc"


def test_parameters_belong_to_parts(vlm):
    assert part_of("model.vision_tower.encoder.layers.0.mlp.fc1.weight") == "vision_encoder"
    assert part_of("base_model.model.model.multi_modal_projector.linear.weight") == "projector"
    assert part_of("model.language_model.norm.weight") == "language_model"
    assert trainable_counts(vlm.network) == {"vision_encoder": 0, "projector": 0, "language_model": 0}
    vlm.projector.requires_grad_(True)
    assert trainable_counts(vlm.network) == {"vision_encoder": 0, "projector": 16 * 32 + 32, "language_model": 0}
