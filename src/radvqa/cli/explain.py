"""The verbs of ``radvqa explain``: maps of single cases, their measurement against ground truth, suspicious cases."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, final

import typer
import typer.core

from radvqa.cli.console import NOTICE, aligned, command_line, known_choices, print_json
from radvqa.cli.map_options import Alpha, Foil, Fusion, Heads, Layers, Sinks, map_settings
from radvqa.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from radvqa.explain.measured import Evaluation
    from radvqa.pipeline.explanation import Explanations

CASES = "cases"


@final
class Verbs(typer.core.TyperGroup):
    """A first word that is none of the verbs is a run, and its cases are meant: ``radvqa explain RUN``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb in where it is left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [CASES, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="explain",
    cls=Verbs,
    help="See what the model looks at: maps of single cases, how far they can be trusted, which answers are suspicious."
    f" `radvqa explain RUN` means `radvqa explain {CASES} RUN`; a run called like a verb is given as ./NAME.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; see `radvqa list runs`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Methods = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Names of methods, separated by commas; the usual ones unless given."),
]


@app.command()
def cases(
    run: RunPath,
    *,
    sample: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Explain the answer to this sample; repeatable.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Explain all evaluated answers.")] = False,
    stage: Annotated[
        str,
        typer.Option(metavar="NAME", help="Explain the model as it was after this stage; `base`: before the first."),
    ] = "",
    methods: Methods = None,
    alpha: Alpha = None,
    layers: Layers = None,
    heads: Heads = None,
    fusion: Fusion = "mean",
    sinks: Sinks = "mark",
    foil: Foil = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Explain answers, renew the report.

    For a trained run: of the samples that its recipe asks for, of those given here, or of all. What was stopped goes
    on; a case made by other settings is made again. Look at the cases with `radvqa serve RUN`.
    """
    from radvqa.run.folder import RunFolder

    folder = RunFolder.open(run)
    wanted = _wanted(methods)
    settings = map_settings(
        wanted,
        usual_alpha=folder.recipe.explain.alpha,
        alpha=alpha,
        layers=layers,
        heads=heads,
        fusion=fusion,
        sinks=sinks,
        foil=foil,
    )
    from radvqa import pipeline
    from radvqa.run.progress import Progress

    progress = Progress(quiet)
    folder.lock()
    folder.note_command(command_line())
    pipeline.require_trained(folder)
    found = pipeline.explain(
        folder,
        sample_ids=sample or [],
        every=every,
        stage=stage,
        methods=wanted,
        settings=settings,
        progress=progress,
    )
    report = pipeline.report(folder, progress=progress)
    if as_json:
        print_json({"run": str(folder.path), "report": str(report), **asdict(found)})
        return
    typer.echo(f"run: {folder.path}\nreport: {report}")
    typer.echo(_told(found))
    typer.echo(NOTICE)


@app.command()
def batch(
    run: RunPath,
    *,
    questions: Annotated[
        Path, typer.Option("--input", metavar="FILE", help="JSON Lines of {image, question, answer?, sample_id?}.")
    ],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the cases go; what was stopped goes on.")],
    methods: Methods = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer and explain the questions of a file.

    Images are named by their path from the file's folder. Rows that cannot be explained are listed in rejects.jsonl,
    with the reason.
    """
    from radvqa.run.folder import RunFolder

    folder = RunFolder.open(run)
    wanted = _wanted(methods)
    from radvqa import pipeline
    from radvqa.pipeline.explanation_batch import explain_batch
    from radvqa.run.progress import Progress

    progress = Progress(quiet)
    folder.lock()
    pipeline.require_trained(folder)
    found = explain_batch(
        folder,
        lambda: pipeline.train(folder, progress=progress),
        questions=questions,
        output=output,
        methods=wanted,
        progress=progress,
    )
    if as_json:
        print_json({**asdict(found.cases), "rejects": [asdict(one) for one in found.rejects]})
        return
    typer.echo(_told(found.cases))
    for one in found.rejects:
        typer.echo(f"  left out: {one.where}: {one.reason}: {one.detail}")
    typer.echo(f"{len(found.rejects)} rows left out\n{NOTICE}")


@app.command()
def export(
    case: Annotated[Path, typer.Argument(metavar="CASE", help="The folder of a case, explain/cases/KEY of a run.")],
    *,
    to: Annotated[Path, typer.Option(metavar="FILE", help="A file that ends in .png, .svg or .html.")],
    methods: Methods = None,
    contours: Annotated[
        bool, typer.Option("--contours", help="Draw the picture's contours in its place (.png only).")
    ] = False,
) -> None:
    """Write one case as picture, drawing or page.

    The file holds the picture and the texts of the data set: mind their licence before passing it on. Where it does
    not allow that, `--contours` leaves the picture out.
    """
    from radvqa.explain.bundle_files import read_bundle
    from radvqa.explain.export import export_case

    export_case(read_bundle(case), to, methods=_named(methods) or (), contours=contours)
    typer.echo(f"{to}\n{NOTICE}")


@app.command()
def evaluate(
    run: RunPath,
    *,
    methods: Methods = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Questions, an image in turn each.")] = 160,
    costly: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of these, for pixel occlusion, which takes longer than the rest.")
    ] = 16,
    faithfulness: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of these, on which cells are taken away and put back.")
    ] = 8,
    sanity: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of these, on which weights, question and image are changed.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of questions and of the bootstrap.")] = 0,
    about: Annotated[
        Literal["finding", "organ"] | None, typer.Option(help="Only questions about findings (lesions), or organs.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the maps against the regions that questions ask about.

    Needs a data set with labelled regions (SLAKE, phantoms). Every method stands beside chance, image centre and
    priors that never see the image or the question. What was stopped goes on; more methods or questions can be added.
    """
    from radvqa.run.folder import RunFolder

    folder = RunFolder.open(run)
    from radvqa.explain.methods import DEFAULT_METHODS, METHODS

    names = known_choices("--methods", _named(methods) or DEFAULT_METHODS, tuple(METHODS))
    from radvqa.pipeline.saliency_evaluation import Wanted, evaluate_saliency
    from radvqa.run.progress import Progress

    folder.lock()
    folder.note_command(command_line())
    wanted = Wanted(
        methods=tuple(names),
        limit=limit,
        costly=costly,
        faithfulness=faithfulness,
        sanity=sanity,
        seed=seed,
        about=about,
    )
    page = evaluate_saliency(folder, wanted, progress=Progress(quiet))
    from radvqa.records import read_json

    found = read_json(page.with_suffix(".json"), dict[str, Any]) or {}
    if as_json:
        print_json({"page": str(page), **found})
        return
    typer.echo(f"page: {page}\n")
    typer.echo(aligned(_rows(found["table"])))
    for reason, number in found["left_out"].items():
        typer.echo(f"{number} questions {reason}")
    from radvqa.report.localisation_wording import FEWER, conclusions

    typer.echo(FEWER)
    for sentence in conclusions(cast("Evaluation", found)):
        typer.echo(f"- {sentence}")
    typer.echo(NOTICE)


@app.command()
def failures(
    run: RunPath,
    *,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Show so many cases of each kind.")] = 5,
    as_json: Json = False,
) -> None:
    """List suspicious answers among the explained cases, by kind of failure.

    Explain many cases first, best all of them: `radvqa explain RUN --all`.
    """
    from radvqa.explain.bundle_files import read_cases
    from radvqa.explain.failures import SIGNATURES, count_by_group, find_failures, notes_on, thresholds_of
    from radvqa.run.folder import RunFolder

    folder = RunFolder.open(run)
    lines = read_cases(folder.file("explain"))
    if not lines:
        raise RunError("no case of this run is explained yet", where=str(run), fix=f"radvqa explain {run} --all")
    found = find_failures(lines)
    groups, notes, limits = count_by_group(lines, found), notes_on(lines), thresholds_of(lines)
    if as_json:
        print_json(
            {
                "cases": len(lines),
                "thresholds": asdict(limits),
                "failures": [asdict(one) for one in found],
                "groups": groups,
                "notes": notes,
            }
        )
        return
    of = {line.key: line for line in lines}
    for signature, meaning in SIGNATURES.items():
        some = [one for one in found if one.signature == signature]
        typer.echo(f"{signature.replace('_', ' ')}: {len(some)} of {len(lines)}; {meaning}")
        for one in some[:top]:
            line = of[one.key]
            typer.echo(f"  {line.sample_id}  {line.question}\n    {one.reason}; points to: {one.points_to}")
    for group, values in groups.items():
        head = (group.replace("_", " "), "cases", "wrong", *(name.replace("_", " ") for name in SIGNATURES))
        counts = [
            (value, str(one["cases"]), str(one["wrong"]), *(str(one["signatures"][name]) for name in SIGNATURES))
            for value, one in values.items()
        ]
        typer.echo("\n" + aligned([head, *counts]))
    for note in notes:
        typer.echo(f"note: {note}")
    typer.echo(NOTICE)


def _wanted(methods: str | None) -> "Sequence[str]":
    """The methods asked for, checked before a model is loaded; the usual ones for None."""
    from radvqa.explain.methods import DEFAULT_METHODS, METHODS

    named = _named(methods) or [name for name in DEFAULT_METHODS if name != "pixel_occlusion"]
    return known_choices("--methods", named, tuple(METHODS))


def _told(found: "Explanations") -> str:
    lines = [
        f"cases: {found.folder}: {found.made} new, {found.kept} kept",
        f"answers: {found.right} right, {found.wrong} wrong, {len(found.empty)} empty, which cannot be explained",
    ]
    return "\n".join(lines)


def _named(given: str | None) -> list[str]:
    return [name.strip() for name in (given or "").split(",") if name.strip()]


def _rows(table: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of an evaluation in few columns; n where a mean is of fewer questions than its row."""
    shown = {"hit": 100, "energy": 100, "enrichment": 1, "auprc": 100, "auprc_elsewhere": 100, "iou_tuned": 100}
    heads = ("hit %", "energy %", "enrichment", "AUPRC %", "elsewhere %", "IoU tuned %")
    rows: list[tuple[str, ...]] = [
        ("row", "questions", *heads, "specificity", "gap over random", "hit, 95 % interval", "left out")
    ]
    for name, row in table["rows"].items():
        metrics, all_of = row["metrics"], row["questions"]
        means = [_mean(metrics[metric], scale, all_of) for metric, scale in shown.items()]
        gap = table["faithfulness"].get(name, {}).get("gap_over_random")
        hit = metrics["hit"]
        limits = "n/a" if hit["low"] is None else f"{100 * hit['low']:.1f} to {100 * hit['high']:.1f}"
        left_out = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in row["excluded"].items())
        others = (_mean(metrics.get("specificity"), 1, all_of), _mean(gap, 1, all_of), limits, left_out or "none")
        rows.append((name, str(all_of), *means, *others))
    return rows


def _mean(estimate: dict[str, Any] | None, scale: float, all_of: int) -> str:
    if estimate is None or estimate["mean"] is None:
        return "n/a"
    few = "" if estimate["questions"] == all_of else f" (n {estimate['questions']})"
    return f"{scale * estimate['mean']:.2f}{few}"
