"""Captured attention against eager attention, on tiny random networks of PaliGemma and PaliGemma 2."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling

from radvqa.errors import ModelError
from radvqa.explain import capture, recording
from radvqa.explain.capture import Keep, trace_attention
from radvqa.explain.mask_check import check_prefix_mask
from radvqa.explain.recording import ATTENTION_NAME, attention_rows

IMAGE = slice(0, 16)
PROMPT = 6  # <bos>, four words, newline
ANSWER = 4
PREFIX = IMAGE.stop + PROMPT
LENGTH = PREFIX + ANSWER
ROWS = slice(PREFIX - 1, LENGTH - 1)
TEXT_ROWS = slice(IMAGE.stop - 1, LENGTH - 1)
LAYERS, HEADS, KEY_HEADS, HEAD_WIDTH = 3, 4, 2, 8
WINDOW = 9
EVERYTHING = Keep(text_rows=True, image_rows=True, fused="mean", value_norms=True, residual=True)

# Deprecations inside peft, which looks for checkpointing in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def text_config(family):
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "head_dim": HEAD_WIDTH,
        "attention_dropout": 0.5,
        "initializer_range": 0.1,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    if family == "paligemma":
        return GemmaConfig(**sizes)
    # A window shorter than the sequence in every other layer, and a cap low enough to bend the scores.
    return Gemma2Config(**sizes, query_pre_attn_scalar=8, sliding_window=WINDOW, attn_logit_softcapping=1.5)


def network_of(family, attention):
    vision = SiglipVisionConfig(
        image_size=56, patch_size=14, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text_config(family).to_dict(),
        image_token_id=63,
        projection_dim=32,
        hidden_size=32,
        vocab_size=64,
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "self_attn" in name and parameter.ndim == 2:  # sharper attention than a fresh initialisation gives
            nn.init.normal_(parameter, std=0.25)
    return model.eval()


@pytest.fixture(params=["paligemma", "paligemma2"])
def family(request):
    return request.param


@pytest.fixture
def eager(family):
    return network_of(family, "eager")


@pytest.fixture
def model(family):
    """As radvqa opens it; the text model of PaliGemma 2 knows no sdpa."""
    return network_of(family, "sdpa" if family == "paligemma" else "eager")


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(3, 60, (1, PROMPT + ANSWER), generator=generator)
    words[0, 0] = 2
    types = torch.zeros(1, LENGTH, dtype=torch.long)
    types[:, PREFIX:] = 1
    return {
        "input_ids": torch.cat([torch.full((1, IMAGE.stop), 63), words], dim=1),
        "attention_mask": torch.ones(1, LENGTH, dtype=torch.long),
        "token_type_ids": types,
        "pixel_values": torch.randn(1, 3, 56, 56, generator=generator),
    }


def eager_attention(network, inputs):
    with torch.no_grad():
        output = network(**inputs, output_attentions=True, use_cache=False)
    return torch.stack([layer[0] for layer in output.attentions]), output.logits[0]


def prefix_mask():
    """The prefix-LM pattern, True = may attend."""
    mask = torch.ones(LENGTH, LENGTH).tril().bool()
    mask[:PREFIX, :PREFIX] = True
    return mask[None, None]


def trace(network, inputs, keep=EVERYTHING, **changes):
    return trace_attention(network, {**inputs, **changes}, image_tokens=IMAGE, rows=ROWS, keep=keep)


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def test_equals_eager_attention_and_logits(model, eager, inputs, family):
    result = trace(model, inputs)
    attentions, logits = eager_attention(eager, inputs)
    assert attentions.shape == (LAYERS, HEADS, LENGTH, LENGTH)
    assert result.text_rows.shape == (LAYERS, HEADS, PROMPT + ANSWER, LENGTH)
    close(result.rows, attentions[:, :, ROWS])
    close(result.text_rows, attentions[:, :, TEXT_ROWS])
    close(result.image_rows, attentions[:, :, IMAGE, IMAGE.stop : PREFIX])
    close(result.fused, attentions.mean(dim=1))
    close(result.logits, logits[ROWS])
    assert result.rows.std() > 0.01  # the comparison is about something
    hidden = result.rows[0, 0, -1] == 0
    assert int(hidden.sum()) == (1 if family == "paligemma" else LENGTH - WINDOW)


def test_the_cap_and_the_window_change_attention(inputs):
    network = network_of("paligemma2", "eager")
    own = trace(network, inputs)
    for layer in network.model.language_model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert (trace(network, inputs).rows - own.rows).abs().max() > 0.01


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_fused_layers(model, eager, inputs, fusion):
    attentions, _ = eager_attention(eager, inputs)
    expected = {"mean": attentions.mean(1), "max": attentions.amax(1), "min": attentions.amin(1)}[fusion]
    close(trace(model, inputs, Keep(fused=fusion)).fused, expected)


def test_only_what_is_asked_for_is_kept(model, inputs):
    whole = trace(model, inputs)
    extras = ("text_rows", "image_rows", "fused", "value_rows", "value_fused", "residual")
    kept = {
        Keep(): set(),
        Keep(text_rows=True): {"text_rows"},
        Keep(image_rows=True): {"image_rows"},
        Keep(fused="mean"): {"fused"},
        Keep(value_norms=True): {"value_rows", "value_fused"},
        Keep(residual=True): {"residual"},
    }
    for keep, names in kept.items():
        result = trace(model, inputs, keep)
        close(result.rows, whole.rows, atol=1e-7)
        for name in extras:
            if name in names:
                close(getattr(result, name), getattr(whole, name), atol=1e-7)
            else:
                assert getattr(result, name) is None


def test_chunks_of_queries_change_nothing(model, inputs, monkeypatch):
    whole = trace(model, inputs)
    for module in (capture, recording):
        monkeypatch.setattr(module, "QUERY_CHUNK", 5)
    chunked = trace(model, inputs)
    for name in ("rows", "text_rows", "image_rows", "fused", "value_rows", "value_fused", "residual", "logits"):
        close(getattr(chunked, name), getattr(whole, name))


def test_teacher_forced_rows_are_those_of_generation(eager, inputs):
    """Every row met with a cache of keys and values, token after token; sliding layers keep a window of keys."""
    prompt = {name: value[:, :PREFIX] for name, value in inputs.items() if name != "pixel_values"}
    pixels = {"pixel_values": inputs["pixel_values"]}
    generated = eager.generate(
        **prompt,
        **pixels,
        max_new_tokens=ANSWER + 1,
        min_new_tokens=ANSWER + 1,
        do_sample=False,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    forced = dict(inputs, input_ids=generated.sequences[:, :LENGTH])
    result = trace(eager, forced)
    for token, step in enumerate(generated.attentions[:ANSWER]):
        for layer, attention in enumerate(step):
            met = attention[0, :, -1]
            width, seen = met.shape[-1], ROWS.start + token + 1
            close(result.rows[layer, :, token, seen - width : seen], met)
            assert (result.rows[layer, :, token, : seen - width] == 0).all()
            assert (result.rows[layer, :, token, seen:] == 0).all()
    assert result.logits.argmax(-1).tolist() == generated.sequences[0, PREFIX:LENGTH].tolist()


def test_row_q_explains_token_q_plus_1(model, inputs):
    """The rows of a teacher-forced pass are the ones under which each answer token was predicted."""
    whole = trace(model, inputs)
    cut = {name: value[:, : PREFIX + 1] for name, value in inputs.items() if name != "pixel_values"}
    first = trace_attention(
        model, {**cut, "pixel_values": inputs["pixel_values"]}, image_tokens=IMAGE, rows=slice(PREFIX - 1, PREFIX)
    )
    close(whole.rows[:, :, :1, : PREFIX + 1], first.rows)
    close(whole.logits[:1], first.logits)


def test_rows_sum_to_one_and_never_see_later_tokens(model, inputs):
    result = trace(model, inputs)
    close(result.text_rows.sum(dim=-1), torch.ones(LAYERS, HEADS, PROMPT + ANSWER), atol=1e-5)
    close(result.fused.sum(dim=-1), torch.ones(LAYERS, LENGTH), atol=1e-5)
    close(result.value_rows.sum(dim=-1), torch.ones(LAYERS, ANSWER), atol=1e-5)
    for row, position in enumerate(range(ROWS.start, ROWS.stop)):
        assert (result.rows[:, :, row, position + 1 :] == 0).all()
        assert (result.value_rows[:, row, position + 1 :] == 0).all()
    assert (result.fused[1, :PREFIX, :PREFIX] > 0).all()  # layer 1 has no window: the prefix sees itself whole
    assert (result.fused[:, :PREFIX, PREFIX:] == 0).all()


def explicit_value_norms(network, inputs):
    """Kobayashi's weights from eager attention, with keys and values repeated to all heads."""
    values = []
    handles = [
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, output: values.append(output[0]))
        for layer in network.model.language_model.layers
    ]
    attentions, _ = eager_attention(network, inputs)
    for handle in handles:
        handle.remove()
    found = []
    for layer, value, attention in zip(network.model.language_model.layers, values, attentions, strict=True):
        repeated = value.view(LENGTH, KEY_HEADS, HEAD_WIDTH).repeat_interleave(HEADS // KEY_HEADS, dim=1)
        output = layer.self_attn.o_proj.weight.view(32, HEADS, HEAD_WIDTH)
        norms = torch.einsum("jhd,ohd->hjo", repeated, output).norm(dim=-1)
        weighted = (attention * norms[:, None, :]).sum(0)
        found.append(weighted / weighted.sum(-1, keepdim=True))
    return torch.stack(found).detach()


def test_value_norms_equal_the_explicit_computation(model, eager, inputs):
    result = trace(model, inputs)
    expected = explicit_value_norms(eager, inputs)
    close(result.value_fused, expected)
    close(result.value_rows, expected[:, ROWS])
    assert (result.value_fused - result.fused).abs().max() > 0.01


def test_residual_shares_equal_those_of_the_streams(model, eager, inputs, family):
    """Taken from the streams between the blocks: before attention, and where the feed-forward block reads."""
    before, behind = [], []
    for layer in eager.model.language_model.layers:
        reads = layer.post_attention_layernorm if family == "paligemma" else layer.pre_feedforward_layernorm
        layer.input_layernorm.register_forward_pre_hook(lambda _, args: before.append(args[0][0]))
        reads.register_forward_pre_hook(lambda _, args: behind.append(args[0][0]))
    eager_attention(eager, inputs)
    own, both = torch.stack(before), torch.stack(behind)
    expected = own.norm(dim=-1) / (own.norm(dim=-1) + (both - own).norm(dim=-1))
    result = trace(model, inputs)
    close(result.residual, expected, atol=1e-5)
    assert 0.05 < float(result.residual.min()) < float(result.residual.max()) < 0.95
    for layer in model.model.language_model.layers:
        assert not layer._forward_pre_hooks
        assert not layer.self_attn._forward_hooks


def test_puts_back_attention_implementation_and_modes(model, inputs):
    implementations = [
        section._attn_implementation for section in (model.config, model.config.text_config, model.config.vision_config)
    ]
    model.train()
    model.model.vision_tower.eval()
    before = {name: module.training for name, module in model.named_modules()}
    trace(model, inputs)
    with pytest.raises(ModelError):
        trace(model, inputs, token_type_ids=torch.zeros_like(inputs["token_type_ids"]))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert implementations == [
        section._attn_implementation for section in (model.config, model.config.text_config, model.config.vision_config)
    ]
    assert recording._RECORDER.get() is None


def test_a_network_in_training_mode_is_traced_without_dropout(model, inputs):
    in_eval = trace(model, inputs)
    model.train()
    in_training = trace(model, inputs)
    close(in_training.rows, in_eval.rows, atol=0)
    assert not in_training.logits.requires_grad


def test_inside_a_lora_wrapper(model, inputs):
    """Adapters take part in attention and, on the output projection, in value norms."""
    plain = trace(model, inputs)
    config = LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj|o_proj)", init_lora_weights=False)
    wrapped = get_peft_model(model, config)
    result = trace(wrapped, inputs)
    assert (result.rows - plain.rows).abs().max() > 1e-4
    merged = wrapped.merge_and_unload().eval()
    merged.set_attn_implementation("eager")
    attentions, logits = eager_attention(merged, inputs)
    close(result.rows, attentions[:, :, ROWS])
    close(result.logits, logits[ROWS], atol=1e-5)
    close(result.value_fused, explicit_value_norms(merged, inputs))


def test_four_dimensional_masks_equal_the_token_types(inputs):
    model = network_of("paligemma", "sdpa")
    native = trace(model, inputs)
    without_types = {name: value for name, value in inputs.items() if name != "token_type_ids"}
    additive = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~prefix_mask(), torch.finfo(torch.float32).min)
    for mask in (prefix_mask(), additive):
        result = trace(model, without_types, attention_mask=mask)
        for name in ("text_rows", "image_rows", "fused", "value_fused", "logits"):
            close(getattr(result, name), getattr(native, name))


def test_a_custom_mask_is_obeyed(model, eager, inputs):
    """Occlusion of image tokens by a mask of our own: the hidden columns get exactly nothing."""
    mask = prefix_mask()
    mask[..., 3:7] = False
    result = trace(model, inputs, attention_mask=mask)
    assert (result.text_rows[..., 3:7] == 0).all()
    close(result.rows.sum(dim=-1), torch.ones(LAYERS, HEADS, ANSWER), atol=1e-5)
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    attentions, logits = eager_attention(eager, {**inputs, "attention_mask": additive})
    close(result.rows, attentions[:, :, ROWS])
    close(result.logits, logits[ROWS])


def test_left_padding_changes_nothing(model, inputs):
    native = trace(model, inputs)
    pad = torch.zeros(1, 3, dtype=torch.long)
    padded = {name: torch.cat([pad, inputs[name]], dim=1) for name in ("input_ids", "attention_mask", "token_type_ids")}
    result = trace_attention(
        model,
        {**padded, "pixel_values": inputs["pixel_values"]},
        image_tokens=slice(3, 19),
        rows=slice(ROWS.start + 3, ROWS.stop + 3),
        keep=EVERYTHING,
    )
    assert (result.text_rows[..., :3] == 0).all()
    close(result.text_rows[..., 3:], native.text_rows)
    close(result.image_rows, native.image_rows)
    close(result.fused[:, 3:, 3:], native.fused)
    close(result.value_fused[:, 3:, 3:], native.value_fused)
    close(result.residual[:, 3:], native.residual)
    close(result.logits, native.logits, atol=1e-5)


def test_cached_vision_features_and_chosen_logits(model, inputs):
    native = trace(model, inputs)
    with torch.no_grad():
        projected = model.model.multi_modal_projector(
            model.model.vision_tower(inputs["pixel_values"]).last_hidden_state
        )
    features = {"image": BaseModelOutputWithPooling(pooler_output=projected)}
    keep = torch.zeros(1, LENGTH, dtype=torch.bool)
    keep[0, ROWS] = True
    result = trace(model, inputs, pixel_values=None, mm_encoder_outputs=features, logits_to_keep=keep)
    close(result.rows, native.rows)
    close(result.logits, native.logits, atol=1e-5)


def test_long_sequences_are_kept_in_half_precision(model, inputs, monkeypatch):
    exact = trace(model, inputs)
    monkeypatch.setattr(capture, "FULL_PRECISION_POSITIONS", LENGTH - 1)
    half = trace(model, inputs)
    for name in ("rows", "text_rows", "image_rows", "fused", "value_rows", "value_fused"):
        found = getattr(half, name)
        assert found.dtype == torch.float16
        close(found.float(), getattr(exact, name), atol=3e-4)


def test_grouped_heads_and_hidden_rows():
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(1, 6, 5, 4, generator=generator)
    key = torch.randn(1, 2, 5, 4, generator=generator)
    mask = torch.ones(1, 1, 5, 5).tril().bool()
    mask[..., 2, :] = False
    weights = attention_rows(query, key, mask=mask, scaling=None, queries=slice(0, 5))
    scores = query @ key.repeat_interleave(3, dim=1).transpose(-1, -2) / 2.0
    close(weights, scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).nan_to_num(0.0))
    assert (weights[..., 2, :] == 0).all()
    close(attention_rows(query, key, mask=None, scaling=None, queries=slice(1, 3)), scores.softmax(-1)[:, :, 1:3])
    capped = (2 * torch.tanh(scores / 2)).masked_fill(~mask, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
    close(attention_rows(query, key, mask=mask, scaling=0.5, queries=slice(0, 5), softcap=2.0), capped)


def _without(name):
    return lambda inputs: {key: value for key, value in inputs.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("token_type_ids"), "no token types"),
        (lambda inputs: {**inputs, "token_type_ids": inputs["token_type_ids"] * 0}, "attends to later tokens"),
        (lambda inputs: {**inputs, "attention_mask": torch.ones(1, 1, LENGTH, LENGTH).bool()}, "later tokens"),
        (lambda inputs: {**inputs, "attention_mask": torch.zeros(1, 1, LENGTH, LENGTH).bool()}, "sees no token"),
        (_without("pixel_values"), "no image"),
        (lambda inputs: {name: torch.cat([value, value]) for name, value in inputs.items()}, "one question at a time"),
        (lambda inputs: {**inputs, "past_key_values": object()}, "one full forward"),
    ],
)
def test_wrong_inputs_are_refused(model, inputs, change, message):
    with pytest.raises(ModelError, match=message):
        trace(model, change(inputs))


def test_a_prefix_that_sees_the_answer_is_refused(model, inputs):
    """The answer's own rows are sound here; what they read of the image has seen the answer."""
    mask = prefix_mask()
    mask[..., 2, PREFIX + 1] = True
    with pytest.raises(ModelError, match="1 in the prefix's"):
        trace(model, inputs, attention_mask=mask)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (slice(30, 30), "rows is not a span"),
        (slice(20, LENGTH + 1), "rows is not a span"),
        (slice(None), "rows is not a span"),
        (slice(-3, -1), "rows is not a span"),
        (slice(20, 24, 2), "rows is not a span"),
        (slice(4, 24), "inside the image"),
    ],
)
def test_rows_outside_the_text_are_refused(inputs, rows, message):
    with pytest.raises(ModelError, match=message):
        trace_attention(network_of("paligemma", "sdpa"), inputs, image_tokens=IMAGE, rows=rows)


def test_other_models_are_refused(inputs):
    with pytest.raises(ModelError, match="PaliGemma only"):
        trace(nn.Linear(2, 2), inputs)


def test_nothing_captured_is_an_error(model, inputs, monkeypatch):
    """The network goes on with an attention of its own, as an unsupported one would."""
    monkeypatch.setattr(model, "set_attn_implementation", lambda _: None)
    with pytest.raises(ModelError, match="not captured"):
        trace(model, inputs)


def test_some_layers_missing_is_an_error(model, inputs, monkeypatch):
    record = capture._Capture.record

    def leave_out(self, module, *others):
        if module.layer_idx != 1:
            record(self, module, *others)

    monkeypatch.setattr(capture._Capture, "record", leave_out)
    with pytest.raises(ModelError, match=r"nothing from layers \[1\]"):
        trace(model, inputs)


def test_broken_weights_are_an_error(model, inputs):
    with torch.no_grad():
        model.model.language_model.layers[1].self_attn.q_proj.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        trace(model, inputs)


def test_the_attention_runs_inside_a_recording_only(inputs):
    model = network_of("paligemma", "sdpa")
    model.set_attn_implementation({"text_config": ATTENTION_NAME})
    with pytest.raises(ModelError, match="inside its recording only"):
        model(**inputs)


def test_without_the_mask_entry_the_forward_is_refused(model, inputs, monkeypatch):
    """transformers passes no mask to an attention function that has none registered; nothing else would notice."""
    assert AttentionMaskInterface._global_mapping[ATTENTION_NAME] is sdpa_mask
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, ATTENTION_NAME)
    with pytest.raises(ModelError, match="without an attention mask"):
        trace(model, inputs)
    with pytest.raises(ModelError, match="without an attention mask"):
        check(model, inputs)


def check(network, inputs):
    check_prefix_mask(network, inputs, image=IMAGE, answer=slice(PREFIX, LENGTH), image_sees_question=True)


def test_the_mask_self_test(family, inputs):
    model = network_of(family, "eager")
    check(model, inputs)
    with pytest.raises(ModelError, match="leaks"):
        check(model, {**inputs, "token_type_ids": inputs["token_type_ids"] * 0})
    with pytest.raises(ModelError, match="without an attention mask"):
        check(model, _without("token_type_ids")(inputs))
    causal = torch.ones(LENGTH, LENGTH).tril().bool()[None, None]
    with pytest.raises(ModelError, match="does not change them"):
        check(model, {**inputs, "attention_mask": causal})


def test_gradients_reach_the_recorded_output(family, inputs):
    """What gradient methods stand on: the recorded output is the tensor that the layer goes on with."""

    class Outputs:
        def __init__(self):
            self.outputs = []

        def record(self, module, query, key, value, mask, scaling, output):  # noqa: PLR0917
            assert query.shape == (1, HEADS, LENGTH, HEAD_WIDTH)
            assert key.shape == value.shape == (1, KEY_HEADS, LENGTH, HEAD_WIDTH)
            assert mask.shape[-2:] == (LENGTH, LENGTH)
            output.retain_grad()
            self.outputs.append(output)

    model = network_of(family, "eager")
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    recorder = Outputs()
    with recording.recording(model, recorder):
        model(**inputs, use_cache=False).logits[0, -1].log_softmax(-1)[5].backward()
    assert len(recorder.outputs) == LAYERS
    for output in recorder.outputs:
        assert output.shape == (1, LENGTH, HEADS, HEAD_WIDTH)
        assert float(output.grad.abs().max()) > 0
