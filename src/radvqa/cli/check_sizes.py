"""The rows that the stages of a recipe train on: how many, on how many pictures, how long."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radvqa.models.cost import Learning, Running
from radvqa.recipe import Model, Stage
from radvqa.sample import VqaSample
from radvqa.train.mixture import share_of, shares

CHARACTERS_PER_TOKEN = 4.0
"""English of the public radiology sets has 4.2 to 5, short answers 3.5; the tiny checkpoint reads bytes."""

PROMPT_TOKENS = 3
"""Around a question: `answer en ` and the newline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The rows that a data set has for a stage: how many, on how many pictures, and their tokens behind the image."""

    rows: int
    questions: int
    pictures: int
    text: float
    answers: float
    longest_text: int
    longest_answers: int
    exact: bool = True

    @staticmethod
    def of(samples: Sequence[VqaSample], model: Model, *, most_questions: int | None) -> "Texts":
        """Estimated from the characters of questions and answers."""
        per_token = 1.0 if model.checkpoint == "tiny" else CHARACTERS_PER_TOKEN
        by_row: dict[object, list[tuple[int, int]]] = {}
        for number, sample in enumerate(samples):
            question = math.ceil(len(sample.question) / per_token) + PROMPT_TOKENS
            answer = math.ceil(len(sample.answers[0]) / per_token) + 1
            key = sample.image_id if model.layout == "shared_image" else number
            by_row.setdefault(key, []).append((question + answer, answer))
        asked = [min(len(row), most_questions or len(row)) for row in by_row.values()]
        # A row of too many questions gets some of them; the longest ones, where memory is concerned.
        parts = [part for row in by_row.values() for part in row]
        most = [sorted(row, reverse=True)[:count] for row, count in zip(by_row.values(), asked, strict=True)]
        per_row = sum(asked) / len(asked)
        return Texts(
            rows=len(by_row),
            questions=sum(asked),
            pictures=len({sample.image_id for sample in samples}),
            text=1 + per_row * sum(text for text, _ in parts) / len(parts),
            answers=per_row * sum(answer for _, answer in parts) / len(parts),
            longest_text=1 + max(sum(text for text, _ in row) for row in most),
            longest_answers=max(sum(answer for _, answer in row) for row in most),
        )

    @staticmethod
    def generated(*, questions: int, images: int, model: Model, most_questions: int | None) -> "Texts":
        """Of a corpus that is not drawn yet: its sizes are upper bounds, its texts short."""
        text, answer = (60, 8) if model.checkpoint == "tiny" else (17, 3)
        shared = model.layout == "shared_image"
        per_row = min(max(1, questions // max(1, images)), most_questions or questions) if shared else 1
        return Texts(
            rows=images if shared else questions,
            questions=images * per_row if shared else questions,
            pictures=images,
            text=1 + per_row * text,
            answers=per_row * answer,
            longest_text=1 + per_row * 2 * text,
            longest_answers=per_row * 3 * answer,
            exact=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSize:
    """A stage with the rows of its sources."""

    stage: Stage
    texts: Mapping[str, Texts]

    @property
    def updates(self) -> int:
        """Optimiser updates."""
        return self.stage.length_in_updates(sum(one.rows for one in self.texts.values()))

    @property
    def exact(self) -> bool:
        """Whether the sizes are those that will be met."""
        return all(one.exact for one in self.texts.values())

    def passes(self) -> dict[str, float]:
        """How often the stage goes over the rows of each data set."""
        drawn = self.updates * self.stage.batch_size
        return {name: share * drawn / self.texts[name].rows for name, share in self.means().items()}

    def means(self) -> dict[str, float]:
        """The share of the stage's rows that each data set gives, over the whole stage."""
        if not self.stage.mixture:
            rows = sum(one.rows for one in self.texts.values())
            return {name: one.rows / rows for name, one in self.texts.items()}
        # A thousand steps of progress give a mean share that is right to a tenth of a percent.
        planned = shares([share_of(self.stage.mixture[name]) for name in self.texts], min(self.updates, 1000))
        return dict(zip(self.texts, np.mean(planned, axis=0).tolist(), strict=True))


def learning_of(stage: Stage) -> Learning:
    """What learns in a stage, as plain values."""
    lora = stage.lora
    if lora is None:
        return Learning(projector=stage.projector, full=stage.full)
    return Learning(projector=stage.projector, rank=lora.rank, targets=lora.targets, adapted=lora.parts)


def running_of(model: Model, stage: Stage) -> Running:
    """How the network runs in a stage; ``auto`` counts as bfloat16 and as the fused attention of a GPU."""
    return Running(
        number=4 if model.dtype == "float32" else 2,
        quantised=model.quantise == "nf4",
        attention="sdpa" if model.attention == "auto" else model.attention,
        checkpointing=stage.gradient_checkpointing,
    )


def features_are_cached(stage: Stage) -> bool:
    """Whether the tower sees each picture once, before training."""
    return stage.features == "cached" and not stage.augment and not learning_of(stage).tower_learns
