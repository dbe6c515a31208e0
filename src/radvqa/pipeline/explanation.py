"""Explaining answers of a run: chosen samples or all, by the finished model or as it was after an earlier stage."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from radvqa.data.dicom import hounsfield_of
from radvqa.data.image_store import ImageStore
from radvqa.errors import DataError, RunError
from radvqa.explain.bundle import CaseLine, Manifest, ViewName
from radvqa.explain.bundle_files import (
    case_folder,
    case_key,
    kept_case,
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
    made_from,
    predicted,
    written,
)
from radvqa.explain.export import write_panel
from radvqa.explain.maps import MapSettings
from radvqa.explain.methods import DEFAULT_METHODS
from radvqa.models.vlm import Vlm
from radvqa.pipeline.evaluation import prediction_file
from radvqa.pipeline.samples import adapters_of, read_samples
from radvqa.pipeline.stage_model import BASE, open_stage, stage_number, stage_weights
from radvqa.pipeline.training import pictures
from radvqa.recipe import Recipe
from radvqa.records import write_json
from radvqa.report.contents import Explained
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, Region, VqaSample

__all__ = ["BASE", "FULL_METHODS", "QUICK_METHODS", "Explanations", "answers_of", "explain_run", "write_index"]

QUICK_METHODS: Final = ("raw", "raw_value", "rollout", "rollout_90", "rollout_norm", "contrast")
"""What a run draws by itself: the methods that share one traced pass."""

FULL_METHODS: Final = tuple(name for name in DEFAULT_METHODS if name != "pixel_occlusion")
"""What ``radvqa explain`` draws unless told otherwise; pixel occlusion costs more than all of these together."""

PANEL_METHODS: Final[Mapping[str, str]] = {"raw attention": "raw", "rollout": "rollout"}


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
    progress: Progress,
) -> Explanations:
    """Write a bundle for every sample asked for, and ``cases.jsonl`` with all that are right for these weights.

    A case of the same weights, methods, settings and answer is kept. A wrong answer, and every one of an earlier stage,
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
        progress: told what goes on.

    Raises:
        DataError: a sample id is not in the evaluated split.
        RecipeError: there is no such stage or method.
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
        write_cases(where, [])
        result = Explanations(folder=where)
    else:
        vlm = open_trained() if finished else open_stage(folder, number, progress=progress)
        model = ExplainedModel(
            name=vlm.name,
            weights=stage_weights(folder, vlm, number),
            run=folder.path.resolve().name,
            stage="" if finished else stage,
            decoding=f"greedy, at most {recipe.evaluate.max_new_tokens} new tokens",
        )
        work = _Work.prepare(folder, vlm, model, chosen, methods, progress=progress)
        result = work.explain(where, by_id if finished else {}, chosen, progress=progress)
    if finished:
        write_index(where, shown)
    return result


def write_index(explained: Path, sample_ids: Sequence[str]) -> None:
    """Write ``index.json`` and a panel of each of these cases for the report; panels of other cases are removed."""
    entries, panels = [], set()
    lines = {line.sample_id: line for line in read_cases(explained)}
    for line in [lines[one] for one in sample_ids if one in lines]:
        bundle = read_bundle(case_folder(explained, line.key))
        record = {one.method: one for one in bundle.manifest.views["model"].maps}
        named = {heading: method for heading, method in PANEL_METHODS.items() if method in record}
        named = named or {method: method for method in list(record)[:2]}
        panel = explained / f"{line.key}.png"
        panels.add(panel.name)
        write_panel(bundle, panel, methods=named, token=0)
        entry = Explained(
            sample_id=line.sample_id,
            image_id=line.image_id,
            question=line.question,
            reference=line.references[0] if line.references else "",
            answer=line.answer,
            correct=bool(line.correct),
            panel=f"{explained.name}/{panel.name}",
            methods={
                heading: {name: getattr(record[method].tokens[0], name) for name in _TOLD}
                for heading, method in named.items()
            },
        )
        entries.append(asdict(entry))
    for line in lines.values():
        if f"{line.key}.png" not in panels:
            (explained / f"{line.key}.png").unlink(missing_ok=True)
    write_json(explained / "index.json", entries)


_TOLD: Final = ("image_mass", "sink_mass", "self_mass", "entropy", "specificity")


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
    def prepare(
        folder: RunFolder,
        vlm: Vlm,
        model: ExplainedModel,
        chosen: Sequence[str],
        methods: Sequence[str],
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
            settings=MapSettings(alpha=recipe.explain.alpha),
            samples=samples,
            store=pictures(recipe, vlm, [samples[one].image for one in chosen], progress=progress),
            regions=adapters_of(recipe)[name].regions,
            root=Path(root) if isinstance(root, str) else None,
        )

    def explain(
        self, where: Path, known: Mapping[str, Prediction], chosen: Sequence[str], *, progress: Progress
    ) -> Explanations:
        """Explain these samples, with the answers known or generated anew."""
        lines = {line.key: line for line in self._still_right(where, known)}
        made, kept, empty = 0, 0, []
        listed = time.monotonic()
        with progress.track("explaining", len(chosen), unit="answers") as tick:
            for sample_id in chosen:
                sample = self.samples[sample_id]
                manifest, is_new = self._case(where, sample, known.get(sample_id))
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
        _remove_others(where, set(lines))
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
            methods=self.methods,
            settings=self.settings,
            regions=regions,
        )
        folder = case_folder(where, case_key(sample.sample_id))
        if (manifest := kept_case(folder, made_from=digest)) is not None:
            return manifest, False
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
            methods=self.methods,
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

    def _still_right(self, where: Path, known: Mapping[str, Prediction]) -> list[CaseLine]:
        """Cases of an earlier start, by these weights and with the answer that the run has now."""
        found = []
        for line in read_cases(where):
            try:
                manifest = read_bundle(case_folder(where, line.key)).manifest
            except RunError:
                continue
            same = manifest.model.get("weights") == self.model.weights
            answered = known.get(line.sample_id)
            if same and (not known or (answered is not None and answered.text == line.answer)):
                found.append(line)
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


def _remove_others(where: Path, keys: set[str]) -> None:
    """Take away bundles that are in no list any more."""
    for folder in case_folder(where, "x").parent.glob("*"):
        if folder.is_dir() and folder.name not in keys:
            shutil.rmtree(folder, ignore_errors=True)
