"""Does a map depend on the model, the question and the image? What does not is a prior, not an explanation.

After Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: weights are randomised block by block, from the
output side down, and the map of the same answer is computed anew each time. Two deviations: the values of each tensor
are shuffled, which keeps their distribution; and the embeddings, to which the head is
tied, stay, since they are what the network reads the question with.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from radvqa.explain.measured import MeanLikeness, Sanity, SanityRow
from radvqa.models.vlm import Vlm

SURVIVES = 0.9
"""A rank correlation above this, with all blocks randomised, flags a method as blind to the model."""

Maps = Mapping[str, Float[np.ndarray, "r c"]]


class Likeness(NamedTuple):
    """How alike two maps are: Spearman's rank correlation and structural similarity; NaN where one map is constant."""

    spearman: float
    ssim: float


class Block(NamedTuple):
    """A part of the network that is randomised at once."""

    name: str
    modules: tuple[nn.Module, ...]


def likeness(one: Float[np.ndarray, "r c"], other: Float[np.ndarray, "r c"]) -> Likeness:
    """How alike two maps are. For the structural similarity each is stretched to 0 … 1 first."""
    if _flat(one) or _flat(other):
        return Likeness(math.nan, math.nan)
    window = min(7, (min(one.shape) - 1) | 1)
    rank = float(stats.spearmanr(one.ravel(), other.ravel()).statistic)
    structure = structural_similarity(_stretched(one), _stretched(other), win_size=window, data_range=1.0)
    return Likeness(rank, float(structure))


def blocks(vlm: Vlm, *, language_blocks: int = 4) -> list[Block]:
    """The network from its output side down: decoder layers in groups of equal size, projector, vision tower."""
    layers = list(vlm.language_model.layers)  # type: ignore[arg-type]
    edges = np.linspace(0, len(layers), min(language_blocks, len(layers)) + 1).astype(int).tolist()
    found = []
    for start, stop in reversed(list(pairwise(edges))):
        last = (vlm.language_model.norm,) if stop == len(layers) else ()
        name = f"decoder layers {start + 1} to {stop}" if stop > start + 1 else f"decoder layer {stop}"
        found.append(Block(name, (*layers[start:stop], *last)))
    return [*found, Block("projector", (vlm.projector,)), Block("vision tower", (vlm.vision_encoder,))]


@contextmanager
def cascade(parts: Sequence[Block], *, seed: int) -> Iterator[Callable[[], Block | None]]:
    """Yield the function that randomises the next block and returns it, or None after the last.

    Afterwards every weight is exactly what it was, whatever happened in between: a copy of what is changed is kept in
    memory.
    """
    kept: list[tuple[nn.Parameter, Tensor]] = []
    waiting = iter(parts)

    def randomise_next() -> Block | None:
        block = next(waiting, None)
        if block is not None:
            for module in block.modules:
                for weight in module.parameters():
                    key = seed * 1_000_003 + len(kept)
                    kept.append((weight, weight.detach().to("cpu", copy=True)))
                    _shuffle(weight, key)
        return block

    try:
        yield randomise_next
    finally:
        with torch.no_grad():
            for weight, values in kept:
                weight.copy_(values)


def weight_randomisation(
    vlm: Vlm, compute: Callable[[], Maps], *, original: Maps, language_blocks: int = 4, seed: int
) -> dict[str, dict[str, Likeness]]:
    """Method → block → how alike its map still is to the original, with this and all earlier blocks randomised.

    Args:
        vlm: its weights are shuffled and restored.
        compute: the maps by the weights of now; it must run the vision tower as well.
        original: the maps by the real weights.
        language_blocks: in how many steps the decoder is randomised.
        seed: of the shuffling.
    """
    found: dict[str, dict[str, Likeness]] = {method: {} for method in original}
    with cascade(blocks(vlm, language_blocks=language_blocks), seed=seed) as randomise_next:
        while (block := randomise_next()) is not None:
            for method, likenesses in compared(original, compute()).items():
                found[method][block.name] = likenesses
    return found


def compared(original: Maps, other: Maps) -> dict[str, Likeness]:
    """How alike the maps of each method are."""
    return {method: likeness(grid, other[method]) for method, grid in original.items()}


class Checked(NamedTuple):
    """What was found for the maps of one question, by method."""

    blocks: Mapping[str, Mapping[str, Likeness]]
    wrong_question: Mapping[str, Likeness]
    wrong_image: Mapping[str, Likeness]


def summary_of(checked: Sequence[Checked]) -> Sanity:
    """The means over questions, and the methods that are flagged."""
    methods: dict[str, SanityRow] = {}
    for method in dict.fromkeys(name for one in checked for name in one.blocks):
        some = [one for one in checked if method in one.blocks]
        names = list(some[0].blocks[method])
        blocks_of = {name: [one.blocks[method][name] for one in some] for name in names}
        questions, images = [one.wrong_question[method] for one in some], [one.wrong_image[method] for one in some]
        methods[method] = {
            "questions": len(some),
            "blocks": {name: _mean(values) for name, values in blocks_of.items()},
            "wrong_question": _mean(questions),
            "wrong_image": _mean(images),
            "survives_weights": survives(blocks_of[names[-1]]) if names else None,
            "survives_question": survives(questions),
            "survives_image": survives(images),
        }
    return {"questions": len(checked), "methods": methods}


def survives(found: Sequence[Likeness]) -> bool | None:
    """Whether a method gives the same maps although nothing is left of what they should depend on.

    None where no likeness is defined.
    """
    mean = _mean(found)["spearman"]
    return None if mean is None else mean > SURVIVES


@torch.no_grad()
def _shuffle(weight: nn.Parameter, key: int) -> None:
    """Permute the values of a tensor."""
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(key)).to(weight.device)
    weight.copy_(weight.detach().flatten()[order].view_as(weight))


def _mean(found: Sequence[Likeness]) -> MeanLikeness:
    defined = [one for one in found if not math.isnan(one.spearman)]
    if not defined:
        return {"spearman": None, "ssim": None, "questions": 0}
    spearman, ssim = (sum(values) / len(defined) for values in zip(*defined, strict=True))
    return {"spearman": spearman, "ssim": ssim, "questions": len(defined)}


def _flat(grid: Float[np.ndarray, "r c"]) -> bool:
    return bool(np.ptp(grid) <= 1e-12 * max(float(np.abs(grid).max()), 1e-300))


def _stretched(grid: Float[np.ndarray, "r c"]) -> Float[np.ndarray, "r c"]:
    stretched: Float[np.ndarray, "r c"] = (grid - grid.min()) / np.ptp(grid).astype(np.float64)
    return stretched
