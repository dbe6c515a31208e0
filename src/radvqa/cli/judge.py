"""The verb ``radvqa judge``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radvqa.cli.console import NOTICE, print_json
from radvqa.errors import RecipeError

if TYPE_CHECKING:
    from radvqa.recipe import Generator


def judge(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="As for `radvqa score`.")],
    *,
    model: Annotated[
        Path,
        typer.Option(metavar="FILE", help="YAML with the keys of `generator:` in a recipe of synthesis."),
    ],
    prompt: Annotated[str, typer.Option(help="A shipped prompt, or a Markdown file of your own.")] = "judge@1",
    repeats: Annotated[int, typer.Option(min=1, help="Times each answer is judged in the usual order.")] = 2,
    swap: Annotated[bool, typer.Option("--swap/--no-swap", help="Judge once more with the answer first.")] = True,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="Where a field is; repeatable.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to; NAME_judged beside the predictions unless given.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Let a language model judge answers, and measure how far it can be believed.

    Every reply is kept: a second start asks only for what is missing. The judge's number is a check beside the scores
    and never a headline. See docs/judge.md.
    """
    from radvqa.evaluate.judge import judge as ask
    from radvqa.evaluate.judge_prompt import load_judge_prompt
    from radvqa.evaluate.prediction_files import read_predictions
    from radvqa.llm.opening import open_text_model
    from radvqa.run.progress import Progress

    loaded, generator = load_judge_prompt(prompt), _generator(model)
    found = read_predictions(predictions, columns=_pairs(columns or []))
    for sentence in (*found.notes, *(f"warning: {warning}" for warning in found.warnings)):
        typer.echo(f"{found.path}: {sentence}", err=True)
    if not found.predictions:
        raise RecipeError("there is nothing to judge", where=str(predictions), got="no prediction that can be read")
    folder = to or predictions.with_name(f"{predictions.stem}_judged")
    progress = Progress(quiet)
    opened = open_text_model(generator, seed=0, say=progress.say)
    try:
        result = ask(found.predictions, opened, loaded, folder=folder, repeats=repeats, swap=swap, progress=progress)
    finally:
        opened.close()
    if as_json:
        print_json({"folder": str(folder), **result})
        return
    typer.echo(f"folder: {folder}")
    for line in _told(result):
        typer.echo(line)
    typer.echo(NOTICE)


def _generator(path: Path) -> "Generator":
    from pydantic import ValidationError

    from radvqa.recipe import Generator, parse_yaml

    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            "the file of the judge's model cannot be read", where=str(path), got=str(error), fix="check the path"
        ) from error
    if isinstance(values, dict) and "generator" in values:
        values = values["generator"]
    try:
        return Generator.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc'])) or 'all of it'}: {one['msg']}" for one in error.errors()]
        raise RecipeError(
            "the file of the judge's model has mistakes:\n    " + "\n    ".join(problems),
            where=str(path),
            expected="backend, model, url and the other keys of `generator:`",
            fix="docs/synthesis_recipes.md lists the keys of `generator`",
        ) from error


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = dict(one.partition("=")[::2] for one in given)
    if not all(name and column for name, column in pairs.items()):
        raise RecipeError("--map takes FIELD=COLUMN", got=" ".join(given), fix="write --map text=prediction")
    return pairs


def _told(result: Mapping[str, Any]) -> list[str]:
    counts, judge_, repeats, swap = result["counts"], result["judge"], result["repeats"], result["swap"]
    scorer = result["scorer"]
    said = ", ".join(f"{number:,} {word}" for word, number in counts["verdicts"].items())
    lines = [
        f"judge: {judge_['name']} ({judge_['backend']}), {judge_['first_reply'] or 'no reply'}; prompt "
        f"{result['prompt']['name']} {result['prompt']['sha256'][:12]}",
        f"verdicts: {said}; {counts['not_asked']:,} empty answers not asked about, which are wrong",
    ]
    lines += [
        f"judged correct, {name}: {_share(one['mean'])} [{_share(one['low'])}, {_share(one['high'])}] of "
        f"{one['samples']:,}"
        for name, one in result["accuracy"].items()
        if one["samples"]
    ]
    lines.append(f"same verdict in all {repeats['times']} repeats: {_share(repeats['all_equal'])}")
    if swap is not None:
        lines.append(
            f"verdict changed with the order: {_share(swap['changed'])}; correct in both orders "
            f"{_share(swap['both'])}, in either {_share(swap['either'])}"
        )
    kappa = scorer["kappa"]["value"]
    lines.append(
        f"our own accuracy: {_share(scorer['mean'])}; equal verdicts {_share(scorer['equal'])}, kappa "
        f"{'undefined' if kappa is None else f'{kappa:.2f}'}"
    )
    lines.append(result["caution"])
    return lines


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"
