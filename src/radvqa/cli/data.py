"""The verbs of ``radvqa data``: fetch, audit and export data sets."""

import typer

app = typer.Typer(
    name="data",
    help="Fetch data sets, find what is wrong with them, export them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
