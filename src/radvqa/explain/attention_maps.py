"""The rows of every attention method, from one trace, with sinks marked or taken out.

Axes: L layers, n positions, t answer tokens, i image cells.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from radvqa.errors import ModelError
from radvqa.explain.asked import Asked
from radvqa.explain.capture import Trace
from radvqa.explain.rollout import (
    Chosen,
    choose,
    discard,
    each_against_the_rest,
    mean_over_layers,
    raw_attention,
    relative_attention,
    rollout,
    row_shares,
)
from radvqa.explain.sinks import find_sinks, without_sinks

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionMaps:
    """Attention methods of one trace, under one choice of layers, heads and treatment of sinks.

    ``remove_sinks``: their weight is shared out before anything else is computed; otherwise they are known and nothing
    changes. ``discard``: share of the smallest weights of each row that rollouts leave out.
    """

    asked: Asked
    traced: Trace
    layers: Chosen = field(default_factory=lambda: slice(None))
    heads: Chosen = field(default_factory=lambda: slice(None))
    remove_sinks: bool = False
    discard: float = 0.0

    @cached_property
    def sinks(self) -> Bool[Tensor, " n"]:
        """Positions that draw the attention of every text row, by all layers and heads."""
        rows = raw_attention(_kept(self.traced.text_rows, "text_rows"))
        positions = slice(self.asked.rows.stop - len(rows), self.asked.rows.stop)
        return find_sinks(rows, positions=positions, image=self.asked.image)

    @cached_property
    def raw(self) -> Float[Tensor, "t n"]:
        """Mean over layers and heads."""
        return self._treated(self._as_traced)

    @cached_property
    def raw_value(self) -> Float[Tensor, "t n"]:
        """Value-weighted, mean over layers."""
        return self._treated(mean_over_layers(_kept(self.traced.value_rows, "value_norms"), layers=self.layers))

    @cached_property
    def contrast(self) -> Float[Tensor, "t n"]:
        """Each token's raw row against the mean of the others; needs two tokens or more."""
        return each_against_the_rest(self.raw)

    def relative(self, generic: "AttentionMaps") -> Float[Tensor, "t i"]:
        """Raw weight of each image cell divided by that under a generic question; 0 on sinks that are removed.

        Neither row is changed before: the two questions may have different sinks.
        """
        own, other = self._as_traced[:, self.asked.image], generic._as_traced[:, generic.asked.image]
        if own.shape != other.shape:
            raise ModelError(
                "the generic question must have the same picture and answer",
                expected=f"{own.shape[0]} answer tokens and {own.shape[1]} image tokens",
                got=f"{other.shape[0]} and {other.shape[1]}",
            )
        ratio = relative_attention(own, other)
        return ratio.masked_fill(self.sinks[self.asked.image], 0.0) if self.remove_sinks else ratio

    def rollout(self, alpha: float) -> Float[Tensor, "t n"]:
        """Rollout with one share of the residual connection."""
        return rollout(self._fused, self.asked.rows, alpha=alpha)

    def rollout_by_norms(self) -> Float[Tensor, "t n"]:
        """Rollout whose residual share is measured at every layer and position."""
        kept = choose(_kept(self.traced.residual, "residual"), self.layers, axis=0, kind="layer")
        return rollout(self._fused, self.asked.rows, alpha=kept)

    def rollout_by_values(self, alpha: float) -> Float[Tensor, "t n"]:
        """Rollout of value-weighted attention."""
        return rollout(self._prepared(_kept(self.traced.value_fused, "value_norms")), self.asked.rows, alpha=alpha)

    @cached_property
    def _as_traced(self) -> Float[Tensor, "t n"]:
        return raw_attention(self.traced.rows, layers=self.layers, heads=self.heads)

    @cached_property
    def _fused(self) -> Float[Tensor, "L n n"]:
        return self._prepared(_kept(self.traced.fused, "fused"))

    def _prepared(self, fused: Float[Tensor, "L n n"]) -> Float[Tensor, "L n n"]:
        chosen = choose(fused, self.layers, axis=0, kind="layer")
        # A mean's rows sum to 1 as they are, and half precision would be copied in full: 78 MiB at 448 px.
        sums = chosen[0].float().sum(-1)
        if not torch.allclose(sums, torch.ones_like(sums), atol=1e-2, rtol=0):
            chosen = row_shares(chosen)
        if self.remove_sinks:
            chosen = without_sinks(chosen, self.sinks, positions=slice(0, chosen.shape[-1]))
        return discard(chosen, self.discard, kept=self.sinks) if self.discard else chosen

    def _treated(self, rows: Float[Tensor, "t n"]) -> Float[Tensor, "t n"]:
        return without_sinks(rows, self.sinks, positions=self.asked.rows) if self.remove_sinks else rows


def _kept(array: _T | None, name: str) -> _T:
    if array is None:
        raise ModelError("the trace does not hold what this map needs", expected=f"a trace that keeps {name}")
    return array
