"""The verbs of ``radvqa synth``: make question-answer pairs from captions, review them, screen those of others."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, final

import typer
import typer.core

from radvqa.cli.console import command_line

NOTICE = "Written by a program, not by radiologists. Research tool, not for clinical use."


@final
class RecipeFirst(typer.core.TyperGroup):
    """``radvqa synth RECIPE`` is short for ``radvqa synth make RECIPE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``make`` in front of a recipe, or of options that stand before it."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="synth",
    cls=RecipeFirst,
    help="Write question-answer pairs from captions: `radvqa synth RECIPE`. Review them. Screen those of others.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command()
def make(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see docs/synthesis.md.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, e.g. limit=100; repeatable."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write, screen and balance pairs; go on where an earlier start stopped.

    No caption that has a reply is asked about again, in recipes with other screens neither. See docs/synthesis.md.
    """
    from radvqa.recipe import load_synth_recipe
    from radvqa.run.progress import Progress
    from radvqa.synth.synthesis import synthesise

    loaded = load_synth_recipe(recipe, changes or [])
    folder = synthesise(loaded, command=command_line(), progress=Progress(quiet))
    summary = json.loads(folder.file("summary.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps({"folder": str(folder.path), "summary": summary}, ensure_ascii=False, indent=2))
        return
    typer.echo(f"folder: {folder.path}")
    typer.echo(f"report: {folder.file('report.html')}")
    for line in _told(summary):
        typer.echo(line)
    typer.echo(NOTICE)


@app.command()
def review(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a finished synthesis.")],
    *,
    reader: Annotated[
        str | None, typer.Option(help="Name of the one who decides; the page asks for it unless given.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Pairs in the queue when it is drawn first; 200 unless given.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; on another than this machine's own, a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    figures: Annotated[bool, typer.Option("--figures", help="Print the figures so far and serve nothing.")] = False,
) -> None:
    """Let readers accept, edit or reject a sample of the pairs, on a page that is served until Ctrl-C.

    Kept and removed pairs are drawn, stratified; readers do not see which is which. Decisions are only ever added. The
    report of the synthesis is renewed when the page is closed. See docs/synth_review.md.
    """
    from radvqa.run.folder import SynthFolder
    from radvqa.synth.report import write_report
    from radvqa.synth.review import open_review
    from radvqa.synth.review.figures import figures as reckon
    from radvqa.synth.synthesis import read_pairs

    opened = SynthFolder.open(folder)
    pairs, captions = read_pairs(opened)
    queue = open_review(folder, pairs, captions, size=size, seed=opened.recipe.seed)
    if queue.mended:
        typer.echo(f"{queue.mended} decision that a kill had cut off half-way was removed; make it again", err=True)
    if figures:
        found = reckon(queue)
        typer.echo(json.dumps(None if found is None else found.as_dict(), ensure_ascii=False, indent=2))
        return
    from radvqa.synth.review.server import create_app, serve

    serve(
        create_app(queue, reader=reader, host=host), host=host, port=port, say=lambda text: typer.echo(text, err=True)
    )
    typer.echo(f"report: {write_report(folder)}")


@app.command()
def screen(
    questions: Annotated[str, typer.Argument(metavar="QUESTIONS", help="A folder or file, or ADAPTER=PATH.")],
    *,
    captions: Annotated[
        str, typer.Option(metavar="CAPTIONS", help="The captions that the questions were made from, named likewise.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="ADAPTER.OPTION=VALUE", help="An option of an adapter; repeatable."),
    ] = None,
    longest_answer_words: Annotated[int, typer.Option(min=1, help="Longer answers fail the screen long_answer.")] = 12,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every pair with its verdicts as JSON Lines.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what each screen would remove from pairs that somebody else made."""
    from radvqa.data.detect import open_path, parse_options
    from radvqa.records import write_records
    from radvqa.run.engine import LocalEngine
    from radvqa.synth.screening import screen_dataset
    from radvqa.synth.screens import ScreenSettings
    from radvqa.synth.summary import screen_counts

    options = parse_options(changes or [])
    opened = [open_path(spec, options=options, for_audit=True)[2] for spec in (questions, captions)]
    settings = ScreenSettings(longest_answer_words=longest_answer_words)
    found = screen_dataset(opened[0], opened[1], settings, engine=LocalEngine())
    if to is not None:
        write_records(to, found.pairs)
    counts, pairs = screen_counts(found.pairs), len(found.pairs)
    kept = sum(not pair.reason for pair in found.pairs)
    if as_json:
        facts = {"pairs": pairs, "kept": kept, "without_caption": found.without_caption, "screens": counts}
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{'screen':<24}{'seen':>8}{'failed':>8}{'share':>8}{'alone':>8}")
    for name, one in counts.items():
        share = _share(one["failed"] / one["seen"])
        typer.echo(f"{name:<24}{one['seen']:>8,}{one['failed']:>8,}{share:>8}{one['failed_alone']:>8,}")
    typer.echo(f"{kept:,} of {pairs:,} pairs pass every screen; {found.without_caption:,} have no caption here")


def _told(summary: Mapping[str, Any]) -> list[str]:
    captions, pairs, floor = summary["captions"], summary["pairs"], summary["floor"]
    before, after = summary["yes_no"]["candidates"], summary["yes_no"]["kept"]
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in summary["reasons"].items())
    empty = ", ".join(f"{number:,} {reason}" for reason, number in summary["empty_slots"].items())
    return [
        f"{pairs['kept']:,} of {pairs['candidates']:,} pairs kept from {captions['with_a_kept_pair']:,} of "
        f"{captions['asked']:,} captions",
        f"slots without a pair: {empty or 'none'}",
        f"removed: {reasons or 'none'}",
        f"yes among yes/no answers: {_share(after['yes_share'])} of {after['pairs']:,} "
        f"(before balancing {_share(before['yes_share'])} of {before['pairs']:,})",
        f"question-only floor: {_share(floor['exact_match'])} (yes/no {_share(floor['yes_no'])}, "
        f"open {_share(floor['open'])})",
    ]


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
