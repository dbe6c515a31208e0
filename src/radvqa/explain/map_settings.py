"""What can be chosen about saliency maps, and which choices each method heeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from radvqa.explain.occlusion import WINDOW
from radvqa.explain.rollout import Fusion


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSettings:
    """What can be chosen about the maps; the defaults are those of the methods' descriptions.

    Attributes:
        alpha: share of the residual connection in ``rollout`` and ``rollout_value``.
        fusion: how ``rollout``, ``rollout_90``, ``rollout_norm`` and ``two_tower`` join the heads of a layer.
        layers: first layer and the one after the last, for all attention maps; None = all.
        heads: heads of the raw map, ``contrast`` and ``relative``; None = all. Rollouts join all heads.
        sinks: mark them (the map stays as it is) or take their weight out of attention maps.
        discard: share of the smallest weights of each row that rollouts leave out.
        window: side of what occlusion hides at once, in image cells.
        stride: steps of that window, in image cells; None = half of it for tokens, the whole of it for pixels.
        tower_alpha: share of the residual connection in the vision tower, for ``two_tower``; "norm" = measured.
        tower_layers: how many of its last layers; None = all.
        foil: another answer. Gradient maps of the whole answer then show what speaks for the answer and not for this
            one; ``""`` = what speaks for the answer.
    """

    alpha: float = 0.5
    fusion: Fusion = "mean"
    layers: tuple[int, int] | None = None
    heads: tuple[int, ...] | None = None
    sinks: Literal["mark", "remove"] = "mark"
    discard: float = 0.0
    window: int = WINDOW
    stride: int | None = None
    tower_alpha: float | Literal["norm"] = 0.9
    tower_layers: int | None = None
    foil: str = ""


def used_settings(methods: Iterable[str], settings: MapSettings) -> dict[str, Any]:
    """The settings that these methods heed, by name, as they stand in a manifest."""
    heeded = {name for method in methods for name in _HEEDED[method]}
    values = {name: getattr(settings, name) for name in MapSettings.__slots__ if name in heeded}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_OF_ROLLOUT: Final = ("layers", "sinks", "discard")

_HEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "raw": ("layers", "heads", "sinks"),
    "raw_value": ("layers", "sinks"),
    "rollout": ("alpha", "fusion", *_OF_ROLLOUT),
    "rollout_90": ("fusion", *_OF_ROLLOUT),
    "rollout_norm": ("fusion", *_OF_ROLLOUT),
    "rollout_value": ("alpha", *_OF_ROLLOUT),
    "contrast": ("layers", "heads", "sinks"),
    "relative": ("layers", "heads", "sinks"),
    "attention_gradient": ("foil",),
    "chefer": ("foil",),
    "grad_cam": ("foil",),
    "token_occlusion": ("window", "stride"),
    "pixel_occlusion": ("window", "stride"),
    "two_tower": ("fusion", *_OF_ROLLOUT, "tower_alpha", "tower_layers"),
}
