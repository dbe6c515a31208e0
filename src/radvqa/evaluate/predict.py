"""Greedy answers of the model to a split, under real, blank, shuffled or mirrored images, as prediction records."""

from collections.abc import Callable, Container, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from radvqa.data.image_store import ImageStore
from radvqa.errors import DataError
from radvqa.models.layout import PROMPT_ID, Row
from radvqa.models.vlm import Answer, Vision, Vlm
from radvqa.sample import Prediction, VqaSample

Condition = Literal["model", "blank", "shuffled", "mirrored"]

BLANK_GREY = 128
"""The middle of the value range: about zero for the tower, neither bone nor air."""

PICTURES_HELD = 128
"""Pictures whose image tokens are in memory together; questions are sorted by length among theirs."""

PICTURES_PER_PASS = 8
"""Pictures that go through the tower together. Always the same ones, so that a resumed evaluation sees equal bits."""


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

    See ``predictions`` for the conditions.

    Raises:
        DataError: ``shuffled`` with a single image.
    """
    found: dict[str, Prediction] = {}
    for some in predictions(
        vlm, samples, store, condition=condition, max_new_tokens=max_new_tokens, batch_size=batch_size, seed=seed
    ):
        found |= {one.sample_id: one for one in some}
        done(len(some))
    return [found[sample.sample_id] for sample in samples]


def predictions(
    vlm: Vlm,
    samples: Sequence[VqaSample],
    store: ImageStore,
    *,
    condition: Condition,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    known: Container[str] = frozenset(),
) -> Iterator[list[Prediction]]:
    """The predictions batch by batch, in the order in which they are made.

    ``blank`` shows a uniform grey picture, ``shuffled`` the picture of another image of the same samples, ``mirrored``
    the own picture with left and right exchanged. Batches whose sample ids are all ``known`` are left out; the others
    hold what they would hold without, so that a resumed evaluation gives the same answers as one that never stopped.

    Raises:
        DataError: ``shuffled`` with a single image.
    """
    by_id = {sample.sample_id: sample for sample in samples}
    other = other_images([sample.image for sample in samples], seed=seed) if condition == "shuffled" else {}
    how = f"greedy, at most {max_new_tokens} new tokens"
    for rows in _windows(vlm.rows(samples, answers=False)):
        pictures = _Pictures(vlm, store, [other.get(row.image, row.image) for row in rows], condition)
        # Like lengths together, so that little is padded; a stable sort keeps the batches reproducible.
        rows.sort(key=lambda row: sum(len(question.prompt) for question in row.questions))
        for first in range(0, len(rows), batch_size):
            some = rows[first : first + batch_size]
            asked = [by_id[question.sample_id] for row in some for question in row.questions]
            if all(sample.sample_id in known for sample in asked):
                continue
            shown = [other.get(row.image, row.image) for row in some]
            found = vlm.answer(vlm.batch(some), pictures.vision(shown), max_new_tokens=max_new_tokens)
            yield [
                _prediction(
                    sample,
                    answer,
                    decoding=how,
                    dtype=str(vlm.compute_dtype).removeprefix("torch."),
                    image_hash="" if condition == "blank" else store.sha256(other.get(sample.image, sample.image)),
                )
                for sample, answer in zip(asked, found, strict=True)
            ]


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


def _windows(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of some images at a time, images in the order of their first row."""
    number: dict[Path, int] = {}
    for row in rows:
        number.setdefault(row.image, len(number))
    ordered = sorted(rows, key=lambda row: number[row.image])
    for _, some in groupby(ordered, key=lambda row: number[row.image] // PICTURES_HELD):
        yield list(some)


@final
class _Pictures:
    """The image tokens of some pictures, each computed once, when a batch first needs it."""

    def __init__(self, vlm: Vlm, store: ImageStore, paths: Sequence[Path], condition: Condition) -> None:
        self._vlm, self._store, self._condition = vlm, store, condition
        self._paths = list(dict.fromkeys(paths))
        self._place = {path: place for place, path in enumerate(self._paths)}
        self._tokens: dict[int, Float[Tensor, "u i h"]] = {}

    def vision(self, paths: Sequence[Path]) -> Vision:
        """What a batch sees whose rows show these pictures."""
        if self._condition == "blank":
            grey = torch.full((1, self._vlm.image_size, self._vlm.image_size, 3), BLANK_GREY, dtype=torch.uint8)
            return Vision(torch.zeros(len(paths), dtype=torch.long), projected=self._seen(0, grey))
        distinct = list(dict.fromkeys(paths))
        tokens = torch.stack([self._of(self._place[path]) for path in distinct])
        return Vision(torch.tensor([distinct.index(path) for path in paths]), projected=tokens)

    def _of(self, place: int) -> Float[Tensor, "i h"]:
        number, within = divmod(place, PICTURES_PER_PASS)
        if number not in self._tokens:
            paths = self._paths[number * PICTURES_PER_PASS : (number + 1) * PICTURES_PER_PASS]
            pixels = np.stack([self._store.pixels(path) for path in paths])
            if self._condition == "mirrored":
                pixels = np.ascontiguousarray(pixels[:, :, ::-1])
            self._seen(number, torch.from_numpy(pixels))
        return self._tokens[number][within]

    def _seen(self, number: int, pixels: UInt8[Tensor, "u y x 3"]) -> Float[Tensor, "u i h"]:
        if number not in self._tokens:
            self._tokens[number] = self._vlm.image_tokens(pixels)
        return self._tokens[number]


def _prediction(sample: VqaSample, answer: Answer, *, decoding: str, dtype: str, image_hash: str) -> Prediction:
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
        link_id=sample.link_id,
        dialogue_id=sample.dialogue_id,
        turn=sample.turn,
        decoding=decoding,
        dtype=dtype,
        image_hash=image_hash,
        tags=sample.tags,
    )
