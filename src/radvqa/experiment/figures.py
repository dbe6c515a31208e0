"""Figures of an experiment as PNG bytes: effects, the curve over the trend, and how the runs learned."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes

from radvqa.experiment.estimates import Effect, Level
from radvqa.experiment.measured import PARTS
from radvqa.report.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, STYLE, new_figure, png_of, smoothed

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#e69f00", "#56b4e9", INK, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
MARKS = (
    "Filled: shown after adjustment, blue for the recipe, orange for these trained models only; hollow: no claim.\n"
    "Thick line: 95 % limits over images and seeds (one seed: images alone); thin: images alone; ticks: seeds."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one run learned, over the updates of all its stages: (update, loss), and (update, watched accuracy)."""

    cell: str
    seed: int
    losses: Sequence[tuple[int, float]]
    watched: Sequence[tuple[int, float]]


def effect_figure(effects: Sequence[Effect], *, title: str, margin: float | None) -> bytes:
    """A PNG of effects in points with their 95 % limits, a row per cell and a panel per part.

    Filled marks are effects that are shown after adjustment: blue ones for the recipe, orange ones for these trained
    models only. Thin lines over images alone, thick ones over images and seeds; the band is the margin.

    Raises:
        ValueError: there are no effects.
    """
    if not effects:
        raise ValueError("no effects to draw")
    cells = list(dict.fromkeys(one.cell for one in effects))
    parts = [part for part in PARTS if any(one.part == part for one in effects)]
    with rc_context(STYLE):
        figure = new_figure(3.1 * len(parts) + 1.2, 2.1 + 0.45 * len(cells))
        panels = np.atleast_1d(np.asarray(figure.subplots(1, len(parts), sharex=True, sharey=True), dtype=object))
        figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
        for axes, part in zip(panels, parts, strict=True):
            axes.axvline(0, color=INK, linewidth=1)
            if margin is not None:
                axes.axvspan(-100 * margin, 100 * margin, color=GREY, alpha=0.15, linewidth=0)
            for one in effects:
                if one.part == part:
                    _draw_effect(axes, cells.index(one.cell), one)
            axes.set_title(part)
            axes.set_xlabel("Points of accuracy")
            axes.grid(visible=False, axis="y")
        figure.supxlabel(MARKS, fontsize=8)
        panels[0].set_yticks(range(len(cells)), cells)
        panels[0].set_ylim(len(cells) - 0.5, -0.5)
        return png_of(figure)


def trend_figure(levels: Sequence[Level], at: Mapping[str, float], *, label: str) -> bytes:
    """A PNG of accuracy in percent over the number that the cells differ in, with 95 % limits and each seed's value.

    Raises:
        ValueError: no cell has a number.
    """
    drawn = [one for one in levels if one.cell in at]
    if not drawn:
        raise ValueError("no cell has a number to draw it at")
    with rc_context(STYLE):
        figure = new_figure(7.2, 4.2)
        axes = figure.subplots()
        spread = np.ptp(list(at.values())) or 1.0
        for number, part in enumerate(part for part in PARTS if any(one.part == part for one in drawn)):
            points = sorted((at[one.cell] + (number - 1) * 0.008 * spread, one) for one in drawn if one.part == part)
            color, marker = COLOURS[number], MARKERS[number]
            x = [place for place, _ in points]
            axes.plot(x, [100 * one.mean for _, one in points], LINES[number], marker=marker, color=color, label=part)
            for place, one in points:
                if math.isfinite(one.low):
                    axes.vlines(place, 100 * one.low, 100 * one.high, color=color, linewidth=1.1)
                seeds = [100 * value for value in one.by_seed.values()]
                axes.plot([place] * len(seeds), seeds, marker="_", linestyle="", color=color, markersize=9)
        axes.set_xlabel(label)
        axes.set_ylabel("Accuracy in %, 95 % limits; dashes are seeds")
        axes.legend(fontsize=8.5)
        return png_of(figure)


def learning_figure(courses: Sequence[Course]) -> bytes:
    """A PNG of training loss and of watched accuracy over updates, a colour per cell and a line style per seed.

    Raises:
        ValueError: there are no courses.
    """
    if not courses:
        raise ValueError("no courses to draw")
    cells = list(dict.fromkeys(one.cell for one in courses))
    seeds = list(dict.fromkeys(one.seed for one in courses))
    with rc_context(STYLE):
        figure = new_figure(9.6, 4.0)
        loss_axes, watch_axes = figure.subplots(1, 2)
        for one in courses:
            number = cells.index(one.cell)
            color, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            line = LINES[seeds.index(one.seed) % len(LINES)]
            label = (
                one.cell
                if one.seed == seeds[0] or one.cell not in [c.cell for c in courses if c.seed == seeds[0]]
                else None
            )
            if one.losses:
                steps, losses = zip(*one.losses, strict=True)
                window = max(1, len(losses) // 10) | 1
                loss_axes.plot(steps, smoothed(np.array(losses), window), line, color=color, linewidth=1.3, label=label)
            if one.watched:
                steps, scores = zip(*one.watched, strict=True)
                watch_axes.plot(
                    steps,
                    [100 * score for score in scores],
                    line,
                    color=color,
                    marker=marker,
                    markersize=4,
                    label=label,
                )
        loss_axes.set_title("Training loss, smoothed")
        watch_axes.set_title("Watched exact match in %")
        for axes in (loss_axes, watch_axes):
            axes.set_xlabel("Update, all stages")
            axes.set_ylim(bottom=0)
        handles, labels = loss_axes.get_legend_handles_labels()
        if not handles:
            handles, labels = watch_axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(max(len(labels), 1), 6), fontsize=8.5)
        return png_of(figure)


def _draw_effect(axes: Axes, row: int, one: Effect) -> None:
    images, widest = one.for_these_models, one.for_the_recipe or one.for_these_models
    color = GREY if not one.shown else BLUE if one.about_the_recipe else ORANGE
    if one.for_the_recipe is not None and math.isfinite(images.low):
        axes.hlines(row + 0.16, 100 * images.low, 100 * images.high, color=color, linewidth=1.0)
    if math.isfinite(widest.low):
        axes.hlines(row, 100 * widest.low, 100 * widest.high, color=color, linewidth=2.6)
    face = color if one.shown else "white"
    axes.plot(100 * widest.difference, row, "o", color=color, markerfacecolor=face, markersize=6)
    for value in one.by_seed.values():
        axes.plot(100 * value, row - 0.2, "|", color=INK, markersize=5)
