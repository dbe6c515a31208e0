"""The sizes of a PaliGemma-class network, read from its configuration: what can be counted without loading it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from radvqa.errors import ModelError
from radvqa.recipe import Model, PartName

AdaptedPart = Literal["vision_encoder", "language_model"]
Targets = Literal["attention", "all-linear"]

COLOURS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A SigLIP vision tower: widths in numbers of channels, image and patch sides in pixels."""

    layers: int
    width: int
    mlp: int
    heads: int
    patch: int
    image: int

    @property
    def tokens(self) -> int:
        """Patches of one picture, which are its image tokens."""
        return (self.image // self.patch) ** 2

    @property
    def attention(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the attention's linear maps: query, key, value, output."""
        return ((self.width, self.width),) * 4

    @property
    def feed_forward(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the MLP's linear maps."""
        return (self.width, self.mlp), (self.mlp, self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A Gemma language model whose head is tied to its embeddings."""

    layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int

    @property
    def attention(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the attention's linear maps: query, key, value, output."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        return (self.width, queries), (self.width, keys), (self.width, keys), (queries, self.width)

    @property
    def feed_forward(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the MLP's linear maps: gate, up, down."""
        return (self.width, self.mlp), (self.width, self.mlp), (self.mlp, self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A whole network; its projector is one linear map with bias from the tower's width to the decoder's."""

    vision: Tower
    language: Decoder

    def parameters(self) -> dict[PartName, int]:
        """Weights by part; the head counts with the embeddings it is tied to."""
        vision, language = self.vision, self.language
        norm = 2 * vision.width
        vision_layer = 2 * norm + sum(a * b + b for a, b in (*vision.attention, *vision.feed_forward))
        patches = COLOURS * vision.patch**2 * vision.width + vision.width
        language_layer = 2 * language.width + sum(a * b for a, b in (*language.attention, *language.feed_forward))
        return {
            "vision_encoder": patches + vision.tokens * vision.width + vision.layers * vision_layer + norm,
            "projector": vision.width * language.width + language.width,
            "language_model": language.vocabulary * language.width + language.layers * language_layer + language.width,
        }

    def adapted(self, part: AdaptedPart, targets: Targets) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the linear maps in one layer that adapters are put on."""
        block = self.vision if part == "vision_encoder" else self.language
        return block.attention if targets == "attention" else (*block.attention, *block.feed_forward)

    def layers(self, part: AdaptedPart) -> int:
        """Layers of a part."""
        return (self.vision if part == "vision_encoder" else self.language).layers

    def lora_parameters(self, *, rank: int, targets: Targets, parts: Sequence[AdaptedPart]) -> dict[AdaptedPart, int]:
        """Weights of the adapters by part: ``rank`` times inputs plus outputs of every adapted linear map."""
        return {part: self.layers(part) * rank * sum(a + b for a, b in self.adapted(part, targets)) for part in parts}


_SO400M = Tower(layers=27, width=1152, mlp=4304, heads=16, patch=14, image=448)
_GEMMA_2B = Decoder(layers=18, width=2048, mlp=16384, heads=8, kv_heads=1, head_width=256, vocabulary=257_216)
_KNOWN: Mapping[str, Geometry] = {
    f"google/paligemma-3b-{kind}-{image}": Geometry(vision=replace(_SO400M, image=image), language=_GEMMA_2B)
    for kind in ("mix", "pt")
    for image in (224, 448, 896)
}
_EMBEDDED = Geometry(
    vision=Tower(layers=10, width=384, mlp=1536, heads=6, patch=14, image=224),
    language=Decoder(layers=30, width=576, mlp=1536, heads=9, kv_heads=3, head_width=64, vocabulary=49_154),
)
_TINY = Geometry(
    vision=Tower(layers=2, width=16, mlp=32, heads=2, patch=14, image=56),
    language=Decoder(layers=3, width=32, mlp=64, heads=4, kv_heads=2, head_width=8, vocabulary=260),
)


def geometry_of(model: Model) -> Geometry | None:
    """The sizes of a recipe's base model, with its other vision tower where it names one.

    None for a hub name that is neither known here nor in the hub's cache, and for a folder without ``config.json``.

    Raises:
        ModelError: the folder's ``config.json`` cannot be read or lacks a size.
    """
    base = _of_checkpoint(model)
    if base is None or model.vision_encoder is None:
        return base
    if model.vision_encoder == "embedded":
        return replace(base, vision=replace(_EMBEDDED.vision, image=model.image_size))
    folder = Path(model.vision_encoder)
    config = folder / "config.json" if folder.is_dir() else _in_hub_cache(model.vision_encoder, model.vision_revision)
    return replace(base, vision=read_tower(config)) if config is not None and config.is_file() else None


def _of_checkpoint(model: Model) -> Geometry | None:
    if model.checkpoint == "tiny":
        return _TINY
    if model.checkpoint == "embedded":
        return replace(_EMBEDDED, vision=replace(_EMBEDDED.vision, image=model.image_size))
    if (folder := Path(model.checkpoint)).is_dir():
        return read_geometry(folder / "config.json") if (folder / "config.json").is_file() else None
    if model.checkpoint in _KNOWN:
        return _KNOWN[model.checkpoint]
    cached = _in_hub_cache(model.checkpoint, model.revision) if model.is_hub_name else None
    return None if cached is None else read_geometry(cached)


def read_geometry(file: Path) -> Geometry:
    """The sizes that a checkpoint's ``config.json`` states.

    Raises:
        ModelError: the file cannot be read, or lacks a size.
    """
    try:
        return parse_geometry(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            "the configuration of the checkpoint does not tell its sizes",
            where=str(file),
            expected="a config.json of a PaliGemma 1 checkpoint, with vision_config and text_config",
            got=f"no {error}" if isinstance(error, KeyError) else str(error),
            fix="fetch the checkpoint again, or correct model.checkpoint",
        ) from error


def read_tower(file: Path) -> Tower:
    """The sizes that the ``config.json`` of a SigLIP tower or checkpoint, or of a PaliGemma checkpoint, states.

    What a SigLIP configuration leaves out has SigLIP-base's value, as transformers fills it in.

    Raises:
        ModelError: the file cannot be read.
    """
    base = {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "patch_size": 16,
    }
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return _tower({**base, **config.get("vision_config", config)})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            "the configuration of the vision encoder does not tell its sizes",
            where=str(file),
            got=str(error),
            fix="fetch it again, or correct model.vision_encoder",
        ) from error


def _tower(vision: Mapping[str, Any]) -> Tower:
    return Tower(
        layers=int(vision["num_hidden_layers"]),
        width=int(vision["hidden_size"]),
        mlp=int(vision["intermediate_size"]),
        heads=int(vision["num_attention_heads"]),
        patch=int(vision["patch_size"]),
        # Left out by the configurations of 224 px that transformers itself fills in.
        image=int(vision.get("image_size", 224)),
    )


def parse_geometry(config: Mapping[str, Any]) -> Geometry:
    """The sizes in a configuration. Raises ``KeyError`` for one that is absent and has no default."""
    text = config["text_config"]
    return Geometry(
        vision=_tower(config["vision_config"]),
        language=Decoder(
            layers=int(text["num_hidden_layers"]),
            width=int(text["hidden_size"]),
            mlp=int(text["intermediate_size"]),
            heads=int(text["num_attention_heads"]),
            kv_heads=int(text["num_key_value_heads"]),
            head_width=int(text.get("head_dim", 256)),
            vocabulary=int(text["vocab_size"]),
        ),
    )


def _in_hub_cache(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found) if isinstance(found, str) else None
