"""One question about one picture with one answer, laid out for a teacher-forced pass: what every map starts from.

Axes: n positions (image tokens first, then bos and prompt, then the answer), i image tokens, t answer tokens,
k variants of the same pass, h language width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from radvqa.errors import DataError, ModelError
from radvqa.models.layout import Batch, Question, Row, attention_inputs
from radvqa.models.vlm import Vision, Vlm
from radvqa.sample import VqaSample


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A question and the answer to be explained. The end token is not part of the answer.

    ``pixels`` are what the tower sees, ``embeddings`` what tower and projector make of them. Row q of an attention
    matrix predicts token q + 1, so ``rows`` (one per answer token) start at the last token of the prompt.
    """

    sample_id: str
    vlm: Vlm
    batch: Batch
    pixels: UInt8[Tensor, "1 y x 3"]
    embeddings: Float[Tensor, "1 i h"]
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """n, all positions."""
        return self.batch.input_ids.shape[1]

    @property
    def image(self) -> slice:
        """Image tokens, row by row of the grid."""
        return slice(0, self.vlm.tokens.image_tokens)

    @property
    def prompt(self) -> slice:
        """Bos and the question's tokens, newline included."""
        return slice(self.image.stop, self.image.stop + 1 + len(self.prompt_ids))

    @property
    def answer(self) -> slice:
        """The answer's tokens."""
        return slice(self.prompt.stop, self.length)

    @property
    def rows(self) -> slice:
        """The positions that predict the answer's tokens."""
        return slice(self.answer.start - 1, self.answer.stop - 1)

    @property
    def text(self) -> slice:
        """Prompt and answer."""
        return slice(self.prompt.start, self.length)

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text of every prompt and answer token, bos first; equal pieces at two places stay two."""
        ids = (self.vlm.tokens.bos_id, *self.prompt_ids, *self.answer_ids)
        return tuple(self.vlm.tokenizer.decode([one]) for one in ids)

    def inputs(
        self, *, embeddings: Float[Tensor, "k i h"] | None = None, hidden: Bool[Tensor, "k i"] | None = None
    ) -> dict[str, Any]:
        """What the network's forward takes for k variants of this pass.

        Args:
            embeddings: other image tokens than the picture's own.
            hidden: image positions that nothing may attend to; positions of all tokens stay as they are.
        """
        given = [len(one) for one in (embeddings, hidden) if one is not None] or [1]
        if len(set(given)) > 1 and 1 not in given:
            raise ModelError("variants differ in number", got=" and ".join(map(str, given)))
        count = max(given)
        shown = self.embeddings if embeddings is None else embeddings
        inputs: dict[str, Any] = {
            "input_ids": self.batch.input_ids.expand(count, -1),
            "position_ids": self.batch.position_ids.expand(count, -1),
            "mm_encoder_outputs": self.vlm.encoded(shown.expand(count, -1, -1)),
        }
        for name, value in attention_inputs(self.batch, self.vlm.compute_dtype).items():
            inputs[name] = value.expand(count, *value.shape[1:])
        if hidden is not None:
            inputs["attention_mask"] = _without(inputs["attention_mask"], hidden.to(self.batch.input_ids.device))
        return inputs


def ask(vlm: Vlm, sample: VqaSample, answer: Sequence[int], pixels: UInt8[Tensor, "y x 3"]) -> Asked:
    """Lay out a sample's question with an answer given as token ids, in the layout that the model was trained in.

    One question alone equals the same question in a full row. An end token at the end of ``answer`` is left out.

    Raises:
        DataError: the answer is empty, so there is no token to explain.
        ModelError: the pixels have the wrong size, or the question a token that the model must not read.
    """
    ids = tuple(answer)
    if ids and ids[-1] == vlm.tokens.eos_id:
        ids = ids[:-1]
    if not ids:
        raise DataError(
            "there is no answer token to explain",
            where=sample.sample_id,
            got="an empty answer",
            fix="choose another sample",
        )
    prompt = vlm.question(sample, answer=False).prompt
    row = Row(Path(sample.image), (Question(sample.sample_id, prompt, ids),))
    shown = pixels[None].to(vlm.device)
    with torch.no_grad():
        embeddings = vlm.image_embeddings(Vision(torch.zeros(1, dtype=torch.long), pixels=shown))
    return Asked(
        sample_id=sample.sample_id,
        vlm=vlm,
        batch=vlm.batch([row]).to(vlm.device),
        pixels=shown,
        embeddings=embeddings.detach(),
        prompt_ids=prompt,
        answer_ids=ids,
    )


def answer_ids(vlm: Vlm, text: str, *, where: str) -> tuple[int, ...]:
    """Token ids of a typed or reference answer, without the end token.

    Raises:
        DataError: the text has no tokens.
        ModelError: it holds a token that the model must not read from text.
    """
    ids = vlm.text_ids(text, where)
    if not ids:
        raise DataError("the answer has no tokens", where=where, got=repr(text), fix="type an answer")
    return ids


@torch.no_grad()
def answer_logprobs(
    asked: Asked,
    *,
    embeddings: Float[Tensor, "k i h"] | None = None,
    hidden: Bool[Tensor, "k i"] | None = None,
    batch_size: int = 16,
) -> Float[Tensor, "k t"]:
    """Log-probability of every answer token, given those before it, under k variants of the picture; in fp32."""
    count = max(len(one) for one in (embeddings, hidden, asked.embeddings) if one is not None)
    targets = torch.tensor(asked.answer_ids, device=asked.vlm.device)
    kept = torch.arange(asked.rows.start, asked.rows.stop, device=asked.vlm.device)
    found = []
    for start in range(0, count, batch_size):
        some = slice(start, start + batch_size)
        inputs = asked.inputs(
            embeddings=embeddings[some] if embeddings is not None else None,
            hidden=hidden[some] if hidden is not None else None,
        )
        with asked.vlm.autocast():
            logits = asked.vlm.network(**inputs, logits_to_keep=kept, use_cache=False).logits.float()
        found.append(logits.log_softmax(-1).gather(-1, targets[None, :, None].expand(len(logits), -1, 1))[..., 0])
    return torch.cat(found)


def _without(mask: Tensor, hidden: Bool[Tensor, "k i"]) -> Tensor:
    changed = mask.clone() if len(mask) == len(hidden) else mask.repeat(len(hidden), *[1] * (mask.ndim - 1))
    image = slice(0, hidden.shape[1])
    if mask.ndim == 2:
        changed[:, image] = changed[:, image].masked_fill(hidden, 0)
    else:
        lowest = torch.finfo(mask.dtype).min
        changed[..., image] = changed[..., image].masked_fill(hidden[:, None, None, :], lowest)
    return changed
