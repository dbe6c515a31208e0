"""The command line. Verbs read their arguments, call one function and print; they import it only when they run."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import typer
import typer.core

from radvqa.cli import bench, data, explain, synth
from radvqa.cli.compare import compare
from radvqa.cli.console import NOTICE, command_line, print_json
from radvqa.cli.evaluate import evaluate
from radvqa.cli.experiment import experiment
from radvqa.cli.export import export
from radvqa.cli.judge import judge
from radvqa.cli.score import score
from radvqa.cli.serve import serve
from radvqa.errors import RadvqaError, RunError
from radvqa.run.stopping import Stopped, stoppable

if TYPE_CHECKING:
    from radvqa.run.folder import RunFolder

Step = Literal["train", "evaluate", "explain", "report"]
Listed = Literal["datasets", "recipes", "runs", "models", "metrics", "protocols", "prompts"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NO_RIGHT = (errno.EACCES, errno.EPERM)


@final
class Verbs(typer.core.TyperGroup):
    """Runs a verb, and turns what a user can mend into one message and an exit code without traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; anything but the errors named here is a bug and keeps its traceback."""
        try:
            with stoppable():
                return super().invoke(ctx)
        except Stopped:
            typer.echo("stopped as asked (SIGTERM); run the same command to go on", err=True)
            raise
        except RadvqaError as error:
            _fail(error)
        except KeyboardInterrupt:
            typer.echo("stopped; run the same command to go on", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            # Libraries write files too, and those made in Rust have error types of their own for a full disk.
            problem = _disk_problem(error)
            if problem is None:
                raise
            _fail(problem)
        raise typer.Exit(2)


app = typer.Typer(
    name="radvqa",
    cls=Verbs,
    help=f"Adapt a lightweight vision-language model to radiology questions, test it, see what it looks at. {NOTICE}",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app)
app.add_typer(synth.app)
app.add_typer(bench.app)
app.add_typer(explain.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        import radvqa

        typer.echo(f"radvqa {radvqa.__version__}")
        raise typer.Exit


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see docs/recipes.md.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; see `radvqa list runs`.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, e.g. stages.0.epochs=2; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop.")
    ] = False,
) -> None:
    """Take the options that stand before the verb."""


@app.command()
def run(
    recipe: RecipePath,
    changes: Overrides = None,
    until: Annotated[Step, typer.Option(help="Stop after this step.")] = "report",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate, explain and report.

    Goes on where an earlier start of the same recipe stopped. A changed recipe gets a run folder of its own.
    """
    _run(recipe, changes or [], until=until, as_json=as_json, quiet=quiet)


@app.command()
def check(
    recipe: RecipePath,
    changes: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine's speed, and tell hours for it too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell all problems of a recipe at once, and what it will cost.

    Reads the recipe and its data sets and tells what a run would do: steps, hours, memory, disk. Writes nothing.
    Pictures need only exist; they are decoded when a run starts.
    """
    from radvqa.cli.check import check as find
    from radvqa.cli.check import problems
    from radvqa.recipe import load_recipe

    findings = find(load_recipe(recipe, changes or []), measure=measure)
    found = problems(findings)
    if as_json:
        facts = [{"subject": one.subject, "fact": one.fact} for one in findings if one.problem is None]
        print_json({"ok": not found, "facts": facts, "problems": [str(problem) for problem in found]})
    else:
        rows = [
            {"subject": one.subject, "finding": one.fact if one.problem is None else f"PROBLEM: {one.problem.what}"}
            for one in findings
        ]
        _print_table(rows)
    for problem in found:
        typer.echo(f"error: {problem}", err=True)
    if found:
        raise typer.Exit(2)


app.command()(export)
app.command()(compare)
app.command()(experiment)
app.command()(score)
app.command()(judge)
app.command()(serve)


@app.command()
def train(
    run_or_recipe: Annotated[Path, typer.Argument(metavar="RUN|RECIPE", help="A run folder, or a recipe file.")],
    changes: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the stages that are not done yet."""
    if not run_or_recipe.is_dir():
        _run(run_or_recipe, changes or [], until="train", as_json=as_json, quiet=quiet)
        return
    if changes:
        raise RunError(
            "the recipe of a run cannot be changed",
            where=str(run_or_recipe),
            got=f"--set {changes[0]}",
            fix="give --set together with a recipe file; that makes another run folder",
        )
    _train_again(run_or_recipe, as_json=as_json, quiet=quiet)


app.command()(evaluate)


@app.command(name="list")
def list_(
    what: Annotated[Listed, typer.Argument(help="What to list.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where recipes or runs are; recipes/ and runs/ unless given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what there is."""
    from radvqa.cli import listing

    if what == "recipes":
        rows = listing.recipes(folder or Path("recipes"))
    elif what == "runs":
        rows = listing.runs(folder or Path("runs"))
    else:
        rows = {
            "datasets": listing.datasets,
            "models": listing.models,
            "metrics": listing.metrics,
            "protocols": listing.protocols,
            "prompts": listing.prompts,
        }[what]()
    if as_json:
        print_json(rows)
    else:
        _print_table(rows)


@app.command()
def show(run: RunPath, as_json: Json = False) -> None:
    """Show a run.

    Its recipe, what is done, its headline numbers and where its report is.
    """
    from radvqa.cli import listing
    from radvqa.run.folder import RunFolder

    facts = listing.describe_run(RunFolder.open(run))
    if as_json:
        print_json(facts)
        return
    names = ("run", "digest", "commands", "done", "report")
    _print_table([{"what": name, "value": _shown(facts[name])} for name in names])
    if facts["summary"] is not None:
        typer.echo()
        _print_table(listing.score_rows(facts["summary"]))
    typer.echo("\nrecipe:\n")
    typer.echo(listing.show_recipe(facts["recipe"]))
    typer.echo(NOTICE)


def main() -> None:
    """Run the command line and exit: 0 done, 2 the user must mend something, 1 a bug, 130 interrupted."""
    app()


def _run(recipe_path: Path, changes: Sequence[str], *, until: str, as_json: bool, quiet: bool) -> None:
    from radvqa.recipe import load_recipe

    # Before torch is loaded, which takes seconds: a wrong key should be told at once.
    recipe = load_recipe(recipe_path, changes)
    from radvqa import pipeline
    from radvqa.run.progress import Progress

    folder = pipeline.run(recipe, command=command_line(), until=until, progress=Progress(quiet))
    if folder is not None:
        _print_result(folder, as_json=as_json)


def _train_again(path: Path, *, as_json: bool, quiet: bool) -> None:
    from radvqa.run.folder import RunFolder

    folder = RunFolder.open(path)
    from radvqa import pipeline
    from radvqa.run.progress import Progress

    if pipeline.train_again(folder, command=command_line(), progress=Progress(quiet)):
        _print_result(folder, as_json=as_json)


def _print_result(folder: "RunFolder", *, as_json: bool) -> None:
    from radvqa.cli.listing import REPORT, headline, score_rows

    report, summary = folder.file(REPORT), headline(folder)
    shown = str(report) if report.is_file() else None
    if as_json:
        print_json({"run": str(folder.path), "report": shown, "summary": summary})
        return
    typer.echo(f"run: {folder.path}")
    if shown is not None:
        typer.echo(f"report: {shown}")
    if summary is not None:
        typer.echo()
        _print_table(score_rows(summary))
    typer.echo(NOTICE)


def _fail(error: RadvqaError) -> None:
    typer.echo(f"error: {error}", err=True)


def _disk_problem(error: Exception) -> RunError | None:
    """The message for a file that cannot be written or read, wherever that was noticed; None for other errors."""
    from radvqa.records import unwritable

    if isinstance(error, OSError):
        number, name = error.errno, error.filename
    else:
        match = re.search(r"\(os error ([0-9]+)\)", str(error))
        number, name = int(match[1]) if match else None, None
    path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else Path("the output folder")
    if number in _NO_ROOM:
        return unwritable(path, OSError(number, os.strerror(number)))
    if number in _NO_RIGHT:
        return RunError(
            "no right to read or write a file",
            where=str(path),
            got=os.strerror(number),
            fix="change the rights of the file or folder, or choose another folder with --set output=DIR",
        )
    return None


def _print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with the same keys as a table, or one below the other where a table would get too wide."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        typer.echo("none", err=True)
        return
    if len(rows[0]) > 3:
        for row in rows:
            (_, title), *facts = row.items()
            typer.echo("\n".join([title, *(f"  {name}: {value}" for name, value in facts)]))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(value) for value in row.values()))
    Console().print(table)


def _shown(value: Any) -> str:
    """A value in one table cell."""
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "nothing yet"
    return "none yet" if value is None else str(value)
