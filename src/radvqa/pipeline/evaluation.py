"""Answers, scores, floors, controls and leaks of a model on a split: the one path for runs and for other models.

::

    predictions/<split>.jsonl, <split>_<condition>.jsonl
    evaluation.json   which model, data and settings these answers are of, and whether all files are ``finished``
    summary.json      scores of every condition, paired differences, reliance on the picture
    scores.json       everything about the model's own answers, all published protocols included
    leaks.json        what the evaluated questions share with what was trained on
    probes.json       answers to further questions, where they were asked for
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from radvqa.data.image_store import ImageStore
from radvqa.errors import RecipeError, RunError
from radvqa.evaluate.comparison import compare_conditions
from radvqa.evaluate.controls import reliance
from radvqa.evaluate.floors import Floor, constant, cross_fitted, majority, question_only
from radvqa.evaluate.predict import Condition, predict
from radvqa.evaluate.probes import PROBES, Ask, ProbeResult
from radvqa.evaluate.scoring import score_predictions
from radvqa.evaluate.summary import summarise
from radvqa.models.layout import PROMPT_ID
from radvqa.models.vlm import Vlm
from radvqa.pipeline.answering import answered, digest_of_questions
from radvqa.pipeline.leaks import leaks
from radvqa.records import read_json, unwritable, write_json, write_records
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, Split, VqaSample

Probe = Callable[[Sequence[VqaSample], Sequence[Prediction], Ask], ProbeResult]

CONTROLS: tuple[Condition, ...] = ("blank", "shuffled", "mirrored")
FLOORS: Mapping[str, Floor] = {"majority": majority, "question_only": question_only}
CONSTANTS = {"always_yes": "Yes", "always_no": "No"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is asked and how. ``limit``: only so many images. ``resamples``: draws of the bootstrap."""

    dataset: str
    split: Split
    limit: int | None
    max_new_tokens: int
    batch_size: int
    controls: tuple[Condition, ...]
    probes: tuple[str, ...]
    slices: tuple[str, ...]
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What is known of the training: samples by name, and what a base had learned from before, by name only.

    ``floors``: the samples that floors learn from, with their name; without any, floors are cross-fitted.
    ``own_train``: the evaluated data set's train split by a name of its own, where it is not known to be trained on.
    """

    samples: Mapping[str, Iterable[VqaSample]]
    ancestry: Mapping[str, Any]
    floors: tuple[str, Sequence[VqaSample]] | None
    own_train: Mapping[str, Iterable[VqaSample]] = field(default_factory=dict)


def evaluate_into(
    folder: Path,
    vlm: Vlm,
    asked: Sequence[VqaSample],
    store: ImageStore,
    *,
    setup: Setup,
    subject: str,
    weights: str,
    trained: Trained,
    command: str,
    progress: Progress,
) -> None:
    """Answer the questions under every condition, add the floors, score, and write all files into ``folder``.

    An evaluation that was stopped goes on; a finished one is done anew.

    Args:
        folder: of a run or of an evaluation.
        vlm: the model.
        asked: the questions.
        store: their pictures.
        setup: what is asked and how.
        subject: name of the run or model.
        weights: digest of everything the model is made of.
        trained: what it was trained on.
        command: as typed.
        progress: told what goes on.

    Raises:
        DataError: ``shuffled`` with a single image, or no training samples for the floors.
        RecipeError: a probe that there is not.
        RunError: the folder is full or not writable, or another process works in it.
    """
    probes = _known_probes(setup.probes)
    data = digest_of_questions(asked, store)
    made_from = f"{weights}; {data}"
    journals = {name: _journal_file(folder, setup.split, name) for name in ("model", *setup.controls)}
    predictions: dict[str, list[Prediction]] = {}
    for condition in ("model", *setup.controls):
        predictions[condition] = answered(
            journals[condition],
            vlm,
            asked,
            store,
            condition=condition,
            max_new_tokens=setup.max_new_tokens,
            batch_size=setup.batch_size,
            seed=setup.seed,
            made_from=made_from,
            progress=progress,
        )
    predictions |= _floors(asked, trained, seed=setup.seed)
    about = {
        "subject": subject,
        "model": vlm.name,
        "revision": vlm.revision,
        "weights": weights,
        "data": data,
        "dataset": setup.dataset,
        "split": setup.split,
        "limit": setup.limit,
        "questions": len(asked),
        "layout": vlm.layout,
        "dtype": _dtype(vlm),
        "prompt_id": PROMPT_ID,
        "decoding": predictions["model"][0].decoding,
        "max_new_tokens": setup.max_new_tokens,
        "batch_size": setup.batch_size,
        "seed": setup.seed,
        "floors_from": trained.floors[0] if trained.floors else "the evaluated questions, cross-fitted by group",
        "command": command,
    }
    # Before any file of an earlier evaluation is replaced: what is here after a kill must not pass for that one.
    write_json(folder / "evaluation.json", {**about, "finished": False})
    for name, found in predictions.items():
        write_records(prediction_file(folder, setup.split, name), found)
    write_json(folder / "summary.json", _summary(predictions, vlm, setup))
    progress.say("scoring under every protocol")
    scores = score_predictions(predictions["model"], slices=setup.slices, resamples=setup.resamples, seed=setup.seed)
    write_json(folder / "scores.json", scores)
    shared = leaks(asked, trained.samples, own_train=trained.own_train, ancestry=trained.ancestry, progress=progress)
    write_json(folder / "leaks.json", shared)
    if probes:
        ask = _asking(vlm, store, setup, progress)
        found_by = {name: probe(asked, predictions["model"], ask) for name, probe in probes.items()}
        write_json(folder / "probes.json", found_by)
    else:
        _remove(folder / "probes.json")
    write_json(folder / "evaluation.json", {**about, "finished": True})
    for path in journals.values():
        _remove(path)


def require_same_subject(folder: Path, *, weights: str, dataset: str, split: str) -> None:
    """Refuse a folder with the evaluation of another model or data set. Raises ``RunError``."""
    before = read_json(folder / "evaluation.json", dict[str, Any]) or {}
    now = {"weights": weights, "dataset": dataset, "split": split}
    for name, value in now.items():
        if before and before.get(name) != value:
            raise RunError(
                "the folder holds an evaluation of something else",
                where=str(folder),
                expected=f"{name}: {value}",
                got=f"{name}: {before.get(name)}",
                fix="name another folder with --to, or move this one away",
            )


def prediction_file(folder: Path, split: str, condition: str) -> Path:
    """Where the predictions of a condition are."""
    name = f"{split}.jsonl" if condition == "model" else f"{split}_{condition}.jsonl"
    return folder / "predictions" / name


def _journal_file(folder: Path, split: str, condition: str) -> Path:
    return folder / "predictions" / f"{split}_{condition}.unfinished"


def _floors(asked: Sequence[VqaSample], trained: Trained, *, seed: int) -> dict[str, list[Prediction]]:
    if trained.floors is not None:
        found = {name: floor(trained.floors[1], asked) for name, floor in FLOORS.items()}
    elif len({one.group_id for one in asked}) > 1:
        found = {name: cross_fitted(floor, asked, seed=seed) for name, floor in FLOORS.items()}
    else:
        found = {}
    return found | {name: constant(asked, answer) for name, answer in CONSTANTS.items()}


def _summary(predictions: Mapping[str, Sequence[Prediction]], vlm: Vlm, setup: Setup) -> dict[str, Any]:
    return {
        "dataset": setup.dataset,
        "split": setup.split,
        "limit": setup.limit,
        "layout": vlm.layout,
        "prompt_id": PROMPT_ID,
        "condition": "model",
        "conditions": {name: summarise(found, slices=setup.slices) for name, found in predictions.items()},
        "comparisons": compare_conditions(predictions, reference="model"),
        "reliance": {
            name: reliance(predictions["model"], predictions[name], name=name)
            for name in ("shuffled", "blank")
            if name in predictions
        },
    }


# --- probes -------------------------------------------------------------------------------------------------------


def _known_probes(names: Sequence[str]) -> dict[str, Probe]:
    """The probes of these names. Raises ``RecipeError`` for one that there is not."""
    if unknown := [name for name in names if name not in PROBES]:
        raise RecipeError(
            f"no probe is called {unknown[0]!r}",
            where="evaluate.probes",
            expected=f"one of {', '.join(PROBES)}",
            fix="correct the name; see docs/evaluation.md",
        )
    return {name: PROBES[name] for name in names}


def _asking(vlm: Vlm, store: ImageStore, setup: Setup, progress: Progress) -> Ask:
    """Answers to further questions about pictures of the store; the second argument asks about mirrored ones."""

    def ask(samples: Sequence[VqaSample], mirrored: bool) -> list[Prediction]:
        condition: Condition = "mirrored" if mirrored else "model"
        with progress.track(f"probe, {condition} images", len(samples), unit="questions") as tick:
            return predict(
                vlm,
                samples,
                store,
                condition=condition,
                max_new_tokens=setup.max_new_tokens,
                batch_size=setup.batch_size,
                seed=setup.seed,
                done=tick,
            )

    return ask


# --- small parts --------------------------------------------------------------------------------------------------


def all_of(samples: Mapping[Any, Sequence[VqaSample]], names: Sequence[str]) -> list[VqaSample]:
    """The training samples of these data sets, one after the other."""
    return list(chain.from_iterable(samples[name, "train"] for name in names))


def _dtype(vlm: Vlm) -> str:
    return str(vlm.compute_dtype).removeprefix("torch.")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
