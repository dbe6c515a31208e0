"""What the model computes for a saliency evaluation, question by question, each kept in a journal at once.

Kept are the maps themselves, not their scores: regions, priors and scores may change without measuring anew. Keys of
the journal: the step (``tune``, ``maps``, ``words``, ``faithfulness`` or ``sanity``), the sample id, and a digest of
all that the step depends on beside the weights: question, answer, pixels, and the seed where there is one.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError
from radvqa.explain.asked import Asked, ask
from radvqa.explain.faithfulness import faithfulness
from radvqa.explain.maps import maps_of
from radvqa.explain.occlusion import visual_reliance
from radvqa.explain.sanity import Checked, Likeness, compared, weight_randomisation
from radvqa.models.vlm import Vlm
from radvqa.pipeline.saliency_targets import Aimed
from radvqa.run.journal import Journal
from radvqa.run.progress import Progress
from radvqa.sample import VqaSample

Grid = Float[np.ndarray, "r c"]
Entry = dict[str, Any]
Answers = Mapping[str, tuple[int, ...]]

COSTLY = frozenset({"pixel_occlusion"})
"""Methods that take longer than all the others together: they are measured on fewer questions."""
COSTLY_TUNED_ON = 6
COSTLY_CHECKED_ON = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mapped:
    """The whole answer's maps by method, their specificity (None where undefined), and the answer's reliance."""

    maps: Mapping[str, Grid]
    specificity: Mapping[str, float | None]
    reliance: float


class Strangers(NamedTuple):
    """What a map is checked against: a question about something else, and another image."""

    question: str
    image: Path


class SaliencyWork:
    """What is computed question by question, each kept in the journal.

    ``costly``: the number of questions that the methods of ``COSTLY`` are measured on.
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

    def tune(self, aimed: Sequence[Aimed]) -> dict[str, dict[str, Grid]]:
        """Sample id → method → map of the reference answer, for training questions."""
        answers = {
            one.sample.sample_id: tuple(self._vlm.question(one.sample, answer=True).answer[:-1]) for one in aimed
        }

        def maps(one: Aimed, methods: Sequence[str]) -> Entry:
            made = self._maps(one.sample, answers[one.sample.sample_id], methods)
            return {name: _packed(grid, name, one) for name, grid in made.items()}

        most = min(self._costly, COSTLY_TUNED_ON)
        entries = self._each("tune", aimed, answers, maps, title="maps of training questions", costly=most)
        return {
            key: {name: self._unpacked(found[name]) for name in self._methods if name in found}
            for key, found in entries.items()
        }

    def maps(self, aimed: Sequence[Aimed], answers: Answers) -> dict[str, Mapped]:
        """Sample id → maps of the model's own answer."""

        def maps(one: Aimed, methods: Sequence[str]) -> Entry:
            asked = self._asked(one.sample, answers[one.sample.sample_id])
            found: Entry = {"reliance": round(float(visual_reliance(asked).sum()), 9)}
            for name, of in maps_of(asked, methods, tokens=False).items():
                specificity = _known(of.answer.grid_specificity)
                found[name] = {"map": _packed(of.answer.grid, name, one), "specificity": specificity}
            return found

        entries = self._each("maps", aimed, answers, maps, title="maps", costly=self._costly)
        return {key: self._mapped(found) for key, found in entries.items()}

    def words(self, aimed: Sequence[Aimed], answers: Answers) -> dict[str, dict[str, float | None]]:
        """Sample id → method → specificity, also where it needs a map of every word of the answer.

        Gradients and occlusion explain each word anew, so that is done for few questions.
        """

        def specificity(one: Aimed, methods: Sequence[str]) -> Entry:
            known = self._originals(one, answers).specificity
            found: Entry = {name: known[name] for name in methods}
            missing = [name for name in methods if known[name] is None]
            if missing and len(answers[one.sample.sample_id]) > 1:
                made = maps_of(self._asked(one.sample, answers[one.sample.sample_id]), missing, tokens=True)
                found |= {name: _known(of.answer.grid_specificity) for name, of in made.items()}
            return found

        return self._each("words", aimed, answers, specificity, title="maps of words", costly=self._costly)

    def remove_and_restore(self, aimed: Sequence[Aimed], answers: Answers) -> dict[str, Entry]:
        """Sample id → method or order of cells → faithfulness."""

        def measured(one: Aimed, methods: Sequence[str]) -> Entry:
            maps = self._originals(one, answers).maps
            asked = self._asked(one.sample, answers[one.sample.sample_id])
            return dict(faithfulness(asked, {name: maps[name] for name in methods}, seed=self._seed))

        more = {one.sample.sample_id: [self._seed] for one in aimed}
        return self._each(
            "faithfulness", aimed, answers, measured, title="faithfulness", costly=self._costly, more=more
        )

    def check(self, aimed: Sequence[Aimed], answers: Answers, strangers: Mapping[str, Strangers]) -> list[Checked]:
        """The sanity checks of every method, one for each sample."""

        def checks(one: Aimed, methods: Sequence[str]) -> Entry:
            answer, other = answers[one.sample.sample_id], strangers[one.sample.sample_id]
            maps = self._originals(one, answers).maps
            original = {name: maps[name] for name in methods}
            blocks = weight_randomisation(
                self._vlm, lambda: self._maps(one.sample, answer, methods), original=original, seed=self._seed
            )
            questions = compared(original, self._maps(one.sample, answer, methods, question=other.question))
            images = compared(original, self._maps(one.sample, answer, methods, image=other.image))
            return {
                name: {
                    "blocks": {block: _pair(pair) for block, pair in blocks[name].items()},
                    "wrong_question": _pair(questions[name]),
                    "wrong_image": _pair(images[name]),
                }
                for name in original
            }

        more = {key: [self._seed, other.question, self._pixels_digest(other.image)] for key, other in strangers.items()}
        most = min(self._costly, COSTLY_CHECKED_ON)
        entries = self._each("sanity", aimed, answers, checks, title="sanity checks", costly=most, more=more)
        return [_checked(found, self._methods) for found in entries.values()]

    def _each(
        self,
        step: str,
        aimed: Sequence[Aimed],
        answers: Answers,
        compute: Callable[[Aimed, Sequence[str]], Entry],
        *,
        title: str,
        costly: int,
        more: Mapping[str, Sequence[object]] | None = None,
    ) -> dict[str, Entry]:
        """Sample id → what ``compute`` finds for the methods that the journal lacks, and what it has.

        Costly methods are done for the first ``costly`` questions. ``more``: sample id → on what else the step depends.
        """
        keys = {
            one.sample.sample_id: self._key(step, one.sample, answers, (more or {}).get(one.sample.sample_id, ()))
            for one in aimed
        }
        entries = {sample_id: self._found(key) for sample_id, key in keys.items()}
        missing = {
            one.sample.sample_id: [
                name
                for name in self._methods
                if name not in entries[one.sample.sample_id] and (place < costly or name not in COSTLY)
            ]
            for place, one in enumerate(aimed)
        }
        done = sum(not some for some in missing.values())
        with self._progress.track(title, len(aimed), done=done, unit="questions") as tick:
            for one in aimed:
                sample_id = one.sample.sample_id
                if missing[sample_id]:
                    entries[sample_id] = entries[sample_id] | compute(one, missing[sample_id])
                    self._journal.append(keys[sample_id], {"found": entries[sample_id]})
                    tick(1)
        return entries

    def _key(self, step: str, sample: VqaSample, answers: Answers, more: Sequence[object]) -> str:
        about = [sample.question, sample.language, list(answers[sample.sample_id]), self._pixels_digest(sample.image)]
        digest = hashlib.sha256(json.dumps([*about, *more]).encode()).hexdigest()[:16]
        return f"{step}/{sample.sample_id}/{digest}"

    def _pixels_digest(self, image: Path) -> str:
        return hashlib.sha256(np.ascontiguousarray(self._store.pixels(image)).tobytes()).hexdigest()

    def _found(self, key: str) -> Entry:
        return dict(self._journal[key]["found"]) if key in self._journal else {}

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

    def _originals(self, one: Aimed, answers: Answers) -> Mapped:
        """The maps by the real weights, which ``maps`` has put into the journal."""
        return self._mapped(self._found(self._key("maps", one.sample, answers, ())))

    def _mapped(self, found: Entry) -> Mapped:
        some = [name for name in self._methods if name in found]
        return Mapped(
            maps={name: self._unpacked(found[name]["map"]) for name in some},
            specificity={name: found[name]["specificity"] for name in some},
            reliance=found["reliance"],
        )

    def _unpacked(self, text: str) -> Grid:
        values = np.frombuffer(base64.b64decode(text), dtype="<f4")
        return values.astype(np.float64).reshape(self._vlm.image_grid)


def _packed(grid: Grid, method: str, one: Aimed) -> str:
    """A map as base64 of little-endian single-precision numbers, row by row.

    Raises:
        ModelError: the map has values that are not finite.
    """
    values = np.ascontiguousarray(grid, dtype="<f4")
    if not np.isfinite(values).all():
        raise ModelError("a map cannot be scored", where=f"{one.sample.sample_id}, {method}", expected="finite values")
    return base64.b64encode(values.tobytes()).decode("ascii")


def _checked(found: Entry, methods: Sequence[str]) -> Checked:
    some = [name for name in methods if name in found]
    return Checked(
        blocks={name: {block: _likeness(pair) for block, pair in found[name]["blocks"].items()} for name in some},
        wrong_question={name: _likeness(found[name]["wrong_question"]) for name in some},
        wrong_image={name: _likeness(found[name]["wrong_image"]) for name in some},
    )


def _pair(found: Likeness) -> list[float | None]:
    return [_known(value) for value in found]


def _likeness(pair: Sequence[float | None]) -> Likeness:
    return Likeness(*(math.nan if value is None else value for value in pair))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 9)
