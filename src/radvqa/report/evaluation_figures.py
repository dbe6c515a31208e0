"""Figures of an evaluation: slices with intervals, reliability and risk-coverage, as PNG bytes."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from radvqa.report.figures import BLUE, GREY, INK, ORANGE, STYLE, Bar, new_figure, png_of
from radvqa.report.scores import Calibration

MOST_ROWS = 60
_MARKS = ((BLUE, "o", 6.0), (GREY, "D", 4.5), (ORANGE, "s", 4.5))


class SliceRow(NamedTuple):
    """One row of the slice figure: its name, how many questions, and the score of each condition."""

    heading: str
    value: str
    samples: int
    scores: Mapping[str, Bar]


def slice_figure(rows: Sequence[SliceRow], *, level: float) -> bytes:
    """A PNG: accuracy in percent with intervals, a row for each slice, at most ``MOST_ROWS`` of them.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no slices to draw")
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    places, labels, headings, place, last = [], [], [], 0.0, None
    for row in rows[:MOST_ROWS]:
        if row.heading != last:
            place += 0.9 if last is not None else 0.0
            headings.append((place, row.heading))
            place, last = place + 0.9, row.heading
        places.append(place)
        labels.append(f"{_short(row.value)}  ({row.samples:,})")
        place += 1
    with rc_context(STYLE):
        figure = new_figure(9.2, 1.0 + 0.26 * place)
        axes = figure.subplots()
        handles: dict[str, Artist] = {}
        for number, name in enumerate(names):
            color, marker, size = _MARKS[number % len(_MARKS)]
            shift = 0.26 * (number - (len(names) - 1) / 2)
            for row, at in zip(rows, places, strict=False):
                score = row.scores.get(name, Bar(None, None, None))
                if score.mean is None:
                    continue
                if score.low is not None and score.high is not None:
                    axes.plot([100 * score.low, 100 * score.high], [at + shift] * 2, color=color, linewidth=1.5)
                (handles[name],) = axes.plot([100 * score.mean], [at + shift], marker, color=color, markersize=size,
                                             linestyle="none")  # fmt: skip
        for at, heading in headings:
            axes.text(-0.01, at, heading, transform=axes.get_yaxis_transform(), ha="right", va="center", weight="bold",
                      fontsize=9.5)  # fmt: skip
        axes.set_yticks(places, labels)
        axes.set_ylim(place - 0.4, -0.6)
        axes.set_xlim(-2, 102)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"Accuracy in %, {100 * level:g} % interval; in brackets the questions")
        if len(handles) > 1:
            figure.legend(list(handles.values()), list(handles), loc="outside upper right", ncols=3, fontsize=9)
        return png_of(figure)


def calibration_figure(calibration: Calibration) -> bytes:
    """A PNG of two panels: accuracy over confidence, and error rate over the share of answers kept."""
    with rc_context(STYLE):
        figure = new_figure(9.2, 3.8)
        reliability, risk = figure.subplots(1, 2)
        _draw_reliability(reliability, calibration)
        _draw_risk(risk, calibration)
        return png_of(figure)


def _draw_reliability(axes: Axes, calibration: Calibration) -> None:
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="perfect")
    most = max((one.samples for one in calibration.bins), default=1)
    axes.plot([100 * one.confidence for one in calibration.bins], [100 * one.accuracy for one in calibration.bins],
              color=BLUE, linewidth=1)  # fmt: skip
    axes.scatter(
        [100 * one.confidence for one in calibration.bins],
        [100 * one.accuracy for one in calibration.bins],
        s=[20 + 50 * math.sqrt(one.samples / most) for one in calibration.bins],
        color=BLUE,
        label="answers of like confidence",
        zorder=3,
    )
    axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="Confidence in %", ylabel="Accuracy in %", title="Reliability")
    axes.legend(fontsize=8.5, loc="upper left")


def _draw_risk(axes: Axes, calibration: Calibration) -> None:
    coverage, risks = [[100 * one[side] for one in calibration.curve] for side in (0, 1)]
    axes.plot(coverage, risks, color=BLUE, linewidth=1.8, label="this confidence")
    axes.axhline(100 * calibration.aurc_random, color=ORANGE, linestyle="--", linewidth=1.2, label="no knowledge")
    right = 1 - calibration.aurc_random
    best = [(0.0, 0.0), *((c / 100, max(0.0, 1 - right * 100 / c)) for c in range(1, 101))]
    axes.plot([100 * c for c, _ in best], [100 * r for _, r in best], color=INK, linestyle=":", linewidth=1.2,
              label="best possible")  # fmt: skip
    axes.set(xlim=(0, 102), xlabel="Most confident answers kept, in %", ylabel="Errors among them in %")
    highest = max(*risks, 100 * calibration.aurc_random, 1.0)
    if highest > 60:
        axes.set_yticks(range(0, 101, 20))  # the room above is for the legend: there is no share above 100
    axes.set_ylim(0, 1.45 * highest)
    axes.set_title("Risk and coverage")
    axes.legend(fontsize=8.5, loc="upper left")


def _short(text: str) -> str:
    return text if len(text) <= 34 else text[:33] + "…"
