"""The model of a run kept in memory, for new questions about pictures of explained cases."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from radvqa.data.imaging import fit
from radvqa.errors import DataError
from radvqa.explain.bundle import Manifest, Outline, ViewName
from radvqa.explain.cases import Arrays, ExplainedModel, Given, explain_case, generated, written
from radvqa.explain.maps import MapSettings
from radvqa.explain.targets import asked_regions
from radvqa.models.vlm import Vlm
from radvqa.pipeline.explanation import QUICK_METHODS, is_finished_model, open_stage, stage_number, weights_of
from radvqa.recipe import Recipe
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.sample import Region, VqaSample


@final
class CaseModel:
    """Answers questions about the picture of a case and explains the answer. Not for several threads at once."""

    def __init__(self, vlm: Vlm, recipe: Recipe, model: ExplainedModel) -> None:
        self._vlm, self._recipe, self._model = vlm, recipe, model

    def ask(
        self,
        case: Manifest,
        picture: UInt8[np.ndarray, "y x *c"],
        question: str,
        answer: str | None = None,
        *,
        methods: Sequence[str] = QUICK_METHODS,
        values: Float[np.ndarray, "y x"] | None = None,
    ) -> tuple[Manifest, Arrays]:
        """A new case with the key of the old one: the model's own answer and, if given, a typed one.

        The references are those of the case if its own question is asked again; regions are outlined, not measured.

        Args:
            case: whose picture is asked about.
            picture: that picture.
            question: in the language of the case.
            answer: a typed answer.
            methods: names in ``radvqa.explain.methods.METHODS``.
            values: of a CT, in Hounsfield units.

        Raises:
            DataError: the model gives an empty answer and none is typed, or the typed one has no tokens.
            ModelError: a text holds a mark that the model must not read.
        """
        own_question = question == case.question
        sample = VqaSample(
            sample_id=case.sample_id,
            image_id=case.image_id,
            image=Path(case.image_id),
            question=question,
            answers=case.references if own_question else (),
            answer_type="closed" if case.answer_type == "closed" else "open",
            group_id=case.image_id,
            split="test",
            language=case.language,
            tags=case.tags,
        )
        image = Image.fromarray(picture).convert("RGB")
        aspect = self._recipe.model.aspect
        pixels = fit(image, self._vlm.image_size, aspect=aspect)
        given = generated(self._vlm, sample, pixels, max_new_tokens=self._recipe.evaluate.max_new_tokens)
        answers: dict[ViewName, Given] = {"model": given} if given.token_ids and given.text else {}
        if answer is not None:
            answers["typed"] = written(self._vlm, answer, sample, correct=None)
        if not answers:
            raise DataError("the model's answer is empty", got=repr(question)[:80], fix="ask in other words")
        manifest, arrays = explain_case(
            self._vlm,
            sample,
            image,
            pixels,
            answers=answers,
            model=self._model,
            methods=methods,
            settings=MapSettings(alpha=self._recipe.explain.alpha),
            aspect=aspect,
            values=values,
        )
        return dataclasses.replace(manifest, key=case.key, outlines=_asked_anew(case.outlines, sample)), arrays


def open_case_model(run: Path, *, stage: str = "", progress: Progress) -> CaseModel:
    """The model of a run as it was after a stage (``base`` and ``""`` as for ``explain_run``). Takes seconds.

    Raises:
        RunError: it is no run.
        RecipeError: there is no such stage.
        TrainError: the stage is not trained.
    """
    folder = RunFolder.open(run)
    number = stage_number(folder.recipe, stage)
    vlm = open_stage(folder, number, progress=progress)
    model = ExplainedModel(
        name=vlm.name,
        weights=weights_of(folder, vlm, number),
        run=folder.path.resolve().name,
        stage="" if is_finished_model(folder.recipe, stage) else stage,
        decoding=f"greedy, at most {folder.recipe.evaluate.max_new_tokens} new tokens",
    )
    return CaseModel(vlm, folder.recipe, model)


def _asked_anew(outlines: Sequence[Outline], sample: VqaSample) -> tuple[Outline, ...]:
    """The same outlines, marked where this question names them."""
    named = [Region(label=one.label, box=(0.0, 0.0, 1.0, 1.0)) for one in outlines]
    asked = {target.label.lower() for target in asked_regions(sample, named)}
    return tuple(dataclasses.replace(one, asked=one.label.lower() in asked) for one in outlines)
