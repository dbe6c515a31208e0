"""The page of a comparison: one HTML file with conclusions, figure and tables."""

from pathlib import Path

from radvqa.evaluate.model_comparison import PairedComparisons
from radvqa.html import Picture, data_uri, page_environment
from radvqa.records import write_text
from radvqa.report.comparison_figure import comparison_figure
from radvqa.report.comparison_wording import conclusions, coverage, reading
from radvqa.report.wording import p_value, percent, points


def write_comparison(comparisons: PairedComparisons, folder: Path, *, sources: dict[str, str] | None = None) -> Path:
    """The path of ``comparison.html`` in ``folder``, written anew. ``sources``: model → where its answers are from.

    Raises:
        RunError: the folder is full or not writable.
    """
    environment = page_environment("report")
    environment.filters.update(percent=percent, points=points, p_value=p_value)
    path = folder / "comparison.html"
    page = environment.get_template("comparison.html").render(
        comparisons=comparisons,
        conclusions=conclusions(comparisons),
        coverage=coverage(comparisons),
        figure=Picture(uri=data_uri(comparison_figure(comparisons), "image/png")),
        reading_of=reading,
        sources=sources or {},
    )
    write_text(path, page)
    return path
