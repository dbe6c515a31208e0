"""One update of PaliGemma-3B at 448 px with random weights: time, memory and work, each case in a process of its own.

Speed and memory do not depend on what the weights are, so the gated checkpoint is not needed. Its tokenizer is not
either: the ids of the tiny checkpoint's bytes are as good.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoTokenizer,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)
from transformers.initialization import no_init_weights

from radvqa.bench.comparison import in_own_process, peak_resident_mib
from radvqa.bench.engine import Stage, learn
from radvqa.bench.plain import ADAPTED, BETAS, MAX_GRAD_NORM, RANK, adapted, train_plainly
from radvqa.errors import ModelError
from radvqa.models.cost import Learning, Rows, Running, step_work
from radvqa.models.geometry import Geometry, geometry_of, parse_geometry
from radvqa.models.lora import adapted_modules
from radvqa.models.opening import attention_of
from radvqa.models.processor import paligemma_processor
from radvqa.models.speed import measured_speed
from radvqa.models.tiny import tiny_base
from radvqa.models.vlm import Vision, Vlm, part_of, trainable_counts
from radvqa.recipe import Model
from radvqa.sample import VqaSample
from radvqa.train.checkpoint import trainable_parameters
from radvqa.train.loss import AnswerLosses

Route = Literal["plain", "engine"]

PALIGEMMA = "google/paligemma-3b-mix-448"
QUESTION, ANSWER = "Which organ is shown here?", "the liver"
RATE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update with batch 1. Work in FLOP, speeds in FLOP/s, memory as peak resident MiB of the process."""

    route: Route
    stage: Stage
    parameters: dict[str, int]
    learning: dict[str, int]
    adapter_modules: dict[str, int]
    positions: int
    seconds: float
    """Forward, backward and update, the second one of the process."""
    first_seconds: float
    loss: float
    """Of the first update: equal on both routes but for rounding."""
    peak_mib: float
    weights_mib: float
    """Resident before the first update."""
    work: float
    """By the formula of ``radvqa check``; of the plain path, that of the engine with the same stage."""
    counted_work: float | None
    """Matrix products that torch counted in the first update; kernels it does not know are missing."""
    peak_speed: float
    """Of square bfloat16 matrix products in this process."""

    @property
    def speed(self) -> float:
        """Work per second."""
        return self.work / self.seconds

    @property
    def utilisation(self) -> float:
        """Share of the peak."""
        return self.speed / self.peak_speed


def measure(route: Route, stage: Stage, *, threads: int | None, folder: Path, checkpoint: str = PALIGEMMA) -> Update:
    """One update in a new process. ``folder`` takes a picture; ``checkpoint``: whose sizes.

    Raises:
        ModelError: the network built here does not have the sizes it should, or there is a GPU.
    """
    if torch.cuda.is_available():
        raise ModelError(
            "this benchmark measures CPUs only, so far",
            expected="no GPU: its network and its memory are those of the host",
            got=torch.cuda.get_device_name(),
            fix="hide the GPU: CUDA_VISIBLE_DEVICES= radvqa bench geometry",
        )
    found = in_own_process(partial(_measured, route, stage, threads, folder, checkpoint))
    return Update(**json.loads(found))


def random_network(geometry: Geometry, *, dtype: torch.dtype) -> Any:
    """A network of these sizes with random weights, frozen.

    Raises:
        ModelError: it has another number of weights than the geometry says.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            network = PaliGemmaForConditionalGeneration(configuration(geometry))
    finally:
        torch.set_default_dtype(before)
    network.tie_weights()
    # Drawing billions of numbers takes longer than the update: a million are repeated.
    pool = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)) * 0.02
    for name, parameter in network.named_parameters():
        _fill(parameter, pool, norm="norm" in name)
    network.requires_grad_(False)
    counts: dict[str, int] = dict.fromkeys(geometry.parameters(), 0)
    for name, parameter in network.named_parameters():
        counts[part_of(name)] += parameter.numel()
    if counts != geometry.parameters():
        raise ModelError(
            "the network does not have the sizes it should", expected=str(geometry.parameters()), got=str(counts)
        )
    return network.eval()


def _fill(parameter: nn.Parameter, pool: torch.Tensor, *, norm: bool) -> None:
    flat = parameter.data.view(-1)
    if norm:
        # Gemma multiplies by 1 + w, SigLIP by w: either is sound near these.
        flat.fill_(0.5)
        return
    for first in range(0, len(flat), len(pool)):
        part = flat[first : first + len(pool)]
        part.copy_(pool[: len(part)])


def configuration(geometry: Geometry) -> PaliGemmaConfig:
    """PaliGemma's configuration with these sizes and the special ids of the tiny checkpoint."""
    vision, language = geometry.vision, geometry.language
    text = GemmaConfig(
        vocab_size=language.vocabulary,
        hidden_size=language.width,
        intermediate_size=language.mlp,
        num_hidden_layers=language.layers,
        num_attention_heads=language.heads,
        num_key_value_heads=language.kv_heads,
        head_dim=language.head_width,
        hidden_activation="gelu_pytorch_tanh",
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    tower = SiglipVisionConfig(
        hidden_size=vision.width,
        intermediate_size=vision.mlp,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=vision.image,
        patch_size=vision.patch,
        vision_use_head=False,
        projection_dim=language.width,
    )
    config = PaliGemmaConfig(
        vision_config=tower.to_dict(),
        text_config=text.to_dict(),
        projection_dim=language.width,
        hidden_size=language.width,
        image_token_index=3,
        vocab_size=language.vocabulary,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    if parse_geometry(config.to_dict()) != geometry:
        raise ModelError("the configuration does not have the sizes it should", expected=str(geometry))
    return config


def _measured(route: Route, stage: Stage, threads: int | None, folder: Path, checkpoint: str) -> str:
    if threads is not None:
        torch.set_num_threads(threads)
    geometry = geometry_of(Model(checkpoint=checkpoint, revision="0" * 40 if "/" in checkpoint else None))
    if geometry is None:
        raise ModelError("the sizes of this checkpoint are not known", where=checkpoint)
    peak_speed = measured_speed(torch.bfloat16)
    network = random_network(geometry, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base())
    if route == "engine":
        network.set_attn_implementation(attention_of("auto", torch.bfloat16, network.device))
    vlm = Vlm(network, tokenizer, name="random", compute_dtype=torch.bfloat16)
    sample = _sample(folder, geometry)
    row = vlm.rows([sample], answers=True)[0]
    rows = Rows(
        rows=1,
        pictures=1,
        text=1 + len(row.questions[0].prompt) + len(row.questions[0].answer),
        answers=len(row.questions[0].answer),
    )
    learning = Learning(projector=True, rank=RANK, adapted=ADAPTED) if stage == "adapt" else Learning(projector=True)
    run = _engine_updates if route == "engine" else _plain_updates
    times, loss, counted, weights_mib, vlm.network = run(vlm, stage, sample)
    return json.dumps(
        asdict(
            Update(
                route=route,
                stage=stage,
                parameters={str(part): count for part, count in geometry.parameters().items()},
                learning=dict(trainable_counts(vlm.network)),
                adapter_modules=adapted_modules(vlm),
                positions=geometry.vision.tokens + int(rows.text),
                seconds=times[1],
                first_seconds=times[0],
                loss=loss,
                peak_mib=peak_resident_mib(),
                weights_mib=weights_mib,
                work=step_work(
                    geometry,
                    learning,
                    Running(attention="products" if route == "engine" else "sdpa"),
                    rows,
                    cached=stage == "align",
                ),
                counted_work=counted,
                peak_speed=peak_speed,
            )
        )
    )


def _sample(folder: Path, geometry: Geometry) -> VqaSample:
    side = geometry.vision.image
    path = folder / f"noise-{side}.png"
    noise = np.random.default_rng(0).integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return VqaSample(
        sample_id="noise",
        image_id="noise",
        group_id="noise",
        image=path,
        question=QUESTION,
        answers=(ANSWER,),
        answer_type="open",
        split="train",
    )


Measured = tuple[Sequence[float], float, float | None, float, Any]


def _engine_updates(vlm: Vlm, stage: Stage, sample: VqaSample) -> Measured:
    """Two updates: times, first loss, counted work, memory before, network."""
    vlm.projector.float()
    learn(vlm, stage)
    batch = vlm.batch(vlm.rows([sample], answers=True))
    pixels = torch.from_numpy(np.array(Image.open(sample.image)))[None]
    row_image = torch.tensor([0])
    if stage == "align":
        with torch.no_grad():
            vision = Vision(row_image, features=vlm.see(pixels).to(vlm.compute_dtype))
    else:
        vision = Vision(row_image, pixels=pixels)
    losses = AnswerLosses(vlm, "token")
    parameters = list(trainable_parameters(vlm.network).values())
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=BETAS, weight_decay=0.0)
    vlm.network.train()
    before = peak_resident_mib()
    times: list[float] = []
    found: list[float] = []
    counted: list[int] = []
    for update in range(2):
        began = time.perf_counter()
        counter = FlopCounterMode(display=False)
        with counter if update == 0 else contextlib.nullcontext():
            loss = losses(batch, vision).sum() / len(batch.targets)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - began)
        found.append(float(loss.detach()))
        counted.append(counter.get_total_flops())
    return times, found[0], float(counted[0]), before, vlm.network


def _plain_updates(vlm: Vlm, stage: Stage, sample: VqaSample) -> Measured:
    """The same with ``Trainer`` and the stock processor."""
    processor = paligemma_processor(vlm.tokenizer, image_size=vlm.image_size, image_tokens=vlm.tokens.image_tokens)
    network = adapted(vlm.network, adapters=stage == "adapt")
    before = peak_resident_mib()
    marks = [time.perf_counter()]
    found: list[float] = []

    def after_update(update: int, loss: float) -> None:
        marks.append(time.perf_counter())
        found.append(loss)

    train_plainly(
        network, processor, [sample] * 2, batch_size=1, updates=2, rate=RATE, bf16=True, after_update=after_update
    )
    return np.diff(marks).tolist(), found[0], None, before, network
