"""The page of measured maps, ``localisation.html``, its table as Markdown and its numbers as JSON."""

from pathlib import Path

from radvqa.explain.localisation import EXCLUSIONS
from radvqa.explain.measured import METRICS, Evaluation
from radvqa.html import Picture, data_uri, page_environment
from radvqa.records import write_bytes, write_json, write_text
from radvqa.report.localisation_figure import localisation_figure
from radvqa.report.localisation_wording import (
    FAITHFULNESS,
    FEWER,
    MOST_VALUES,
    NAMES,
    conclusions,
    faithfulness_names,
    few,
    limits,
    markdown,
    not_shown,
    reading,
    shown_strata,
    value,
    verdict,
)
from radvqa.report.wording import p_value, percent, points


def write_localisation(found: Evaluation, folder: Path) -> Path:
    """The path of ``localisation.html`` in ``folder``, written anew beside ``.json``, ``.md`` and ``.png``.

    Raises:
        RunError: the folder is full or not writable.
    """
    write_json(folder / "localisation.json", found)
    write_text(folder / "localisation.md", markdown(found))
    figure = localisation_figure(found)
    write_bytes(folder / "localisation.png", figure)
    environment = page_environment("report")
    environment.filters.update(percent=percent, points=points, p_value=p_value)
    path = folder / "localisation.html"
    page = environment.get_template("localisation.html").render(
        found=found,
        table=found["table"],
        names={name: title for name, title in NAMES.items() if _somewhere(found, name)},
        meanings=METRICS,
        exclusions=EXCLUSIONS,
        strata=shown_strata(found),
        most_values=MOST_VALUES,
        conclusions=conclusions(found),
        not_shown=not_shown(),
        faithfulness={name: FAITHFULNESS[name] for name in faithfulness_names(found)},
        figure=Picture(uri=data_uri(figure, "image/png")),
        shown=value,
        limits=limits,
        few=few,
        fewer=FEWER,
        reading=reading,
        verdict=verdict,
    )
    write_text(path, page)
    return path


def _somewhere(found: Evaluation, metric: str) -> bool:
    return any(metric in row["metrics"] for row in found["table"]["rows"].values())
