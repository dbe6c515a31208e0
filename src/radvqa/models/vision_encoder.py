"""Another SigLIP vision tower in front of a checkpoint's language model.

The result is a plain Hugging Face folder in the user's cache: the checkpoint's language model, tokenizer and generation
settings, the other tower, and a new projector between them. Whatever reads a checkpoint reads this folder.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from platformdirs import user_cache_path
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, PaliGemmaConfig, SiglipVisionModel
from transformers.models.paligemma.modeling_paligemma import PaliGemmaMultiModalProjector

from radvqa.errors import ModelError
from radvqa.models.checkpoint_loading import load_network
from radvqa.models.embedded import calibration_features, embedded_base, projector_start
from radvqa.models.processor import paligemma_processor
from radvqa.recipe import Model
from radvqa.records import settle

BUILD_VERSION = 1
"""Part of the cache folder's name: raise it when the composed weights change."""

NOTE_FILE = "vision_encoder.json"
KINDS = ("siglip", "siglip_vision_model", "paligemma")
HUB_NAME = r"[A-Za-z0-9][\w.-]*/[\w.-]+"


def composed_base(
    model: Model, base: str, *, digest_of: Callable[[str, str | None], str], say: Callable[[str], None]
) -> tuple[str, str]:
    """The folder of ``base`` with the tower of ``model.vision_encoder``, made on first use; and a digest naming both.

    The projector starts as the embedded base's does (see ``projector_start``): random, and scaled so that over the
    patches of 48 drawn phantoms its output has each channel's mean and deviation of the text embeddings.

    Args:
        model: a recipe's model section; ``vision_encoder`` is given.
        base: folder or hub name of the checkpoint.
        digest_of: which weights a folder or hub name (with its revision) holds.
        say: told what goes on.

    Raises:
        ModelError: the tower is not there, is no SigLIP tower, lacks weights, wants other pictures than PaliGemma's, or
            is a hub name without a revision.
    """
    tower = tower_source(model, say=say)
    digests = digest_of(base, model.revision), digest_of(tower, model.vision_revision)
    together = f"{digests[0]}, vision encoder {digests[1]}"
    key = hashlib.sha256(f"{BUILD_VERSION} {together}".encode()).hexdigest()[:12]
    folder = user_cache_path("radvqa") / "composed" / f"{_short(base)}-{_short(tower)}-{key}"
    if not folder.is_dir():
        say(f"vision encoder: putting that of {tower} in front of the language model of {base}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as workplace:
            partial = Path(workplace) / folder.name
            _compose(model, base, tower, partial)
            note = {"base": base, "base_weights": digests[0], "vision_encoder": tower, "vision_weights": digests[1]}
            (partial / NOTE_FILE).write_text(json.dumps(note, indent=2), encoding="utf-8")
            settle(partial, folder)
    return str(folder), together


def tower_source(model: Model, *, say: Callable[[str], None]) -> str:
    """The folder or hub name of ``model.vision_encoder``. Raises ``ModelError`` like ``composed_base``."""
    name = str(model.vision_encoder)
    if name == "embedded":
        return str(embedded_base(model.image_size, wheels=model.wheels, say=say))
    if Path(name).is_dir():
        return name
    if re.fullmatch(HUB_NAME, name) is None:
        raise ModelError(
            "the folder of the vision encoder is not there",
            where=name,
            fix="correct model.vision_encoder: embedded, a hub name, or the folder of a SigLIP tower",
        )
    if model.vision_revision is None:
        raise ModelError(
            "the vision encoder is a hub name and needs a commit, because a branch is not reproducible",
            where=name,
            fix="set model.vision_revision: <commit>",
        )
    return name


@torch.no_grad()
def _compose(model: Model, base: str, tower: str, folder: Path) -> None:
    stored = AutoConfig.from_pretrained(base, revision=model.revision).dtype
    network, tokenizer = load_network(
        base, revision=model.revision, dtype=stored if isinstance(stored, torch.dtype) else torch.float32
    )
    encoder = load_tower(tower, model.vision_revision)
    values = network.config.to_dict()
    config = PaliGemmaConfig.from_dict({**values, "vision_config": encoder.config.to_dict()})
    image_size = config.vision_config.image_size
    network.config = network.model.config = config
    network.model.vision_tower = encoder
    network.model.multi_modal_projector = PaliGemmaMultiModalProjector(config)
    start = projector_start(calibration_features(network, image_size), _text_embeddings(network, tokenizer))
    network.model.multi_modal_projector.linear.load_state_dict(start)
    network.to(network.model.language_model.embed_tokens.weight.dtype).save_pretrained(folder)
    paligemma_processor(
        tokenizer, image_size=image_size, image_tokens=config.text_config.num_image_tokens
    ).save_pretrained(folder)


def load_tower(source: str, revision: str | None) -> Any:
    """The tower of a SigLIP or PaliGemma checkpoint in float32, without its pooling head.

    Raises:
        ModelError: it cannot be loaded, is of another kind, lacks weights, or wants pictures in another form.
    """
    commit = revision if not Path(source).is_dir() else None
    try:
        kind = AutoConfig.from_pretrained(source, revision=commit).model_type
        if kind not in KINDS:
            raise ModelError(
                "this kind of vision encoder is not supported",
                where=source,
                expected="a SigLIP checkpoint or tower, or a PaliGemma checkpoint",
                got=str(kind),
                fix="take a SigLIP 1 tower, such as google/siglip-base-patch16-224",
            )
        _require_paligemma_pictures(source, commit)
        if kind == "paligemma":
            tower = load_network(source, revision=commit)[0].model.vision_tower
            tower.config.vision_use_head = False
            return tower
        tower, loading = SiglipVisionModel.from_pretrained(
            source, revision=commit, dtype=torch.float32, vision_use_head=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            "the vision encoder cannot be loaded",
            where=source,
            got=(str(error).splitlines() or [type(error).__name__])[0],
            fix="check the name and vision_revision, and that the files are whole",
        ) from error
    if loading["missing_keys"]:
        raise ModelError(
            "the vision encoder lacks weights, which would be random",
            where=source,
            got=f"{len(loading['missing_keys'])} missing, e.g. {min(loading['missing_keys'])}",
            fix="fetch it again",
        )
    return tower.eval()


def _require_paligemma_pictures(source: str, revision: str | None) -> None:
    """Pictures are given as (x/255 - 0.5)/0.5; a tower that was trained on others would see wrong colours."""
    if Path(source).is_dir() and not (Path(source) / "preprocessor_config.json").is_file():
        return
    processor = AutoImageProcessor.from_pretrained(source, revision=revision)
    for name in ("image_mean", "image_std"):
        if list(getattr(processor, name)) != [0.5] * 3:
            raise ModelError(
                "the vision encoder wants pictures that are normalised otherwise",
                where=f"{source}, {name}",
                expected="0.5 for each colour, as SigLIP has it",
                got=str(getattr(processor, name)),
                fix="take a SigLIP tower with that normalisation",
            )


def _text_embeddings(network: Any, tokenizer: Any) -> Float[Tensor, "v h"]:
    """The embeddings of text on the scale of the residual stream, without those of the image and bos tokens."""
    weight = network.model.language_model.embed_tokens.weight.float()
    kept = torch.ones(len(weight), dtype=torch.bool)
    kept[[network.config.image_token_id, tokenizer.bos_token_id]] = False
    embeddings: Tensor = weight[kept] * float(weight.shape[1]) ** 0.5
    return embeddings


def _short(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(source).name)[:40]
