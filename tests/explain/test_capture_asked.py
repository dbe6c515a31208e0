"""Traces of asked questions in both layouts, the tower's attention and the mask self-test of an opened model."""

from dataclasses import replace

import pytest
import torch
from transformers.models.gemma.modeling_gemma import eager_attention_forward

from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError
from radvqa.explain import mask_check, vision_capture
from radvqa.explain.asked import answer_ids, answer_logprobs, ask
from radvqa.explain.capture import Keep, trace
from radvqa.explain.mask_check import require_prefix_mask
from radvqa.explain.recording import attention_rows, recording
from radvqa.explain.vision_capture import trace_vision
from radvqa.models.layout import lay_out
from radvqa.models.opening import open_vlm
from radvqa.recipe import Model

EVERYTHING = Keep(text_rows=True, image_rows=True, fused="mean", value_norms=True, residual=True)


def asked_of(vlm, sample, store):
    ids = answer_ids(vlm, "yes, there is", where=sample.sample_id)
    return ask(vlm, sample, ids, torch.from_numpy(store.pixels(sample.image)))


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def eager_attention(asked):
    """Attention and logits of the text model's eager implementation for the same inputs."""
    base = asked.vlm.base
    before = base.config.text_config._attn_implementation
    base.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad(), asked.vlm.autocast():
        output = asked.vlm.network(**asked.inputs(), output_attentions=True, use_cache=False)
    base.set_attn_implementation({"text_config": before})
    return torch.stack([layer[0] for layer in output.attentions]), output.logits[0]


def require_equal_to_eager(asked, atol=1e-6):
    found = trace(asked, EVERYTHING)
    attentions, logits = eager_attention(asked)
    text = slice(asked.text.start - 1, asked.text.stop - 1)
    close(found.rows, attentions[:, :, asked.rows], atol=atol)
    close(found.text_rows, attentions[:, :, text], atol=atol)
    close(found.image_rows, attentions[:, :, asked.image, asked.prompt], atol=atol)
    close(found.fused, attentions.mean(1), atol=atol)
    targets = torch.tensor(asked.answer_ids)[:, None]
    close(found.logits.log_softmax(-1).gather(-1, targets)[:, 0], answer_logprobs(asked)[0], atol=1e-5)
    return found, logits


def test_equals_eager_in_both_layouts(vlm, samples, store):
    asked = asked_of(vlm, samples[0], store)
    found, logits = require_equal_to_eager(asked)
    close(found.logits, logits[asked.rows], atol=1e-5)
    assert found.text_rows.shape[2] == len(asked.pieces)
    assert found.rows.shape[2] == len(asked.answer_ids)
    question = found.image_rows[..., 1:]
    assert bool((question > 0).any()) is (vlm.layout == "per_question")
    assert bool((found.image_rows[..., 0] > 0).all())


def test_a_bfloat16_model_is_traced_in_its_own_precision(open_tiny, samples, store):
    exact = trace(asked_of(open_tiny(), samples[0], store), EVERYTHING)
    rounded = trace(asked_of(open_tiny(dtype="bfloat16"), samples[0], store), EVERYTHING)
    for name in ("rows", "text_rows", "image_rows", "fused", "value_fused", "residual"):
        assert getattr(rounded, name).dtype == torch.float32
        close(getattr(rounded, name), getattr(exact, name), atol=0.05)
    close(rounded.rows.sum(-1), torch.ones(rounded.rows.shape[:3]), atol=1e-5)


def test_the_towers_attention_equals_eager(vlm, samples, store, monkeypatch):
    asked = asked_of(vlm, samples[0], store)
    found = trace_vision(asked)
    implementations = vlm.base.config.vision_config._attn_implementation
    pixels = asked.pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    vlm.base.set_attn_implementation({"vision_config": "eager"})
    with torch.no_grad():
        output = vlm.vision_encoder(pixels, output_attentions=True)
    vlm.base.set_attn_implementation({"vision_config": implementations})
    expected = torch.stack([layer[0].mean(0) for layer in output.attentions])
    assert found.shape == (2, vlm.tokens.image_tokens, vlm.tokens.image_tokens)
    close(found, expected)
    assert found.std() > 1e-3
    monkeypatch.setattr(vision_capture, "FULL_PRECISION_POSITIONS", 15)
    monkeypatch.setattr(vision_capture, "QUERY_CHUNK", 7)
    half = trace_vision(asked)
    assert half.dtype == torch.float16
    close(half.float(), expected, atol=3e-4)


def test_a_tower_that_is_not_captured_is_an_error(per_question, samples, store, monkeypatch):
    asked = asked_of(per_question, samples[0], store)
    monkeypatch.setattr(per_question.base, "set_attn_implementation", lambda _: None)
    with pytest.raises(ModelError, match="not captured"):
        trace_vision(asked)


def test_the_mask_self_test_of_opened_models(vlm, open_tiny):
    require_prefix_mask(vlm)
    require_prefix_mask(open_tiny(vlm.layout, dtype="bfloat16"))


def test_a_model_of_the_other_layout_is_refused(vlm, monkeypatch):
    """The batch is laid out for one layout, and judged by what the other promises."""
    other = {"per_question": "shared_image", "shared_image": "per_question"}

    def otherwise(rows, *, layout, tokens):
        return lay_out(rows, layout=other[layout], tokens=tokens)

    monkeypatch.setattr(mask_check, "lay_out", otherwise)
    with pytest.raises(ModelError, match="not that of the model's layout"):
        require_prefix_mask(vlm)


def test_all_zero_token_types_are_refused(per_question, monkeypatch):
    def unmarked(batch, dtype):
        return {"attention_mask": batch.valid.long(), "token_type_ids": torch.zeros_like(batch.input_ids)}

    monkeypatch.setattr(mask_check, "attention_inputs", unmarked)
    with pytest.raises(ModelError, match="leaks"):
        require_prefix_mask(per_question)


class EveryLayerEager:
    """Compares weights and outputs of every layer with transformers' eager attention of the same queries and keys."""

    def __init__(self):
        self.layers = 0

    def record(self, module, query, key, value, mask, scaling, output):  # noqa: PLR0917
        additive = mask if mask.is_floating_point() else torch.where(mask, 0.0, torch.finfo(query.dtype).min)
        eager_output, weights = eager_attention_forward(module, query, key, value, additive, scaling)
        length = query.shape[2]
        close(attention_rows(query, key, mask=mask, scaling=scaling, queries=slice(0, length)), weights)
        close(output, eager_output, atol=1e-6 * float(value.abs().max()))
        self.layers += 1


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_the_embedded_base_equals_eager(layout, samples, user_cache, tmp_path):
    store = ImageStore.build([samples[0].image], size=112, cache=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        user_cache(patch)
        model = Model(checkpoint="embedded", image_size=112, layout=layout, dtype="float32")
        vlm = open_vlm(model, say=lambda _: None)
    require_prefix_mask(vlm)
    asked = asked_of(vlm, replace(samples[0], question="Is there a bright disc on the left?"), store)
    compared = EveryLayerEager()
    with torch.no_grad(), recording(vlm.base, compared):
        vlm.network(**asked.inputs(), use_cache=False)
    assert compared.layers == 30
    # Two forwards, fused and eager, drift apart by rounding alone over 30 layers.
    found, _ = require_equal_to_eager(asked, atol=1e-5)
    assert found.rows.shape[:2] == (30, 9)
    close(found.value_fused.sum(-1), torch.ones(found.value_fused.shape[:2]), atol=1e-5)
    assert trace_vision(asked).shape == (10, vlm.tokens.image_tokens, vlm.tokens.image_tokens)
