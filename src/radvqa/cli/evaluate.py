"""The verb ``radvqa evaluate``."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from radvqa.cli.console import NOTICE, aligned, command_line, known_choices, print_json
from radvqa.errors import RecipeError, RunError
from radvqa.sample import SPLITS

Controls = tuple[Literal["blank", "shuffled", "mirrored"], ...]
CONTROLS: Controls = ("blank", "shuffled", "mirrored")
PROBES = ("contradiction", "mirror", "absent", "order", "dialogue")


def evaluate(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="A run folder; or embedded, tiny, the folder of a checkpoint or of published adapters, a hub name.",
        ),
    ],
    *,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Entry of the run's recipe, or an adapter; see list datasets.")
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the data set.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the adapter; repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test, of --dataset.")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images of --dataset.")] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="blank, shuffled, mirrored or none, repeatable; blank and shuffled unless given."),
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"Ask further questions: {', '.join(PROBES)}; repeatable.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the evaluation goes, instead of its usual folder.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="COMMIT", help="Of a hub name.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Base of published adapters, where it is a local folder.")
    ] = None,
    layout: Annotated[
        Literal["per_question", "shared_image"] | None, typer.Option(help="Of a model whose folder does not say.")
    ] = None,
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Of a model.")] = "auto",
    image_size: Annotated[int, typer.Option(help="Variant of the embedded base in pixels: 112 or 224.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a model at a time: questions, or images.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of a model in tokens.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of a model's shuffled images and of the bootstrap.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a model; all cores unless given.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Answer, score and report: a trained run again or on another data set, or any other model.

    A run alone generates its answers anew, scores them and renews its report. With --dataset, its model answers other
    questions, into RUN/evaluations; a model answers into evaluations/. What was stopped goes on.
    See docs/evaluation.md.
    """
    probes = known_choices("--probe", probe, PROBES)
    controls = _controls(control)
    of_run = (Path(subject) / "recipe.yaml").is_file()
    if split not in SPLITS:
        raise RecipeError("there is no such split", where="--split", expected=", ".join(SPLITS), got=split)
    if dataset is None:
        if not of_run:
            _require_run_or_dataset(subject)
        if root is not None or changes or limit is not None or to is not None or control is not None:
            raise RecipeError(
                "a run alone is evaluated as its recipe says",
                expected="no --root, --set, --limit, --control or --to without --dataset",
                fix="name the data set: --dataset NAME",
            )
        _run_again(Path(subject), probes, as_json=as_json, quiet=quiet)
        return
    from radvqa import pipeline
    from radvqa.pipeline.elsewhere import Asked, require_questions
    from radvqa.run.folder import RunFolder
    from radvqa.run.progress import Progress

    progress = Progress(quiet)
    asked = Asked(
        dataset=dataset,
        options=_options(root, changes or []),
        split=split,
        limit=limit,
        controls=controls,
        probes=tuple(probes),
    )
    if of_run:
        folder = pipeline.evaluate_run_on(
            RunFolder.open(Path(subject)), asked, to=to, command=command_line(), progress=progress
        )
    else:
        if image_size not in (112, 224):
            raise RecipeError(
                "the embedded base has no variant of this size", where="--image-size", expected="112, 224"
            )
        pipeline.require_model(subject, revision)
        require_questions(asked)
        opened = pipeline.open_model(
            subject,
            revision=revision,
            base=base,
            layout=layout,
            dtype=dtype,
            image_size=112 if image_size == 112 else 224,
            threads=threads,
            say=progress.say,
        )
        folder = pipeline.evaluate_model(
            opened,
            asked,
            setup=pipeline.setup_of_model(
                dataset=dataset,
                split=asked.split,
                limit=limit,
                controls=controls,
                probes=probes,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                seed=seed,
            ),
            to=to or Path("evaluations") / f"{opened.name}_{dataset}-{split}",
            command=command_line(),
            progress=progress,
        )
    _print(folder, {"evaluation": str(folder), "page": str(folder / "evaluation.html")}, as_json=as_json)


def _run_again(path: Path, probes: list[str], *, as_json: bool, quiet: bool) -> None:
    from radvqa.run.folder import RunFolder

    folder = RunFolder.open(path)
    from radvqa import pipeline
    from radvqa.run.progress import Progress

    progress = Progress(quiet)
    folder.lock()
    folder.note_command(command_line())
    pipeline.require_trained(folder)
    pipeline.evaluate(folder, command=command_line(), probes=probes, progress=progress)
    report = pipeline.report(folder, progress=progress)
    _print(folder.path, {"run": str(folder.path), "report": str(report)}, as_json=as_json)


def _require_run_or_dataset(subject: str) -> None:
    if subject not in ("embedded", "tiny") and not any(Path(subject).glob("*config.json")):
        from radvqa.run.folder import RunFolder

        RunFolder.open(Path(subject))  # tells what is there instead
    raise RunError(
        "a model needs questions",
        where=subject,
        expected="a run folder, or a model together with --dataset",
        fix="add --dataset NAME --root DIR; see `radvqa list datasets` and `radvqa list runs`",
    )


def _options(root: Path | None, changes: list[str]) -> dict[str, Any]:
    from radvqa.recipe import parse_yaml

    options: dict[str, Any] = {} if root is None else {"root": str(root)}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise RecipeError("an option needs a value", where=f"--set {change}", expected="OPTION=VALUE")
        options[name] = parse_yaml(value, where=f"--set {change}")
    return options


def _controls(given: list[str] | None) -> Controls | None:
    if given is None:
        return None
    known = known_choices("--control", given, (*CONTROLS, "none"))
    return tuple(one for one in CONTROLS if one in known)


def _print(folder: Path, places: dict[str, str], *, as_json: bool) -> None:
    from radvqa.cli.listing import SUMMARY, score_rows

    conditions = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["conditions"]
    summary = {name: dict(one["overall"]["metrics"]) for name, one in conditions.items()}
    if as_json:
        print_json({**places, "summary": summary})
        return
    for name, place in places.items():
        typer.echo(f"{name}: {place}")
    typer.echo()
    scores = score_rows(summary)
    rows = [tuple(scores[0]), *(tuple(row.values()) for row in scores)]
    typer.echo(aligned(rows))
    typer.echo(NOTICE)
