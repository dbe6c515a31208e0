"""The verb ``radvqa export``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from radvqa.publish.export import Exported


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; see `radvqa list runs`.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; new or empty.")],
    *,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a complete checkpoint, with what was learned in its weights.")
    ] = False,
    dtype: Annotated[
        Literal["base", "float32", "bfloat16"], typer.Option(help="Of a complete checkpoint's weights.")
    ] = "base",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load it in plain transformers and compare logits.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Write what a trained run learned into a folder to pass on.

    Weights, processor, training manifest and model card: as a PEFT adapter, or with --merge as a complete checkpoint.
    Fails if plain transformers and peft do not give the same logits. See docs/plain_transformers.md.
    """
    from radvqa.run.folder import RunFolder

    opened = RunFolder.open(run)
    from radvqa import pipeline
    from radvqa.publish.export import export as write
    from radvqa.run.progress import Progress

    pipeline.require_trained(opened)
    progress = Progress(quiet)
    _print_exported(write(opened, folder, merge=merge, dtype=dtype, check=check, say=progress.say), as_json=as_json)


def _print_exported(exported: "Exported", *, as_json: bool) -> None:
    check = exported.check
    if as_json:
        facts = {
            "folder": str(exported.folder),
            "kind": exported.kind,
            "dtype": exported.dtype,
            "bytes": exported.bytes,
            "check": None
            if check is None
            else {"difference": check.difference, "largest_logit": check.scale, "allowed": check.bound * check.scale},
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{exported.kind}: {exported.folder} ({exported.bytes / 1e6:,.1f} MB, {exported.dtype})")
    if check is None:
        typer.echo("not checked: whether it loads elsewhere is unknown")
    else:
        typer.echo(
            f"checked: plain transformers give the same logits within {check.difference:.2g} "
            f"(largest logit {check.scale:.3g}, allowed {check.bound * check.scale:.2g})"
        )
    typer.echo("Research tool, not for clinical use.")
