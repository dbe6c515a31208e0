"""Drawn anatomy: one function per view, smooth contours in a unit frame, painted as tissues and organ labels.

The frame is x in [-1, 1] to the right, y in [-1, 1] downwards. Sides follow radiological convention: the patient's left
is on the right of the image (x > 0) in axial, coronal and frontal views. Sagittal and lateral views face left.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Modality = Literal["X-Ray", "CT", "MRI"]
Points = npt.NDArray[np.float64]
"""Contour or line, shape (points, 2), columns x and y."""

ORGANS: Mapping[str, int] = {
    name: value
    for value, name in enumerate(
        (
            "right lung",
            "left lung",
            "heart",
            "liver",
            "gallbladder",
            "spleen",
            "stomach",
            "right kidney",
            "left kidney",
            "bladder",
            "spine",
            "aorta",
            "right hemisphere",
            "left hemisphere",
            "ventricles",
            "cerebrum",
            "cerebellum",
            "brainstem",
            "skull",
            "pelvis",
        ),
        start=1,
    )
}
"""Mask value of each organ; 0 is everything else."""

FIRST_LESION = 101
"""Mask value of the first lesion; the others count on from it."""


class Tissue(NamedTuple):
    """Display grey level in [0, 1] under each technique."""

    ct: float
    ct_head: float
    t1: float
    t2: float
    x_ray: float


TISSUES: Mapping[str, Tissue] = {
    "air": Tissue(0.0, 0.0, 0.02, 0.02, 0.03),
    "gas": Tissue(0.03, 0.0, 0.05, 0.05, 0.30),
    "table": Tissue(0.40, 0.40, 0.02, 0.02, 0.03),
    "lung": Tissue(0.11, 0.11, 0.08, 0.07, 0.17),
    "fat": Tissue(0.27, 0.16, 0.86, 0.47, 0.42),
    "muscle": Tissue(0.51, 0.46, 0.36, 0.20, 0.50),
    "heart": Tissue(0.62, 0.62, 0.40, 0.36, 0.70),
    "blood": Tissue(0.70, 0.60, 0.14, 0.12, 0.55),
    "liver": Tissue(0.60, 0.60, 0.54, 0.34, 0.72),
    "spleen": Tissue(0.64, 0.64, 0.42, 0.60, 0.68),
    "kidney": Tissue(0.73, 0.73, 0.46, 0.70, 0.64),
    "bowel": Tissue(0.49, 0.49, 0.34, 0.34, 0.50),
    "content": Tissue(0.42, 0.42, 0.26, 0.80, 0.50),
    "fluid": Tissue(0.40, 0.30, 0.15, 0.95, 0.55),
    "bone": Tissue(0.97, 1.0, 0.09, 0.07, 0.80),
    "marrow": Tissue(0.82, 0.88, 0.62, 0.42, 0.70),
    "disc": Tissue(0.58, 0.58, 0.30, 0.30, 0.55),
    "gray": Tissue(0.53, 0.53, 0.42, 0.62, 0.50),
    "white": Tissue(0.46, 0.46, 0.64, 0.42, 0.50),
    "csf": Tissue(0.28, 0.24, 0.13, 0.95, 0.50),
}
TISSUE_IDS: Mapping[str, int] = {name: index for index, name in enumerate(TISSUES)}

_CONTOUR_POINTS = 56
_ANGLES = np.linspace(0.0, 2.0 * np.pi, _CONTOUR_POINTS, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
_HARMONICS = np.concatenate(
    [[np.cos(order * _ANGLES), np.sin(order * _ANGLES)] / np.sqrt(order) for order in (2, 3, 4, 5)]
)
_SEGMENT = np.linspace(0.0, 1.0, 6, endpoint=False)
_CATMULL_ROM = 0.5 * np.stack(
    [
        -_SEGMENT + 2 * _SEGMENT**2 - _SEGMENT**3,
        2 - 5 * _SEGMENT**2 + 3 * _SEGMENT**3,
        _SEGMENT + 4 * _SEGMENT**2 - 3 * _SEGMENT**3,
        -(_SEGMENT**2) + _SEGMENT**3,
    ],
    axis=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """Rotation, zoom, shift and a smooth bend, the same for all contours of one image, so that organs stay in order."""

    angle: float
    zoom: float
    shift: tuple[float, float]
    bend: float
    phase: tuple[float, float]

    def __call__(self, points: Points) -> Points:
        """Points after the warp, in the unit frame."""
        x, y = points[:, 0], points[:, 1]
        bent_x = x + self.bend * np.sin(2.2 * y + self.phase[0])
        bent_y = y + self.bend * np.sin(2.2 * x + self.phase[1])
        cos, sin = np.cos(self.angle) * self.zoom, np.sin(self.angle) * self.zoom
        return np.stack([cos * bent_x - sin * bent_y + self.shift[0], sin * bent_x + cos * bent_y + self.shift[1]], 1)


Layer = Literal["tissues", "labels", "bones"]


class Canvas:
    """Three aligned layers under one warp: tissue identities, organ labels, and (X-ray only) added bone density.

    Shapes are collected in painting order and warped all at once by ``paint``: a warp per shape took a quarter of the
    time of an image.
    """

    def __init__(self, size: int, warp: Warp) -> None:
        self.size, self.warp = size, warp
        self._shapes: list[tuple[Points, list[tuple[Layer, int, int]]]] = []

    def pixels(self, points: Points) -> Points:
        """Warped points in pixel coordinates, shape (points, 2)."""
        return np.asarray((self.warp(points) + 1.0) * (self.size / 2) - 0.5)

    def _width(self, width: float) -> int:
        """A line width in whole pixels, at least one, from a width in the unit frame."""
        return max(1, round(width * self.warp.zoom * self.size / 2))

    def fill(self, contour: Points, tissue: str, organ: str | None = None) -> None:
        """Fill a closed contour. ``organ`` labels it, ``""`` removes labels below it, ``None`` leaves them."""
        marks: list[tuple[Layer, int, int]] = [("tissues", TISSUE_IDS[tissue], 0)]
        if organ is not None:
            marks.append(("labels", ORGANS[organ] if organ else 0, 0))
        self._shapes.append((contour, marks))

    def label(self, contour: Points, organ: str) -> None:
        """Label a closed contour without changing its tissue."""
        self._shapes.append((contour, [("labels", ORGANS[organ], 0)]))

    def stroke(self, line: Points, tissue: str, width: float) -> None:
        """Draw an open line of a tissue; labels stay as they are."""
        self._shapes.append((line, [("tissues", TISSUE_IDS[tissue], self._width(width))]))

    def bone(self, contour: Points, density: int) -> None:
        """Set bone density (grey levels of 255) inside a closed contour of a projection image."""
        self._shapes.append((contour, [("bones", density, 0)]))

    def bone_stroke(self, line: Points, density: int, width: float) -> None:
        """Set bone density (grey levels of 255) along a line of a projection image."""
        self._shapes.append((line, [("bones", density, self._width(width))]))

    def paint(self) -> Mapping[Layer, npt.NDArray[np.uint8]]:
        """The layers with all shapes drawn in order, each (size, size)."""
        layers: Mapping[Layer, Image.Image] = {
            name: Image.new("L", (self.size, self.size), 0) for name in ("tissues", "labels", "bones")
        }
        pens = {name: ImageDraw.Draw(layer) for name, layer in layers.items()}
        coordinates = self.pixels(np.concatenate([points for points, _ in self._shapes])).ravel().tolist()
        start = 0
        for points, marks in self._shapes:
            outline = coordinates[start : start + 2 * len(points)]
            start += 2 * len(points)
            for layer, value, width in marks:
                if width == 0:
                    pens[layer].polygon(outline, fill=value)
                else:
                    # Joints do not show on thin lines and cost more than the lines themselves.
                    pens[layer].line(
                        outline, fill=value, width=width, joint="curve" if width > self.size / 28 else None
                    )
        return {name: np.array(layer) for name, layer in layers.items()}


class Pen:
    """Random smooth contours."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def uniform(self, low: float, high: float) -> float:
        """One number between ``low`` and ``high``."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def blob(self, x: float, y: float, *, rx: float, ry: float, tilt: float = 0.0, wobble: float = 0.05) -> Points:
        """An ellipse whose radius is modulated by harmonics 2 to 5; ``tilt`` in radians."""
        weights = self.rng.standard_normal(len(_HARMONICS)) @ _HARMONICS
        unit = _CIRCLE * (1.0 + wobble * weights)
        cos, sin = math.cos(tilt), math.sin(tilt)
        contour = np.array([[cos * rx, -sin * ry], [sin * rx, cos * ry]]) @ unit
        return np.asarray(contour.T + np.array([x, y]))

    def spline(self, *points: tuple[float, float], jitter: float = 0.012) -> Points:
        """A closed Catmull-Rom curve through the points, each moved a little."""
        knots = np.array(points, dtype=float)
        knots += self.rng.normal(0.0, jitter, knots.shape)
        return np.asarray((_CATMULL_ROM @ knots[_neighbours(len(knots))]).reshape(-1, 2))


@cache
def _neighbours(count: int) -> npt.NDArray[np.int64]:
    """Indices of the four knots that shape each segment of a closed curve, shape (count, 4)."""
    return np.asarray((np.arange(count)[:, None] + np.array([-1, 0, 1, 2])) % count, np.int64)


def scaled(points: Points, factor: float) -> Points:
    """The contour shrunk or grown about its centre."""
    return np.asarray(points * factor + np.add.reduce(points) * ((1.0 - factor) / len(points)))


def _asymmetry(pen: Pen) -> tuple[float, float]:
    """Scale factors (right, left); in two thirds of the cases one side is clearly smaller."""
    small = pen.uniform(0.74, 0.84)
    kind = pen.rng.integers(3)
    return (small, 1.0) if kind == 0 else (1.0, small) if kind == 1 else (1.0, 1.0)


def _vessels(canvas: Canvas, pen: Pen, *, hilum: tuple[float, float], lung: Points, count: int = 11) -> None:
    """Branches from the hilum towards the rim of one lung."""
    rims = lung[pen.rng.integers(len(lung), size=count)]
    starts = np.broadcast_to(np.array(hilum), rims.shape)
    ends = starts + (rims - starts) * pen.rng.uniform(0.45, 0.8, (count, 1))
    middles = (starts + ends) / 2 + pen.rng.normal(0, 0.03, rims.shape)
    twigs = middles + (rims - middles) * 0.4 + pen.rng.normal(0, 0.05, rims.shape)
    for origins, tips, width in ((starts, middles, 0.022), (middles, ends, 0.011), (middles, twigs, 0.01)):
        for line in np.stack([origins, tips], 1):
            canvas.stroke(line, "muscle", width)


def _ct_table(canvas: Canvas, pen: Pen, *, y: float) -> None:
    """The patient table as a shallow arc below the body."""
    x = np.linspace(-0.95, 0.95, 24)
    depth = pen.uniform(0.05, 0.14)
    for offset in (0.0, 0.07):
        canvas.stroke(np.stack([x, y + offset - depth * x**2], 1), "table", 0.014)


def _vertebra_axial(canvas: Canvas, pen: Pen, *, y: float) -> None:
    """Vertebral body, arch, transverse and spinous process around the spinal canal."""
    rx, ry = pen.uniform(0.11, 0.13), pen.uniform(0.085, 0.10)
    for side in (-1, 1):
        canvas.fill(
            pen.spline(
                (side * 0.05, y + 0.06), (side * 0.23, y + 0.10), (side * 0.22, y + 0.14), (side * 0.05, y + 0.17)
            ),
            "bone",
            "spine",
        )
    canvas.fill(pen.spline((-0.06, y + 0.12), (0.06, y + 0.12), (0.02, y + 0.31), (-0.02, y + 0.31)), "bone", "spine")
    canvas.fill(pen.blob(0, y, rx=rx, ry=ry, wobble=0.03), "bone", "spine")
    canvas.fill(pen.blob(0, y, rx=rx - 0.025, ry=ry - 0.025, wobble=0.03), "marrow")
    canvas.fill(pen.blob(0, y + 0.125, rx=0.055, ry=0.042, wobble=0.03), "fluid")
    canvas.fill(pen.blob(0, y + 0.125, rx=0.028, ry=0.022, wobble=0.03), "white")


def _trunk_axial(canvas: Canvas, pen: Pen, modality: Modality, *, rx: float, ry: float) -> tuple[float, float]:
    """Skin, fat and muscle wall; returns the half axes of the cavity."""
    if modality == "CT":
        _ct_table(canvas, pen, y=ry + 0.2)
    fat = pen.uniform(0.05, 0.10)
    wall = 0.06
    canvas.fill(pen.blob(0, 0, rx=rx, ry=ry, wobble=0.012), "muscle")
    canvas.fill(pen.blob(0, 0, rx=rx - 0.012, ry=ry - 0.012, wobble=0.008), "fat")
    canvas.fill(pen.blob(0, 0, rx=rx - fat, ry=ry - fat, wobble=0.012), "muscle")
    return rx - fat - wall, ry - fat - wall


def _ribs_axial(canvas: Canvas, pen: Pen, *, rx: float, ry: float, count: int) -> None:
    """Cut ribs as short bright arcs around the cage."""
    for angle in np.linspace(0.0, 2 * np.pi, count, endpoint=False) + pen.uniform(0, 0.5):
        if abs(np.cos(angle)) > 0.3:
            arc = angle + np.linspace(0, pen.uniform(0.12, 0.3), 6)
            line = np.stack([rx * np.cos(arc), ry * np.sin(arc)], 1)
            canvas.stroke(line, "bone", 0.045)
            canvas.stroke(line, "marrow", 0.015)


def chest_axial(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint an axial slice at heart level."""
    rx, ry = pen.uniform(0.88, 0.95), pen.uniform(0.64, 0.74)
    cavity_x, cavity_y = _trunk_axial(canvas, pen, modality, rx=rx, ry=ry)
    kx, ky = cavity_x / 0.75, cavity_y / 0.52
    _ribs_axial(canvas, pen, rx=cavity_x + 0.02, ry=cavity_y + 0.02, count=15)
    for side in (-1, 1):
        canvas.fill(pen.blob(side * 0.33, ry - 0.13, rx=0.2, ry=0.07, tilt=-side * 0.3), "muscle")
    canvas.fill(pen.blob(0, 0.0, rx=0.26, ry=0.40, wobble=0.02), "fat")
    right_scale, left_scale = _asymmetry(pen)
    stretch = np.array([kx, ky])
    right = pen.spline(
        (-0.16, -0.44), (-0.42, -0.43), (-0.66, -0.18), (-0.70, 0.12), (-0.52, 0.42), (-0.22, 0.47), (-0.14, 0.28),
        (-0.17, 0.05), (-0.24, -0.18),
    )  # fmt: skip
    left = pen.spline(
        (0.17, -0.45), (0.42, -0.43), (0.66, -0.18), (0.70, 0.12), (0.52, 0.42), (0.22, 0.47), (0.17, 0.28),
        (0.28, 0.08), (0.38, -0.14), (0.28, -0.30),
    )  # fmt: skip
    lungs = {"right lung": scaled(right * stretch, right_scale), "left lung": scaled(left * stretch, left_scale)}
    for name, lung in lungs.items():
        canvas.fill(lung, "lung", name)
        side = -1 if name == "right lung" else 1
        _vessels(canvas, pen, hilum=(side * 0.2, 0.1), lung=lung)
    _vertebra_axial(canvas, pen, y=0.31 * ky)
    heart = pen.blob(0.10, -0.13, rx=pen.uniform(0.27, 0.33), ry=pen.uniform(0.21, 0.26), tilt=0.45, wobble=0.04)
    canvas.fill(heart, "fat", "")
    canvas.fill(scaled(heart, 0.94), "heart", "heart")
    canvas.fill(pen.blob(0.19, -0.12, rx=0.11, ry=0.075, tilt=0.5), "blood")
    canvas.fill(pen.blob(0.0, -0.16, rx=0.10, ry=0.08, tilt=0.5), "blood")
    aorta = pen.blob(0.13, 0.19 * ky, rx=0.06, ry=0.06, wobble=0.02)
    canvas.fill(scaled(aorta, 1.2), "fat", "")
    canvas.fill(aorta, "blood", "aorta")
    canvas.fill(pen.blob(0.02, 0.15, rx=0.035, ry=0.025), "muscle", "")
    canvas.fill(pen.blob(0, -cavity_y - 0.01, rx=0.09, ry=0.026), "bone", "")


def _kidney_contours(pen: Pen, *, x: float, y: float, rx: float, ry: float, tilt: float) -> dict[str, Points]:
    """Kidney contours by name; about a third of the cases lack one kidney."""
    scales = dict(zip(("right kidney", "left kidney"), _asymmetry(pen), strict=True))
    missing = pen.rng.choice(["none", "none", "none", "right kidney", "left kidney"])
    contours = {}
    for side, name in ((-1, "right kidney"), (1, "left kidney")):
        contour = pen.blob(side * x, y, rx=rx, ry=ry, tilt=side * tilt, wobble=0.03)
        if name != missing:
            contours[name] = scaled(contour, scales[name])
    return contours


def abdomen_axial(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint an axial slice at the level of liver, spleen and kidneys."""
    rx, ry = pen.uniform(0.88, 0.96), pen.uniform(0.64, 0.76)
    cavity_x, cavity_y = _trunk_axial(canvas, pen, modality, rx=rx, ry=ry)
    stretch = np.array([cavity_x / 0.76, cavity_y / 0.54])
    _ribs_axial(canvas, pen, rx=cavity_x + 0.025, ry=cavity_y + 0.025, count=11)
    canvas.fill(pen.blob(0, -0.01, rx=cavity_x, ry=cavity_y, wobble=0.01), "fat")
    for side in (-1, 1):
        canvas.fill(pen.blob(side * 0.24, ry - 0.16, rx=0.2, ry=0.10, tilt=-side * 0.2), "muscle")
        canvas.fill(pen.blob(side * 0.17, 0.27, rx=0.07, ry=0.10), "muscle")
    for _ in range(9):
        x, y = pen.uniform(-0.45, 0.5), pen.uniform(-0.32, 0.1)
        loop = pen.blob(x, y, rx=pen.uniform(0.05, 0.09), ry=pen.uniform(0.04, 0.07), tilt=pen.uniform(0, 3))
        canvas.fill(loop, "bowel")
        canvas.fill(scaled(loop, 0.6), "gas" if pen.chance(0.3) else "content")
    if pen.chance(0.65):
        spleen = pen.spline(
            (0.73, -0.08), (0.70, 0.17), (0.54, 0.38), (0.40, 0.40), (0.44, 0.24), (0.53, 0.06), (0.62, -0.14)
        )
        canvas.fill(spleen * stretch, "spleen", "spleen")
    stomach = pen.blob(0.34, -0.24, rx=0.25, ry=pen.uniform(0.13, 0.18), tilt=-0.25) * stretch
    canvas.fill(stomach, "bowel", "stomach")
    canvas.fill(scaled(stomach, 0.86), "content")
    canvas.fill(scaled(stomach, 0.6) - np.array([0.02, 0.05]), "gas")
    canvas.fill(pen.blob(0.12, 0.0, rx=0.2, ry=0.045, tilt=-0.35, wobble=0.06), "bowel", "")
    liver = (
        pen.spline(
            (-0.73, -0.02), (-0.62, -0.32), (-0.30, -0.47), (0.02, -0.47), (0.16, -0.38), (0.0, -0.25),
            (-0.14, -0.06), (-0.24, 0.10), (-0.42, 0.34), (-0.62, 0.30),
        )
        * stretch
    )  # fmt: skip
    canvas.fill(liver, "liver", "liver")
    for _ in range(5):
        start = np.array([-0.2, -0.15]) + pen.rng.normal(0, 0.04, 2)
        end = np.array([-0.5, -0.1]) + pen.rng.normal(0, 0.1, 2)
        canvas.stroke(np.stack([start, (start + end) / 2 + pen.rng.normal(0, 0.03, 2), end]), "blood", 0.02)
    if pen.chance(0.6):
        canvas.fill(pen.blob(-0.2, -0.10, rx=0.075, ry=0.11, tilt=0.5, wobble=0.03), "fluid", "gallbladder")
    for name, kidney in _kidney_contours(pen, x=0.38, y=0.27, rx=0.115, ry=0.16, tilt=0.5).items():
        canvas.fill(scaled(kidney, 1.18), "fat", "")
        canvas.fill(kidney, "kidney", name)
        hilum = kidney.mean(0) * np.array([0.84, 0.95])
        canvas.fill(pen.blob(*hilum, rx=0.04, ry=0.055), "fluid")
    _vertebra_axial(canvas, pen, y=0.29)
    canvas.fill(pen.blob(0.06, 0.13, rx=0.055, ry=0.055, wobble=0.02), "blood", "aorta")
    canvas.fill(pen.blob(-0.09, 0.12, rx=0.06, ry=0.045, wobble=0.04), "blood", "")


def chest_coronal(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint a coronal slice through trachea, heart and liver dome."""
    del modality
    body = pen.spline(
        (-0.16, -1.15), (-0.18, -0.86), (-0.45, -0.76), (-0.82, -0.66), (-0.95, -0.35), (-0.88, 0.0), (-0.84, 0.6),
        (-0.85, 1.15), (0.85, 1.15), (0.84, 0.6), (0.88, 0.0), (0.95, -0.35), (0.82, -0.66), (0.45, -0.76),
        (0.18, -0.86), (0.16, -1.15),
    )  # fmt: skip
    canvas.fill(body, "muscle")
    canvas.fill(body * np.array([0.975, 0.985]), "fat")
    canvas.fill(body * np.array([0.90, 0.96]), "muscle")
    for side in (-1, 1):
        humerus = pen.blob(side * 0.78, -0.52, rx=0.10, ry=0.11)
        canvas.fill(humerus, "bone")
        canvas.fill(scaled(humerus, 0.75), "marrow")
        canvas.stroke(np.array([[side * 0.1, -0.66], [side * 0.35, -0.70], [side * 0.62, -0.66]]), "bone", 0.05)
    canvas.fill(pen.spline((-0.7, 0.5), (0.7, 0.5), (0.7, 1.2), (-0.7, 1.2)), "fat")
    liver = pen.spline(
        (-0.72, 0.9), (-0.70, 0.6), (-0.42, 0.36), (-0.1, 0.46), (0.2, 0.52), (0.3, 0.6), (0.0, 0.75), (-0.3, 1.05)
    )
    canvas.fill(liver, "liver", "liver")
    stomach = pen.blob(0.42, 0.70, rx=0.24, ry=0.18)
    canvas.fill(stomach, "bowel", "stomach")
    canvas.fill(scaled(stomach, 0.85), "content")
    canvas.fill(pen.blob(0.43, 0.62, rx=0.14, ry=0.07), "gas")
    scales = dict(zip(("right lung", "left lung"), _asymmetry(pen), strict=True))
    right = pen.spline(
        (-0.26, -0.70), (-0.46, -0.55), (-0.65, -0.1), (-0.71, 0.35), (-0.66, 0.50), (-0.42, 0.34), (-0.15, 0.40),
        (-0.14, 0.0), (-0.12, -0.4),
    )  # fmt: skip
    left = pen.spline(
        (0.26, -0.70), (0.46, -0.55), (0.65, -0.1), (0.71, 0.4), (0.67, 0.56), (0.45, 0.45), (0.30, 0.46), (0.28, 0.1),
        (0.16, -0.15), (0.12, -0.4),
    )  # fmt: skip
    for name, lung in (("right lung", right), ("left lung", left)):
        contour = scaled(lung, scales[name])
        canvas.fill(contour, "lung", name)
        _vessels(canvas, pen, hilum=(-0.17 if name == "right lung" else 0.2, -0.05), lung=contour, count=13)
    for row in range(8):
        y = -0.55 + row * 0.17
        for side in (-1, 1):
            x = side * (0.52 + 0.24 * np.sin(min(1.0, (row + 1) / 5) * np.pi / 2))
            rib = pen.blob(x, y, rx=0.022, ry=0.04, tilt=side * 0.3)
            canvas.fill(rib, "bone", "")
            canvas.fill(scaled(rib, 0.5), "marrow")
    canvas.fill(pen.spline((-0.1, -0.62), (0.1, -0.62), (0.12, -0.2), (0.1, 0.1), (-0.1, 0.1), (-0.1, -0.2)), "fat", "")
    trachea = np.array([[0.0, -1.0], [0.0, -0.6], [0.0, -0.25]])
    canvas.stroke(trachea, "muscle", 0.10)
    canvas.stroke(trachea, "air", 0.07)
    for side in (-1, 1):
        canvas.stroke(np.array([[0.0, -0.26], [side * 0.17, -0.08]]), "air", 0.05)
    heart = pen.spline((-0.16, 0.10), (-0.17, 0.3), (0.0, 0.45), (0.28, 0.46), (0.36, 0.3), (0.22, 0.02), (0.04, -0.06))
    canvas.fill(heart, "heart", "heart")
    canvas.fill(pen.blob(0.14, 0.28, rx=0.12, ry=0.075, tilt=0.5), "blood")
    canvas.fill(pen.blob(-0.07, 0.22, rx=0.06, ry=0.1), "blood")
    canvas.fill(pen.blob(0.10, -0.14, rx=0.06, ry=0.10), "blood", "aorta")


def abdomen_coronal(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint a coronal slice through kidneys and lumbar spine, from the lung bases to the bladder."""
    del modality
    body = pen.spline(
        (-0.78, -1.2), (-0.77, -0.6), (-0.70, 0.0), (-0.74, 0.45), (-0.80, 0.8), (-0.78, 1.2), (0.78, 1.2), (0.80, 0.8),
        (0.74, 0.45), (0.70, 0.0), (0.77, -0.6), (0.78, -1.2),
    )  # fmt: skip
    canvas.fill(body, "muscle")
    canvas.fill(body * np.array([0.98, 1.0]), "fat")
    canvas.fill(body * np.array([pen.uniform(0.86, 0.93), 1.0]), "muscle")
    canvas.fill(body * np.array([0.82, 1.0]), "fat")
    for side in (-1, 1):
        x, dome = side * 0.33, -0.80 + 0.03 * side
        canvas.fill(
            pen.spline((x - 0.28, -1.2), (x + 0.28, -1.2), (x + 0.26, dome + 0.1), (x, dome), (x - 0.26, dome + 0.1)),
            "lung",
        )
        psoas = pen.spline(
            (side * 0.12, -0.15), (side * 0.17, 0.1), (side * 0.33, 0.65), (side * 0.22, 0.7), (side * 0.1, 0.2)
        )
        canvas.fill(psoas, "muscle")
        wing = pen.spline(
            (side * 0.68, 0.42), (side * 0.66, 0.62), (side * 0.40, 0.98), (side * 0.28, 0.98), (side * 0.52, 0.55)
        )
        canvas.fill(wing, "bone", "pelvis")
        canvas.fill(scaled(wing, 0.72), "marrow")
        head = pen.blob(side * 0.55, 0.98, rx=0.12, ry=0.12)
        canvas.fill(head, "bone")
        canvas.fill(scaled(head, 0.8), "marrow")
    for _ in range(16):
        side = 1 if pen.chance(0.5) else -1
        loop = pen.blob(
            side * pen.uniform(0.2, 0.52), pen.uniform(0.28, 0.6), rx=0.085, ry=0.06, tilt=pen.uniform(0, 3)
        )
        canvas.fill(loop, "bowel")
        canvas.fill(scaled(loop, 0.65), "gas" if pen.chance(0.25) else "content")
    stomach = pen.blob(0.28, -0.48, rx=0.17, ry=0.2, tilt=0.5)
    canvas.fill(stomach, "bowel", "stomach")
    canvas.fill(scaled(stomach, 0.85), "content")
    canvas.fill(pen.blob(0.30, -0.56, rx=0.1, ry=0.07), "gas")
    if pen.chance(0.65):
        canvas.fill(
            pen.spline((0.46, -0.70), (0.60, -0.62), (0.62, -0.35), (0.54, -0.2), (0.46, -0.32), (0.45, -0.5)),
            "spleen",
            "spleen",
        )
    liver = pen.spline(
        (-0.63, -0.5), (-0.55, -0.76), (-0.3, -0.84), (0.0, -0.72), (0.14, -0.60), (-0.02, -0.48), (-0.2, -0.32),
        (-0.42, -0.10), (-0.58, 0.02), (-0.64, -0.2),
    )  # fmt: skip
    canvas.fill(liver, "liver", "liver")
    for _ in range(4):
        start = np.array([-0.15, -0.5]) + pen.rng.normal(0, 0.04, 2)
        canvas.stroke(np.stack([start, np.array([-0.42, -0.5]) + pen.rng.normal(0, 0.1, 2)]), "blood", 0.02)
    if pen.chance(0.6):
        canvas.fill(pen.blob(-0.3, -0.17, rx=0.06, ry=0.1, tilt=0.4), "fluid", "gallbladder")
    for name, kidney in _kidney_contours(pen, x=0.34, y=0.0, rx=0.115, ry=0.2, tilt=0.22).items():
        canvas.fill(scaled(kidney, 1.12), "fat", "")
        canvas.fill(kidney, "kidney", name)
        canvas.fill(pen.blob(kidney[:, 0].mean() * 0.84, kidney[:, 1].mean(), rx=0.04, ry=0.08), "fluid")
    for level in range(10):
        y = -0.95 + level * 0.155
        canvas.fill(pen.blob(0, y + 0.078, rx=0.095, ry=0.035, wobble=0.02), "disc", "spine")
        body = pen.spline(
            (-0.10, y - 0.055), (0.10, y - 0.055), (0.085, y), (0.10, y + 0.055), (-0.10, y + 0.055), (-0.085, y)
        )
        canvas.fill(body, "bone", "spine")
        canvas.fill(scaled(body, 0.8), "marrow")
    if pen.chance(0.6):
        canvas.fill(pen.blob(0, 0.86, rx=0.2, ry=0.13), "bowel", "")
        canvas.fill(pen.blob(0, 0.86, rx=0.18, ry=0.11), "fluid", "bladder")


def _cortex(
    canvas: Canvas, pen: Pen, brain: Points, *, sulci: int, depth: float, clear_of_midline: float = 0.0
) -> None:
    """A folded grey ribbon over white matter inside a brain contour, with fluid in the sulci."""
    centre = brain.mean(0)
    canvas.fill(brain, "gray")
    fold = 1.0 + 0.06 * np.sin(np.linspace(0, 2 * np.pi * sulci * 0.5, len(brain)) + pen.uniform(0, 6))
    fold += pen.rng.normal(0, 0.025, len(brain))
    canvas.fill(centre + (brain - centre) * (fold * 0.84)[:, None], "white")
    outer = brain[np.abs(brain[:, 0]) >= clear_of_midline]
    for rim in outer[pen.rng.permutation(len(outer))[:sulci]]:
        inner = rim + (centre - rim) * depth * pen.uniform(0.6, 1.4)
        middle = (rim + inner) / 2 + pen.rng.normal(0, 0.018, 2)
        bent = np.stack([rim, middle, inner])
        canvas.stroke(bent, "gray", 0.062)
        canvas.stroke(bent, "csf", 0.018)


def _head_shells(canvas: Canvas, outline: Points, *, inner: Points, thickness: float) -> None:
    """Scalp fat, two tables of skull with marrow between, and the fluid around the brain."""
    canvas.fill(outline, "muscle")
    canvas.fill(scaled(outline, 0.985), "fat")
    canvas.fill(scaled(inner, 1.0 + thickness), "bone", "skull")
    canvas.fill(scaled(inner, 1.0 + 0.62 * thickness), "marrow")
    canvas.fill(scaled(inner, 1.0 + 0.42 * thickness), "bone")
    canvas.fill(inner, "csf", "")


def head_axial(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint an axial slice of the head, at the lateral ventricles or above them."""
    if modality == "CT" and pen.chance(0.6):
        angles = np.linspace(0.15 * np.pi, 0.85 * np.pi, 20)
        canvas.stroke(np.stack([0.85 * np.cos(angles), 0.98 * np.sin(angles)], 1), "table", 0.02)
    rx, ry = pen.uniform(0.66, 0.74), pen.uniform(0.84, 0.90)
    inner = pen.blob(0, 0.0, rx=rx - 0.11, ry=ry - 0.11, wobble=0.012)
    thickness = pen.uniform(0.09, 0.12)
    _head_shells(canvas, scaled(inner, 1.0 + thickness + 0.055), inner=inner, thickness=thickness)
    brain = scaled(inner, 0.965)
    for side, name in ((-1, "right hemisphere"), (1, "left hemisphere")):
        half = brain.copy()
        half[:, 0] = side * np.maximum(side * half[:, 0], 0.012)
        _cortex(canvas, pen, half, sulci=17, depth=0.30, clear_of_midline=0.08)
        canvas.label(half, name)
    canvas.stroke(np.array([[0, -ry + 0.12], [0, -0.35]]), "csf", 0.02)
    canvas.stroke(np.array([[0, 0.38], [0, ry - 0.12]]), "csf", 0.02)
    if pen.chance(0.6):
        widen = pen.uniform(0.8, 1.35)
        for side in (-1, 1):
            canvas.fill(pen.blob(side * 0.19, 0.02, rx=0.085, ry=0.16, tilt=-side * 0.25), "gray")
            canvas.fill(pen.blob(side * 0.10, 0.10, rx=0.075, ry=0.10, tilt=side * 0.2), "gray")
            canvas.fill(pen.blob(side * 0.29, -0.02, rx=0.03, ry=0.2, tilt=-side * 0.12), "gray")
            frontal = pen.spline(
                (side * 0.02, -0.06),
                (side * 0.03, -0.2),
                (side * 0.13 * widen, -0.34),
                (side * 0.16 * widen, -0.30),
                (side * 0.09 * widen, -0.15),
            )
            occipital = pen.spline(
                (side * 0.10, 0.18),
                (side * 0.17 * widen, 0.24),
                (side * 0.22 * widen, 0.45),
                (side * 0.17, 0.46),
                (side * 0.11, 0.3),
            )
            canvas.fill(frontal, "csf", "ventricles")
            canvas.fill(occipital, "csf", "ventricles")
        canvas.fill(pen.blob(0, 0.08, rx=0.016, ry=0.09), "csf", "ventricles")
    else:
        canvas.stroke(np.array([[0, -0.4], [0, 0.4]]), "csf", 0.022)


def head_coronal(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint a coronal slice of the head through ventricles, brainstem and neck."""
    del modality
    neck = pen.uniform(0.40, 0.50)
    outline = pen.spline(
        (0, -0.90), (-0.42, -0.78), (-0.67, -0.40), (-0.68, 0.0), (-0.62, 0.36), (-neck, 0.62), (-neck, 1.2),
        (neck, 1.2), (neck, 0.62), (0.62, 0.36), (0.68, 0.0), (0.67, -0.40), (0.42, -0.78),
    )  # fmt: skip
    canvas.fill(outline, "muscle")
    canvas.fill(scaled(outline, 0.98), "fat")
    canvas.fill(scaled(outline, 0.88) + np.array([0, 0.1]), "muscle")
    inner = pen.spline(
        (0, -0.78), (-0.36, -0.68), (-0.56, -0.36), (-0.57, 0.0), (-0.50, 0.26), (-0.26, 0.40), (0, 0.44), (0.26, 0.40),
        (0.50, 0.26), (0.57, 0.0), (0.56, -0.36), (0.36, -0.68),
    )  # fmt: skip
    canvas.fill(scaled(inner, 1.10), "bone", "skull")
    canvas.fill(scaled(inner, 1.06), "marrow")
    canvas.fill(scaled(inner, 1.04), "bone")
    canvas.fill(inner, "csf", "")
    for side, name in ((-1, "right hemisphere"), (1, "left hemisphere")):
        half = pen.spline(
            (side * 0.015, -0.70), (side * 0.3, -0.66), (side * 0.52, -0.34), (side * 0.54, 0.0), (side * 0.46, 0.22),
            (side * 0.27, 0.24), (side * 0.22, 0.1), (side * 0.1, 0.06), (side * 0.015, -0.1),
        )  # fmt: skip
        _cortex(canvas, pen, half, sulci=15, depth=0.28, clear_of_midline=0.08)
        canvas.label(half, name)
        canvas.stroke(np.array([[side * 0.54, -0.02], [side * 0.38, 0.0], [side * 0.33, -0.1]]), "csf", 0.025)
        lobe = pen.blob(side * 0.23, 0.31, rx=0.18, ry=0.09, tilt=side * -0.2)
        canvas.fill(lobe, "gray", "cerebellum")
        for offset in (-0.04, 0.0, 0.04):
            canvas.stroke(np.array([[side * 0.1, 0.31 + offset], [side * 0.36, 0.30 + offset]]), "csf", 0.01)
        canvas.fill(pen.blob(side * 0.12, -0.02, rx=0.085, ry=0.07), "gray")
        widen = pen.uniform(0.9, 1.4)
        horn = pen.spline(
            (side * 0.02, -0.14),
            (side * 0.05, -0.22),
            (side * 0.16 * widen, -0.27),
            (side * 0.14 * widen, -0.2),
            (side * 0.06, -0.13),
        )
        canvas.fill(horn, "csf", "ventricles")
    canvas.stroke(np.array([[0, -0.78], [0, -0.32]]), "csf", 0.02)
    canvas.fill(pen.spline((-0.22, -0.29), (0, -0.27), (0.22, -0.29), (0.2, -0.25), (0, -0.23), (-0.2, -0.25)), "white")
    canvas.fill(pen.blob(0, -0.02, rx=0.015, ry=0.08), "csf", "ventricles")
    canvas.fill(
        pen.spline((-0.09, 0.08), (0.09, 0.08), (0.10, 0.28), (0.05, 0.50), (-0.05, 0.50), (-0.10, 0.28)),
        "white",
        "brainstem",
    )
    canvas.stroke(np.array([[0, 0.45], [0, 1.2]]), "csf", 0.11)
    canvas.stroke(np.array([[0, 0.45], [0, 1.2]]), "white", 0.055)
    for level in range(5):
        for side in (-1, 1):
            vertebra = pen.blob(side * 0.14, 0.62 + 0.13 * level, rx=0.075, ry=0.045)
            canvas.fill(vertebra, "bone", "spine")
            canvas.fill(scaled(vertebra, 0.65), "marrow")


def _face_outline(pen: Pen) -> Points:
    """The profile of a head that faces left, with neck."""
    return pen.spline(
        (0.05, -0.90), (-0.35, -0.80), (-0.62, -0.50), (-0.68, -0.15), (-0.72, 0.05), (-0.86, 0.24), (-0.70, 0.30),
        (-0.74, 0.42), (-0.68, 0.50), (-0.70, 0.66), (-0.55, 0.74), (-0.25, 0.70), (-0.12, 0.85), (-0.10, 1.2),
        (0.56, 1.2), (0.50, 0.70), (0.62, 0.40), (0.76, 0.05), (0.78, -0.30), (0.60, -0.68), (0.33, -0.86),
        jitter=0.008,
    )  # fmt: skip


def head_sagittal(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint a midline sagittal slice of the head, facing left."""
    del modality
    outline = _face_outline(pen)
    canvas.fill(outline, "muscle")
    canvas.fill(outline * 0.985, "fat")
    canvas.fill(outline * np.array([0.90, 0.93]) + np.array([0.02, 0.06]), "muscle")
    inner = pen.spline(
        (0.03, -0.78), (-0.34, -0.67), (-0.54, -0.38), (-0.55, -0.10), (-0.36, 0.06), (-0.10, 0.12), (0.10, 0.40),
        (0.30, 0.50), (0.52, 0.34), (0.65, 0.0), (0.66, -0.30), (0.50, -0.62), (0.28, -0.75), jitter=0.008,
    )  # fmt: skip
    canvas.fill(scaled(inner, 1.12), "bone", "skull")
    canvas.fill(scaled(inner, 1.075), "marrow")
    canvas.fill(scaled(inner, 1.045), "bone")
    canvas.fill(inner, "csf", "")
    canvas.fill(pen.spline((-0.66, 0.14), (-0.30, 0.12), (-0.14, 0.26), (-0.18, 0.36), (-0.62, 0.33)), "gas")
    for y in (0.20, 0.28):
        canvas.stroke(np.array([[-0.58, y], [-0.25, y + 0.02]]), "muscle", 0.035)
    canvas.fill(pen.spline((-0.62, 0.37), (-0.20, 0.36), (-0.20, 0.40), (-0.62, 0.41)), "bone")
    canvas.fill(pen.blob(-0.40, 0.52, rx=0.22, ry=0.10), "muscle")
    jaw = pen.blob(-0.60, 0.62, rx=0.045, ry=0.075)
    canvas.fill(jaw, "bone")
    canvas.fill(scaled(jaw, 0.6), "marrow")
    canvas.stroke(np.array([[-0.14, 0.30], [-0.11, 0.55], [-0.06, 0.85], [-0.03, 1.2]]), "gas", 0.06)
    cerebrum = pen.spline(
        (0.03, -0.73), (-0.32, -0.63), (-0.49, -0.38), (-0.50, -0.13), (-0.30, 0.0), (0.0, -0.04), (0.25, 0.02),
        (0.50, 0.06), (0.61, -0.10), (0.61, -0.30), (0.47, -0.58), (0.26, -0.70),
    )  # fmt: skip
    _cortex(canvas, pen, cerebrum, sulci=26, depth=0.32)
    canvas.label(cerebrum, "cerebrum")
    canvas.fill(
        pen.spline((-0.20, -0.08), (-0.2, -0.2), (0.05, -0.30), (0.26, -0.2), (0.27, -0.06), (0.05, 0.0)),
        "csf",
        "ventricles",
    )
    callosum = np.array(
        [[-0.19, -0.10], [-0.24, -0.19], [-0.12, -0.29], [0.05, -0.32], [0.2, -0.28], [0.28, -0.16], [0.24, -0.11]]
    )
    canvas.stroke(callosum, "white", 0.065)
    canvas.fill(pen.blob(0.05, -0.12, rx=0.12, ry=0.08), "gray", "")
    stem = pen.spline(
        (-0.02, -0.04),
        (0.12, -0.04),
        (0.16, 0.14),
        (0.17, 0.36),
        (0.16, 0.56),
        (0.08, 0.56),
        (0.06, 0.36),
        (-0.05, 0.22),
        (-0.04, 0.10),
    )
    cerebellum = pen.blob(0.36, 0.22, rx=0.19, ry=0.15, tilt=-0.35, wobble=0.02)
    canvas.fill(cerebellum, "gray", "cerebellum")
    hub = np.array([0.22, 0.20])
    for rim in cerebellum[::4]:
        canvas.stroke(np.stack([hub + (rim - hub) * 0.55, rim]), "csf", 0.010)
        canvas.stroke(np.stack([hub, hub + (rim - hub) * 0.55]), "white", 0.018)
    cord = np.array([[0.12, 0.5], [0.14, 0.8], [0.16, 1.2]])
    canvas.stroke(cord, "csf", 0.12)
    canvas.stroke(cord, "white", 0.06)
    canvas.fill(stem, "white", "brainstem")
    canvas.fill(pen.spline((0.17, 0.12), (0.22, 0.2), (0.17, 0.28)), "csf", "ventricles")
    for level in range(6):
        y = 0.60 + 0.125 * level
        vertebra = pen.spline(
            (-0.03, y - 0.045), (0.06, y - 0.045), (0.07, y + 0.045), (-0.02, y + 0.045), jitter=0.006
        )
        canvas.fill(vertebra, "bone", "spine")
        canvas.fill(scaled(vertebra, 0.75), "marrow")
        canvas.fill(pen.blob(0.30, y + 0.02, rx=0.09, ry=0.028, tilt=0.35), "bone", "spine")


def _rib_pair(canvas: Canvas, *, y: float, half_width: float, density: int) -> None:
    """Posterior ribs on both sides and the fainter anterior ends."""
    t = np.linspace(0.0, 1.0, 14)
    x = 0.06 + (half_width - 0.06) * np.sin(t * np.pi / 2) ** 0.9
    posterior = np.stack([x, y - 0.07 * np.sin(np.pi * t) + 0.17 * t**2.2], 1)
    fall = posterior[-1, 1] + 0.05 * np.sin(np.pi * t / 2) + 0.20 * t
    anterior = np.stack([half_width * (1.0 - 0.5 * t**1.4), fall], 1)
    for side in (np.array([-1.0, 1.0]), np.array([1.0, 1.0])):
        canvas.bone_stroke(anterior * side, int(density * 0.45), 0.045)
        canvas.bone_stroke(posterior * side, density, 0.048)
        canvas.bone_stroke(posterior * side, int(density * 0.7), 0.028)


def _vertebrae_frontal(canvas: Canvas, pen: Pen, *, top: float, bottom: float, width: float, density: int) -> None:
    """A column of vertebral bodies with pedicles and spinous processes, all of one shape."""
    body = pen.spline(
        (-width, -0.05), (width, -0.05), (width * 0.88, 0), (width, 0.05), (-width, 0.05), (-width * 0.88, 0),
        jitter=0.004,
    )  # fmt: skip
    parts = [(body, 1.0), (scaled(body, 0.82), 0.8), (pen.blob(0, 0.03, rx=0.014, ry=0.035), 1.3)]
    parts += [(pen.blob(side * width * 0.6, -0.01, rx=0.02, ry=0.03), 1.35) for side in (-1, 1)]
    for y in np.arange(top, bottom, 0.125):
        offset = np.array([pen.uniform(-0.003, 0.003), y])
        for contour, share in parts:
            canvas.bone(contour + offset, int(density * share))


def chest_frontal(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint a frontal chest radiograph; in some cases one lung is opaque."""
    del modality
    body = pen.spline(
        (-0.20, -1.2), (-0.22, -0.88), (-0.50, -0.78), (-0.85, -0.70), (-1.05, -0.45), (-1.0, 0.0), (-0.90, 0.5),
        (-0.92, 1.2), (0.92, 1.2), (0.90, 0.5), (1.0, 0.0), (1.05, -0.45), (0.85, -0.70), (0.50, -0.78), (0.22, -0.88),
        (0.20, -1.2),
    )  # fmt: skip
    canvas.fill(body, "fat")
    canvas.fill(body * np.array([0.92, 0.98]), "muscle")
    canvas.fill(pen.spline((-0.78, 0.55), (-0.4, 0.36), (0.4, 0.44), (0.78, 0.6), (0.82, 1.3), (-0.82, 1.3)), "liver")
    canvas.fill(pen.blob(0.40, 0.60, rx=0.13, ry=0.06), "gas" if pen.chance(0.6) else "liver")
    right = pen.spline(
        (-0.27, -0.76), (-0.45, -0.64), (-0.64, -0.25), (-0.73, 0.15), (-0.75, 0.52), (-0.68, 0.55), (-0.42, 0.36),
        (-0.14, 0.42), (-0.13, 0.0), (-0.11, -0.45),
    )  # fmt: skip
    left = pen.spline(
        (0.27, -0.76), (0.45, -0.64), (0.64, -0.25), (0.73, 0.15), (0.75, 0.56), (0.68, 0.60), (0.42, 0.44),
        (0.14, 0.46), (0.13, 0.0), (0.11, -0.45),
    )  # fmt: skip
    scales = dict(zip(("right lung", "left lung"), _asymmetry(pen), strict=True))
    opaque = pen.rng.choice(["none", "none", "none", "right lung", "left lung"])
    for name, lung in (("right lung", right), ("left lung", left)):
        contour = scaled(lung, scales[name])
        if name == opaque:
            canvas.fill(contour, "heart")
            continue
        canvas.fill(contour, "lung", name)
        _vessels(canvas, pen, hilum=(-0.16 if name == "right lung" else 0.19, -0.05), lung=contour, count=12)
    size = pen.uniform(0.85, 1.2)
    canvas.fill(
        pen.spline((-0.10, -0.8), (0.10, -0.8), (0.11, -0.4), (0.17, -0.28), (0.14, 0.1), (-0.12, 0.1), (-0.11, -0.3)),
        "muscle",
        "",
    )
    heart = pen.spline(
        (-0.10, -0.02),
        (-0.20 * size, 0.20),
        (-0.14, 0.42),
        (0.10, 0.50),
        (0.40 * size, 0.46),
        (0.42 * size, 0.30),
        (0.22 * size, 0.02),
        (0.05, -0.14),
    )
    canvas.fill(heart, "heart", "heart")
    canvas.fill(pen.blob(0.12, -0.28, rx=0.07, ry=0.07), "heart", "")
    canvas.stroke(np.array([[0.0, -1.0], [0.0, -0.5], [-0.01, -0.25]]), "fat", 0.07)
    _vertebrae_frontal(canvas, pen, top=-1.0, bottom=1.0, width=0.075, density=20)
    for row in range(10):
        y = -0.72 + row * pen.uniform(0.118, 0.126)
        _rib_pair(canvas, y=y, half_width=0.40 + 0.37 * np.sin(min(1.0, (row + 1.0) / 6) * np.pi / 2), density=25)
    for side in (-1, 1):
        canvas.bone(pen.spline((side * 0.55, -0.55), (side * 0.78, -0.60), (side * 0.80, -0.3), (side * 0.66, 0.0)), 16)
        canvas.bone(pen.blob(side * 0.90, -0.56, rx=0.10, ry=0.10), 48)
        clavicle = np.array([[side * 0.06, -0.58], [side * 0.25, -0.63], [side * 0.48, -0.72], [side * 0.78, -0.70]])
        canvas.bone_stroke(clavicle, 44, 0.06)
        canvas.bone_stroke(clavicle, 30, 0.03)


def abdomen_frontal(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint a frontal abdominal radiograph from the lower ribs to the hips."""
    del modality
    body = pen.spline(
        (-0.86, -1.2), (-0.84, -0.5), (-0.80, 0.1), (-0.88, 0.6), (-0.94, 1.2), (0.94, 1.2), (0.88, 0.6), (0.80, 0.1),
        (0.84, -0.5), (0.86, -1.2),
    )  # fmt: skip
    canvas.fill(body, "fat")
    canvas.fill(body * np.array([0.9, 1.0]), "muscle")
    canvas.fill(
        pen.spline((-0.75, -0.9), (-0.2, -1.1), (0.0, -0.8), (-0.3, -0.4), (-0.65, -0.15), (-0.76, -0.4)), "heart"
    )
    for side in (-1, 1):
        canvas.fill(pen.spline((side * 0.1, -0.5), (side * 0.2, -0.2), (side * 0.42, 0.5), (side * 0.14, 0.4)), "blood")
    for name, kidney in _kidney_contours(pen, x=0.36, y=-0.25, rx=0.145, ry=0.25, tilt=0.22).items():
        canvas.fill(kidney, "kidney", name)
    for _ in range(9):
        x = pen.uniform(-0.6, 0.6)
        y = pen.uniform(0.12, 0.58) if abs(x) < 0.62 else pen.uniform(0.0, 0.4)
        canvas.fill(
            pen.blob(x, y, rx=pen.uniform(0.05, 0.12), ry=pen.uniform(0.04, 0.07), tilt=pen.uniform(0, 3), wobble=0.1),
            "gas",
        )
    canvas.fill(pen.blob(0.42, -0.78, rx=0.2, ry=0.09, tilt=0.3), "gas")
    for row in range(4):
        _rib_pair(canvas, y=-1.02 + row * 0.13, half_width=0.74 - 0.06 * row, density=26)
    for side in (-1, 1):
        wing = pen.spline(
            (side * 0.13, 0.42), (side * 0.35, 0.26), (side * 0.62, 0.22), (side * 0.76, 0.36), (side * 0.68, 0.56),
            (side * 0.56, 0.72), (side * 0.36, 0.72), (side * 0.22, 0.60),
        )  # fmt: skip
        canvas.bone(wing, 66)
        canvas.bone(scaled(wing, 0.88), 46)
        ring = np.array(
            [[side * 0.30, 0.64], [side * 0.36, 0.82], [side * 0.24, 0.92], [side * 0.05, 0.92], [side * 0.07, 1.0],
             [side * 0.28, 1.12], [side * 0.40, 0.96]]
        )  # fmt: skip
        canvas.bone_stroke(ring, 62, 0.085)
        canvas.bone(pen.blob(side * 0.50, 0.82, rx=0.115, ry=0.115, wobble=0.01), 78)
        canvas.bone(
            pen.spline(
                (side * 0.52, 0.88), (side * 0.62, 0.78), (side * 0.74, 0.90), (side * 0.72, 1.2), (side * 0.58, 1.2)
            ),
            72,
        )
    _vertebrae_frontal(canvas, pen, top=-1.0, bottom=0.45, width=0.115, density=50)
    for level in range(8):
        y = -0.9 + level * 0.165
        canvas.bone_stroke(np.array([[-0.2, y], [0.2, y]]), 34, 0.03)
    canvas.bone(pen.spline((-0.17, 0.42), (0.17, 0.42), (0.12, 0.66), (0.0, 0.86), (-0.12, 0.66)), 60)
    for side in (-1, 1):
        for y in (0.50, 0.58, 0.66):
            canvas.bone(pen.blob(side * 0.06, y, rx=0.014, ry=0.012), 38)


def head_lateral(canvas: Canvas, pen: Pen, modality: Modality) -> None:
    """Paint a lateral skull radiograph, facing left."""
    del modality
    outline = _face_outline(pen)
    canvas.fill(outline, "lung")
    canvas.fill(scaled(outline, 0.97), "fat")
    vault = pen.spline(
        (0.04, -0.80), (-0.34, -0.70), (-0.56, -0.40), (-0.58, -0.08), (-0.40, 0.10), (-0.10, 0.16), (0.10, 0.34),
        (0.34, 0.42), (0.56, 0.28), (0.68, 0.0), (0.70, -0.30), (0.54, -0.64), (0.30, -0.77), jitter=0.01,
    )  # fmt: skip
    canvas.label(scaled(vault, 0.93), "skull")
    canvas.bone(scaled(vault, 1.05), 105)
    canvas.bone(scaled(vault, 1.015), 75)
    canvas.bone(scaled(vault, 0.985), 95)
    canvas.bone(scaled(vault, 0.95), 42)
    for _ in range(4):
        start = np.array([-0.15, 0.05])
        canvas.bone_stroke(np.stack([start, [pen.uniform(-0.2, 0.1), -0.3], [pen.uniform(-0.2, 0.3), -0.6]]), 32, 0.014)
    face = pen.spline((-0.62, 0.0), (-0.30, 0.08), (-0.05, 0.18), (-0.12, 0.40), (-0.60, 0.42), (-0.62, 0.2))
    canvas.bone(face, 55)
    canvas.bone(pen.blob(-0.46, 0.06, rx=0.11, ry=0.09), 22)
    canvas.bone(pen.blob(-0.44, 0.24, rx=0.12, ry=0.07), 20)
    jaw = pen.spline(
        (-0.64, 0.52), (-0.62, 0.70), (-0.40, 0.70), (-0.10, 0.58), (0.02, 0.28), (-0.08, 0.26), (-0.18, 0.50)
    )
    canvas.bone(jaw, 78)
    canvas.bone(scaled(jaw, 0.8), 60)
    for tooth in range(6):
        x = -0.62 + 0.07 * tooth
        canvas.bone(pen.blob(x, 0.44, rx=0.026, ry=0.045), 110)
        canvas.bone(pen.blob(x + 0.01, 0.54, rx=0.024, ry=0.04), 105)
    canvas.bone(pen.spline((-0.05, 0.10), (0.14, 0.08), (0.26, 0.22), (0.12, 0.32), (0.0, 0.24)), 115)
    canvas.bone_stroke(
        np.array([[-0.50, -0.02], [-0.25, 0.04], [-0.14, 0.07], [-0.10, 0.02], [-0.04, 0.08]]), 110, 0.03
    )
    for level in range(5):
        y = 0.48 + 0.15 * level
        x = 0.12 + 0.02 * level
        vertebra = pen.spline(
            (x - 0.09, y - 0.05), (x + 0.08, y - 0.05), (x + 0.08, y + 0.06), (x - 0.09, y + 0.06), jitter=0.006
        )
        canvas.bone(vertebra, 70)
        canvas.bone(scaled(vertebra, 0.8), 56)
        canvas.bone(pen.blob(x + 0.22, y + 0.03, rx=0.13, ry=0.035, tilt=0.3), 58)


class View(NamedTuple):
    """One kind of image: how it is made and what can be said of it."""

    modality: Modality
    body_part: Literal["Chest", "Abdomen", "Head"]
    plane: Literal["Axial", "Coronal", "Sagittal", "Frontal", "Lateral"]
    paint: Callable[[Canvas, Pen, Modality], None]
    hosts: tuple[str, ...]
    """Organs that may carry lesions."""
    uncertain: tuple[str, ...]
    """Organs of which nothing is asked: partly in the picture, or not told apart."""

    @property
    def sided(self) -> bool:
        """Whether left and right can be told apart."""
        return self.plane not in ("Sagittal", "Lateral")


_LUNGS = ("right lung", "left lung")
_KIDNEYS = ("right kidney", "left kidney")
_HEMISPHERES = ("right hemisphere", "left hemisphere")
_BELLY = ("liver", "spleen", *_KIDNEYS)
_UNSEEN_CHEST = ("liver", "gallbladder", "spleen", "stomach", *_KIDNEYS)

_CHEST_XR = View("X-Ray", "Chest", "Frontal", chest_frontal, _LUNGS, _UNSEEN_CHEST)
_ABDOMEN_XR = View(
    "X-Ray",
    "Abdomen",
    "Frontal",
    abdomen_frontal,
    _KIDNEYS,
    ("liver", "gallbladder", "spleen", "stomach", "bladder", *_LUNGS),
)
_HEAD_XR = View(
    "X-Ray",
    "Head",
    "Lateral",
    head_lateral,
    ("skull",),
    (*_HEMISPHERES, "cerebrum", "cerebellum", "ventricles", "brainstem"),
)


def _slice(modality: Literal["CT", "MRI"], name: str) -> View:
    """The view of one slice, by its painter's name."""
    painter, part, plane, hosts, uncertain = _SLICES[name]
    return View(modality, part, plane, painter, hosts, uncertain)


_SLICES: Mapping[
    str,
    tuple[
        Callable[[Canvas, Pen, Modality], None],
        Literal["Chest", "Abdomen", "Head"],
        Literal["Axial", "Coronal", "Sagittal"],
        tuple[str, ...],
        tuple[str, ...],
    ],
] = {
    "chest_axial": (chest_axial, "Chest", "Axial", _LUNGS, ()),
    "chest_coronal": (chest_coronal, "Chest", "Coronal", (*_LUNGS, "liver"), ("spleen", "gallbladder", *_KIDNEYS)),
    "abdomen_axial": (abdomen_axial, "Abdomen", "Axial", _BELLY, ()),
    "abdomen_coronal": (abdomen_coronal, "Abdomen", "Coronal", _BELLY, _LUNGS),
    "head_axial": (head_axial, "Head", "Axial", _HEMISPHERES, ("cerebellum",)),
    "head_coronal": (head_coronal, "Head", "Coronal", _HEMISPHERES, ()),
    "head_sagittal": (head_sagittal, "Head", "Sagittal", ("cerebrum", "cerebellum"), ()),
}

VIEWS: tuple[View, ...] = (
    *[_CHEST_XR] * 4,
    *[_ABDOMEN_XR] * 2,
    *[_HEAD_XR] * 2,
    *[_slice("CT", "chest_axial")] * 2,
    _slice("CT", "chest_coronal"),
    *[_slice("CT", "abdomen_axial")] * 2,
    _slice("CT", "abdomen_coronal"),
    _slice("CT", "head_axial"),
    _slice("CT", "head_sagittal"),
    _slice("MRI", "chest_axial"),
    _slice("MRI", "abdomen_axial"),
    _slice("MRI", "abdomen_coronal"),
    *[_slice("MRI", "head_axial")] * 2,
    _slice("MRI", "head_coronal"),
    *[_slice("MRI", "head_sagittal")] * 2,
)
"""One block of views: eight per modality. Each block of as many images holds every entry once, in random order."""
