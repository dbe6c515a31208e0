"""Prompt and answer read again and again over image states that were computed once.

Image positions keep the keys and values of the whole picture; a variant of the pass only takes some of them out of
reach of the text, bos included. Where image positions attend to text (to bos, and in PaliGemma's own layout to the
prompt), they stay as they were when the text saw the whole picture.

Axes: k variants, i image tokens, n positions, m text positions (bos, prompt, answer), t answer tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import DynamicCache

from radvqa.explain.asked import Asked
from radvqa.models.layout import Batch, additive_mask, shared_image_mask


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode inside the block, and each module's own mode after it, also after an error."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def visible(batch: Batch) -> Bool[Tensor, "b n n"]:
    """Who may attend to whom (rows are queries), in either layout: what ``attention_inputs`` stands for."""
    if batch.layout == "shared_image":
        return shared_image_mask(batch)
    order = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    causal = order[:, None] >= order[None, :]
    prefix = ~batch.suffix
    return ((prefix[:, :, None] & prefix[:, None, :]) | causal) & batch.valid[:, None, :]


class TextPass:
    """The answer's log-probabilities with some image positions out of the text's reach: a tenth of a whole pass."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        cache = DynamicCache()
        with torch.no_grad(), eval_mode(asked.vlm.network), asked.vlm.autocast():
            asked.vlm.network(**asked.inputs(), past_key_values=cache, use_cache=True, logits_to_keep=1)
        image = asked.image.stop
        self._states = [(layer.keys[:, :, :image], layer.values[:, :, :image]) for layer in cache.layers]
        self._visible = visible(asked.batch)[:, asked.text]

    @torch.no_grad()
    def logprobs(self, hidden: Bool[Tensor, "k i"], *, batch_size: int = 32) -> Float[Tensor, "k t"]:
        """Log-probability (nats, fp32) of every answer token, given those before it, with ``hidden`` out of reach."""
        asked, vlm = self._asked, self._asked.vlm
        targets = torch.tensor(asked.answer_ids, device=vlm.device)
        kept = torch.arange(asked.rows.start, asked.rows.stop, device=vlm.device) - asked.image.stop
        found = []
        for first in range(0, len(hidden), batch_size):
            some = hidden[first : first + batch_size].to(vlm.device)
            count = len(some)
            allowed = self._visible.repeat(count, 1, 1)
            allowed[:, :, asked.image] &= ~some[:, None, :]
            with eval_mode(vlm.network), vlm.autocast():
                logits = vlm.network(
                    input_ids=asked.batch.input_ids[:, asked.text].expand(count, -1),
                    position_ids=asked.batch.position_ids[:, asked.text].expand(count, -1),
                    attention_mask=additive_mask(allowed, vlm.compute_dtype),
                    past_key_values=self._cache(count),
                    use_cache=True,
                    logits_to_keep=kept,
                ).logits.float()
            found.append(logits.log_softmax(-1).gather(-1, targets[None, :, None].expand(count, -1, 1))[..., 0])
        return torch.cat(found)

    def _cache(self, count: int) -> DynamicCache:
        return DynamicCache(
            [(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1)) for keys, values in self._states]
        )
