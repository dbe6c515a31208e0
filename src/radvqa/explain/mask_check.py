"""A self-test of the prefix mask by what the network does, not by what its configuration says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from radvqa.errors import ModelError
from radvqa.explain.recording import recording
from radvqa.models.layout import Question, Row, Tokens, attention_inputs, lay_out
from radvqa.models.vlm import Vlm

_IMAGE_TOKENS = 4
_MOVED = 1e-6
"""Share of the largest activation from which on a change is one."""


def require_prefix_mask(vlm: Vlm) -> None:
    """Refuse a model whose attention leaks the answer or has lost the prefix, by three forwards of a dozen tokens.

    With another last answer token nothing before it may change. With another last question token the image rows must
    change in the per-question layout, where image and question see each other, and must not in the shared-image one.
    A few random image tokens stand for a picture, so the test costs no more at 896 px. Run it once per opened model.

    Raises:
        ModelError: one of these does not hold, or the language model got no mask.
    """
    tokens = Tokens(
        image_tokens=_IMAGE_TOKENS,
        image_id=vlm.tokens.image_id,
        bos_id=vlm.tokens.bos_id,
        eos_id=vlm.tokens.eos_id,
        pad_id=vlm.tokens.pad_id,
    )
    words = vlm.text_ids("answer en which side, left or right?\n", "mask self-test")
    row = Row(Path("mask self-test"), (Question("mask self-test", words[:-3], words[-3:]),))
    batch = lay_out([row], layout=vlm.layout, tokens=tokens).to(vlm.device)
    width = vlm.base.config.text_config.hidden_size
    image = torch.randn(1, _IMAGE_TOKENS, width, generator=torch.Generator().manual_seed(0))
    inputs = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "mm_encoder_outputs": vlm.encoded(image.to(vlm.device)),
        **attention_inputs(batch, vlm.compute_dtype),
    }
    with vlm.autocast():
        check_prefix_mask(
            vlm.base,
            inputs,
            image=slice(0, _IMAGE_TOKENS),
            answer=slice(batch.input_ids.shape[1] - 3, batch.input_ids.shape[1]),
            image_sees_question=vlm.layout == "per_question",
        )


def check_prefix_mask(
    base: Any, inputs: Mapping[str, Any], *, image: slice, answer: slice, image_sees_question: bool
) -> None:
    """The same for given inputs of one row, the question's last token being the one before the answer.

    Raises:
        ModelError: see ``require_prefix_mask``.
    """
    ids = inputs["input_ids"]
    original = _hidden(base, inputs)
    other_answer = _hidden(base, {**inputs, "input_ids": _changed(ids, answer.stop - 1)})
    other_question = _hidden(base, {**inputs, "input_ids": _changed(ids, answer.start - 1)})
    before = slice(image.start, answer.stop - 1)
    if _differ(original[before], other_answer[before]):
        raise ModelError(
            "the prefix mask leaks: the last answer token changes what comes before it",
            expected="token_type_ids with 0 for image and prompt and 1 for the answer, and attention that applies them",
            got="positions that see later answer tokens",
            fix="use model.attention sdpa and the supported transformers version",
        )
    if _differ(original[image], other_question[image]) != image_sees_question:
        expected, got = "image tokens that see the question", "the question's last token does not change them"
        if not image_sees_question:
            expected, got = "image tokens that do not see the question", "the question's last token changes them"
        raise ModelError(
            "the prefix mask is not that of the model's layout",
            expected=expected,
            got=got,
            fix="use model.attention sdpa and the supported transformers version",
        )


class _MaskOnly:
    """Records nothing, but refuses a layer without a mask."""

    @staticmethod
    def record(  # noqa: PLR0917
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        output: Tensor,
    ) -> None:
        if mask is None:
            raise ModelError(
                "the language model ran without an attention mask",
                expected="a mask in every layer",
                fix="register the mask builder under the attention's own name",
            )


@torch.no_grad()
def _hidden(base: Any, inputs: Mapping[str, Any]) -> Float[Tensor, "n h"]:
    with recording(base, _MaskOnly()):
        return base.model(**inputs, use_cache=False).last_hidden_state[0].float()  # type: ignore[no-any-return]


def _changed(ids: Tensor, position: int) -> Tensor:
    """Another, ordinary token at one place: the one at the place before it, or the one before that."""
    changed = ids.clone()
    others = [token for token in ids[0].tolist() if token != int(ids[0, position])]
    changed[0, position] = others[-1]
    return changed


def _differ(first: Float[Tensor, "k h"], second: Float[Tensor, "k h"]) -> bool:
    return bool((first - second).abs().max() > _MOVED * first.abs().max())
