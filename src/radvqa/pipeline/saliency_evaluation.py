"""Maps of a run's answers, measured against the regions that questions ask about: ``RUN/explain/evaluation``.

Everything measured goes into ``scores.jsonl`` question by question, so a stop loses one question at most, and more
methods or questions can be added later. Its keys: ``setup``; then ``tune``, ``scores``, ``faithfulness`` or ``sanity``
and a sample id.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from radvqa.data import DatasetAdapter
from radvqa.errors import DataError, RunError
from radvqa.explain.evaluation import localisation_table
from radvqa.explain.measured import Evaluation
from radvqa.explain.methods import METHODS
from radvqa.explain.priors import PRIORS
from radvqa.explain.sanity import summary_of
from radvqa.models.vlm import Vlm
from radvqa.pipeline.evaluation import prediction_file
from radvqa.pipeline.saliency_targets import Regions, spread
from radvqa.pipeline.saliency_work import SaliencyWork, scored_of
from radvqa.pipeline.samples import Samples, adapters_of, read_samples
from radvqa.pipeline.subject import read_split, run_weights
from radvqa.pipeline.training import pictures, require_trained, train
from radvqa.records import read_records, unwritable
from radvqa.report.localisation import write_localisation
from radvqa.run.folder import RunFolder
from radvqa.run.journal import Journal
from radvqa.run.progress import Progress
from radvqa.run.provenance import digest_files
from radvqa.sample import Prediction, VqaSample

STRATA: Final = ("modality", "kind of target", "target", "target size", "answer type", "answer")
TUNED_ON: Final = 12
"""Training questions on which the cut of the maps is tuned."""
MEASURED: Final = 1
"""Counted up when maps or scores change their meaning: what was measured before is then measured anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured: which methods, on how many questions, and from which seed.

    ``limit`` is of questions that have a target, None for all; ``costly``: of these, those for the costly methods.
    """

    methods: tuple[str, ...]
    limit: int | None
    costly: int
    faithfulness: int
    sanity: int
    seed: int


def evaluate_saliency(folder: RunFolder, wanted: Wanted, *, progress: Progress) -> Path:
    """Measure the maps of the model's own answers to the evaluated split; the page of the evaluation.

    Raises:
        RunError: the run is not trained or not evaluated yet, or its folder cannot be written.
        DataError: no question is about a region, in the evaluated or in the training split.
    """
    require_trained(folder)
    folder.lock()
    recipe = folder.recipe
    dataset, split = recipe.evaluated
    path = prediction_file(folder.path, split, "model")
    if not path.is_file():
        raise RunError("this run has no predictions yet", where=str(path), fix=f"radvqa evaluate {folder.path}")
    predictions = {one.sample_id: one for one in read_records(path, Prediction)}
    samples = read_samples(folder, progress=progress)
    adapter = adapters_of(recipe)[dataset]
    learnt_from = _training_samples(samples, adapter, dataset, most_malformed=recipe.most_malformed)
    vlm = train(folder, progress=progress)
    regions = Regions(adapter, vlm, aspect=recipe.model.aspect)
    progress.say("explain: reading regions")
    answered = [one for one in samples[dataset, split] if one.sample_id in predictions]
    aimed = regions.aimed(answered)
    usable = [one for one in aimed if _answer(predictions[one.sample.sample_id], vlm)]
    if not usable:
        raise DataError(
            "no question of the evaluated split is about a labelled region of its image",
            where=f"{dataset}, {split}",
            expected="a data set with masks or boxes, such as SLAKE with its images, or phantoms",
        )
    priors, priors_fitted_on = regions.priors(learnt_from)
    chosen = spread(usable, wanted.limit, seed=wanted.seed)
    tuned_on = spread(
        regions.aimed(_some_images(learnt_from, 8 * TUNED_ON, seed=wanted.seed)),
        TUNED_ON,
        seed=wanted.seed,
    )
    own = folder.file("explain/evaluation")
    weights = run_weights(folder, vlm)
    store = pictures(recipe, vlm, [one.sample.image for one in (*chosen, *tuned_on)], progress=progress)
    setup = {
        "measured": MEASURED,
        "weights": weights,
        "predictions": next(iter(digest_files([path]).values())),
        "seed": wanted.seed,
    }
    with _journal(own / "scores.jsonl", setup, progress=progress) as journal:
        work = SaliencyWork(
            vlm,
            store,
            journal,
            methods=wanted.methods,
            costly=wanted.costly,
            seed=wanted.seed,
            progress=progress,
        )
        thresholds = work.tune(tuned_on, priors, trained_as="train", evaluated_as=split)
        answers = {one.sample.sample_id: _answer(predictions[one.sample.sample_id], vlm) for one in chosen}
        scored = work.score(chosen, answers, predictions, priors, thresholds)
        work.remove_and_restore(chosen[: wanted.faithfulness], answers)
        checked = work.check(chosen[: wanted.sanity], chosen, answers)
        faithful = {one.sample.sample_id: work.found("faithfulness", one) for one in chosen}
    found: Evaluation = {
        "subject": folder.path.resolve().name,
        "dataset": dataset,
        "split": split,
        "weights": weights,
        "seed": wanted.seed,
        "limit": wanted.limit,
        "grid": vlm.image_grid,
        "methods": {name: METHODS[name] for name in wanted.methods},
        "priors": dict(PRIORS),
        "left_out": {
            reason: count
            for reason, count in (
                ("are about no labelled region", len(answered) - len(aimed)),
                ("have an empty answer", len(aimed) - len(usable)),
                ("are beyond the limit", len(usable) - len(chosen)),
            )
            if count
        },
        "thresholds": thresholds,
        "tuned_on": len(tuned_on),
        "priors_fitted_on": priors_fitted_on,
        "faithfulness_questions": sum(bool(entry) for entry in faithful.values()),
        "table": localisation_table(
            [scored_of(one, scored[one.sample.sample_id], faithful[one.sample.sample_id]) for one in chosen],
            methods=wanted.methods,
            priors=tuple(PRIORS),
            strata=STRATA,
            seed=wanted.seed,
        ),
        "sanity": summary_of(checked) if checked else None,
    }
    page = write_localisation(found, own)
    progress.say(f"page: {page}")
    return page


@contextmanager
def _journal(path: Path, setup: Mapping[str, Any], *, progress: Progress) -> Iterator[Journal]:
    """The journal of just this model, these answers and this seed; one of others is begun anew."""
    with Journal(path) as journal:
        known = journal["setup"]["setup"] if "setup" in journal else None
        if known is None and not len(journal):
            journal.append("setup", {"setup": dict(setup)})
            known = dict(setup)
        if known == dict(setup):
            yield journal
            return
    progress.say("note: other weights, answers or seed than before; everything is measured anew")
    try:
        path.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
    with _journal(path, setup, progress=progress) as journal:
        yield journal


def _training_samples(
    samples: Samples, adapter: DatasetAdapter, dataset: str, *, most_malformed: float
) -> Sequence[VqaSample]:
    """What priors and thresholds learn from, whether or not the model was trained on it.

    Raises:
        DataError: the data set has no training split.
    """
    if (dataset, "train") in samples:
        return samples[dataset, "train"]
    if "train" not in adapter.splits():
        raise DataError(
            "priors and thresholds need training images of the data set that is evaluated",
            where=dataset,
            expected="a train split",
            got=", ".join(adapter.splits()),
        )
    return read_split(adapter, dataset, "train", most_malformed=most_malformed)


def _answer(prediction: Prediction, vlm: Vlm) -> tuple[int, ...]:
    """The tokens of the model's answer without its end token."""
    return tuple(token for token in prediction.token_ids if token != vlm.tokens.eos_id)


def _some_images(samples: Sequence[VqaSample], count: int, *, seed: int) -> list[VqaSample]:
    """The questions about so many images, drawn at random."""
    images = sorted({sample.image_id for sample in samples})
    drawn = np.random.default_rng(seed).permutation(len(images))[:count]
    kept = {images[int(place)] for place in drawn}
    return [sample for sample in samples if sample.image_id in kept]
