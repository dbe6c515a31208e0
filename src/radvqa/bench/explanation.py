"""Attention of one question captured beside the usual way, in a network with random weights: memory and time.

Three ways to pass over the same question and answer, tower and projector left out: ``plain`` gives the answer's
log-probabilities; ``capture`` also the attention of all text rows, of image rows on the prompt, and rollout; ``usual``
gives the same from ``output_attentions=True``. Memory and time do not depend on what the weights are.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer

from radvqa.bench.comparison import in_own_process, peak_resident_mib
from radvqa.bench.geometry import random_network
from radvqa.errors import ModelError
from radvqa.explain.asked import Asked, answer_logprobs
from radvqa.explain.capture import Keep, trace
from radvqa.explain.rollout import rollout
from radvqa.models.geometry import Geometry, geometry_of
from radvqa.models.layout import Question, Row
from radvqa.models.opening import attention_of
from radvqa.models.tiny import tiny_base
from radvqa.models.vlm import Vlm
from radvqa.recipe import Model

Way = Literal["plain", "capture", "usual"]

WAYS: tuple[Way, ...] = ("plain", "capture", "usual")

PROMPT_TOKENS, ANSWER_TOKENS = 24, 16
"""Bos and newline are among those of the prompt."""

ALLOWED_DIFFERENCE = 0.05
"""Between the weights of both ways, which are at most 1. In bfloat16 rounding adds up over the layers: 0.009 after 4
and 0.022 after 18 layers of the 3B geometry with random weights. In fp32 the tests hold them to 1e-6."""

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCase:
    """What is measured. ``layers``: of the language model, all of them unless given."""

    checkpoint: str
    dtype: Literal["bfloat16", "float32"]
    rounds: int
    threads: int | None
    layers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """One way's passes. Seconds of the rounds after the first; memory of a process that does this way alone."""

    way: Way
    seconds: list[float]
    cpu_seconds: list[float]
    kept_mib: float
    """Attention that is there when the pass is over."""
    peak_mib: float
    """The most memory that the process had resident, weights and libraries included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassComparison:
    """All ways. ``extra_*`` are shares of the plain pass: medians over the rounds of both, taken in turns."""

    checkpoint: str
    dtype: str
    threads: int
    layers: int
    heads: int
    positions: int
    prompt_tokens: int
    answer_tokens: int
    ways: list[Passes]
    full_float32_mib: float
    """All attention weights in float32, by arithmetic: what the usual way keeps in a float32 network."""
    difference: float
    """Largest difference between the captured weights of text rows and those of the usual way."""

    def of(self, way: Way) -> Passes:
        """The passes of one way."""
        return next(one for one in self.ways if one.way == way)

    def extra_peak_mib(self, way: Way) -> float:
        """Peak beyond that of the plain pass."""
        return self.of(way).peak_mib - self.of("plain").peak_mib

    def extra_time(self, way: Way) -> float:
        """By the clock."""
        return _extra(self.of(way).seconds, self.of("plain").seconds)

    def extra_cpu_time(self, way: Way) -> float:
        """By the processor's time of all threads, which other programs disturb less."""
        return _extra(self.of(way).cpu_seconds, self.of("plain").cpu_seconds)


def compare_passes(case: PassCase, *, say: Callable[[str], None]) -> PassComparison:
    """Memory of each way alone in a process, then time of all ways in turns in one process.

    Raises:
        ModelError: the sizes of the checkpoint are not known, there is a GPU, or the ways give different attention.
        RunError: a process was killed for want of memory.
    """
    if torch.cuda.is_available():
        raise ModelError(
            "this benchmark measures CPUs only, so far",
            expected="no GPU: its memory is that of the host",
            got=torch.cuda.get_device_name(),
            fix="hide the GPU: CUDA_VISIBLE_DEVICES= radvqa bench explain",
        )
    alone: dict[Way, tuple[float, float]] = {}
    for way in WAYS:
        say(f"{way}: memory of one pass")
        alone[way] = in_own_process(partial(_memory, case, way))
    say(f"time of {case.rounds} rounds of all ways")
    timed = json.loads(in_own_process(partial(_times, case)))
    passes = [Passes(way=way, **timed["times"][way], kept_mib=alone[way][0], peak_mib=alone[way][1]) for way in WAYS]
    found = PassComparison(checkpoint=case.checkpoint, dtype=case.dtype, ways=passes, **timed["facts"])
    if not found.difference <= ALLOWED_DIFFERENCE:
        raise ModelError(
            "captured attention is not that of the usual way",
            expected=f"weights that differ by at most {ALLOWED_DIFFERENCE}",
            got=f"{found.difference:.3g}",
        )
    return found


def random_question(case: PassCase) -> Asked:
    """A question, an answer and image tokens of random numbers, for a network of the case's sizes.

    Raises:
        ModelError: the sizes of the checkpoint are not known.
    """
    geometry = _sizes(case)
    dtype = torch.bfloat16 if case.dtype == "bfloat16" else torch.float32
    network = random_network(geometry, dtype=dtype)
    network.set_attn_implementation(attention_of("auto", dtype, torch.device("cpu")))
    vlm = Vlm(network, AutoTokenizer.from_pretrained(tiny_base()), name="random", compute_dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, geometry.language.vocabulary, (PROMPT_TOKENS - 1 + ANSWER_TOKENS,), generator=generator)
    prompt, answer = tuple(ids[: PROMPT_TOKENS - 1].tolist()), tuple(ids[PROMPT_TOKENS - 1 :].tolist())
    side = geometry.vision.image
    shape = (1, geometry.vision.tokens, geometry.language.width)
    return Asked(
        sample_id="random",
        vlm=vlm,
        batch=vlm.batch([Row(Path("random"), (Question("random", prompt, answer),))]),
        pixels=torch.zeros(1, side, side, 3, dtype=torch.uint8),
        embeddings=torch.randn(shape, generator=generator).to(dtype),
        prompt_ids=prompt,
        answer_ids=answer,
    )


def _sizes(case: PassCase) -> Geometry:
    checkpoint = case.checkpoint
    geometry = geometry_of(Model(checkpoint=checkpoint, revision="0" * 40 if "/" in checkpoint else None))
    if geometry is None:
        raise ModelError(
            "the sizes of this checkpoint are not known", where=checkpoint, expected="embedded, tiny or a PaliGemma"
        )
    if case.layers is None:
        return geometry
    return replace(geometry, language=replace(geometry.language, layers=case.layers))


@dataclass(frozen=True, slots=True, eq=False)
class _Attention:
    """What a way leaves: the kept arrays, the text rows among them, and the rollout made of them."""

    kept: Sequence[Tensor]
    text_rows: Float[Tensor, "L H T n"]
    rollout: Float[Tensor, "t n"]

    @property
    def mib(self) -> float:
        return sum(one.numel() * one.element_size() for one in self.kept) / _MIB


def _pass(asked: Asked, way: Way) -> _Attention | None:
    if way == "plain":
        answer_logprobs(asked)
        return None
    if way == "capture":
        found = trace(asked, Keep(text_rows=True, image_rows=True, fused="mean"))
        assert found.text_rows is not None
        assert found.image_rows is not None
        assert found.fused is not None
        return _Attention(
            (found.text_rows, found.image_rows, found.fused), found.text_rows, rollout(found.fused, asked.rows)
        )
    return _usual(asked)


@torch.no_grad()
def _usual(asked: Asked) -> _Attention:
    """By eager attention, as its documentation has it; the model's own implementation is put back."""
    base = asked.vlm.base
    before = base.config.text_config._attn_implementation
    base.set_attn_implementation({"text_config": "eager"})
    kept = torch.arange(asked.rows.start, asked.rows.stop)
    with asked.vlm.autocast():
        attentions = base(**asked.inputs(), output_attentions=True, logits_to_keep=kept, use_cache=False).attentions
    base.set_attn_implementation({"text_config": before})
    text = slice(asked.text.start - 1, asked.text.stop - 1)
    fused = torch.stack([layer[0].mean(0) for layer in attentions])
    rows = torch.stack([layer[0, :, text] for layer in attentions])
    return _Attention(attentions, rows, rollout(fused, asked.rows))


def _memory(case: PassCase, way: Way) -> tuple[float, float]:
    """MiB kept by one pass, and the peak of the process."""
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    found = _pass(random_question(case), way)
    return 0.0 if found is None else found.mib, peak_resident_mib()


def _times(case: PassCase) -> str:
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    asked = random_question(case)
    times: dict[Way, dict[str, list[float]]] = {way: {"seconds": [], "cpu_seconds": []} for way in WAYS}
    difference = 0.0
    for turn in range(case.rounds + 1):
        rows: dict[Way, Tensor] = {}
        for way in WAYS:
            clock, cpu = time.perf_counter(), time.process_time()
            found = _pass(asked, way)
            cpu_seconds, seconds = time.process_time() - cpu, time.perf_counter() - clock
            if turn > 0:
                times[way]["seconds"].append(seconds)
                times[way]["cpu_seconds"].append(cpu_seconds)
            elif found is not None:
                rows[way] = found.text_rows.float()
            del found
        if turn == 0:
            difference = float((rows["capture"] - rows["usual"]).abs().max())
    language = asked.vlm.base.config.text_config
    layers, heads, length = language.num_hidden_layers, language.num_attention_heads, asked.length
    facts = {
        "threads": torch.get_num_threads(),
        "layers": layers,
        "heads": heads,
        "positions": length,
        "prompt_tokens": PROMPT_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
        "full_float32_mib": 4 * layers * heads * length**2 / _MIB,
        "difference": difference,
    }
    return json.dumps({"times": times, "facts": facts})


def _extra(one: Sequence[float], plain: Sequence[float]) -> float:
    return statistics.median(mine / its for mine, its in zip(one, plain, strict=True)) - 1.0


def passes_facts(found: PassComparison) -> dict[str, object]:
    """Everything measured, with what follows from it."""
    extra = {
        way: {
            "extra_peak_mib": found.extra_peak_mib(way),
            "extra_time": found.extra_time(way),
            "extra_cpu_time": found.extra_cpu_time(way),
        }
        for way in WAYS[1:]
    }
    return asdict(found) | {"extra": extra}
