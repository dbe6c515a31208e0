"""Figures of the report: the bars of all conditions and the learning curves, as PNG bytes.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which stay apart with colour-vision deficiency; line
styles, markers and hatches differ as well, so that a grey print can be read. The same numbers give the same bytes.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c8c8c", "#1a1a1a"

_DPI = 160
_BAR_STYLES: tuple[tuple[str, str], ...] = (
    (BLUE, ""),
    ("#56b4e9", "//"),
    ("#e69f00", ".."),
    (GREY, ""),
    (ORANGE, "xx"),
    (GREEN, "\\\\"),
    (PURPLE, "--"),
)
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#6b7280",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "hatch.color": "white",
    "hatch.linewidth": 0.9,
    "legend.frameon": False,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "text.parse_math": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One line of ``train/<stage>/metrics.jsonl``: an optimiser update. ``seconds`` is its duration."""

    update: int
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None = None
    questions: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One line of ``train/<stage>/watch.jsonl``: accuracy (0 to 1) on a few validation images during training."""

    update: int
    condition: Literal["real", "blank"]
    overall: float | None
    questions: int
    content_type: Mapping[str, float | None] = field(default_factory=dict)


class Bar(NamedTuple):
    """A score from 0 to 1 with its interval; None where undefined."""

    mean: float | None
    low: float | None
    high: float | None


def condition_bars(bars: Mapping[str, Mapping[str, Bar]], *, level: float) -> bytes:
    """A PNG of grouped bars in percent with error bars.

    ``bars``: condition → group → score, e.g. ``{"Model": {"overall": ..., "closed": ...}}``. A score
    that is missing or undefined leaves a gap marked "n/a".

    Raises:
        ValueError: there are no conditions.
    """
    if not bars:
        raise ValueError("no conditions to draw")
    groups = list(dict.fromkeys(group for by_group in bars.values() for group in by_group))
    with rc_context(STYLE):
        figure = new_figure(9.2, 3.9)
        axes = figure.subplots()
        width = 0.84 / len(bars)
        for number, (condition, by_group) in enumerate(bars.items()):
            color, hatch = _BAR_STYLES[number % len(_BAR_STYLES)]
            positions = np.arange(len(groups)) + (number - (len(bars) - 1) / 2) * width
            scores = [by_group.get(group, Bar(None, None, None)) for group in groups]
            heights = [100 * _defined(score.mean) for score in scores]
            axes.bar(positions, np.nan_to_num(heights), width * 0.9, color=color, hatch=hatch, label=condition)
            for x, height, score in zip(positions, heights, scores, strict=True):
                _annotate_bar(axes, float(x), height, score)
        axes.set_xticks(range(len(groups)), groups, fontsize=10.5)
        axes.grid(visible=False, axis="x")
        axes.set_ylim(0, 108)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel(f"Accuracy in %, {100 * level:g} % interval")
        figure.legend(loc="outside upper center", ncols=min(len(bars), 5), fontsize=9, handlelength=1.4)
        return png_of(figure)


def learning_curves(updates: Sequence[Update], watch: Sequence[Watch], *, title: str) -> bytes:
    """A PNG of four panels over the updates: loss (raw and smoothed), watched accuracy, learning rate, gradient norm.

    Smoothing is a centred mean whose window is stated in the legend; near the ends it covers the updates there are.

    Raises:
        ValueError: there are no updates.
    """
    if not updates:
        raise ValueError("no updates to draw")
    steps = np.array([update.update for update in updates])
    with rc_context(STYLE):
        figure = new_figure(9.2, 5.2)
        figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
        (loss_axes, watch_axes), (rate_axes, norm_axes) = figure.subplots(2, 2, sharex=True)
        _draw_loss(loss_axes, steps, _values(update.loss for update in updates))
        _draw_watch(watch_axes, watch)
        rate_axes.plot(steps, _values(update.learning_rate for update in updates), color=BLUE)
        rate_axes.set_title("Learning rate")
        rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        norms = _values(update.grad_norm for update in updates)
        norm_axes.plot(steps, norms, color=PURPLE, linewidth=0.8)
        norm_axes.set_title("Gradient norm" if np.isfinite(norms).any() else "Gradient norm: no data")
        for axes in (rate_axes, norm_axes):
            axes.set_xlabel("Update")
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return png_of(figure)


def smoothed(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """The centred mean over ``window`` values, shape kept; near the ends over those that exist; NaN are left out."""
    known = np.isfinite(values)
    kernel = np.ones(min(window, values.size))
    counts = np.convolve(known.astype(np.float64), kernel, mode="same")
    sums = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)


def _draw_loss(axes: Axes, steps: npt.NDArray[np.int_], losses: npt.NDArray[np.float64]) -> None:
    window = max(1, losses.size // 20) | 1  # odd, so that the mean is centred
    if window > 1:
        axes.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=0.8, label="each update")
        axes.plot(steps, smoothed(losses, window), color=BLUE, linewidth=1.8, label=f"mean of {window} updates")
    else:
        axes.plot(steps, losses, color=BLUE, marker="o", markersize=3, label="each update")
    axes.set_ylim(bottom=0)
    axes.set_title("Training loss")
    axes.legend(fontsize=8.5)


def _draw_watch(axes: Axes, watch: Sequence[Watch]) -> None:
    axes.set_ylim(0, 100)
    if not watch:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "Accuracy was not watched\nin this stage.", ha="center", va="center", color="#4b5563",
                  transform=axes.transAxes)  # fmt: skip
        return
    conditions = (("real", BLUE, "o-", "real images"), ("blank", ORANGE, "s--", "blank images"))
    for condition, color, style, label in conditions:
        points = sorted(
            (point.update, 100 * _defined(point.overall)) for point in watch if point.condition == condition
        )
        if points:
            axes.plot(*zip(*points, strict=True), style, color=color, markersize=4, label=label)
    questions = sorted({point.questions for point in watch})
    asked = f"{questions[0]}" if len(questions) == 1 else f"{questions[0]} to {questions[-1]}"
    axes.set_title(f"Watched accuracy in % ({asked} validation questions)")
    axes.legend(fontsize=8.5)


def _annotate_bar(axes: Axes, x: float, height: float, score: Bar) -> None:
    if math.isnan(height):
        axes.text(x, 1.5, "n/a", ha="center", fontsize=8, color="#4b5563")
        return
    top = height
    if score.low is not None and score.high is not None:
        low, top = 100 * score.low, 100 * score.high
        # Limits are drawn as they are: an exact limit at 0 or 1 does not lie around the mean.
        axes.errorbar(x, height, yerr=[[max(height - low, 0.0)], [max(top - height, 0.0)]],
                      fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)  # fmt: skip
    axes.text(x, max(top, height) + 1.2, f"{height:.0f}", ha="center", va="bottom", fontsize=8)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), facecolor="white", layout=engine)
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Figure) -> bytes:
    """The figure as PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _values(numbers: Any) -> npt.NDArray[np.float64]:
    return np.array([_defined(number) for number in numbers], dtype=np.float64)


def _defined(number: float | None) -> float:
    return math.nan if number is None else number
