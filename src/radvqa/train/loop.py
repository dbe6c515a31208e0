"""The one training loop, on accelerate: exact gradient accumulation, atomic checkpoints, exact resume."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import nn

from radvqa.errors import TrainError
from radvqa.models.vlm import Vlm, part_of
from radvqa.records import unwritable, write_text
from radvqa.run.progress import Progress
from radvqa.train.checkpoint import load_newest_state, save_state, trainable_parameters
from radvqa.train.feed import Feed
from radvqa.train.loss import LossNorm, denominator, question_losses
from radvqa.train.pictures import Pictures
from radvqa.train.schedule import learning_rate_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a stage learns. The rates are peak learning rates of the parts."""

    updates: int
    micro_batch_size: int
    projector_rate: float
    language_rate: float
    vision_rate: float
    warmup: float
    weight_decay: float
    max_grad_norm: float
    loss_norm: LossNorm
    checkpoint_every: int
    watch_every: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """One line of ``metrics.jsonl``. ``loss`` in nats, before the update; ``grad_norm`` before clipping."""

    update: int
    loss: float
    learning_rate: float
    grad_norm: float
    questions: int
    seconds: float


Watch = Callable[[int], list[Mapping[str, Any]]]


def train(
    vlm: Vlm, feed: Feed, pictures: Pictures, settings: Settings, *, folder: Path, progress: Progress, watch: Watch
) -> list[UpdateRecord]:
    """Train what requires a gradient, going on from the newest checkpoint in ``folder / "state"``; all update records.

    ``watch`` is called every ``watch_every`` updates and its lines are kept in ``watch.jsonl``.

    Raises:
        TrainError: nothing learns, or a loss is not finite (names the update and its images).
        RunError: the folder cannot be written.
    """
    parameters = trainable_parameters(vlm.network)
    require_float32(parameters)
    # Both are stated because accelerate would otherwise take them from environment variables.
    accelerator = Accelerator(
        cpu=vlm.device.type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    optimiser = torch.optim.AdamW(_groups(parameters, settings), betas=(0.9, 0.99))
    start = load_newest_state(folder / "state", parameters, optimiser)
    network, optimiser = accelerator.prepare(vlm.network, optimiser)
    records = [UpdateRecord(**line) for line in _kept_lines(folder / "metrics.jsonl", start)]
    _kept_lines(folder / "watch.jsonl", start)
    if start:
        progress.say(f"{folder.name}: going on from the checkpoint at update {start} of {settings.updates}")
    peaks = [group["lr"] for group in optimiser.param_groups]
    with progress.track(
        folder.name, feed.batch_size * settings.updates, done=feed.batch_size * start, unit="rows"
    ) as tick:
        for update in range(start + 1, settings.updates + 1):
            began = time.perf_counter()
            factor = learning_rate_factor(update, updates=settings.updates, warmup=settings.warmup)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            # Dropout follows from seed and update, so a resumed run draws the same masks.
            torch.manual_seed(settings.seed * 1_000_003 + update)
            network.train()
            loss, questions = _accumulate(vlm, feed, pictures, settings, update=update, accelerator=accelerator)
            norm = float(accelerator.clip_grad_norm_(list(parameters.values()), settings.max_grad_norm))
            if not norm < float("inf"):
                raise _not_finite(feed, update, f"gradient norm {norm}")
            optimiser.step()
            optimiser.zero_grad()
            record = UpdateRecord(
                update=update,
                loss=loss,
                learning_rate=peaks[0] * factor,
                grad_norm=norm,
                questions=questions,
                seconds=time.perf_counter() - began,
            )
            records.append(record)
            _append(folder / "metrics.jsonl", asdict(record))
            note = f"loss {_recent(records):.3f}  {questions / record.seconds:.1f} questions/s"
            tick(feed.batch_size, note=note)
            if settings.watch_every and (update % settings.watch_every == 0 or update == settings.updates):
                network.eval()
                for line in watch(update):
                    _append(folder / "watch.jsonl", line)
                    progress.say(f"  update {update}, {line['condition']}: {100 * line['overall']:.1f} % right")
            if update % settings.checkpoint_every == 0 or update == settings.updates:
                save_state(folder / "state", update, parameters, optimiser)
    vlm.network.eval()
    return records


def require_float32(parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse a stage that trains nothing, or trains rounded weights."""
    if not parameters:
        raise TrainError("nothing learns in this stage", expected="a trainable projector or adapters")
    rounded = [name for name, parameter in parameters.items() if parameter.dtype != torch.float32]
    if rounded:
        raise TrainError("a trainable weight is not float32", where=rounded[0], got=f"{len(rounded)} such tensors")


def _groups(parameters: Mapping[str, nn.Parameter], settings: Settings) -> list[dict[str, Any]]:
    rates = {
        "projector": settings.projector_rate,
        "language_model": settings.language_rate,
        "vision_encoder": settings.vision_rate,
    }
    groups = []
    for part, rate in rates.items():
        members = [parameter for name, parameter in parameters.items() if part_of(name) == part]
        if members:
            groups.append({"params": members, "lr": rate, "weight_decay": settings.weight_decay})
    return groups


def _accumulate(
    vlm: Vlm, feed: Feed, pictures: Pictures, settings: Settings, *, update: int, accelerator: Accelerator
) -> tuple[float, int]:
    rows = feed.batch(update)
    lengths = [len(question.answer) for row in rows for question in row.questions]
    divisor = denominator(lengths, norm=settings.loss_norm)
    total = 0.0
    for first in range(0, len(rows), settings.micro_batch_size):
        some = rows[first : first + settings.micro_batch_size]
        batch = vlm.batch(some)
        logits = vlm.supervised_logits(batch, pictures.vision(some, update=update))
        targets = batch.targets.to(logits.device)
        loss = question_losses(logits, targets, batch.target_lengths, norm=settings.loss_norm).sum() / divisor
        value = float(loss.detach())
        if not abs(value) < float("inf"):
            raise _not_finite(feed, update, f"loss {value}")
        accelerator.backward(loss)
        total += value
    return total, len(lengths)


def _not_finite(feed: Feed, update: int, got: str) -> TrainError:
    images = ", ".join(sorted({str(row.image) for row in feed.batch(update)}))
    return TrainError(
        f"training went out of bounds at update {update}",
        where=f"images {images}",
        expected="finite loss and gradients",
        got=got,
        fix="lower the learning rate; the last checkpoint is intact",
    )


def _recent(records: list[UpdateRecord], window: int = 20) -> float:
    last = [record.loss for record in records[-window:]]
    return sum(last) / len(last)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


def _kept_lines(path: Path, last_update: int) -> list[dict[str, Any]]:
    """Lines up to an update; later ones (written after the checkpoint, perhaps cut short by a kill) are removed."""
    if not path.is_file():
        return []
    kept = []
    for text in path.read_text(encoding="utf-8").split("\n"):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if line["update"] > last_update:
            break
        kept.append(line)
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept
