"""Proof that published weights load without radvqa: the same logits from transformers and peft in another process."""

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from radvqa.data.imaging import fit
from radvqa.data.phantom.image import render
from radvqa.errors import ModelError
from radvqa.models.layout import Row
from radvqa.models.vlm import Vision, Vlm
from radvqa.sample import VqaSample

QUESTIONS = (
    ("Is there a fracture?", "no"),
    ("Which organ is shown in this image?", "left lung"),
    ("What is the modality?", "CT"),
)
FLOAT32_BOUND = 1e-4
"""Largest difference of logits, as a share of the largest logit, where both sides compute in float32."""
BFLOAT16_BOUND = 0.05
"""The same where a side computes or stores in bfloat16, whose rounding alone is 2⁻⁹ of every weight and activation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Questions about drawn pictures, and the adapted model's logits at their answers."""

    pixels: tuple[Tensor, ...]
    ids: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    layout: str
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderCheck:
    """Largest difference and size of logits, and the share that the difference may have."""

    difference: float
    scale: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within its bound; never when it is not a number."""
        return math.isfinite(self.difference) and self.difference <= self.bound * self.scale


@torch.no_grad()
def take_probe(vlm: Vlm) -> Probe:
    """Ask an adapted model the fixed questions, each alone in its row, about pictures of its own size."""
    pixels, ids, logits = [], [], []
    for number, (question, answer) in enumerate(QUESTIONS):
        drawn = Image.fromarray(render(2 * vlm.image_size, seed=0, split="train", index=number).image)
        picture = torch.from_numpy(np.array(fit(drawn, vlm.image_size, aspect="squash")))
        sample = VqaSample(
            sample_id=f"probe-{number}", image_id="", image=Path(), question=question, answers=(answer,),
            answer_type="open", group_id="", split="test",
        )  # fmt: skip
        batch = vlm.batch([Row(Path(), (vlm.question(sample, answer=True),))])
        vision = Vision(torch.tensor([0]), pixels=picture[None])
        pixels.append(picture)
        ids.append(batch.input_ids[0].cpu())
        logits.append(vlm.supervised_logits(batch, vision).cpu())
    return Probe(pixels=tuple(pixels), ids=tuple(ids), logits=tuple(logits), layout=vlm.layout, dtype=vlm.compute_dtype)


def require_loadable(
    folder: Path, probe: Probe, *, kind: str, base: str, revision: str | None, stored: torch.dtype = torch.float32
) -> LoaderCheck:
    """Load ``folder`` in a process without radvqa and compare its logits with those of the probe.

    Args:
        folder: published weights with their processor.
        probe: of the model they were made from.
        kind: adapter, projector or checkpoint.
        base: what the first two belong to.
        revision: of the base.
        stored: dtype of the stored weights.

    Raises:
        ModelError: the weights do not load, the processor reads questions otherwise, or logits differ.
    """
    exact = probe.dtype == stored == torch.float32
    facts = {
        "folder": str(folder.resolve()), "kind": kind, "base": base, "revision": revision, "layout": probe.layout,
        "dtype": str(probe.dtype).removeprefix("torch."), "questions": QUESTIONS,
    }  # fmt: skip
    found = _measured(folder, probe, facts)
    result = LoaderCheck(**found, bound=FLOAT32_BOUND if exact else BFLOAT16_BOUND)
    if not result.passed:
        raise ModelError(
            "the written weights give other logits in plain transformers than here",
            where=str(folder),
            expected=f"a difference of at most {result.bound * result.scale:.3g}",
            got=f"{result.difference:.3g}, where the largest logit is {result.scale:.3g}",
            fix="install the pinned versions of transformers and peft; nothing was left in the folder",
        )
    return result


def _measured(folder: Path, probe: Probe, facts: dict[str, Any]) -> dict[str, float]:
    tensors = {
        f"{name}.{number}": tensor.contiguous()
        for name in ("pixels", "ids", "logits")
        for number, tensor in enumerate(getattr(probe, name))
    }
    with tempfile.TemporaryDirectory() as workplace:
        exchange = Path(workplace) / "probe.safetensors"
        save_file(tensors, exchange, metadata={"facts": json.dumps(facts)})
        done = plain_process(exchange)
    if done.returncode != 0:
        raise ModelError(
            "the written weights do not load in plain transformers",
            where=str(folder),
            got=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1],
            fix="install the pinned versions of transformers and peft; nothing was left in the folder",
        )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def plain_process(exchange: Path) -> subprocess.CompletedProcess[str]:
    """Run ``plain_loader.py`` on an exchange file."""
    program = Path(__file__).with_name("plain_loader.py")
    # -P: the folder of the program must not be searched for modules, its files have names of their own.
    command = [sys.executable, "-P", "-W", "ignore", str(program), str(exchange)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
