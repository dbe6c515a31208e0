"""The reference rows on real SLAKE: what a map must beat there, and which questions are about a region."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from radvqa.data.adapters.slake import SlakeDataset
from radvqa.data.imaging import open_image
from radvqa.explain.localisation import Localisation
from radvqa.explain.priors import PriorCase, Priors, fit_priors
from radvqa.explain.targets import asked_regions, grid_coverage, regions_by_label
from radvqa.sample import Region, VqaSample

SLAKE = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SLAKE.is_dir(), reason="the published SLAKE files are not beside the checkout"),
]


class Slake(NamedTuple):
    samples: dict[str, list[VqaSample]]
    regions: dict[str, tuple[Region, ...]]
    sizes: dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def slake() -> Slake:
    dataset = SlakeDataset(str(SLAKE))
    samples = {
        split: [one for one in dataset.rows(split) if isinstance(one, VqaSample) and one.image.is_file()]
        for split in ("train", "val")
    }
    images = {one.image_id: one.image for split in samples.values() for one in split}
    return Slake(
        samples,
        {image_id: dataset.regions(image_id) for image_id in images},
        {image_id: open_image(image).size for image_id, image in images.items()},
    )


def boxes(regions: Sequence[Region]) -> list[Region]:
    return [region for region in regions if region.box is not None]


def targets(slake: Slake, cells: int) -> dict[str, list[PriorCase]]:
    return {
        split: [
            PriorCase(
                image_id=image_id,
                body_part=tags["location"],
                modality=tags["modality"],
                label=label,
                coverage=grid_coverage(group, slake.sizes[image_id], grid=(cells, cells)),
            )
            for image_id, tags in {one.image_id: one.tags for one in samples}.items()
            for label, group in regions_by_label(boxes(slake.regions[image_id]), prefer="box").items()
        ]
        for split, samples in slake.samples.items()
    }


def row(priors: Priors, name: str, cases: Sequence[PriorCase], *, leave_one_out: bool = True) -> list[Localisation]:
    return [
        priors.scores(
            name,
            case.coverage,
            body_part=case.body_part,
            modality=case.modality,
            labels=(case.label,),
            without=case.image_id if leave_one_out else None,
        )
        for case in cases
    ]


def hits(scores: Sequence[Localisation]) -> float:
    """In percent; targets that no cell can hit are misses here, as in the published table."""
    assert {one.excluded for one in scores} <= {None, "target_below_half_a_cell"}
    return float(np.mean([0.0 if one.excluded else one.scores["hit"] for one in scores])) * 100


@pytest.mark.parametrize(
    ("cells", "expected", "never_hit"),
    [
        (32, {"centre": 14.3, "body_part_prior": 27.9, "label_prior": 51.5}, 116),
        (16, {"centre": 13.6, "body_part_prior": 26.8, "label_prior": 45.1}, 242),
    ],
)
def test_the_reference_rows_over_training_and_validation_images(slake, cells, expected, never_hit):
    by_split = targets(slake, cells)
    cases = [case for split in by_split.values() for case in split]
    assert Counter({split: len(found) for split, found in by_split.items()}) == {"train": 925, "val": 215}
    priors = fit_priors(cases)
    chance = row(priors, "chance", cases)
    assert np.mean([one.scores["area"] for one in chance]) * 100 == pytest.approx(3.75, abs=0.01)
    assert sum(one.excluded == "target_below_half_a_cell" for one in chance) == never_hit
    found = {name: hits(row(priors, name, cases)) for name in expected}
    assert found == pytest.approx(expected, abs=0.5)


def test_the_reference_rows_of_validation_fitted_on_training(slake):
    by_split = targets(slake, 32)
    priors = fit_priors(by_split["train"])
    expected = {"centre": 13.5, "body_part_prior": 26.5, "label_prior": 51.6}
    found = {name: hits(row(priors, name, by_split["val"], leave_one_out=False)) for name in expected}
    assert found == pytest.approx(expected, abs=0.5)
    chance = row(priors, "chance", by_split["val"])
    assert np.mean([one.scores["area"] for one in chance]) * 100 == pytest.approx(3.36, abs=0.01)


@pytest.mark.parametrize(("split", "counts"), [("train", (533, 434, 895)), ("val", (108, 86, 176))])
def test_questions_and_answers_that_contain_a_boxed_label_of_their_image(slake, split, counts):
    found = Counter()
    for sample in slake.samples[split]:
        labels = {region.label.lower() for region in boxes(slake.regions[sample.image_id])}
        question = any(label in sample.question.lower() for label in labels)
        answer = any(label in sample.answers[0].lower() for label in labels)
        found.update(question=question, answer=answer, either=question or answer)
    assert (found["question"], found["answer"], found["either"]) == counts


@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ("train", {"question": 631, "answer": 402, "finding": 508, "missed": 4}),
        ("val", {"question": 138, "answer": 78, "finding": 100, "missed": 0}),
    ],
)
def test_the_rule_finds_what_the_plain_one_finds_and_more(slake, split, counts):
    """All that it misses are words inside words: "deliver food", "gas delivery", "heartbeat"."""
    found = Counter()
    for sample in slake.samples[split]:
        regions = boxes(slake.regions[sample.image_id])
        targets = asked_regions(sample, regions, prefer="box")
        found.update([targets[0].named_in] if targets else [])
        text = f"{sample.question} {sample.answers[0]}".lower()
        if not targets and any(region.label.lower() in text for region in regions):
            found.update(["missed"])
            assert any(word in text for word in ("deliver", "heartbeat"))
    assert found == Counter(counts)


def test_masks_lie_in_the_boxes_of_the_label_that_their_gray_value_means(slake):
    outside, filled = [], []
    for image_id in {one.image_id for one in slake.samples["val"]}:
        masks = regions_by_label(slake.regions[image_id])
        for label, group in regions_by_label(boxes(slake.regions[image_id]), prefer="box").items():
            if masks[label][0].mask is not None:
                size = slake.sizes[image_id]
                mask, box = (grid_coverage(some, size, grid=(16, 16)) for some in (masks[label], group))
                outside.append(np.maximum(mask - box, 0.0).sum() / mask.sum())
                filled.append(mask.sum() / box.sum())
    assert len(outside) > 180
    # Some parts of brain tumours have no box.
    assert np.mean(np.array(outside) > 0.1) < 0.05
    assert max(outside) < 0.5
    assert 0.55 < np.median(filled) < 0.7
