import csv
import json
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radvqa.errors import DataError, RadvqaError, RecipeError
from radvqa.evaluate import prediction_files
from radvqa.evaluate.metrics import score_answer
from radvqa.evaluate.prediction_files import read_gold, read_predictions
from radvqa.records import write_records
from radvqa.sample import Prediction

LEAN = {
    "sample_id": "s1",
    "group_id": "image1",
    "question": "Is the lung normal?",
    "references": ["Yes"],
    "answer_type": "closed",
    "text": "yes",
}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def reasons(found):
    return sorted(reject.reason for reject in found.rejects)


def said(found, part):
    return [sentence for sentence in (*found.notes, *found.warnings) if part in sentence]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def test_our_own_records_come_back_as_they_were(path):
    prediction = Prediction(
        **{**LEAN, "references": ("Yes", "Normal")}, image_id="i", prompt_id="p", finished=False, token_ids=(5, 1),
        logprob=-0.5, link_id="l", dialogue_id="d", turn=2, decoding="greedy", dtype="float32", image_hash="ab",
        tags={"modality": "CT", "phrase type": "free"},
    )  # fmt: skip
    gone = replace(prediction, sample_id="s2", text="", missing=True, logprob=None, tags={})
    write_records(path, [prediction, gone])
    found = read_predictions(path)
    assert found.predictions == (prediction, gone)
    assert (found.rejects, found.notes, found.warnings) == ((), (), ())


def test_the_lean_form_is_enough(path):
    found = read_predictions(lines(path, [LEAN]))
    (one,) = found.predictions
    assert (one.sample_id, one.group_id, one.text, one.references) == ("s1", "image1", "yes", ("Yes",))
    assert one.finished and not one.missing and one.logprob is None
    assert found.notes == found.warnings == ()


@pytest.mark.parametrize(
    ("row", "text", "reference"),
    [
        ({"question_id": 1, "pred": "a", "gt": "b"}, "a", "b"),
        ({"qid": 1, "prediction": "a", "answer": "b"}, "a", "b"),
        ({"id": 1, "answer": "a", "gt_ans": "b"}, "a", "b"),
        ({"index": 1, "Response": "a", "Ground Truth": "b"}, "a", "b"),
        ({"id": 1, "prediction": "a", "answers": ["b"]}, "a", "b"),
        ({"doc_id": 1, "doc": {"answer": "c", "question": "?"}, "target": "b", "filtered_resps": ["a"]}, "a", "b"),
        ({"id": 1, "out": {"response": "a"}, "doc": {"gt": "b"}}, "a", "b"),
    ],
)
def test_columns_of_known_names_are_found_and_told(path, row, text, reference):
    found = read_predictions(lines(path, [row]))
    (one,) = found.predictions
    assert (one.sample_id, one.text, one.references) == ("1", text, (reference,))
    assert said(found, "taken by the names of columns")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "answer": "a"}, "no column is clearly that of the model's answers"),
        ({"id": 1, "answer": "a", "question": "?"}, "no column is clearly that of the model's answers"),
        (
            {"id": 1, "pred": "a", "response": "b", "gt": "c"},
            "several columns could be the model's answers.*pred, resp",
        ),
        ({"id": 1, "pred": "a", "gt": "c", "target": "d"}, "several columns could be the reference answers"),
        ({"id": 1, "pred": "a", "answer": "c", "label": 3}, "several columns could be the reference answers"),
        ({"id": 1, "pred": "a"}, "no column is clearly that of the reference answers"),
        ({"id": 1, "answer": "a", "output": "b", "target": "c"}, "the reference answers.*target, answer"),
        ({"id": 1, "answer": "a", "label": "b"}, "the model's answers.*answer, label"),
        ({"question_id": 1, "question": "?", "answer": "a", "text": "caption"}, "the model's answers.*text, answer"),
        ({"sample_id": 1, "references": "a", "text": "b", "prediction": "c"}, "the model's answers.*text, prediction"),
        ({"question_id": 1, "qid": 2, "pred": "a", "gt": "b"}, "several columns could be sample_id: question_id, qid"),
    ],
)
def test_unclear_columns_are_an_error_not_a_guess(path, row, message):
    with pytest.raises(DataError, match=message) as error:
        read_predictions(lines(path, [row]))
    assert "--map text=COLUMN" in str(error.value)


def test_a_mapping_decides_and_reaches_into_objects_and_lists(path):
    rows = [{"n": 7, "out": {"choices": [{"message": "lung"}]}, "pred": "x", "a.b": "Lung", "who": {"patient": 3.0}}]
    columns = {"sample_id": "n", "text": "out.choices.0.message", "references": "a.b", "group_id": "who.patient"}
    found = read_predictions(lines(path, rows), columns=columns)
    (one,) = found.predictions
    assert (one.sample_id, one.text, one.references, one.group_id) == ("7", "lung", ("Lung",), "3")
    with pytest.raises(DataError, match="no column 'nowhere' for text"):
        read_predictions(path, columns={**columns, "text": "nowhere"})
    with pytest.raises(RecipeError, match="no field that exists: 'txt'"):
        read_predictions(path, columns={"txt": "pred"})


def test_tables_of_each_kind_give_the_same(tmp_path):
    rows = [
        {"qid": f"q{n}", "pred": "yes, it is", "gt": "Yes", "image": f"i{n % 2}", "modality": "CT"} for n in range(4)
    ]
    as_list, inside, keyed = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    as_list.write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    inside.write_text(json.dumps({"model": "m", "n": [1, 2], "results": rows}))
    keyed.write_text(json.dumps({row["qid"]: {k: v for k, v in row.items() if k != "qid"} for row in rows}))
    misnamed = lines(tmp_path / "d.json", rows)
    for name, delimiter in (("e.csv", ","), ("f.csv", ";"), ("g.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.DictWriter(file, rows[0], delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "h.parquet")
    everything = [as_list, inside, misnamed, *(tmp_path / name for name in ("e.csv", "f.csv", "g.tsv", "h.parquet"))]
    found = [read_predictions(one, tags=["modality"]) for one in everything]
    found.append(read_predictions(keyed, tags=["modality"], columns={"sample_id": "(key)"}))
    assert {one.predictions for one in map(frozen, found)} == {frozen(found[0]).predictions}
    (first, *_) = found[0].predictions
    assert (first.sample_id, first.group_id, first.tags) == ("q0", "i0", {"modality": "CT"})


def frozen(found):
    return replace(found, predictions=tuple(json.dumps(asdict(one)) for one in found.predictions))


def test_what_is_no_text(path):
    values = [3, 2.5, None, float("nan"), ["one"], "", {"a": 1}, ["a", "b"], True, "half \ud800 pair", "x" * 200_000]
    rows = [{**LEAN, "sample_id": str(n), "text": value} for n, value in enumerate(values)]
    found = read_predictions(lines(path, rows))
    by_id = {one.sample_id: one for one in found.predictions}
    assert [by_id[n].text for n in "014567"] == ["3", "2.5", "one", "", '{"a": 1}', '["a", "b"]']
    assert [one.sample_id for one in found.predictions if one.missing] == ["2", "3"]
    assert by_id["8"].text == "true" and found.rejects == ()
    assert by_id["9"].text == "half \N{REPLACEMENT CHARACTER} pair"
    assert len(by_id["10"].text) == 100_000
    assert said(found, "2 answers or references were numbers")
    assert said(found, "3 values are several answers") and said(found, "no Unicode") and said(found, "longer")


def test_malformed_answers_count_alike_with_and_without_a_gold_file(tmp_path, path):
    values = ["Yes", ["Yes", "No"], {"answer": "no"}, ["Yes", "Yes"], 3, "No"]
    lines(path, [{"qid": n, "question": "Is it?", "pred": value, "gt": "Yes"} for n, value in enumerate(values)])
    gold = lines(tmp_path / "gold.jsonl", [{"qid": n, "question": "Is it?", "gt": "Yes"} for n in range(len(values))])
    alone = read_predictions(path).predictions
    joined = read_predictions(path, gold=read_gold(gold).predictions).predictions
    assert [score_answer(one) for one in alone] == [score_answer(one) for one in joined]
    assert score_answer(alone[1]).state == "ambiguous"
    # What stands beside the answer may be anything too.
    lines(path, [{**LEAN, "question": {"en": "?"}, "group_id": ["g"], "decoding": True}])
    assert read_predictions(path).predictions[0].question == '{"en": "?"}'


def test_the_keys_of_an_object_are_ids_where_rows_have_none(tmp_path):
    table = tmp_path / "a.json"
    answer = {"pred": "a", "gt": "b"}
    for rows, ids in (
        ({"q1": answer, "q2": answer}, ["q1", "q2"]),
        ({"q1": {"index": 0, **answer}, "q2": {"index": 1, **answer}}, ["q1", "q2"]),
        ({"q1": {"id": 7, **answer}, "q2": answer, "q3": {"id": None, **answer}}, ["7", "q2", "q3"]),
        ({"0": {"qid": "a", **answer}, "1": {"qid": "b", **answer}}, ["a", "b"]),
    ):
        table.write_text(json.dumps(rows))
        found = read_predictions(table)
        assert [one.sample_id for one in found.predictions] == ids
        assert said(found, "object of objects")


def test_a_quotation_mark_that_is_never_closed_is_an_error(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text('id,pred,gt\n1,a,Yes\n2,"a,Yes\n3,a,Yes\n4,a,Yes\n')
    with pytest.raises(DataError, match=r"(?s)swallows rows.*line 3.*never closed"):
        read_predictions(table)
    table.write_text('id,pred,gt\n1,a,"Yes\nNo"\n2,a,"Yes ""x"""')
    assert [one.references for one in read_predictions(table).predictions] == [("Yes\nNo",), ('Yes "x"',)]


def test_gaps_of_a_csv_file_are_missing_answers_or_no_reference(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("id,pred,gt\n1,nan,Yes\n2,NULL,Yes\n3,None,No\n4,,No\n5,no,NaN\n6,no,No\n")
    found = read_predictions(table)
    assert [(one.text, one.missing) for one in found.predictions] == [
        ("", True), ("", True), ("None", False), ("", False), ("no", False),
    ]  # fmt: skip
    assert reasons(found) == ["no_reference"]
    assert said(found, "3 cells of the table are nan, NULL or NA")


def test_odd_numbers_and_lists_are_not_taken_for_others(tmp_path, path):
    table = tmp_path / "a.json"
    rows = [f'{{"id": {value}, "pred": "a", "gt": "b"}}' for value in ("9" * 5000, '"1.00"', '"1"', "2.0", "1e999", 3)]
    table.write_text(f"[{', '.join(rows)}]")
    found = read_predictions(table)
    assert [one.sample_id for one in found.predictions][1:] == ["1.00", "1", "2", "3"]
    assert found.predictions[0].sample_id.startswith("sha256:")
    assert reasons(found) == ["sample_id_not_text"]
    lines(
        path, [{**LEAN, "sample_id": n, "references": text} for n, text in enumerate(["['Yes', 'Y']", "['Yes' 'Y']"])]
    )
    found = read_predictions(path)
    assert [one.references for one in found.predictions] == [("Yes", "Y"), ("['Yes' 'Y']",)]
    assert said(found, "1 references are written as Python lists")


def test_rows_that_cannot_be_scored_are_counted_with_a_reason(path):
    sound = [{**LEAN, "sample_id": str(n)} for n in range(8)]
    bad = [
        {**LEAN, "sample_id": "3", "text": "no"},
        {**LEAN, "sample_id": ""},
        {**LEAN, "sample_id": "r", "references": [" . "]},
        {**LEAN, "sample_id": "o", "references": {"a": 1}},
        {"text": "no more"},
    ]
    lines(path, [*sound, *bad])
    path.write_text(path.read_text() + "[1, 2]\n{broken\n\n", encoding="utf-8")
    found = read_predictions(path)
    assert len(found.predictions) == 8
    assert found.predictions[3].text == "yes"
    assert reasons(found) == [
        "duplicate_id", "no_id", "no_id", "no_reference", "not_an_object", "not_json", "reference_not_text",
    ]  # fmt: skip
    assert said(found, "2 rows not scored (no_id)")
    with pytest.raises(DataError, match="most rows cannot be scored"):
        read_predictions(lines(path, [*sound[:4], *bad]))


def test_types_and_groups_that_are_not_stated(path):
    rows = [
        {"id": n, "pred": "a", "gt": gt, "answer_type": kind, "img_name": "i"}
        for n, (gt, kind) in enumerate(
            [("Yes", None), ("Lung", ""), ("Lung", "CLOSED "), ("No", "Open-ended"), ("No", "x")]
        )
    ]
    found = read_predictions(lines(path, rows))
    assert [one.answer_type for one in found.predictions] == ["closed", "open", "closed", "open", "closed"]
    assert said(found, "answer type of 2 rows was inferred") and said(found, "1 rows state an answer type")
    assert {one.group_id for one in found.predictions} == {"i"}
    alone = read_predictions(lines(path, [{k: v for k, v in row.items() if k != "img_name"} for row in rows]))
    assert len({one.group_id for one in alone.predictions}) == 5
    assert said(alone, "may be too narrow")
    assert not said(found, "may be too narrow")


def test_questions_of_the_gold_file_without_answer_are_missing(tmp_path, path):
    gold_path = tmp_path / "gold.json"
    asked = [
        {"qid": n, "question": f"q{n}", "answer": "Yes", "answer_type": "CLOSED", "img_id": n // 2} for n in range(4)
    ]
    gold_path.write_text(json.dumps([*asked, {**asked[0], "qid": 9, "q_lang": "zh"}]))
    gold = read_gold(gold_path)
    assert len(gold.predictions) == 5 and all(one.missing for one in gold.predictions)
    asked_only = read_gold(gold_path, only={"img_id": "1"})
    assert [one.sample_id for one in asked_only.predictions] == ["2", "3"]
    assert said(asked_only, "3 rows left out: not img_id = 1")
    with pytest.raises(DataError, match="no row has this column"):
        read_gold(gold_path, only={"language": "en"})
    answers = [{"question_id": n, "answer": "yes"} for n in (3, 1, 0)] + [{"question_id": 77, "answer": "yes"}]
    found = read_predictions(lines(path, answers), gold=gold.predictions)
    assert [(one.sample_id, one.text, one.missing, one.group_id) for one in found.predictions] == [
        ("0", "yes", False, "0"), ("1", "yes", False, "0"), ("2", "", True, "1"), ("3", "yes", False, "1"),
        ("9", "", True, "0"),
    ]  # fmt: skip
    assert reasons(found) == ["not_asked"]
    assert said(found, "2 of 5 questions of the gold file have no answer")
    assert not said(found, "too narrow") and not said(found, "inferred")
    lines(path, [{"question_id": n, "answer": "yes" if n else None} for n in range(4)])
    assert [one.missing for one in read_predictions(path, gold=gold.predictions).predictions] == [
        True,
        *[False] * 3,
        True,
    ]
    lines(path, [{"question_id": 0, "answer": "yes", "gt": "No"}])
    assert said(read_predictions(path, gold=gold.predictions), "1 references differ")
    with pytest.raises(DataError, match="most rows cannot be scored"):
        read_predictions(lines(path, [{"question_id": "slake-1", "answer": "yes"}]), gold=gold.predictions)


def test_files_that_cannot_be_read_are_one_clear_error(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.jsonl").write_text("")
    cases = {
        "a folder with model.jsonl": folder,
        "No such file": tmp_path / "none.jsonl",
        "no rows": lines(tmp_path / "empty.jsonl", []),
        "not valid JSON": tmp_path / "a.json",
        "no rows found in the JSON": tmp_path / "b.json",
        "not UTF-8": tmp_path / "c.csv",
        "most rows cannot be scored": tmp_path / "d.jsonl",
        "no usable header": tmp_path / "e.csv",
    }
    (tmp_path / "a.json").write_text("[" * 100_000)
    (tmp_path / "b.json").write_text('{"a": 1}')
    (tmp_path / "c.csv").write_bytes("id,pred,gt\n1,a,b\n".encode("utf-16"))
    (tmp_path / "d.jsonl").write_bytes(b"\x00\x01\xff\xfe binary\n" * 9)
    (tmp_path / "e.csv").write_text("")
    for message, one in cases.items():
        with pytest.raises(DataError, match=message):
            read_predictions(one)
    monkeypatch.setattr(prediction_files, "LARGEST_FILE", 10)
    with pytest.raises(DataError, match="too large"):
        read_predictions(lines(tmp_path / "large.jsonl", [LEAN]))


def test_nul_bytes_and_other_encodings_do_not_stop_the_rest(tmp_path):
    table = tmp_path / "a.csv"
    table.write_bytes(b"id,pred,gt\n1,a\x00b,Yes\n2,caf\xe9,No\n3,no,No\n4,no,caf\xe9\n5,no,No\n")
    found = read_predictions(table)
    assert [one.text for one in found.predictions] == ["a\x00b", "caf\N{REPLACEMENT CHARACTER}", "no", "no"]
    assert reasons(found) == ["reference_not_text"]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800") | st.just("NaN"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([*LEAN, "image_id", "tags", "token_ids", "logprob", "turn", "missing", "finished", "link_id"])
FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def readable(path):
    """Either predictions that can be scored, or an error made for users."""
    try:
        found = read_predictions(path, tags=["modality"])
    except RadvqaError as error:
        assert error.what
        return
    assert len({one.sample_id for one in found.predictions}) == len(found.predictions)
    for one in found.predictions:
        json.dumps(asdict(one), allow_nan=False).encode()
        assert one.group_id and one.references
        assert all(isinstance(text, str) for text in (one.text, one.question, *one.references, *one.tags.values()))


@FUZZ
@given(st.lists(st.dictionaries(NAMES, JUNK, max_size=6).map(lambda row: {**LEAN, **row}) | JUNK, max_size=5))
def test_no_junk_in_json_crashes_the_reader(path, rows):
    readable(lines(path, rows))
    whole = path.with_suffix(".json")
    whole.write_text(json.dumps(rows), encoding="utf-8")
    readable(whole)


@FUZZ
@given(st.binary(max_size=80), st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".parquet", ""]))
def test_no_bytes_crash_the_reader(path, content, suffix):
    file = path.with_suffix(suffix)
    head = b"id,pred,gt\n1,a,b\n" if suffix == ".csv" else b""
    file.write_bytes(head + content)
    readable(file)
