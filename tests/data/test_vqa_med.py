from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutated_rows import assert_writable, mutations
from vqa_med_folder import QUESTIONS, TABLES, annotation, write_annotations, write_images, write_lines, write_part

from radvqa.data import open_dataset
from radvqa.data.adapters.vqa_med import VqaMedDataset
from radvqa.errors import DataError
from radvqa.sample import Reject, VqaSample

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "vqa_med"


def test_training_lines_of_2019_become_samples(tmp_path: Path) -> None:
    lines = ["synpic1|is this a ct?|yes", "synpic1|what  plane?| axial ", "synpic2|which ct?|ct w/contrast (iv)"]
    table = write_part(tmp_path, "2019", "train", lines, images=("synpic1", "synpic2"))
    categories = table.parent / "QAPairsByCategory"
    write_lines(categories / "C1_Modality_train.txt", [lines[0], lines[2]])
    write_lines(categories / "C2_Plane_train.txt", [lines[1]])
    dataset = open_dataset("vqa_med", {"root": str(tmp_path)})
    assert dataset.splits() == ("train",)
    assert [path.name for path in dataset.sources()] == [
        "All_QA_Pairs_train.txt",
        "C1_Modality_train.txt",
        "C2_Plane_train.txt",
    ]
    samples = dataset.read("train").samples
    assert samples[1] == VqaSample(
        sample_id="vqamed2019-train-synpic1-2",
        image_id="synpic1",
        image=table.parent / "Train_images" / "synpic1.jpg",
        question="what plane?",
        answers=("axial",),
        answer_type="open",
        answer_type_stated=False,
        group_id="synpic1",
        split="train",
        tags={"edition": "2019", "content_type": "plane"},
    )
    assert [sample.sample_id[-9:] for sample in samples] == ["synpic1-1", "synpic1-2", "synpic2-1"]
    assert (samples[0].answer_type, samples[0].tags["content_type"]) == ("closed", "modality")
    assert samples[2].answers == ("ct w/contrast (iv)",)


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("no", ["no"]),
        ("face#skull and contents", ["face", "skull and contents"]),
        (
            "(angioinvasive aspergillosis with) septic emboli",
            [
                "(angioinvasive aspergillosis with) septic emboli",
                "angioinvasive aspergillosis with septic emboli",
                "septic emboli",
            ],
        ),
        ("tumor (cyst) of cns", ["tumor (cyst) of cns", "tumor cyst of cns", "tumor of cns"]),
        ("mass#(left) mass", ["mass", "(left) mass", "left mass"]),
        ("(all)", ["(all)", "all"]),
        ("not closed (", ["not closed ("]),
    ],
)
def test_marks_of_the_2019_test_answers_give_all_accepted_answers(
    tmp_path: Path, answer: str, accepted: list[str]
) -> None:
    write_part(tmp_path, "2019", "test", [f"a|abnormality|what is it?|{answer}"])
    reading = VqaMedDataset(str(tmp_path)).read("test")
    assert [list(sample.answers) for sample in reading.samples] == [accepted]
    assert reading.samples[0].tags == {"edition": "2019", "content_type": "abnormality"}


def test_an_empty_alternative_is_left_out_and_reported(tmp_path: Path) -> None:
    write_part(tmp_path, "2019", "test", ["a|plane|which?|axial##sagittal"])
    reading = VqaMedDataset(str(tmp_path)).read("test")
    assert reading.samples[0].answers == ("axial", "sagittal")
    assert [(defect.subject, defect.reason) for defect in reading.defects] == [
        ("vqamed2019-test-a-1", "empty_reference")
    ]


def test_bars_stand_between_the_answers_from_2020_on(tmp_path: Path) -> None:
    write_part(tmp_path, "2020", "train", ["a|what is it?|a  mass (left)|tumor#1", 'b|what?|"a ""drowned"" lobe"'])
    reading = VqaMedDataset(str(tmp_path)).read("train")
    assert reading.samples[0].answers == ("a mass (left)", "tumor#1")
    assert [defect.reason for defect in reading.defects] == ["white_space_in_answer"]
    assert [reject.reason for reject in reading.rejects] == ["missing_image"]
    rows = [item for item in VqaMedDataset(str(tmp_path)).rows("train") if isinstance(item, VqaSample)]
    assert rows[1].answers == ('a "drowned" lobe',)


def test_questions_and_references_in_two_tables_are_joined(tmp_path: Path) -> None:
    references = write_part(tmp_path, "2020", "test", ["b|mass|tumor", "a|cyst", "c|left over", "a|again", "broken"])
    questions = references.parent / QUESTIONS
    write_lines(questions, ["a|what is a?", "b|what is b?", "d|what is d?", "a|what is a again?", "e"])
    dataset = VqaMedDataset(str(tmp_path))
    assert dataset.sources() == (references, questions)
    items = list(dataset.rows("test"))
    samples = [item for item in items if isinstance(item, VqaSample)]
    assert [(sample.image_id, sample.question, sample.answers) for sample in samples] == [
        ("a", "what is a?", ("cyst",)),
        ("b", "what is b?", ("mass", "tumor")),
    ]
    assert [(one.where.rpartition("-")[2], one.reason) for one in items if isinstance(one, Reject)] == [
        ("ReferenceAnswers.txt, line 4", "repeated_id"),
        ("ReferenceAnswers.txt, line 5", "wrong_columns"),
        ("Questions.txt, line 3", "no_answer"),
        ("Questions.txt, line 4", "no_answer"),
        ("Questions.txt, line 5", "wrong_columns"),
        ("ReferenceAnswers.txt, line 3", "no_question"),
    ]


def test_annotations_of_the_evaluation_code_are_read_where_the_tables_are_missing(tmp_path: Path) -> None:
    table = write_annotations(tmp_path, [annotation("a", "mass", "a tumor"), annotation("b")])
    dataset = VqaMedDataset(str(tmp_path))
    assert (dataset.splits(), dataset.sources()) == (("test",), (table,))
    reading = dataset.read("test")
    assert reading.samples[0].answers == ("mass", "a tumor")
    assert reading.samples[0].sample_id == "vqamed2021-test-a-1"
    assert [(reject.where, reject.reason) for reject in reading.rejects] == [(f"{table}, annotation 2", "empty_value")]


def test_the_tables_come_before_the_annotations(tmp_path: Path) -> None:
    write_annotations(tmp_path, [annotation("a", "mass")])
    folder = tmp_path / "Task1-VQA-2021-TestSet-w-GroundTruth"
    write_lines(folder / "Task1-VQA-2021-TestSet-Questions.txt", ["a|what is it?"])
    write_lines(folder / "Task1-VQA-2021-TestSet-ReferenceAnswers.txt", ["a|cyst"])
    assert [sample.answers for sample in VqaMedDataset(str(tmp_path)).read("test").samples] == [("cyst",)]


def test_editions_in_one_folder_are_read_together(tmp_path: Path) -> None:
    write_part(tmp_path / "2019", "2019", "val", ["a|what?|axial"])
    write_part(tmp_path / "2021", "2021", "val", ["a|what?|mass"])
    dataset = VqaMedDataset(str(tmp_path))
    ids = [sample.sample_id for sample in dataset.read("val").samples]
    assert ids == ["vqamed2019-val-a-1", "vqamed2021-val-a-1"]
    assert len(VqaMedDataset(str(tmp_path / "2021")).read("val").samples) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a", "wrong_columns"),
        ("a|what?", "wrong_columns"),
        ("a|what?|axial|sagittal", "wrong_columns"),
        ("|what?|axial", "empty_value"),
        ("a||axial", "empty_value"),
        ("a|what?|", "empty_value"),
        ("../a|what?|axial", "wrong_image"),
        ("a.jpg|what?|axial", "wrong_image"),
        ("a|what?|\udce4xial", "not_unicode"),
        ("a|" + "x" * 100_001 + "|axial", "too_long"),
    ],
)
def test_a_malformed_line_is_a_reject(tmp_path: Path, line: str, reason: str) -> None:
    table = write_part(tmp_path, "2019", "train", ["a|what?|axial", line, "a|what?|axial"])
    reading = VqaMedDataset(str(tmp_path)).read("train")
    assert [sample.sample_id for sample in reading.samples] == ["vqamed2019-train-a-1", "vqamed2019-train-a-2"]
    assert [(one.reason, one.where, one.malformed) for one in reading.rejects] == [(reason, f"{table}, line 2", True)]


LINES = st.one_of(
    st.text(alphabet='a|?#()"\t \udcff', max_size=20), st.text(max_size=30).map(lambda text: f"a|what?|{text}")
).filter(lambda line: not any(mark in line for mark in "\n\r"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=LINES, part=st.sampled_from(sorted(TABLES)))
def test_every_line_becomes_one_record_or_one_reject(tmp_path: Path, line: str, part: tuple[str, str]) -> None:
    root = tmp_path / "-".join(part)
    try:
        table = write_part(root, *part, [line])
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return
    questions = ["a|what?"] if part == ("2020", "test") else []
    if questions:
        write_lines(table.parent / QUESTIONS, questions)
    reading = VqaMedDataset(str(root)).read(part[1])  # type: ignore[arg-type]
    count = len(reading.samples) + len(reading.rejects)
    if questions:
        # One for a question with its answers, whatever they are worth; else one for each of the two lines.
        assert 1 <= count <= (1 if reading.samples else 1 + bool(line.strip()))
        assert count == 2 or not line.strip() or line.lstrip().startswith("a")
    else:
        assert count == bool(line.strip())
    assert_writable([*reading.samples, *reading.rejects, *reading.defects])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=mutations(annotation("a", "mass", "tumor")))
def test_every_annotation_becomes_one_record_or_one_reject(tmp_path: Path, broken: object) -> None:
    write_annotations(tmp_path, [broken])
    reading = VqaMedDataset(str(tmp_path)).read("test")
    assert len(reading.samples) + len(reading.rejects) == 1
    assert_writable([*reading.samples, *reading.rejects, *reading.defects])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answers": 5}, "wrong_type"),
        ({"answers": "mass"}, "wrong_type"),
        ({"answers": None}, "missing_key"),
        ({"answers": []}, "empty_value"),
        ({"answers": [{}]}, "missing_key"),
        ({"answers": [{"answer": 3}]}, "wrong_type"),
        ({"answers": [None]}, "wrong_type"),
        ({"question": "\ud800"}, "not_unicode"),
        ({"image_id": None}, "wrong_type"),
        ({"question_type": 3}, "wrong_type"),
    ],
)
def test_a_malformed_annotation_is_a_reject(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    write_annotations(tmp_path, [{**annotation("a", "mass"), **changes}])
    assert [(one.reason, one.malformed) for one in VqaMedDataset(str(tmp_path)).read("test").rejects] == [
        (reason, True)
    ]


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"annotations": {}}', "[" * 100_000])
def test_a_file_without_annotations_is_refused(tmp_path: Path, content: str) -> None:
    write_annotations(tmp_path, []).write_text(content)
    with pytest.raises(DataError, match="mscoco"):
        VqaMedDataset(str(tmp_path)).read("test")


@pytest.mark.parametrize("state", ["absent", "file", "empty", "other", "questions only"])
def test_a_folder_without_vqa_med_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "data"
    if state == "file":
        folder.write_text("x")
    elif state != "absent":
        folder.mkdir()
    if state == "other":
        write_lines(folder / "train.txt", ["a|what?|axial"])
    elif state == "questions only":
        write_lines(folder / "VQAMed2019_Test_Questions.txt", ["a|what?"])
    with pytest.raises(DataError) as caught:
        VqaMedDataset(str(folder))
    assert caught.value.where == str(folder)
    assert caught.value.got and caught.value.expected and caught.value.fix
    assert not VqaMedDataset.recognises(folder)


def test_a_table_that_is_there_twice_is_ambiguous(tmp_path: Path) -> None:
    for copy in ("old", "new"):
        write_part(tmp_path / copy, "2019", "val", ["a|what?|axial"])
    with pytest.raises(DataError, match=r"All_QA_Pairs_val\.txt once"):
        VqaMedDataset(str(tmp_path))


def test_a_missing_image_folder_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "All_QA_Pairs_val.txt", ["a|what?|axial"])
    with pytest.raises(DataError, match=r"unzip Val_images\.zip"):
        VqaMedDataset(str(tmp_path)).read("val")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_split_that_is_not_there_is_refused(tmp_path: Path, split: str) -> None:
    write_part(tmp_path, "2019", "val", ["a|what?|axial"])
    with pytest.raises(DataError, match=split):
        VqaMedDataset(str(tmp_path)).read(split)  # type: ignore[arg-type]


def test_a_picture_linked_from_outside_is_a_reject(tmp_path: Path) -> None:
    table = write_part(tmp_path / "root", "2019", "val", ["b|what?|axial"])
    write_images(tmp_path / "outside", ["b"])
    (table.parent / "Val_images" / "b.jpg").symlink_to(tmp_path / "outside" / "b.jpg")
    reading = VqaMedDataset(str(tmp_path / "root")).read("val")
    assert [reject.reason for reject in reading.rejects] == ["path_leaves_folder"]


def test_a_folder_is_recognised_from_near_but_not_from_afar(tmp_path: Path) -> None:
    write_part(tmp_path / "vqa_med" / "VQA-Med-2019", "2019", "test", ["a|plane|which?|axial"])
    assert VqaMedDataset.recognises(tmp_path / "vqa_med")
    assert VqaMedDataset.recognises(tmp_path / "vqa_med" / "VQA-Med-2019" / "VQAMed2019Test")
    assert not VqaMedDataset.recognises(tmp_path)
    assert not VqaMedDataset.recognises(tmp_path / "a\0b")


@pytest.mark.skipif(not REAL.is_dir(), reason="real VQA-Med is not under shared/data")
def test_counts_of_the_published_files() -> None:
    dataset = VqaMedDataset(str(REAL))
    assert dataset.splits() == ("test",)
    reading = dataset.read("test")
    assert Counter(sample.tags["edition"] for sample in reading.samples) == {"2019": 26, "2021": 29}
    assert Counter(reject.reason for reject in reading.rejects) == {"missing_image": 945}
    rows = [item for item in dataset.rows("test") if isinstance(item, VqaSample)]
    assert Counter(sample.tags["edition"] for sample in rows) == {"2019": 500, "2021": 500}
    assert VqaMedDataset.recognises(REAL) and not VqaMedDataset.recognises(REAL.parent)
