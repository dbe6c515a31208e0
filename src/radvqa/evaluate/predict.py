"""Greedy answers of the model to a split, under real, blank or shuffled images, as prediction records."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from radvqa.data.image_store import ImageStore
from radvqa.errors import DataError
from radvqa.models.layout import PROMPT_ID, Row
from radvqa.models.vlm import Answer, Vision, Vlm
from radvqa.sample import Prediction, VqaSample

Condition = Literal["model", "blank", "shuffled"]

BLANK_GREY = 128
"""The middle of the value range: about zero for the tower, neither bone nor air."""


def predict(
    vlm: Vlm,
    samples: Sequence[VqaSample],
    store: ImageStore,
    *,
    condition: Condition,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    done: Callable[[int], None] = lambda _: None,
) -> list[Prediction]:
    """One prediction per sample, in their order. ``done`` hears how many questions were just answered.

    ``blank`` shows a uniform grey picture, ``shuffled`` the picture of another image of the same samples.

    Raises:
        DataError: ``shuffled`` with a single image.
    """
    rows = vlm.rows(samples, answers=False)
    # Like lengths together, so that little is padded; a stable sort keeps the batches reproducible.
    rows.sort(key=lambda row: sum(len(question.prompt) for question in row.questions))
    other = other_images([sample.image for sample in samples], seed=seed) if condition == "shuffled" else {}
    answers: dict[str, Answer] = {}
    for first in range(0, len(rows), batch_size):
        some = rows[first : first + batch_size]
        batch = vlm.batch(some)
        found = vlm.answer(batch, _vision(vlm, some, store, condition, other), max_new_tokens=max_new_tokens)
        ids = [question.sample_id for row in some for question in row.questions]
        answers.update(zip(ids, found, strict=True))
        done(len(ids))
    return [_prediction(sample, answers[sample.sample_id]) for sample in samples]


def other_images(images: Sequence[Path], *, seed: int) -> dict[Path, Path]:
    """For every distinct image another one, each used once (a random cycle).

    Raises:
        DataError: there is only one image.
    """
    distinct = sorted(set(images))
    if len(distinct) < 2:
        raise DataError(
            "the shuffled-image control needs two images at least",
            got=f"{len(distinct)} image",
            fix="evaluate more images, or leave `shuffled` out of evaluate.controls",
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[here]: distinct[there] for here, there in zip(order, np.roll(order, 1), strict=True)}


def _vision(vlm: Vlm, rows: Sequence[Row], store: ImageStore, condition: Condition, other: dict[Path, Path]) -> Vision:
    if condition == "blank":
        grey = torch.full((1, vlm.image_size, vlm.image_size, 3), BLANK_GREY, dtype=torch.uint8)
        return Vision(torch.zeros(len(rows), dtype=torch.long), pixels=grey)
    shown = [other.get(row.image, row.image) for row in rows]
    paths = list(dict.fromkeys(shown))
    pixels = torch.from_numpy(np.stack([store.pixels(path) for path in paths]))
    return Vision(torch.tensor([paths.index(path) for path in shown]), pixels=pixels)


def _prediction(sample: VqaSample, answer: Answer) -> Prediction:
    return Prediction(
        sample_id=sample.sample_id,
        group_id=sample.group_id,
        image_id=sample.image_id,
        question=sample.question,
        references=sample.answers,
        answer_type=sample.answer_type,
        text=answer.text,
        prompt_id=PROMPT_ID,
        finished=answer.finished,
        token_ids=answer.token_ids,
        logprob=answer.logprob,
        tags=sample.tags,
    )
