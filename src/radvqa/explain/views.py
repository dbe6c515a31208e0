"""One answer to a question as a view of a bundle: its tokens, its attention in bytes, its maps with their facts."""

import dataclasses
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from radvqa.explain.asked import Asked
from radvqa.explain.bundle import MapFacts, MapRecord, Token, View
from radvqa.explain.capture import Trace, trace
from radvqa.explain.localisation import localisation_scores
from radvqa.explain.map_settings import MapSettings
from radvqa.explain.maps import MapSet, generic_question, maps_of, needed
from radvqa.explain.measured import NEAR_ZERO_NATS
from radvqa.explain.occlusion import visual_reliance
from radvqa.explain.saliency_map import SaliencyMap
from radvqa.explain.sinks import find_sinks

_MARKS = frozenset("?!;:()[]")
_INCOMPLETE = "\ufffd"


def view_of(
    asked: Asked,
    *,
    text: str,
    correct: bool | None,
    finished: bool = True,
    methods: Sequence[str],
    settings: MapSettings,
    coverage: Float[np.ndarray, "r c"] | None = None,
    language: str = "en",
) -> tuple[View, dict[str, np.ndarray]]:
    """The view of one answer and its arrays, named as in ``radvqa.explain.bundle`` without the view's name.

    Args:
        asked: the question and this answer.
        text: the answer.
        correct: whether it is right; None where nobody can tell.
        finished: whether the answer ended by itself.
        methods: names in ``radvqa.explain.maps.METHODS``.
        settings: what can be chosen about the maps.
        coverage: how much of every cell lies on the region asked about; None where none is asked about.
        language: of the question, as the prompt names it.

    Raises:
        RecipeError: there is no such method, or a setting selects nothing.
        DataError: the foil has no tokens.
        ModelError: see ``trace``.
    """
    found = trace(asked, dataclasses.replace(needed(methods, settings), text_rows=True, image_rows=True))
    generic = generic_question(asked, language=language)
    sets = maps_of(asked, methods, settings=settings, generic=generic, traced=found)
    arrays = _attention_arrays(found, asked.vlm.image_grid, prompt=1 + len(asked.prompt_ids))
    for name, one in sets.items():
        grids = [*(token.grid for token in one.tokens), one.answer.grid]
        arrays[f"maps/{name}"] = np.stack(grids).astype(np.float32)
    reliance = visual_reliance(asked).double().cpu().numpy()
    tokens = _tokens(asked, found, arrays["image_mass"], reliance)
    logprob = math.fsum(token.logprob or 0.0 for token in tokens)
    total = float(reliance.sum())
    records = tuple(_record(one, coverage) for one in sets.values())
    view = View(
        text=text,
        correct=correct,
        logprob=logprob,
        confidence=math.exp(logprob / len(asked.answer_ids)),
        reliance=total,
        tokens=tokens,
        maps=records,
        sinks=_sink_cells(found, asked),
        warnings=tuple(dict.fromkeys(_warnings(asked, total, finished=finished, sets=sets.values()))),
    )
    return view, arrays


def token_texts(asked: Asked) -> tuple[str, ...]:
    """What each text token, bos first, adds to the text before it.

    A token that ends within a character adds nothing yet; the one that completes the character adds it whole.
    """
    decode = asked.vlm.tokenizer.decode
    texts = [asked.pieces[0]]
    for ids in (asked.prompt_ids, asked.answer_ids):
        before = ""
        for count in range(1, len(ids) + 1):
            whole = decode(list(ids[:count]))
            # Only the last character may still be waiting for its other bytes.
            done = whole.rstrip(_INCOMPLETE) if count < len(ids) else whole
            texts.append(done[len(before) :])
            before = done
    return tuple(texts)


def word_numbers(texts: Sequence[str], *, answer: int) -> tuple[int, ...]:
    """The number of the word each token belongs to, by its place: equal words at two places have two numbers.

    A blank begins a word, a mark is one, and so is an ideograph, since nothing else parts them. A token that adds no
    text belongs with the next one.

    Args:
        texts: what each token adds, bos first.
        answer: index of the first token of the answer, which begins a word in any case.
    """
    numbers, last = [0], ""
    for index, text in enumerate(texts[1:], start=1):
        begins = index in (1, answer) or bool(last and text and _parted(last, text[0]))
        numbers.append(numbers[-1] + begins)
        last = text[-1] if text else "" if index in (1, answer) else last
    for index in range(len(texts) - 2, 0, -1):
        if not texts[index] and index + 1 != answer:
            numbers[index] = numbers[index + 1]
    return tuple(numbers)


def _parted(last: str, first: str) -> bool:
    if last.isspace():
        return False
    return first.isspace() or any(one in _MARKS or _is_ideograph(one) for one in (last, first))


def _is_ideograph(character: str) -> bool:
    return unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))


def _attention_arrays(found: Trace, grid: tuple[int, int], *, prompt: int) -> dict[str, np.ndarray]:
    """Attention in bytes: of each of the ``prompt`` tokens its own row, of each answer token the row predicting it."""
    assert found.text_rows is not None
    assert found.image_rows is not None
    # Row k predicts token k, so it is the own row of token k - 1; the last row of the prompt predicts the answer too.
    rows = torch.cat([found.text_rows[:, :, 1 : prompt + 1], found.text_rows[:, :, prompt:]], dim=2)
    weights = rows[..., found.image_tokens].permute(2, 0, 1, 3).float().cpu().numpy()
    scale = weights.max(axis=-1)
    safe = np.where(scale > 0.0, scale, 1.0)[..., None]
    heads_mean = found.image_rows.float().mean(dim=1).cpu().numpy()
    return {
        "attention": np.rint(weights / safe * 255.0).astype(np.uint8).reshape(*weights.shape[:3], *grid),
        "attention_scale": scale.astype(np.float32),
        "image_mass": weights.sum(axis=-1, dtype=np.float64).astype(np.float32),
        "image_to_prompt": heads_mean.reshape(len(heads_mean), *grid, -1).astype(np.float16),
    }


def _tokens(
    asked: Asked, found: Trace, image_mass: Float[np.ndarray, "T L H"], reliance: Float[np.ndarray, " t"]
) -> tuple[Token, ...]:
    texts = token_texts(asked)
    first = len(texts) - len(asked.answer_ids)
    words = word_numbers(texts, answer=first)
    targets = torch.tensor(asked.answer_ids, device=found.logits.device)
    logprobs = found.logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0].tolist()
    mass = image_mass.mean(axis=(1, 2), dtype=np.float64).tolist()
    tokens = []
    for index, text in enumerate(texts):
        part: Literal["bos", "prompt", "answer"] = "bos" if index == 0 else "prompt" if index < first else "answer"
        own = index - first
        tokens.append(
            Token(
                text=text,
                part=part,
                word=words[index],
                image_mass=mass[index],
                logprob=logprobs[own] if own >= 0 else None,
                reliance=float(reliance[own]) if own >= 0 else None,
            )
        )
    return tuple(tokens)


def _record(found: MapSet, coverage: Float[np.ndarray, "r c"] | None) -> MapRecord:
    return MapRecord(
        method=found.method,
        tokens=tuple(_facts(one, coverage) for one in found.tokens),
        answer=_facts(found.answer, coverage),
    )


def _facts(one: SaliencyMap, coverage: Float[np.ndarray, "r c"] | None) -> MapFacts:
    scores = localisation_scores(one.grid, coverage).scores if coverage is not None else {}
    return MapFacts(
        low=float(np.float32(one.grid.min())),
        high=float(np.float32(one.grid.max())),
        image_mass=_known(one.image_mass),
        sink_mass=_known(one.sink_mass),
        self_mass=_known(one.self_mass),
        entropy=_known(one.entropy),
        specificity=_known(one.specificity),
        grid_specificity=_known(one.grid_specificity),
        **{name: _known(scores.get(name)) for name in ("hit", "energy", "area", "enrichment")},
    )


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _sink_cells(found: Trace, asked: Asked) -> tuple[tuple[int, int], ...]:
    """Image cells that draw attention from all text positions."""
    assert found.text_rows is not None
    rows = found.text_rows.float().mean(dim=(0, 1))
    positions = slice(asked.text.start - 1, asked.text.stop - 1)
    sinks: Tensor = find_sinks(rows, positions=positions, image=asked.image)[asked.image]
    columns = asked.vlm.image_grid[1]
    return tuple((cell // columns, cell % columns) for cell in sinks.nonzero()[:, 0].tolist())


def _warnings(asked: Asked, reliance: float, *, finished: bool, sets: Iterable[MapSet]) -> list[str]:
    told = []
    if reliance < -NEAR_ZERO_NATS:
        told.append(f"The image makes this answer less probable, by {-reliance:.2f} nats.")
    elif reliance < NEAR_ZERO_NATS:
        told.append("The answer is about as probable without the image: no map of it can show a reason in the image.")
    if not finished:
        told.append("The answer was cut off at the token limit.")
    if asked.vlm.layout == "shared_image":
        told.append("In this model's layout the image positions do not see the question.")
    return [*told, *(f"{one.method}: {warning}" for one in sets for warning in one.warnings)]
