"""What the answer loses when a part of the picture is taken away: occlusion maps and visual reliance.

Two ways to take a cell of the image grid away, and both leave something behind:

``token``  The language model's image position is hidden. The tower and, unless it is hidden from everything, the other
           image positions have mixed what it held into their own states before.
``pixel``  The cell's pixels are filled and the tower runs again, so nothing of them is left; but the filled picture is
           one that the model has never met.

Axes: k variants, i image tokens (r x c cells of the grid, row by row), t answer tokens, y and x pixels.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from radvqa.errors import ModelError, RecipeError
from radvqa.explain.asked import Asked, answer_logprobs
from radvqa.explain.text_pass import TextPass, eval_mode

Kind = Literal["token", "pixel"]
HiddenFrom = Literal["text", "everything"]
Fill = Literal["blur", "mean"] | UInt8[Tensor, "y x 3"]
Score = Callable[[Bool[Tensor, "k i"]], Float[Tensor, "k t"]]
"""Log-probabilities of the answer's tokens under k variants, each without the cells that are True."""

WINDOW = 4
"""Side in cells. On a 16 x 16 grid each window hides a sixteenth of the picture: 49 windows of tokens, 16 of pixels."""


_TOWER_BATCH = 8


def occlusion_map(
    asked: Asked,
    *,
    kind: Kind = "token",
    window: int = WINDOW,
    stride: int | None = None,
    targets: Sequence[int | None] = (None,),
    hidden_from: HiddenFrom = "text",
    fill: Fill = "blur",
) -> Float[Tensor, "targets i"]:
    """How many nats of the answer's log-probability a cell is worth: the mean drop over all windows that cover it.

    Negative where the answer becomes more probable without the cell. The source of the idea is Zeiler and Fergus,
    "Visualizing and Understanding Convolutional Networks", ECCV 2014.

    Args:
        asked: question and answer.
        kind: what is taken away, see the module.
        window: side of a window in cells of the image grid.
        stride: cells from one window to the next; the last window of a line ends at the border. Left out, it is half
            the window for ``token`` and, since every window costs a whole pass, the window itself for ``pixel``.
        targets: an answer token by its number, or None for the whole answer (the sum over its tokens).
        hidden_from: with ``token``: whether the ``text`` alone cannot read the positions (image states stay those of
            the whole picture: a tenth of the time) or ``everything``, other image positions included.
        fill: with ``pixel``: the picture's own ``blur`` or ``mean`` colour, or another picture such as the mean of a
            data set. Black is no fill: in CT and MR it means air.

    Raises:
        RecipeError: the window does not fit the grid, or a target is not an answer token.
    """
    score = scorer(asked, kind=kind, hidden_from=hidden_from, fill=fill)
    grid = asked.vlm.image_grid
    if stride is None:
        stride = window if kind == "pixel" else max(1, window // 2)
    drops = average_drop(score, windows(grid, window=window, stride=stride).to(asked.vlm.device))
    return torch.stack([_of_target(drops, target) for target in targets])


def visual_reliance(asked: Asked) -> Float[Tensor, " t"]:
    """How many nats more probable each answer token is with the image than with all image positions hidden."""
    hidden = torch.zeros(2, asked.image.stop, dtype=torch.bool)
    hidden[1] = True
    logprobs = TextPass(asked).logprobs(hidden)
    return logprobs[0] - logprobs[1]


def windows(grid: tuple[int, int], *, window: int, stride: int) -> Bool[Tensor, "k i"]:
    """Every place of a square window on the grid, as masks that together cover every cell.

    Raises:
        RecipeError: the window does not fit the grid, or the stride leaves gaps.
    """
    if not (1 <= window <= min(grid) and 1 <= stride <= window):
        raise RecipeError(
            "the occlusion window does not fit",
            expected=f"1 <= stride <= window <= {min(grid)} cells",
            got=f"window {window}, stride {stride}",
        )
    masks = []
    for top in _starts(grid[0], window, stride):
        for left in _starts(grid[1], window, stride):
            mask = torch.zeros(grid, dtype=torch.bool)
            mask[top : top + window, left : left + window] = True
            masks.append(mask.flatten())
    return torch.stack(masks)


def _starts(side: int, window: int, stride: int) -> list[int]:
    return sorted({*range(0, side - window + 1, stride), side - window})


def average_drop(score: Score, hidden: Bool[Tensor, "k i"]) -> Float[Tensor, "t i"]:
    """The drop of each token's score without a window, averaged in every cell over the windows that cover it."""
    scores = score(torch.cat([torch.zeros_like(hidden[:1]), hidden]))
    drops = scores[:1] - scores[1:]
    cover = hidden.to(drops.dtype)
    return drops.T @ cover / cover.sum(0)


def scorer(asked: Asked, *, kind: Kind = "token", hidden_from: HiddenFrom = "text", fill: Fill = "blur") -> Score:
    """Log-probabilities of the answer's tokens without the cells of a mask; see ``occlusion_map``."""
    if kind == "pixel":
        filled = filling(asked.pixels[0], fill)
        return lambda hidden: _without_pixels(asked, hidden, filled)
    if hidden_from == "text":
        return TextPass(asked).logprobs

    def everything(hidden: Bool[Tensor, "k i"]) -> Float[Tensor, "k t"]:
        with eval_mode(asked.vlm.network):
            return answer_logprobs(asked, hidden=hidden)

    return everything


def _without_pixels(asked: Asked, hidden: Bool[Tensor, "k i"], filled: UInt8[Tensor, "y x 3"]) -> Float[Tensor, "k t"]:
    rows, columns = asked.vlm.image_grid
    height, width = filled.shape[:2]
    found = []
    for first in range(0, len(hidden), _TOWER_BATCH):
        cells = hidden[first : first + _TOWER_BATCH].to(filled.device).view(-1, rows, columns)
        covered = cells.repeat_interleave(height // rows, 1).repeat_interleave(width // columns, 2)
        pictures = torch.where(covered[..., None], filled, asked.pixels)
        with eval_mode(asked.vlm.network):
            found.append(answer_logprobs(asked, embeddings=asked.vlm.image_tokens(pictures)))
    return torch.cat(found)


def filling(pixels: UInt8[Tensor, "y x 3"], fill: Fill) -> UInt8[Tensor, "y x 3"]:
    """The picture that shows through where pixels are taken away.

    Raises:
        ModelError: another picture was given that is not of this size.
    """
    if isinstance(fill, Tensor):
        if fill.shape != pixels.shape:
            raise ModelError(
                "the filling has another size than the picture",
                expected=" x ".join(map(str, pixels.shape)),
                got=" x ".join(map(str, fill.shape)),
            )
        return fill.to(pixels.device)
    values = pixels.permute(2, 0, 1).float()
    if fill == "mean":
        flat = values.mean((1, 2), keepdim=True).expand_as(values)
    else:
        flat = _blurred(values, deviation=min(values.shape[1:]) / 16)
    return flat.round().to(torch.uint8).permute(1, 2, 0)


def _blurred(values: Float[Tensor, "3 y x"], *, deviation: float) -> Float[Tensor, "3 y x"]:
    """Gaussian blur; ``deviation`` in pixels. Borders are mirrored."""
    reach = int(2.5 * deviation)
    offsets = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    padded = functional.pad(values[:, None], (reach, reach, reach, reach), mode="reflect")
    along = functional.conv2d(padded, kernel[:, :, None, :])
    return functional.conv2d(along, kernel[:, :, :, None])[:, 0]


def _of_target(drops: Float[Tensor, "t i"], target: int | None) -> Float[Tensor, " i"]:
    if target is None:
        return drops.sum(0)
    if not 0 <= target < len(drops):
        raise RecipeError(
            "the target is not a token of the answer", expected=f"0 ... {len(drops) - 1}", got=str(target)
        )
    return drops[target]
