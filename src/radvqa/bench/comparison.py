"""Plain path and engine side by side: rounds interleaved in one process, losses compared, memory of each alone."""

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch

from radvqa.bench.engine import EngineTraining, PicturesSeen, Stage, fed_samples, feed_of, learn, pictures_of
from radvqa.bench.plain import plain_network, plain_processor, train_plainly
from radvqa.data.image_store import ImageStore
from radvqa.errors import RunError, TrainError
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vlm
from radvqa.recipe import Layout, Model
from radvqa.sample import VqaSample

T = TypeVar("T")

Route = Literal["plain", "engine"]

FIRST_LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Relative. Before the first update both paths have the same weights, so only rounding may differ."""

FLOAT32_LOSS_TOLERANCE = 1e-3
"""Relative, at each of the updates that both paths do in float32."""

MEMORY_UPDATES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured. ``batch_size`` is in rows: questions, or images in the shared-image layout."""

    stage: Stage
    model: Model
    batch_size: int
    plain_batch_size: int
    updates: int
    rounds: int
    rate: float
    seed: int
    cache: Path

    @property
    def layout(self) -> Layout:
        """Of the engine; the plain path has PaliGemma's own."""
        return self.model.layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Medians over the rounds after the first; losses of every update; memory as peak resident MiB of a process."""

    stage: Stage
    layout: Layout
    dtype: str
    threads: int
    batch_size: int
    plain_batch_size: int
    plain_questions: int
    engine_questions: int
    plain_speeds: list[float]
    engine_speeds: list[float]
    ratios: list[float]
    plain_losses: list[float]
    engine_losses: list[float]
    plain_peak_mib: float | None
    engine_peak_mib: float | None
    float32_loss_difference: float | None
    """Largest relative difference over some updates that both paths did in float32 before; None if not measured."""
    feature_seconds: float
    """What the features of the frozen tower took, once for all epochs; not part of the speeds."""
    features_computed: int
    """Pictures whose features were computed in that time."""
    features_found: int
    """Pictures whose features an earlier run had left in the cache."""

    @property
    def plain_speed(self) -> float:
        """Questions per second."""
        return statistics.median(self.plain_speeds)

    @property
    def engine_speed(self) -> float:
        """Questions per second."""
        return statistics.median(self.engine_speeds)

    @property
    def ratio(self) -> float:
        """Median over the rounds of engine to plain speed."""
        return statistics.median(self.ratios)

    @property
    def loss_difference(self) -> float | None:
        """Largest relative difference of the losses; None in the shared-image layout, whose mask is another one."""
        if self.layout == "shared_image":
            return None
        return max(_relative(one, other) for one, other in zip(self.plain_losses, self.engine_losses, strict=True))


def compare(case: Case, samples: Sequence[VqaSample], store: ImageStore, *, say: Callable[[str], None]) -> Comparison:
    """Train both paths on the same questions in the same order, some updates of one and some of the other in turn.

    Raises:
        TrainError: the first losses differ in PaliGemma's own layout: the paths do not compute the same thing.
        RadvqaError: the checkpoint cannot be opened, or the pictures are damaged.
    """
    vlm = open_vlm(case.model, say=say)
    learn(vlm, case.stage)
    feed = feed_of(vlm, samples, batch_size=case.batch_size, updates=case.updates, seed=case.seed)
    questions = fed_samples(feed, samples, updates=case.updates)
    plain_updates = len(questions) // case.plain_batch_size
    began = time.perf_counter()
    images = [sample.image for sample in questions]
    computed = PicturesSeen(vlm)
    pictures = pictures_of(vlm, case.stage, store, images, cache=case.cache / "features")
    computed.stop()
    needed = len({store.sha256(image) for image in images}) if case.stage == "align" else 0
    feature_seconds = time.perf_counter() - began
    engine = EngineTraining(vlm, feed, pictures, updates=case.updates, rate=case.rate)
    rounds = _Rounds(
        engine,
        plain_ends=_ends(plain_updates, case.rounds),
        engine_ends=_ends(case.updates, case.rounds),
        plain_batch_size=case.plain_batch_size,
        tolerance=FIRST_LOSS_TOLERANCE[vlm.compute_dtype] if case.layout == "per_question" else None,
        say=say,
    )
    network = plain_network(vlm.name, adapters=case.stage == "adapt", dtype=vlm.compute_dtype)
    processor = plain_processor(vlm.name, image_size=vlm.image_size, image_tokens=vlm.tokens.image_tokens)
    rounds.start()
    try:
        train_plainly(
            network,
            processor,
            questions,
            batch_size=case.plain_batch_size,
            updates=plain_updates,
            rate=case.rate,
            bf16=vlm.compute_dtype == torch.bfloat16,
            after_update=rounds.after_plain_update,
        )
    finally:
        engine.close()
    return Comparison(
        stage=case.stage,
        layout=case.layout,
        dtype=str(vlm.compute_dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        batch_size=case.batch_size,
        plain_batch_size=case.plain_batch_size,
        plain_questions=plain_updates * case.plain_batch_size,
        engine_questions=sum(rounds.engine_questions),
        plain_speeds=rounds.plain_speeds[1:],
        engine_speeds=rounds.engine_speeds[1:],
        ratios=[b / a for a, b in zip(rounds.plain_speeds[1:], rounds.engine_speeds[1:], strict=True)],
        plain_losses=rounds.plain_losses,
        engine_losses=rounds.engine_losses,
        plain_peak_mib=None,
        engine_peak_mib=None,
        float32_loss_difference=None,
        feature_seconds=feature_seconds,
        features_computed=computed.count,
        features_found=needed - computed.count,
    )


class _Rounds:
    """Called by the plain path after each update: at the end of its round it lets the engine do the same part."""

    def __init__(
        self,
        engine: EngineTraining,
        *,
        plain_ends: Sequence[int],
        engine_ends: Sequence[int],
        plain_batch_size: int,
        tolerance: float | None,
        say: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._plain_ends, self._engine_ends = plain_ends, engine_ends
        self._plain_batch_size = plain_batch_size
        self._tolerance = tolerance
        self._say = say
        self._began = 0.0
        self.plain_speeds: list[float] = []
        self.engine_speeds: list[float] = []
        self.plain_losses: list[float] = []
        self.engine_losses: list[float] = []
        self.engine_questions: list[int] = []

    def start(self) -> None:
        """The plain path starts now."""
        self._began = time.perf_counter()

    def after_plain_update(self, update: int, loss: float) -> None:
        """Note the loss; at the end of a round, time it and run the engine's."""
        self.plain_losses.append(loss)
        number = len(self.plain_speeds)
        if number == len(self._plain_ends) or update != self._plain_ends[number]:
            return
        before = self._plain_ends[number - 1] if number else 0
        self.plain_speeds.append((update - before) * self._plain_batch_size / (time.perf_counter() - self._began))
        self._run_engine(self._engine_ends[number - 1] if number else 0, self._engine_ends[number])
        self._say(
            f"round {number + 1} of {len(self._plain_ends)}: plain {self.plain_speeds[-1]:.2f}, "
            f"engine {self.engine_speeds[-1]:.2f} questions/s"
        )
        self.start()

    def _run_engine(self, before: int, last: int) -> None:
        began, questions = time.perf_counter(), 0
        for update in range(before + 1, last + 1):
            loss, asked = self._engine.update(update)
            questions += asked
            self.engine_losses.append(loss)
        self.engine_speeds.append(questions / (time.perf_counter() - began))
        self.engine_questions.append(questions)
        if before == 0 and self._tolerance is not None:
            _require_same_start(self.plain_losses[0], self.engine_losses[0], self._tolerance)


def _require_same_start(plain: float, engine: float, tolerance: float) -> None:
    if _relative(plain, engine) > tolerance:
        raise TrainError(
            "the two paths do not compute the same loss, so their speeds say nothing",
            where="first update, equal weights",
            expected=f"{plain:.6f} (transformers)",
            got=f"{engine:.6f}",
            fix="report this, with the versions of transformers and radvqa",
        )


def require_same_losses(found: Comparison) -> float | None:
    """The largest relative difference of losses in float32; None where the masks differ.

    Raises:
        TrainError: it is above 1e-3.
    """
    difference = found.loss_difference
    if difference is not None and not difference <= FLOAT32_LOSS_TOLERANCE:
        raise TrainError(
            "the losses of the two paths part in float32, so their speeds say nothing",
            where=f"{found.stage}, {len(found.engine_losses)} updates",
            expected=f"a relative difference of at most {FLOAT32_LOSS_TOLERANCE:g}",
            got=f"{difference:.2e}",
            fix="report this, with the versions of transformers and radvqa",
        )
    return difference


def _relative(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), abs(other), 1e-12)


def _ends(updates: int, rounds: int) -> list[int]:
    """The last update of each round, as even as whole updates allow."""
    if updates < rounds:
        raise TrainError(
            "there are more rounds than updates to measure",
            expected=f"at most {updates} rounds",
            got=str(rounds),
            fix="raise --steps or lower --rounds",
        )
    return [round(updates * number / rounds) for number in range(1, rounds + 1)]


# --- memory -------------------------------------------------------------------------------------------------------


def peak_mib(case: Case, samples: Sequence[VqaSample], store: ImageStore, *, route: Route) -> float:
    """Peak resident MiB of a process of its own that does nothing but a few updates on one route."""
    return in_own_process(partial(_alone, case, samples, store, route))


def in_own_process(work: Callable[[], T]) -> T:
    """What ``work`` returns in a new process.

    Raises:
        RunError: the process was killed.
    """
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(work).result()
    except BrokenProcessPool as error:
        raise RunError(
            "the process that measures was killed",
            got="most likely by the system, for want of memory",
            fix="close other programs, or measure a smaller case",
        ) from error


def _alone(case: Case, samples: Sequence[VqaSample], store: ImageStore, route: Route) -> float:
    vlm: Vlm | None = open_vlm(case.model, say=lambda _: None)
    assert vlm is not None
    feed = feed_of(vlm, samples, batch_size=case.batch_size, updates=MEMORY_UPDATES, seed=case.seed)
    if route == "engine":
        learn(vlm, case.stage)
        images = [one.row.image for update in range(1, MEMORY_UPDATES + 1) for one in feed.batch(update)]
        pictures = pictures_of(vlm, case.stage, store, images, cache=case.cache / "features")
        engine = EngineTraining(vlm, feed, pictures, updates=MEMORY_UPDATES, rate=case.rate)
        for update in range(1, MEMORY_UPDATES + 1):
            engine.update(update)
        engine.close()
        return peak_resident_mib()
    questions = fed_samples(feed, samples, updates=MEMORY_UPDATES)
    name, dtype = vlm.name, vlm.compute_dtype
    processor = plain_processor(name, image_size=vlm.image_size, image_tokens=vlm.tokens.image_tokens)
    # The engine's model was opened for its feed only.
    vlm = None
    train_plainly(
        plain_network(name, adapters=case.stage == "adapt", dtype=dtype),
        processor,
        questions,
        batch_size=case.plain_batch_size,
        updates=min(MEMORY_UPDATES, len(questions) // case.plain_batch_size),
        rate=case.rate,
        bf16=dtype == torch.bfloat16,
        after_update=lambda _update, _loss: None,
    )
    return peak_resident_mib()


def peak_resident_mib() -> float:
    """The most memory this process has had so far. Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
