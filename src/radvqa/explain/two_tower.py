"""A map of the language model carried on through the vision tower: from image tokens to the pixels' patches.

The projector acts on each token alone, so image token p of the language model is output p of the tower, which has
mixed all patches already: r_pix = r_img · R_vit. In most towers R_vit is nearly the same row everywhere, and what comes
out is a picture of the tower's habits. So this is off by default and says how much it has left of the map.

Axes: L tower layers, t rows, n positions, i image tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from radvqa.errors import ModelError, RecipeError
from radvqa.explain.asked import Asked
from radvqa.explain.rollout import rollout, row_shares

DESTROYED = 0.1
"""Less than this share of the map's structure left counts as destroyed."""

_POWER_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoTower:
    """Rows whose image part was carried through the tower, and what that did to it.

    Attributes:
        rows: distributions over the n positions; the text part and the image mass are unchanged.
        moved: total variation between the image parts before and after (each scaled to sum 1), mean over rows.
        rank: stable rank of R_vit, ‖R‖²_F / ‖R‖²_2: 1 = every image token has the same row, i = the identity.
        left: how far the image part is from the tower's own prior, R_vit applied to a flat map, divided by how far it
            was from flat before: 0 = nothing of the map is left, 1 = all. NaN for a flat map.
    """

    rows: Float[Tensor, "t n"]
    moved: float
    rank: float
    left: float

    @property
    def destroyed(self) -> bool:
        """The picture is the tower's, whatever the question."""
        return not self.left >= DESTROYED


def tower_rollout(
    attention: Float[Tensor, "L i i"], *, alpha: float | Float[Tensor, "L i"] = 0.9, last: int | None = None
) -> Float[Tensor, "i i"]:
    """R_vit: rollout of the tower's ``last`` layers (default: all), one row per image token.

    All layers belong to it: PaliGemma uses the last one, unlike LLaVA.

    Raises:
        RecipeError: no such number of layers; ``alpha`` outside 0 … 1.
    """
    layers = len(attention)
    if last is not None and not 1 <= last <= layers:
        raise RecipeError("no such number of vision layers", expected=f"1 … {layers}", got=str(last))
    first = 0 if last is None else layers - last
    kept = alpha[first:] if isinstance(alpha, Tensor) else alpha
    return rollout(attention[first:], slice(None), alpha=kept)


def tower_residual(asked: Asked) -> Float[Tensor, "L i"]:
    """‖x‖ / (‖x‖ + ‖what attention adds to x‖) at every layer of the tower and image token, for ``alpha``.

    Raises:
        ModelError: the tower is no SigLIP.
    """
    layers = [layer for layer in asked.vlm.vision_encoder.modules() if isinstance(layer, SiglipEncoderLayer)]
    if not layers:
        raise ModelError("the vision tower is no SigLIP", got=type(asked.vlm.vision_encoder).__name__)
    stream: dict[nn.Module, Tensor] = {}
    shares: dict[nn.Module, Tensor] = {}

    def before(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        stream[layer] = args[0][0].float().norm(dim=-1)

    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    for layer in layers:

        def after(_: nn.Module, __: object, output: tuple[Tensor, ...], layer: nn.Module = layer) -> None:
            kept = stream.pop(layer)
            shares[layer] = kept / (kept + output[0][0].float().norm(dim=-1))

        handles.append(layer.self_attn.register_forward_hook(after))
    try:
        with torch.no_grad():
            asked.vlm.see(asked.pixels)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([shares[layer] for layer in layers])


def compose(rows: Float[Tensor, "t n"], tower: Float[Tensor, "i i"], *, image: slice) -> TwoTower:
    """Carry the image part of ``rows`` through ``tower``."""
    before = rows[:, image]
    tower = row_shares(tower).to(before)
    after = before @ tower
    changed = rows.clone()
    changed[:, image] = after
    start, end = row_shares(before), row_shares(after)
    flat = torch.full_like(start[:1], 1 / start.shape[1])
    return TwoTower(
        rows=changed,
        moved=float(_distance(start, end)),
        rank=_stable_rank(tower),
        left=float(_distance(end, flat @ tower) / _distance(start, flat)),
    )


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().sum(-1).mean() / 2.0


def _stable_rank(matrix: Float[Tensor, "i i"]) -> float:
    """‖R‖²_F / ‖R‖²_2, the spectral norm by power iteration; a stochastic matrix makes a good start of it."""
    matrix = matrix.double()
    vector = torch.ones(len(matrix), dtype=matrix.dtype, device=matrix.device)
    for _ in range(_POWER_STEPS):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm()
    return float(matrix.square().sum() / (matrix @ vector).square().sum())
