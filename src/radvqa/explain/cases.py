"""Attention maps of chosen samples: which ones, traced how, saved where."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from radvqa.data.image_store import ImageStore
from radvqa.data.imaging import open_image
from radvqa.errors import DataError
from radvqa.evaluate.metrics import exact_match
from radvqa.explain.capture import AttentionTrace, trace_attention
from radvqa.explain.overlay import grid_frame, save_panel
from radvqa.explain.rollout import SaliencyMap, image_maps, raw_attention, rollout
from radvqa.models.layout import Question, Row, attention_inputs
from radvqa.models.vlm import Vlm
from radvqa.sample import Prediction, Region, VqaSample
from radvqa.train.pictures import StoredPictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One explained sample, as listed in ``explain/index.json``."""

    sample_id: str
    image_id: str
    question: str
    reference: str
    answer: str
    correct: bool
    panel: str
    methods: dict[str, dict[str, float | None]]


def choose(predictions: Sequence[Prediction], count: int) -> list[str]:
    """Sample ids, right and wrong answers in turn, each time from the content type seen least, one per image first."""
    pools: dict[bool, list[Prediction]] = {True: [], False: []}
    for prediction in predictions:
        pools[exact_match(prediction) == 1.0].append(prediction)
    chosen: list[Prediction] = []
    used: dict[str, int] = defaultdict(int)
    while len(chosen) < count and any(pools.values()):
        pool = pools[len(chosen) % 2 == 0] or pools[len(chosen) % 2 == 1]
        best = min(pool, key=lambda one: (used[one.image_id], used[one.tags.get("content_type", "")], one.sample_id))
        pool.remove(best)
        used[best.image_id] += 1
        used[best.tags.get("content_type", "")] += 1
        chosen.append(best)
    return [prediction.sample_id for prediction in chosen]


def explain_sample(
    vlm: Vlm,
    sample: VqaSample,
    prediction: Prediction,
    store: ImageStore,
    *,
    alpha: float,
    regions: Sequence[Region],
    folder: Path,
) -> Case:
    """Draw raw attention and rollout from the first token of the model's answer, and say what the maps weigh.

    Raises:
        DataError: the model gave an empty answer, so there is no token to explain.
    """
    ids = tuple(token for token in prediction.token_ids if token != vlm.tokens.eos_id)
    trace, positions = trace_answer(vlm, sample, ids, store)
    maps: dict[str, SaliencyMap] = {}
    rows_by_method = {
        "raw attention": raw_attention(trace),
        "rollout": rollout(trace.fused, positions, alpha=alpha),
    }
    words = [vlm.tokenizer.decode([token]) for token in ids]
    for method, rows in rows_by_method.items():
        found = image_maps(
            rows, trace.image_tokens, grid_shape=vlm.image_grid, positions=positions, method=method, targets=words
        )
        maps[method] = found[0]
    correct = exact_match(prediction) == 1.0
    panel = folder / f"{sample.sample_id}.png"
    image = open_image(sample.image)
    save_panel(
        panel,
        image,
        maps=maps,
        title=sample.question,
        caption=f"model: {prediction.text}   reference: {sample.answers[0]}   ({'right' if correct else 'wrong'}; "
        f"maps of the first answer token, {sample.sample_id})",
        regions=_asked_about(regions, sample.question),
        frame=grid_frame(image.size, store.size, aspect="pad") if store.aspect == "pad" else None,
    )
    return Case(
        sample_id=sample.sample_id,
        image_id=sample.image_id,
        question=sample.question,
        reference=sample.answers[0],
        answer=prediction.text,
        correct=correct,
        panel=f"{folder.name}/{panel.name}",
        methods={method: _weights(found) for method, found in maps.items()},
    )


def trace_answer(vlm: Vlm, sample: VqaSample, answer: Sequence[int], store: ImageStore) -> tuple[AttentionTrace, slice]:
    """The attention of one teacher-forced pass over question and answer, and the rows that predict its tokens.

    ``answer``: token ids as they were generated, without the end token. Uses the layout the model was trained in; one
    question alone equals the same question in a full row.
    """
    asked = vlm.question(sample, answer=False)
    if not answer:
        raise DataError(
            "there is no answer token to explain",
            where=sample.sample_id,
            got="an empty answer",
            fix="choose another sample",
        )
    row = Row(sample.image, (Question(sample.sample_id, asked.prompt, tuple(answer)),))
    batch = vlm.batch([row]).to(vlm.device)
    start = vlm.tokens.image_tokens + 1 + len(asked.prompt)
    positions = slice(start - 1, start - 1 + len(answer))
    with torch.no_grad(), vlm.autocast():
        embeddings = vlm.image_embeddings(StoredPictures(store).vision([row], update=0))
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "mm_encoder_outputs": vlm.encoded(embeddings),
            **attention_inputs(batch, vlm.compute_dtype),
        }
        trace = trace_attention(vlm.network, inputs, image_tokens=slice(0, vlm.tokens.image_tokens), rows=positions)
    return trace, positions


def _weights(found: SaliencyMap) -> dict[str, float | None]:
    weights = {
        "image_mass": found.image_mass,
        "sink_mass": found.sink_mass,
        "self_mass": found.self_mass,
        "entropy": found.entropy,
        "specificity": found.specificity,
    }
    return {name: None if math.isnan(value) else value for name, value in weights.items()}


def _asked_about(regions: Sequence[Region], question: str) -> list[Region]:
    """The regions whose label shares a word with the question; all of them would cover the picture."""
    asked = set(re.findall(r"[a-z]+", question.lower().replace("lesions", "lesion")))
    return [region for region in regions if asked & set(re.findall(r"[a-z]{4,}", region.label.lower()))]
