import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling

from radvqa.errors import ModelError
from radvqa.explain import capture
from radvqa.explain.capture import ATTENTION_NAME, attention_rows, trace_attention

IMAGE = slice(0, 16)
PROMPT = 6  # <bos>, four words, newline
ANSWER = 4
PREFIX = IMAGE.stop + PROMPT
LENGTH = PREFIX + ANSWER
ROWS = slice(PREFIX - 1, LENGTH - 1)
LAYERS, HEADS = 3, 4


def tiny_paligemma(attention="sdpa"):
    vision = SiglipVisionConfig(
        image_size=56, patch_size=14, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    text = GemmaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=8,
        attention_dropout=0.5,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
    )
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
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
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def model():
    return tiny_paligemma()


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


def eager_attention(inputs):
    with torch.no_grad():
        output = tiny_paligemma("eager")(**inputs, output_attentions=True, use_cache=False)
    return torch.stack([layer[0] for layer in output.attentions]), output.logits[0]


def prefix_mask():
    """The prefix-LM pattern, True = may attend."""
    mask = torch.ones(LENGTH, LENGTH).tril().bool()
    mask[:PREFIX, :PREFIX] = True
    return mask[None, None]


def trace(network, inputs, **changes):
    return trace_attention(network, {**inputs, **changes}, image_tokens=IMAGE, rows=ROWS)


def test_equals_eager_attention_and_logits(model, inputs):
    result = trace(model, inputs)
    attentions, logits = eager_attention(inputs)
    assert attentions.shape == (LAYERS, HEADS, LENGTH, LENGTH)
    torch.testing.assert_close(result.rows, attentions[:, :, ROWS], atol=1e-6, rtol=0)
    torch.testing.assert_close(result.fused, attentions.mean(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.logits, logits[ROWS], atol=1e-5, rtol=0)
    with torch.no_grad():
        sdpa = model(**inputs).logits[0]
    torch.testing.assert_close(result.logits, sdpa[ROWS], atol=1e-5, rtol=0)
    assert result.rows.std() > 0.01  # the comparison is about something


def test_row_q_explains_token_q_plus_1(model, inputs):
    """The rows of a teacher-forced pass are the ones under which each answer token was predicted."""
    whole = trace(model, inputs)
    cut = {name: value[:, : PREFIX + 1] for name, value in inputs.items() if name != "pixel_values"}
    first = trace_attention(
        model, {**cut, "pixel_values": inputs["pixel_values"]}, image_tokens=IMAGE, rows=slice(PREFIX - 1, PREFIX)
    )
    torch.testing.assert_close(whole.rows[:, :, :1, : PREFIX + 1], first.rows, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole.logits[:1], first.logits, atol=1e-5, rtol=0)


def test_rows_sum_to_one_and_never_see_later_tokens(model, inputs):
    result = trace(model, inputs)
    torch.testing.assert_close(result.rows.sum(dim=-1), torch.ones(LAYERS, HEADS, ANSWER), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.fused.sum(dim=-1), torch.ones(LAYERS, LENGTH), atol=1e-5, rtol=0)
    for row, position in enumerate(range(ROWS.start, ROWS.stop)):
        assert (result.rows[:, :, row, position + 1 :] == 0).all()
        assert (result.rows[:, :, row, : position + 1] > 0).all()
    assert (result.fused[:, :PREFIX, :PREFIX] > 0).all()  # the prefix is bidirectional


def test_puts_back_attention_implementation_and_modes(model, inputs):
    model.train()
    model.model.vision_tower.eval()
    before = {name: module.training for name, module in model.named_modules()}
    trace(model, inputs)
    with pytest.raises(ModelError):
        trace(model, inputs, token_type_ids=torch.zeros_like(inputs["token_type_ids"]))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "sdpa"
    assert capture._RECORDER.get() is None


def test_a_network_in_training_mode_is_traced_without_dropout(model, inputs):
    in_eval = trace(model, inputs)
    model.train()
    in_training = trace(model, inputs)
    torch.testing.assert_close(in_training.rows, in_eval.rows, atol=0, rtol=0)
    assert not in_training.logits.requires_grad


def test_runs_on_an_eager_model_and_leaves_it_eager(inputs):
    model = tiny_paligemma("eager")
    result = trace(model, inputs)
    torch.testing.assert_close(result.rows, eager_attention(inputs)[0][:, :, ROWS], atol=1e-6, rtol=0)
    assert model.config.text_config._attn_implementation == "eager"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # raised inside peft
def test_inside_a_lora_wrapper(model, inputs):
    plain = trace(model, inputs)
    config = LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False)
    wrapped = get_peft_model(model, config)
    result = trace(wrapped, inputs)
    assert (result.rows - plain.rows).abs().max() > 1e-4  # the adapter takes part
    wrapped.eval()
    wrapped.get_base_model().set_attn_implementation("eager")
    with torch.no_grad():
        output = wrapped(**inputs, output_attentions=True, use_cache=False)
    expected = torch.stack([layer[0] for layer in output.attentions])
    torch.testing.assert_close(result.rows, expected[:, :, ROWS], atol=1e-6, rtol=0)
    torch.testing.assert_close(result.logits, output.logits[0, ROWS], atol=1e-5, rtol=0)


def test_four_dimensional_masks_equal_the_token_types(model, inputs):
    native = trace(model, inputs)
    without_types = {name: value for name, value in inputs.items() if name != "token_type_ids"}
    allowed = trace(model, without_types, attention_mask=prefix_mask())
    torch.testing.assert_close(allowed.rows, native.rows, atol=1e-7, rtol=0)
    torch.testing.assert_close(allowed.logits, native.logits, atol=1e-6, rtol=0)
    additive = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~prefix_mask(), torch.finfo(torch.float32).min)
    torch.testing.assert_close(
        trace(model, without_types, attention_mask=additive).rows, native.rows, atol=1e-7, rtol=0
    )


def test_a_custom_mask_is_obeyed(model, inputs):
    """Occlusion of image tokens by a mask of our own: the hidden columns get exactly nothing."""
    mask = prefix_mask()
    mask[..., 3:7] = False
    result = trace(model, inputs, attention_mask=mask)
    assert (result.rows[..., 3:7] == 0).all()
    torch.testing.assert_close(result.rows.sum(dim=-1), torch.ones(LAYERS, HEADS, ANSWER), atol=1e-5, rtol=0)


def test_left_padding_changes_nothing(model, inputs):
    native = trace(model, inputs)
    pad = torch.zeros(1, 3, dtype=torch.long)
    padded = {name: torch.cat([pad, inputs[name]], dim=1) for name in ("input_ids", "attention_mask", "token_type_ids")}
    result = trace_attention(
        model,
        {**padded, "pixel_values": inputs["pixel_values"]},
        image_tokens=slice(3, 19),
        rows=slice(ROWS.start + 3, ROWS.stop + 3),
    )
    assert (result.rows[..., :3] == 0).all()
    torch.testing.assert_close(result.rows[..., 3:], native.rows, atol=1e-6, rtol=0)


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
    torch.testing.assert_close(result.rows, native.rows, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.logits, native.logits, atol=1e-5, rtol=0)


def test_long_sequences_are_kept_in_half_precision(model, inputs, monkeypatch):
    exact = trace(model, inputs)
    monkeypatch.setattr(capture, "FULL_PRECISION_POSITIONS", LENGTH - 1)
    monkeypatch.setattr(capture, "_QUERY_CHUNK", 7)
    half = trace(model, inputs)
    assert half.rows.dtype == half.fused.dtype == torch.float16
    torch.testing.assert_close(half.rows.float(), exact.rows, atol=3e-4, rtol=0)
    torch.testing.assert_close(half.fused.float(), exact.fused, atol=3e-4, rtol=0)


def test_grouped_heads_and_hidden_rows():
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(1, 6, 5, 4, generator=generator)
    key = torch.randn(1, 2, 5, 4, generator=generator)
    mask = torch.ones(1, 1, 5, 5).tril().bool()
    mask[..., 2, :] = False
    weights = attention_rows(query, key, mask=mask, scaling=None, queries=slice(0, 5))
    scores = query @ key.repeat_interleave(3, dim=1).transpose(-1, -2) / 2.0
    expected = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)
    assert (weights[..., 2, :] == 0).all()


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


@pytest.mark.parametrize("rows", [slice(30, 30), slice(20, LENGTH + 1), slice(None), slice(-3, -1), slice(20, 24, 2)])
def test_rows_outside_the_sequence_are_refused(model, inputs, rows):
    with pytest.raises(ModelError, match="rows is not a span"):
        trace_attention(model, inputs, image_tokens=IMAGE, rows=rows)


def test_other_models_are_refused(inputs):
    with pytest.raises(ModelError, match="PaliGemma only"):
        trace(torch.nn.Linear(2, 2), inputs)


def test_nothing_captured_is_an_error(model, inputs, monkeypatch):
    monkeypatch.setattr(capture._Recorder, "record", lambda *_, **__: None)
    with pytest.raises(ModelError, match="not captured"):
        trace(model, inputs)


def test_broken_weights_are_an_error(model, inputs):
    with torch.no_grad():
        model.model.language_model.layers[1].self_attn.q_proj.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        trace(model, inputs)


def test_without_the_mask_entry_the_forward_is_refused(model, inputs, monkeypatch):
    """transformers passes no mask to an attention function that has none registered; nothing else would notice."""
    from transformers.masking_utils import AttentionMaskInterface

    assert AttentionMaskInterface._global_mapping[ATTENTION_NAME] is sdpa_mask
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, ATTENTION_NAME)
    with pytest.raises(ModelError, match="without an attention mask"):
        trace(model, inputs)
