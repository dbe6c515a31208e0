"""The training loss: answer tokens only, averaged per question first as in the PaliGemma reference."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

LossNorm = Literal["example", "token"]


def question_losses(
    logits: Float[Tensor, "k v"], targets: Int[Tensor, " k"], lengths: Sequence[int], *, norm: LossNorm
) -> Float[Tensor, " q"]:
    """Cross-entropy (nats) of each question: its mean over tokens (``example``) or its sum (``token``)."""
    per_token = functional.cross_entropy(logits, targets, reduction="none")
    pieces = torch.split(per_token, list(lengths))
    return torch.stack([piece.mean() if norm == "example" else piece.sum() for piece in pieces])


def denominator(lengths: Sequence[int], *, norm: LossNorm) -> int:
    """What the summed losses of a whole update are divided by: questions or tokens, over all micro-batches."""
    return len(lengths) if norm == "example" else sum(lengths)
