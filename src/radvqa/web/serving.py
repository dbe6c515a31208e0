"""Listening on an address of this machine until Ctrl-C."""

import socket
from collections.abc import Callable, Sequence

import uvicorn
from starlette.applications import Starlette

from radvqa.errors import RunError


def serve(
    app: Starlette,
    *,
    host: str,
    port: int,
    name: str,
    say: Callable[[str], None],
    notes: Sequence[str] = (),
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until Ctrl-C. The address is said first, as another machine would open it; port 0 takes a free one.

    Args:
        app: its ``state.token`` is part of the address if there is one.
        host: address to listen on.
        port: 0 to 65535.
        name: what is served, in a word: ``review at http://...``.
        say: told the address and ``notes``.
        notes: lines said after the address.
        ready: called with the whole address once connections are taken.

    Raises:
        RunError: the address is not free or not one of this machine.
    """
    listening = _listen(host, port, name)
    with listening:
        name_of_host = _reached_at(host)
        shown = f"[{name_of_host}]" if ":" in name_of_host else name_of_host
        query = f"/?token={app.state.token}" if app.state.token else "/"
        address = f"http://{shown}:{listening.getsockname()[1]}{query}"
        for line in (f"{name} at {address}", *notes):
            say(line)
        if ready is not None:
            ready(address)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3, lifespan="off"
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # how uvicorn passes Ctrl-C on after it has finished what was under way


def _reached_at(host: str) -> str:
    """An address to open: of ``0.0.0.0`` and ``::``, which stand for all addresses of this machine, the outer one."""
    if host not in ("0.0.0.0", "::"):
        return host
    family, elsewhere = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # sends nothing: it asks which address packets would leave from
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


def _listen(host: str, port: int, name: str) -> socket.socket:
    try:
        if not 0 <= port <= 65_535:  # the resolver would quietly take the rest of a division
            raise OverflowError("ports are 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        raise RunError(
            f"cannot serve the {name} at this address",
            where=f"{host}, port {port}",
            expected="a free port on an address of this machine",
            got=str(error),
            fix="choose another one with --port, or 0 for any that is free",
        ) from error
    return listening
