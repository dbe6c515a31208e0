"""The verb ``radvqa experiment``."""

from pathlib import Path
from typing import Annotated

import typer

from radvqa.cli.console import command_line, print_json


def experiment(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see docs/experiments.md.")],
    *,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. recipe.model.image_size=112; repeatable."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CELL", help="Run this cell and no other; repeatable.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Run this seed and no other; repeatable.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Run nothing: make the page from what is finished.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run every cell of an experiment with every seed, and write what follows from it.

    Each is an ordinary run in a process of its own; finished ones are kept, so the same command goes on after a stop. A
    run that fails is noted and the others go on; the exit code is then 2. See docs/experiments.md.
    """
    from radvqa.experiment.page import as_json as all_numbers
    from radvqa.experiment.page import sentences, write_page
    from radvqa.experiment.running import run_cells
    from radvqa.recipe import load_experiment
    from radvqa.run.progress import Progress

    loaded = load_experiment(recipe, changes or [])
    progress = Progress(quiet)
    failed: dict[str, str] = {}
    if not report:
        failed = run_cells(loaded, only=only or [], seeds=seed or [], progress=progress)
    page, contents = write_page(loaded, command=command_line())
    said = sentences(contents)
    if as_json:
        facts = {"page": str(page), "failed": failed, **all_numbers(contents, said)}
        print_json(facts)
    else:
        for line in said:
            typer.echo(line)
        for missing in contents.missing:
            typer.echo(f"missing: {missing.cell}, seed {missing.seed}: {missing.why}")
        typer.echo(f"page: {page}")
        typer.echo("Research tool, not for clinical use.")
    for key, error in failed.items():
        typer.echo(f"error: {key}: {error}", err=True)
    if failed:
        raise typer.Exit(2)
