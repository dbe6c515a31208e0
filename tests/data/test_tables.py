from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radvqa.data.adapter import Item
from radvqa.data.tables import Row, RowError, items_of, read_csv, read_json_lines, read_lines, read_parquet, read_table
from radvqa.errors import DataError
from radvqa.sample import Reject


def questions(path: Path, column: str = "question") -> list[str]:
    """The text of every row, or the reason why there is none."""
    found = []
    for row in read_table(path):
        try:
            found.append(row.text(column))
        except RowError as error:
            found.append(error.reason)
    return found


def parquet(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


TEXTS = pa.array(["a", "b", "c"])
YEAR_20000 = pa.array([0, 6_585_300, 1], pa.int32()).cast(pa.date32())
NOWHERE = pa.array([0, 1, None], pa.timestamp("ms", tz="Mars/Olympus"))
NO_UTF8 = pa.Array.from_buffers(
    pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")]
)


# --- Parquet -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [YEAR_20000, NOWHERE, NO_UTF8], ids=["year 20000", "time zone", "no UTF-8"])
def test_a_column_that_python_cannot_have_does_not_matter_unless_it_is_asked_for(
    tmp_path: Path, other: pa.Array
) -> None:
    path = parquet(tmp_path / "rows.parquet", question=TEXTS, when=other)
    assert questions(path) == ["a", "b", "c"]


def test_one_bad_value_is_one_reject(tmp_path: Path) -> None:
    path = parquet(tmp_path / "rows.parquet", question=NO_UTF8)
    assert questions(path) == ["a", "unreadable_value", "c"]

    def make(row: Row) -> Iterator[Item]:
        row.text("question")
        return iter(())

    (reject,) = items_of(read_parquet(path), make)
    assert isinstance(reject, Reject)
    assert reject.malformed
    assert reject.where == f"{path}, row 2"
    assert "question cannot be read: 'utf-8' codec" in reject.detail


def test_an_unreadable_value_is_no_empty_one(tmp_path: Path) -> None:
    rows = list(read_parquet(parquet(tmp_path / "rows.parquet", when=YEAR_20000)))
    with pytest.raises(RowError, match="cannot be read"):
        rows[1].optional_text("when")
    with pytest.raises(RowError, match="cannot be read"):
        rows[1].whole_number("when")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_parquet_file_gives_rows_or_one_message(tmp_path: Path, data: st.DataObject) -> None:
    path = parquet(tmp_path / "rows.parquet", question=TEXTS, when=pa.array([1, 2, 3], pa.timestamp("us", tz="UTC")))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        list(read_parquet(path))
    except DataError as error:
        assert str(path) in error.where


# --- text ----------------------------------------------------------------------------------------------------------


def test_semicolons_in_the_header_separate_the_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('id;question\r\n1;"one; two, three"\r\n2;four, five\r\n', encoding="utf-8-sig", newline="")
    assert questions(path) == ["one; two, three", "four, five"]


def test_a_comma_in_the_header_wins_over_semicolons(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,question;remark\n1,a;b\n")
    assert [dict(row.values) for row in read_csv(path)] == [{"id": "1", "question;remark": "a;b"}]


def test_semicolons_are_text_in_a_table_whose_delimiter_or_columns_are_given(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a;b\n")
    assert [dict(row.values) for row in read_csv(path, columns=["x"])] == [{"x": "a;b"}]
    path = tmp_path / "rows.tsv"
    path.write_text("a;b\n1\n")
    assert [dict(row.values) for row in read_table(path)] == [{"a;b": "1"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("reader", [read_csv, read_json_lines, read_lines])
def test_utf_16_is_refused_once_for_the_whole_file(tmp_path: Path, encoding: str, reader) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("id,question\n1,肝\n" * 20, encoding=encoding)
    with pytest.raises(DataError, match=r"(?s)not UTF-8.*save the table as UTF-8") as caught:
        list(reader(path))
    assert caught.value.where == str(path)


def test_a_byte_of_latin_1_costs_its_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("id,question\n1,où?\n2,où?\n".encode("latin-1") + b"3,here\n")
    assert questions(path) == ["not_unicode", "not_unicode", "here"]
    first, *_ = read_csv(path)
    with pytest.raises(RowError, match="save the file as UTF-8"):
        first.text("question")


@pytest.mark.parametrize("content", ["", "\n", "a"])
def test_a_table_of_hardly_anything_is_no_utf_16(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    assert [row.broken is not None for row in read_json_lines(tmp_path / "rows.jsonl")] == [True] * bool(
        content.strip()
    )


def test_an_empty_csv_file_has_no_header(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("")
    with pytest.raises(DataError, match="no usable header"):
        list(read_csv(tmp_path / "rows.csv"))


@pytest.mark.parametrize("zeros", [1, 7, 100])
def test_zeros_in_one_row_do_not_refuse_the_others(tmp_path: Path, zeros: int) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a\n" + bytes(zeros) + b"\nsound\n")
    assert [row.values["a"] for row in read_csv(path)] == ["\0" * zeros, "sound"]
    path.write_bytes(bytes(zeros) + b"\n")
    assert [line for _, line in read_lines(path)] == ["\0" * zeros]
