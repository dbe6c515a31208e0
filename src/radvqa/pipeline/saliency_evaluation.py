"""Maps of a run's answers, measured against the regions that questions ask about: ``RUN/explain/evaluation``.

Everything that the model computes goes into ``measured.jsonl`` question by question (``saliency_work``), so a stop
loses one question at most, and more methods, questions or seeds can be added later. The scores of each question in
``scores.jsonl`` and the tables are made from it each time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np

from radvqa.data import DatasetAdapter
from radvqa.errors import DataError, RunError
from radvqa.evaluate.metrics import accuracy
from radvqa.explain.evaluation import localisation_table
from radvqa.explain.mask_check import require_prefix_mask
from radvqa.explain.measured import Evaluation
from radvqa.explain.methods import METHODS
from radvqa.explain.priors import PRIORS
from radvqa.explain.sanity import summary_of
from radvqa.models.vlm import Vlm
from radvqa.pipeline.evaluation import prediction_file
from radvqa.pipeline.saliency_scores import scored, thresholds_of
from radvqa.pipeline.saliency_targets import Aimed, Kind, Regions, spread, stranger
from radvqa.pipeline.saliency_work import SaliencyWork, Strangers
from radvqa.pipeline.samples import Samples, adapters_of, read_samples
from radvqa.pipeline.subject import read_split, run_weights
from radvqa.pipeline.training import pictures, require_trained, train
from radvqa.records import read_records, unwritable, write_records
from radvqa.report.localisation import write_localisation
from radvqa.run.folder import RunFolder
from radvqa.run.journal import Journal
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, VqaSample

STRATA: Final = (
    "modality", "label named in", "kind of target", "target", "target size", "answer type", "answer",
)  # fmt: skip
LEARNT_FROM: Final = "train"
"""The split that priors and thresholds learn from."""
TUNED_ON: Final = 12
"""Training questions on which the cut of the maps is tuned."""
MEASURED: Final = 2
"""Counted up when maps change their meaning: what was measured before is then put aside and measured anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured: which methods, on how many questions, and from which seed.

    ``limit`` is of questions that have a target, None for all; ``costly``: of these, those for the costly methods.
    ``about``: only questions whose target is a finding, or an organ; their tables lie in a folder of that name.
    """

    methods: tuple[str, ...]
    limit: int | None
    costly: int
    faithfulness: int
    sanity: int
    seed: int
    about: Kind | None = None


def evaluate_saliency(folder: RunFolder, wanted: Wanted, *, progress: Progress) -> Path:
    """Measure the maps of the model's own answers to the evaluated split; the page of the evaluation.

    Raises:
        RunError: the run is not trained or not evaluated yet, or its folder cannot be written.
        DataError: no question is about a region, in the evaluated or in the training split, or both are one split.
    """
    require_trained(folder)
    folder.lock()
    recipe = folder.recipe
    dataset, split = recipe.evaluated
    if split == LEARNT_FROM:
        raise DataError(
            "maps cannot be judged on the split that priors and thresholds learn from",
            where=f"{dataset}, {split}",
            expected="another split",
            fix="evaluate the run on another split: evaluate.split of its recipe",
        )
    predictions = _predictions(folder, split)
    samples = read_samples(folder, progress=progress)
    adapter = adapters_of(recipe)[dataset]
    learnt_from = _training_samples(samples, adapter, dataset, most_malformed=recipe.most_malformed)
    vlm = train(folder, progress=progress)
    require_prefix_mask(vlm)
    regions = Regions(adapter, vlm, aspect=recipe.model.aspect)
    progress.say("explain: reading regions")
    answered = [one for one in samples[dataset, split] if one.sample_id in predictions]
    aimed = regions.aimed(answered)
    unreadable = sum(one.image_id in regions.unreadable for one in answered)
    usable = [one for one in aimed if _answer(predictions[one.sample.sample_id], vlm)]
    aside = [one for one in usable if wanted.about not in (None, one.kind)]
    usable = [one for one in usable if wanted.about in (None, one.kind)]
    if not usable:
        raise DataError(
            f"no question of the evaluated split is about a labelled {wanted.about or 'region'} of its image",
            where=f"{dataset}, {split}",
            expected="a data set with masks or boxes, such as SLAKE with its images, or phantoms",
        )
    priors, priors_fitted_on = regions.priors(learnt_from)
    chosen = spread(usable, wanted.limit, seed=wanted.seed)
    judged = {one.image_id for one in answered}
    apart = [one for one in learnt_from if one.image_id not in judged]
    tuned_on = spread(regions.aimed(_some_images(apart, 8 * TUNED_ON)), TUNED_ON, seed=0)
    strangers = _strangers(chosen[: wanted.sanity], usable)
    to_check = [one for one in chosen[: wanted.sanity] if one.sample.sample_id in strangers]
    _say_left_out(regions.unreadable, unchecked=min(wanted.sanity, len(chosen)) - len(to_check), progress=progress)
    own = folder.file("explain/evaluation")
    weights = run_weights(folder, vlm)
    images = [one.sample.image for one in (*chosen, *tuned_on)] + [other.image for other in strangers.values()]
    store = pictures(recipe, vlm, images, progress=progress)
    with _journal(own / "measured.jsonl", {"measured": MEASURED, "weights": weights}, progress=progress) as journal:
        work = SaliencyWork(
            vlm,
            store,
            journal,
            methods=wanted.methods,
            costly=wanted.costly,
            seed=wanted.seed,
            progress=progress,
        )
        answers = {one.sample.sample_id: _answer(predictions[one.sample.sample_id], vlm) for one in chosen}
        tuned = work.tune(tuned_on)
        mapped = work.maps(chosen, answers)
        faithful = work.remove_and_restore(chosen[: wanted.faithfulness], answers)
        words = work.words(chosen[: wanted.faithfulness], answers)
        checked = work.check(to_check, answers, strangers)
    thresholds = thresholds_of(tuned_on, tuned, priors, trained_as=LEARNT_FROM, evaluated_as=split)
    cases = [
        scored(
            one,
            mapped[one.sample.sample_id],
            priors,
            thresholds,
            right=accuracy(predictions[one.sample.sample_id]) == 1.0,
            specificity=words.get(one.sample.sample_id, {}),
            faithfulness=faithful.get(one.sample.sample_id, {}),
        )
        for one in chosen
    ]
    place = own / wanted.about if wanted.about else own
    write_records(place / "scores.jsonl", cases)
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
        "left_out": _counted(
            {
                "have regions that cannot be read": unreadable,
                "are about no labelled region": len(answered) - unreadable - len(aimed),
                "have an empty answer": len(aimed) - len(aside) - len(usable),
                "are about another kind of region": len(aside),
                "are beyond the limit": len(usable) - len(chosen),
            }
        ),
        "thresholds": thresholds,
        "tuned_on": len(tuned_on),
        "priors_fitted_on": priors_fitted_on,
        "faithfulness_questions": len(faithful),
        "table": localisation_table(
            cases, methods=wanted.methods, priors=tuple(PRIORS), strata=STRATA, seed=wanted.seed
        ),
        "sanity": summary_of(checked) if checked else None,
    }
    page = write_localisation(found, place)
    progress.say(f"page: {page}")
    return page


def _counted(reasons: Mapping[str, int]) -> dict[str, int]:
    return {reason: number for reason, number in reasons.items() if number}


def _say_left_out(unreadable: Mapping[str, str], *, unchecked: int, progress: Progress) -> None:
    for image_id, reason in unreadable.items():
        progress.say(f"note: {image_id} is left out: {reason}")
    if unchecked:
        progress.say("note: a sanity check needs a question about something else and another image; not all have them")


@contextmanager
def _journal(path: Path, setup: Mapping[str, Any], *, progress: Progress) -> Iterator[Journal]:
    """The journal of just this model; one of other weights is put aside, never lost."""
    with Journal(path) as journal:
        known = journal["setup"]["setup"] if "setup" in journal else None
        if known is None and not len(journal):
            journal.append("setup", {"setup": dict(setup)})
            known = dict(setup)
        if known == dict(setup):
            yield journal
            return
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    progress.say(f"note: other weights than before, or other maps; what was measured is kept as {aside.name}")
    try:
        path.rename(aside)
    except OSError as error:
        raise unwritable(path, error) from error
    with _journal(path, setup, progress=progress) as journal:
        yield journal


def _predictions(folder: RunFolder, split: str) -> dict[str, Prediction]:
    """Sample id → the model's own answer. Raises ``RunError`` if the run has none."""
    path = prediction_file(folder.path, split, "model")
    if not path.is_file():
        raise RunError("this run has no predictions yet", where=str(path), fix=f"radvqa evaluate {folder.path}")
    return {one.sample_id: one for one in read_records(path, Prediction)}


def _training_samples(
    samples: Samples, adapter: DatasetAdapter, dataset: str, *, most_malformed: float
) -> Sequence[VqaSample]:
    """What priors and thresholds learn from, whether or not the model was trained on it.

    Raises:
        DataError: the data set has no training split.
    """
    if (dataset, LEARNT_FROM) in samples:
        return samples[dataset, LEARNT_FROM]
    if LEARNT_FROM not in adapter.splits():
        raise DataError(
            "priors and thresholds need training images of the data set that is evaluated",
            where=dataset,
            expected="a train split",
            got=", ".join(adapter.splits()),
        )
    return read_split(adapter, dataset, LEARNT_FROM, most_malformed=most_malformed)


def _answer(prediction: Prediction, vlm: Vlm) -> tuple[int, ...]:
    """The tokens of the model's answer without its end token."""
    return tuple(token for token in prediction.token_ids if token != vlm.tokens.eos_id)


def _strangers(some: Sequence[Aimed], others: Sequence[Aimed]) -> dict[str, Strangers]:
    """Sample id → what its maps are checked against, where there is any."""
    found: dict[str, Strangers] = {}
    for one in some:
        other = stranger(one, others)
        if other is not None:
            found[one.sample.sample_id] = Strangers(other[0], other[1].image)
    return found


def _some_images(samples: Sequence[VqaSample], number: int) -> list[VqaSample]:
    """The questions about so many images, always the same ones."""
    images = sorted({sample.image_id for sample in samples})
    drawn = np.random.default_rng(0).permutation(len(images))[:number]
    kept = {images[int(place)] for place in drawn}
    return [sample for sample in samples if sample.image_id in kept]
