"""Which column of somebody's predictions holds the answer, the reference and the rest: told, or guessed if clear."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from radvqa.errors import DataError, RecipeError

FIELDS = (
    "sample_id", "text", "references", "question", "answer_type", "group_id", "image_id", "link_id", "dialogue_id",
    "turn", "finished", "logprob", "token_ids", "missing", "prompt_id", "decoding", "dtype", "image_hash",
)  # fmt: skip
"""What ``--map`` can name, besides ``tags.NAME``."""

_ANSWERS = (
    "text", "prediction", "predictions", "pred", "preds", "pred_answer", "pred_ans", "predicted", "predicted_answer",
    "model_prediction", "model_answer", "model_output", "model_response", "output", "outputs", "response", "responses",
    "generated", "generated_text", "generated_answer", "generation", "completion", "filtered_resps", "answer_pred",
)  # fmt: skip
_REFERENCES = (
    "references", "reference", "reference_answer", "gt", "gts", "gt_ans", "gt_answer", "answer_gt", "gold",
    "gold_answer", "ground_truth", "ground_truth_answer", "target", "targets", "correct_answer", "true_answer",
    "expected_answer", "groundtruth",
)  # fmt: skip
# Names that are the reference in one project and something else in another: taken where nothing else could be it.
_REFERENCES_IF_ALONE = ("answer", "answers", "label", "labels")
_ANSWERS_IF_ALONE = ("answer",)
# Of several levels the first that has a column counts; two columns on one level are unclear.
_OTHERS: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "sample_id": (("sample_id",), ("question_id", "qid"), ("id", "uid"), ("idx", "index", "doc_id")),
        "question": (("question",), ("query",), ("prompt",)),
        "answer_type": (("answer_type",),),
        "group_id": (
            ("group_id",), ("group",), ("patient_id", "patient", "pat_id", "mrn", "subject_id", "subject"),
            ("case_id", "case"), ("study_id", "study"),
        ),
        "image_id": (
            ("image_id",), ("img_id",), ("image_name", "img_name"), ("image", "img"),
            ("image_path", "img_path", "image_file", "file_name"),
        ),
        "link_id": (("link_id",), ("qid_linked_id",)),
    }
)  # fmt: skip
_OWN_ONLY = (
    "dialogue_id", "turn", "finished", "logprob", "token_ids", "missing", "prompt_id", "decoding", "dtype",
    "image_hash",
)  # fmt: skip
_DEEPEST, _MOST_COLUMNS, _SNIFFED_ROWS = 4, 400, 200


def columns_in(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns of the first 200 rows in their order; what lies in objects by dotted path (``doc.answer``)."""
    found: dict[str, None] = {}
    for row in rows[:_SNIFFED_ROWS]:
        for name in _names(row, depth=1):
            if len(found) < _MOST_COLUMNS:
                found[name] = None
    return tuple(found)


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, None where the row has none; digits in a dotted path count in lists."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isascii() and part.isdigit() and len(part) < 9 and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def check_fields(given: Mapping[str, str]) -> None:
    """Nothing, if all are fields. Raises ``RecipeError`` for one that is none."""
    for field in given:
        if field not in FIELDS and not (field.startswith("tags.") and len(field) > len("tags.")):
            raise RecipeError(
                f"--map names no field that exists: {field!r}",
                expected=f"one of {', '.join(FIELDS)}, tags.NAME",
                fix="write --map FIELD=COLUMN, such as --map text=my_prediction",
            )


def fields_of(
    columns: Sequence[str], path: Path, *, given: Mapping[str, str], tags: Sequence[str], gold: bool, needs_gold: bool
) -> dict[str, str]:
    """Field → column. ``given`` goes before names that are merely known.

    ``gold``: the file holds questions with references and no answers. ``needs_gold``: the references are needed from
    this file, because no other one brings them.

    Raises:
        DataError: a given column is not there, or it is unclear which column holds the answers, the references or ids.
    """
    for field, column in given.items():
        if column not in columns and column.split(".")[0] not in {one.split(".")[0] for one in columns}:
            raise _unclear(f"there is no column {column!r} for {field}", columns, path)
    free = [column for column in columns if column not in given.values()]
    taken = dict(given)
    own = {"text", "references"} if _is_our_form(columns) else set()
    for field in (*_OWN_ONLY, *own):
        if field in free:
            taken.setdefault(field, field)
    for field, levels in _OTHERS.items():
        if field not in taken:
            found = next(filter(None, (_fitting(free, level) for level in levels)), [])
            if len(found) > 1:
                raise _unclear(f"several columns could be {field}: {', '.join(found)}", columns, path)
            taken |= {field: found[0]} if found else {}
    _take_answers(taken, free, columns, path, gold=gold, needs_gold=needs_gold)
    for tag in tags:
        for name in (f"tags.{tag}", tag, f"doc.{tag}"):
            if name in columns:
                taken.setdefault(f"tags.{tag}", name)
    return taken


def _take_answers(
    taken: dict[str, str], free: list[str], columns: Sequence[str], path: Path, *, gold: bool, needs_gold: bool
) -> None:
    """Add the columns of the answers (unless the file is gold) and of the references."""
    texts = [] if gold or "text" in taken else _fitting(free, _ANSWERS)
    references = [] if "references" in taken else _fitting(free, _REFERENCES)
    either = _fitting(free, _REFERENCES_IF_ALONE)  # "answer" may be the model's or the reference
    if not gold and "text" not in taken:
        if not texts:
            answers = [name for name in either if _bare(name.rpartition(".")[2]) in _ANSWERS_IF_ALONE]
            if answers and (references or "references" in taken or not needs_gold or len(either) > 1):
                texts = either
        elif len(texts) == 1 and _bare(texts[0]) == "text" and not references and "references" not in taken:
            texts += either  # "text" may be a caption
        if len(texts) != 1:
            raise _unclear(_none_or_several(texts, "the model's answers", "text"), columns, path)
        taken["text"] = texts[0]
    if "references" not in taken:
        either = [name for name in either if name != taken.get("text")]
        # "doc.answer" inside an object is no rival of a column beside it.
        rivals = [name for name in either if references and name.count(".") <= references[0].count(".")]
        references = references + rivals if references else either
        if len(references) != 1 and (needs_gold or rivals):
            raise _unclear(_none_or_several(references, "the reference answers", "references"), columns, path)
        if len(references) == 1:
            taken["references"] = references[0]


def _is_our_form(columns: Sequence[str]) -> bool:
    """Whether ``text`` and ``references`` are what they are in our own records: nothing else could be either."""
    rivals = [*_fitting(columns, _ANSWERS), *_fitting(columns, _REFERENCES)]
    return "sample_id" in columns and sorted(rivals) == ["references", "text"]


def own_id(row: Mapping[str, Any]) -> Any:
    """The id that a row itself states under a well-known name, None if it states none; a mere number is none."""
    for level in _OTHERS["sample_id"][:-1]:
        for name in _fitting(list(row), level):
            if row[name] not in (None, ""):
                return row[name]
    return None


def _names(row: Mapping[str, Any], *, depth: int) -> Iterator[str]:
    for key, value in row.items():
        yield key
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from (f"{key}.{name}" for name in _names(value, depth=depth + 1))


def _fitting(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with one of these names; capitals, blanks, hyphens and underscores do not matter.

    Columns inside objects count only where none outside fits.
    """
    known = {_bare(name) for name in names}
    fitting = [column for column in columns if _bare(column.rpartition(".")[2]) in known]
    shallowest = min((column.count(".") for column in fitting), default=0)
    return [column for column in fitting if column.count(".") == shallowest]


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _none_or_several(found: Sequence[str], what: str, field: str) -> str:
    if not found:
        return f"no column is clearly that of {what} ({field})"
    return f"several columns could be {what} ({field}): {', '.join(found)}"


def _unclear(what: str, columns: Sequence[str], path: Path) -> DataError:
    return DataError(
        f"the columns of the predictions are not clear: {what}",
        where=str(path),
        expected="sample_id, question, references, answer_type, text (and group_id), or columns of known names",
        got=f"the columns {', '.join(columns)}"[:600] if columns else "no columns",
        fix="name them: --map text=COLUMN --map references=COLUMN --map sample_id=COLUMN; for the file of --gold "
        "--map gold.references=COLUMN",
    )
