"""What must hold for a PaliGemma network to be trained exactly, on the tiny checkpoint.

Where each invariant is tested (files without a folder are in ``tests/models``):

==  ===================================================================================================================
 1  the answer is causal: `test_later_answer_tokens_change_nothing_before_them`
 2  the image sees the question: `test_the_last_question_token_reaches_the_image`
 3  alone = inside a padded batch: test_vlm `test_alone_equals_inside_a_padded_batch`; left = right padding: test_vlm
    `test_per_question_answers_equal_transformers_generate[left]`
 4  eager = sdpa: `test_eager_attention_equals_sdpa`
 5  cached features = pixels: `test_cached_features_equal_pixels_in_every_gradient`
 6  loss on answer positions = whole loss: `test_logits_at_answers_alone_give_the_loss_and_gradients_of_all_logits`
 7  packed = separate: `test_no_gradient_crosses_questions_or_rows`, test_vlm `test_alone_equals_inside_a_padded_batch`
 8  shared-image row = its questions alone, unlike the native mask: test_vlm
    `test_a_shared_image_row_equals_its_questions_alone`, `test_the_layouts_differ_visibly`
 9  answers = transformers' generate = full forwards: test_vlm `test_per_question_answers_equal_transformers_generate`,
    `test_answers_equal_repeated_full_forwards` (keys and values of the image reused); from features:
    `test_answers_from_features_equal_those_from_pixels`
10  adapter counts, gradients of every B, a float32 projector: test_lora, at the size of the 3B model too
11  a frozen tower keeps nothing for a backward pass: `test_a_checkpointed_frozen_tower_keeps_nothing`
12  saved = loaded adapters: `test_a_saved_adapter_loads_in_plain_peft`, with 4.x keys too; a 4.x expression is refused
13  accumulation: test_vlm `test_micro_batches_equal_one_batch_in_gradients`; processes: tests/train
14  mixture: tests/train
15  resume: tests/test_kill_and_resume.py
16  closed failures: `test_attention_without_the_prefix_mask_is_refused`,
    `test_features_of_a_learning_tower_are_refused`, `test_features_of_another_tower_are_refused`,
    test_layout `test_missing_token_types_are_refused`, `test_wrong_token_types_are_refused`
17  picture files: tests/data/test_imaging.py, tests/data/test_image_store.py
18  a very long question stays whole: `test_nothing_of_a_very_long_question_is_cut`
19  tokens of the reference: test_vlm `test_tokens_equal_those_of_the_processor`
==  ===================================================================================================================
"""

import json
import logging
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn import functional

from radvqa.errors import ModelError, TrainError
from radvqa.models.layout import Question, Row, attention_inputs
from radvqa.models.learning import require_learning
from radvqa.models.lora import attach_lora, require_adapters
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vision, part_of
from radvqa.recipe import Model
from radvqa.train.loss import denominator, question_losses
from radvqa.train.pictures import StoredPictures

BOTH = ("vision_encoder", "language_model")


@pytest.fixture
def opened(tiny_folder):
    """Open the tiny checkpoint: ``opened("shared_image", attention="eager")``."""
    return lambda layout="per_question", **changes: open_vlm(
        Model(**({"checkpoint": "tiny", "layout": layout, "dtype": "float32"} | changes)), say=lambda _: None
    )


@pytest.fixture(params=["per_question", "shared_image"])
def either(request, opened):
    """Open the tiny checkpoint, once in each layout."""
    return partial(opened, request.param)


@pytest.fixture
def seen(store):
    """What the tower is given for a batch."""
    return lambda batch: StoredPictures(store).vision(batch.rows, update=1)


def attach(vlm, **changes):
    """Adapters that already do something."""
    settings = {
        "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "attention", "parts": BOTH,
        "base_name": "a-base", "revision": None, "seed": 3,
    }  # fmt: skip
    attach_lora(vlm, **(settings | changes))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in vlm.network.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return vlm


def features(vlm, vision):
    with torch.no_grad():
        return Vision(vision.row_image, features=vlm.see(vision.pixels).to(vlm.compute_dtype))


def everywhere(vlm, batch, vision):
    """Logits at every position, graph included."""
    return vlm.network(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        mm_encoder_outputs=vlm.encoded(vlm.image_embeddings(vision)),
        **attention_inputs(batch, vlm.compute_dtype),
    ).logits


def gradients(vlm, batch, vision, *, seed=0):
    """Gradients of everything that learns after one pass in training mode."""
    vlm.network.train()
    vlm.network.zero_grad()
    torch.manual_seed(seed)
    functional.cross_entropy(vlm.supervised_logits(batch, vision), batch.targets).backward()
    return {name: one.grad.clone() for name, one in vlm.network.named_parameters() if one.grad is not None}


def assert_equal(found, expected, *, atol=1e-6):
    assert found.keys() == expected.keys()
    assert max(float(one.abs().max()) for one in found.values()) > 1e-3
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=1e-5, msg=name)


# --- attention --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
def test_later_answer_tokens_change_nothing_before_them(either, seen, samples, attention, padded):
    vlm = either(attention=attention)
    image = samples[0].image
    first, second = (Question("q", (70, 71, 14), (72, 73, last, vlm.tokens.eos_id)) for last in (74, 90))
    longer = Row(image, (Question("r", (70, 71, 75, 76, 14), (72, 73, 74, 75, vlm.tokens.eos_id)),))
    found = []
    for question in (first, second):
        batch = vlm.batch([Row(image, (question,)), *([longer] if padded else [])])
        with torch.no_grad():
            found.append(everywhere(vlm, batch, seen(batch)))
    place = 17 + 3 + 2  # image and bos, prompt, two answer tokens
    torch.testing.assert_close(found[0][0, :place], found[1][0, :place], atol=1e-6, rtol=0)
    assert (found[0][0, place] - found[1][0, place]).abs().max() > 0.1
    if padded:
        torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_last_question_token_reaches_the_image(opened, seen, samples, attention):
    vlm = opened(attention=attention)
    found = []
    for last in (71, 80):
        batch = vlm.batch([Row(samples[0].image, (Question("q", (70, last, 14), (72, vlm.tokens.eos_id)),))])
        with torch.no_grad():
            found.append(everywhere(vlm, batch, seen(batch))[0, :16])
    assert (found[0] - found[1]).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_eager_attention_equals_sdpa(opened, seen, samples, layout):
    sdpa, eager = opened(layout), opened(layout, attention="eager")
    config = eager.base.config
    assert {one._attn_implementation for one in (config, config.text_config, config.vision_config)} == {"eager"}
    batch = sdpa.batch(sdpa.rows(samples[:6], answers=True))
    with torch.no_grad():
        found = [vlm.supervised_logits(batch, seen(batch)) for vlm in (sdpa, eager)]
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)
    assert found[0].std() > 0.5
    prompts = sdpa.batch(sdpa.rows(samples, answers=False))
    answers = [vlm.answer(prompts, seen(prompts), max_new_tokens=5) for vlm in (sdpa, eager)]
    assert [one.token_ids for one in answers[0]] == [one.token_ids for one in answers[1]]


def test_attention_without_the_prefix_mask_is_refused(per_question, seen, samples):
    """It can be changed behind our back at any time: the network reads its configuration anew at each call."""
    vlm = per_question
    batch, prompts = (vlm.batch(vlm.rows(samples[:2], answers=answers)) for answers in (True, False))
    config = vlm.base.config
    for section in (config, config.text_config, config.vision_config):
        for name in ("flash_attention_2", "flash_attention_3", "flex_attention", None):
            section._attn_implementation_internal = name
            with pytest.raises(ModelError, match="does not carry PaliGemma's prefix-LM mask") as caught:
                vlm.supervised_logits(batch, seen(batch))
            assert caught.value.got == str(name)
            with pytest.raises(ModelError, match="prefix-LM mask"):
                vlm.answer(prompts, seen(prompts), max_new_tokens=1)
        section._attn_implementation_internal = "sdpa"
    vlm.supervised_logits(batch, seen(batch))


# --- losses and gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["example", "token"])
def test_logits_at_answers_alone_give_the_loss_and_gradients_of_all_logits(vlm, seen, samples, norm):
    attach(vlm)
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    divisor = denominator(batch.target_lengths, norm=norm)
    assert len(set(batch.target_lengths)) > 1
    losses, found = [], []
    for whole in (False, True):
        vlm.network.zero_grad()
        if whole:
            logits = everywhere(vlm, batch, seen(batch))[batch.predicting]
        else:
            logits = vlm.supervised_logits(batch, seen(batch))
        loss = question_losses(logits, batch.targets, batch.target_lengths, norm=norm).sum() / divisor
        loss.backward()
        losses.append(float(loss.detach()))
        found.append({n: one.grad.clone() for n, one in vlm.network.named_parameters() if one.grad is not None})
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert_equal(*found)


def test_cached_features_equal_pixels_in_every_gradient(vlm, seen, samples):
    attach(vlm, parts=["language_model"])
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    found = [gradients(vlm, batch, vision) for vision in (seen(batch), features(vlm, seen(batch)))]
    assert {part_of(name) for name in found[0]} == {"projector", "language_model"}
    assert_equal(*found)


def test_answers_from_features_equal_those_from_pixels(vlm, seen, samples):
    prompts = vlm.batch(vlm.rows(samples[:6], answers=False))
    answers = [
        vlm.answer(prompts, vision, max_new_tokens=5) for vision in (seen(prompts), features(vlm, seen(prompts)))
    ]
    assert [one.token_ids for one in answers[0]] == [one.token_ids for one in answers[1]]


def test_no_gradient_crosses_questions_or_rows(shared_image, seen, samples):
    """The loss of one question moves no embedding of another question, in its own row or in the next."""
    batch = shared_image.batch(shared_image.rows(samples[:6], answers=True))
    assert [len(row.questions) for row in batch.rows] == [3, 3]
    embedded = []

    def keep(_, __, output):
        embedded.append(output.requires_grad_(True))
        output.retain_grad()

    shared_image.language_model.embed_tokens.register_forward_hook(keep)
    logits = everywhere(shared_image, batch, seen(batch))
    chosen = (batch.block[0] == 2) & batch.predicting[0]
    logits[0, chosen].square().sum().backward()
    moved = embedded[0].grad.abs().amax(-1) > 0
    others = ((batch.block == 1) | (batch.block == 3) | (batch.block == -1)).clone()
    assert not moved[others].any()
    assert not moved[1].any()
    assert moved[0, batch.block[0] == 2][:-1].all()  # the end token predicts nothing


@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_nothing_of_a_very_long_question_is_cut(opened, seen, samples, layout):
    vlm = opened(layout)
    long = replace(samples[0], question="is there " + "very " * 300 + "little fluid?", answers=("no" + " no" * 99,))
    row = vlm.rows([long], answers=True)[0]
    batch = vlm.batch([row, *vlm.rows(samples[3:4], answers=True)])
    ids = batch.input_ids[0].tolist()
    text = vlm.tokenizer.decode(ids[17:])
    assert ids.count(vlm.tokens.image_id) == 16
    assert text == f"answer en {long.question}\n{long.answers[0]}<eos>"
    with torch.no_grad():
        assert len(vlm.supervised_logits(batch, seen(batch))) == sum(batch.target_lengths)


# --- features of a tower ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lora", "full"])
def test_features_of_a_learning_tower_are_refused(vlm, seen, samples, how):
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    kept = features(vlm, seen(batch))
    vlm.supervised_logits(batch, kept)
    if how == "lora":
        attach(vlm, parts=["vision_encoder"])
    else:
        vlm.unfreeze(["vision_encoder"])
    with pytest.raises(ModelError, match="out of date as soon as the vision tower learns"):
        vlm.supervised_logits(batch, kept)
    vlm.supervised_logits(batch, seen(batch))


@pytest.mark.parametrize(
    "change", [lambda one: one[:, :-1], lambda one: one[..., :-1], lambda one: one.bfloat16(), lambda one: one.double()]
)
def test_features_of_another_tower_are_refused(vlm, seen, samples, change):
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    kept = features(vlm, seen(batch))
    with pytest.raises(ModelError, match="not of this checkpoint's tower") as caught:
        vlm.supervised_logits(batch, Vision(kept.row_image, features=change(kept.features)))
    assert caught.value.expected == "16 image tokens of width 16, torch.float32"


# --- gradient checkpointing -------------------------------------------------------------------------------------


def kept_bytes(vlm, batch, vision):
    """Bytes that the forward pass keeps for the backward pass."""
    sizes = {}

    def note(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    vlm.network.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        vlm.supervised_logits(batch, vision)
    return sum(sizes.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpointing_changes_no_gradient(either, seen, samples, dtype):
    """With dropout: the layers draw the same masks when they are computed again."""
    vlm = attach(either(dtype=dtype), dropout=0.5)
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    expected, plenty = gradients(vlm, batch, seen(batch)), kept_bytes(vlm, batch, seen(batch))
    other_masks = gradients(vlm, batch, seen(batch), seed=1)
    assert max(float((one - expected[name]).abs().max()) for name, one in other_masks.items()) > 1e-3
    vlm.checkpoint_gradients(on=True)
    assert_equal(gradients(vlm, batch, seen(batch)), expected)
    assert {part_of(name) for name in expected} == {"vision_encoder", "projector", "language_model"}
    assert kept_bytes(vlm, batch, seen(batch)) < 0.6 * plenty
    vlm.checkpoint_gradients(on=False)
    assert kept_bytes(vlm, batch, seen(batch)) == plenty


@pytest.mark.parametrize("order", ["adapters first", "checkpointing first"])
def test_a_checkpointed_frozen_tower_keeps_nothing(opened, seen, samples, order):
    """transformers and PEFT let the patch embedding require gradients, so that a frozen tower would run backward."""
    vlm = opened()
    if order == "checkpointing first":
        vlm.checkpoint_gradients(on=True)
    attach(vlm, parts=["language_model"])
    if order == "adapters first":
        vlm.checkpoint_gradients(on=True)
    outputs, inside = [], []
    vlm.vision_encoder.register_forward_hook(lambda _, __, output: outputs.append(output.last_hidden_state))
    embedding = vlm.vision_encoder.embeddings.patch_embedding
    embedding.register_forward_hook(lambda _, __, output: inside.append(output.requires_grad))
    text = []
    vlm.language_model.embed_tokens.register_forward_hook(lambda _, __, output: text.append(output.requires_grad))
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    found = gradients(vlm, batch, seen(batch))
    assert (outputs[0].grad_fn, outputs[0].requires_grad, inside) == (None, False, [False])
    assert text == [False]
    assert {part_of(name) for name in found} == {"projector", "language_model"}


def test_a_frozen_tower_runs_no_backward_even_if_its_embeddings_require_gradients(vlm, seen, samples):
    """What other libraries' hooks do."""
    vlm.base.enable_input_require_grads()
    vlm.projector.requires_grad_(True)
    outputs = []
    vlm.vision_encoder.register_forward_hook(lambda _, __, output: outputs.append(output.last_hidden_state))
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    gradients(vlm, batch, seen(batch))
    assert (outputs[0].grad_fn, outputs[0].requires_grad) == (None, False)


def test_answers_while_checkpointing_keep_their_cache(vlm, seen, samples, caplog):
    """Layers recompute in training mode only; in it, transformers would drop the keys and values."""
    prompts = vlm.batch(vlm.rows(samples[:6], answers=False))
    expected = vlm.answer(prompts, seen(prompts), max_new_tokens=4)
    vlm.checkpoint_gradients(on=True)
    with caplog.at_level(logging.WARNING):
        assert vlm.answer(prompts, seen(prompts), max_new_tokens=4) == expected
    assert not caplog.records


# --- what learns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("parts", [("vision_encoder",), ("language_model",), BOTH])
def test_whole_parts_learn_in_float32(opened, seen, samples, dtype, parts):
    vlm = opened(dtype=dtype)
    vlm.unfreeze(parts)
    assert vlm.base.lm_head.weight is vlm.base.model.language_model.embed_tokens.weight
    counts = require_learning(vlm, projector=False, full=parts)
    assert {part for part, count in counts.items() if count} == set(parts)
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    found = gradients(vlm, batch, seen(batch))
    learning = {name for name, one in vlm.network.named_parameters() if part_of(name) in parts}
    assert found.keys() == learning
    assert {one.dtype for one in found.values()} == {torch.float32}
    assert all(bool(one.isfinite().all()) for one in found.values())
    # A key's bias shifts all scores alike.
    assert [name for name, one in found.items() if not one.any() and not name.endswith("k_proj.bias")] == []
    vlm.network.eval()
    prompts = vlm.batch(vlm.rows(samples[:6], answers=False))
    assert len(vlm.answer(prompts, seen(prompts), max_new_tokens=3)) == 6


def test_unfreezing_changes_no_logit(vlm, seen, samples):
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    with torch.no_grad():
        before = vlm.supervised_logits(batch, seen(batch))
        vlm.unfreeze(BOTH)
        assert torch.equal(vlm.supervised_logits(batch, seen(batch)), before)


def test_an_update_of_the_head_is_one_of_the_embeddings(per_question, seen, samples):
    vlm = per_question
    vlm.unfreeze(["language_model"])
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    optimiser = torch.optim.SGD([one for one in vlm.network.parameters() if one.requires_grad], lr=0.1)
    functional.cross_entropy(vlm.supervised_logits(batch, seen(batch)), batch.targets).backward()
    before = vlm.base.lm_head.weight.detach().clone()
    optimiser.step()
    assert not torch.equal(before, vlm.base.lm_head.weight)
    assert torch.equal(vlm.base.lm_head.weight, vlm.language_model.embed_tokens.weight)


def test_weights_under_adapters_are_not_unfrozen(per_question):
    attach(per_question)
    with pytest.raises(ModelError, match="weights under adapters"):
        per_question.unfreeze(["language_model"])


def test_what_learns_is_checked_one_by_one(open_tiny):
    vlm = open_tiny()
    with pytest.raises(TrainError, match="other parameters learn") as caught:
        require_learning(vlm, projector=True)
    assert caught.value.got == "0: 0 that should be frozen, 2 wrongly frozen"
    vlm.projector.requires_grad_(True)
    assert require_learning(vlm, projector=True)["projector"] == 16 * 32 + 32
    vlm.language_model.norm.weight.requires_grad_(True)
    with pytest.raises(TrainError, match="other parameters learn") as caught:
        require_learning(vlm, projector=True)
    assert caught.value.where == "model.language_model.norm.weight"
    vlm.language_model.norm.weight.requires_grad_(False)
    vlm.projector.bfloat16()
    with pytest.raises(TrainError, match="not float32"):
        require_learning(vlm, projector=True)


def test_what_learns_under_adapters_is_checked_one_by_one(open_tiny):
    vlm = attach(open_tiny())
    assert require_learning(vlm, projector=True, adapters=BOTH)["vision_encoder"] > 0
    with pytest.raises(TrainError, match="other parameters learn"):
        require_learning(vlm, projector=True, adapters=["language_model"])
    with pytest.raises(TrainError, match="other parameters learn"):
        require_learning(vlm, projector=False, adapters=BOTH)
    original = next(one for n, one in vlm.network.named_parameters() if "original_module" in n)
    original.requires_grad_(True)
    with pytest.raises(TrainError, match="other parameters learn") as caught:
        require_learning(vlm, projector=True, adapters=BOTH)
    assert "original_module" in caught.value.where
    half = attach(open_tiny(), parts=["language_model"])
    with pytest.raises(TrainError, match="has no adapters"):
        require_learning(half, projector=True, adapters=BOTH)


# --- adapters saved and loaded ----------------------------------------------------------------------------------


def older_keys(folder):
    """Keys as transformers 4.x and 5.0 to 5.5 had them."""
    file = folder / "adapter_model.safetensors"
    old = {name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in load_file(file).items()}
    assert any("vision_model" in name for name in old)
    save_file(old, file, metadata={"format": "pt"})


@pytest.mark.parametrize("change", [lambda _: None, older_keys], ids=["as saved", "keys of 4.x"])
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT reads an attribute that transformers deprecates
def test_a_saved_adapter_loads_in_plain_peft(open_tiny, seen, samples, tmp_path, change):
    vlm = open_tiny()
    attach(vlm, base_name=vlm.name)
    with torch.no_grad():
        vlm.projector.linear.weight.add_(0.1)
    batch = vlm.batch(vlm.rows(samples[:6], answers=True))
    with torch.no_grad():
        expected = vlm.supervised_logits(batch, seen(batch))
    vlm.network.save_pretrained(tmp_path)
    change(tmp_path)
    loaded = open_tiny()
    with torch.no_grad():
        assert (loaded.supervised_logits(batch, seen(batch)) - expected).abs().max() > 1e-3
        loaded.network = PeftModel.from_pretrained(loaded.network, tmp_path).eval()
        found = loaded.supervised_logits(batch, seen(batch))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert require_adapters(loaded, targets="attention", parts=BOTH) == {"vision_encoder": 8, "language_model": 12}


@pytest.mark.filterwarnings("ignore")  # PEFT warns about the keys it found no place for
def test_an_adapter_with_an_expression_of_4x_is_refused_after_loading(open_tiny, tmp_path):
    attach(vlm := open_tiny())
    vlm.network.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    config["target_modules"] = config["target_modules"].replace(r"(?:vision_model\.)?", r"vision_model\.")
    assert re.search(r"vision_tower\\\.vision_model", config["target_modules"])
    file.write_text(json.dumps(config))
    loaded = open_tiny()
    loaded.network = PeftModel.from_pretrained(loaded.network, tmp_path)
    with pytest.raises(ModelError, match="LoRA did not reach the modules it should") as caught:
        require_adapters(loaded, targets="attention", parts=BOTH)
    assert caught.value.got == str({"vision_encoder": 0, "language_model": 12})
