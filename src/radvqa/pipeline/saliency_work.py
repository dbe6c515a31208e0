"""What a saliency evaluation computes question by question, each kept in the journal as soon as it is known."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from radvqa.data.image_store import ImageStore
from radvqa.errors import DataError
from radvqa.evaluate.metrics import accuracy
from radvqa.explain.asked import Asked, ask
from radvqa.explain.evaluation import chance_auprc
from radvqa.explain.faithfulness import faithfulness
from radvqa.explain.localisation import Localisation, fit_threshold, localisation_scores
from radvqa.explain.maps import maps_of
from radvqa.explain.measured import CHANCE, Scored
from radvqa.explain.occlusion import visual_reliance
from radvqa.explain.priors import PRIORS, Priors
from radvqa.explain.sanity import Checked, Likeness, compared, weight_randomisation
from radvqa.models.vlm import Vlm
from radvqa.pipeline.saliency_targets import Aimed, body_part, modality
from radvqa.run.journal import Journal
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, VqaSample

Grid = Float[np.ndarray, "r c"]
Entry = dict[str, Any]
Answers = Mapping[str, tuple[int, ...]]

COSTLY = frozenset({"pixel_occlusion"})
"""Methods that take longer than all the others together: they are measured on fewer questions."""
COSTLY_TUNED_ON = 6
COSTLY_CHECKED_ON = 1


class SaliencyWork:
    """What is computed question by question, each kept in the journal.

    ``costly``: the number of questions that the methods of ``COSTLY`` are scored on.
    """

    def __init__(
        self,
        vlm: Vlm,
        store: ImageStore,
        journal: Journal,
        *,
        methods: Sequence[str],
        costly: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self._vlm, self._store, self._journal = vlm, store, journal
        self._methods, self._costly, self._seed, self._progress = tuple(methods), costly, seed, progress
        self._seen: dict[tuple[str, str], Grid] = {}

    def tune(
        self, aimed: Sequence[Aimed], priors: Priors, *, trained_as: str, evaluated_as: str
    ) -> dict[str, float | None]:
        """Row → the cut for ``iou_tuned``, from maps of training questions and their reference answers."""

        def maps(one: Aimed, methods: Sequence[str]) -> Entry:
            answer = self._vlm.question(one.sample, answer=True).answer[:-1]
            return {name: grid.round(9).tolist() for name, grid in self._maps(one.sample, answer, methods).items()}

        most = min(self._costly, COSTLY_TUNED_ON)
        entries = self._each("tune", aimed, maps, title="maps of training questions", costly=most)
        cases: dict[str, list[tuple[Grid, Grid]]] = {name: [] for name in self._methods}
        for one in aimed:
            for name, grid in entries[one.sample.sample_id].items():
                cases.setdefault(name, []).append((np.array(grid), one.coverage))
        for name in (one for one in PRIORS if one != "chance"):
            cases[name] = [(_prior_map(priors, name, one), one.coverage) for one in aimed]
        found: dict[str, float | None] = {}
        for name, some in cases.items():
            try:
                found[name] = fit_threshold(some, fitted_on=trained_as, evaluated_on=evaluated_as)
            except DataError:  # no map of this row can be cut, which the table tells as "n/a"
                found[name] = None
        return found

    def score(
        self,
        aimed: Sequence[Aimed],
        answers: Answers,
        predictions: Mapping[str, Prediction],
        priors: Priors,
        thresholds: Mapping[str, float | None],
    ) -> dict[str, Entry]:
        """Sample id → method or prior → scores; beside them ``about`` with reliance and whether the answer is right."""

        def scores(one: Aimed, methods: Sequence[str]) -> Entry:
            asked = self._asked(one.sample, answers[one.sample.sample_id])
            maps = maps_of(asked, methods, tokens=False)
            found: Entry = {
                "about": {
                    "reliance": float(visual_reliance(asked).sum()),
                    "right": accuracy(predictions[one.sample.sample_id]) == 1.0,
                }
            }
            for name, of in maps.items():
                self._seen[one.sample.sample_id, name] = of.answer.grid
                scored = localisation_scores(of.answer.grid, one.coverage, threshold=thresholds[name])
                found[name] = _entry(scored) | {"specificity": _known(of.answer.grid_specificity)}
            return found

        entries = self._each("scores", aimed, scores, title="maps", costly=self._costly)
        for one in aimed:
            for name in PRIORS:
                scored = priors.scores(
                    name,
                    one.coverage,
                    body_part=body_part(one.sample),
                    modality=modality(one.sample),
                    labels=one.labels,
                    threshold=thresholds.get(name),
                )
                entry = _entry(scored)
                if name == CHANCE:
                    entry["scores"]["auprc"] = _known(chance_auprc(one.coverage))
                entries[one.sample.sample_id][name] = entry
        return entries

    def remove_and_restore(self, aimed: Sequence[Aimed], answers: Answers) -> None:
        """Faithfulness of every method, by sample."""

        def measured(one: Aimed, methods: Sequence[str]) -> Entry:
            asked = self._asked(one.sample, answers[one.sample.sample_id])
            return dict(faithfulness(asked, self._originals(one, answers, methods), seed=self._seed))

        self._each("faithfulness", aimed, measured, title="faithfulness", costly=self._costly)

    def check(self, aimed: Sequence[Aimed], others: Sequence[Aimed], answers: Answers) -> list[Checked]:
        """The sanity checks of every method, one for each sample."""

        def checks(one: Aimed, methods: Sequence[str]) -> Entry:
            answer = answers[one.sample.sample_id]
            original = self._originals(one, answers, methods)
            blocks = weight_randomisation(
                self._vlm,
                lambda: self._maps(one.sample, answer, methods),
                original=original,
                seed=self._seed,
            )
            question, image = _strangers(one, others)
            questions = compared(original, self._maps(one.sample, answer, methods, question=question))
            images = compared(original, self._maps(one.sample, answer, methods, image=image))
            return {
                name: {
                    "blocks": {block: _pair(one) for block, one in blocks[name].items()},
                    "wrong_question": _pair(questions[name]),
                    "wrong_image": _pair(images[name]),
                }
                for name in original
            }

        most = min(self._costly, COSTLY_CHECKED_ON)
        entries = self._each("sanity", aimed, checks, title="sanity checks", costly=most)
        return [_checked(found, self._methods) for found in entries.values()]

    def found(self, step: str, one: Aimed) -> Entry:
        """What the journal holds of a question; nothing if this was not measured on it."""
        key = f"{step}/{one.sample.sample_id}"
        return self._journal[key]["found"] if key in self._journal else {}

    def _each(
        self,
        step: str,
        aimed: Sequence[Aimed],
        compute: Callable[[Aimed, Sequence[str]], Entry],
        *,
        title: str,
        costly: int,
    ) -> dict[str, Entry]:
        """Sample id → what ``compute`` finds for the methods that the journal lacks, and what it has.

        Costly methods are done for the first ``costly`` questions.
        """
        missing = {
            one.sample.sample_id: [
                name
                for name in self._methods
                if name not in self.found(step, one) and (place < costly or name not in COSTLY)
            ]
            for place, one in enumerate(aimed)
        }
        done = sum(not some for some in missing.values())
        entries: dict[str, Entry] = {}
        with self._progress.track(title, len(aimed), done=done, unit="questions") as tick:
            for one in aimed:
                key, found = one.sample.sample_id, self.found(step, one)
                if missing[key]:
                    found = found | compute(one, missing[key])
                    self._journal.append(f"{step}/{key}", {"found": found})
                    tick(1)
                entries[key] = found
        return entries

    def _asked(self, sample: VqaSample, answer: Sequence[int], *, image: Path | None = None) -> Asked:
        return ask(self._vlm, sample, answer, torch.from_numpy(self._store.pixels(image or sample.image)))

    def _maps(
        self,
        sample: VqaSample,
        answer: Sequence[int],
        methods: Sequence[str],
        *,
        question: str | None = None,
        image: Path | None = None,
    ) -> dict[str, Grid]:
        """The whole answer's maps, perhaps of another question or on another image."""
        shown = sample if question is None else replace(sample, question=question)
        found = maps_of(self._asked(shown, answer, image=image), methods, tokens=False)
        return {name: one.answer.grid for name, one in found.items()}

    def _originals(self, one: Aimed, answers: Answers, methods: Sequence[str]) -> dict[str, Grid]:
        """The maps by the real weights; those that this process has made are not made again."""
        key = one.sample.sample_id
        if missing := [name for name in methods if (key, name) not in self._seen]:
            made = self._maps(one.sample, answers[key], missing)
            self._seen |= {(key, name): grid for name, grid in made.items()}
        return {name: self._seen[key, name] for name in methods}


def scored_of(one: Aimed, found: Entry, faithful: Mapping[str, Mapping[str, float]]) -> Scored:
    """What was found of a question, as a line for the table."""
    about = found["about"]
    rows = {name: entry for name, entry in found.items() if name != "about"}
    return Scored(
        sample_id=one.sample.sample_id,
        image_id=one.sample.image_id,
        area=float(one.coverage.mean()),
        reliance=about["reliance"],
        scores={name: entry["scores"] for name, entry in rows.items()},
        excluded={name: entry["excluded"] for name, entry in rows.items() if entry["excluded"] is not None},
        specificity={name: entry.get("specificity") for name, entry in rows.items()},
        faithfulness=faithful,
        tags={**one.strata, "answer": "right" if about["right"] else "wrong"},
    )


def _prior_map(priors: Priors, name: str, one: Aimed) -> Grid:
    """The prior's map without what it knows of this image."""
    return priors.map(
        name,
        body_part=body_part(one.sample),
        modality=modality(one.sample),
        labels=one.labels,
        without=one.sample.image_id,
    )


def _strangers(one: Aimed, others: Sequence[Aimed]) -> tuple[str, Path]:
    """A question about other regions, of the same image where there is one, and another image.

    Raises:
        DataError: all questions are about the same regions, or about one image.
    """
    image = one.sample.image_id
    questions = sorted(
        (other.sample.image_id != image, place, other.sample.question)
        for place, other in enumerate(others)
        if not set(other.labels) & set(one.labels) and other.sample.question != one.sample.question
    )
    images = [other.sample.image for other in others if other.sample.image_id != image]
    if not questions or not images:
        raise DataError(
            "the sanity checks need a question about something else, and another image",
            where=one.sample.sample_id,
            expected="questions about two regions and two images at least",
            fix="raise --limit, or leave the checks out with --sanity 0",
        )
    return questions[0][2], images[0]


def _checked(found: Entry, methods: Sequence[str]) -> Checked:
    some = [name for name in methods if name in found]
    return Checked(
        blocks={name: {block: _likeness(pair) for block, pair in found[name]["blocks"].items()} for name in some},
        wrong_question={name: _likeness(found[name]["wrong_question"]) for name in some},
        wrong_image={name: _likeness(found[name]["wrong_image"]) for name in some},
    )


def _entry(found: Localisation) -> Entry:
    return {"scores": {name: _known(value) for name, value in found.scores.items()}, "excluded": found.excluded}


def _pair(found: Likeness) -> list[float | None]:
    return [_known(value) for value in found]


def _likeness(pair: Sequence[float | None]) -> Likeness:
    return Likeness(*(math.nan if value is None else value for value in pair))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 9)
