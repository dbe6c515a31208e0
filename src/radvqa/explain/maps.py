"""All saliency maps of one question and its answer, by method, each with its facts and warnings in plain words.

Axes: L layers, n positions, t answer tokens, i image cells, r and c rows and columns of the image grid.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from radvqa.errors import RecipeError
from radvqa.explain.asked import Asked, answer_ids
from radvqa.explain.attention_maps import AttentionMaps
from radvqa.explain.capture import Keep, Trace, trace
from radvqa.explain.gradient import gradient_maps
from radvqa.explain.map_settings import MapSettings
from radvqa.explain.measured import SAME_MAP
from radvqa.explain.methods import DEFAULT_METHODS, METHODS
from radvqa.explain.occlusion import Kind, occlusion_map
from radvqa.explain.rollout import row_shares
from radvqa.explain.saliency_map import SaliencyMap, answer_grid_map, answer_map, grid_maps, image_maps
from radvqa.explain.two_tower import TwoTower, compose, tower_residual, tower_rollout
from radvqa.explain.vision_capture import trace_vision
from radvqa.models.layout import Question, Row, prompt_text

__all__ = ["DEFAULT_METHODS", "METHODS", "MapSet", "MapSettings", "generic_question", "maps_of", "needed"]

GENERIC_QUESTION = "Describe the image."

STANDS_OUT = 1.5
"""Times the mean cell: below it no cell stands out."""

_ROWS: Mapping[str, Callable[[AttentionMaps, "MapSettings"], Tensor]] = {
    "raw": lambda seen, _: seen.raw,
    "raw_value": lambda seen, _: seen.raw_value,
    "rollout": lambda seen, settings: seen.rollout(settings.alpha),
    "rollout_90": lambda seen, _: seen.rollout(0.9),
    "rollout_norm": lambda seen, _: seen.rollout_by_norms(),
    "rollout_value": lambda seen, settings: seen.rollout_by_values(settings.alpha),
    "contrast": lambda seen, _: seen.contrast,
}
_ATTENTION = (*_ROWS, "relative", "two_tower")
_GRADIENTS = ("attention_gradient", "chefer", "grad_cam")
_OCCLUSIONS: Mapping[str, Kind] = {"token_occlusion": "token", "pixel_occlusion": "pixel"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapSet:
    """The maps of one method.

    Attributes:
        method: its name in ``METHODS``.
        tokens: one map per answer token; empty if only the whole answer's was wanted.
        answer: the map of the whole answer. For attention the mean of its tokens' rows; for gradients and occlusion
            it explains the log-probability of the whole answer.
        rows: the tokens' distributions over all positions; None where the method weighs image cells only.
        sinks: image cells (row, column) that draw attention whatever is asked. Known to attention methods only.
        warnings: what to keep in mind about these maps, in plain words.
    """

    method: str
    tokens: tuple[SaliencyMap, ...]
    answer: SaliencyMap
    rows: Float[Tensor, "t n"] | None
    sinks: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()


def maps_of(
    asked: Asked,
    methods: Iterable[str] = DEFAULT_METHODS,
    *,
    settings: MapSettings = MapSettings(),  # noqa: B008 - frozen
    generic: Asked | None = None,
    tokens: bool = True,
    traced: Trace | None = None,
) -> dict[str, MapSet]:
    """The maps of one question and its answer by every method named, in the order named.

    All attention methods share one traced forward, all gradient methods one pass per target.

    Args:
        asked: question and answer.
        methods: names in ``METHODS``.
        settings: what can be chosen.
        generic: the same picture and answer under a question that asks for nothing in particular, for ``relative``;
            made from ``GENERIC_QUESTION`` in English if needed and not given.
        tokens: False = the whole answer's maps only.
        traced: a trace of ``asked`` made before with at least ``needed(methods, settings)``, to save the forward.

    Raises:
        RecipeError: an unknown method, or a setting that selects nothing.
        DataError: the foil has no tokens.
        ModelError: the foil holds a token that the model must not read.
    """
    names = _checked(methods)
    found: dict[str, MapSet] = {}
    if any(name in _ATTENTION for name in names):
        found |= _attention(asked, names, settings, traced=traced, generic=generic, tokens=tokens)
    if any(name in _GRADIENTS for name in names):
        found |= _gradients(asked, names, settings, tokens=tokens)
    for name in names:
        if name in _OCCLUSIONS:
            found[name] = _occlusion(asked, name, settings, tokens=tokens)
    return {name: dataclasses.replace(found[name], warnings=_warnings(found[name])) for name in names}


def needed(methods: Iterable[str], settings: MapSettings = MapSettings()) -> Keep:  # noqa: B008 - frozen
    """What a trace must keep for these methods."""
    names = set(methods)
    return Keep(
        text_rows=bool(names.intersection(_ATTENTION)),
        fused=settings.fusion if names & {"rollout", "rollout_90", "rollout_norm", "two_tower"} else None,
        value_norms=bool(names & {"raw_value", "rollout_value"}),
        residual=bool(names & {"rollout_norm", "two_tower"}),
    )


def generic_question(asked: Asked, *, language: str = "en") -> Asked:
    """The same picture and answer under a question that asks for nothing in particular."""
    vlm = asked.vlm
    prompt = vlm.text_ids(prompt_text(GENERIC_QUESTION, language), asked.sample_id)
    row = Row(Path(), (Question(asked.sample_id, prompt, asked.answer_ids),))
    return dataclasses.replace(asked, batch=vlm.batch([row]).to(vlm.device), prompt_ids=prompt)


def _checked(methods: Iterable[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(methods))
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise RecipeError(
            "there is no such saliency method" if unknown else "no saliency method is named",
            expected=f"some of {', '.join(METHODS)}",
            got=", ".join(unknown),
        )
    return names


def _attention(
    asked: Asked,
    names: Sequence[str],
    settings: MapSettings,
    *,
    traced: Trace | None,
    generic: Asked | None,
    tokens: bool,
) -> dict[str, MapSet]:
    def traced_maps(one: Asked, its_trace: Trace) -> AttentionMaps:
        return AttentionMaps(
            asked=one,
            traced=its_trace,
            layers=slice(*settings.layers) if settings.layers else slice(None),
            heads=slice(None) if settings.heads is None else settings.heads,
            remove_sinks=settings.sinks == "remove",
            discard=settings.discard,
        )

    layers = asked.vlm.base.config.text_config.num_hidden_layers
    if settings.layers is not None and settings.layers[1] > layers:
        raise RecipeError(
            "there is no such layer", expected=f"A:B within 0:{layers}", got=":".join(map(str, settings.layers))
        )
    seen = traced_maps(asked, traced or trace(asked, needed(names, settings)))
    by_ratio = {"relative", "contrast"} if len(asked.answer_ids) == 1 else {"relative"}
    ratio: Tensor | None = None
    found = {}
    for name in names:
        if name not in _ATTENTION:
            continue
        if name in by_ratio:
            if ratio is None:
                other = generic or generic_question(asked)
                ratio = seen.relative(traced_maps(other, trace(other, Keep(text_rows=True))))
            one = _grid_set(asked, name, ratio, answer=ratio.mean(0), tokens=tokens)
        elif name == "two_tower":
            one = _two_tower(asked, seen, settings, tokens=tokens)
        else:
            one = _mean_set(asked, name, _ROWS[name](seen, settings), tokens=tokens)
        found[name] = dataclasses.replace(one, sinks=_cells(asked, seen.sinks))
    return found


def _two_tower(asked: Asked, seen: AttentionMaps, settings: MapSettings, *, tokens: bool) -> MapSet:
    alpha = tower_residual(asked) if settings.tower_alpha == "norm" else settings.tower_alpha
    tower = tower_rollout(trace_vision(asked), alpha=alpha, last=settings.tower_layers)
    composed = compose(seen.rollout_by_norms(), tower, image=asked.image)
    found = _mean_set(asked, "two_tower", composed.rows, tokens=tokens)
    return dataclasses.replace(found, warnings=_tower_warnings(composed))


def _gradients(asked: Asked, names: Sequence[str], settings: MapSettings, *, tokens: bool) -> dict[str, MapSet]:
    foil = answer_ids(asked.vlm, settings.foil, where="the foil") if settings.foil else None
    compared = foil is not None and foil != asked.answer_ids
    targets = _targets(asked, tokens=tokens)
    if not compared:
        weights_of = gradient_maps(asked, targets=targets)
    else:
        weights_of = gradient_maps(asked, targets=(None,), foil=foil)
        if tokens:
            of_tokens = gradient_maps(asked, targets=targets[:-1])
            weights_of = {name: torch.cat([of_tokens[name], answer]) for name, answer in weights_of.items()}
    found = {}
    for name, weights in weights_of.items():
        if name not in names:
            continue
        if name == "grad_cam":
            one = _grid_set(asked, name, weights[:-1], answer=weights[-1], tokens=tokens)
        else:
            shares = row_shares(weights)
            one = _row_set(asked, name, shares[:-1], answer=shares[-1], tokens=tokens)
        told = _foil_warnings(settings.foil, compared=compared)
        found[name] = dataclasses.replace(one, warnings=told)
    return found


def _occlusion(asked: Asked, name: str, settings: MapSettings, *, tokens: bool) -> MapSet:
    drops = occlusion_map(
        asked,
        kind=_OCCLUSIONS[name],
        window=settings.window,
        stride=settings.stride,
        targets=_targets(asked, tokens=tokens),
    )
    return _grid_set(asked, name, drops[:-1], answer=drops[-1], tokens=tokens)


def _targets(asked: Asked, *, tokens: bool) -> tuple[int | None, ...]:
    """Every answer token, and last the whole answer."""
    return (*range(len(asked.answer_ids)), None) if tokens else (None,)


def _mean_set(asked: Asked, name: str, rows: Float[Tensor, "t n"], *, tokens: bool) -> MapSet:
    """Maps of an attention method: the whole answer's row is the mean of its tokens'."""
    shares = row_shares(rows)
    return _row_set(asked, name, shares, answer=row_shares(shares.mean(0)), tokens=tokens)


def _row_set(
    asked: Asked, name: str, rows: Float[Tensor, "t n"], *, answer: Float[Tensor, " n"], tokens: bool
) -> MapSet:
    """Maps of a method with distributions; ``rows`` may be empty."""
    grid, where, words = asked.vlm.image_grid, asked.rows, _words(asked)
    return MapSet(
        method=name,
        tokens=image_maps(rows, asked.image, grid_shape=grid, positions=where, method=name, targets=words)
        if tokens
        else (),
        answer=answer_map(
            answer, asked.image, tokens=rows, grid_shape=grid, positions=where, method=name, target=_answer(asked)
        ),
        rows=rows if tokens else None,
    )


def _grid_set(
    asked: Asked, name: str, cells: Float[Tensor, "t i"], *, answer: Float[Tensor, " i"], tokens: bool
) -> MapSet:
    """Maps of a method that weighs image cells only; ``cells`` may be empty."""
    grid = asked.vlm.image_grid
    return MapSet(
        method=name,
        tokens=grid_maps(cells, grid_shape=grid, method=name, targets=_words(asked)) if tokens else (),
        answer=answer_grid_map(answer, tokens=cells, grid_shape=grid, method=name, target=_answer(asked)),
        rows=None,
    )


def _words(asked: Asked) -> tuple[str, ...]:
    return asked.pieces[-len(asked.answer_ids) :]


def _answer(asked: Asked) -> str:
    return str(asked.vlm.tokenizer.decode(list(asked.answer_ids)))


def _cells(asked: Asked, sinks: Bool[Tensor, " n"]) -> tuple[tuple[int, int], ...]:
    columns = asked.vlm.image_grid[1]
    return tuple(divmod(int(cell), columns) for cell in sinks[asked.image].nonzero()[:, 0])


def _warnings(found: MapSet) -> tuple[str, ...]:
    """What the facts of a method's maps say, in plain words."""
    answer = found.answer
    told = list(found.warnings)
    if len(found.tokens) > 1 or not math.isnan(answer.grid_specificity):
        if answer.specificity < SAME_MAP or (math.isnan(answer.specificity) and answer.grid_specificity < SAME_MAP):
            told.append("this map is the same for every word")
        elif answer.grid_specificity < SAME_MAP:
            told.append("the picture is the same for every word, only the weights on the text differ")
    if answer.image_mass < 0.5:
        told.append(f"most weight lies on text: the image has {_percent(answer.image_mass)}")
    if not (answer.grid > 0).any():
        told.append("the map is empty: no place in the image has any weight")
    elif answer.grid.max() < STANDS_OUT * answer.grid.mean():
        told.append("the map is nearly flat: no place stands out")
    on_sinks = _share(answer, found.sinks)
    if on_sinks > 0.5:
        told.append(f"{_percent(on_sinks)} of the image's weight lies on cells that draw attention whatever is asked")
    return tuple(told)


def _tower_warnings(composed: TwoTower) -> tuple[str, ...]:
    if not composed.destroyed:
        return ()
    return (
        f"the vision tower has destroyed this map: {_percent(composed.left)} of its structure is left, "
        f"the rest is the tower's own habit (rank {composed.rank:.1f}, moved by {composed.moved:.2f})",
    )


def _foil_warnings(foil: str, *, compared: bool) -> tuple[str, ...]:
    if not foil:
        return ()
    if not compared:
        return (f"{foil!r} is this answer itself, so the map compares it with no other",)
    return (f"the whole answer's map shows what speaks for it and not for {foil!r}; those of single words do not",)


def _share(found: SaliencyMap, cells: Collection[tuple[int, int]]) -> float:
    """Share of the positive weight on these cells."""
    positive = found.grid.clip(min=0.0)
    total = float(positive.sum())
    return sum(float(positive[cell]) for cell in cells) / total if total > 0 else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
