"""Explained cases: which samples, whose answers, and everything about one of them for its bundle."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from radvqa.data.imaging import open_image
from radvqa.errors import RunError
from radvqa.evaluate.metrics import accuracy
from radvqa.explain.asked import answer_ids, ask
from radvqa.explain.bundle import SCHEMA, CaseLine, Manifest, Picture, View, ViewName
from radvqa.explain.bundle_files import CASES_FOLDER, PIXELS, VALUES, case_key, is_whole, read_bundle
from radvqa.explain.map_settings import MapSettings, used_settings
from radvqa.explain.methods import METHODS
from radvqa.explain.outlines import outlines_of
from radvqa.explain.overlay import grid_frame
from radvqa.explain.targets import asked_regions, grid_coverage, regions_by_label
from radvqa.explain.views import view_of
from radvqa.models.layout import Row
from radvqa.models.vlm import Vision, Vlm
from radvqa.recipe import Aspect
from radvqa.run.provenance import digest_files
from radvqa.sample import Prediction, Region, VqaSample

Arrays = dict[str, np.ndarray]

_MADE = 2
"""Counted up when maps or facts change their meaning: cases made before are then made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An answer to be explained. ``correct`` is None where nobody can tell; ``finished``: it ended by itself."""

    text: str
    token_ids: tuple[int, ...]
    correct: bool | None = None
    finished: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedModel:
    """Which model it is. ``stage``: up to which stage the run's weights were loaded, ``""`` for all of them."""

    name: str
    weights: str
    run: str = ""
    stage: str = ""
    decoding: str = "greedy"


def choose(predictions: Sequence[Prediction], count: int) -> list[str]:
    """Sample ids, right and wrong answers in turn, each time from the content type seen least, one per image first.

    Answers without a reference, which are neither, come last.
    """
    pools: dict[bool | None, list[Prediction]] = {True: [], False: [], None: []}
    for prediction in predictions:
        pools[_verdict(prediction)].append(prediction)
    chosen: list[Prediction] = []
    used: dict[str, int] = defaultdict(int)
    while len(chosen) < count and any(pools.values()):
        pool = pools[len(chosen) % 2 == 0] or pools[len(chosen) % 2 == 1] or pools[None]
        best = min(pool, key=lambda one: (used[one.image_id], used[one.tags.get("content_type", "")], one.sample_id))
        pool.remove(best)
        used[best.image_id] += 1
        used[best.tags.get("content_type", "")] += 1
        chosen.append(best)
    return [prediction.sample_id for prediction in chosen]


def predicted(prediction: Prediction, vlm: Vlm) -> Given:
    """The model's own answer, token for token as it was generated. Without tokens there is nothing to explain."""
    return Given(
        text=prediction.text,
        token_ids=tuple(token for token in prediction.token_ids if token != vlm.tokens.eos_id),
        correct=_verdict(prediction),
        finished=prediction.finished,
    )


def generated(vlm: Vlm, sample: VqaSample, pixels: UInt8[np.ndarray, "y x 3"], *, max_new_tokens: int) -> Given:
    """The model's greedy answer to one question alone; right or wrong where the sample has references."""
    row = Row(sample.image, (vlm.question(sample, answer=False),))
    vision = Vision(torch.zeros(1, dtype=torch.long), pixels=torch.from_numpy(pixels)[None])
    (answer,) = vlm.answer(vlm.batch([row]), vision, max_new_tokens=max_new_tokens)
    return Given(
        text=answer.text,
        token_ids=tuple(token for token in answer.token_ids if token != vlm.tokens.eos_id),
        correct=_is_right(answer.text, sample),
        finished=answer.finished,
    )


def written(vlm: Vlm, text: str, sample: VqaSample, *, correct: bool | None) -> Given:
    """A reference or typed answer. Raises ``DataError`` if it has no tokens, ``ModelError`` for one of its marks."""
    return Given(text=text, token_ids=answer_ids(vlm, text, where=sample.sample_id), correct=correct)


def explain_case(
    vlm: Vlm,
    sample: VqaSample,
    pixels: UInt8[np.ndarray, "y x 3"],
    *,
    answers: Mapping[ViewName, Given],
    model: ExplainedModel,
    methods: Sequence[str],
    settings: MapSettings = MapSettings(),  # noqa: B008 - frozen
    regions: Sequence[Region] = (),
    aspect: Aspect = "squash",
    image: Image.Image | None = None,
    values: Float[np.ndarray, "y x"] | None = None,
    made_from: str = "",
) -> tuple[Manifest, Arrays]:
    """Everything of one case for ``write_bundle``; one traced pass and the methods' own passes for every answer.

    Args:
        vlm: the model.
        sample: the question.
        pixels: the picture as the model is given it.
        answers: whose answers are explained; the model's own first.
        model: which model it is.
        methods: names in ``radvqa.explain.maps.METHODS``.
        settings: what can be chosen about the maps.
        regions: of the image.
        aspect: how the image became the model's square.
        image: the picture that is shown, in RGB; the sample's image is opened unless given.
        values: of a CT, in Hounsfield units.
        made_from: see ``made_from``.

    Raises:
        DataError: an answer or the foil has no tokens, or the image or a mask cannot be read.
        RecipeError: a setting selects nothing.
        ModelError: see ``radvqa.explain.capture.trace``.
    """
    image = open_image(sample.image) if image is None else image
    frame = grid_frame(image.size, vlm.image_size, aspect=aspect)
    targets = asked_regions(sample, regions)
    asked = [region for target in targets for region in target.regions]
    coverage = grid_coverage(asked, image.size, grid=vlm.image_grid, frame=frame) if asked else None
    arrays: Arrays = {PIXELS: _shown(image)}
    if values is not None and values.shape == (image.height, image.width):
        arrays[VALUES] = values.astype(np.float32)
    views: dict[str, View] = {}
    for name, given in answers.items():
        views[name], found = view_of(
            ask(vlm, sample, given.token_ids, torch.from_numpy(pixels)),
            text=given.text,
            correct=given.correct,
            finished=given.finished,
            methods=methods,
            settings=settings,
            coverage=coverage,
            language=sample.language,
        )
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    text = vlm.base.config.text_config
    manifest = Manifest(
        schema=SCHEMA,
        key=case_key(sample.sample_id),
        sample_id=sample.sample_id,
        image_id=sample.image_id,
        question=sample.question,
        references=sample.answers,
        answer_type=sample.answer_type,
        language=sample.language,
        picture=Picture(
            width=image.width,
            height=image.height,
            frame=frame,
            bits=16 if VALUES in arrays else 8,
            unit="HU" if VALUES in arrays else "",
        ),
        grid=vlm.image_grid,
        model={
            **dataclasses.asdict(model),
            "dtype": str(vlm.compute_dtype).removeprefix("torch."),
            "layout": vlm.layout,
            "layers": text.num_hidden_layers,
            "heads": text.num_attention_heads,
            "settings": used_settings(methods, settings),
            "made_from": made_from,
        },
        views=views,
        outlines=outlines_of(regions_by_label(regions), {target.label for target in targets}, image_size=image.size),
        tags=dict(sample.tags),
    )
    return manifest, arrays


def case_line(manifest: Manifest, *, group_id: str) -> CaseLine:
    """What lists and the failure finder need of a case with a view of the model's own answer."""
    view = manifest.views["model"]
    return CaseLine(
        key=manifest.key,
        folder=f"{CASES_FOLDER}/{manifest.key}",
        sample_id=manifest.sample_id,
        image_id=manifest.image_id,
        group_id=group_id,
        question=manifest.question,
        references=manifest.references,
        answer=view.text,
        answer_type=manifest.answer_type,
        correct=view.correct,
        confidence=view.confidence,
        reliance=view.reliance,
        facts={record.method: record.answer for record in view.maps},
        asked_regions=tuple(dict.fromkeys(one.label for one in manifest.outlines if one.asked)),
        tags=manifest.tags,
    )


def made_from(
    sample: VqaSample,
    *,
    image_sha256: str,
    answer: Sequence[int] | None,
    model: ExplainedModel,
    regions: Sequence[Region],
) -> str:
    """A digest of all that a case depends on but its methods and settings, which the manifest tells in the open.

    ``answer``: the generated token ids, or None where the case generates its own.

    Raises:
        DataError: a mask cannot be read.
    """
    masks = list(dict.fromkeys(one.mask for one in regions if one.mask is not None))
    parts = [
        SCHEMA,
        _MADE,
        dataclasses.asdict(dataclasses.replace(sample, image=Path())),
        image_sha256,
        answer,
        dataclasses.asdict(model),
        [(one.label, one.box, one.mask_value, None if one.mask is None else masks.index(one.mask)) for one in regions],
        list(digest_files(masks).values()),
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def kept_case(
    folder: Path, *, made_from: str, methods: Sequence[str], settings: MapSettings
) -> tuple[Manifest | None, tuple[str, ...]]:
    """A case that need not be made again, or None; and the methods that it has or, made again, should have.

    A case is kept if it is whole, made from the same things, and holds these methods by these settings: it may hold
    more. Made again, it loses none that it had.
    """
    try:
        bundle = read_bundle(folder)
    except RunError:
        return None, tuple(methods)
    manifest = bundle.manifest
    if manifest.model.get("made_from") != made_from:
        return None, tuple(methods)
    has = {record.method for view in manifest.views.values() for record in view.maps}
    whole = tuple(name for name in METHODS if name in has or name in methods)
    recorded, wanted = manifest.model.get("settings", {}), used_settings(methods, settings)
    same = has.issuperset(methods) and all(
        name in recorded and recorded[name] == value for name, value in wanted.items()
    )
    return (manifest if same and is_whole(bundle) else None), whole


def _verdict(prediction: Prediction) -> bool | None:
    return accuracy(prediction) == 1.0 if any(prediction.references) else None


def _is_right(text: str, sample: VqaSample) -> bool | None:
    return _verdict(
        Prediction(
            sample_id=sample.sample_id,
            group_id=sample.group_id,
            image_id=sample.image_id,
            question=sample.question,
            references=sample.answers,
            answer_type=sample.answer_type,
            text=text,
            prompt_id="",
            finished=True,
            token_ids=(),
            logprob=None,
        )
    )


def _shown(image: Image.Image) -> UInt8[np.ndarray, "..."]:
    """The picture's pixels; one channel where all three are the same."""
    pixels = np.asarray(image)
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels
