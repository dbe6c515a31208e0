"""The counts that are known of the published data, where they lie beside the checkout."""

from pathlib import Path

import pytest

from radvqa.audit import AuditReport, audit
from radvqa.audit.finding import Finding
from radvqa.data.detect import open_path
from radvqa.run.engine import LocalEngine
from radvqa.run.progress import Progress

SHARED = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = ("slake/Slake1.0", "vqa_rad", "medpix2/MedPix-2-0")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all((SHARED / folder).is_dir() for folder in FOLDERS),
        reason="the published data are not beside the checkout",
    ),
]


@pytest.fixture(scope="module")
def report() -> AuditReport:
    opened = [open_path(str(SHARED / folder), for_audit=True) for folder in FOLDERS]
    return audit(opened, progress=Progress(quiet=True), engine=LocalEngine(1))


def found(report: AuditReport, check: str, dataset: str, *, title: str = "") -> Finding:
    (finding,) = [one for one in report.findings if (one.check, one.dataset) == (check, dataset) and title in one.title]
    return finding


def rows(report: AuditReport, dataset: str, split: str, language: str = "en") -> tuple[int, int]:
    counts = [one for one in report.counts if (one.dataset, one.split, one.language) == (dataset, split, language)]
    return sum(one.rows for one in counts), sum(one.with_image for one in counts)


def test_slake(report: AuditReport) -> None:
    # One training row was published without an answer and is left out.
    assert rows(report, "slake", "train") == (4919 - 1, 4566 - 1)
    assert rows(report, "slake", "val") == (1053, 941)
    assert rows(report, "slake", "train", "zh")[0] == 4916
    assert rows(report, "slake", "val", "zh")[0] == 1046
    leak = found(report, "group_in_several_splits", "slake")
    assert leak.count == 130
    assert leak.facts["groups in train (zh) and val (en)"] == 64
    assert leak.facts["groups in train (en) and val (zh)"] == 66
    assert leak.facts["groups in train (en) and val (en)"] == 0
    assert leak.facts["groups in train (zh) and val (zh)"] == 0
    only = found(report, "defect:image_only_in_chinese", "slake")
    assert only.count == 84
    assert sum(int(one.detail.split()[0]) for one in only.evidence) == 922
    missing = found(report, "missing_image", "slake").facts
    assert (missing["rows of train (en)"], missing["rows of val (en)"]) == (353, 112)
    near = found(report, "image_seen_in_training", "slake", title="val images (en)")
    assert (near.count, near.facts["above 0.99"], near.facts["val images in all"]) == (20, 16, 88)
    for check, count in (
        ("defect:mask_is_no_mask", 4),
        ("defect:no_mask", 124),
        ("defect:no_boxes", 52),
        ("defect:white_space_in_answer", 80),
        ("case_variants", 9),
    ):
        assert found(report, check, "slake").count == count, check
    lists = found(report, "comma_lists", "slake").facts
    assert (lists["train (en)"], lists["val (en)"]) == (281, 60)
    choices = found(report, "closed_without_yes_no", "slake").facts
    assert (choices["train (en)"], choices["val (en)"]) == (262, 64)
    assert "defect:box_outside" not in {one.check for one in report.findings}


def test_vqa_rad(report: AuditReport) -> None:
    assert rows(report, "vqa_rad", "train") == (1797, 1797)
    for check, count in (
        ("defect:integer_answer", 5),
        ("defect:space_in_answer_type", 2),
        ("defect:missing_key", 2),
        ("defect:tab_in_text", 8),
        ("linked_questions_differ", 92),
        ("closed_without_yes_no", 85),
        ("repeated_row", 3),
    ):
        assert found(report, check, "vqa_rad").count == count, check
    groups = {
        sample.group_id for contents in report.datasets if contents.label == "vqa_rad" for sample in contents.samples()
    }
    assert len(groups) == 311


def test_medpix(report: AuditReport) -> None:
    assert (rows(report, "medpix", "train"), rows(report, "medpix", "val")) == ((1653, 1653), (197, 197))
    cases = {one.group_id for contents in report.datasets if contents.label == "medpix" for one in contents.captions()}
    assert len(cases) == 602
    assert found(report, "placeholder_caption", "medpix").count == 21
    shared = found(report, "shared_caption", "medpix")
    assert (shared.count, shared.facts["different captions in all"]) == (866, 1235)
    assert shared.facts["captions shared across groups"] == 1
    assert found(report, "diagnosis_is:title", "medpix").facts["letter for letter"] == 587
    assert found(report, "caption_holds:diagnosis", "medpix").count == 142
    assert "group_in_several_splits" not in {one.check for one in report.findings if one.dataset == "medpix"}


def test_the_pictures_that_vqa_rad_and_medpix_share_are_found_by_id_and_by_pixels(report: AuditReport) -> None:
    by_id = found(report, "shared_public_id", "vqa_rad × medpix")
    assert (by_id.count, by_id.facts["rows of vqa_rad"]) == (17, 108)
    by_pixels = found(report, "alike_images_across_datasets", "vqa_rad × medpix")
    pairs = {tuple(one.subjects) for one in by_pixels.evidence}
    assert {one.where for one in by_id.evidence} <= {first for first, _ in pairs}
    # One more has the same pixels under another id.
    assert ("synpic24220", "MPX1792_synpic24221") in pairs
    assert by_pixels.count == 18
