"""LoRA on a PaliGemma network: matched by full module path, counted, and refused when the counts are off."""

import re
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from radvqa.errors import ModelError
from radvqa.models.vlm import Vlm, part_of

AdaptedPart = Literal["vision_encoder", "language_model"]
Targets = Literal["attention", "all-linear"]

# `vision_model.` was a level of the module tree up to transformers 5.5.
_VISION_LAYER = r"model\.vision_tower\.(?:vision_model\.)?encoder\.layers\.\d+\."
_LANGUAGE_LAYER = r"model\.language_model\.layers\.\d+\."
_MODULES: dict[AdaptedPart, dict[Targets, tuple[str, int]]] = {
    "vision_encoder": {
        "attention": (_VISION_LAYER + r"self_attn\.(?:q|k|v|out)_proj", 4),
        "all-linear": (_VISION_LAYER + r"(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])", 6),
    },
    "language_model": {
        "attention": (_LANGUAGE_LAYER + r"self_attn\.(?:q|k|v|o)_proj", 4),
        "all-linear": (_LANGUAGE_LAYER + r"(?:self_attn\.(?:q|k|v|o)_proj|mlp\.(?:gate|up|down)_proj)", 7),
    },
}


def target_pattern(parts: Sequence[AdaptedPart], targets: Targets) -> str:
    """The regular expression that full-matches the adapted modules, for PEFT's ``target_modules``."""
    return "|".join(f"(?:{_MODULES[part][targets][0]})" for part in parts)


def attach_lora(
    vlm: Vlm,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Targets,
    parts: Sequence[AdaptedPart],
    base_name: str,
    revision: str | None,
    seed: int,
) -> dict[str, int]:
    """Wrap the network with adapters (fp32) and a saved copy of the projector; adapted modules by part.

    Only adapters and projector can learn afterwards.

    Raises:
        ModelError: another number of modules than layers × projections was matched in a part.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_pattern(parts, targets),
        modules_to_save=["multi_modal_projector"],
        revision=revision,
        task_type=None,
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT 0.21 reads an attribute that transformers 5.23 announces as deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        # New modules come in training mode: without eval() their dropout would act on every answer.
        vlm.network = get_peft_model(vlm.network, config).eval()
    # PEFT writes its own guess there, with a warning when another name was given before.
    vlm.network.base_model.peft_config["default"].base_model_name_or_path = base_name
    for module in vlm.network.modules():
        if isinstance(module, BaseTunerLayer):
            # Autocast rounds the adapters' inputs anyway; PEFT would first copy every one of them to float32.
            module.cast_input_dtype_enabled = False
    # PEFT adds it when the base checkpoints its activations, which do not need it; see `Vlm.checkpoint_gradients`.
    vlm.base.disable_input_require_grads()
    return require_adapters(vlm, targets=targets, parts=parts)


def require_adapters(vlm: Vlm, *, targets: Targets, parts: Sequence[AdaptedPart]) -> dict[str, int]:
    """Assert that exactly the modules of these parts carry an adapter, after attaching or loading; counts by part.

    Raises:
        ModelError: another number of modules than layers × projections carries one in a part, or others do.
    """
    counts = adapted_modules(vlm)
    layers: dict[AdaptedPart, int] = {
        "vision_encoder": vlm.base.config.vision_config.num_hidden_layers,
        "language_model": vlm.base.config.text_config.num_hidden_layers,
    }
    expected = {part: layers[part] * _MODULES[part][targets][1] if part in parts else 0 for part in layers}
    if counts != expected:
        raise ModelError(
            "LoRA did not reach the modules it should",
            where=target_pattern(parts, targets),
            expected=str(expected),
            got=str(counts),
            fix="the module names of this transformers release differ; install the pinned requirements",
        )
    return counts


def adapted_modules(vlm: Vlm) -> dict[str, int]:
    """How many modules carry an adapter, by part."""
    counts = {"vision_encoder": 0, "language_model": 0}
    for name, _ in vlm.network.named_parameters():
        if re.search(r"\.lora_A\.[^.]+\.weight$", name):
            counts[part_of(name)] = counts.get(part_of(name), 0) + 1
    return counts
