"""Which questions of a batch still grow an answer, and the pass of the language model that grows them.

Axes: b rows, q questions of a row, n positions or keys, k open questions, h language width, a attention heads, d width
of a head.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma.modeling_gemma import eager_attention_forward


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

    def compact(self, decoder: "Decoder") -> None:
        """Leave out what is done: columns at once, rows when they are a quarter, since that copies keys and values."""
        rows = self.open_.any(1)
        if int(rows.sum()) <= 0.75 * len(rows):
            decoder.keep(rows)
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


class _Rotation(NamedTuple):
    """Rotary angles of positions; the sine has the sign that goes with exchanged halves."""

    cosine: Float[Tensor, "b 1 n d"]
    sine: Float[Tensor, "b 1 n d"]

    def of(self, heads: Float[Tensor, "b a n d"]) -> Float[Tensor, "b a n d"]:
        """The heads at these positions."""
        return (heads * self.cosine).add_(heads.roll(heads.shape[-1] // 2, -1).mul_(self.sine))


@final
class Decoder:
    """A Gemma language model that reads a batch piece by piece, without gradients, and remembers keys and values.

    Computes what transformers' ``GemmaModel`` does, with its own modules, adapters included, in less time on a CPU:
    sums, norms and rotations work in place, keys and values are written where they stay, and only the positions that
    are asked for go through the whole of the last layer.
    """

    def __init__(self, language_model: Any, *, room: int) -> None:
        """``room``: most positions that will be read."""
        self._model, self._room, self._length = language_model, room, 0
        self._attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            language_model.config._attn_implementation, eager_attention_forward
        )
        self._keys: list[Float[Tensor, "b a n d"]] = []
        self._values: list[Float[Tensor, "b a n d"]] = []

    def read(
        self,
        states: Float[Tensor, "b n h"],
        positions: Int[Tensor, "b n"],
        mask: Float[Tensor, "b 1 n m"],
        *,
        ends: Int[Tensor, "b q"] | None = None,
        end_mask: Float[Tensor, "b 1 q m"] | None = None,
    ) -> Float[Tensor, "b q h"]:
        """What the model makes of embeddings (which are overwritten), at ``ends`` or, without, at every position."""
        rotation = self._rotation(states, positions)
        last = self._model.config.num_hidden_layers - 1
        for number, layer in enumerate(self._model.layers):
            with _whole(layer):
                normed = _normed(layer.input_layernorm, states)
                keys, values = self._remember(number, layer.self_attn, normed, rotation)
                if number == last and ends is not None:
                    assert end_mask is not None
                    states, normed = _at(states, ends), _at(normed, ends)
                    rotation, mask = self._rotation(states, positions.gather(1, ends)), end_mask
                query = rotation.of(_heads(layer.self_attn, layer.self_attn.q_proj(normed)))
                seen, _ = self._attend(
                    layer.self_attn, query, keys, values, mask, dropout=0.0, scaling=layer.self_attn.scaling
                )
                states = states.add_(layer.self_attn.o_proj(seen.flatten(2)))
                normed = _normed(layer.post_attention_layernorm, states)
                gate = layer.mlp.act_fn(layer.mlp.gate_proj(normed))
                states = states.add_(layer.mlp.down_proj(gate.mul_(layer.mlp.up_proj(normed))))
        self._length += positions.shape[1]
        return _normed(self._model.norm, states)

    def keep(self, rows: Bool[Tensor, " b"]) -> None:
        """Forget the other rows."""
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]

    def _rotation(self, states: Float[Tensor, "b n h"], positions: Int[Tensor, "b n"]) -> _Rotation:
        cosine, sine = self._model.rotary_emb(states, positions)
        first, second = sine.chunk(2, -1)
        return _Rotation(cosine[:, None], torch.cat([-first, second], -1)[:, None])

    def _remember(
        self, number: int, attention: Any, normed: Float[Tensor, "b n h"], rotation: _Rotation
    ) -> tuple[Float[Tensor, "b a m d"], Float[Tensor, "b a m d"]]:
        """All keys and values of a layer so far, with those of these positions."""
        new = rotation.of(_heads(attention, attention.k_proj(normed))), _heads(attention, attention.v_proj(normed))
        for kept, some in zip((self._keys, self._values), new, strict=True):
            if len(kept) == number:
                kept.append(some.new_empty(*some.shape[:2], self._room, some.shape[3]))
            kept[number][:, :, self._length : self._length + some.shape[2]] = some
        m = self._length + normed.shape[1]
        return self._keys[number][:, :, :m], self._values[number][:, :, :m]


@contextlib.contextmanager
def _whole(layer: Any) -> Iterator[None]:
    """The layer with all of its weights, which FSDP gathers by itself only when the layer is called as a module."""
    if not isinstance(layer, FSDPModule):
        yield
        return
    layer.unshard()
    yield
    layer.reshard()


def _heads(attention: Any, projected: Float[Tensor, "b n w"]) -> Float[Tensor, "b a n d"]:
    b, n, _ = projected.shape
    return projected.view(b, n, -1, attention.head_dim).transpose(1, 2)


def _at(states: Float[Tensor, "b n h"], places: Int[Tensor, "b q"]) -> Float[Tensor, "b q h"]:
    return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[-1]))


def _normed(norm: Any, states: Float[Tensor, "b n h"]) -> Float[Tensor, "b n h"]:
    """What Gemma's RMSNorm gives, in float32 inside."""
    wide = states.to(torch.float32, copy=True)
    square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_() / wide.shape[-1]
    return wide.mul_(torch.rsqrt(square + norm.eps)).mul_(1.0 + norm.weight.float()).to(states.dtype)
