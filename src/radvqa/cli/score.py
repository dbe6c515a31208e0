"""The verb ``radvqa score``."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radvqa.cli.console import NOTICE, aligned
from radvqa.errors import RecipeError

if TYPE_CHECKING:
    from radvqa.evaluate.prediction_files import PredictionFile

SHOWN_SLICES, LARGEST_P = 10, 0.05


def score(
    predictions: Annotated[
        list[Path],
        typer.Argument(metavar="PREDICTIONS...", help="JSON Lines, JSON, CSV, TSV or Parquet; or a run's folder."),
    ],
    *,
    protocol: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this published protocol; repeatable.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All questions with references; those without answer are wrong.")
    ] = None,
    gold_only: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Only these rows of the gold file, e.g. q_lang=en; repeatable."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="FIELD=COLUMN", help="Where a field is, e.g. text=pred, gold.text=a.b; repeatable."
        ),
    ] = None,
    slices: Annotated[
        str, typer.Option(metavar="TAGS", help="Columns whose values are scored apart, separated by commas.")
    ] = "modality,content_type",
    resamples: Annotated[int, typer.Option(min=1, help="Draws of the cluster bootstrap.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write scores.json, the predictions as read and the rejects.")
    ] = None,
    items: Annotated[bool, typer.Option("--items", help="Add every answer with its scores to the JSON.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")
    ] = False,
) -> None:
    """Score any file of answers.

    With our own metrics and under every published protocol, side by side, with intervals. Needs no model and no
    network. Columns of well-known names are found; what was taken for what is told. See docs/scoring.md.
    """
    from radvqa.evaluate.prediction_files import read_gold, read_predictions
    from radvqa.evaluate.scoring import check_protocols, score_predictions
    from radvqa.report.folder import predictions_file

    check_protocols(protocol)
    predictions = [predictions_file(path) if path.is_dir() else path for path in predictions]
    if to is not None and len({path.stem for path in predictions}) < len(predictions):
        raise RecipeError("two of the files have the same name, so their folders would be the same", got=str(to))
    tags = list(dict.fromkeys(filter(None, (tag.strip() for tag in slices.split(",")))))
    told = _pairs(columns or [], "--map")
    own = {field: column for field, column in told.items() if not field.startswith("gold.")}
    theirs = {field.removeprefix("gold."): column for field, column in told.items() if field.startswith("gold.")}
    if gold is None and (theirs or gold_only):
        raise RecipeError("there is no gold file to map or choose from", fix="name it with --gold FILE")
    asked = None
    if gold is not None:
        asked = read_gold(gold, columns=theirs, tags=tags, only=_pairs(gold_only or [], "--gold-only"))
        _tell(asked)
    results = []
    for path in predictions:
        found = read_predictions(path, columns=own, tags=tags, gold=None if asked is None else asked.predictions)
        _tell(found)
        scores = score_predictions(
            found.predictions, slices=tags, resamples=resamples, seed=seed, protocols=protocol, items=items
        )
        result = {"file": str(path), "gold": None if gold is None else str(gold), "reading": _reading(found), **scores}
        results.append(result)
        if to is not None:
            _write(to if len(predictions) == 1 else to / path.stem, found, result)
    if as_json:
        _print_json(results[0] if len(results) == 1 else results)
        return
    for result in results:
        _print(result)
    typer.echo(NOTICE)


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not separator or not name.strip() or not value.strip():
            raise RecipeError(f"{option} takes NAME=VALUE", got=one, fix=f"write {option} NAME=VALUE")
        if name.strip() in pairs:
            raise RecipeError(f"{option} names {name.strip()!r} twice", fix="name it once")
        pairs[name.strip()] = value.strip()
    return pairs


def _tell(found: "PredictionFile") -> None:
    """What was read, on stderr."""
    for sentence in (*found.notes, *(f"warning: {warning}" for warning in found.warnings)):
        typer.echo(f"{found.path}: {sentence}", err=True)


def _reading(found: "PredictionFile") -> dict[str, Any]:
    return {
        "columns": dict(found.columns),
        "rejects": dict(Counter(reject.reason for reject in found.rejects)),
        "notes": list(found.notes),
        "warnings": list(found.warnings),
    }


def _write(folder: Path, found: "PredictionFile", result: Mapping[str, Any]) -> None:
    from radvqa.records import write_json, write_records
    from radvqa.report.evaluation import write_evaluation

    write_records(folder / "predictions.jsonl", found.predictions)
    write_records(folder / "rejects.jsonl", found.rejects)
    write_json(folder / "scores.json", result)
    typer.echo(f"page: {write_evaluation(folder)}", err=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def _print(result: Mapping[str, Any]) -> None:
    counts, reading = result["counts"], result["reading"]
    rejects = sum(reading["rejects"].values())
    left_out = f"; {rejects:,} rows not scored" if rejects else ""
    typer.echo(f"{result['file']}: {counts['samples']:,} answers in {counts['groups']:,} groups{left_out}")
    found = {name.replace("_", " "): number for name, number in (counts["states"] | counts["flags"]).items()}
    typer.echo(f"  {', '.join(f'{name} {number:,}' for name, number in found.items())}")
    typer.echo("  only answered ones can be right, all others count as wrong")
    intervals, types = result["intervals"], result["summary"]["by_answer_type"]
    sizes = {"overall": counts["samples"], **{name: part["samples"] for name, part in types.items()}}
    rows = [["our metrics, %", *(f"{part} ({sizes[part]:,})" for part in intervals)]]
    for metric in next(iter(intervals.values())):
        rows.append([metric, *(_interval(part[metric]["clustered_t"]) for part in intervals.values())])
    typer.echo(f"\n{aligned(rows)}")
    typer.echo(f"  {result['summary']['level']:.0%} intervals, t with groups as clusters; the first metric also by")
    first = next(iter(next(iter(intervals.values()))))
    for kind in ("bootstrap", "wilson"):
        shown = ", ".join(f"{part} {_limits(one[first][kind])}" for part, one in intervals.items())
        typer.echo(f"  {kind}: {shown}")
    effects = ", ".join(f"{part} {_number(one[first]['design_effect'], 2)}" for part, one in intervals.items())
    typer.echo(f"  design effect of the groups: {effects}")
    _print_protocols(result["protocols"])
    _print_slices(result["worst_slices"])
    _print_more(result)
    for warning in reading["warnings"]:
        typer.echo(f"warning: {warning}")


def _print_protocols(protocols: Mapping[str, Any]) -> None:
    rows = [["published protocols, %", "headline metrics (answers counted)"]]
    for name, protocol in protocols.items():
        shown = []
        for metric in protocol["headline"]:
            one = protocol["metrics"][metric]
            crashed = f", would stop at {one['crashed']:,}" if one["crashed"] else ""
            shown.append(f"{metric} {_number(one['value'], 1)} ({one['counted']:,}{crashed})")
        rows.append([name, ", ".join(shown)])
    if len(rows) > 1:
        typer.echo(f"\n{aligned(rows)}")
        typer.echo("  each as its program would print it, its known defects included: see docs/protocols.md")


def _print_slices(slices: Sequence[Mapping[str, Any]]) -> None:
    rows = [["worst slices", "answers", "accuracy", "others", "difference", "p (Holm)"]]
    for one in [one for one in slices if one["difference"] < 0][:SHOWN_SLICES]:
        numbers = (f"{one['samples']:,}", *(f"{100 * one[name]:.1f}" for name in ("mean", "rest", "difference")))
        rows.append([f"{one['tag']}: {one['value']}"[:48], *numbers, _number(one["p_holm"], 4)])
    if len(rows) > 1:
        typer.echo(f"\n{aligned(rows)}")
        clear = any(one["p_holm"] is not None and one["p_holm"] < LARGEST_P for one in slices if one["difference"] < 0)
        if not clear:
            typer.echo("  none of them is clearly worse than the rest: chance among so many can explain them")


def _print_more(result: Mapping[str, Any]) -> None:
    typer.echo()
    consistency = result["consistency"]
    if consistency is not None:
        typer.echo(
            f"paraphrases, {consistency['sets']:,} sets: the same answer in {_interval(consistency['same_answer'])} %, "
            f"all right in {_interval(consistency['all_right'])} %"
        )

    calibration = result["calibration"]
    if calibration is not None:
        selective = ", ".join(
            f"{_interval(one)} % of the surest {float(coverage):.0%}"
            for coverage, one in calibration["selective_accuracy"].items()
        )
        typer.echo(
            f"calibration of {calibration['samples']:,} answers: ECE {_interval(calibration['ece'])} %; right are "
            f"{selective}"
        )


def _interval(estimate: Mapping[str, float | None]) -> str:
    return f"{_percent(estimate['mean'])} {_limits(estimate)}"


def _limits(estimate: Mapping[str, float | None]) -> str:
    return f"[{_percent(estimate['low'])}, {_percent(estimate['high'])}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
