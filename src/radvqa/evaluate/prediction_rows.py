"""One row of somebody's predictions as a record, and a count of what had to be taken otherwise than it stands."""

import ast
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from radvqa.data.answers import inferred_answer_type
from radvqa.data.tables import LONGEST_TEXT, Row, RowError, parsed_json, shown
from radvqa.evaluate.normalise import answer_parts
from radvqa.evaluate.prediction_columns import value_at
from radvqa.sample import AnswerType, Prediction

_ANSWER_TYPES: Mapping[str, AnswerType] = {
    "closed": "closed", "close": "closed", "closeended": "closed", "closedended": "closed",
    "open": "open", "openended": "open",
}  # fmt: skip
_SURROGATES = re.compile("[\ud800-\udfff]")
_LONGEST_ID = 200
_NO_LINK = ("null", "none", "nan")
_TRUE: tuple[Any, ...] = (True, "true", "True")
_FALSE: tuple[Any, ...] = (False, "false", "False")


class PredictionReader:
    """Makes a prediction of each row and counts what it had to take otherwise than it stands."""

    def __init__(self, fields: Mapping[str, str], *, gold: bool, needs_references: bool) -> None:
        self._columns, self._gold, self._needs_references = fields, gold, needs_references
        self._tags = {
            field.removeprefix("tags."): column for field, column in fields.items() if field.startswith("tags.")
        }
        self._counts: Counter[str] = Counter()

    def prediction(self, row: Row) -> Prediction:
        """The record of a row. Raises ``RowError`` where it cannot be scored."""
        if row.broken is not None:
            raise row.broken
        values, at = row.values, self._columns
        cell = {field: value_at(values, column) for field, column in at.items()}
        sample_id = self._id(cell.get("sample_id"), "sample_id") if "sample_id" in at else row.name
        if not sample_id:
            raise RowError("no_id", f"the id ({at['sample_id']}) is {shown(cell.get('sample_id'))}")
        references = self._references(cell.get("references"))
        image_id = self._id(cell.get("image_id"), "image_id")
        text = None if self._gold else self._answer(cell.get("text"))
        missing = text is None or cell.get("missing") in _TRUE
        return Prediction(
            sample_id=sample_id,
            group_id=self._id(cell.get("group_id"), "group_id") or image_id or f"row:{sample_id}",
            image_id=image_id,
            question=self._optional(cell.get("question"), "question"),
            references=references,
            answer_type=self._answer_type(cell.get("answer_type"), references),
            text="" if missing or text is None else text,
            prompt_id=self._optional(cell.get("prompt_id"), "prompt_id"),
            finished=cell.get("finished") not in _FALSE,
            token_ids=_whole_numbers(cell.get("token_ids")),
            logprob=self._logprob(cell.get("logprob")),
            missing=missing,
            link_id="" if (link := self._id(cell.get("link_id"), "link_id")).casefold() in _NO_LINK else link,
            dialogue_id=self._id(cell.get("dialogue_id"), "dialogue_id"),
            turn=next(iter(_whole_numbers([cell.get("turn")])), 0),
            decoding=self._optional(cell.get("decoding"), "decoding"),
            dtype=self._optional(cell.get("dtype"), "dtype"),
            image_hash=self._optional(cell.get("image_hash"), "image_hash"),
            tags=self._tags_of(values, cell),
        )

    def notes(self) -> list[str]:
        """Sentences on what was taken for something else than it stands for."""
        found = [
            ("number_text", "{:,} answers or references were numbers and became text"),
            ("listed", "{:,} references are written as Python lists (['a', 'b']) and are read as such"),
            ("bad_logprob", "{:,} log-probabilities are not finite numbers up to 0 and are left out"),
        ]
        if self._needs_references:
            found += [
                ("inferred_type", "the answer type of {:,} rows was inferred: closed where the reference is yes or no"),
                ("unknown_type", "{:,} rows state an answer type that is neither closed nor open; it was inferred"),
            ]
        return [text.format(self._counts[name]) for name, text in found if self._counts[name]]

    def warnings(self) -> list[str]:
        """Sentences on what the file lacks, if no other brings it, and on answers that were changed."""
        found = []
        if "sample_id" not in self._columns:
            found.append("no column of ids: rows are named by their number, so files cannot be compared")
        if self._needs_references and "group_id" not in self._columns and "image_id" not in self._columns:
            found.append(
                "no column of groups or images: every row counts as its own group, so the intervals ignore that "
                "questions about one image are alike; they may be too narrow"
            )
        if self._needs_references and "question" not in self._columns:
            found.append("no column of questions: answers that only make sense with the question cannot be decided")
        for name, text in (
            (
                "json_text",
                "{:,} values are several answers, objects or the like instead of a text: taken as JSON text",
            ),
            ("cut", f"{{:,}} answers are longer than {LONGEST_TEXT:,} characters; the rest is not looked at"),
            ("mended", "{:,} answers hold characters that are no Unicode; they are replaced"),
        ):
            if self._counts[name]:
                found.append(text.format(self._counts[name]))
        return found

    def _answer(self, value: Any) -> str | None:
        """The answer's text, None if there is none; several answers and all that is no text as their JSON text."""
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is None or value == [] or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._counts["number_text"] += 1
            return str(value)
        if not isinstance(value, str):
            self._counts["json_text"] += 1
            value = _json_text(value)
        if len(value) > LONGEST_TEXT:
            self._counts["cut"] += 1
            value = value[:LONGEST_TEXT]
        text: str = value
        if not _is_sound(text):
            self._counts["mended"] += 1
            text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
        return text

    def _references(self, value: Any) -> tuple[str, ...]:
        """The texts with more than blanks. Raises ``RowError`` where they are needed and are none."""
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = self._listed(value)
        found: dict[str, None] = {}
        for one in value if isinstance(value, list) else [value]:
            text = plain_text(one)
            if self._needs_references and ((text is None and one is not None) or not _is_sound(text or "")):
                raise RowError("reference_not_text", f"the reference should be text, got {shown(one)}")
            self._counts["number_text"] += text is not None and not isinstance(one, str)
            if text is not None and text.strip() and _is_sound(text):
                found[text] = None
        if self._needs_references and not any(map(_has_word, found)):
            raise RowError(
                "no_reference", f"no letter or digit in the reference {shown(value)}: no answer can be right"
            )
        return tuple(found)

    def _listed(self, text: str) -> Any:
        """The list that a text shows in JSON or as Python prints it, else the text."""
        try:
            found = parsed_json(text)
        except (ValueError, RecursionError):
            found = _python_list(text)
            self._counts["listed"] += found is not None
        return found if isinstance(found, list) else text

    def _answer_type(self, value: Any, references: Sequence[str]) -> AnswerType:
        stated = plain_text(value)
        if stated:
            known = _ANSWER_TYPES.get("".join(letter for letter in stated.casefold() if letter.isalpha()))
            if known is not None:
                return known
        self._counts["unknown_type" if stated else "inferred_type"] += 1
        return inferred_answer_type(references[0]) if references else "open"

    def _id(self, value: Any, field: str) -> str:
        text = self._optional(value, field)
        return text if len(text) <= _LONGEST_ID else f"sha256:{sha256(text.encode()).hexdigest()}"

    def _optional(self, value: Any, field: str) -> str:
        """The stripped text; ``""`` where there is none or, of a picture, something else than its name.

        Raises ``RowError`` only for an id of a sample: what else is no text is taken as JSON text.
        """
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, float) and value.is_integer() and field != "question":
            return str(int(value)) if abs(value) < 1e15 else str(value)  # as tables with gaps hold whole numbers
        if field == "image_id" and isinstance(value, dict | list | bytes):
            return ""
        text = plain_text(value)
        if text is None or not _is_sound(text, whatever_length=field == "image_id"):
            if field == "sample_id":
                raise RowError("sample_id_not_text", f"sample_id should be text, got {shown(value)}")
            self._counts["json_text"] += text is None
            text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text or _json_text(value))[:LONGEST_TEXT]
        return text.strip()

    def _logprob(self, value: Any) -> float | None:
        if value in (None, ""):
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and number <= 1e-3:
            return min(number, 0.0)
        self._counts["bad_logprob"] += 1
        return None

    def _tags_of(self, values: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, str]:
        own = values.get("tags")
        tags = {str(name): plain_text(one) for name, one in own.items()} if isinstance(own, dict) else {}
        tags |= {name: plain_text(cell[f"tags.{name}"]) for name in self._tags}
        return {name: _SURROGATES.sub("?", text.strip()) for name, text in tags.items() if text and text.strip()}


def _is_sound(text: str, *, whatever_length: bool = False) -> bool:
    """Whether it is Unicode text of a length that a person may have written."""
    return (text.isascii() or not _SURROGATES.search(text)) and (whatever_length or len(text) <= LONGEST_TEXT)


@lru_cache(maxsize=4096)
def _has_word(text: str) -> bool:
    return bool(answer_parts(text))


def _whole_numbers(value: Any) -> tuple[int, ...]:
    """The whole numbers of a list, none if it holds anything else."""
    if isinstance(value, list) and all(type(one) is int or (type(one) is str and one.isdecimal()) for one in value):
        return tuple(int(one) for one in value if len(str(one)) < 10)
    return ()


def _json_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return str(type(value))


def _python_list(text: str) -> list[Any] | None:
    """The list whose ``repr`` the text is; None if it is none, such as the print of an array without commas."""
    if len(text) > LONGEST_TEXT:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            found = ast.literal_eval(text.strip())
        return found if isinstance(found, list) and repr(found) == text.strip() else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def plain_text(value: Any) -> str | None:
    """Text as it stands, a number as text; None for anything else, infinite numbers and ``NaN`` included."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value):
        return str(value)
    return None
