"""A PaliGemma-1 checkpoint from disk or hub, in full precision or four bits; the projector of an earlier run."""

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig, PaliGemmaForConditionalGeneration

from radvqa.errors import ModelError
from radvqa.models.layout import require_prefix_attention

TESTED_TRANSFORMERS = "5.23."
"""Mask, module tree and scaling of PaliGemma changed between minor releases."""

IN_FULL_PRECISION = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
"""What four bits leave alone: the tower is small, the projector learns, the head is tied to the embeddings."""

LINEAR_MODULES_OF_A_LAYER = 7
"""Linear modules of a Gemma layer: four of the attention, three of the MLP."""


def load_network(
    folder: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    attention: str = "sdpa",
    quantise: Literal["none", "nf4"] = "none",
) -> tuple[Any, Any]:
    """Network and tokenizer of a PaliGemma-1 checkpoint in evaluation mode.

    Whatever attention the checkpoint's own configuration asks for, the network gets ``attention``. With ``nf4`` the
    linear modules of the language model's layers are held in four bits (Dettmers et al., 2023, arXiv 2305.14314).

    Raises:
        ModelError: the folder or hub name cannot be loaded, or is no PaliGemma-1 checkpoint; another release of
            transformers than the tested one; four bits without the package they need.
    """
    require_tested_transformers()
    where = device or torch.device("cpu")
    # Four-bit weights are quantised where they will be; the others are moved there when they are whole.
    four_bits = (
        {"quantization_config": four_bit_settings(dtype), "device_map": {"": str(where)}} if quantise == "nf4" else {}
    )
    try:
        config = AutoConfig.from_pretrained(folder, revision=revision)
        kind = (config.model_type, getattr(config.get_text_config(), "model_type", "none"))
        if kind != ("paligemma", "gemma"):
            raise ModelError(
                "this kind of checkpoint is not supported yet",
                where=folder,
                expected="paligemma with a gemma language model (PaliGemma 1)",
                got=" with ".join(kind),
                fix="take a PaliGemma 1 checkpoint, such as google/paligemma-3b-mix-448",
            )
        network, loading = PaliGemmaForConditionalGeneration.from_pretrained(
            folder,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            **four_bits,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            "the checkpoint cannot be loaded",
            where=folder,
            got=(str(error).splitlines() or [type(error).__name__])[0],
            fix="check the name and revision, and that the files are whole; gated checkpoints need `hf auth login` "
            "with an account that accepted their licence",
        ) from error
    if loading["missing_keys"]:
        raise ModelError(
            "the checkpoint lacks weights, which would be random",
            where=folder,
            expected="every tensor of the network",
            got=f"{len(loading['missing_keys'])} missing, e.g. {min(loading['missing_keys'])}",
            fix="fetch the checkpoint again",
        )
    require_prefix_attention(network.config)
    if quantise == "nf4":
        require_four_bit_layers(network)
        return network.eval(), tokenizer
    return network.to(where).eval(), tokenizer


def require_tested_transformers() -> None:
    """Refuse a release of transformers whose PaliGemma was not compared with ours.

    Raises:
        ModelError: another release is installed.
    """
    if not transformers.__version__.startswith(TESTED_TRANSFORMERS):
        raise ModelError(
            "this release of transformers is not tested: masks and module names of PaliGemma changed between releases",
            expected=f"transformers {TESTED_TRANSFORMERS}x",
            got=transformers.__version__,
            fix="install the release that radvqa asks for",
        )


def four_bit_settings(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 weights that are multiplied in ``dtype``.

    Raises:
        ModelError: bitsandbytes is not installed or does not run here.
    """
    try:
        import_module("bitsandbytes")
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            "weights in four bits need bitsandbytes, which does not run here",
            where="model.quantise",
            got=(str(error).splitlines() or [type(error).__name__])[0],
            fix="pip install 'radvqa[quant]', or set model.quantise: none",
        ) from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(IN_FULL_PRECISION),
    )


def require_four_bit_layers(network: nn.Module) -> None:
    """Refuse a network whose four-bit modules are others than the linear ones of the language model's layers.

    Raises:
        ModelError: modules are missing, or others are among them.
    """
    names = [name for name, module in network.named_modules() if type(module).__name__ == "Linear4bit"]
    config: Any = network.config
    expected = LINEAR_MODULES_OF_A_LAYER * config.text_config.num_hidden_layers
    strange = [name for name in names if not name.startswith("model.language_model.layers.")]
    if strange or len(names) != expected:
        raise ModelError(
            "four bits did not reach the modules they should",
            where=strange[0] if strange else None,
            expected=f"{expected} linear modules of the language model's layers",
            got=f"{len(names)}, {len(strange)} of them elsewhere",
            fix="install the pinned requirements, or set model.quantise: none",
        )


def load_projector(projector: nn.Module, file: Path) -> str:
    """Put the weights of a ``projector.safetensors`` into the projector; the file's SHA-256 in hex.

    Raises:
        ModelError: the file is missing, damaged, or of another model.
    """
    fix = "give the projector.safetensors of an align stage that had this checkpoint"
    try:
        content = file.read_bytes()
        state = load(content)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "the projector file cannot be read",
            where=str(file),
            got=(str(error).splitlines() or [type(error).__name__])[0],
            fix=fix,
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in projector.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if got != expected:
        raise ModelError(
            "the projector file is of another model",
            where=str(file),
            expected=_shapes(expected),
            got=_shapes(got),
            fix=fix,
        )
    projector.load_state_dict(state)
    return hashlib.sha256(content).hexdigest()


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    listed = [f"{name} {' x '.join(map(str, shape))}" for name, shape in sorted(shapes.items())]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
