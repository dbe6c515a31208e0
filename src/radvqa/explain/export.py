"""One case as a file of its own: PNG panel, SVG, or HTML page. All say that they are for research only."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.ndimage import binary_dilation
from skimage.feature import canny

from radvqa.errors import RecipeError, RunError
from radvqa.explain.bundle import MapFacts, Token, View
from radvqa.explain.bundle_files import Bundle
from radvqa.explain.overlay import COLORMAP, DISCLAIMER, save_panel, strength
from radvqa.html import data_uri, page_environment
from radvqa.records import write_text

NOT_AN_EXPLANATION = "The maps show where attention or sensitivity lies, not why the model answered so."

_VIEW_NAMES: Mapping[str, str] = {
    "model": "The model's answer",
    "reference": "The reference answer",
    "typed": "A typed answer",
}
_OVERLAY_ALPHA = 0.75
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BIDIRECTIONAL = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMap:
    """A map of a bundle, as ``radvqa.explain.overlay`` draws it; negative cells are left blank."""

    grid: Float[np.ndarray, "r c"]
    method: str
    target: str
    image_mass: float
    sink_mass: float
    self_mass: float
    entropy: float
    specificity: float
    grid_specificity: float


def stored_map(bundle: Bundle, view: str, method: str, *, token: int | None = None) -> StoredMap:
    """The map of one answer token, or of the whole answer.

    Raises:
        RunError: the bundle has no such view, method or token, or is damaged.
    """
    shown = _view(bundle, view)
    record = next((one for one in shown.maps if one.method == method), None)
    if record is None or (token is not None and not 0 <= token < len(record.tokens)):
        raise RunError(
            "the case has no such map",
            where=f"{bundle.folder}, {view}",
            expected=", ".join(one.method for one in shown.maps),
            got=method if token is None else f"{method}, answer token {token}",
            fix="explain the case again with this method",
        )
    facts = record.answer if token is None else record.tokens[token]
    grid = bundle.array(f"{view}/maps/{method}")[-1 if token is None else token]
    answered = [one for one in shown.tokens if one.part == "answer"]
    return StoredMap(
        grid=np.maximum(grid.astype(np.float64), 0.0),
        method=method,
        target=shown.text if token is None else answered[token].text.strip(),
        image_mass=_or_nan(facts.image_mass),
        sink_mass=_or_nan(facts.sink_mass),
        self_mass=_or_nan(facts.self_mass),
        entropy=_or_nan(facts.entropy),
        specificity=_or_nan(facts.specificity),
        grid_specificity=_or_nan(facts.grid_specificity),
    )


def write_panel(
    bundle: Bundle,
    path: Path,
    *,
    methods: Mapping[str, str] | None = None,
    token: int | None = None,
    contours: bool = False,
) -> None:
    """The panel of a case as PNG.

    Args:
        bundle: a case with a view of the model's own answer, or of another one.
        path: the file.
        methods: heading → method; all methods of the case unless given.
        token: of which answer token; of the whole answer unless given.
        contours: draw the picture's contours in its place, where its terms do not allow passing it on.

    Raises:
        RunError: the bundle has no such map or is damaged, or the file cannot be written.
    """
    manifest = bundle.manifest
    name = next(iter(manifest.views))
    view = manifest.views[name]
    headings = methods if methods is not None else {record.method: record.method for record in view.maps}
    picture = manifest.picture
    whole = (0.0, 0.0, float(picture.width), float(picture.height))
    what = "the whole answer" if token is None else "the first answer token" if token == 0 else f"token {token + 1}"
    verdict = "" if view.correct is None else f"{'right' if view.correct else 'wrong'}; "
    save_panel(
        path,
        line_drawing(bundle.pixels) if contours else Image.fromarray(bundle.pixels),
        maps={heading: stored_map(bundle, name, method, token=token) for heading, method in headings.items()},
        title=_one_line(manifest.question),
        caption=f"{'model' if name == 'model' else 'answer'}: {_one_line(view.text)}   "
        f"reference: {_one_line(manifest.references[0]) if manifest.references else 'none'}   "
        f"({verdict}maps of {what}, {_one_line(manifest.sample_id)})",
        outlines=[one for one in manifest.outlines if one.asked],
        frame=picture.frame if picture.frame != whole else None,
    )


def case_svg(bundle: Bundle) -> str:
    """The case as one SVG: pictures inside, maps and outlines as layers that can be taken apart."""
    return _clean(_environment().get_template("case.svg").render(_contents(bundle)))


def case_html(bundle: Bundle) -> str:
    """The case as one page that loads nothing from elsewhere and runs no script."""
    return _clean(_environment().get_template("case.html").render(_contents(bundle)))


def line_drawing(pixels: UInt8[np.ndarray, "y x *c"]) -> Image.Image:
    """The contours of a picture (Canny), gray on black: enough to see where a map lies, and no picture any more."""
    gray = pixels if pixels.ndim == 2 else pixels[..., :3].mean(axis=-1)
    # By quantiles, so that a soft radiograph has contours as well.
    edges = canny(
        gray / 255.0, sigma=min(gray.shape) / 90.0, low_threshold=0.85, high_threshold=0.93, use_quantiles=True
    )
    return Image.fromarray(
        np.where(binary_dilation(edges, iterations=max(1, min(gray.shape) // 400)), 120, 8).astype(np.uint8)
    )


def export_case(bundle: Bundle, path: Path, *, methods: Sequence[str] = (), contours: bool = False) -> None:
    """Write a case as PNG, SVG or HTML, as the file's suffix says.

    Args:
        bundle: the case.
        path: the file.
        methods: of a PNG, the methods to draw; all of the case if empty.
        contours: of a PNG, the picture's contours in place of the picture.

    Raises:
        RecipeError: another suffix, or something asked of it that it cannot do.
        RunError: the bundle is damaged, or the file cannot be written.
    """
    chosen = {name: name for name in methods} or None
    writers: Mapping[str, Callable[[], None]] = {
        ".png": lambda: write_panel(bundle, path, methods=chosen, contours=contours),
        ".svg": lambda: write_text(path, case_svg(bundle)),
        ".html": lambda: write_text(path, case_html(bundle)),
    }
    if path.suffix.lower() not in writers:
        raise RecipeError(
            "a case cannot be exported to this kind of file",
            where="--to",
            expected=", ".join(writers),
            got=path.name,
            fix="give the file one of these endings",
        )
    if path.suffix.lower() != ".png" and (contours or methods):
        raise RecipeError(
            "only a PNG can be drawn without its picture, or with some of the methods",
            where="--to",
            expected="a file that ends in .png",
            got=path.name,
        )
    writers[path.suffix.lower()]()


def _environment() -> Any:
    environment = page_environment("explain")
    environment.filters["fact"] = _fact
    environment.filters["share"] = lambda value: "–" if value is None else f"{100 * value:.1f} %"
    return environment


def _contents(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    views = []
    for name, view in manifest.views.items():
        tiles = [
            {
                "method": record.method,
                "uri": _overlay_uri(bundle.array(f"{name}/maps/{record.method}")[-1]),
                "facts": record.answer,
                "lines": _fact_lines(record.answer),
            }
            for record in view.maps
        ]
        answered = [token for token in view.tokens if token.part == "answer"]
        views.append(
            {
                "heading": _VIEW_NAMES[name],
                "view": view,
                "tiles": tiles,
                "words": _words(answered),
                "rows": -(-(1 + len(tiles)) // 4),
            }
        )
    return {
        "manifest": manifest,
        "picture": manifest.picture,
        "picture_uri": data_uri(bundle.picture, "image/png"),
        "views": views,
        "outlines": manifest.outlines,
        "disclaimer": DISCLAIMER,
        "meaning": NOT_AN_EXPLANATION,
        "unit": max(manifest.picture.width, manifest.picture.height) / 100.0,
    }


def _words(tokens: list[Token]) -> list[dict[str, Any]]:
    """The answer word by word, with the sum of what its tokens rely on the image."""
    words: list[dict[str, Any]] = []
    last = None
    for token in tokens:
        if token.word != last:
            words.append({"text": "", "reliance": 0.0})
        last = token.word
        words[-1]["text"] += token.text
        words[-1]["reliance"] += token.reliance or 0.0
    for word in words:
        word["strength"] = round(min(max(word["reliance"], 0.0) / 3.0, 1.0), 3)
    return words


def _overlay_uri(grid: Float[np.ndarray, "r c"]) -> str:
    value = strength(np.maximum(grid.astype(np.float64), 0.0))
    colour = matplotlib.colormaps[COLORMAP](value)
    colour[..., 3] = _OVERLAY_ALPHA * value
    buffer = io.BytesIO()
    Image.fromarray(np.rint(colour * 255.0).astype(np.uint8)).save(buffer, format="PNG")
    return data_uri(buffer.getvalue(), "image/png")


def _fact_lines(facts: MapFacts) -> list[str]:
    """What is known of a map, in a few short lines."""
    named = [("image mass", facts.image_mass), ("largest text position", facts.sink_mass)]
    lines = [f"{name} {100 * value:.1f} %" for name, value in named if value is not None]
    lines += [f"specificity {facts.specificity:.3f}"] if facts.specificity is not None else []
    lines += [f"enrichment on the region asked about {facts.enrichment:.2f}"] if facts.enrichment is not None else []
    return lines


def _fact(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _view(bundle: Bundle, name: str) -> View:
    if name not in bundle.manifest.views:
        raise RunError(
            "the case has no such view",
            where=str(bundle.folder),
            expected=", ".join(bundle.manifest.views),
            got=name,
            fix="explain the case again",
        )
    return bundle.manifest.views[name]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _one_line(text: str) -> str:
    return " ".join(_clean(text).split())


def _clean(text: str) -> str:
    """Without characters that XML does not allow, and without those that turn the direction of what follows."""
    return _BIDIRECTIONAL.sub("", _NOT_IN_XML.sub("\ufffd", text))
