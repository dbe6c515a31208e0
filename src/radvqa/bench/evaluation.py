"""Answers per second: our evaluation beside transformers' ``generate``, one by one and batched, in turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from radvqa.bench.plain import plain_processor
from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError
from radvqa.evaluate.predict import predict
from radvqa.models.layout import additive_mask, shared_image_mask
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vlm
from radvqa.recipe import Layout, Model
from radvqa.sample import VqaSample

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCase:
    """What is measured. ``batch_size`` is in rows: questions, or images in the shared-image layout.

    ``singly``: also one question at a time. ``checked``: questions whose answers are compared in float32 before.
    """

    model: Model
    batch_size: int
    plain_batch_size: int
    max_new_tokens: int
    rounds: int
    singly: bool
    checked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerComparison:
    """Answers per second in each round after the first, and how far the answers are equal, token by token.

    ``float32_equal`` and ``equal`` are shares of questions, in float32 and in the dtype that is timed. In the
    shared-image layout the plain path has another mask: ``equal`` is None, and the float32 check is against the plain
    network under the shared-image mask, one question at a time.
    """

    layout: Layout
    dtype: str
    threads: int
    batch_size: int
    plain_batch_size: int
    questions: int
    images: int
    single_speeds: list[float]
    batched_speeds: list[float]
    our_speeds: list[float]
    plain_tokens: float
    our_tokens: float
    equal: float | None
    checked: int
    float32_equal: float | None

    @property
    def ratios(self) -> list[float]:
        """Ours to batched ``generate``, round by round."""
        return [ours / plain for ours, plain in zip(self.our_speeds, self.batched_speeds, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of ``ratios``."""
        return statistics.median(self.ratios)


def compare_answers(
    case: AnswerCase, samples: Sequence[VqaSample], store: ImageStore, *, say: Callable[[str], None]
) -> AnswerComparison:
    """Answer the same questions on every route, a part of them in each round.

    Raises:
        ModelError: in float32 an answer differs from the plain path's: the two do not compute the same thing.
        RadvqaError: the checkpoint cannot be opened, or there are too few images for the rounds.
    """
    float32_equal = _require_equal(case, samples[: case.checked], store, say=say) if case.checked else None
    vlm = open_vlm(case.model, say=say)
    plain = _Plain(vlm, max_new_tokens=case.max_new_tokens)
    singles, batched, ours, same, lengths = [], [], [], [], ([], [])  # type: ignore[var-annotated]
    for number, some in enumerate(_parts(samples, case.rounds), start=1):
        began = time.perf_counter()
        found = _our_answers(vlm, some, store, case)
        ours.append(len(some) / (time.perf_counter() - began))
        began = time.perf_counter()
        theirs = plain.answer(some, batch_size=case.plain_batch_size)
        batched.append(len(some) / (time.perf_counter() - began))
        if case.singly:
            began = time.perf_counter()
            plain.answer(some, batch_size=1)
            singles.append(len(some) / (time.perf_counter() - began))
        same += [one == other for one, other in zip(found, theirs, strict=True)]
        lengths[0].extend(map(len, theirs))
        lengths[1].extend(map(len, found))
        single = f", one by one {singles[-1]:.2f}" if singles else ""
        say(f"round {number} of {case.rounds}: batched {batched[-1]:.2f}{single}, ours {ours[-1]:.2f} answers/s")
    return AnswerComparison(
        layout=case.model.layout,
        dtype=str(vlm.compute_dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        batch_size=case.batch_size,
        plain_batch_size=case.plain_batch_size,
        questions=len(samples),
        images=len({sample.image for sample in samples}),
        single_speeds=singles[1:],
        batched_speeds=batched[1:],
        our_speeds=ours[1:],
        plain_tokens=statistics.mean(lengths[0]),
        our_tokens=statistics.mean(lengths[1]),
        equal=statistics.mean(map(float, same)) if case.model.layout == "per_question" else None,
        checked=case.checked,
        float32_equal=float32_equal,
    )


def _require_equal(
    case: AnswerCase, samples: Sequence[VqaSample], store: ImageStore, *, say: Callable[[str], None]
) -> float:
    """The share of equal answers in float32, which is 1. Raises ``ModelError`` like ``compare_answers``."""
    vlm = open_vlm(case.model.model_copy(update={"dtype": "float32"}), say=say)
    plain = _Plain(vlm, max_new_tokens=case.max_new_tokens)
    if case.model.layout == "per_question":
        expected = plain.answer(samples, batch_size=case.plain_batch_size)
    else:
        expected = [plain.answer_under_shared_mask(sample) for sample in samples]
    for sample, ours, theirs in zip(samples, _our_answers(vlm, samples, store, case), expected, strict=True):
        if ours != theirs:
            raise ModelError(
                "the two paths do not give the same answer in float32, so their speeds say nothing",
                where=sample.sample_id,
                expected=f"{vlm.tokenizer.decode(theirs)!r} (transformers)",
                got=repr(vlm.tokenizer.decode(ours)),
                fix="report this, with the versions of transformers and radvqa",
            )
    return 1.0


def _our_answers(vlm: Vlm, samples: Sequence[VqaSample], store: ImageStore, case: AnswerCase) -> list[TokenIds]:
    found = predict(
        vlm,
        samples,
        store,
        condition="model",
        max_new_tokens=case.max_new_tokens,
        batch_size=case.batch_size,
        seed=0,
    )
    return [one.token_ids for one in found]


class _Plain:
    """The path a user would write from the documentation: stock processor, ``generate``, pictures from their files."""

    def __init__(self, vlm: Vlm, *, max_new_tokens: int) -> None:
        self._network: Any = (
            PaliGemmaForConditionalGeneration.from_pretrained(vlm.name, revision=vlm.revision, dtype=vlm.compute_dtype)
            .to(vlm.device)
            .eval()
        )
        self._processor: PaliGemmaProcessor = plain_processor(
            vlm.name, image_size=vlm.image_size, image_tokens=vlm.tokens.image_tokens
        )
        self._vlm = vlm
        # As in ours; a model that has learned anything never wants them.
        self._never = [vlm.tokens.image_id, vlm.tokens.bos_id]
        self._most = max_new_tokens

    @torch.no_grad()
    def answer(self, samples: Sequence[VqaSample], *, batch_size: int) -> list[TokenIds]:
        """The generated tokens of every question, end token included."""
        found = []
        for first in range(0, len(samples), batch_size):
            inputs = self._inputs(samples[first : first + batch_size])
            tokens = self._network.generate(
                **inputs, max_new_tokens=self._most, do_sample=False, suppress_tokens=self._never
            )
            found += [self._ended(new) for new in tokens[:, inputs["input_ids"].shape[1] :].tolist()]
        return found

    @torch.no_grad()
    def answer_under_shared_mask(self, sample: VqaSample) -> TokenIds:
        """The same for one question under the shared-image mask: the plain network has no such mode of its own."""
        inputs = self._inputs([sample])
        batch = self._vlm.batch(self._vlm.rows([sample], answers=False))
        ids, allowed = inputs["input_ids"], shared_image_mask(batch)
        found: list[int] = []
        while len(found) < self._most and self._vlm.tokens.eos_id not in found:
            logits = self._network(
                input_ids=ids,
                pixel_values=inputs["pixel_values"],
                attention_mask=additive_mask(allowed, self._network.dtype),
            ).logits[0, -1]
            logits[self._never] = -torch.inf
            found.append(int(logits.argmax()))
            ids = torch.cat([ids, ids.new_tensor([[found[-1]]])], dim=1)
            n = allowed.shape[1]
            grown = allowed.new_zeros(1, n + 1, n + 1)
            grown[:, :n, :n], grown[:, n] = allowed, True
            allowed = grown
        return tuple(found)

    def _inputs(self, samples: Sequence[VqaSample]) -> Any:
        return self._processor(
            text=[f"<image>answer {sample.language} {' '.join(sample.question.split())}" for sample in samples],
            images=[Image.open(sample.image).convert("RGB") for sample in samples],
            return_tensors="pt",
            padding="longest",
            padding_side="left",
        ).to(self._vlm.device, self._network.dtype)

    def _ended(self, tokens: Sequence[int]) -> TokenIds:
        end = self._vlm.tokens.eos_id
        return tuple(tokens[: tokens.index(end) + 1] if end in tokens else tokens)


def _parts(samples: Sequence[VqaSample], rounds: int) -> list[list[VqaSample]]:
    """The samples of as many images in each round, image by image."""
    by_image: dict[Any, list[VqaSample]] = {}
    for sample in samples:
        by_image.setdefault(sample.image, []).append(sample)
    images = list(by_image.values())
    if len(images) < rounds:
        raise ModelError(
            "there are more rounds than images to ask about",
            expected=f"at most {len(images)} rounds",
            got=str(rounds),
            fix="raise --images or lower --rounds",
        )
    ends = [round(len(images) * number / rounds) for number in range(rounds + 1)]
    return [[one for image in images[a:b] for one in image] for a, b in pairwise(ends)]
