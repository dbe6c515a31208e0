"""The training loss: answer tokens only, averaged per question first as in the PaliGemma reference."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from radvqa.models.layout import Batch
from radvqa.models.vlm import Vision, Vlm

LossNorm = Literal["example", "token"]


class AnswerLosses(nn.Module):
    """Batch and vision input to the loss of each question: what data parallelism wraps and every update runs."""

    def __init__(self, vlm: Vlm, norm: LossNorm) -> None:
        super().__init__()
        self.network = vlm.network
        self._vlm = vlm
        self._norm: LossNorm = norm

    def forward(self, batch: Batch, vision: Vision) -> Float[Tensor, " q"]:
        """Losses (nats) in the order of rows and questions."""
        logits = self._vlm.supervised_logits(batch, vision)
        return question_losses(logits, batch.targets.to(logits.device), batch.target_lengths, norm=self._norm)


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
