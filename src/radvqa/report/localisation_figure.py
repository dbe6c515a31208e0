"""The figure of measured maps: every method beside chance and priors, one panel for each metric."""

from matplotlib import rc_context

from radvqa.explain.measured import CHANCE, LABEL_PRIOR, Estimate, Evaluation
from radvqa.report.figures import BLUE, GREY, INK, ORANGE, STYLE, new_figure, png_of
from radvqa.report.localisation_wording import NAMES, PLAIN_NUMBERS

PANELS = ("hit", "enrichment", "auprc")


def localisation_figure(found: Evaluation) -> bytes:
    """A PNG. Lines from top to bottom mark chance and the label-position prior; squares are priors.

    In brackets the questions of each row; AUPRC of chance is each map's own and drawn as a cross.
    """
    rows = found["table"]["rows"]
    with rc_context(STYLE):
        figure = new_figure(10.6, 1.4 + 0.27 * len(rows))
        panels = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, PANELS, strict=True):
            scale = 1 if metric in PLAIN_NUMBERS else 100
            for name, color, style in ((CHANCE, INK, ":"), (LABEL_PRIOR, ORANGE, "--")):
                mean = _mean(rows[name]["metrics"].get(metric)) if name in rows else None
                if mean is not None:
                    axes.axvline(scale * mean, color=color, linestyle=style, linewidth=1.1, zorder=1)
            for place, row in enumerate(rows.values()):
                method = row["kind"] == "method"
                color, marker = (BLUE, "o") if method else (GREY, "s")
                estimate = row["metrics"].get(metric)
                mean = _mean(estimate)
                if estimate is None or mean is None:
                    axes.text(0, place, " n/a", va="center", fontsize=8, color="#4b5563")
                    continue
                if estimate["low"] is not None and estimate["high"] is not None:
                    axes.plot([scale * estimate["low"], scale * estimate["high"]], [place, place], color=color,
                              linewidth=1.6)  # fmt: skip
                axes.plot([scale * mean], [place], marker, color=color, markersize=5.5, linestyle="none")
                own_chance = _mean(row["metrics"].get("auprc_elsewhere")) if metric == "auprc" else None
                if own_chance is not None:
                    axes.plot([scale * own_chance], [place], "x", color=INK, markersize=5.5, linestyle="none")
            axes.set_title(NAMES[metric])
            axes.set_xlim(left=0)
            axes.grid(visible=False, axis="y")
        titles = [f"{name.replace('_', ' ')} ({row['questions']})" for name, row in rows.items()]
        panels[0].set_yticks(range(len(rows)), titles)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        return png_of(figure)


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate["mean"]
