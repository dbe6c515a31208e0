import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from radvqa.data.adapters.phantom import phantom_regions
from radvqa.data.phantom.image import render
from radvqa.data.phantom.questions import possible_questions
from radvqa.errors import DataError
from radvqa.explain.overlay import cell_at, cell_box, grid_frame
from radvqa.explain.targets import (
    asked_regions,
    grid_coverage,
    is_finding,
    named_labels,
    question_labels,
    regions_by_label,
    target_size,
)  # fmt: skip
from radvqa.sample import Region, VqaSample

LUNGS = ["Left Lung", "Right Lung"]


def sample(question: str, answer: str = "Yes") -> VqaSample:
    return VqaSample(
        sample_id="s", image_id="i", image=Path("i.png"), question=question, answers=(answer,), answer_type="open",
        group_id="i", split="val",
    )  # fmt: skip


def boxed(*labels: str) -> list[Region]:
    return [Region(label=label, box=(float(place), 0.0, 1.0, 1.0)) for place, label in enumerate(labels)]


def named_in(question: str, answer: str, *labels: str) -> dict[str, str]:
    return {target.label: target.named_in for target in asked_regions(sample(question, answer), boxed(*labels))}


@pytest.mark.parametrize(
    ("text", "labels", "named"),
    [
        ("Where is the liver?", ["Liver", "Spleen"], ["Liver"]),
        ("Where is the liver cancer?", ["Liver", "Liver Cancer"], ["Liver Cancer"]),
        ("Is the cancer in the liver?", ["Liver", "Liver Cancer"], ["Liver", "Liver Cancer"]),
        ("Which organs deliver food?", ["Liver"], []),
        ("Are the lungs healthy?", LUNGS, LUNGS),
        ("Is the left lung healthy?", LUNGS, ["Left Lung"]),
        ("Is the LEFT upper lung healthy?", LUNGS, ["Left Lung"]),
        ("Is the left lung healthy?", ["Right Lung"], []),
        ("Are left and right lung healthy?", LUNGS, LUNGS),
        ("Is it left. Lung?", LUNGS, LUNGS),
        ("How many kidneys are there?", ["Left Kidney"], ["Left Kidney"]),
        ("What colour are the teeth?", ["Tooth"], ["Tooth"]),
        ("Where is the tumour?", ["Brain Enhancing Tumor", "Brain Non-enhancing Tumor"],
         ["Brain Enhancing Tumor", "Brain Non-enhancing Tumor"]),
        ("Where is the non-enhancing tumor of the brain?", ["Brain Non-enhancing Tumor"],
         ["Brain Non-enhancing Tumor"]),
        ("Brain Non-enhancing Tumor", ["Brain Enhancing Tumor", "Brain Non-enhancing Tumor"],
         ["Brain Non-enhancing Tumor"]),
        ("Is the small bowel visible?", ["Small Bowel", "Colon"], ["Small Bowel"]),
        ("Is the head visible?", ["Left Femoral Head"], []),
        ("Are there masses?", ["Mass", "Nodule"], ["Mass"]),
        ("", ["Liver"], []),
    ],
)  # fmt: skip
def test_which_labels_a_text_names(text, labels, named):
    assert named_labels(text, labels) == named


def test_where_a_target_is_named():
    assert named_in("What is the largest organ?", "Liver", "Liver", "Spleen") == {"Liver": "answer"}
    assert named_in("Liver or spleen, which is larger?", "Liver", "Spleen", "Liver") == {
        "Spleen": "question",
        "Liver": "question",
    }
    assert named_in("Is this a CT?", "Yes", "Liver") == {}


def test_a_question_about_an_abnormality_means_the_findings_unless_a_label_is_named_or_the_answer_denies():
    labels = ("Heart", "Effusion", "Lung Cancer")
    assert named_in("Does the picture look abnormal?", "Yes", *labels) == {
        "Effusion": "finding",
        "Lung Cancer": "finding",
    }
    assert named_in("Does the picture look abnormal?", "No", *labels) == {}
    assert named_in("Which organ is abnormal?", "Heart", *labels) == {"Heart": "answer"}
    assert not is_finding("Right Femoral Head")


@pytest.mark.parametrize("index", range(12))
def test_the_targets_of_every_question_about_lesions_are_those_that_decide_it(index):
    phantom = render(112, seed=3, split="train", index=index)
    regions = phantom_regions(phantom, Path("mask.png"))
    lesions = [f"lesion in the {lesion.organ}" for lesion in phantom.lesions]
    for asked in possible_questions(phantom):
        for wording in asked.wordings:
            found = [target.label for target in asked_regions(sample(wording, asked.answer), regions)]
            if "lesion" not in wording:
                assert not any("lesion" in label for label in found), wording
                continue
            of_host = [host for host in phantom.view.hosts if host in phantom.organs and host in _host(wording)]
            side = next((one for one in ("left", "right") if f"patient's {one} side?" in wording), None)
            if of_host:
                label = f"lesion in the {of_host[0]}"
                assert found == ([label] if label in lesions else of_host), wording
            elif side is None:
                assert sorted(found) == sorted(set(lesions)), wording
            elif asked.answer == "Yes":
                deciding = {f"lesion in the {one.organ}" for one in phantom.lesions if one.side == side.title()}
                assert deciding <= set(found), wording
            else:
                assert not any(side in label for label in found), wording


def _host(wording: str) -> str:
    """The organ that a question limits itself to, with its label."""
    if not wording.startswith(("Is there a lesion in the ", "Does the ")):
        return ""
    return wording.replace("right half of the brain", "right hemisphere").replace(
        "left half of the brain", "left hemisphere"
    )


def test_masks_come_before_boxes_and_gray_values_get_their_names():
    regions = [
        Region(label="value_70", mask=Path("m.png"), mask_value=70),
        Region(label="value_71", mask=Path("m.png"), mask_value=71),
        Region(label="liver", box=(0.0, 0.0, 1.0, 1.0)),
        Region(label="Heart", box=(0.0, 0.0, 1.0, 1.0)),
        Region(label="Heart", box=(2.0, 0.0, 1.0, 1.0)),
    ]
    found = regions_by_label(regions)
    assert {label: len(group) for label, group in found.items()} == {"liver": 1, "Heart": 2}
    assert found["liver"][0].mask_value == 70
    assert regions_by_label(regions, prefer="box")["liver"][0].mask is None


def counted(boxes: list[tuple[int, int, int, int]], size: tuple[int, int], grid: tuple[int, int], frame) -> np.ndarray:
    """Coverage by counting points: grid lines and boxes lie on whole sub-pixels of 1/12."""
    fine = 12
    x, y, across, down = (round(value * fine) for value in frame)
    inside = np.zeros((down, across))
    for left, top, width, height in boxes:
        inside[
            max(0, top * fine - y) : max(0, (top + height) * fine - y),
            max(0, left * fine - x) : max(0, (left + width) * fine - x),
        ] = 1
    rows, columns = grid
    return inside.reshape(rows, down // rows, columns, across // columns).mean((1, 3))


@st.composite
def layouts(draw):
    size = draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        left, top = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
        width, height = draw(st.integers(1, size[0] - left)), draw(st.integers(1, size[1] - top))
        boxes.append((left, top, width, height))
    padded = draw(st.booleans())
    side = max(size)
    frame = (-float((side - size[0]) // 2), -float((side - size[1]) // 2), float(side), float(side))
    grid = draw(st.sampled_from([(1, 1), (2, 3), (4, 4), (3, 6)]))
    return size, boxes, grid, frame if padded else (0.0, 0.0, float(size[0]), float(size[1]))


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(0, 15))
def test_coverage_is_the_exact_area_of_the_union(tmp_path_factory, layout, as_masks):
    size, boxes, grid, frame = layout
    regions = []
    for number, box in enumerate(boxes):
        if as_masks >> number & 1:
            left, top, width, height = box
            pixels = np.zeros(size[::-1], dtype=np.uint8)
            pixels[top : top + height, left : left + width] = 7
            path = tmp_path_factory.mktemp("mask") / "mask.png"
            Image.fromarray(pixels).save(path)
            # The box of a region with a mask is not looked at.
            regions.append(Region(label="a", mask=path, mask_value=7, box=(0.0, 0.0, 1.0, 1.0)))
        else:
            regions.append(Region(label="a", box=tuple(map(float, box))))
    found = grid_coverage(regions, size, grid=grid, frame=frame)
    np.testing.assert_allclose(found, counted(boxes, size, grid, frame), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)), st.sampled_from(["pad", "squash"]), st.data()
)  # fmt: skip
def test_a_region_of_one_cell_covers_that_cell_alone(image_size, aspect, data):
    frame = grid_frame(image_size, 64, aspect=aspect)
    grid = (8, 8)
    x = data.draw(st.floats(0, image_size[0], exclude_max=True))
    y = data.draw(st.floats(0, image_size[1], exclude_max=True))
    row, column = cell_at(x, y, grid_shape=grid, image_size=image_size, frame=frame)
    cell = cell_box(row, column, grid_shape=grid, image_size=image_size, frame=frame)
    found = grid_coverage([Region(label="a", box=cell)], image_size, grid=grid, frame=frame)
    one_hot = np.zeros(grid)
    one_hot[row, column] = 1.0
    np.testing.assert_allclose(found, one_hot, atol=1e-9)


def test_a_mask_counts_pixel_by_pixel_and_boxes_join_it(tmp_path):
    inside = np.random.default_rng(0).random((12, 20)) > 0.6
    inside[:3] = False
    Image.fromarray(np.where(inside, 9, 4).astype(np.uint8)).save(tmp_path / "m.png")
    mask = Region(label="a", mask=tmp_path / "m.png", mask_value=9)
    found = grid_coverage([mask, Region(label="a", box=(0.0, 6.0, 10.0, 6.0))], (20, 12), grid=(4, 5))
    inside[6:, :10] = True
    np.testing.assert_allclose(found, inside.reshape(4, 3, 5, 4).mean((1, 3)), atol=1e-12)


def test_padding_is_never_covered():
    frame = grid_frame((100, 50), 64, aspect="pad")
    found = grid_coverage([Region(label="a", box=(0.0, 0.0, 100.0, 50.0))], (100, 50), grid=(4, 4), frame=frame)
    np.testing.assert_allclose(found, np.repeat([[0.0], [1.0], [1.0], [0.0]], 4, axis=1))


def test_no_region_covers_nothing(tmp_path):
    Image.new("L", (10, 10)).save(tmp_path / "m.png")
    empty = Region(label="a", mask=tmp_path / "m.png", mask_value=3)
    assert not grid_coverage([], (10, 10), grid=(2, 2)).any()
    assert not grid_coverage([empty], (10, 10), grid=(2, 2)).any()


def test_a_mask_in_four_channels_is_read_by_its_gray_value(tmp_path):
    pixels = np.zeros((4, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:2, :4, :3] = 70
    Image.fromarray(pixels).save(tmp_path / "m.png")
    found = grid_coverage([Region(label="a", mask=tmp_path / "m.png", mask_value=70)], (8, 4), grid=(2, 2))
    assert found.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_what_is_wrong_with_a_region_is_said(tmp_path):
    Image.new("L", (10, 8)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="mask and image differ in size"):
        grid_coverage([Region(label="a", mask=tmp_path / "m.png", mask_value=1)], (8, 10), grid=(2, 2))
    with pytest.raises(DataError, match="neither box nor mask"):
        grid_coverage([Region(label="a")], (8, 10), grid=(2, 2))


@pytest.mark.parametrize(("value", "cells", "size"), [
    (0.5, 1, "below half a cell"), (1.0, 1, "medium"), (1.0, 4, "large"), (0.51, 1, "small"),
])  # fmt: skip
def test_size_strata(value, cells, size):
    coverage = np.zeros((8, 8))
    coverage[0, :cells] = value
    assert target_size(coverage) == size


def test_these_files_do_not_load_torch():
    code = "import radvqa.explain.targets, radvqa.explain.priors, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


ORGANS = ["left lung", "right lung", "heart", "liver", "spleen"]
HERE = ["left lung", "right lung", "heart", "lung cancer", "mass"]
LESIONS = ["heart", "liver", "lesion in the heart", "lesion in the left lung", "lesion in the liver"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Is the lung healthy?", ["left lung", "right lung"]),
        ("Does the picture contain a spleen?", ["spleen"]),
        ("What disease is shown?", ["lung cancer", "mass"]),
        ("What is the largest organ in the picture?", HERE),
    ],
)
def test_what_a_question_alone_gives_away(question: str, expected: list[str]) -> None:
    assert question_labels(question, [*ORGANS, "lung cancer", "mass"], here=HERE) == expected


def test_a_question_about_lesions_gives_away_where_they_may_be() -> None:
    assert question_labels("Is there a lesion in the heart?", LESIONS, here=LESIONS) == ["lesion in the heart"]
    assert question_labels("Where is the lesion?", LESIONS, here=LESIONS) == LESIONS[2:]
    assert question_labels("Is there a lesion on the patient's left side?", LESIONS, here=LESIONS) == LESIONS[2:]
    assert question_labels("Is there a lesion on the patient's right side?", LESIONS, here=LESIONS) == [
        "lesion in the heart",
        "lesion in the liver",
    ]
