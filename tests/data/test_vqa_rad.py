import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated_rows import assert_writable, mutations
from slake_folder import write_parquet
from vqa_rad_folder import row, write_folder, write_table

from radvqa.data import open_dataset
from radvqa.data.adapter import Reading
from radvqa.data.adapters.vqa_rad import VqaRadDataset
from radvqa.data.tables import read_json_list
from radvqa.errors import DataError, RecipeError
from radvqa.sample import Reject, VqaSample

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = SHARED / "vqa_rad"
HUB = SHARED / "hf_samples" / "flaviagiammarino__vqa-rad.train.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [
        row(3, question="Where is the  mass?", answer=" left lung ", answer_type="OPEN", question_type="POS, PRES"),
        row(4, phrase_type="para", qid_linked_id="link-3", image_name="synpic3.jpg", question_relation="inversion"),
        row(5, phrase_type="test_freeform", image_name="synpic3.jpg"),
        row(6, phrase_type="test_para", question_frame="Is/Are the heart enlarged?"),
        row(7, question_frame="Is/Are the  heart large?"),
    ]
    return write_folder(tmp_path / "vqa_rad", rows)


def read_one(tmp_path: Path, **changes: object) -> Reading:
    root = write_folder(tmp_path / "one", [row(1)])
    write_table(root, [{**row(1), **changes}])
    return VqaRadDataset(str(root)).read("train")


def rejected(root: Path, broken: object) -> Reject:
    """The reject of a row that stands second in the table, between two sound ones that are read all the same."""
    write_table(root, [row(3), broken, row(7)])
    reading = VqaRadDataset(str(root)).read("train")
    assert [sample.sample_id for sample in reading.samples] == ["vqarad-3", "vqarad-7"]
    (reject,) = reading.rejects
    assert reject.malformed
    assert reject.where.endswith("Public.json, row 2")
    return reject


def test_rows_become_samples_in_file_order(root: Path) -> None:
    samples = open_dataset("vqa_rad", {"root": str(root)}).read("train").samples
    assert samples[0] == VqaSample(
        sample_id="vqarad-3",
        image_id="synpic3",
        image=root / "VQA_RAD Image Folder" / "synpic3.jpg",
        question="Where is the mass?",
        answers=("left lung",),
        answer_type="open",
        group_id="synpic3",
        split="train",
        link_id="link-3",
        tags={"organ": "CHEST", "question_type": "POS, PRES", "phrase_type": "freeform"},
    )
    assert [sample.sample_id for sample in samples] == ["vqarad-3", "vqarad-4", "vqarad-7"]
    assert samples[1].link_id == samples[0].link_id
    assert samples[1].tags["question_relation"] == "inversion"


def test_the_prefix_of_the_phrase_type_is_the_split(root: Path) -> None:
    dataset = VqaRadDataset(str(root))
    assert dataset.splits() == ("train", "test")
    reading = dataset.read("test")
    assert [sample.sample_id for sample in reading.samples] == ["vqarad-5", "vqarad-6"]
    assert {sample.split for sample in reading.samples} == {"test"}
    assert Counter((reject.reason, reject.malformed) for reject in reading.rejects) == {("other_split", False): 3}


def test_there_is_no_validation_split(root: Path) -> None:
    with pytest.raises(DataError, match="'val'") as caught:
        VqaRadDataset(str(root)).read("val")
    assert caught.value.expected == "train or test"


def test_rows_that_share_picture_case_or_link_are_one_group(tmp_path: Path) -> None:
    rows = [
        row(1),
        row(2, image_case_url=row(1)["image_case_url"]),
        row(30, qid_linked_id="link-2", phrase_type="test_freeform"),
        row(4, image_name="synpic30.jpg"),
        row(5),
        row(6, image_case_url="NULL", qid_linked_id="NULL"),
        row(7, image_case_url="NULL", qid_linked_id="NULL"),
    ]
    dataset = VqaRadDataset(str(write_folder(tmp_path / "root", rows)))
    groups = {one.sample_id: one.group_id for split in ("train", "test") for one in dataset.read(split).samples}
    assert groups == {
        "vqarad-1": "synpic1",
        "vqarad-2": "synpic1",
        "vqarad-30": "synpic1",
        "vqarad-4": "synpic1",
        "vqarad-5": "synpic5",
        "vqarad-6": "synpic6",
        "vqarad-7": "synpic7",
    }
    assert dataset.read("train").samples[-1].link_id == ""


def test_framed_questions_are_samples_on_request_and_stay_in_their_split(root: Path) -> None:
    dataset = VqaRadDataset(str(root), framed=True)
    train, test = dataset.read("train").samples, dataset.read("test").samples
    assert [sample.sample_id for sample in train] == ["vqarad-3", "vqarad-4", "vqarad-7", "vqarad-7-framed"]
    assert [sample.sample_id for sample in test] == ["vqarad-5", "vqarad-6", "vqarad-6-framed"]
    assert train[3].question == "Is/Are the heart large?"
    assert (train[3].answers, train[3].link_id, train[3].group_id) == (train[2].answers, "link-7", "synpic7")


@pytest.mark.parametrize(
    ("changes", "reason", "value"),
    [
        ({"qid": "1"}, "text_qid", "vqarad-1"),
        ({"answer": 4}, "integer_answer", "4"),
        ({"answer": "Heart \tlungs"}, "tab_in_text", "Heart lungs"),
        ({"answer": " skin"}, "white_space_in_answer", "skin"),
        ({"question": "Is it\tbig?"}, "tab_in_text", "Is it big?"),
        ({"question": "Is it big? "}, "white_space_in_question", "Is it big?"),
        ({"answer_type": "CLOSED "}, "space_in_answer_type", "closed"),
        ({"question_type": "PRSE"}, "unknown_question_type", "PRSE"),
    ],
)
def test_what_was_mended_is_reported(tmp_path: Path, changes: dict[str, object], reason: str, value: str) -> None:
    reading = read_one(tmp_path, **changes)
    (sample,) = reading.samples
    (defect,) = reading.defects
    assert (defect.subject, defect.reason) == ("vqarad-1", reason)
    assert defect.where.endswith("Public.json, row 1, qid 1")
    answers = (sample.sample_id, *sample.answers, sample.question, sample.answer_type, sample.tags["question_type"])
    assert value in answers


def test_a_row_without_an_optional_key_is_read_and_reported(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "one", [row(1)])
    broken = row(1)
    del broken["question_rephrase"], broken["question_frame"]
    write_table(root, [broken])
    reading = VqaRadDataset(str(root), framed=True).read("train")
    assert len(reading.samples) == 1
    assert [defect.reason for defect in reading.defects] == ["missing_key", "missing_key"]


OPTIONAL = {"evaluation", "question_rephrase", "question_relation", "question_frame"}


@pytest.mark.parametrize("key", sorted(set(row(1)) - OPTIONAL))
def test_a_row_without_a_needed_key_is_a_reject(root: Path, key: str) -> None:
    broken = row(8)
    del broken[key]
    assert rejected(root, broken).reason == "missing_key"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("qid", "x", "wrong_type"),
        ("qid", "²", "wrong_type"),
        ("qid", True, "wrong_type"),
        ("qid", -1, "out_of_range"),
        ("phrase_type", "val_freeform", "unknown_value"),
        ("answer_type", "YES/NO", "unknown_value"),
        ("answer", "", "empty_value"),
        ("answer", "NULL", "empty_value"),
        ("answer", 1.5, "wrong_type"),
        ("answer", True, "wrong_type"),
        ("answer", "\ud800", "not_unicode"),
        ("question", None, "wrong_type"),
        ("question_frame", 3, "wrong_type"),
        ("image_name", "a/b.jpg", "wrong_image"),
        ("image_name", "..\\x.jpg", "wrong_image"),
        ("image_name", "..", "path_leaves_folder"),
        ("image_name", "x\0.jpg", "path_leaves_folder"),
    ],
)
def test_a_row_with_a_wrong_value_is_a_reject(root: Path, key: str, value: object, reason: str) -> None:
    assert rejected(root, {**row(8), key: value}).reason == reason


def test_what_is_no_object_is_a_reject(root: Path) -> None:
    assert rejected(root, ["row"]).reason == "not_an_object"


def test_a_picture_that_is_not_there_is_a_reject(root: Path) -> None:
    (root / "VQA_RAD Image Folder" / "synpic7.jpg").unlink()
    (reject, *_) = (one for one in VqaRadDataset(str(root)).read("train").rejects if one.reason != "other_split")
    assert (reject.sample_id, reject.reason, reject.malformed) == ("vqarad-7", "missing_image", False)


def test_a_picture_linked_from_outside_is_a_reject(root: Path, tmp_path: Path) -> None:
    picture = root / "VQA_RAD Image Folder" / "synpic7.jpg"
    shutil.move(picture, tmp_path / "outside.jpg")
    picture.symlink_to(tmp_path / "outside.jpg")
    reasons = [reject.reason for reject in VqaRadDataset(str(root)).read("train").rejects if reject.malformed]
    assert reasons == ["path_leaves_folder"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations(row(3)), framed=st.booleans())
def test_every_row_becomes_a_record_or_one_reject(root: Path, broken: object, framed: bool) -> None:
    write_table(root, [broken, row(7), row(8, phrase_type="test_para")])
    dataset = VqaRadDataset(str(root), framed=framed)
    for split in dataset.splits():
        reading = dataset.read(split)
        rows = {one.sample_id.removesuffix("-framed") for one in reading.samples}
        assert len(rows) + len(reading.rejects) == 3
        assert_writable([*reading.samples, *reading.rejects, *reading.defects])
    assert_writable(list(dataset.defects()))


@pytest.mark.parametrize("content", [b"", b"[{", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_table_that_is_no_json_list_is_refused(root: Path, content: bytes) -> None:
    (root / "VQA_RAD Dataset Public.json").write_bytes(content)
    with pytest.raises(DataError, match=r"Public\.json"):
        VqaRadDataset(str(root)).read("train")


@pytest.mark.parametrize("state", ["absent", "file", "empty", "no table", "no images", "packed images"])
def test_a_folder_without_vqa_rad_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "data"
    if state == "file":
        folder.write_text("x")
    elif state == "no table":
        (folder / "VQA_RAD Image Folder").mkdir(parents=True)
    elif state in ("no images", "packed images"):
        write_table(folder, [])
    elif state == "empty":
        folder.mkdir()
    if state == "packed images":
        (folder / "VQA_RAD Image Folder.zip").write_bytes(b"PK")
    with pytest.raises(DataError) as caught:
        VqaRadDataset(str(folder))
    assert caught.value.where == str(folder)
    assert caught.value.got and caught.value.expected and caught.value.fix
    assert ("still packed" in caught.value.got) == (state == "packed images")


def test_unused_pictures_are_defects(root: Path) -> None:
    shutil.copy(root / "VQA_RAD Image Folder" / "synpic3.jpg", root / "VQA_RAD Image Folder" / "synpic99.jpg")
    (defect,) = VqaRadDataset(str(root)).defects()
    assert (defect.subject, defect.reason) == ("synpic99", "unused_image")


def test_parquet_files_of_the_hub_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "vqa-rad"
    write_parquet(folder / "data" / "train-00000-of-00001-eb8844602202be60.parquet", [("is it?", "yes"), ("x", None)])
    write_parquet(folder / "data" / "test-00000-of-00001-e5bc3d208bb4deeb.parquet", [("what?", "left  lung")])
    assert VqaRadDataset.recognises(folder)
    dataset = VqaRadDataset(str(folder))
    assert dataset.splits() == ("train", "test")
    assert len(dataset.sources()) == 2
    train, test = dataset.read("train"), dataset.read("test")
    assert [sample.answer_type for sample in (*train.samples, *test.samples)] == ["closed", "open"]
    assert not train.samples[0].answer_type_stated
    assert [reject.reason for reject in train.rejects] == ["wrong_type"]
    assert test.samples[0].answers == ("left lung",)
    assert [defect.reason for defect in test.defects] == ["white_space_in_answer"]
    assert list(dataset.defects()) == []
    with pytest.raises(DataError, match="'val'"):
        dataset.read("val")
    with pytest.raises(RecipeError, match="no framed questions"):
        VqaRadDataset(str(folder), framed=True)


def test_the_official_folder_is_recognised_and_strange_parquet_is_not(root: Path, tmp_path: Path) -> None:
    assert VqaRadDataset.recognises(root)
    write_parquet(tmp_path / "other" / "train.parquet", [("is it?", "yes")])
    assert not VqaRadDataset.recognises(tmp_path / "other")
    assert VqaRadDataset(str(root)).sources() == (root / "VQA_RAD Dataset Public.json",)


@pytest.fixture(scope="module")
def published_rows() -> list[dict[str, object]]:
    return [row for row in read_json_list(REAL / "VQA_RAD Dataset Public.json") if isinstance(row, dict)][:1000]


@pytest.fixture(scope="module")
def published() -> Reading:
    return VqaRadDataset(str(REAL)).read("train")


@pytest.mark.skipif(not REAL.is_dir(), reason="real VQA-RAD is not under shared/data")
def test_counts_of_the_published_file(published: Reading) -> None:
    samples = published.samples
    assert (len(samples), len(published.rejects)) == (1797, 0)
    assert Counter(sample.tags["phrase_type"] for sample in samples) == {"freeform": 1206, "para": 591}
    assert Counter(sample.answer_type for sample in samples) == {"closed": 1027, "open": 770}
    assert Counter(sample.tags["organ"] for sample in samples) == {"CHEST": 620, "HEAD": 596, "ABD": 581}
    assert (len({sample.image_id for sample in samples}), len({sample.group_id for sample in samples})) == (313, 311)
    assert len(VqaRadDataset(str(REAL), framed=True).read("train").samples) == 1797 + 983
    assert list(VqaRadDataset(str(REAL)).defects()) == []


@pytest.mark.skipif(not REAL.is_dir(), reason="real VQA-RAD is not under shared/data")
def test_defects_of_the_published_file(published: Reading) -> None:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for defect in published.defects:
        rows[defect.reason].append(int(defect.subject.removeprefix("vqarad-")))
    assert rows == {
        "text_qid": [0],
        "tab_in_text": [168, 369, 591, 594, 595, 630, 922, 1225],
        "integer_answer": [1511, 1568, 1683, 2234, 2235],
        "missing_key": [2036, 2037],
        "space_in_answer_type": [2156, 2157],
        "white_space_in_answer": [2239],
        "white_space_in_question": [1910],
        "unknown_question_type": [310, 311, 2020, 2213],
    }


@pytest.mark.skipif(not REAL.is_dir(), reason="real VQA-RAD is not under shared/data")
def test_linked_questions_of_the_published_file_may_differ_in_their_answer(published: Reading) -> None:
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for sample in published.samples:
        answers[sample.link_id].add(sample.answers[0].casefold())
    assert len(answers) == 1155
    assert sum(len(found) > 1 for found in answers.values()) == 92


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="real VQA-RAD is not under shared/data")
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_published_row_that_was_damaged_becomes_one_record_or_one_reject(
    root: Path, published_rows: list[dict[str, object]], data: st.DataObject
) -> None:
    write_table(root, [data.draw(st.sampled_from(published_rows).flatmap(mutations)), row(7)])
    reading = VqaRadDataset(str(root)).read("train")
    assert len(reading.samples) + len(reading.rejects) == 2


@pytest.mark.skipif(not HUB.is_file(), reason="samples of hub files are not under shared/data")
def test_a_published_parquet_file_is_read() -> None:
    reading = VqaRadDataset(str(HUB)).read("train")
    assert (len(reading.samples), len(reading.rejects)) == (24, 0)
    assert VqaRadDataset.recognises(HUB)
