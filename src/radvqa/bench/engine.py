"""The engine's own path: its feed, prefetching, pictures, step and loss, without checkpoints and looks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor

from radvqa.bench.plain import ADAPTED, ALPHA, BETAS, MAX_GRAD_NORM, RANK
from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError
from radvqa.models.features import FeatureStore
from radvqa.models.lora import attach_lora
from radvqa.models.vlm import Vlm
from radvqa.sample import VqaSample
from radvqa.train.checkpoint import trainable_parameters
from radvqa.train.feed import Feed
from radvqa.train.loss import AnswerLosses
from radvqa.train.mixture import Plan
from radvqa.train.parallel import ALONE
from radvqa.train.pictures import FrozenFeatures, Pictures, StoredPictures
from radvqa.train.step import Settings, Step, micro_batches

Stage = Literal["align", "adapt"]

FEATURE_BYTES = 50 * 2**30


def feed_of(vlm: Vlm, samples: Sequence[VqaSample], *, batch_size: int, updates: int, seed: int) -> Feed:
    """The rows of all samples in the order of a stage with this seed."""
    rows = vlm.rows(samples, answers=True)
    plan = Plan(np.ones((updates, 1)), sizes=[len(rows)], most=[None], batch_size=batch_size, seed=seed)
    return Feed({"samples": rows}, plan, seed=seed)


def fed_samples(feed: Feed, samples: Sequence[VqaSample], *, updates: int) -> list[VqaSample]:
    """The questions of the first updates, in the order the feed gives them."""
    by_id = {sample.sample_id: sample for sample in samples}
    rows = [one.row for update in range(1, updates + 1) for one in feed.batch(update)]
    return [by_id[question.sample_id] for row in rows for question in row.questions]


def pictures_of(vlm: Vlm, stage: Stage, store: ImageStore, paths: Sequence[Path], *, cache: Path) -> Pictures:
    """Features on disk for ``align``, pixels for ``adapt``.

    Raises:
        ModelError: the features take more than the cache may.
    """
    if stage == "adapt":
        return StoredPictures(store)
    features = FeatureStore.build(vlm, store, paths, cache=cache, most_bytes=FEATURE_BYTES, seen=lambda _: None)
    if not isinstance(features, FeatureStore):
        raise ModelError("the features of these pictures do not fit", got=f"{features.needed_bytes:,} bytes")
    return FrozenFeatures(features)


class PicturesSeen:
    """Counts the pictures that go through the tower until it is stopped."""

    def __init__(self, vlm: Vlm) -> None:
        self.count = 0
        self._hook = vlm.vision_encoder.register_forward_hook(self._seen)

    def _seen(self, _tower: object, pixels: tuple[Tensor, ...], _output: object) -> None:
        self.count += len(pixels[0])

    def stop(self) -> None:
        """Count no more."""
        self._hook.remove()


def learn(vlm: Vlm, stage: Stage) -> None:
    """Freeze everything but the projector and, for ``adapt``, new adapters on both towers."""
    vlm.network.requires_grad_(False)
    if stage == "align":
        vlm.projector.requires_grad_(True)
        return
    attach_lora(
        vlm,
        rank=RANK,
        alpha=ALPHA,
        dropout=0.0,
        targets="attention",
        parts=ADAPTED,
        base_name=vlm.name,
        revision=vlm.revision,
        seed=0,
    )


@final
class EngineTraining:
    """One stage, an update at a time. ``vlm`` was prepared by ``learn``."""

    def __init__(self, vlm: Vlm, feed: Feed, pictures: Pictures, *, updates: int, rate: float) -> None:
        settings = _settings(updates=updates, batch_size=feed.batch_size, rate=rate)
        parameters = trainable_parameters(vlm.network)
        accelerator = Accelerator(
            cpu=vlm.device.type == "cpu",
            mixed_precision="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
        optimiser = torch.optim.AdamW(list(parameters.values()), lr=rate, betas=BETAS, weight_decay=0.0)
        losses, self._optimiser = accelerator.prepare(AnswerLosses(vlm, settings.loss_norm), optimiser)
        share = slice(0, feed.batch_size)
        self._micros = micro_batches(vlm, feed, pictures, settings, share=share, first=1)
        self._step = Step(
            losses,
            feed,
            settings,
            micros=self._micros,
            parameters=parameters,
            accelerator=accelerator,
            processes=ALONE,
        )
        vlm.network.train()

    def update(self, number: int) -> tuple[float, int]:
        """Do the next update; its loss (mean over answer tokens) and its number of questions."""
        done = self._step.run(number)
        assert done is not None, "nothing asks a benchmark to stop"
        self._optimiser.step()
        self._optimiser.zero_grad()
        return done.loss, sum(done.questions)

    def close(self) -> None:
        """End the thread that lays out batches ahead."""
        self._micros.close()


def _settings(*, updates: int, batch_size: int, rate: float) -> Settings:
    """Those of a stage as the plain path trains it: constant rate, loss over tokens, no accumulation."""
    return Settings(
        updates=updates,
        micro_batch_size=batch_size,
        projector_rate=rate,
        language_rate=rate,
        vision_rate=rate,
        schedule="constant",
        warmup_updates=0,
        decay=0.2,
        weight_decay=0.0,
        betas=BETAS,
        max_grad_norm=MAX_GRAD_NORM,
        stop_grad_norm=float("inf"),
        loss_norm="token",
        checkpoint_every=updates,
        keep_checkpoints=2,
        watch_every=0,
        keep="last",
        patience=None,
        gradient_checkpointing=False,
        sharding="none",
        trackers=(),
        seed=0,
    )
