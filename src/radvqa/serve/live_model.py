"""The model of a series as its run left it, or as it was after the stage of the series. Imports torch."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from radvqa.errors import DataError, RunError
from radvqa.explain.bundle import Manifest, ViewName
from radvqa.explain.bundle_files import VALUES
from radvqa.sample import VqaSample
from radvqa.serve.case_bytes import Case
from radvqa.serve.live import Answering
from radvqa.serve.series import Series


def open_live(series: Series) -> Answering:
    """Load the model of a series; takes seconds to minutes. The run is only read, and may be in use.

    Raises:
        RunError: the series is not of a run.
        RecipeError: the run has no such stage.
        TrainError: a stage is not trained.
        ModelError: the weights cannot be loaded, or attention has not the mask of its layout.
    """
    if not series.is_run:
        raise RunError(
            "these cases are not in a run, so there is no model to ask",
            expected="the folder of a run",
            fix="serve the run itself with --live",
        )
    from radvqa.data.imaging import fit
    from radvqa.explain.cases import Given, explain_case, generated, written
    from radvqa.pipeline.explanation import QUICK_METHODS
    from radvqa.pipeline.stage_model import explained_model, open_stage, stage_number
    from radvqa.run.folder import RunFolder
    from radvqa.run.progress import Progress

    folder = RunFolder.open(series.source)
    recipe = folder.recipe
    number = stage_number(recipe, series.stage)
    vlm = open_stage(folder, number, progress=Progress())
    most = recipe.evaluate.max_new_tokens
    model = explained_model(folder, vlm, number)

    def answering(case: Case, question: str, answer: str | None) -> tuple[Manifest, Mapping[str, np.ndarray]]:
        known = case.manifest
        with Image.open(BytesIO(case.picture)) as image:
            pixels = fit(image.convert("RGB"), vlm.image_size, aspect=recipe.model.aspect)
        with tempfile.TemporaryDirectory(prefix="radvqa-ask-") as place:
            picture = Path(place, "picture.png")
            picture.write_bytes(case.picture)
            sample = asked_sample(known, question, picture)
            own = generated(vlm, sample, pixels, max_new_tokens=most)
            answers: dict[ViewName, Given] = {"model": own} if own.token_ids else {}
            if answer is not None:
                answers["typed"] = written(vlm, answer, sample, correct=None)
            if not answers:
                raise DataError("the model's answer is empty, so there is no token to explain", fix="type an answer")
            manifest, arrays = explain_case(
                vlm,
                sample,
                pixels,
                answers=answers,
                model=model,
                methods=QUICK_METHODS,
                aspect=recipe.model.aspect,
                values=case.array(VALUES) if VALUES in case else None,
            )
        # Whether the new question names a region is not asked: no number here would be comparable with a measured one.
        outlines = tuple(replace(one, asked=False) for one in known.outlines)
        return replace(manifest, outlines=outlines, tags=known.tags), arrays

    return answering


def asked_sample(known: Manifest, question: str, picture: Path) -> VqaSample:
    """A question about the picture of a case; the references hold only for the question that they were written for."""
    same = question.casefold() == " ".join(known.question.split()).casefold()
    return VqaSample(
        sample_id=known.sample_id,
        image_id=known.image_id,
        image=picture,
        question=question,
        answers=known.references if same else (),
        answer_type="closed" if same and known.answer_type == "closed" else "open",
        answer_type_stated=False,
        group_id=known.image_id,
        split="test",
        language=known.language,
    )
