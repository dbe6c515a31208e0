"""One update: forward and backward over its micro-batches and processes, with what may not happen refused."""

import contextlib
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, final

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from radvqa.errors import TrainError
from radvqa.models.layout import Batch, Row
from radvqa.models.vlm import Vision, Vlm
from radvqa.run.stopping import asked_to_stop
from radvqa.train.feed import FedRow, Feed
from radvqa.train.loss import LossNorm, denominator
from radvqa.train.memory import out_of_memory
from radvqa.train.parallel import Processes, average_whole_gradients, whole
from radvqa.train.pictures import Pictures
from radvqa.train.prefetch import ahead
from radvqa.train.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a stage learns. The rates are peak learning rates of the parts; ``decay`` is the share of ``wsd``."""

    updates: int
    micro_batch_size: int
    projector_rate: float
    language_rate: float
    vision_rate: float
    schedule: Schedule
    warmup_updates: int
    decay: float
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    stop_grad_norm: float
    loss_norm: LossNorm
    checkpoint_every: int
    keep_checkpoints: int
    watch_every: int
    keep: Literal["last", "best"]
    patience: int | None
    gradient_checkpointing: bool
    sharding: Literal["none", "fsdp2"]
    trackers: tuple[str, ...]
    seed: int


class Micro(NamedTuple):
    """A forward pass: its tensors, and which source each of its questions comes from."""

    batch: Batch
    vision: Vision
    sources: list[int]


def micro_batches(
    vlm: Vlm, feed: Feed, pictures: Pictures, settings: Settings, *, share: slice, first: int
) -> Generator[Micro, None, None]:
    """This process's forward passes from update ``first`` on, laid out while the one before is computed."""
    size = settings.micro_batch_size
    passes = math.ceil(len(range(feed.batch_size)[share]) / size)

    @lru_cache(maxsize=2)
    def mine(update: int) -> list[FedRow]:
        fed = feed.batch(update)[share]
        # Like lengths together, so that little is padded; the loss does not depend on the order.
        return fed if passes == 1 else sorted(fed, key=lambda one: _length(one.row))

    def make(number: int) -> Micro:
        update, place = first + number // passes, number % passes
        some = mine(update)[place * size : (place + 1) * size]
        rows = [one.row for one in some]
        sources = [one.source for one in some for _ in one.row.questions]
        return Micro(vlm.batch(rows), pictures.vision(rows, update=update), sources)

    return ahead(make, range(max(0, settings.updates - first + 1) * passes))


def _length(row: Row) -> int:
    return sum(len(question.prompt) + len(question.answer) for question in row.questions)


def _source_weights(fed: Sequence[FedRow], sources: int, norm: LossNorm) -> list[int]:
    """What each source's summed loss is divided by: its questions or tokens in the whole update."""
    lengths: list[list[int]] = [[] for _ in range(sources)]
    for one in fed:
        lengths[one.source] += [len(question.answer) for question in one.row.questions]
    return [denominator(some, norm=norm) for some in lengths]


def _by_source(losses: Tensor, sources: Sequence[int], count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64).index_add_(0, torch.tensor(sources), losses.double().cpu())


def _clipped(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Clip the gradients to a norm; the norm before."""
    kinds = [_of_kind(parameters, sharded=sharded) for sharded in (False, True)]
    norms = [torch.nn.utils.get_total_norm([one.grad for one in some if one.grad is not None]) for some in kinds]
    norm = torch.linalg.vector_norm(torch.stack([whole(one) for one in norms]))
    for some in kinds:
        torch.nn.utils.clip_grads_with_norm_(some, limit, norm)
    return float(norm)


def _of_kind(parameters: Sequence[nn.Parameter], *, sharded: bool) -> list[nn.Parameter]:
    return [one for one in parameters if one.grad is not None and isinstance(one, DTensor) == sharded]


class Done(NamedTuple):
    """An update's gradients are there: its loss, their norm, each source's summed loss and questions."""

    loss: float
    grad_norm: float
    source_losses: list[float]
    source_weights: list[int]
    rows: list[int]
    questions: list[int]
    stop: bool


@contextlib.contextmanager
def telling_full_memory(doing: str, settings: Settings) -> Iterator[None]:
    """Turn an error for want of memory into the one that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        problem = out_of_memory(
            error,
            doing=doing,
            micro_batch_size=settings.micro_batch_size,
            gradient_checkpointing=settings.gradient_checkpointing,
        )
        if problem is None:
            raise
        raise problem from error


@final
class Step:
    """Forward and backward of an update over its micro-batches and processes."""

    def __init__(
        self,
        losses: nn.Module,
        feed: Feed,
        settings: Settings,
        *,
        micros: Iterator[Micro],
        parameters: Mapping[str, nn.Parameter],
        accelerator: Accelerator,
        processes: Processes,
    ) -> None:
        self._losses = losses
        self._feed = feed
        self._settings = settings
        self._micros = micros
        self._parameters = list(parameters.values())
        self._accelerator = accelerator
        self._processes = processes
        self._passes = math.ceil(feed.batch_size // processes.size / settings.micro_batch_size)

    def run(self, update: int) -> Done | None:
        """Gradients of the update, clipped; None when the process was asked to stop before they were complete."""
        settings, fed = self._settings, self._feed.batch(update)
        weights = _source_weights(fed, len(self._feed.names), settings.loss_norm)
        divisor = sum(weights)
        totals = torch.zeros(len(self._feed.names) + 1, dtype=torch.float64)
        with telling_full_memory(f"update {update}", settings):
            for number in range(self._passes):
                if self._processes.size == 1 and asked_to_stop():
                    return None
                micro = next(self._micros)
                synchronised = number == self._passes - 1
                with contextlib.nullcontext() if synchronised else self._accelerator.no_sync(self._losses):
                    found = self._losses(micro.batch, micro.vision)
                    self._require_finite(found, micro, update)
                    # Data parallelism averages gradients over the processes; the divisor is that of all of them.
                    self._accelerator.backward(found.sum() * (self._processes.size / divisor))
                totals[:-1] += _by_source(found.detach(), micro.sources, len(self._feed.names))
        if settings.sharding == "fsdp2" and self._processes.size > 1:
            average_whole_gradients(self._parameters, self._processes)
        norm = _clipped(self._parameters, settings.max_grad_norm)
        if not norm <= settings.stop_grad_norm:
            raise _out_of_bounds(
                [question for one in fed for question in one.row.questions],
                [one.row for one in fed],
                update,
                expected=f"a gradient norm of at most {settings.stop_grad_norm:g} (stop_grad_norm)",
                got=f"gradient norm {norm:.4g}",
            )
        totals[-1] = float(asked_to_stop())
        totals = self._processes.sum(totals)
        rows = [sum(one.source == source for one in fed) for source in range(len(self._feed.names))]
        questions = [
            sum(len(one.row.questions) for one in fed if one.source == source)
            for source in range(len(self._feed.names))
        ]
        sums = totals[:-1].tolist()
        return Done(sum(sums) / divisor, norm, sums, weights, rows, questions, bool(totals[-1] > 0))

    def _require_finite(self, losses: Tensor, micro: Micro, update: int) -> None:
        finite = losses.detach().isfinite()
        if bool(finite.all()):
            return
        questions = [question for row in micro.batch.rows for question in row.questions]
        bad = [question for question, fine in zip(questions, finite.tolist(), strict=True) if not fine]
        rows = [row for row in micro.batch.rows if any(question in row.questions for question in bad)]
        value = float(losses.detach()[~finite][0])
        raise _out_of_bounds(bad, rows, update, expected="finite losses and gradients", got=f"loss {value}")


def _out_of_bounds(
    questions: Sequence[Any], rows: Sequence[Row], update: int, *, expected: str, got: str
) -> TrainError:
    ids = [question.sample_id for question in questions]
    images = sorted({str(row.image) for row in rows})
    more = f" and {len(ids) - 20} more" if len(ids) > 20 else ""
    return TrainError(
        f"training went out of bounds at update {update}",
        where=f"samples {', '.join(ids[:20])}{more}; images {', '.join(images[:20])}",
        expected=expected,
        got=got,
        fix="look at these samples, or lower the learning rate; the last checkpoint is intact",
    )
