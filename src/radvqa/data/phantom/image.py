"""One phantom image with its label mask: anatomy, lesions, and what a scanner adds."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from radvqa.data.phantom.anatomy import FIRST_LESION, ORGANS, TISSUE_IDS, TISSUES, VIEWS, Canvas, Layer, Pen, View, Warp
from radvqa.sample import Split

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Layers = Mapping[Layer, Mask]
Side = Literal["Left", "Right"]

CONTRAST_TO_NOISE_FLOOR = 1.5
"""|mean(lesion) - mean(ring)| / std(ring), ring = pixels of the same organ around the lesion, in the final image."""

_CONTRAST_TO_NOISE_DRAWN = 2.5
"""Drawn with a margin: rounding to 8 bit and clipping at black and white cost some contrast."""

_LESION_COUNTS = (0.25, 0.31, 0.18, 0.14, 0.12)
"""Probability of 0 to 4 lesions."""

SMALL_DIAMETER, LARGE_DIAMETER = 0.062, 0.078
"""A lesion is small below the first and large above the second equivalent diameter, in image widths."""

_SMALL_RADII, _LARGE_RADII = (0.038, 0.055), (0.090, 0.135)
_MINIMUM_ORGAN_SHARE = 0.0008
_REFERENCE_SIZE = 224
_BULGE = 1.3
_CIRCLE = np.stack([np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)], 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One drawn lesion. ``diameter`` is that of a disc of equal area; it and the centre are in image widths."""

    value: int
    organ: str
    side: Side | None
    centre: tuple[float, float]
    diameter: float
    bright: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One image, its mask and what is true of it.

    ``organs``: pixels of each visible organ, lesions included. ``uncertain``: organs nothing should be asked about.
    """

    image: Mask
    mask: Mask
    view: View
    weighting: Literal["T1", "T2"] | None
    organs: Mapping[str, int]
    uncertain: frozenset[str]
    lesions: tuple[Lesion, ...]


class _Grids(NamedTuple):
    """What depends on the image size only."""

    x: Array
    y: Array
    squared_radius: Array
    coarse: Mapping[int, Array]


@cache
def _grids(size: int) -> _Grids:
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    coarse = {}
    for cells in (4, 14, 56):
        position = np.linspace(0, cells - 1, size)
        left = np.minimum(position.astype(int), cells - 2)
        share = position - left
        share = share * share * (3 - 2 * share)
        matrix = np.zeros((size, cells), np.float32)
        matrix[np.arange(size), left] = 1 - share
        matrix[np.arange(size), left + 1] = share
        coarse[cells] = matrix
    return _Grids(x, y, x * x + y * y, coarse)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Unit noise with ``cells`` knots per side, interpolated to (size, size)."""
    matrix = _grids(size).coarse[cells]
    return np.asarray(matrix @ rng.standard_normal((cells, cells), dtype=np.float32) @ matrix.T, np.float32)


def _blur(image: Array, sigma: float) -> Array:
    """The image blurred by a Gaussian of ``sigma`` pixels."""
    return np.asarray(ndimage.gaussian_filter(image, sigma, truncate=2.5), np.float32)


def generator(seed: int, split: Split, *, index: int, stream: str) -> np.random.Generator:
    """The random stream of one image (or block) for one purpose."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index, zlib.crc32(stream.encode())])


@cache
def _view_order(seed: int, split: Split, block: int) -> tuple[int, ...]:
    """The order of the views in one block of images."""
    return tuple(generator(seed, split, index=block, stream="views").permutation(len(VIEWS)).tolist())


def _view(seed: int, split: Split, index: int) -> View:
    """The view of one image: every block of ``len(VIEWS)`` images holds each entry of ``VIEWS`` once."""
    block, place = divmod(index, len(VIEWS))
    return VIEWS[_view_order(seed, split, block)[place]]


def _warp(pen: Pen) -> Warp:
    return Warp(
        angle=float(np.clip(pen.rng.normal(0, 0.05), -0.12, 0.12)),
        zoom=pen.uniform(0.90, 1.02),
        shift=(
            float(np.clip(pen.rng.normal(0, 0.02), -0.05, 0.05)),
            float(np.clip(pen.rng.normal(0, 0.02), -0.05, 0.05)),
        ),
        bend=pen.uniform(0.0, 0.025),
        phase=(pen.uniform(0, 6.3), pen.uniform(0, 6.3)),
    )


def _palette(pen: Pen, technique: str) -> Array:
    """The grey level of each tissue under one technique, each a little different from image to image."""
    levels = np.array([getattr(tissue, technique) for tissue in TISSUES.values()], np.float32)
    return np.asarray(levels * (1 + pen.rng.normal(0, 0.035, len(levels))), np.float32)


def _projection(layers: Layers, pen: Pen) -> Array:
    """An X-ray-like image: soft tissue weighted by thickness plus bone, a contrast curve, quantum noise."""
    tissues = layers["tissues"]
    size = len(tissues)
    grids = _grids(size)
    thickness = np.float32(1.06) - np.float32(pen.uniform(0.10, 0.22)) * grids.squared_radius
    uneven = np.float32(pen.uniform(-0.05, 0.05)) * grids.y + np.float32(0.014) * _smooth_noise(pen.rng, size, 14)
    image = _palette(pen, "x_ray")[tissues] * thickness
    image += uneven * (tissues != TISSUE_IDS["air"])
    image += layers["bones"] * np.float32(pen.uniform(0.85, 1.15) / 255)
    image = _blur(image, 1.1 * size / _REFERENCE_SIZE)
    np.clip(image, 0, 1.05, out=image)
    image += np.float32(pen.uniform(-0.25, 0.2)) * image * (np.float32(1) - image)
    noise = pen.rng.standard_normal((size, size), dtype=np.float32)
    noise *= np.float32(pen.uniform(0.006, 0.018)) * (np.float32(1.3) - np.float32(0.6) * image)
    image += noise
    return image


def _computed_tomography(layers: Layers, pen: Pen, *, head: bool) -> Array:
    """A CT-like image: windowed tissues, correlated noise, faint streaks."""
    size = len(layers["tissues"])
    grids = _grids(size)
    tissues = layers["tissues"]
    image = _blur(_palette(pen, "ct_head" if head else "ct")[tissues], 0.75 * size / _REFERENCE_SIZE)
    window = pen.uniform(0.88, 1.15)
    image *= np.float32(window)
    image += np.float32(pen.uniform(0.46, 0.53) - 0.5 * window)
    noise = pen.rng.standard_normal((size + 1, size + 1), dtype=np.float32)
    pairs = noise[1:] + noise[:-1]
    correlated = pairs[:, 1:] + pairs[:, :-1]
    correlated *= np.float32(pen.uniform(0.012, 0.034) / 2) * (
        np.float32(1.15) - np.float32(0.5) * grids.squared_radius
    )
    image += correlated
    image += np.float32(0.008) * _smooth_noise(pen.rng, size, 56)
    if pen.chance(0.3):
        angle = pen.uniform(0, np.pi)
        across = grids.x * np.float32(np.cos(angle)) + grids.y * np.float32(np.sin(angle))
        image += np.float32(0.012) * np.sin(across * np.float32(pen.uniform(30, 60)))
    if pen.chance(0.35):
        image[grids.squared_radius > pen.uniform(1.0, 1.12)] = 0.0
    return image


def _magnetic_resonance(layers: Layers, pen: Pen, weighting: Literal["T1", "T2"]) -> Array:
    """An MR-like magnitude image: weighted tissues, coil bias field, Rician noise."""
    size = len(layers["tissues"])
    tissues = layers["tissues"]
    image = _blur(_palette(pen, weighting.lower())[tissues], 0.8 * size / _REFERENCE_SIZE)
    image *= np.float32(1) + np.float32(pen.uniform(0.02, 0.05)) * _smooth_noise(pen.rng, size, 56)
    bias = np.float32(pen.uniform(0.06, 0.14)) * _smooth_noise(pen.rng, size, 4)
    image *= np.float32(1) + np.clip(bias, -0.4, 0.4, out=bias)
    noise = pen.rng.standard_normal((size, size), dtype=np.float32)
    noise *= np.float32(pen.uniform(0.012, 0.03))
    image += noise
    image *= image
    # The imaginary channel is the real one turned by half a turn: independent of it at every pixel, at half the cost.
    noise *= noise
    image += noise[::-1, ::-1]
    np.sqrt(image, out=image)
    image *= np.float32(pen.uniform(0.92, 1.12))
    return image


class _Place(NamedTuple):
    """A lesion's outline in pixels, its organ and mask value, before its contrast is known."""

    organ: str
    inside: npt.NDArray[np.bool_]
    window: tuple[slice, slice]
    x: float
    y: float
    reach: float


def _find_place(
    mask: Mask, pen: Pen, *, organ: str, radius: float, midline: float, taken: list[_Place]
) -> _Place | None:
    """Where a lesion of about ``radius`` pixels fits in the organ, clear of border and other lesions, or None."""
    pixels = np.flatnonzero(mask == ORGANS[organ])
    if not len(pixels):
        return None
    size = len(mask)
    gap = 3 * size / _REFERENCE_SIZE
    rows, columns = np.divmod(pixels[pen.rng.integers(len(pixels), size=48)], size)
    centres = np.stack([columns, rows], 1).astype(np.float64)
    reach = np.concatenate([_CIRCLE * (radius + gap), _CIRCLE * radius * 0.6])
    probes = np.rint(centres[:, None] + reach).astype(int)
    within = ((probes >= 2) & (probes < size - 2)).all(2)
    probes = probes.clip(0, size - 1)
    fits = (within & (mask[probes[..., 1], probes[..., 0]] == ORGANS[organ])).all(1)
    fits &= np.abs(centres[:, 0] - midline) > radius + 0.02 * size
    for other in taken:
        fits &= np.hypot(centres[:, 0] - other.x, centres[:, 1] - other.y) > _BULGE * radius + other.reach + gap
    if not fits.any():
        return None
    x, y = centres[int(np.argmax(fits))]
    left, top = int(x - radius * _BULGE), int(y - radius * _BULGE)
    right, bottom = int(x + radius * _BULGE) + 2, int(y + radius * _BULGE) + 2
    window = (slice(max(top, 0), min(bottom, size)), slice(max(left, 0), min(right, size)))
    v, u = np.mgrid[window].astype(np.float64)
    u, v = u - x, v - y
    theta = np.arctan2(v, u)
    squeeze = pen.uniform(0.85, 1.0)
    rim = radius * (1 + 0.07 * np.cos(2 * theta + pen.uniform(0, 6)) + 0.06 * np.cos(3 * theta + pen.uniform(0, 6)))
    outline = np.hypot(u * squeeze, v / squeeze) <= rim
    inside = outline & (mask[window] == ORGANS[organ])
    if inside.sum() < outline.sum():
        # A border that juts in must not cut one lesion into two.
        parts, _ = ndimage.label(inside)
        inside = parts == np.bincount(parts[inside]).argmax()
    return _Place(organ, inside, window, float(x), float(y), _BULGE * radius)


def _enhance(image: Array, mask: Mask, place: _Place, *, pen: Pen, value: int, prefer_bright: bool) -> bool | None:
    """Raise or lower the image inside the lesion until it stands out; True = bright, None = no headroom either way."""
    size = len(mask)
    margin = round(6 * size / _REFERENCE_SIZE)
    rows, columns = place.window
    around = (
        slice(max(rows.start - margin, 0), min(rows.stop + margin, size)),
        slice(max(columns.start - margin, 0), min(columns.stop + margin, size)),
    )
    v, u = np.ogrid[around]
    near = (u - place.x) ** 2 + (v - place.y) ** 2 <= (place.reach + margin) ** 2
    host = image[around][near & (mask[around] == ORGANS[place.organ])]
    patch = image[place.window]
    mean, deviation, inner = float(host.mean()), float(host.std()), float(patch[place.inside].mean())
    contrast = max(pen.uniform(0.15, 0.30), _CONTRAST_TO_NOISE_DRAWN * deviation)
    for bright in (prefer_bright, not prefer_bright):
        target = mean + contrast if bright else mean - contrast
        if 0.03 < target < 0.97:
            soft = _blur(place.inside.astype(np.float32), 0.7 * size / _REFERENCE_SIZE)
            share = float(soft[place.inside].mean())
            patch += soft * np.float32((target - inner) / share)
            mask[place.window][place.inside] = value
            return bright
    return None


def _measured(place: _Place, *, value: int, bright: bool, midline: float | None, size: int) -> Lesion:
    """The lesion as drawn, measured on its pixels."""
    rows, columns = np.nonzero(place.inside)
    x, y = place.window[1].start + float(columns.mean()), place.window[0].start + float(rows.mean())
    side: Side | None = None if midline is None else "Left" if x > midline else "Right"
    diameter = float(np.sqrt(len(rows) * 4 / np.pi)) / size
    centre = ((x + 0.5) / size, (y + 0.5) / size)
    return Lesion(value=value, organ=place.organ, side=side, centre=centre, diameter=diameter, bright=bright)


def _add_lesions(
    image: Array, mask: Mask, pen: Pen, *, view: View, hosts: list[str], midline: float
) -> tuple[Lesion, ...]:
    """Draw up to four lesions into image and mask. A lesion that fits nowhere is left out, so it is never claimed."""
    size = len(mask)
    count = int(pen.rng.choice(len(_LESION_COUNTS), p=_LESION_COUNTS))
    taken: list[_Place] = []
    lesions: list[Lesion] = []
    for _ in range(count):
        bright = pen.chance(0.5)
        radii = (_SMALL_RADII, _LARGE_RADII) if pen.chance(0.4) else (_LARGE_RADII, _SMALL_RADII)
        attempts = [(organ, radius) for radius in radii for organ in pen.rng.permutation(hosts).tolist()]
        for organ, (low, high) in attempts:
            radius = pen.uniform(low, high) * size / 2
            place = _find_place(mask, pen, organ=organ, radius=radius, midline=midline, taken=taken)
            if place is None:
                continue
            value = FIRST_LESION + len(lesions)
            drawn = _enhance(image, mask, place, pen=pen, value=value, prefer_bright=bright)
            if drawn is not None:
                taken.append(place)
                lesions.append(
                    _measured(place, value=value, bright=drawn, midline=midline if view.sided else None, size=size)
                )
                break
    return tuple(lesions)


def _collimate(image: Array, mask: Mask, pen: Pen) -> None:
    """Black borders where the beam was shuttered, outside all labels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    size = len(mask)
    limit = 0.09 * size
    borders = np.minimum([top, size - bottom, left, size - right], limit) * pen.rng.uniform(0.1, 0.9, 4)
    above, below, before, behind = borders.astype(int)
    image[:above] = image[size - below :] = 0.0
    image[:, :before] = image[:, size - behind :] = 0.0


def render(size: int, *, seed: int, split: Split, index: int) -> Phantom:
    """Image ``index`` of a split as 8-bit grey image and label mask, both (size, size), with its facts.

    The result depends on the four arguments only, not on how many images are made.
    """
    view = _view(seed, split, index)
    pen = Pen(generator(seed, split, index=index, stream="image"))
    canvas = Canvas(size, _warp(pen))
    view.paint(canvas, pen, view.modality)
    layers = canvas.paint()
    mask: Mask = layers["labels"]
    weighting: Literal["T1", "T2"] | None = None
    if view.modality == "MRI":
        weighting = "T1" if pen.chance(0.5) else "T2"
        image = _magnetic_resonance(layers, pen, weighting)
    elif view.modality == "CT":
        image = _computed_tomography(layers, pen, head=view.body_part == "Head")
    else:
        image = _projection(layers, pen)
        if pen.chance(0.4):
            _collimate(image, mask, pen)
    np.clip(image, 0, 1, out=image)
    minimum = _MINIMUM_ORGAN_SHARE * size * size
    areas = np.bincount(mask.ravel(), minlength=256)
    organs = {name: int(areas[value]) for name, value in ORGANS.items() if areas[value] >= minimum}
    slivers = [name for name, value in ORGANS.items() if 0 < areas[value] < minimum]
    if slivers:
        mask[np.isin(mask, [ORGANS[name] for name in slivers])] = 0
    faint = [name for name, area in organs.items() if area < 3 * minimum]
    hosts = [organ for organ in view.hosts if organ in organs]
    midline = float(canvas.pixels(np.zeros((1, 2)))[0, 0]) if view.sided else -float(size)
    lesions = _add_lesions(image, mask, pen, view=view, hosts=hosts, midline=midline)
    np.clip(image, 0, 1, out=image)
    grey = (image * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return Phantom(
        image=grey,
        mask=mask,
        view=view,
        weighting=weighting,
        organs=organs,
        uncertain=frozenset((*view.uncertain, *slivers, *faint)),
        lesions=lesions,
    )
