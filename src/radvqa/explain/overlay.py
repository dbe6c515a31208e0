"""A map drawn over its image, and a panel of several maps with their numbers.

Geometry: where PaliGemma's square is the whole image squashed, the r × c grid spans the original image exactly, with
cells of (width / c) × (height / r) pixels. Where the image was padded, the grid spans a square around it, the frame of
``grid_frame``. Pixel coordinates have their origin at the top left corner of the image, (x, y) with y downwards; boxes
are (x, y, width, height) as in ``radvqa.sample.Region``.
"""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from radvqa.data.imaging import fitted_box
from radvqa.errors import DataError, ModelError
from radvqa.explain.bundle import Outline
from radvqa.explain.measured import SAME_MAP
from radvqa.recipe import Aspect
from radvqa.records import write_bytes
from radvqa.sample import Region

COLORMAP = "inferno"
"""Perceptually uniform and readable with colour-vision deficiency; dark is low."""

DISCLAIMER = "Research use only, not for clinical use."

PERCENTILE = 99.0

Interpolation = Literal["bilinear", "nearest"]
Box = tuple[float, float, float, float]


class DrawableMap(Protocol):
    """What the panel needs of a map; ``radvqa.explain.saliency_map.SaliencyMap`` has it."""

    @property
    def grid(self) -> Float[np.ndarray, "r c"]: ...  # noqa: D102
    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def target(self) -> str: ...  # noqa: D102
    @property
    def image_mass(self) -> float: ...  # noqa: D102
    @property
    def sink_mass(self) -> float: ...  # noqa: D102
    @property
    def self_mass(self) -> float: ...  # noqa: D102
    @property
    def entropy(self) -> float: ...  # noqa: D102
    @property
    def specificity(self) -> float: ...  # noqa: D102
    @property
    def grid_specificity(self) -> float: ...  # noqa: D102


def grid_frame(image_size: tuple[int, int], size: int, *, aspect: Aspect) -> Box:
    """What the whole grid spans, in pixels of the original image; of a padded one it reaches beyond the image.

    ``image_size`` is (width, height) as in PIL, ``size`` the side of the square that the model was given.
    """
    left, top, width, height = fitted_box(image_size, size, aspect=aspect)
    return (
        -left * image_size[0] / width,
        -top * image_size[1] / height,
        size * image_size[0] / width,
        size * image_size[1] / height,
    )


def cell_box(
    row: int, col: int, *, grid_shape: tuple[int, int], image_size: tuple[int, int], frame: Box | None = None
) -> Box:
    """The (x, y, width, height) box of one grid cell in pixels of the original image.

    ``grid_shape`` is (rows, columns), ``image_size`` is (width, height) as in PIL, ``frame`` what the grid spans: the
    image unless given. Cells on padding lie outside the image, wholly or in part. Inverse: ``cell_at``.

    Raises:
        ValueError: there is no such cell.
    """
    rows, cols = grid_shape
    if not (0 <= row < rows and 0 <= col < cols):
        raise ValueError(f"no cell ({row}, {col}) in a grid of {rows} x {cols}")
    x, y, across, down = frame or (0, 0, *image_size)
    width, height = across / cols, down / rows
    return (x + col * width, y + row * height, width, height)


def cell_at(
    x: float, y: float, *, grid_shape: tuple[int, int], image_size: tuple[int, int], frame: Box | None = None
) -> tuple[int, int]:
    """The (row, column) of the cell that holds the point (x, y) of the original image. ``frame`` as in ``cell_box``.

    Left and top edges belong to a cell; right and bottom edges belong to the next one.

    Raises:
        ValueError: the point is outside the image.
    """
    if not (0 <= x < image_size[0] and 0 <= y < image_size[1]):
        raise ValueError(f"({x}, {y}) is outside an image of {image_size[0]} x {image_size[1]} pixels")
    left, top, across, down = frame or (0, 0, *image_size)
    return int((y - top) * grid_shape[0] / down), int((x - left) * grid_shape[1] / across)


def padding_share(grid: Float[np.ndarray, "r c"], *, image_size: tuple[int, int], frame: Box) -> float:
    """The share of a map's weight on padding; cells that are image in part count in part. NaN if there is no weight."""
    x, y, across, down = frame
    rows, cols = grid.shape
    covered = np.outer(
        _covered(rows, -y / down, (image_size[1] - y) / down), _covered(cols, -x / across, (image_size[0] - x) / across)
    )
    total = float(grid.sum())
    return float((grid * (1.0 - covered)).sum()) / total if total > 0.0 else float("nan")


def _covered(cells: int, first: float, last: float) -> Float[np.ndarray, " k"]:
    """How much of each of ``cells`` equal parts of 0 … 1 lies between ``first`` and ``last``."""
    edges = np.arange(cells + 1) / cells
    return (np.clip(edges[1:], first, last) - np.clip(edges[:-1], first, last)) * cells


def strength(grid: Float[np.ndarray, "r c"], *, percentile: float = PERCENTILE) -> Float[np.ndarray, "r c"]:
    """The grid on 0 … 1: zero stays 0, the given percentile of the cells becomes 1, larger values are cut to 1.

    The minimum is not subtracted, so a flat map looks flat. Where the percentile is 0 (weight on very few cells) the
    maximum takes its place; an all-zero map stays 0. This hides how much weight lies on the image: print the image
    mass beside the picture.

    Raises:
        ModelError: negative or non-finite values.
    """
    if not np.isfinite(grid).all() or (grid < 0).any():
        raise ModelError("a map cannot be drawn", expected="finite values of at least 0", got=f"minimum {grid.min()}")
    top = float(np.percentile(grid, percentile)) or float(grid.max())
    return np.clip(grid / top, 0.0, 1.0) if top > 0.0 else np.zeros_like(grid, dtype=np.float64)


def overlay(
    image: Image.Image,
    grid: Float[np.ndarray, "r c"],
    *,
    alpha: float = 0.75,
    interpolation: Interpolation = "bilinear",
    percentile: float = PERCENTILE,
    frame: Box | None = None,
) -> Image.Image:
    """The image in RGB and original size with the map over it; weak cells stay transparent, strong ones get ``alpha``.

    Bilinear up-sampling puts a cell's value at its centre and cannot overshoot, as bicubic can; ``nearest`` shows the
    true resolution. Scale as in ``strength``, ``frame`` as in ``cell_box``: cells on padding are not drawn.
    """
    resample = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.NEAREST
    scaled = Image.fromarray(strength(grid, percentile=percentile).astype(np.float32))
    x, y, across, down = frame or (0, 0, *image.size)
    columns = np.clip((np.array([0, image.width]) - x) / across, 0.0, 1.0) * scaled.width
    rows = np.clip((np.array([0, image.height]) - y) / down, 0.0, 1.0) * scaled.height
    box = (float(columns[0]), float(rows[0]), float(columns[1]), float(rows[1]))
    value = np.clip(np.asarray(scaled.resize(image.size, resample, box=box)), 0.0, 1.0)
    colour = matplotlib.colormaps[COLORMAP](value)[..., :3] * 255.0
    weight = (alpha * value)[..., None]
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    return Image.fromarray(np.rint(pixels * (1.0 - weight) + colour * weight).astype(np.uint8))


def save_panel(
    path: Path,
    image: Image.Image,
    *,
    maps: Mapping[str, DrawableMap],
    title: str,
    caption: str,
    regions: Sequence[Region] = (),
    outlines: Sequence[Outline] = (),
    alpha: float = 0.75,
    interpolation: Interpolation = "bilinear",
    frame: Box | None = None,
) -> None:
    """Write one PNG: the image, each map over it with its numbers below, title, caption and the research-only line.

    ``maps``: heading → map. Boxes of ``regions`` and ``outlines`` are drawn on every picture and named on the first.
    ``frame`` is as in ``cell_box``; where it is given, the share of each map on padding is told. The same arguments
    give the same bytes.

    Raises:
        DataError: the image has no pixels.
        ModelError: a map that cannot be drawn.
        RunError: the file cannot be written.
    """
    if min(image.size) < 1:
        raise DataError("the image has no pixels", got=f"{image.size[0]} x {image.size[1]}")
    figure = _panel(
        image,
        maps,
        title=title,
        caption=caption,
        outlines=[*(Outline(label=one.label, asked=True, box=one.box) for one in regions), *outlines],
        alpha=alpha,
        interpolation=interpolation,
        frame=frame,
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Questions in other scripts may lack glyphs in the bundled font; a box in the picture is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


_DPI = 120
_TILE, _GAP, _MARGIN = 3.0, 0.25, 0.3  # inches
_HEAD, _NUMBERS, _LEGEND, _LINE = 0.5, 1.0, 0.5, 0.2  # inches: heading, numbers under a tile, colour bar, text line
_MOST_COLUMNS = 4
_CHARACTERS_PER_INCH = 14.5  # of 9 pt DejaVu Sans, on average
_INK, _GREY, _BOX, _RED = "#1a1a1a", "#5a5a5a", "#56b4e9", "#a01c1c"


def _panel(
    image: Image.Image,
    maps: Mapping[str, DrawableMap],
    *,
    title: str,
    caption: str,
    outlines: Sequence[Outline],
    alpha: float,
    interpolation: Interpolation,
    frame: Box | None,
) -> Figure:
    tile_rows = -(-(1 + len(maps)) // _MOST_COLUMNS)
    columns = -(-(1 + len(maps)) // tile_rows)
    # Two tiles' width at least, so that title and caption have room.
    width = max(columns, 2) * (_TILE + _GAP) - _GAP
    tile_height = _TILE * min(max(image.height / image.width, 0.4), 1.6)
    row_height = _HEAD + tile_height + _NUMBERS
    title_lines = _wrapped(title, width * _CHARACTERS_PER_INCH * 0.7)
    caption_lines = _wrapped(caption, width * _CHARACTERS_PER_INCH)
    tiles_top = _MARGIN + 0.26 * len(title_lines)
    legend_top = tiles_top + tile_rows * row_height
    caption_top = legend_top + _LEGEND
    disclaimer_top = caption_top + 0.19 * len(caption_lines) + 0.12
    page = _Page(width + 2 * _MARGIN, disclaimer_top + _LINE + _MARGIN)
    page.write(_MARGIN, _MARGIN, "\n".join(title_lines), fontsize=12.5, fontweight="bold")
    tiles: list[tuple[str, DrawableMap | None]] = [("Image", None), *maps.items()]
    for index, (heading, item) in enumerate(tiles):
        left = _MARGIN + (index % columns) * (_TILE + _GAP)
        top = tiles_top + (index // columns) * row_height + _HEAD
        lines = _wrapped(heading, _TILE * _CHARACTERS_PER_INCH * 0.85, most=2)
        page.write(left, top - 0.06 - 0.17 * len(lines), "\n".join(lines), fontsize=10, fontweight="bold")
        picture = image.convert("RGB")
        if item is not None:
            picture = overlay(image, item.grid, alpha=alpha, interpolation=interpolation, frame=frame)
        axes = page.axes(left, top, width=_TILE, height=tile_height)
        axes.imshow(picture, interpolation="antialiased", aspect="equal", extent=(0, image.width, image.height, 0))
        axes.set_axis_off()
        _draw_outlines(axes, outlines, named=item is None)
        below = f"{image.width} × {image.height} pixels"
        if item is not None:
            below = _numbers(item, padding_share(item.grid, image_size=image.size, frame=frame) if frame else None)
        page.write(left, top + tile_height + 0.08, below, fontsize=8.5, color=_GREY)
    _draw_legend(page, legend_top)
    page.write(_MARGIN, caption_top, "\n".join(caption_lines), fontsize=9)
    page.write(_MARGIN, disclaimer_top, DISCLAIMER, fontsize=9, fontweight="bold", color=_RED)
    return page.figure


class _Page:
    """A white figure addressed in inches from its top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(self.figure)

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        style = {"color": _INK, "linespacing": 1.3, **style}
        # Questions are plain text: a dollar sign starts no formula.
        self.figure.text(x / self.width, 1 - y / self.height, text, va="top", parse_math=False, **style)

    def axes(self, x: float, y: float, *, width: float, height: float) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)


def _draw_legend(page: _Page, top: float) -> None:
    bar = page.figure.colorbar(
        ScalarMappable(cmap=COLORMAP),
        cax=page.axes(_MARGIN, top + 0.02, width=1.6, height=0.11),
        orientation="horizontal",
        ticks=[],
    )
    bar.outline.set_visible(False)
    scale = f"0 to the {PERCENTILE:g}th percentile of each map's own cells:\ncompare maps by image mass, not by colour."
    page.write(_MARGIN + 1.7, top, scale, fontsize=8.5, color=_GREY)


def _draw_outlines(axes: Axes, outlines: Sequence[Outline], *, named: bool) -> None:
    for outline in outlines:
        style: dict[str, Any] = {"fill": False, "edgecolor": _BOX, "linewidth": 1.6}
        for ring in outline.polygons:
            axes.add_patch(Polygon(np.array(ring), closed=True, **style))
        corner = outline.box[:2] if outline.box else min(outline.polygons[0], key=sum) if outline.polygons else None
        if corner is None:
            continue
        if outline.box and not outline.polygons:
            axes.add_patch(Rectangle(corner, *outline.box[2:], **style))
        if named:
            top = axes.get_ylim()[1]
            room_above = corner[1] - top > 0.07 * (axes.get_ylim()[0] - top)
            axes.text(
                *corner, outline.label, fontsize=7.5, color="black", va="bottom" if room_above else "top",
                parse_math=False, clip_on=True,
                bbox={"facecolor": _BOX, "edgecolor": "none", "pad": 1.2},
            )  # fmt: skip


def _numbers(item: DrawableMap, padding: float | None = None) -> str:
    method = textwrap.shorten(f"{item.method} → {item.target}", width=44, placeholder=" …")
    lines = [
        method,
        f"image mass {_percent(item.image_mass)} · own position {_percent(item.self_mass)}",
        f"largest text position {_percent(item.sink_mass)} · entropy {_number(item.entropy)}",
        f"specificity {_number(item.specificity)}, image part {_number(item.grid_specificity)}",
    ]
    if np.isnan(item.image_mass):
        lines = [
            method,
            "weighs image cells only: no masses",
            f"entropy {_number(item.entropy)} · specificity of the picture {_number(item.grid_specificity)}",
        ]
    if padding is not None:
        lines.append(f"on padding, which is not shown: {_percent(padding)} of the map")
    if item.grid_specificity < SAME_MAP:
        lines.append("same picture for every token of the answer")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return "undefined" if np.isnan(share) else f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"


def _wrapped(text: str, characters: float, *, most: int | None = None) -> list[str]:
    paragraphs = text.splitlines() or [""]
    lines = [
        line
        for part in paragraphs
        for line in textwrap.wrap(part, width=max(10, int(characters)), max_lines=most, placeholder=" …") or [""]
    ]
    return lines[:most]
