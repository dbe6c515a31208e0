"""The arrays of a case as the page gets them: plain bytes in C order, little-endian.

Axes: T text tokens, t answer tokens, L layers, H heads, r and c rows and columns of the image grid, p prompt tokens.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from radvqa.explain.bundle import Manifest, MapFacts, View


class Case(Protocol):
    """A case on disk or in memory."""

    @property
    def manifest(self) -> Manifest:
        """Texts and facts."""

    @property
    def picture(self) -> bytes:
        """The picture as PNG."""

    def __contains__(self, name: str) -> bool:
        """Whether there is such an array."""

    def array(self, name: str) -> np.ndarray:
        """One array. Raises ``RunError`` if there is none or it is damaged."""


def attention(case: Case, view: str) -> bytes:
    """uint8 ``T L H r c``: attention of each text position on the image, 255 = its scale."""
    return case.array(f"{view}/attention").astype(np.uint8, copy=False).tobytes()


def scales(case: Case, view: str) -> bytes:
    """float32 ``2 T L H``: the largest weight of each of these maps, then each row's share on the image."""
    both = (case.array(f"{view}/{name}").astype("<f4") for name in ("attention_scale", "image_mass"))
    return b"".join(one.tobytes() for one in both)


def maps(case: Case, view: str) -> bytes:
    """uint8 ``m t+1 r c``: methods in the order of the manifest; 0 to 255 is low to high of the map's facts."""
    found = []
    for record in case.manifest.views[view].maps:
        grids = case.array(f"{view}/maps/{record.method}")
        facts = (*record.tokens, record.answer)
        found += [quantised(grid, one).tobytes() for grid, one in zip(grids, facts, strict=True)]
    return b"".join(found)


def image_to_prompt(case: Case, view: str) -> bytes:
    """float32 ``L r c p``: attention of each image position on the prompt, mean over heads."""
    return case.array(f"{view}/image_to_prompt").astype("<f4").tobytes()


PARTS: Mapping[str, Callable[[Case, str], bytes]] = {
    "attention": attention,
    "scales": scales,
    "maps": maps,
    "image_to_prompt": image_to_prompt,
}
"""What can be asked for, by its name in the address."""


def quantised(grid: npt.NDArray[np.floating], facts: MapFacts) -> npt.NDArray[np.uint8]:
    """A map in 256 steps between its low and its high; a map without any difference is 0."""
    span = facts.high - facts.low
    if not span > 0:
        return np.zeros(grid.shape, dtype=np.uint8)
    steps = (grid.astype(np.float64) - facts.low) / span * 255
    return np.rint(np.clip(np.nan_to_num(steps), 0, 255)).astype(np.uint8)


def shape_of(manifest: Manifest, view: View) -> dict[str, int]:
    """The sizes of the axes of a view's arrays."""
    answer = sum(token.part == "answer" for token in view.tokens)
    return {
        "T": len(view.tokens),
        "L": int(manifest.model["layers"]),
        "H": int(manifest.model["heads"]),
        "r": manifest.grid[0],
        "c": manifest.grid[1],
        "p": len(view.tokens) - answer,
        "t": answer,
    }


def windowed(values: npt.NDArray[np.floating], *, center: float, width: float) -> npt.NDArray[np.uint8]:
    """Values as 8-bit gray through a linear window: ``center - width / 2`` becomes 0, ``center + width / 2`` 255."""
    steps = (values.astype(np.float64) - center) / width * 255 + 127.5
    return np.rint(np.clip(np.nan_to_num(steps), 0, 255)).astype(np.uint8)
