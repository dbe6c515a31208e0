"""The figure of a comparison: differences with intervals, one panel for each model."""

from matplotlib import rc_context
from matplotlib.artist import Artist

from radvqa.evaluate.model_comparison import Paired, PairedComparisons
from radvqa.report.figures import BLUE, GREY, INK, ORANGE, STYLE, new_figure, png_of

_SHOWN = {"better": (BLUE, "o", "better"), "worse": (ORANGE, "s", "worse"), "": (GREY, "D", "no difference shown")}
MOST_ROWS = 40


def comparison_figure(comparisons: PairedComparisons) -> bytes:
    """A PNG: for every model the difference to the reference in points, over all, by answer type and by slice.

    The band is the margin of equivalence. Of more than ``MOST_ROWS`` rows the first are drawn.
    """
    models = comparisons["models"]
    rows = [name for name, _ in _rows(next(iter(models.values()))["parts"], next(iter(models.values()))["slices"])]
    rows = rows[:MOST_ROWS]
    with rc_context(STYLE):
        figure = new_figure(4.2 + 3.4 * min(len(models), 3), 1.5 + 0.27 * len(rows))
        panels = figure.subplots(1, len(models), sharey=True, sharex=True, squeeze=False)[0]
        margin = 100 * comparisons["margin"]
        seen: dict[str, Artist] = {}
        for axes, (name, model) in zip(panels, models.items(), strict=True):
            axes.axvspan(-margin, margin, color="#e8edf3", zorder=0)
            axes.axvline(0, color=INK, linewidth=1)
            for place, (_, one) in enumerate(_rows(model["parts"], model["slices"])[:MOST_ROWS]):
                color, marker, label = _SHOWN.get(one["verdict"], _SHOWN[""])
                limits = one["clustered_t"]
                if limits["low"] is not None and limits["high"] is not None:
                    axes.plot([100 * limits["low"], 100 * limits["high"]], [place, place], color=color, linewidth=1.6)
                (seen[label],) = axes.plot([100 * one["difference"]], [place], marker, color=color, markersize=5.5,
                                           linestyle="none")  # fmt: skip
            axes.set_title(name if len(name) <= 40 else name[:39] + "…")
            axes.set_xlabel(f"Points, model minus {_short(comparisons['reference'])}")
            axes.grid(visible=False, axis="y")
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        figure.legend(list(seen.values()), list(seen), loc="outside upper center", ncols=3, fontsize=9)
        return png_of(figure)


def _rows(parts: dict[str, Paired], slices: dict[str, dict[str, Paired]]) -> list[tuple[str, Paired]]:
    rows = [("all" if part == "all" else f"{part} questions", one) for part, one in parts.items()]
    return rows + [
        (f"{tag.replace('_', ' ')}: {_short(value)} ({one['samples']:,})", one)
        for tag, values in slices.items()
        for value, one in values.items()
    ]


def _short(text: str) -> str:
    return text if len(text) <= 28 else text[:27] + "…"
