"""Explaining answers of a run: chosen samples or all, by the finished model or as it was after an earlier stage."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from radvqa.data.dicom import hounsfield_of
from radvqa.data.image_store import ImageStore
from radvqa.errors import DataError, RunError
from radvqa.explain.bundle import CaseLine, Manifest, ViewName
from radvqa.explain.bundle_files import (
    case_folder,
    case_key,
    read_bundle,
    read_cases,
    write_bundle,
    write_cases,
)
from radvqa.explain.cases import (
    ExplainedModel,
    Given,
    case_line,
    choose,
    explain_case,
    generated,
    kept_case,
    made_from,
    predicted,
    written,
)
from radvqa.explain.map_settings import MapSettings
from radvqa.explain.methods import DEFAULT_METHODS
from radvqa.models.vlm import Vlm
from radvqa.pipeline.evaluation import prediction_file
from radvqa.pipeline.explanation_panels import write_index
from radvqa.pipeline.samples import adapters_of, read_samples
from radvqa.pipeline.stage_model import BASE, explained_model, open_stage, stage_number
from radvqa.pipeline.training import pictures
from radvqa.recipe import Recipe
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, Region, VqaSample

__all__ = [
    "BASE",
    "FULL_METHODS",
    "QUICK_METHODS",
    "Explanations",
    "answers_of",
    "explain_run",
    "keep_answers",
]

QUICK_METHODS: Final = ("raw", "raw_value", "rollout", "rollout_90", "rollout_norm", "contrast")
"""What a run draws by itself: the methods that share one traced pass."""

FULL_METHODS: Final = tuple(name for name in DEFAULT_METHODS if name != "pixel_occlusion")
"""What ``radvqa explain`` draws unless told otherwise; pixel occlusion costs more than all of these together."""

_SECONDS_BETWEEN_LISTS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanations:
    """What came of it. ``folder`` holds ``cases.jsonl``; ``made`` are new, ``kept`` were there and are still right.

    ``right`` and ``wrong`` are answers among both; ``empty`` are sample ids whose answer has no token to explain.
    """

    folder: Path
    made: int = 0
    kept: int = 0
    right: int = 0
    wrong: int = 0
    empty: tuple[str, ...] = ()


def explain_run(
    folder: RunFolder,
    predictions: Sequence[Prediction],
    open_trained: Callable[[], Vlm],
    *,
    sample_ids: Sequence[str] = (),
    every: bool = False,
    stage: str = "",
    methods: Sequence[str] = QUICK_METHODS,
    settings: MapSettings | None = None,
    progress: Progress,
) -> Explanations:
    """Write a bundle for every sample asked for, and ``cases.jsonl`` with all that are right for these weights.

    A case of the same weights, settings and answer that holds these methods is kept; one that is made again keeps the
    methods that it had. Cases of other samples are taken away only if they are of other weights or another answer. A
    wrong answer, and every one of an earlier stage,
    is explained together with the reference. For the finished model, panels and ``explain/index.json`` are written for
    the report.

    Args:
        folder: a run that is evaluated; the caller has locked it.
        predictions: of the finished model, on the evaluated split.
        open_trained: gives the finished model.
        sample_ids: those asked for; those of the recipe unless given.
        every: all evaluated samples.
        stage: ``base`` or a stage of the recipe: the model as it was after it, which then answers anew. ``""`` and the
            last stage: the finished model.
        methods: names in ``radvqa.explain.methods.METHODS``.
        settings: what can be chosen about the maps; the recipe's unless given.
        progress: told what goes on.

    Raises:
        DataError: a sample id is not in the evaluated split, or the foil has no tokens.
        RecipeError: there is no such stage or method, or a setting selects nothing.
        ModelError: the model's mask is not that of its layout.
    """
    recipe = folder.recipe
    by_id = {one.sample_id: one for one in predictions}
    shown = list(sample_ids or recipe.explain.sample_ids) or choose(predictions, recipe.explain.samples)
    chosen = list(dict.fromkeys([*shown, *by_id] if every else shown))
    if unknown := [one for one in chosen if one not in by_id]:
        raise DataError(
            f"no evaluated sample is called {unknown[0]!r}",
            where=str(prediction_file(folder.path, recipe.evaluate.split, "model")),
            fix="take a sample_id of that file",
        )
    number = stage_number(recipe, stage)
    finished = number == len(recipe.stages)
    where = folder.file("explain" if finished else f"explain/stage-{stage}")
    if finished:
        folder.forget("explain")
    if not chosen:
        write_cases(where, read_cases(where))
        result = Explanations(folder=where)
    else:
        vlm = open_trained() if finished else open_stage(folder, number, progress=progress)
        model = explained_model(folder, vlm, number)
        maps = settings or MapSettings(alpha=recipe.explain.alpha)
        work = _Work.prepare(folder, vlm, model, chosen, methods, maps, progress=progress)
        result = work.explain(where, by_id, chosen, known_answers=finished, progress=progress)
    if finished:
        write_index(where, shown)
    return result


def keep_answers(explained: Path, predictions: Sequence[Prediction]) -> None:
    """Take cases of other answers than these out of the list of a folder; their bundles stay where they are."""
    answers = {one.sample_id: one.text for one in predictions}
    lines = read_cases(explained)
    if any(answers.get(line.sample_id) != line.answer for line in lines):
        write_cases(explained, [line for line in lines if answers.get(line.sample_id) == line.answer])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A model and the samples that it explains."""

    recipe: Recipe
    vlm: Vlm
    model: ExplainedModel
    methods: tuple[str, ...]
    settings: MapSettings
    samples: Mapping[str, VqaSample]
    store: ImageStore
    regions: Callable[[str], Sequence[Region]]
    root: Path | None

    @staticmethod
    def prepare(  # noqa: PLR0917
        folder: RunFolder,
        vlm: Vlm,
        model: ExplainedModel,
        chosen: Sequence[str],
        methods: Sequence[str],
        settings: MapSettings,
        *,
        progress: Progress,
    ) -> "_Work":
        recipe = folder.recipe
        name = recipe.evaluate.dataset
        wanted = set(chosen)
        rows = read_samples(folder, progress=progress)[name, recipe.evaluate.split]
        samples = {sample.sample_id: sample for sample in rows if sample.sample_id in wanted}
        root = recipe.datasets[name].options.get("root")
        return _Work(
            recipe=recipe,
            vlm=vlm,
            model=model,
            methods=tuple(methods),
            settings=settings,
            samples=samples,
            store=pictures(recipe, vlm, [samples[one].image for one in chosen], progress=progress),
            regions=adapters_of(recipe)[name].regions,
            root=Path(root) if isinstance(root, str) else None,
        )

    def explain(
        self,
        where: Path,
        predictions: Mapping[str, Prediction],
        chosen: Sequence[str],
        *,
        known_answers: bool,
        progress: Progress,
    ) -> Explanations:
        """Explain these samples; their answers are those predicted, or are generated anew."""
        lines = self._still_right(where, predictions, known_answers=known_answers)
        made, kept, empty = 0, 0, []
        listed = time.monotonic()
        with progress.track("explaining", len(chosen), unit="answers") as tick:
            for sample_id in chosen:
                sample = self.samples[sample_id]
                manifest, is_new = self._case(where, sample, predictions[sample_id] if known_answers else None)
                tick(1)
                if manifest is None:
                    empty.append(sample_id)
                    lines.pop(case_key(sample_id), None)
                    progress.say(f"  {sample_id}: the answer is empty, there is no token to explain")
                    continue
                made, kept = made + is_new, kept + (not is_new)
                lines[manifest.key] = case_line(manifest, group_id=sample.group_id)
                if is_new and time.monotonic() - listed > _SECONDS_BETWEEN_LISTS:
                    write_cases(where, list(lines.values()))
                    listed = time.monotonic()
        write_cases(where, list(lines.values()))
        answers = [line.correct for line in lines.values()]
        return Explanations(
            folder=where,
            made=made,
            kept=kept,
            right=answers.count(True),
            wrong=answers.count(False),
            empty=tuple(empty),
        )

    def _case(self, where: Path, sample: VqaSample, prediction: Prediction | None) -> tuple[Manifest | None, bool]:
        """The case, and whether it is new; None where the answer is empty."""
        regions = tuple(self.regions(sample.image_id))
        given = predicted(prediction, self.vlm) if prediction is not None else None
        digest = made_from(
            sample,
            image_sha256=self.store.sha256(sample.image),
            answer=None if given is None else given.token_ids,
            model=self.model,
            regions=regions,
        )
        folder = case_folder(where, case_key(sample.sample_id))
        kept, methods = kept_case(folder, made_from=digest, methods=self.methods, settings=self.settings)
        if kept is not None:
            return kept, False
        pixels = self.store.pixels(sample.image)
        if given is None:
            most = self.recipe.evaluate.max_new_tokens
            given = generated(self.vlm, sample, pixels, max_new_tokens=most)
        if not given.token_ids or not given.text:
            return None, False
        manifest, arrays = explain_case(
            self.vlm,
            sample,
            pixels,
            answers=answers_of(self.vlm, sample, given, always_reference=prediction is None),
            model=self.model,
            methods=methods,
            settings=self.settings,
            regions=regions,
            aspect=self.store.aspect,
            values=hounsfield_of(sample.image, self._source(sample)),
            made_from=digest,
        )
        return write_bundle(folder, manifest, arrays), True

    def _source(self, sample: VqaSample) -> Path:
        """Where the image's own file lies, if the data set names images by their place below its folder."""
        return sample.image if self.root is None else self.root / sample.image_id

    def _still_right(
        self, where: Path, predictions: Mapping[str, Prediction], *, known_answers: bool
    ) -> dict[str, CaseLine]:
        """Cases of earlier starts by these weights and, of known answers, with the one of now: listed, then others.

        Bundles of other weights or another answer are removed. All others stay, above all those that cannot be read.
        """
        found = {}
        order = {line.key: place for place, line in enumerate(read_cases(where))}
        folders = [one for one in case_folder(where, "x").parent.glob("*") if one.is_dir()]
        for folder in sorted(folders, key=lambda one: (order.get(one.name, len(order)), one.name)):
            if folder.name.endswith(".partial"):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                manifest = read_bundle(folder).manifest
            except RunError:
                continue
            prediction, own = predictions.get(manifest.sample_id), manifest.views.get("model")
            if prediction is None or own is None:
                continue
            same_answer = own.text == prediction.text or not known_answers
            if same_answer and manifest.model.get("weights") == self.model.weights:
                found[manifest.key] = case_line(manifest, group_id=prediction.group_id)
            else:
                shutil.rmtree(folder, ignore_errors=True)
        return found


def answers_of(vlm: Vlm, sample: VqaSample, given: Given, *, always_reference: bool = False) -> dict[ViewName, Given]:
    """The model's answer and, where that is wrong, the reference.

    ``always_reference``: for an earlier stage, whose answer differs from the finished model's: the reference is the one
    answer on which both can be compared.
    """
    answers: dict[ViewName, Given] = {"model": given}
    if given.correct is False or (always_reference and any(sample.answers)):
        answers["reference"] = written(vlm, sample.answers[0], sample, correct=True)
    return answers
