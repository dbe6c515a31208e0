import pytest
import torch
from torch.nn import functional
from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

from radvqa.errors import ModelError
from radvqa.models import lora
from radvqa.models.lora import adapted_modules, attach_lora, target_pattern
from radvqa.models.vlm import part_of, trainable_counts
from radvqa.train.pictures import StoredPictures

BOTH = ("vision_encoder", "language_model")


def attach(vlm, **changes):
    settings = {
        "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "attention", "parts": BOTH,
        "base_name": "a-base", "revision": "abc", "seed": 3,
    }  # fmt: skip
    return attach_lora(vlm, **(settings | changes))


def lora_parameters(network):
    counts = {"vision_encoder": 0, "projector": 0, "language_model": 0}
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            counts[part_of(name)] += parameter.numel()
    return counts


@pytest.mark.parametrize(
    ("targets", "parts", "vision", "language"),
    [
        ("attention", BOTH, 2 * 4, 3 * 4),
        ("all-linear", BOTH, 2 * 6, 3 * 7),
        ("attention", ("vision_encoder",), 2 * 4, 0),
        ("all-linear", ("language_model",), 0, 3 * 7),
    ],
)
def test_modules_on_the_tiny_checkpoint(per_question, targets, parts, vision, language):
    counts = attach(per_question, targets=targets, parts=parts)
    assert counts == {"vision_encoder": vision, "language_model": language}
    assert adapted_modules(per_question) == counts


@pytest.fixture(scope="module")
def paligemma_3b():
    """PaliGemma-3B's shapes without weights."""
    vision = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, patch_size=14,
        image_size=448, vision_use_head=False,
    )  # fmt: skip
    text = GemmaConfig(
        hidden_size=2048, intermediate_size=16384, num_hidden_layers=18, num_attention_heads=8, num_key_value_heads=1,
        head_dim=256, vocab_size=257216,
    )  # fmt: skip
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=2048, image_token_index=257152
    )
    with torch.device("meta"):
        network = PaliGemmaForConditionalGeneration(config)
    network.tie_weights()
    return network


def test_modules_and_parameters_at_the_size_of_paligemma_3b(paligemma_3b, per_question):
    vlm = per_question
    vlm.network = paligemma_3b.requires_grad_(False)
    sizes = {"vision_encoder": 0, "projector": 0, "language_model": 0}
    for name, parameter in paligemma_3b.named_parameters():
        sizes[part_of(name)] += parameter.numel()
    assert sum(sizes.values()) == 2_924_351_216
    assert sizes["vision_encoder"] == 413_327_088
    assert sizes["projector"] == 2_361_344
    assert attach(vlm, rank=8) == {"vision_encoder": 27 * 4, "language_model": 18 * 4}
    assert lora_parameters(vlm.network) == {"vision_encoder": 1_990_656, "projector": 0, "language_model": 1_843_200}
    assert trainable_counts(vlm.network)["projector"] == 2_361_344
    assert sum(lora_parameters(vlm.network).values()) == 3_833_856


def test_a_pattern_that_misses_modules_is_refused(per_question, monkeypatch):
    """A 4.x expression, which asks for a level that is gone, loses the whole tower without a word."""
    old = r"model\.vision_tower\.vision_model\.encoder\.layers\.\d+\.self_attn\.(?:q|k|v|out)_proj"
    monkeypatch.setitem(lora._MODULES["vision_encoder"], "attention", (old, 4))
    with pytest.raises(ModelError, match="LoRA did not reach the modules it should") as caught:
        attach(per_question)
    assert caught.value.expected == str({"vision_encoder": 8, "language_model": 12})
    assert caught.value.got == str({"vision_encoder": 0, "language_model": 12})


def test_names_alone_would_miss_the_towers_output_projections(per_question, monkeypatch):
    pattern = r"model\.vision_tower\.encoder\.layers\.\d+\.self_attn\.[qkvo]_proj"
    monkeypatch.setitem(lora._MODULES["vision_encoder"], "attention", (pattern, 4))
    with pytest.raises(ModelError, match="did not reach") as caught:
        attach(per_question)
    assert "'vision_encoder': 6" in caught.value.got


def test_the_pattern_also_reads_the_older_module_tree():
    import re

    pattern = target_pattern(BOTH, "attention")
    for name in (
        "model.vision_tower.encoder.layers.3.self_attn.out_proj",
        "model.vision_tower.vision_model.encoder.layers.3.self_attn.out_proj",
        "model.language_model.layers.17.self_attn.o_proj",
    ):
        assert re.fullmatch(pattern, name)
    for name in (
        "model.multi_modal_projector.linear",
        "lm_head",
        "model.language_model.layers.0.mlp.up_proj",
        "model.vision_tower.head.attention.out_proj",
    ):
        assert not re.fullmatch(pattern, name)


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_every_adapter_and_the_projector_get_a_gradient(vlm, store, samples, targets):
    attach(vlm, targets=targets)
    batch = vlm.batch(vlm.rows(samples, answers=True))
    vision = StoredPictures(store).vision(batch.rows, update=1)
    functional.cross_entropy(vlm.supervised_logits(batch, vision), batch.targets).backward()
    trainable = {name: one for name, one in vlm.network.named_parameters() if one.requires_grad}
    assert {name.split(".lora_")[1][0] for name in trainable if ".lora_" in name} == {"A", "B"}
    for name, parameter in trainable.items():
        if ".lora_A." in name:
            continue  # zero as long as B is zero
        assert parameter.grad is not None, name
        # A bias of a key projection would shift all scores alike, but adapters have none: every B must move.
        assert parameter.grad.abs().max() > 0, name
    untouched = [one for name, one in vlm.network.named_parameters() if name not in trainable]
    assert all(one.grad is None for one in untouched)


def test_adapters_come_without_active_dropout(vlm, store, samples):
    """A loaded adapter answers; only the training loop switches dropout on."""
    attach(vlm, dropout=0.9)
    for name, parameter in vlm.network.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    assert not [name for name, module in vlm.network.named_modules() if module.training]
    batch = vlm.batch(vlm.rows(samples, answers=True))
    vision = StoredPictures(store).vision(batch.rows, update=1)
    with torch.no_grad():
        assert torch.equal(vlm.supervised_logits(batch, vision), vlm.supervised_logits(batch, vision))


def test_attaching_changes_nothing_before_training(vlm, store, samples):
    batch = vlm.batch(vlm.rows(samples, answers=True))
    vision = StoredPictures(store).vision(batch.rows, update=1)
    with torch.no_grad():
        before = vlm.supervised_logits(batch, vision)
        attach(vlm)
        assert torch.equal(before, vlm.supervised_logits(batch, vision))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_everything_that_learns_is_float32(open_tiny, dtype):
    vlm = open_tiny(dtype=dtype)
    attach(vlm)
    copy = {name: one for name, one in vlm.network.named_parameters() if "modules_to_save" in name}
    assert sorted(name.rpartition(".")[2] for name in copy) == ["bias", "weight"]
    assert all(one.requires_grad for one in copy.values())
    dtypes = {one.dtype for one in vlm.network.parameters() if one.requires_grad}
    assert dtypes == {torch.float32}
    assert trainable_counts(vlm.network)["projector"] == 16 * 32 + 32


def test_the_seed_alone_decides_the_start(open_tiny):
    starts = []
    for noise, seed in ((0, 3), (1, 3), (0, 4)):
        vlm = open_tiny()
        torch.manual_seed(noise)
        attach(vlm, seed=seed)
        starts.append(torch.cat([one.flatten() for name, one in vlm.network.named_parameters() if "lora_A" in name]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_the_adapter_names_its_base(per_question):
    attach(per_question)
    config = per_question.network.peft_config["default"]
    assert (config.base_model_name_or_path, config.revision) == ("a-base", "abc")
    assert config.modules_to_save == ["multi_modal_projector"]
