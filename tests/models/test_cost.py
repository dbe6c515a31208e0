"""The arithmetic of costs against what torch counts and stores."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from radvqa.models.attention import PRODUCTS
from radvqa.models.cost import (
    Learning,
    Rows,
    Running,
    checkpoint_bytes,
    distinct_pictures,
    step_memory,
    step_work,
    tower_work,
    weight_bytes,
)
from radvqa.models.geometry import Geometry, geometry_of
from radvqa.models.layout import Question, Row
from radvqa.models.vlm import Vision, Vlm
from radvqa.recipe import Model

LANGUAGE = ("language_model",)
VISION = ("vision_encoder",)
BOTH = (*VISION, *LANGUAGE)
ALIGN = Learning(projector=True)
LEARNING = {
    "align": ALIGN,
    "adapters": Learning(projector=True, rank=4, adapted=BOTH),
    "adapters on the language model alone": Learning(projector=False, rank=4, adapted=LANGUAGE),
    "adapters on the tower alone": Learning(projector=False, rank=4, adapted=VISION),
    "adapters on all linear maps": Learning(projector=True, rank=4, targets="all-linear", adapted=BOTH),
    "whole language model": Learning(projector=True, full=LANGUAGE),
    "whole tower": Learning(projector=False, full=VISION),
    "everything": Learning(projector=True, full=BOTH),
}
PROMPT, ANSWER, ROWS = 20, 8, 3


def tiny() -> Geometry:
    geometry = geometry_of(Model(checkpoint="tiny"))
    assert geometry is not None
    return geometry


def prepare(vlm: Vlm, learning: Learning) -> None:
    from radvqa.models.lora import attach_lora

    if learning.adapted:
        attach_lora(
            vlm,
            rank=learning.rank,
            alpha=1,
            dropout=0,
            targets=learning.targets,
            parts=learning.adapted,
            base_name="b",
            revision=None,
            seed=0,
        )
    for name, parameter in vlm.network.named_parameters():
        if "multi_modal_projector" in name:
            parameter.requires_grad_(learning.projector and ("modules_to_save" in name or not learning.adapted))
    for part in learning.full:
        (vlm.vision_encoder if part == "vision_encoder" else vlm.language_model).requires_grad_(True)


def loss_of(vlm: Vlm, *, cached: bool) -> Callable[[], torch.Tensor]:
    questions = [Question(str(row), (9,) * PROMPT, (9,) * ANSWER) for row in range(ROWS)]
    batch = vlm.batch([Row(Path("x.png"), (question,)) for question in questions])
    pixels = torch.zeros(ROWS, vlm.image_size, vlm.image_size, 3, dtype=torch.uint8)
    seen = torch.arange(ROWS)
    if cached:
        with torch.no_grad():
            vision = Vision(seen, features=vlm.see(pixels))
    else:
        vision = Vision(seen, pixels=pixels)
    return lambda: cross_entropy(vlm.supervised_logits(batch, vision), batch.targets)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", LEARNING)
def test_work_is_what_torch_counts(per_question: Vlm, name: str, checkpointing: bool) -> None:
    """Eager attention, since torch does not count the fused kernel of processors."""
    learning = LEARNING[name]
    per_question.network.set_attn_implementation("eager")
    prepare(per_question, learning)
    if checkpointing:
        per_question.checkpoint_gradients(on=True)
        per_question.network.train()
    cached = not learning.tower_learns
    loss = loss_of(per_question, cached=cached)
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    rows = Rows(rows=ROWS, pictures=ROWS, text=1 + PROMPT + ANSWER, answers=ANSWER)
    running = Running(number=4, attention="eager", checkpointing=checkpointing)
    work = step_work(tiny(), learning, running, rows, cached=cached)
    assert work == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_towers_forward_pass_is_what_torch_counts(per_question: Vlm) -> None:
    per_question.network.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        per_question.see(torch.zeros(2, 56, 56, 3, dtype=torch.uint8))
    assert tower_work(tiny().vision, pictures=2) == counter.get_total_flops()


def test_the_work_of_paligemma_is_that_of_the_literature() -> None:
    """One forward pass at 448 px: SigLIP 0.97 TFLOP, Gemma with 40 tokens of text 4.38."""
    geometry = geometry_of(Model(checkpoint="google/paligemma-3b-mix-448", revision="1f"))
    assert geometry is not None
    assert tower_work(geometry.vision) == pytest.approx(0.97e12, rel=0.02)
    rows = Rows(rows=1, pictures=1, text=40, answers=10)
    step = step_work(geometry, ALIGN, Running(attention="eager"), rows, cached=True)
    # Twice the forward passes, and once more for attention, whose backward pass has two products for each of them.
    assert step == pytest.approx(2 * (4.38e12 + 0.01e12) + 0.167e12, rel=0.01)


def stored_bytes(vlm: Vlm, loss: Callable[[], torch.Tensor]) -> int:
    """What autograd keeps of a forward pass, without the weights and with shared memory counted once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*vlm.network.parameters(), *vlm.network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("attention", ["sdpa", "eager", "products"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["align", "adapters", "adapters on all linear maps"])
def test_activations_are_what_autograd_stores(
    open_tiny: Callable[..., Vlm], name: str, dtype: str, attention: Literal["sdpa", "eager", "products"]
) -> None:
    vlm, learning = open_tiny(dtype=dtype), LEARNING[name]
    vlm.network.set_attn_implementation(PRODUCTS if attention == "products" else attention)
    prepare(vlm, learning)
    vlm.network.train()
    cached = not learning.tower_learns
    stored = stored_bytes(vlm, loss_of(vlm, cached=cached))
    running = Running(number=4 if dtype == "float32" else 2, attention=attention)
    rows = Rows(rows=ROWS, pictures=ROWS, text=1 + PROMPT + ANSWER, answers=ANSWER)
    told = step_memory(tiny(), learning, running, rows, cached=cached)
    # Of the logits autograd keeps the log-softmax alone; small tensors weigh much in so narrow a network.
    log_softmax = 4 * ROWS * ANSWER * tiny().language.vocabulary
    assert told.activations + log_softmax == pytest.approx(stored, rel=0.25)


def test_checkpointing_halves_the_memory_of_paligemma() -> None:
    geometry = geometry_of(Model(checkpoint="google/paligemma-3b-mix-448", revision="1f"))
    assert geometry is not None
    rows = Rows(rows=6, pictures=6, text=60, answers=20)
    kept, remade = (
        step_memory(geometry, LEARNING["adapters"], Running(checkpointing=on), rows, cached=False)
        for on in (False, True)
    )
    assert remade.total < kept.total / 2
    assert (remade.weights, remade.learning) == (kept.weights, kept.learning)


def test_weights_take_what_their_precision_says() -> None:
    geometry = geometry_of(Model(checkpoint="google/paligemma-3b-mix-448", revision="1f"))
    assert geometry is not None
    plain = weight_bytes(geometry, ALIGN, Running())
    assert plain == pytest.approx(2 * 2_924_351_216, rel=0.01)
    assert weight_bytes(geometry, ALIGN, Running(number=4)) == 4 * 2_924_351_216
    # The published figure for four bits is 2.1 GB with a quantised tower, which radvqa leaves as it is.
    assert 2.5e9 < weight_bytes(geometry, ALIGN, Running(quantised=True)) < 3.3e9
    assert checkpoint_bytes(geometry, ALIGN, kept=2) == 3 * 12 * 2_361_344


@pytest.mark.parametrize(
    ("pictures", "rows", "drawn", "expected"),
    [(10, 10, 4, 4), (1, 8, 4, 1), (5, 50, 50, 5), (4, 40, 1, 1), (0, 0, 4, 0)],
)
def test_distinct_pictures_of_a_draw(pictures: int, rows: int, drawn: int, expected: float) -> None:
    assert distinct_pictures(pictures=pictures, rows=rows, drawn=drawn) == pytest.approx(expected, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["align", "adapters"])
def test_memory_is_what_a_process_takes(name: str, checkpointing: bool) -> None:
    """Of a random network of 100 million weights, in a process of its own."""
    program = Path(__file__).with_name("peak_of_step.py")
    # Freed memory goes back at once, so that the peak is what was in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, str(program), name, str(checkpointing)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    taken, told = map(float, done.stdout.split())
    assert told == pytest.approx(taken, rel=0.25)
