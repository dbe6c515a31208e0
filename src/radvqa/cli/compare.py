"""The verb ``radvqa compare``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radvqa.cli.console import print_json

if TYPE_CHECKING:
    from radvqa.evaluate.model_comparison import Paired, PairedComparisons
    from radvqa.sample import Prediction


def compare(
    answers: Annotated[
        list[str],
        typer.Argument(metavar="A B...", help="Run folders, evaluation folders or predictions files; or NAME=PATH."),
    ],
    *,
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare with this one; the first unless given.")
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare only the questions that all have, and count the rest.")
    ] = False,
    margin: Annotated[
        float, typer.Option(metavar="POINTS", min=0.01, max=99, help="Differences below this are of no interest.")
    ] = 2.0,
    metric: Annotated[str, typer.Option(help="See `radvqa list metrics`.")] = "accuracy",
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="Break down by this tag; repeatable. Modality, organ, content type."),
    ] = None,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write comparison.html here.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")
    ] = False,
) -> None:
    """Compare answers to the same questions, and tell what can be concluded.

    Paired differences with intervals by group, tests, adjustment for several models and slices, the smallest difference
    that could be seen, and equivalence. See docs/comparison.md.
    """
    from radvqa.evaluate.metrics import METRICS
    from radvqa.evaluate.model_comparison import SLICES, compare_models
    from radvqa.report.comparison_wording import conclusions, coverage

    if metric not in METRICS:
        raise typer.BadParameter(f"{metric!r} is not one of {', '.join(METRICS)}", param_hint="--metric")
    paths = _named(answers)
    predictions = {name: _read(path, say=lambda text: typer.echo(text, err=True)) for name, path in paths.items()}
    found = compare_models(
        predictions,
        reference=next(iter(paths)) if reference is None else reference,
        common=common,
        metric=metric,
        margin=margin / 100,
        level=level,
        slices=by or SLICES,
    )
    told = conclusions(found)
    page = None
    if to is not None:
        from radvqa.report.comparison import write_comparison

        page = write_comparison(found, to, sources={name: path.name for name, path in paths.items()})
    if as_json:
        facts = {**found, "conclusions": told, "coverage": coverage(found), "page": None if page is None else str(page)}
        print_json(facts)
        return
    _print(found, told, coverage(found))
    if page is not None:
        typer.echo(f"\npage: {page}")
    typer.echo("Research tool, not for clinical use.")


def _named(answers: Sequence[str]) -> dict[str, Path]:
    """Path by name: the given one, or the shortest end of the path that no other has."""
    from radvqa.errors import RecipeError

    given: list[tuple[str | None, Path]] = []
    for text in answers:
        name, equals, rest = text.partition("=")
        given.append((name, Path(rest)) if equals and name and not Path(text).exists() else (None, Path(text)))
    named: dict[str, Path] = {}
    for own_name, path in given:
        parts = path.resolve().with_suffix("").parts if path.is_file() else path.resolve().parts
        others = [other.resolve() for _, other in given if other is not path]
        length = 1
        while length < len(parts) and any(_end(other, length) == parts[-length:] for other in others):
            length += 1
        shown = own_name or "/".join(parts[-length:])
        if shown in named:
            raise RecipeError(
                f"two sets of answers are called {shown!r}",
                got=", ".join(answers),
                fix="give each its own name: NAME=PATH",
            )
        named[shown] = path
    return named


def _end(path: Path, length: int) -> tuple[str, ...]:
    return (path.with_suffix("") if path.is_file() else path).parts[-length:]


def _read(path: Path, *, say: Callable[[str], None]) -> "tuple[Prediction, ...]":
    from radvqa.evaluate.prediction_files import read_predictions
    from radvqa.report.folder import predictions_file

    found = read_predictions(predictions_file(path) if path.is_dir() else path)
    for text in (*found.notes, *found.warnings):
        say(f"{path.name}: {text}")
    return found.predictions


def _print(found: "PairedComparisons", told: dict[str, list[str]], coverage: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    for sentence in coverage:
        typer.echo(sentence)
    for name, model in found["models"].items():
        typer.echo(f"\n{name} beside {found['reference']}")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("part", "n", "reference %", "model %", "points (interval)", "p adjusted", "detectable"):
            table.add_column(column, overflow="fold", justify="left" if column == "part" else "right")
        for part, one in model["parts"].items():
            table.add_row(*map(Text, _row(part, one)))
        Console().print(table)
        for sentence in told[name]:
            typer.echo(sentence)


def _row(part: str, one: "Paired") -> tuple[str, ...]:
    from radvqa.report.comparison_wording import difference
    from radvqa.report.wording import p_value, percent

    detectable = "n/a" if one["detectable"] is None else f"{100 * one['detectable']:.1f}"
    shares = percent(one["reference"]), percent(one["model"])
    return (part, f"{one['samples']:,}", *shares, difference(one), p_value(one["adjusted_p"]), detectable)
