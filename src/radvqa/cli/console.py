"""What all verbs share at the terminal: the notice, JSON, aligned tables, the command as typed, checked choices."""

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import typer

from radvqa.errors import RecipeError

NOTICE = "Research tool, not for clinical use."

Choice = TypeVar("Choice", bound=str)


def print_json(value: Any) -> None:
    """Print to stdout; what JSON does not know is printed as text."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of the same length as lines with their columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def command_line() -> str:
    """The command of this process, as typed."""
    return shlex.join(["radvqa", *sys.argv[1:]])


def known_choices(option: str, given: Sequence[str] | None, known: Sequence[Choice]) -> list[Choice]:
    """What was given, each once and checked, since typer has no repeatable choices; nothing for None.

    Raises:
        RecipeError: a value that is not known.
    """
    if unknown := [value for value in given or () if value not in known]:
        expected = f"one of {', '.join(known)}"
        raise RecipeError("there is no such choice", where=option, expected=expected, got=unknown[0])
    return [one for value in dict.fromkeys(given or ()) for one in known if one == value]
