"""The verb ``radvqa serve``."""

from pathlib import Path
from typing import Annotated

import typer

from radvqa.cli.console import NOTICE


def serve(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders that were explained into.")
    ],
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; on another than this machine's own, a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8766,
    token: Annotated[bool, typer.Option("--token", help="Ask for a token on this machine's own address too.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Load the run's model when a new question is asked on the page.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Look at explained cases in a browser: pictures, maps, facts, suspicious cases. Until Ctrl-C.

    Explain them first: `radvqa explain RUN`. Stages and several runs are shown side by side. See docs/expert_page.md.
    """
    import secrets

    from radvqa.serve.app import create_app
    from radvqa.web.serving import serve as serve_app

    opening = None
    if live:
        from radvqa.serve.live_model import open_live

        opening = open_live
    app = create_app(runs, host=host, token=secrets.token_urlsafe(24) if token else None, live=opening)
    notes = [f"{one.name}: {len(one.listing().lines)} cases" for one in app.state.cases.series]
    if app.state.token:
        notes.append("whoever has this address may see the pictures; it is sent unencrypted")
    serve_app(
        app,
        host=host,
        port=port,
        name="page",
        say=lambda text: typer.echo(text, err=True),
        notes=[*notes, NOTICE, "Ctrl-C stops"],
        ready=_open if open_browser else None,
    )


def _open(address: str) -> None:
    """In a thread of its own: some browsers return when they are closed, and the page is served meanwhile."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
