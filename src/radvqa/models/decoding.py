"""Which questions of a batch still grow an answer, and what they see while they do.

Axes: b rows, q questions of a row, n keys, k open questions.
"""

from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache


@final
class Asking:
    """The questions of a batch while their answers grow, a token each and step: which are open, and what they see."""

    def __init__(self, asked: Bool[Tensor, "b q"], positions: Int[Tensor, "b q"], keys: Bool[Tensor, "b q n"]) -> None:
        self.open_, self.positions, self.keys = asked, positions, keys
        self.last = torch.zeros_like(positions)
        self._row = torch.arange(len(asked), device=asked.device)
        self._column = torch.arange(asked.shape[1], device=asked.device).repeat(len(asked), 1)

    def places(self) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
        """Row and column in the batch of every open question."""
        return self._row[:, None].expand_as(self._column)[self.open_], self._column[self.open_]

    def take(self, chosen: Int[Tensor, " k"], *, end: int) -> None:
        """Note the next token of every open question; those with the end token are open no more."""
        self.last = torch.full_like(self.last, end)
        self.last[self.open_] = chosen
        self.open_ = self.open_ & (self.last != end)
        self.positions = self.positions + 1

    def compact(self, cache: DynamicCache) -> None:
        """Leave out what is done: columns at once, rows when they are a quarter, since that copies the cache."""
        rows = self.open_.any(1)
        if int(rows.sum()) <= 0.75 * len(rows):
            cache.batch_select_indices(rows.nonzero()[:, 0])
            self._row = self._row[rows]
            for name in ("open_", "positions", "keys", "last", "_column"):
                setattr(self, name, getattr(self, name)[rows])
        width = int(self.open_.sum(1).max())
        if width < self.open_.shape[1]:
            order = self.open_.int().argsort(dim=1, descending=True, stable=True)[:, :width]
            self.keys = self.keys.gather(1, order[:, :, None].expand(-1, -1, self.keys.shape[-1]))
            for name in ("open_", "positions", "last", "_column"):
                setattr(self, name, getattr(self, name).gather(1, order))

    def add_keys(self) -> None:
        """Every step appends one key for each question that takes part, and a question sees those of its own only."""
        own = torch.eye(self.open_.shape[1], dtype=torch.bool, device=self.open_.device)
        self.keys = torch.cat([self.keys, own[None].expand(len(self.open_), -1, -1)], dim=-1)
