r"""Prompt, labels and attention masks: the one place that lays out images, questions and answers as token rows.

A row is ``<image>``×i, ``<bos>``, then one question block (per-question layout) or several (shared-image layout),
each ``answer {language} {question}\n`` followed by the answer and its end token.

========================  =====================================================================================
per-question layout       PaliGemma's prefix-LM mask (Beyer et al., 2024, arXiv 2407.07726): image, bos and question
                          see each other fully, the answer is causal.
shared-image layout       image and bos see themselves; a question sees them and itself fully; an answer is causal
                          and sees its own question; questions never see each other. Positions of every question
                          start behind bos, so each block equals the same question alone under this mask.
========================  =====================================================================================

Axes: b rows, n positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from radvqa.data.prompt import question_prefix
from radvqa.errors import ModelError
from radvqa.models.attention import PRODUCTS
from radvqa.recipe import Layout

IGNORE_INDEX = -100
PROMPT_ID = "paligemma-answer@1"

PADDING, SHARED = -1, 0
"""Block numbers: padding, image and bos; question blocks count from 1."""

MASKED_ATTENTION = ("sdpa", "eager", PRODUCTS)
"""The implementations that apply the whole mask. FlashAttention's path drops the prefix blocks without a word."""


def prompt_text(question: str, language: str) -> str:
    """PaliGemma's VQA prompt with its newline."""
    return question_prefix(question, language) + "\n"


@dataclass(frozen=True, slots=True)
class Question:
    """Token ids of one question: its prompt, and its answer with the end token (empty when it is to be generated)."""

    sample_id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One image with the questions asked of it."""

    image: Path
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Special ids and the number of image tokens i of a checkpoint."""

    image_tokens: int
    image_id: int
    bos_id: int
    eos_id: int
    pad_id: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as tensors, right-padded. ``block``: see ``PADDING`` and ``SHARED``; ``suffix``: answer positions.

    ``labels`` holds the token id at every answer position, end token included, and ``IGNORE_INDEX`` elsewhere.
    """

    rows: tuple[Row, ...]
    layout: Layout
    input_ids: Int[Tensor, "b n"]
    position_ids: Int[Tensor, "b n"]
    block: Int[Tensor, "b n"]
    suffix: Bool[Tensor, "b n"]
    labels: Int[Tensor, "b n"]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on ``device``."""
        return Batch(
            self.rows,
            self.layout,
            *(getattr(self, name).to(device) for name in ("input_ids", "position_ids", "block", "suffix", "labels")),
        )

    @property
    def valid(self) -> Bool[Tensor, "b n"]:
        """Positions that are not padding."""
        return self.block != PADDING

    @property
    def predicting(self) -> Bool[Tensor, "b n"]:
        """Positions whose next token is supervised."""
        supervised = self.labels != IGNORE_INDEX
        return torch.cat([supervised[:, 1:], supervised.new_zeros(len(supervised), 1)], dim=1)

    @property
    def targets(self) -> Int[Tensor, " k"]:
        """The supervised tokens, row by row and question by question."""
        return self.labels[self.labels != IGNORE_INDEX]

    @property
    def target_lengths(self) -> list[int]:
        """How many of ``targets`` belong to each question."""
        return [len(question.answer) for row in self.rows for question in row.questions]


def lay_out(rows: Sequence[Row], *, layout: Layout, tokens: Tokens) -> Batch:
    """The batch of these rows.

    Raises:
        ModelError: a row without questions, several questions in one row of the per-question layout, or a question
            whose prompt does not end in its newline block.
    """
    if not rows:
        raise ModelError("a batch needs at least one row")
    lines = [_line(row, layout=layout, tokens=tokens) for row in rows]
    length = max(len(line) for line in lines)
    padding = (tokens.pad_id, 0, PADDING, False, IGNORE_INDEX)
    padded = [line + [padding] * (length - len(line)) for line in lines]
    ids, positions, blocks, suffixes, labels = (
        torch.tensor([[cell[field] for cell in line] for line in padded]) for field in range(5)
    )
    return Batch(tuple(rows), layout, ids, positions, blocks, suffixes, labels)


def _line(row: Row, *, layout: Layout, tokens: Tokens) -> list[tuple[int, int, int, bool, int]]:
    if not row.questions or (layout == "per_question" and len(row.questions) != 1):
        raise ModelError(
            "a row has the wrong number of questions for its layout",
            where=str(row.image),
            expected="one" if layout == "per_question" else "at least one",
            got=str(len(row.questions)),
        )
    ids = [tokens.image_id] * tokens.image_tokens + [tokens.bos_id]
    # Positions count from 1, as PaliGemma's do.
    line = [(token, index, SHARED, False, IGNORE_INDEX) for index, token in enumerate(ids, start=1)]
    start = len(line) + 1
    for number, question in enumerate(row.questions, start=1):
        if not question.prompt:
            raise ModelError("a question has no prompt tokens", where=question.sample_id)
        prompt_end = start + len(question.prompt)
        line += [(token, start + index, number, False, IGNORE_INDEX) for index, token in enumerate(question.prompt)]
        line += [(token, prompt_end + index, number, True, token) for index, token in enumerate(question.answer)]
    return line


def attention_inputs(batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the network takes for this batch's mask: token types and a 2-D mask, or an explicit 4-D mask.

    Raises:
        ModelError: see ``require_prefix_lm``.
    """
    if batch.layout == "per_question":
        inputs = {"attention_mask": batch.valid.long(), "token_type_ids": batch.suffix.long()}
        require_prefix_lm(inputs, batch.labels)
        return inputs
    return {"attention_mask": additive_mask(shared_image_mask(batch), dtype)}


def additive_mask(allowed: Bool[Tensor, "b q n"], dtype: torch.dtype) -> Float[Tensor, "b 1 q n"]:
    """Zero where a query may attend, the dtype's lowest number elsewhere: the one form every backend adds alike."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def shared_image_mask(batch: Batch) -> Bool[Tensor, "b n n"]:
    """Who may attend to whom in the shared-image layout (rows are queries). Padding sees only itself."""
    query, key = batch.block[:, :, None], batch.block[:, None, :]
    order = torch.arange(batch.block.shape[1], device=batch.block.device)
    causal = order[None, :, None] >= order[None, None, :]
    prefix_key = ~batch.suffix[:, None, :]
    own = (query == key) & (prefix_key | (batch.suffix[:, :, None] & causal))
    shared = (key == SHARED) & (query > SHARED)
    alone = torch.eye(batch.block.shape[1], dtype=torch.bool, device=batch.block.device)[None]
    return ((own | shared) & (key != PADDING) & (query != PADDING)) | alone


def last_positions(block: Int[Tensor, "b n"], width: int) -> Int[Tensor, "b q"]:
    """Where each of the first ``width`` questions of a row ends; 0 for a question that the row does not have."""
    order = torch.arange(block.shape[1], device=block.device)
    questions = torch.arange(1, width + 1, device=block.device)
    inside = block[:, None, :] == questions[None, :, None]
    return torch.where(inside, order, 0).amax(-1)


def visible_keys(batch: Batch, width: int) -> Bool[Tensor, "b q n"]:
    """Which positions of a prompt the generated tokens of each question may attend to."""
    questions = torch.arange(1, width + 1, device=batch.block.device)[None, :, None]
    block = batch.block[:, None, :]
    return (block == SHARED) | ((block == questions) & (block != PADDING))


def require_prefix_lm(inputs: dict[str, Tensor], labels: Int[Tensor, "b n"]) -> None:
    """Refuse inputs under which PaliGemma would silently leak the answer or lose the prefix.

    Without token types transformers attends everything to everything, answers included, and says nothing.

    Raises:
        ModelError: token types are missing, or do not mark exactly the supervised positions as answer.
    """
    types = inputs.get("token_type_ids")
    if types is None:
        raise ModelError(
            "token_type_ids are missing: the answer would leak into the prefix",
            expected="0 for image, bos and question; 1 for the answer",
            got="none",
        )
    supervised = labels != IGNORE_INDEX
    if not torch.equal(types == 1, supervised):
        raise ModelError(
            "token_type_ids do not mark the supervised positions",
            expected=f"{int(supervised.sum())} answer positions of type 1",
            got=f"{int((types == 1).sum())}",
        )


def require_prefix_attention(config: Any) -> None:
    """Refuse a PaliGemma configuration whose attention does not apply the prefix-LM mask.

    Raises:
        ModelError: the implementation is another one (FlashAttention, flex, ...), in the whole or in a part.
    """
    for where, section in (("model", config), ("text", config.text_config), ("vision", config.vision_config)):
        name = section._attn_implementation
        if name not in MASKED_ATTENTION:
            raise ModelError(
                "this kind of attention does not carry PaliGemma's prefix-LM mask: the answer would leak",
                where=f"{where} configuration",
                expected=" or ".join(MASKED_ATTENTION),
                got=str(name),
                fix="model.attention: sdpa",
            )
