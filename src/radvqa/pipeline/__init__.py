"""The main path of a run, top to bottom: read data, train stages, predict, score, explain, report.

Every step reads and writes files in the run folder and is skipped when its done mark is there, so a run that was
stopped at any point goes on there when it is started again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from radvqa.errors import RunError
from radvqa.explain.map_settings import MapSettings
from radvqa.models.vlm import Vlm
from radvqa.pipeline.elsewhere import evaluate_model, evaluate_run_on
from radvqa.pipeline.evaluation import all_of, evaluate_into, prediction_file
from radvqa.pipeline.explanation import QUICK_METHODS, Explanations, explain_run, keep_answers
from radvqa.pipeline.samples import read_samples
from radvqa.pipeline.selection import first_images
from radvqa.pipeline.stage_model import is_finished_model
from radvqa.pipeline.subject import open_model, require_model, run_weights, setup_of, setup_of_model, trained_of
from radvqa.pipeline.training import pictures, require_trained, train, write_provenance
from radvqa.publish.repository import write_card
from radvqa.recipe import Recipe
from radvqa.records import read_records, unwritable
from radvqa.report.page import write_report
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.run.provenance import digest_files
from radvqa.sample import Prediction
from radvqa.train.parallel import Processes

__all__ = [
    "Until",
    "evaluate",
    "evaluate_model",
    "evaluate_run_on",
    "explain",
    "open_model",
    "read_predictions",
    "read_samples",
    "report",
    "require_model",
    "require_trained",
    "run",
    "setup_of_model",
    "train",
    "train_again",
]

Until = Literal["train", "evaluate", "explain", "report"]


def run(recipe: Recipe, *, command: str, until: str = "report", progress: Progress) -> RunFolder | None:
    """Do the whole recipe, or go on where an earlier start of the same recipe stopped, and return its folder.

    Of several processes (torchrun, ``accelerate launch``) the leader does what comes after training, and the others
    return None.

    Args:
        recipe: what to do.
        command: as typed, kept in the folder.
        until: last step: ``train``, ``evaluate``, ``explain`` or ``report``.
        progress: told what goes on.

    Raises:
        RadvqaError: see the steps; everything finished before stays and is used by the next start.
    """
    processes = Processes.join()
    folder = _create(recipe, command, processes)
    vlm = train(folder, progress=progress, processes=processes)
    processes.leave()
    if not processes.leads:
        return None
    if until == "train":
        return folder
    if not folder.is_done("evaluate", {}):
        evaluate(folder, vlm=vlm, command=command, progress=progress)
    if until == "evaluate":
        return folder
    if not folder.is_done("explain", _explained_from(folder)):
        explain(folder, vlm=vlm, progress=progress)
    if until != "explain":
        report(folder, progress=progress)
    return folder


def train_again(folder: RunFolder, *, command: str, progress: Progress) -> bool:
    """Train what is left of a run, alone or with the processes of a launcher; whether this one is the leader."""
    processes = Processes.join()
    if processes.leads:
        folder.lock()
        folder.note_command(command)
    train(folder, progress=progress, processes=processes)
    processes.leave()
    return processes.leads


def _create(recipe: Recipe, command: str, processes: Processes) -> RunFolder:
    """The run folder, made by the leader."""
    if processes.leads:
        folder = RunFolder.create(recipe, command=command)
        processes.wait()
        return folder
    processes.wait()
    return RunFolder.open(recipe.output / f"{recipe.name}_{recipe.digest()}")


def evaluate(
    folder: RunFolder, *, vlm: Vlm | None = None, command: str = "", probes: Sequence[str] = (), progress: Progress
) -> None:
    """Answer the evaluation split under every condition, add the floors, score, and look for leaks.

    See ``radvqa.pipeline.evaluation`` for the files. Explained cases of other answers than these are taken out of the
    list. ``vlm`` is what ``train`` returned; without it, it is asked for. ``probes`` are added to those of the recipe.
    """
    folder.lock()
    recipe = folder.recipe
    settings = recipe.evaluate
    samples = read_samples(folder, progress=progress)
    asked = first_images(samples[settings.dataset, settings.split], settings.limit)
    vlm = vlm or train(folder, progress=progress)
    store = pictures(recipe, vlm, [one.image for one in asked], progress=progress)
    write_provenance(folder, vlm, progress=progress)
    # If this is stopped half-way, the mark of an earlier evaluation must not vouch for a mixture of both.
    folder.forget("evaluate")
    # The question-only floor knows the evaluated data set's own training questions, or else all of them.
    own = (settings.dataset,) if (settings.dataset, "train") in samples else recipe.trained_on
    evaluate_into(
        folder.path,
        vlm,
        asked,
        store,
        setup=setup_of(recipe, dataset=settings.dataset, split=settings.split, limit=settings.limit, probes=probes),
        subject=folder.path.resolve().name,
        weights=run_weights(folder, vlm),
        trained=trained_of(
            folder, vlm, samples, floors=("; ".join(f"{one}, train" for one in own), all_of(samples, own))
        ),
        command=command,
        progress=progress,
    )
    folder.mark_done("evaluate", {})
    if folder.file("adapter").is_dir():
        write_card(folder, folder.file("adapter"))
    if not folder.is_done("explain", _explained_from(folder)):
        folder.forget("explain")
        _remove(folder.file("explain/index.json"))
        keep_answers(folder.file("explain"), read_predictions(folder))


def explain(
    folder: RunFolder,
    *,
    sample_ids: Sequence[str] = (),
    every: bool = False,
    stage: str = "",
    methods: Sequence[str] = QUICK_METHODS,
    settings: MapSettings | None = None,
    vlm: Vlm | None = None,
    progress: Progress,
) -> Explanations:
    """Write a bundle for each chosen sample, and panels with ``explain/index.json`` for the report.

    See ``radvqa.pipeline.explanation.explain_run``. ``vlm`` is what ``train`` returned; without it, it is asked for.

    Raises:
        RunError: the run was not evaluated yet.
        DataError: a sample id is not in the evaluated split.
        RecipeError: there is no such stage or method.
    """
    folder.lock()
    found = explain_run(
        folder,
        read_predictions(folder),
        lambda: vlm or train(folder, progress=progress),
        sample_ids=sample_ids,
        every=every,
        stage=stage,
        methods=methods,
        settings=settings,
        progress=progress,
    )
    if is_finished_model(folder.recipe, stage):
        folder.mark_done("explain", _explained_from(folder))
    return found


def report(folder: RunFolder, *, progress: Progress) -> Path:
    """Write ``report.html`` from the files of the run folder."""
    folder.lock()
    page = write_report(folder.path)
    progress.say(f"report: {page}")
    return page


def read_predictions(folder: RunFolder, condition: str = "model") -> list[Prediction]:
    """The predictions of one condition. Raises ``RunError`` when the run was not evaluated yet."""
    path = _prediction_file(folder, condition)
    if not path.is_file():
        raise RunError("this run has no predictions yet", where=str(path), fix=f"radvqa evaluate {folder.path}")
    return read_records(path, Prediction)


def _prediction_file(folder: RunFolder, condition: str) -> Path:
    return prediction_file(folder.path, folder.recipe.evaluate.split, condition)


def _explained_from(folder: RunFolder) -> dict[str, str]:
    """What attention maps are drawn for: the answers. Empty before there are any."""
    predictions = _prediction_file(folder, "model")
    return {"predictions": next(iter(digest_files([predictions]).values()))} if predictions.is_file() else {}


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
