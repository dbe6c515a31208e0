"""The rules of assembly on random weights (fast), and the base assembled from the real parts (slow)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PaliGemmaForConditionalGeneration,
    SiglipVisionModel,
)

from radvqa.data.phantom.image import render
from radvqa.errors import ModelError
from radvqa.models.checkpoint_loading import load_network
from radvqa.models.embedded import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    assemble,
    embedded_base,
    fold_normalisation,
    gemma_config,
    gemma_state,
    image_processor,
    projector_start,
    read_dinov2,
    read_smollm2,
    siglip_config,
    siglip_state,
)
from radvqa.models.layout import additive_mask
from radvqa.models.vlm import Vision, Vlm, part_of
from radvqa.sample import VqaSample

SENTENCES = (
    "The chest radiograph shows a small effusion on the left side.",
    "def area(width, height):\n    return width * height",
    "Paris is the capital of France, and Rome is the capital of",
)
PICTURES = 12


# --- helpers ----------------------------------------------------------------------------------------------------


def source_names(layers):
    """Names in the ONNX file of the tensors of transformers' Dinov2Model, and back."""
    names = {name: name for name in ("embeddings.cls_token", "layernorm.weight", "layernorm.bias")}
    for part in ("weight", "bias"):
        names[f"embeddings.patch_embeddings.projection.{part}"] = f"embeddings.patch_embeddings.projection.{part}"
        for index in range(layers):
            layer = f"encoder.layer.{index}"
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                names[f"{layer}.{same}.{part}"] = f"{layer}.{same}.{part}"
            for short, old in (("q", "query"), ("k", "key"), ("v", "value")):
                names[f"{layer}.attention.{short}_proj.{part}"] = f"{layer}.attention.attention.{old}.{part}"
            names[f"{layer}.attention.o_proj.{part}"] = f"{layer}.attention.output.dense.{part}"
    for index in range(layers):
        for scale in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
            names[f"encoder.layer.{index}.{scale}"] = f"encoder.layer.{index}.{scale}"
    return names


def dinov2_model(arrays):
    """transformers' DINOv2 with these weights."""
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, mlp_ratio=4, patch_size=14, image_size=518,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    model = Dinov2Model(config).eval()
    state = {new: torch.from_numpy(np.array(arrays[old], dtype=np.float32)) for new, old in source_names(12).items()}
    patches = torch.from_numpy(np.array(arrays["embeddings.patch_positions"], dtype=np.float32))
    cls = torch.from_numpy(np.array(arrays["embeddings.cls_position"], dtype=np.float32))
    state["embeddings.position_embeddings"] = torch.cat([cls, patches], dim=1)
    state["embeddings.mask_token"] = torch.zeros(1, 384)
    model.load_state_dict(state)
    return model


def random_arrays():
    rng = np.random.default_rng(0)
    shapes = {name: tuple(tensor.shape) for name, tensor in Dinov2Model(Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, mlp_ratio=4, patch_size=14, image_size=518,
    )).state_dict().items()}  # fmt: skip
    arrays = {}
    for new, old in source_names(12).items():
        shape = shapes[new]
        spread = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 and "cls" not in new else 0.3
        arrays[old] = (rng.standard_normal(shape, dtype=np.float32) * spread).astype(np.float32)
        if "norm" in new and new.endswith("weight"):
            arrays[old] += 1
    arrays["embeddings.patch_positions"] = rng.standard_normal((1, 37 * 37, 384), dtype=np.float32)
    arrays["embeddings.cls_position"] = rng.standard_normal((1, 1, 384), dtype=np.float32)
    return arrays


@torch.no_grad()
def without_cls(model, pixels):
    """DINOv2 run on its patch tokens alone."""
    hidden = model.embeddings(pixels)[:, 1:]
    encoded = model.encoder(hidden)
    return model.layernorm(encoded.last_hidden_state)


@torch.no_grad()
def siglip(arrays, pixels, *, layers, fold):
    config = siglip_config(pixels.shape[-1], layers=layers)
    model = SiglipVisionModel(config).eval()
    model.load_state_dict(siglip_state(arrays, image_size=pixels.shape[-1], layers=layers, fold=fold))
    return model(pixels).last_hidden_state


def random_pixels(size, count=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def imagenet_normalised(pixels):
    mean, std = (torch.tensor(value, dtype=torch.float32)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


# --- the rules on random weights --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays():
    return random_arrays()


def test_siglip_equals_dinov2_without_its_cls_token(arrays):
    pixels = imagenet_normalised(random_pixels(112))
    expected = without_cls(dinov2_model(arrays), pixels)
    found = siglip(arrays, pixels, layers=12, fold=False)
    assert found.shape == (2, 64, 384)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_ten_layers_are_the_first_ten(arrays):
    """Without the last norm, which belongs to layer twelve."""
    pixels = imagenet_normalised(random_pixels(112, count=1))
    model = dinov2_model(arrays)
    model.encoder.layer = model.encoder.layer[:10]
    model.layernorm = torch.nn.Identity()
    # The identity norm of SigLIP still normalises: weight 1, bias 0.
    expected = functional.layer_norm(without_cls(model, pixels), (384,), eps=1e-6)
    torch.testing.assert_close(siglip(arrays, pixels, layers=10, fold=False), expected, atol=1e-4, rtol=0)


def test_the_fold_takes_pixels_scaled_to_minus_one_and_one(arrays):
    pixels = random_pixels(112)
    folded = siglip(arrays, (pixels - 0.5) / 0.5, layers=10, fold=True)
    plain = siglip(arrays, imagenet_normalised(pixels), layers=10, fold=False)
    torch.testing.assert_close(folded, plain, atol=1e-4, rtol=0)
    assert (folded - siglip(arrays, imagenet_normalised(pixels), layers=10, fold=True)).abs().max() > 1e-2


def test_the_fold_of_one_patch():
    weight, bias = np.ones((1, 3, 1, 1)), np.zeros(1)
    folded, shifted = fold_normalisation(weight, bias)
    black = folded.sum(axis=(1, 2, 3)) * -1 + shifted
    white = folded.sum(axis=(1, 2, 3)) + shifted
    assert black == pytest.approx((-IMAGENET_MEAN / IMAGENET_STD).sum())
    assert white == pytest.approx(((1 - IMAGENET_MEAN) / IMAGENET_STD).sum())


def test_gemma_equals_llama():
    config = LlamaConfig(
        vocab_size=50, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-5, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    llama = LlamaForCausalLM(config).eval()
    for name, parameter in llama.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    gemma = GemmaForCausalLM(gemma_config(llama.config, vocab_size=50, bos_token_id=1)).eval()
    gemma.model.load_state_dict(gemma_state(llama.state_dict(), hidden_size=48))
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(gemma(ids).logits, llama(ids).logits, atol=1e-3, rtol=0)
    assert gemma.lm_head.weight is gemma.model.embed_tokens.weight


def test_the_projector_starts_with_the_statistics_of_text():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3000, 16, generator=generator) * 2 + 5
    embeddings = torch.randn(400, 8, generator=generator) * torch.linspace(0.1, 2, 8) - 1
    state = projector_start(features, embeddings)
    found = features @ state["weight"].T + state["bias"]
    torch.testing.assert_close(found.mean(0), embeddings.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0), embeddings.std(0), atol=1e-4, rtol=0)
    again = projector_start(features, embeddings)
    assert torch.equal(state["weight"], again["weight"])


def test_the_image_processor_scales_to_minus_one_and_one():
    picture = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    found = image_processor(112)(picture, return_tensors="np")["pixel_values"][0]
    expected = (picture.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert image_processor(112).image_seq_length == 64


def test_there_are_two_sizes():
    with pytest.raises(ModelError, match="no variant of this image size") as caught:
        embedded_base(448)
    assert caught.value.got == "448"


# --- the assembled base -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(user_cache):
    with pytest.MonkeyPatch.context() as patch:
        user_cache(patch)
        try:
            return embedded_base(224)
        except ModelError as error:
            pytest.skip(f"the embedded base cannot be built here: {error.what}")


@pytest.fixture(scope="module")
def parts(folder):
    found = folder.parent / "parts"
    files = found / "vit_s_focus.onnx", found / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if missing := [file.name for file in files if not file.is_file()]:
        pytest.skip(f"the base is there, but not its parts: {missing}")
    return files


@pytest.fixture(scope="module")
def llama(parts):
    return read_smollm2(parts[1])


@pytest.fixture(scope="module")
def real_arrays(parts):
    import onnx
    from onnx import numpy_helper

    arrays = read_dinov2(parts[0])
    # The base needs no CLS token; its position is the other constant of a position table.
    constants = onnx.load(str(parts[0])).graph.initializer
    (cls,) = (one for one in constants if list(one.dims) == [1, 1, 384] and "cls_token" not in one.name)
    return arrays | {"embeddings.cls_position": numpy_helper.to_array(cls)}


@pytest.fixture(scope="module")
def vlm(folder):
    network, tokenizer = load_network(str(folder))
    return Vlm(network.requires_grad_(False), tokenizer, name=str(folder))


@torch.no_grad()
def text_logits(vlm, ids, allowed):
    """The assembled decoder on text alone, under any mask."""
    states = vlm.language_model(
        input_ids=ids,
        position_ids=torch.arange(ids.shape[1])[None] + 1,
        attention_mask=additive_mask(allowed, torch.float32),
    ).last_hidden_state
    return vlm.base.lm_head(states)


def causal(length):
    return torch.ones(1, length, length).tril().bool()


@pytest.mark.slow
def test_the_real_decoder_equals_smollm2(vlm, llama):
    source, tokenizer = llama
    for sentence in SENTENCES:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(sentence, add_special_tokens=False).input_ids]])
        assert int(ids.max()) < 49152
        with torch.no_grad():
            expected = source(ids).logits
        found = text_logits(vlm, ids, causal(ids.shape[1]))[..., :49152]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
        assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.slow
@pytest.mark.parametrize("size", [112, 224])
def test_the_real_tower_equals_dinov2_without_its_cls_token(real_arrays, size):
    pixels = imagenet_normalised(random_pixels(size, count=1))
    expected = without_cls(dinov2_model(real_arrays), pixels)
    torch.testing.assert_close(siglip(real_arrays, pixels, layers=12, fold=False), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_dinov2_equals_the_onnx_file(real_arrays, parts):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    import onnx

    graph = onnx.load(str(parts[0]))
    last = next(node for node in reversed(graph.graph.node) if node.name.startswith("/backbone/layernorm"))
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.output[0]))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = imagenet_normalised(random_pixels(224, count=1))
    (expected,) = session.run([last.output[0]], {session.get_inputs()[0].name: pixels.numpy()})
    with torch.no_grad():
        found = dinov2_model(real_arrays)(pixels).last_hidden_state
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.slow
def test_the_real_fold_is_exact(real_arrays, vlm):
    pixels = random_pixels(224, count=1)
    plain = siglip(real_arrays, imagenet_normalised(pixels), layers=10, fold=False)
    torch.testing.assert_close(
        siglip(real_arrays, (pixels - 0.5) / 0.5, layers=10, fold=True), plain, atol=1e-4, rtol=0
    )
    with torch.no_grad():
        built = vlm.vision_encoder((pixels - 0.5) / 0.5).last_hidden_state
    torch.testing.assert_close(built, plain, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_folder_loads_without_radvqa(folder):
    """In a process of its own, which never imports radvqa."""
    program = f"""
import sys
import numpy as np
from PIL import Image
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration
processor = AutoProcessor.from_pretrained({str(folder)!r})
model = PaliGemmaForConditionalGeneration.from_pretrained({str(folder)!r}).eval()
picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
inputs = processor(images=Image.fromarray(picture), text="<image>answer en What is this?", return_tensors="pt")
inputs.pop("labels", None)
expected = (picture.transpose(2, 0, 1) / 255 - 0.5) / 0.5
assert np.abs(inputs["pixel_values"][0].numpy() - expected).max() < 1e-6
assert inputs["input_ids"][0, :257].tolist() == [49152] * 256 + [49153]
found = model.generate(**inputs, max_new_tokens=4)
assert not (found[0, inputs["input_ids"].shape[1]:] >= 49152).any()
assert not [name for name in sys.modules if name.split(".")[0] in ("radvqa", "torchvision")]
print("loaded")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "loaded"


@pytest.mark.slow
def test_saving_and_loading_changes_no_bit(vlm, folder, tmp_path):
    vlm.network.save_pretrained(tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as built, safe_open(tmp_path / "model.safetensors", "pt") as new:
        assert set(built.keys()) == set(new.keys())
        assert all(torch.equal(built.get_tensor(name), new.get_tensor(name)) for name in built.keys())  # noqa: SIM118
    again = PaliGemmaForConditionalGeneration.from_pretrained(folder)
    assert all(torch.equal(one, other) for one, other in zip(vlm.network.parameters(), again.parameters(), strict=True))
    assert again.lm_head.weight is again.model.language_model.embed_tokens.weight


@pytest.mark.slow
def test_building_again_gives_the_same_weights(parts, folder, tmp_path):
    assemble(*parts, tmp_path, image_size=224)
    with safe_open(folder / "model.safetensors", "pt") as built, safe_open(tmp_path / "model.safetensors", "pt") as new:
        assert set(built.keys()) == set(new.keys())
        # The one computed row, the sink of bos, is summed in another order by another number of threads.
        for name in built.keys():  # noqa: SIM118
            torch.testing.assert_close(new.get_tensor(name), built.get_tensor(name), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_parameters(vlm):
    counts = {"vision_encoder": 0, "projector": 0, "language_model": 0}
    for name, parameter in vlm.network.named_parameters():
        counts[part_of(name)] += parameter.numel()
    assert counts == {"vision_encoder": 18_069_888, "projector": 221_760, "language_model": 134_516_160}


@pytest.mark.slow
def test_tokens(folder, vlm):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (vlm.tokens.image_id, vlm.tokens.bos_id, vlm.tokens.eos_id) == (49152, 49153, 2)
    assert vlm.tokens.image_tokens == 256
    assert tokenizer.convert_tokens_to_ids(["<image>", "<bos>"]) == [49152, 49153]
    assert vlm.network.config.text_config.vocab_size == vlm.network.config.vocab_size == 49154
    assert AutoProcessor.from_pretrained(folder).image_seq_length == 256


@pytest.mark.slow
def test_image_tokens_start_on_the_scale_of_text(vlm):
    """On phantoms that the projector's start was not measured on."""
    pictures = [render(224, seed=12345, split="test", index=index).image for index in range(PICTURES)]
    pixels = torch.from_numpy(np.stack(pictures))[..., None].expand(-1, -1, -1, 3)
    with torch.no_grad():
        tokens = vlm.image_embeddings(Vision(torch.arange(PICTURES), pixels=pixels)).flatten(0, 1)
        text = vlm.language_model.embed_tokens.weight[:49152] * 24
    ratio = tokens.std(dim=0) / text.std(dim=0)
    assert 0.8 < float(ratio.min()) <= float(ratio.max()) < 1.2
    assert float(((tokens.mean(dim=0) - text.mean(dim=0)) / text.std(dim=0)).abs().max()) < 0.3


def continuation_loss(vlm, first, prefix, continuation, *, bidirectional):
    """Mean loss (nats) of the continuation's tokens, over the source vocabulary, behind a first token and a prefix."""
    ids = torch.tensor([[first, *prefix, *continuation]])
    start = 1 + len(prefix)
    allowed = causal(ids.shape[1])
    if bidirectional:
        allowed[:, :start, :start] = True
    logits = text_logits(vlm, ids, allowed)[0, start - 1 : -1, :49152]
    return float(functional.cross_entropy(logits, ids[0, start:]))


@pytest.mark.slow
def test_bos_is_an_attention_sink(vlm):
    """Under the prefix mask the decoder works behind <bos>, and falls apart behind the start token it was trained on.

    How far it falls depends on the text: by 3 nats on the first four (those of LOG.md), by 0.6 on the others.
    """
    texts = (
        ("The capital of France is", " Paris, and the capital of Germany is Berlin."),
        ("A chest x-ray shows the", " lungs, the heart and the ribs of the patient."),
        (
            "Question: Is a chest x-ray made with radiation? Answer:",
            " Yes, it uses a small dose of ionizing radiation.",
        ),
        ("The MRI scan of the brain showed a", " tumor in the left hemisphere of the brain."),
        ("The sun rises in the east and", " sets in the west every day."),
        ("To make bread you need flour, water, salt", " and a little yeast, and then you bake it in the oven."),
        ("The heart pumps blood through the body, and the lungs", " bring oxygen into the blood."),
        ("She opened the door, walked into the kitchen", " and put the bag on the table."),
    )
    start = vlm.tokenizer.convert_tokens_to_ids("<|im_start|>")
    losses = {"causal": [], "bos": [], "start": []}
    for texts_ in texts:
        prefix, rest = (vlm.tokenizer(text, add_special_tokens=False).input_ids for text in texts_)
        losses["causal"].append(continuation_loss(vlm, start, prefix, rest, bidirectional=False))
        losses["bos"].append(continuation_loss(vlm, vlm.tokens.bos_id, prefix, rest, bidirectional=True))
        losses["start"].append(continuation_loss(vlm, start, prefix, rest, bidirectional=True))
    mean = {name: sum(some) / len(some) for name, some in losses.items()}
    assert mean["bos"] < mean["causal"] + 0.6
    assert mean["start"] > mean["causal"] + 1.5


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_the_new_tokens_do_not_win_where_answers_are_predicted(vlm, layout, monkeypatch):
    monkeypatch.setattr(vlm, "layout", layout)
    questions = ("Is there a mass in the left lung?", "Which organ is abnormal?", "What is the imaging plane?")
    samples = [
        VqaSample(
            sample_id=f"s{index}", image_id="i", image=Path(f"{index}"), question=question,
            answers=("Right upper lobe",), answer_type="open", group_id="i", split="test",
        )
        for index, question in enumerate(questions)
    ]  # fmt: skip
    pictures = [render(224, seed=5, split="test", index=index).image for index in range(len(questions))]
    pixels = torch.from_numpy(np.stack(pictures))[..., None].expand(-1, -1, -1, 3)
    batch = vlm.batch(vlm.rows(samples, answers=True))
    with torch.no_grad():
        logits = vlm.supervised_logits(batch, Vision(torch.arange(len(questions)), pixels=pixels))
    assert int(logits.argmax(-1).max()) < 49152


def running_text_winners(vlm, sentence):
    ids = torch.tensor([[vlm.tokens.bos_id, *vlm.tokenizer(sentence, add_special_tokens=False).input_ids]])
    return text_logits(vlm, ids, causal(ids.shape[1])).argmax(-1)[0].tolist()


@pytest.mark.slow
def test_the_new_tokens_do_not_win_in_running_text(vlm):
    for sentence in SENTENCES:
        assert max(running_text_winners(vlm, sentence)) < 49152


@pytest.mark.slow
@pytest.mark.xfail(reason="the tied <bos> row wins behind a few words whose final state points along the sink")
def test_bos_does_not_win_behind_any_word(vlm):
    """Harmless in answers, which never hold it, but such a place starts training with a loss of tens of nats."""
    text = (
        "Photosynthesis is the process by which green plants use sunlight to make food from carbon dioxide and water. "
        "It takes place in the leaves, where a green pigment called chlorophyll absorbs the light."
    )
    assert vlm.tokens.bos_id not in running_text_winners(vlm, text)
