"""Which column of somebody's table plays which part, found by its name or told by the user."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from radvqa.data.tables import read_table
from radvqa.errors import DataError, RecipeError

ROLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image": (
            "image", "images", "file_name", "image_path", "image_file", "image_name", "img", "img_path", "img_name",
            "path", "file", "file_path", "picture", "dicom", "dicom_path",
        ),
        "question": ("question", "query"),
        "answer": ("answer",),
        "answers": ("answers", "references"),
        "caption": ("caption", "text", "report", "description"),
        "id": ("id", "qid", "question_id", "sample_id", "uid"),
        "image_id": ("image_id", "img_id"),
        "group": ("group", "group_id"),
        "patient": ("patient", "patient_id", "pat_id", "mrn", "subject", "subject_id"),
        "case": ("case", "case_id", "study", "study_id"),
        "split": ("split", "subset", "partition"),
        "answer_type": ("answer_type",),
        "language": ("language", "lang", "q_lang"),
        "choices": ("choices", "options"),
        "modality": ("modality",),
        "organ": ("organ", "image_organ"),
        "location": ("location", "body_part"),
        "plane": ("plane",),
        "content_type": ("content_type",),
        "question_type": ("question_type",),
    }
)  # fmt: skip
"""Each role and the names of columns that play it; capitals, blanks, hyphens and underscores do not matter."""

_SNIFFED_ROWS = 200


def check_roles(given: Collection[str]) -> None:
    """Nothing, if all are roles. Raises ``RecipeError`` for one that is none."""
    for role in given:
        if role not in ROLES:
            raise RecipeError(
                f"columns names no role that exists: {role!r}",
                expected=f"one of {', '.join(ROLES)}",
                fix='write columns as {"role": "name of your column"}',
            )


def columns_of(path: Path) -> tuple[str, ...]:
    """The columns of a table in their order: those of its first 200 rows, since JSON rows may differ.

    Raises:
        DataError: the table cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet_columns(path)
    found: dict[str, None] = {}
    for number, row in enumerate(read_table(path)):
        if number == _SNIFFED_ROWS:
            break
        found |= dict.fromkeys(map(str, row.values))
    return tuple(found)


def roles_of(columns: Sequence[str], path: Path, *, given: Mapping[str, str]) -> dict[str, str]:
    """Role → column. ``given`` goes before names that are merely known.

    Raises:
        DataError: two columns could play one role, a given column is not there, or the table holds neither questions
            with answers nor captions of images.
    """
    for role, column in given.items():
        if column not in columns:
            raise _unclear(f"there is no column {column!r} for the {role}", columns, path)
    roles = dict(given)
    free = [column for column in columns if column not in given.values()]
    for role, names in ROLES.items():
        if role in given:
            continue
        known = {_bare(name) for name in names}
        fitting = [column for column in free if _bare(column) in known]
        if len(fitting) > 1:
            raise _unclear(f"several columns could be the {role}: {', '.join(fitting)}", columns, path)
        if fitting:
            roles[role] = fitting[0]
    if "image" not in roles:
        raise _unclear("no column names the image", columns, path)
    asks = "question" in roles and ("answer" in roles or "answers" in roles)
    if not asks and "caption" not in roles:
        raise _unclear("there are neither questions with answers nor captions", columns, path)
    return roles


def _parquet_columns(path: Path) -> tuple[str, ...]:
    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "the Parquet file is damaged, or none",
            where=str(path),
            expected="a whole Parquet file",
            got=" ".join(str(error).split())[:300],
            fix="fetch or export it again",
        ) from error


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _unclear(what: str, columns: Sequence[str], path: Path) -> DataError:
    return DataError(
        f"the columns of the table are not clear: {what}",
        where=str(path),
        expected="an image column, with question and answer, or with caption",
        got=f"the columns {', '.join(columns)}"[:400] if columns else "no columns: the table has no rows",
        fix='name them with the option columns, such as {"image": "my_picture", "question": "my_question"}',
    )
