"""The one training loop, on accelerate: exact gradient accumulation, atomic checkpoints, exact resume."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration
from torch import nn

from radvqa.errors import TrainError
from radvqa.models.vlm import Vlm, part_of
from radvqa.run.progress import Progress
from radvqa.run.stopping import Stopped, held
from radvqa.train.checkpoint import (
    checkpoints,
    drop_best_but,
    load_best,
    load_newest_state,
    put_aside_damaged,
    save_best,
    save_state,
    trainable_parameters,
)
from radvqa.train.feed import Feed
from radvqa.train.history import History, SourceRecord, UpdateRecord
from radvqa.train.loss import AnswerLosses
from radvqa.train.parallel import ALONE, Processes, shard
from radvqa.train.pictures import Pictures
from radvqa.train.schedule import learning_rate_factor
from radvqa.train.step import Done, Settings, Step, micro_batches, telling_full_memory
from radvqa.train.trackers import require_trackers

Watch = Callable[[int], Sequence[Mapping[str, Any]]]


def train(
    vlm: Vlm,
    feed: Feed,
    pictures: Pictures,
    settings: Settings,
    *,
    folder: Path,
    progress: Progress,
    watch: Watch,
    processes: Processes = ALONE,
) -> History:
    """Train what requires a gradient, going on from the newest whole checkpoint in ``folder / "state"``.

    ``watch`` is called every ``watch_every`` updates and its lines are kept in ``watch.jsonl``. Every process of
    ``processes`` calls this with the same arguments; the leader writes the files.

    Raises:
        TrainError: nothing learns, the memory is full, or a loss or gradient is out of bounds (names the samples).
        RunError: the folder cannot be written.
        Stopped: SIGTERM came; the last update is saved.
    """
    if settings.sharding == "fsdp2" and processes.size > 1:
        shard(vlm.network)
    parameters = trainable_parameters(vlm.network)
    if not parameters:
        raise TrainError("nothing learns in this stage", expected="a trainable projector or adapters")
    share = processes.share(feed.batch_size)
    accelerator = _accelerator(vlm, settings.trackers, folder)
    optimiser = torch.optim.AdamW(_groups(parameters, settings), betas=settings.betas)
    if processes.leads:
        put_aside_damaged(folder / "state", say=progress.say)
    processes.wait()
    start = load_newest_state(folder / "state", parameters, optimiser, say=progress.say)
    history = History(folder, last=start, write=processes.leads)
    losses, optimiser = _prepared(AnswerLosses(vlm, settings.loss_norm), optimiser, accelerator, settings, processes)
    if start:
        progress.say(f"{folder.name}: going on from the checkpoint at update {start} of {settings.updates}")
    peaks = [group["lr"] for group in optimiser.param_groups]
    micros = micro_batches(vlm, feed, pictures, settings, share=share, first=start + 1)
    step = Step(
        losses, feed, settings, micros=micros, parameters=parameters, accelerator=accelerator, processes=processes
    )
    keeper = _Keeper(
        folder / "state",
        saved=start,
        parameters=parameters,
        optimiser=optimiser,
        history=history,
        settings=settings,
        processes=processes,
    )
    rows = feed.batch_size
    with (
        held(),
        contextlib.closing(micros),
        progress.track(folder.name, rows * settings.updates, done=rows * start, unit="rows") as tick,
    ):
        for update in range(start + 1, settings.updates + 1):
            if _ended(history, settings):
                progress.say(f"{folder.name}: {settings.patience} looks without a better one; stopped early")
                keeper.save(update - 1)
                break
            began = time.perf_counter()
            factor = _rate_factor(update, settings)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            # Dropout follows from seed and update, so a resumed run draws the same masks.
            torch.manual_seed(settings.seed * 1_000_003 + update + processes.rank * 1_000_000_007)
            vlm.network.train()
            done = step.run(update)
            if done is None:
                keeper.stop(update - 1, progress)
            with telling_full_memory(f"update {update}", settings):
                optimiser.step()
            optimiser.zero_grad()
            record = _record(update, done, feed, peaks[0] * factor, time.perf_counter() - began)
            history.add(record)
            accelerator.log(_tracked(record), step=update)
            speed = f"{record.questions / record.seconds:.1f} questions/s"
            tick(rows, note=f"loss {history.recent_loss():.3f}  {speed}")
            keeper.finish(update, vlm, watch, progress)
            if done.stop:
                keeper.stop(update, progress)
    keeper.take_best(progress)
    # Not accelerator.end_training(), which would part the processes as well.
    for tracker in accelerator.trackers:
        tracker.finish()
    vlm.network.eval()
    return history


@final
class _Keeper:
    """Checkpoints of a stage and the weights of its best look."""

    def __init__(
        self,
        folder: Path,
        *,
        saved: int,
        parameters: Mapping[str, nn.Parameter],
        optimiser: torch.optim.Optimizer,
        history: History,
        settings: Settings,
        processes: Processes,
    ) -> None:
        self._folder = folder
        self._saved = saved
        self._parameters = parameters
        self._optimiser = optimiser
        self._history = history
        self._settings = settings
        self._processes = processes

    def finish(self, update: int, vlm: Vlm, watch: Watch, progress: Progress) -> None:
        """The look and the checkpoint that are due after an update."""
        settings = self._settings
        last = update == settings.updates
        if settings.watch_every and (update % settings.watch_every == 0 or last):
            vlm.network.eval()
            with telling_full_memory(f"the look at update {update}", settings):
                lines = watch(update)
            # All processes decide by what the leader saw: rounding may turn an answer in one of them.
            self._look(self._processes.of_leader(lines), update, progress)
        if update % settings.checkpoint_every == 0 or last:
            self.save(update)

    def save(self, update: int) -> None:
        """Write the checkpoint of an update, unless it is there."""
        if update == self._saved:
            return
        keep = self._settings.keep_checkpoints
        save_state(self._folder, update, self._parameters, self._optimiser, keep=keep, processes=self._processes)
        self._saved = update
        self._drop_best()

    def _look(self, lines: Sequence[Mapping[str, Any]], update: int, progress: Progress) -> None:
        """Note what generated answers are worth; the weights of the best look are written before its lines are."""
        if self._settings.keep == "best" and self._history.would_be_best(lines):
            save_best(self._folder, update, self._parameters, processes=self._processes)
        self._history.look(lines)
        self._drop_best()
        for line in lines:
            progress.say(f"  update {update}, {line['condition']}: {100 * line['overall']:.1f} % right")

    def _drop_best(self) -> None:
        """Keep the best weights as of now and as of every checkpoint that a start may go on from."""
        if self._processes.leads:
            starts = checkpoints(self._folder)
            drop_best_but(self._folder, {self._history.best(), *(self._history.best(until=one) for one in starts)})

    def take_best(self, progress: Progress) -> None:
        """Put the weights of the best look into the model, where the stage wants them."""
        best = self._history.best()
        if self._settings.keep == "best" and best is not None:
            load_best(self._folder, best, self._parameters)
            progress.say(f"{self._folder.parent.name}: keeps the weights of update {best}, the best look")

    def stop(self, update: int, progress: Progress) -> NoReturn:
        """Save this update unless it is saved, and end the process as it was asked to."""
        self._optimiser.zero_grad()
        self.save(update)
        progress.say(f"{self._folder.parent.name}: asked to stop; update {update} of {self._settings.updates} is saved")
        raise Stopped


def _accelerator(vlm: Vlm, trackers: Sequence[str], folder: Path) -> Accelerator:
    """Accelerate for this device, told what it would otherwise take from environment variables."""
    require_trackers(trackers)
    accelerator = Accelerator(
        cpu=vlm.device.type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "trackers")),
    )
    accelerator.init_trackers("radvqa")
    return accelerator


def _prepared(
    losses: nn.Module,
    optimiser: torch.optim.Optimizer,
    accelerator: Accelerator,
    settings: Settings,
    processes: Processes,
) -> tuple[nn.Module, Any]:
    """Wrapped for DDP where there are several processes; sharded layers communicate by themselves."""
    if settings.sharding == "fsdp2" and processes.size > 1:
        return losses, optimiser
    wrapped, prepared = accelerator.prepare(losses, optimiser)
    return wrapped, prepared


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


def _record(update: int, done: Done, feed: Feed, rate: float, seconds: float) -> UpdateRecord:
    planned, drawn, passes = feed.plan.planned[update - 1], feed.plan.drawn(update), feed.passes(update)
    sources = {
        name: SourceRecord(
            weight=float(planned[s]),
            rows=done.rows[s],
            questions=done.questions[s],
            loss=done.source_losses[s] / done.source_weights[s] if done.source_weights[s] else None,
            seen=int(drawn[s]),
            epoch=passes[name],
        )
        for s, name in enumerate(feed.names)
    }
    return UpdateRecord(
        update=update,
        loss=done.loss,
        learning_rate=rate,
        grad_norm=done.grad_norm,
        questions=sum(done.questions),
        seconds=seconds,
        sources=sources,
    )


def _tracked(record: UpdateRecord) -> dict[str, float]:
    values = {
        "train/loss": record.loss,
        "train/learning_rate": record.learning_rate,
        "train/grad_norm": record.grad_norm,
        "train/questions_per_second": record.questions / record.seconds,
    }
    for name, source in record.sources.items():
        values |= {f"mix/{name}/weight": source.weight, f"examples_seen/{name}": source.seen}
        values |= {f"epoch/{name}": source.epoch}
        if source.loss is not None:
            values[f"loss/{name}"] = source.loss
    return values


def _rate_factor(update: int, settings: Settings) -> float:
    return learning_rate_factor(
        update,
        updates=settings.updates,
        warmup_updates=settings.warmup_updates,
        shape=settings.schedule,
        decay=settings.decay,
    )


def _ended(history: History, settings: Settings) -> bool:
    return settings.patience is not None and history.without_a_better_one() >= settings.patience
