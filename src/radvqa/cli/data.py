"""The verbs of ``radvqa data``: fetch, audit and export data sets."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from radvqa.cli.console import NOTICE, print_json
from radvqa.errors import RecipeError, RunError

if TYPE_CHECKING:
    from radvqa.audit import AuditReport
    from radvqa.data.download.catalogue import Entry
    from radvqa.data.download.fetch import Fetched
    from radvqa.data.download.manifest import Acceptance

app = typer.Typer(
    name="data",
    help="Fetch data sets, find what is wrong with them, export them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ExportFormat = Literal["hub", "llava", "messages", "paligemma"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command()
def get(
    name: Annotated[str | None, typer.Argument(help="What to fetch; without it, lists what there is.")] = None,
    *,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to; data/NAME unless given.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence that is shown; else you are asked.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Fetch this state of the source; the newest unless given.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Fetch exactly what this manifest.json of a colleague holds.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a data set, or list those that can be.

    Shows its licence first, checks the room on the disk, resumes what was interrupted, verifies checksums, unpacks.
    See docs/download.md.
    """
    if name is None:
        _print_catalogue(as_json=as_json)
        return
    from radvqa.data.download import fetch
    from radvqa.data.download.catalogue import entry_named
    from radvqa.data.download.manifest import read_manifest
    from radvqa.run.progress import Progress

    entry = entry_named(name)
    folder = to if to is not None else Path("data") / name
    fetched = fetch.get(
        entry,
        folder,
        acceptance=_acceptance(entry, folder, accepted=accept_licence),
        revision=revision,
        pinned=read_manifest(manifest) if manifest is not None else None,
        progress=Progress(quiet),
    )
    _print_fetched(fetched, as_json=as_json)


@app.command()
def audit(
    datasets: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Folders or files, or ADAPTER=PATH where that is not clear."),
    ],
    *,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where audit.html and audit.json go.")] = Path("audit"),
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="ADAPTER.OPTION=VALUE", help="An option of one adapter; repeatable."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode images; as many as there are cores unless given.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Decode images on this Ray cluster; `local` starts one here.")
    ] = None,
    fail_on_leak: Annotated[bool, typer.Option("--fail-on-leak", help="Exit with 2 if there is a leak.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find what is wrong with data sets, each alone and together.

    Leaks between splits and data sets (groups, rows, equal and nearly equal images), answers that need no image, wrong
    or contradictory rows, layout, spelling, licences. Writes a page and JSON with every row. See docs/audit.md.
    """
    from radvqa.audit import audit as find
    from radvqa.audit.page import make_room, write_audit
    from radvqa.data.detect import open_path, parse_options
    from radvqa.run.engine import LocalEngine, RayEngine
    from radvqa.run.progress import Progress

    options = parse_options(changes or [])
    opened = [open_path(spec, options=options, for_audit=True) for spec in datasets]
    names = {name for _, name, _ in opened}
    if unused := [option for option in options if "." in option and option.rpartition(".")[0] not in names]:
        raise RecipeError(
            f"no audited data set takes the option {unused[0]!r}",
            where="--set",
            expected=f"ADAPTER.OPTION with one of {', '.join(sorted(names))}",
            got=unused[0],
            fix="correct the name before the dot",
        )
    make_room(to)
    address = None if ray == "local" else ray
    engine = LocalEngine(workers) if ray is None else RayEngine(workers, address=address)
    report = find(opened, progress=Progress(quiet), engine=engine)
    data, page = write_audit(report, to)
    if as_json:
        typer.echo(report.as_json())
    else:
        _print_audit(report, data=data, page=page)
    if fail_on_leak and report.severities()["leak"]:
        raise typer.Exit(2)


@app.command()
def export(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A folder or file, or ADAPTER=PATH.")],
    layout: Annotated[
        ExportFormat,
        typer.Option(
            "--format", help="Hugging Face Parquet folder; LLaVA conversations; chat messages; PaliGemma prefix/suffix."
        ),
    ],
    *,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where to: a folder that is not there yet, or is empty.")],
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT", help="Write train, val or test alone; repeatable. All unless given."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="An option of the adapter, e.g. language=en; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many records of each split.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a data set in a format of the field.

    Copies the pictures, and lays a data card and everything that was left out or mended beside it. `radvqa` reads all
    four formats back. See docs/export.md.
    """
    from radvqa.data.detect import open_path, parse_options, path_of
    from radvqa.data.export.writing import Source, export_dataset
    from radvqa.run.progress import Progress

    options = parse_options(changes or [])
    label, name, adapter = open_path(dataset, options=options)
    if unused := [option for option in options if "." in option and option.rpartition(".")[0] != name]:
        raise RecipeError(
            f"the exported data set does not take the option {unused[0]!r}",
            where="--set",
            expected=f"OPTION=VALUE, or {name}.OPTION=VALUE",
            got=unused[0],
            fix="correct the name before the dot, or leave it out",
        )
    manifest = export_dataset(
        adapter,
        to,
        layout=layout,
        source=Source(name=label, adapter=name, root=path_of(dataset), options=options),
        splits=split or (),
        limit=limit,
        progress=Progress(quiet),
    )
    _print_export(to, manifest, as_json=as_json)


def _print_audit(report: "AuditReport", *, data: Path, page: Path) -> None:
    from radvqa.cli.app import _print_table

    _print_table(
        [
            {
                "severity": finding.severity,
                "data set": finding.dataset,
                "finding": f"{finding.count:,} {finding.unit}: {finding.title}",
            }
            for finding in report.findings
        ]
    )
    typer.echo()
    typer.echo(", ".join(f"{number} {severity}" for severity, number in report.severities().items()))
    typer.echo(f"page: {page}\njson: {data}")
    typer.echo(NOTICE)


def _print_export(folder: Path, manifest: dict[str, Any], *, as_json: bool) -> None:
    from radvqa.cli.app import _print_table

    if as_json:
        print_json({"folder": str(folder), **manifest})
        return
    typer.echo(f"{manifest['name']}: {folder} ({manifest['format']})\n")
    for split, one in manifest["splits"].items():
        typer.echo(f"{split}: {one['records']:,} records about {one['images']:,} images")
    rows = [
        {"split": split, "left out or mended": reason, "rows": f"{count:,}"}
        for split, one in manifest["splits"].items()
        for reason, count in [*one["rejects"].items(), *one["defects"].items()]
    ]
    if rows:
        typer.echo()
        _print_table(rows)
    typer.echo(f"\nlicence: {manifest['source']['licence']}")
    typer.echo(NOTICE)


def _acceptance(entry: "Entry", folder: Path, *, accepted: bool) -> "Acceptance":
    """The record that the user accepts the licence; shows it and asks where that is not known yet."""
    from radvqa.data.download.fetch import accepted_before
    from radvqa.data.download.manifest import accept

    if (before := accepted_before(entry, folder)) is not None:
        return before
    typer.echo(entry.terms, err=True)
    if entry.unverified:
        typer.echo(f"  unverified here: {entry.unverified}", err=True)
    if accepted:
        return accept(entry.terms, how="--accept-licence")
    if _on_terminal() and typer.confirm("Do you accept this licence?", err=True):
        return accept(entry.terms, how="yes on the terminal")
    raise RunError(
        "the licence of the data set was not accepted",
        where=entry.source.address,
        expected="--accept-licence, or yes on a terminal",
        got=entry.licence,
        fix=f"read the licence; if you accept it: radvqa data get {entry.name} --accept-licence",
    )


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _print_catalogue(*, as_json: bool) -> None:
    from radvqa.cli.app import _print_table
    from radvqa.data.download.catalogue import CATALOGUE
    from radvqa.data.download.fetch import readable_bytes

    entries = CATALOGUE.values()
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "about": one.about,
                    "adapter": one.adapter,
                    "bytes": one.bytes,
                    "licence": one.licence,
                    "licence_source": one.licence_source,
                    "source": one.source.address,
                    "homepage": one.homepage,
                    "unverified": one.unverified,
                }
                for one in entries
            ]
        )
        return
    _print_table(
        [
            {
                "name": one.name,
                "about": one.about,
                "size": "unknown" if one.bytes is None else f"about {readable_bytes(one.bytes)} to fetch",
                "licence": one.licence,
                "source": one.source.address,
                "adapter": one.adapter,
                "unverified here": one.unverified or "no doubt known",
            }
            for one in entries
        ]
    )


def _print_fetched(fetched: "Fetched", *, as_json: bool) -> None:
    from radvqa.data.download.fetch import readable_bytes
    from radvqa.data.download.manifest import MANIFEST_FILE

    entry, manifest = fetched.entry, fetched.manifest
    files = len(manifest.contents())
    manifest_path = fetched.folder / MANIFEST_FILE
    if as_json:
        print_json(
            {
                "name": entry.name,
                "folder": str(fetched.folder),
                "root": str(fetched.root),
                "adapter": entry.adapter,
                "files": files,
                "bytes": fetched.bytes,
                "source": manifest.source,
                "revision": manifest.revision,
                "licence": entry.licence,
                "stated_licence": manifest.stated_licence,
                "manifest": str(manifest_path),
                "fresh": fetched.fresh,
            }
        )
        return
    typer.echo(f"{entry.name}: {fetched.folder}" + ("" if fetched.fresh else " (was there already)"))
    typer.echo(f"files: {files:,}, {readable_bytes(fetched.bytes)}")
    if manifest.revision:
        typer.echo(f"revision: {manifest.revision}")
    typer.echo(f"manifest: {manifest_path}")
    typer.echo(f"licence that the source states: {manifest.stated_licence or 'none'}")
    if citation := _citation(entry):
        typer.echo(f"please cite: {citation}")
    typer.echo("\nIn a recipe:\n")
    options = "".join(f", {option}: {value}" for option, value in entry.options.items())
    typer.echo(f"datasets:\n  {entry.name}: {{adapter: {entry.adapter}, root: {fetched.root}{options}}}\n")
    if entry.hint:
        typer.echo(f"Note: {entry.hint}\n")
    typer.echo(f"Before training: radvqa data audit {fetched.root}")
    typer.echo(NOTICE)


def _citation(entry: "Entry") -> str:
    from radvqa.data import DATASETS, adapter_class

    return adapter_class(entry.adapter, where=entry.name).citation if entry.adapter in DATASETS else ""
