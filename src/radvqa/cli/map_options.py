"""Options of ``radvqa explain cases`` that choose how maps are made, read before a model is opened."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from radvqa.errors import RecipeError

if TYPE_CHECKING:
    from radvqa.explain.map_settings import MapSettings

Alpha = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, metavar="F", help="Share of each step that stays in place, of rollout and rollout_value."
    ),
]
Layers = Annotated[
    str | None, typer.Option(metavar="A:B", help="Layers A to B - 1, from 0, of attention maps; all unless given.")
]
Heads = Annotated[
    str | None, typer.Option(metavar="0,3", help="Heads of raw, contrast and relative; all unless given.")
]
Fusion = Annotated[Literal["mean", "max", "min"], typer.Option(help="How rollouts join the heads of a layer.")]
Sinks = Annotated[
    Literal["mark", "remove"],
    typer.Option(help="Places that draw attention whatever is asked: mark them, or take their weight out."),
]
Foil = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="Another answer: gradient maps of the whole answer show what speaks for it and not for this one.",
    ),
]


def map_settings(
    methods: Sequence[str],
    *,
    usual_alpha: float,
    alpha: float | None,
    layers: str | None,
    heads: str | None,
    fusion: Literal["mean", "max", "min"],
    sinks: Literal["mark", "remove"],
    foil: str,
) -> "MapSettings":
    """The settings that the options name.

    Raises:
        RecipeError: layers or heads cannot be read, or none of the methods heeds one of the choices.
    """
    from radvqa.explain.map_settings import MapSettings, used_settings

    usual = MapSettings(alpha=usual_alpha)
    chosen = MapSettings(
        alpha=usual_alpha if alpha is None else alpha,
        layers=_layers(layers),
        heads=_heads(heads),
        fusion=fusion,
        sinks=sinks,
        foil=foil,
    )
    heeded = used_settings(methods, chosen)
    for name in MapSettings.__slots__:
        if name not in heeded and getattr(chosen, name) != getattr(usual, name):
            raise RecipeError(
                "none of the methods heeds this choice",
                where=f"--{name}",
                got=", ".join(methods),
                fix="name a method that does after --methods, or leave the option out",
            )
    return chosen


def _layers(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    found = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", given)
    if found is None or int(found[1]) >= int(found[2]):
        raise _unreadable("--layers", "first layer, colon, and the one after the last, such as 0:9", given)
    return int(found[1]), int(found[2])


def _heads(given: str | None) -> tuple[int, ...] | None:
    if given is None:
        return None
    if re.fullmatch(r"[0-9]{1,4}( ?, ?[0-9]{1,4})*", given) is None:
        raise _unreadable("--heads", "numbers of heads with commas between, such as 0,3", given)
    return tuple(sorted({int(one) for one in given.split(",")}))


def _unreadable(option: str, expected: str, given: str) -> RecipeError:
    return RecipeError("the choice cannot be read", where=option, expected=expected, got=repr(given)[:80])
