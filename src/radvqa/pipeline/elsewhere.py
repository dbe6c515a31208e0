"""Evaluations beside those of runs: a run's model on another data set, or a model that is no run's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from radvqa.data import DatasetAdapter, open_entry
from radvqa.data.image_store import ImageStore
from radvqa.errors import RecipeError
from radvqa.evaluate.predict import Condition
from radvqa.models.vlm import Vlm
from radvqa.pipeline.evaluation import Setup, Trained, evaluate_into, require_same_subject
from radvqa.pipeline.samples import read_samples
from radvqa.pipeline.selection import first_images
from radvqa.pipeline.subject import Opened, read_split, run_weights, setup_of, trained_of
from radvqa.pipeline.training import pictures, require_trained, train
from radvqa.recipe import Aspect, Dataset
from radvqa.records import write_records
from radvqa.report.evaluation import write_evaluation
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.sample import Split, VqaSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which questions: a data set by the name of its entry in a recipe or of its adapter, and what to take of it.

    ``controls`` and ``probes`` are None where the recipe, or the default, decides.
    """

    dataset: str
    options: Mapping[str, Any]
    split: Split
    limit: int | None
    controls: tuple[Condition, ...] | None
    probes: tuple[str, ...]


def evaluate_run_on(run: RunFolder, asked: Asked, *, to: Path | None, command: str, progress: Progress) -> Path:
    """Ask the model of a trained run about another data set or split; the folder of the evaluation.

    Raises:
        RunError: the run is not trained, or the folder holds an evaluation of something else.
        RadvqaError: the data set or the model cannot be opened.
    """
    require_trained(run)
    run.lock()
    recipe = run.recipe
    entry = recipe.datasets.get(asked.dataset, Dataset(adapter=asked.dataset))
    adapter = _opened(entry, asked)
    samples = read_samples(run, progress=progress)
    vlm = train(run, progress=progress)
    trained = trained_of(run, vlm, samples, floors=None)
    return _evaluate(
        to or run.file(f"evaluations/{asked.dataset}-{asked.split}"),
        vlm,
        adapter,
        asked,
        setup=setup_of(
            recipe,
            dataset=asked.dataset,
            split=asked.split,
            limit=asked.limit,
            controls=asked.controls,
            probes=asked.probes,
        ),
        pictures_of=lambda paths: pictures(recipe, vlm, paths, progress=progress),
        most_malformed=recipe.most_malformed,
        subject=run.path.resolve().name,
        weights=run_weights(run, vlm),
        trained=trained,
        command=command,
        progress=progress,
    )


def evaluate_model(opened: Opened, asked: Asked, *, setup: Setup, to: Path, command: str, progress: Progress) -> Path:
    """Ask any model about a data set; the folder of the evaluation.

    What it was trained on is known by name at most, so leaks are looked for in the data set's own training split.

    Raises:
        RunError: the folder holds an evaluation of something else.
        RadvqaError: the data set cannot be opened.
    """
    return _evaluate(
        to,
        opened.vlm,
        _opened(Dataset(adapter=asked.dataset), asked),
        asked,
        setup=setup,
        pictures_of=lambda paths: stored_pictures(paths, opened.vlm, aspect=opened.aspect),
        most_malformed=0.05,
        subject=opened.name,
        weights=opened.weights,
        trained=Trained(samples={}, ancestry=opened.ancestry, floors=None),
        command=command,
        progress=progress,
    )


def require_questions(asked: Asked) -> None:
    """Refuse questions that cannot be read, before a model is loaded. Raises as ``evaluate_model`` does."""
    _opened(Dataset(adapter=asked.dataset), asked)


def stored_pictures(paths: Sequence[Path], vlm: Vlm, *, aspect: Aspect) -> ImageStore:
    """These pictures as the model gets them."""
    cache = user_cache_path("radvqa") / "pictures"
    return ImageStore.build(list(dict.fromkeys(paths)), size=vlm.image_size, aspect=aspect, cache=cache)


def _opened(entry: Dataset, asked: Asked) -> DatasetAdapter:
    values = entry.model_dump() | dict(asked.options)
    try:
        adapter = open_entry(Dataset.model_validate(values), name=asked.dataset)
    except RecipeError as error:  # which speaks of an entry in a recipe
        raise RecipeError(
            error.what,
            where=f"--dataset {asked.dataset}",
            expected=error.expected,
            got=error.got,
            fix="see `radvqa list datasets`, and give --root DIR and --set OPTION=VALUE",
        ) from error
    if asked.split not in adapter.splits():
        raise RecipeError(
            f"the data set {asked.dataset!r} has no split {asked.split!r}",
            where="--split",
            expected=" or ".join(adapter.splits()),
            got=asked.split,
        )
    return adapter


def _evaluate(
    folder: Path,
    vlm: Vlm,
    adapter: DatasetAdapter,
    asked: Asked,
    *,
    setup: Setup,
    pictures_of: Callable[[Sequence[Path]], ImageStore],
    most_malformed: float,
    subject: str,
    weights: str,
    trained: Trained,
    command: str,
    progress: Progress,
) -> Path:
    require_same_subject(folder, weights=weights, dataset=asked.dataset, split=asked.split)
    progress.say(f"data: reading {asked.dataset}, {asked.split}")
    samples = first_images(read_split(adapter, asked.dataset, asked.split, most_malformed=most_malformed), asked.limit)
    own: list[VqaSample] = []
    name = f"{asked.dataset}, train"
    if asked.split != "train" and "train" in adapter.splits():
        own = read_split(adapter, asked.dataset, "train", most_malformed=most_malformed)
    write_records(folder / "samples" / f"{asked.dataset}-{asked.split}.jsonl", samples)
    evaluate_into(
        folder,
        vlm,
        samples,
        pictures_of([one.image for one in samples]),
        setup=setup,
        subject=subject,
        weights=weights,
        trained=Trained(
            samples=trained.samples,
            own_train=_not_known_to_be_trained_on(own, trained, asked.dataset),
            ancestry=trained.ancestry,
            floors=(name, own) if own else None,
        ),
        command=command,
        progress=progress,
    )
    progress.say(f"page: {write_evaluation(folder)}")
    return folder


def _not_known_to_be_trained_on(
    own: Sequence[VqaSample], trained: Trained, dataset: str
) -> dict[str, Sequence[VqaSample]]:
    """The train split of the evaluated data set by a name of its own, unless just these samples were trained on."""
    if not own or list(trained.samples.get(f"{dataset}, train", ())) == list(own):
        return {}
    return {f"{dataset}, own train split": own}
