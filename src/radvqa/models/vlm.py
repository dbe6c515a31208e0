"""A PaliGemma checkpoint with its processor: batches, supervised logits and greedy answers.

Works with any PaliGemma-1 checkpoint; the embedded base is one. Axes: b rows, n positions, k supervised positions,
v vocabulary, u distinct images, i image tokens, d vision width, h language width, q questions of a row.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from peft.helpers import disable_input_dtype_casting
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, DynamicCache, PaliGemmaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from radvqa.errors import ModelError
from radvqa.models.layout import (
    PADDING,
    SHARED,
    Batch,
    Question,
    Row,
    Tokens,
    additive_mask,
    attention_inputs,
    lay_out,
    prompt_text,
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

    Exactly one of ``pixels`` (uint8, squashed to the model's square) and ``features`` (the frozen tower's output).
    """

    row_image: Int[Tensor, " b"]
    pixels: UInt8[Tensor, "u y x 3"] | None = None
    features: Float[Tensor, "u i d"] | None = None

    def __post_init__(self) -> None:
        if (self.pixels is None) == (self.features is None):
            raise ModelError(
                "a batch needs vision input: an answer without the image is not visual question answering",
                expected="exactly one of pixels and features",
                got="none" if self.pixels is None else "both",
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
        prompt = self._ids(prompt_text(sample.question, sample.language), sample.sample_id)
        if not answer:
            return Question(sample.sample_id, prompt, ())
        target = self._ids(sample.answers[0], sample.sample_id)
        if not target:
            raise ModelError("the reference answer has no tokens", where=sample.sample_id, got=repr(sample.answers[0]))
        return Question(sample.sample_id, prompt, (*target, self.tokens.eos_id))

    def _ids(self, text: str, sample_id: str) -> tuple[int, ...]:
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

    def image_embeddings(self, vision: Vision) -> Float[Tensor, "b i h"]:
        """Projected image tokens of every row. A frozen tower runs without an autograd graph."""
        if vision.features is not None:
            seen = vision.features.to(self.device)
        else:
            assert vision.pixels is not None
            learns = any(parameter.requires_grad for parameter in self.vision_encoder.parameters())
            with contextlib.nullcontext() if learns else torch.no_grad():
                seen = self.see(vision.pixels)
        with self.autocast():
            return self.projector(seen)[vision.row_image.to(self.device)]  # type: ignore[no-any-return]

    def supervised_logits(self, batch: Batch, vision: Vision) -> Float[Tensor, "k v"]:
        """Logits (fp32) at the positions that predict an answer token, in the order of ``batch.targets``."""
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

        The image and the prompts run once; then one token per open question and step, on the cached keys and values.
        Equal to running every question alone in the same layout. Image and bos tokens can never be generated.
        """
        if bool(batch.suffix.any()):
            raise ModelError("answers are generated from prompts alone", got="a batch that holds answers")
        batch = batch.to(self.device)
        counts = [len(row.questions) for row in batch.rows]
        width = max(counts)
        asked = (torch.arange(width)[None] < torch.tensor(counts)[:, None]).to(self.device)
        ends = _last_positions(batch.block, width)
        cache = DynamicCache()
        with self.autocast():
            output = self.base.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                mm_encoder_outputs=self.encoded(self.image_embeddings(vision)),
                past_key_values=cache,
                use_cache=True,
                **attention_inputs(batch, self.compute_dtype),
            )
        states = output.last_hidden_state
        hidden = states.gather(1, ends[:, :, None].expand(-1, -1, states.shape[-1]))
        keys_of_question = _visible(batch, width)
        positions = batch.position_ids.gather(1, ends)
        tokens: list[Int[Tensor, "b q"]] = []
        total = torch.zeros(asked.shape, device=self.device)
        open_ = asked.clone()
        for step in range(max_new_tokens):
            with self.autocast():
                logits = self.base.lm_head(hidden).float()
            logits[..., [self.tokens.image_id, self.tokens.bos_id]] = -torch.inf
            logprobs = logits.log_softmax(-1)
            best, chosen = logprobs.max(-1)
            chosen = torch.where(open_, chosen, self.tokens.eos_id)
            total += torch.where(open_, best, 0.0)
            tokens.append(chosen)
            open_ = open_ & (chosen != self.tokens.eos_id)
            if not bool(open_.any()) or step == max_new_tokens - 1:
                break
            # Every step appends one key per question; a question sees its own appended keys only.
            own = torch.eye(width, dtype=torch.bool, device=self.device)[None].expand(len(counts), -1, -1)
            keys_of_question = torch.cat([keys_of_question, own], dim=-1)
            positions = positions + 1
            with self.autocast():
                hidden = self.base.model(
                    input_ids=chosen,
                    position_ids=positions,
                    attention_mask=additive_mask(keys_of_question, self.compute_dtype),
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
        return self._read(torch.stack(tokens, dim=-1), total, asked)

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

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Matrix products in the compute dtype; a no-op for float32."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                torch.autocast(self.device.type, dtype=self.compute_dtype, enabled=self.compute_dtype != torch.float32)
            )
            if hasattr(self.network, "peft_config"):
                # Autocast rounds the adapters' inputs anyway; PEFT would first copy every one of them to float32.
                stack.enter_context(disable_input_dtype_casting(self.network))
            yield


def _last_positions(block: Int[Tensor, "b n"], width: int) -> Int[Tensor, "b q"]:
    order = torch.arange(block.shape[1], device=block.device)
    questions = torch.arange(1, width + 1, device=block.device)
    inside = block[:, None, :] == questions[None, :, None]
    return torch.where(inside, order, 0).amax(-1)


def _visible(batch: Batch, width: int) -> Bool[Tensor, "b q n"]:
    questions = torch.arange(1, width + 1, device=batch.block.device)[None, :, None]
    block = batch.block[:, None, :]
    return (block == SHARED) | ((block == questions) & (block != PADDING))


def load_network(
    folder: str, *, revision: str | None = None, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> tuple[Any, Any]:
    """Network and tokenizer of a PaliGemma-1 checkpoint in evaluation mode.

    Attention is SDPA, which carries the prefix-LM mask; FlashAttention does not and is never chosen.

    Raises:
        ModelError: the folder or hub name cannot be loaded, or is no PaliGemma-1 checkpoint.
    """
    try:
        config = AutoConfig.from_pretrained(folder, revision=revision)
        kind = (config.model_type, getattr(config.get_text_config(), "model_type", "none"))
        if kind != ("paligemma", "gemma"):
            raise ModelError(
                "this kind of checkpoint is not supported yet",
                where=folder,
                expected="paligemma with a gemma language model (PaliGemma 1)",
                got=" with ".join(kind),
                fix="take a PaliGemma 1 checkpoint, such as google/paligemma-3b-mix-448",
            )
        network, loading = PaliGemmaForConditionalGeneration.from_pretrained(
            folder,
            revision=revision,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            "the checkpoint cannot be loaded",
            where=folder,
            got=(str(error).splitlines() or [type(error).__name__])[0],
            fix="check the name and revision, and that the files are whole; gated checkpoints need `hf auth login` "
            "with an account that accepted their licence",
        ) from error
    if loading["missing_keys"]:
        raise ModelError(
            "the checkpoint lacks weights, which would be random",
            where=folder,
            expected="every tensor of the network",
            got=f"{len(loading['missing_keys'])} missing, e.g. {min(loading['missing_keys'])}",
            fix="fetch the checkpoint again",
        )
    return network.to(device or torch.device("cpu")).eval(), tokenizer


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
