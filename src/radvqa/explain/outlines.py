"""Labelled regions as lines to draw: polygons around masks, boxes as they are."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from skimage.measure import approximate_polygon, find_contours

from radvqa.data.imaging import open_unconverted
from radvqa.errors import DataError
from radvqa.explain.bundle import Outline
from radvqa.sample import Region

TOLERANCE = 0.3
"""Pixels by which a simplified polygon may miss the mask's edge."""

Polygon = tuple[tuple[float, float], ...]


def outlines_of(
    regions: Mapping[str, Sequence[Region]], asked: Collection[str], *, image_size: tuple[int, int]
) -> tuple[Outline, ...]:
    """One outline per region, in pixels of the original image.

    Args:
        regions: by label; see ``radvqa.explain.targets.regions_by_label``.
        asked: the labels that the question or the answer names.
        image_size: (width, height) of the image.

    Raises:
        DataError: a mask cannot be read or has another size than its image.
    """
    masks: dict[Path, np.ndarray] = {}
    found = []
    for label, some in regions.items():
        for region in some:
            polygons: tuple[Polygon, ...] = ()
            if region.mask is not None and region.mask_value is not None:
                if region.mask not in masks:
                    masks[region.mask] = _mask_values(region.mask, image_size)
                polygons = mask_polygons(masks[region.mask] == region.mask_value)
            if polygons or region.box is not None:
                found.append(Outline(label=label, asked=label in asked, box=region.box, polygons=polygons))
    return tuple(found)


def mask_polygons(mask: Bool[np.ndarray, "y x"]) -> tuple[Polygon, ...]:
    """Closed polygons around a mask, holes included, in pixels: (0, 0) is the top left corner of the first pixel."""
    padded = np.pad(mask.astype(np.float32), 1)
    found = []
    for contour in find_contours(padded, 0.5):
        simple = approximate_polygon(contour, tolerance=TOLERANCE)
        ring = simple if len(simple) > 3 else contour
        # Contours run through pixel centres of the padded mask: minus the margin, plus half a pixel.
        found.append(tuple((float(x) - 0.5, float(y) - 0.5) for y, x in ring))
    return tuple(found)


def _mask_values(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    image = open_unconverted(path)
    if image.size != image_size:
        raise DataError(
            "mask and image differ in size",
            where=str(path),
            expected=f"{image_size[0]} x {image_size[1]} pixels, as the image",
            got=f"{image.size[0]} x {image.size[1]}",
            fix="fetch mask and image again from the data set's source",
        )
    return np.asarray(image.convert("RGBA"))[..., 0]
