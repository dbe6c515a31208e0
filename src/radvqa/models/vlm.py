"""A PaliGemma checkpoint with its processor: batches, supervised logits and greedy answers.

Works with any PaliGemma-1 checkpoint; the embedded base is one. Axes: b rows, n positions, k supervised positions,
v vocabulary, u distinct images, i image tokens, d vision width, h language width, q questions of a row.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from radvqa.errors import ModelError
from radvqa.models.decoding import Asking, Decoder
from radvqa.models.layout import (
    Batch,
    Question,
    Row,
    Tokens,
    additive_mask,
    attention_inputs,
    last_positions,
    lay_out,
    prompt_text,
    require_prefix_attention,
    shared_image_mask,
    visible_keys,
)
from radvqa.recipe import Layout
from radvqa.sample import VqaSample

Pixels = UInt8[np.ndarray, "y x 3"]


class Answer(NamedTuple):
    """A greedy answer: text, whether it ended by itself, its token ids (end token included), their log-probability."""

    text: str
    finished: bool
    token_ids: tuple[int, ...]
    logprob: float


@dataclass(frozen=True, slots=True)
class Vision:
    """What the tower sees or has seen, one entry per distinct image, and which entry each row uses.

    Exactly one of ``pixels`` (uint8, squashed to the model's square), ``features`` (the frozen tower's output) and
    ``projected`` (image tokens as ``Vlm.image_tokens`` made them, by the weights of now and without a gradient).
    """

    row_image: Int[Tensor, " b"]
    pixels: UInt8[Tensor, "u y x 3"] | None = None
    features: Float[Tensor, "u i d"] | None = None
    projected: Float[Tensor, "u i h"] | None = None

    def __post_init__(self) -> None:
        given = sum(one is not None for one in (self.pixels, self.features, self.projected))
        if given != 1:
            raise ModelError(
                "a batch needs vision input: an answer without the image is not visual question answering",
                expected="exactly one of pixels, features and projected",
                got="none" if not given else str(given),
            )


class Vlm:
    """One loaded checkpoint. ``network`` is a PaliGemma network, or a PEFT model around one.

    ``digest`` says which weights these are: see ``radvqa.models.opening.weights_digest``.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str | None = None,
        digest: str = "",
        layout: Layout = "per_question",
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.digest = digest
        self.layout: Layout = layout
        self.compute_dtype = compute_dtype
        config = network.config
        vision = config.vision_config
        side = vision.image_size // vision.patch_size
        self.image_size: int = vision.image_size
        self.image_grid = (side, side)
        self.tokens = Tokens(
            image_tokens=side * side,
            image_id=config.image_token_id,
            bos_id=tokenizer.bos_token_id,
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
        )
        self._vocabulary_size: int = config.text_config.vocab_size

    @property
    def device(self) -> torch.device:
        """Where the weights are; batches follow."""
        return self.base.lm_head.weight.device  # type: ignore[no-any-return]

    @property
    def base(self) -> Any:
        """The PaliGemma network itself, with or without adapters inside."""
        return self.network.get_base_model() if hasattr(self.network, "peft_config") else self.network

    @property
    def vision_encoder(self) -> nn.Module:
        """The vision tower."""
        return self.base.model.vision_tower  # type: ignore[no-any-return]

    @property
    def projector(self) -> nn.Module:
        """The linear map from vision width d to language width h."""
        return self.base.model.multi_modal_projector  # type: ignore[no-any-return]

    @property
    def language_model(self) -> nn.Module:
        """The decoder with its embeddings; the head is tied to them."""
        return self.base.model.language_model  # type: ignore[no-any-return]

    def question(self, sample: VqaSample, *, answer: bool) -> Question:
        """Token ids of a sample's prompt and, with ``answer``, of its first reference and the end token.

        Raises:
            ModelError: the text has a token outside the model's vocabulary, or an empty answer.
        """
        prompt = self.text_ids(prompt_text(sample.question, sample.language), sample.sample_id)
        if not answer:
            return Question(sample.sample_id, prompt, ())
        target = self.text_ids(sample.answers[0], sample.sample_id)
        if not target:
            raise ModelError("the reference answer has no tokens", where=sample.sample_id, got=repr(sample.answers[0]))
        return Question(sample.sample_id, prompt, (*target, self.tokens.eos_id))

    def text_ids(self, text: str, sample_id: str) -> tuple[int, ...]:
        """Token ids of a text without special tokens. Raises ``ModelError`` for one with a special token in it."""
        ids = tuple(self.tokenizer(text, add_special_tokens=False).input_ids)
        if any(token >= self._vocabulary_size or token == self.tokens.image_id for token in ids):
            raise ModelError(
                "a text holds a special token that the model must not read from text",
                where=sample_id,
                got=repr(text[:80]),
                fix="remove <image>, <loc…> and <seg…> marks from the text",
            )
        return ids

    def rows(self, samples: Sequence[VqaSample], *, answers: bool) -> list[Row]:
        """Rows of these samples: one each, or one per image in the shared-image layout (order of first appearance)."""
        if self.layout == "per_question":
            return [Row(sample.image, (self.question(sample, answer=answers),)) for sample in samples]
        by_image: dict[Path, list[Question]] = {}
        for sample in samples:
            by_image.setdefault(sample.image, []).append(self.question(sample, answer=answers))
        return [Row(image, tuple(questions)) for image, questions in by_image.items()]

    def batch(self, rows: Sequence[Row]) -> Batch:
        """The rows as padded tensors; see ``radvqa.models.layout``."""
        return lay_out(rows, layout=self.layout, tokens=self.tokens)

    def see(self, pixels: UInt8[Tensor, "u y x 3"]) -> Float[Tensor, "u i d"]:
        """The tower's output, before the projector."""
        if pixels.shape[1:3] != (self.image_size, self.image_size):
            raise ModelError(
                "pictures have the wrong size for this checkpoint",
                expected=f"{self.image_size} x {self.image_size} pixels",
                got=f"{pixels.shape[1]} x {pixels.shape[2]}",
            )
        scaled = pixels.to(self.device).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        with self.autocast():
            return self.vision_encoder(scaled).last_hidden_state  # type: ignore[no-any-return]

    @torch.no_grad()
    def image_tokens(self, pixels: UInt8[Tensor, "u y x 3"]) -> Float[Tensor, "u i h"]:
        """What tower and projector make of pictures, for as many questions as there are. Raises like ``see``."""
        seen = self.see(pixels)
        with self.autocast():
            return self.projector(seen)  # type: ignore[no-any-return]

    def image_embeddings(self, vision: Vision) -> Float[Tensor, "b i h"]:
        """Projected image tokens of every row. A frozen tower runs without an autograd graph.

        Raises:
            ModelError: features of a tower that learns, or of another shape or dtype than the tower's.
        """
        if vision.projected is not None:
            return vision.projected.to(self.device)[vision.row_image.to(self.device)]
        learns = any(parameter.requires_grad for parameter in self.vision_encoder.parameters())
        if vision.features is not None:
            self._require_current(vision.features, tower_learns=learns)
            seen = vision.features.to(self.device)
        else:
            assert vision.pixels is not None
            with contextlib.nullcontext() if learns else torch.no_grad():
                seen = self.see(vision.pixels)
        with self.autocast():
            return self.projector(seen)[vision.row_image.to(self.device)]  # type: ignore[no-any-return]

    def _require_current(self, features: Tensor, *, tower_learns: bool) -> None:
        if tower_learns:
            raise ModelError(
                "kept features are out of date as soon as the vision tower learns",
                expected="pixels, or a frozen tower",
                got="features",
            )
        expected = (self.tokens.image_tokens, self.base.config.vision_config.hidden_size)
        if features.shape[1:] != expected or features.dtype != self.compute_dtype:
            raise ModelError(
                "features are not of this checkpoint's tower",
                expected=f"{expected[0]} image tokens of width {expected[1]}, {self.compute_dtype}",
                got=f"{' x '.join(map(str, features.shape[1:]))}, {features.dtype}",
                fix="compute them anew",
            )

    def supervised_logits(self, batch: Batch, vision: Vision) -> Float[Tensor, "k v"]:
        """Logits (fp32) at the positions that predict an answer token, in the order of ``batch.targets``.

        Raises:
            ModelError: the attention was changed to one without the prefix-LM mask; see also ``require_prefix_lm``.
        """
        require_prefix_attention(self.base.config)
        batch = batch.to(self.device)
        with self.autocast():
            output = self.network(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                mm_encoder_outputs=self.encoded(self.image_embeddings(vision)),
                logits_to_keep=batch.predicting,
                use_cache=False,
                **attention_inputs(batch, self.compute_dtype),
            )
        return output.logits.reshape(-1, output.logits.shape[-1]).float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def answer(self, batch: Batch, vision: Vision, *, max_new_tokens: int) -> list[Answer]:
        """Greedy answers to every question of a batch laid out without answers, in order of rows and questions.

        The image and the prompts run once; then one token per open question and step, on the cached keys and values;
        questions whose answer has ended take no further part. Equal to running every question alone in the same layout.
        Image and bos tokens can never be generated.

        Raises:
            ModelError: the batch holds answers, or the attention is one without the prefix-LM mask.
        """
        require_prefix_attention(self.base.config)
        if bool(batch.suffix.any()):
            raise ModelError("answers are generated from prompts alone", got="a batch that holds answers")
        batch = batch.to(self.device)
        counts = [len(row.questions) for row in batch.rows]
        width = max(counts)
        asked = (torch.arange(width)[None] < torch.tensor(counts)[:, None]).to(self.device)
        ends, keys = last_positions(batch.block, width), visible_keys(batch, width)
        # Without answers a prompt of PaliGemma's own layout sees all of itself, so its mask is that of its end.
        allowed = keys if batch.layout == "per_question" else shared_image_mask(batch)
        decoder = Decoder(self.language_model, room=batch.input_ids.shape[1] + width * (max_new_tokens - 1))
        with self.autocast():
            hidden = decoder.read(
                self._embedded(batch, vision),
                batch.position_ids,
                additive_mask(allowed, self.compute_dtype),
                ends=ends,
                end_mask=additive_mask(keys, self.compute_dtype),
            )
        asking = Asking(asked, batch.position_ids.gather(1, ends), keys)
        tokens = torch.full((len(counts), width, max_new_tokens), self.tokens.eos_id, device=self.device)
        total = torch.zeros(asked.shape, device=self.device)
        for step in range(max_new_tokens):
            chosen, logprobs = self._next_tokens(hidden[asking.open_])
            rows, columns = asking.places()
            tokens[rows, columns, step] = chosen
            total[rows, columns] += logprobs
            asking.take(chosen, end=self.tokens.eos_id)
            if not bool(asking.open_.any()) or step == max_new_tokens - 1:
                break
            asking.compact(decoder)
            asking.add_keys()
            with self.autocast():
                hidden = decoder.read(
                    self._embedded_text(asking.last),
                    asking.positions,
                    additive_mask(asking.keys, self.compute_dtype),
                )
        return self._read(tokens, total, asked)

    def _embedded(self, batch: Batch, vision: Vision) -> Float[Tensor, "b n h"]:
        """What the language model reads of a batch: image tokens come first in every row."""
        text = self._embedded_text(batch.input_ids[:, self.tokens.image_tokens :])
        return torch.cat([self.image_embeddings(vision).to(text.dtype), text], dim=1)

    def _embedded_text(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n h"]:
        return self.base.model.language_model.embed_tokens(ids)  # type: ignore[no-any-return]

    def _next_tokens(self, hidden: Float[Tensor, "k h"]) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
        """The most probable tokens and their log-probabilities."""
        with self.autocast():
            logits = self.base.lm_head(hidden).float()
        logits[:, [self.tokens.image_id, self.tokens.bos_id]] = -torch.inf
        best, chosen = logits.max(-1)
        return chosen, best - logits.logsumexp(-1)

    def _read(
        self, tokens: Int[Tensor, "b q t"], total: Float[Tensor, "b q"], asked: Bool[Tensor, "b q"]
    ) -> list[Answer]:
        answers = []
        for row, column in asked.nonzero().tolist():
            ids = tokens[row, column].tolist()
            finished = self.tokens.eos_id in ids
            used = ids.index(self.tokens.eos_id) + 1 if finished else len(ids)
            text = self.tokenizer.decode(ids[: used - finished], skip_special_tokens=True).strip()
            answers.append(Answer(text, finished, tuple(ids[:used]), float(total[row, column])))
        return answers

    @staticmethod
    def encoded(embeddings: Float[Tensor, "b i h"]) -> dict[str, BaseModelOutputWithPooling]:
        """Projected image tokens in the form the network's forward takes them."""
        return {"image": BaseModelOutputWithPooling(pooler_output=embeddings)}

    def autocast(self) -> torch.autocast:
        """Matrix products in the compute dtype; a no-op for float32."""
        return torch.autocast(self.device.type, dtype=self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    def checkpoint_gradients(self, *, on: bool) -> None:
        """In training mode, compute the layers' activations a second time instead of keeping them, or stop doing so.

        Gradients stay equal, dropout included. Call it after adapters were attached.
        """
        if not on:
            self.base.activation_checkpointing_disable()
            return
        self.base.activation_checkpointing_enable()
        # transformers lets embeddings require gradients for reentrant checkpoints: these are not, and it costs time.
        self.base.disable_input_require_grads()

    def unfreeze(self, parts: Sequence[Literal["vision_encoder", "language_model"]]) -> None:
        """Let all weights of these parts learn, in float32; the head belongs to the language model.

        Raises:
            ModelError: the part's weights are in four bits, or adapters are attached.
        """
        if parts and hasattr(self.network, "peft_config"):
            raise ModelError("weights under adapters cannot learn themselves", where=", ".join(parts))
        for part in parts:
            modules = [self.vision_encoder] if part == "vision_encoder" else [self.language_model, self.base.lm_head]
            for module in modules:
                if not all(parameter.is_floating_point() for parameter in module.parameters()):
                    raise ModelError("weights in four bits cannot learn", where=part, fix="set model.quantise: none")
                # In place, so that a head that is tied to the embeddings stays tied.
                module.float().requires_grad_(True)


def part_of(parameter_name: str) -> str:
    """Which part a parameter belongs to: vision_encoder, projector or language_model."""
    for mark, part in (("vision_tower", "vision_encoder"), ("multi_modal_projector", "projector")):
        if mark in parameter_name:
            return part
    return "language_model"


def trainable_counts(network: nn.Module) -> Mapping[str, int]:
    """Trainable parameters by part."""
    counts = {"vision_encoder": 0, "projector": 0, "language_model": 0}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            counts[part_of(name)] += parameter.numel()
    return counts
