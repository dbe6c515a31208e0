"""The figure of a mixture: what each source should get and what it got, its loss, rows and passes, as PNG bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from radvqa.report.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, STYLE, new_figure, png_of

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#56b4e9", "#e69f00", GREY)
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (1.5, 1), (6, 1.5, 1.5, 1.5), (3, 3), (8, 2), (1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """What an update drew from one source, as the training log has it.

    ``weight`` is the planned share; ``loss`` the mean over its questions, None without any; ``seen`` and ``epoch`` are
    its rows and passes up to this update.
    """

    weight: float
    rows: int
    questions: int
    loss: float | None
    seen: int
    epoch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureUpdate:
    """One line of ``train/<stage>/metrics.jsonl``, of which the figure needs the sources."""

    update: int
    sources: Mapping[str, SourceRecord] = field(default_factory=dict)


def is_mixed(lines: Sequence[MixtureUpdate]) -> bool:
    """Whether there is a mixture to draw: updates of more than one source."""
    return bool(lines) and len(lines[0].sources) > 1


def mixture_figure(lines: Sequence[MixtureUpdate], *, title: str) -> bytes:
    """A PNG of four panels over the updates: planned and seen share, loss, rows so far and passes so far by source.

    Seen share and loss are means over a centred window that the titles state. A band shows where 95 % of the seen
    shares lie when every row is drawn by the planned share (normal approximation of the binomial).

    Raises:
        ValueError: the lines have fewer than two sources.
    """
    if not is_mixed(lines):
        raise ValueError("no mixture to draw")
    steps = np.array([line.update for line in lines])
    names = list(lines[0].sources)
    window = max(1, len(lines) // 20) | 1  # odd, so that the mean is centred
    over = f", mean of {window} updates" if window > 1 else ""
    with rc_context(STYLE):
        figure = new_figure(9.2, 5.6)
        figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
        panels = figure.subplots(2, 2, sharex=True)
        (share_axes, loss_axes), (rows_axes, passes_axes) = panels
        rows = _column(lines, names, lambda one: one.rows)
        questions = _column(lines, names, lambda one: one.questions)
        losses = _column(lines, names, lambda one: one.loss or 0.0)  # none only without questions
        _draw_shares(share_axes, steps, _column(lines, names, lambda one: one.weight), rows, window)
        share_axes.set_title(f"Share of the rows in %{over}")
        _draw_lines(loss_axes, steps, _ratio(_moving_sum(losses * questions, window), _moving_sum(questions, window)))
        loss_axes.set_title(f"Training loss{over}")
        _draw_lines(rows_axes, steps, _column(lines, names, lambda one: one.seen))
        rows_axes.set_title("Rows seen")
        rows_axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        _draw_lines(passes_axes, steps, _column(lines, names, lambda one: one.epoch))
        passes_axes.set_title("Passes over the source")
        share_axes.set_ylim(-2, 102)
        for axes in (loss_axes, rows_axes, passes_axes):
            axes.set_ylim(bottom=0)
        for axes in panels.flat:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (rows_axes, passes_axes):
            axes.set_xlabel("Update")
        keys = [Line2D([], [], label=_label(name, lines[-1]), **_line(place)) for place, name in enumerate(names)]
        figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 3), fontsize=9, handlelength=3)
        return png_of(figure)


def _draw_shares(
    axes: Axes,
    steps: npt.NDArray[np.int_],
    planned: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float64],
    window: int,
) -> None:
    drawn = rows.sum(axis=1, keepdims=True)
    together = _moving_sum(drawn, window)
    seen = _ratio(_moving_sum(rows, window), together)
    expected = _ratio(_moving_sum(planned * drawn, window), together)
    spread = 1.96 * np.sqrt(_ratio(_moving_sum(planned * (1 - planned) * drawn, window), together**2))
    for place in range(planned.shape[1]):
        low, high = ((expected + sign * spread)[:, place] for sign in (-1, 1))
        axes.fill_between(
            steps, 100 * low.clip(0), 100 * high.clip(max=1), color=_line(place)["color"], alpha=0.18, linewidth=0
        )
    _draw_lines(axes, steps, 100 * seen)
    axes.plot(steps, 100 * planned, color=INK, linewidth=0.9)
    keys = [
        Line2D([], [], color=INK, linewidth=0.9, label="planned"),
        Patch(color=GREY, alpha=0.3, label="95 % by chance"),
    ]
    axes.legend(handles=keys, fontsize=8.5)


def _draw_lines(axes: Axes, steps: npt.NDArray[np.int_], values: npt.NDArray[np.float64]) -> None:
    marker = "o" if len(steps) < 20 else ""  # a single update would draw no line
    for place, column in enumerate(values.T):
        axes.plot(steps, column, marker=marker, markersize=3, **_line(place))


def _line(place: int) -> dict[str, Any]:
    """Colour and dashes of a source, which differ together so that a grey print can be read."""
    dashes = _DASHES[place % len(_DASHES)]
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": (0, dashes) if dashes else "-", "linewidth": 1.6}


def _label(name: str, last: MixtureUpdate) -> str:
    source = last.sources[name]
    return f"{name}: {source.seen:,} rows, {source.epoch:.2g} passes"


def _column(
    lines: Sequence[MixtureUpdate], names: Sequence[str], of: Callable[[SourceRecord], float]
) -> npt.NDArray[np.float64]:
    """A number of every source at every update, updates × sources."""
    return np.array([[of(line.sources[name]) for name in names] for line in lines], dtype=np.float64)


def _moving_sum(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """The sum over a centred odd window along the first axis; near the ends over the values there are."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    places = np.arange(len(values))
    first = np.maximum(places - window // 2, 0)
    last = np.minimum(places + window // 2 + 1, len(values))
    moving: npt.NDArray[np.float64] = sums[last] - sums[first]
    return moving


def _ratio(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """NaN, which leaves a gap, where the count is 0."""
    ratio = np.full(np.broadcast_shapes(sums.shape, counts.shape), np.nan)
    np.divide(sums, counts, out=ratio, where=counts > 0)
    return ratio
