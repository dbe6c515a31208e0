"""Reads anybody's predictions as records: our JSON Lines, other JSON, CSV; questions without an answer are kept."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from radvqa.data.tables import (
    TABLE_SUFFIXES,
    UNCLOSED_QUOTE,
    Row,
    RowError,
    parsed_json,
    read_json_lines,
    read_table,
    shown,
)
from radvqa.errors import DataError
from radvqa.evaluate.prediction_columns import check_fields, columns_in, fields_of, own_id, value_at
from radvqa.evaluate.prediction_rows import PredictionReader, plain_text
from radvqa.sample import Prediction, Reject

_GAPS = ("nan", "NaN", "NULL", "NA", "null", "<NA>")
LARGEST_FILE = 2_000_000_000
"""Bytes. A file of predictions has some hundred bytes a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFile:
    """What a file of predictions holds.

    ``columns``: field → column it was read from. ``rejects``: rows that are not scored, with reasons. ``notes``: what
    was taken for what; ``warnings``: what a reader of the scores must know. Both are sentences.
    """

    path: Path
    predictions: tuple[Prediction, ...]
    columns: Mapping[str, str]
    rejects: tuple[Reject, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_predictions(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    gold: Sequence[Prediction] | None = None,
) -> PredictionFile:
    """The predictions of a JSON, JSON Lines, CSV, TSV or Parquet file.

    ``columns`` maps fields of ``Prediction`` (and ``tags.NAME``) to columns, nested ones by dotted path; columns of
    well-known names are found without. ``tags`` names the columns to keep as tags. ``gold`` (see ``read_gold``) are all
    questions that were asked: they bring the references and everything else about the question, and one without a
    prediction is missing, so that it counts as wrong. An absent or null answer is missing too.

    Raises:
        DataError: the file cannot be read, it is unclear which column is which, it holds no rows, or most of its rows
            are rejects.
        RecipeError: ``columns`` names an unknown field.
    """
    found = _read(path, columns or {}, tags=tags, gold=False, needs_gold=gold is None)
    return found if gold is None else _joined(found, gold)


def read_gold(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    only: Mapping[str, str] | None = None,
) -> PredictionFile:
    """All questions of a file with their references, each a ``Prediction`` that is missing.

    ``only``: column → value; other rows do not count as asked (``{"q_lang": "en"}``). Raises as ``read_predictions``.
    """
    return _read(path, columns or {}, tags=tags, gold=True, needs_gold=True, only=only or {})


def _read(
    path: Path,
    given: Mapping[str, str],
    *,
    tags: Sequence[str],
    gold: bool,
    needs_gold: bool,
    only: Mapping[str, str] | None = None,
) -> PredictionFile:
    check_fields(given)
    rows, notes = _rows(path)
    usable = [row.values for row in rows if row.broken is None]
    names = columns_in(usable)
    fields = fields_of(names, path, given=given, tags=tags, gold=gold, needs_gold=needs_gold) if usable else {}
    for column in only or {}:
        if not any(value_at(values, column) is not None for values in usable):
            raise DataError(
                "no row has this column", where=str(path), got=column, expected=", ".join(names)[:600],
                fix="correct --gold-only COLUMN=VALUE",
            )  # fmt: skip
    reader = PredictionReader(fields, gold=gold, needs_references=needs_gold)
    predictions: dict[str, Prediction] = {}
    rejects = []
    left_out = 0
    for row in rows:
        if row.broken is None and any(
            plain_text(value_at(row.values, name)) != wanted for name, wanted in (only or {}).items()
        ):
            left_out += 1
            continue
        try:
            prediction = reader.prediction(row)
            if prediction.sample_id in predictions:
                detail = f"another row has the id {shown(prediction.sample_id)}; the first one counts"
                raise RowError("duplicate_id", detail)
        except RowError as error:
            rejects.append(
                Reject(sample_id=row.name, reason=error.reason, where=row.where, detail=error.detail, malformed=True)
            )
        else:
            predictions[prediction.sample_id] = prediction
    if only and left_out == len(rows):
        held = {name: Counter(plain_text(value_at(values, name)) for values in usable) for name in only}
        raise DataError(
            "no row has the values asked for",
            where=str(path),
            expected="; ".join(
                f"{name}: {', '.join(repr(value) for value, _ in count.most_common(6))}" for name, count in held.items()
            ),
            got=", ".join(f"{name}={value}" for name, value in only.items()),
            fix="correct --gold-only COLUMN=VALUE",
        )
    _require_sound(path, rows=len(rows) - left_out, rejects=rejects)
    if left_out:
        notes.append(f"{left_out:,} rows left out: not {', '.join(f'{a} = {b}' for a, b in (only or {}).items())}")
    guessed = [f"{field} <- {column}" for field, column in fields.items() if field not in given and field != column]
    if guessed:
        notes.append(f"taken by the names of columns: {', '.join(guessed)}")
    return PredictionFile(
        path=path,
        predictions=tuple(predictions.values()),
        columns=fields,
        rejects=tuple(rejects),
        notes=(*notes, *reader.notes()),
        warnings=(*_reject_warnings(rejects), *reader.warnings()),
    )


def _rows(path: Path) -> tuple[list[Row], list[str]]:
    """All rows of the file, and notes on how it was read."""
    if path.is_dir():
        inside = sorted(one.name for one in path.iterdir() if one.suffix.lower() in TABLE_SUFFIXES)
        raise DataError(
            "predictions are read from a file, and this is a folder", where=str(path), expected="a file",
            got=f"a folder with {', '.join(inside[:8]) or 'no table'}", fix="name the file with the predictions",
        )  # fmt: skip
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise DataError(
            "the predictions cannot be read", where=str(path),
            got=(error.strerror if isinstance(error, OSError) else None) or str(error), fix="check the path",
        ) from error  # fmt: skip
    if size > LARGEST_FILE:
        raise DataError(
            "the file is too large for predictions", where=str(path), expected=f"at most {LARGEST_FILE:,} bytes",
            got=f"{size:,} bytes", fix="leave out pictures and logits, or split it",
        )  # fmt: skip
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return _text_rows(path)
    if kind == ".parquet":
        return list(read_table(path)), []
    if kind == ".json":
        return _json_rows(path)
    return list(read_json_lines(path)), []


def _text_rows(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a table whose cells are all text; nan, NULL and NA, as programs write a gap, are null."""
    rows, gaps = [], 0
    for row in read_table(path):
        if row.broken is not None and row.broken.reason == UNCLOSED_QUOTE:
            raise DataError(
                "the table swallows rows", where=row.where, expected="quotation marks in pairs, doubled inside a field",
                got=row.broken.detail, fix="close the quotation mark, or write the file as JSON Lines",
            )  # fmt: skip
        empty = [name for name, value in row.values.items() if value.strip() in _GAPS]
        gaps += len(empty)
        rows.append(replace(row, values={**row.values, **dict.fromkeys(empty)}) if empty else row)
    told = "cells of the table are nan, NULL or NA and are read as null: no answer, no reference"
    return rows, [f"{gaps:,} {told}"] if gaps else []


def _json_rows(path: Path) -> tuple[list[Row], list[str]]:
    content = path.read_bytes()
    try:
        value = parsed_json(content.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return list(read_json_lines(path)), ["the file is JSON Lines, whatever its name says"]
        raise DataError(
            "the file is not valid JSON", where=str(path), expected="JSON in UTF-8: a list of objects",
            got=str(error)[:300] if content.strip() else "an empty file",
            fix="write it anew; JSON Lines should end in .jsonl",
        ) from error  # fmt: skip
    notes = []
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        rows_by_key = [(key, one, own_id(one)) for key, one in value.items()]
        without = sum(own is None for _, _, own in rows_by_key)
        told = "are the ids" if without == len(value) else f"are the ids of {without:,} of them, which have none inside"
        notes.append(f"the file is an object of objects: their keys {told}; they are also the column (key)")
        ids = [{} if not without else {"sample_id": key if own is None else own} for key, _, own in rows_by_key]
        value = [{"(key)": key, **one, **found} for (key, one, _), found in zip(rows_by_key, ids, strict=True)]
    elif isinstance(value, dict):
        lists = [key for key, one in value.items() if isinstance(one, list) and any(isinstance(i, dict) for i in one)]
        if len(lists) == 1:
            notes.append(f"the rows are the list {lists[0]!r} of the file")
            value = value[lists[0]]
    if not isinstance(value, list):
        raise DataError(
            "no rows found in the JSON", where=str(path),
            expected="a list of objects, or an object with one such list inside",
            got=shown(list(value)) if isinstance(value, dict) else shown(value), fix="write one object for each row",
        )  # fmt: skip
    rows = []
    for number, one in enumerate(value, start=1):
        where, name = f"{path}, row {number}", f"{path.name}:{number}"
        broken = None
        if not isinstance(one, dict):
            broken = RowError("not_an_object", f"the row should be an object, got {shown(one)}")
        rows.append(Row(where, name, one if broken is None else {}, broken=broken))
    return rows, notes


def _joined(found: PredictionFile, gold: Sequence[Prediction]) -> PredictionFile:
    """The gold questions with the answers of ``found``; answers to other questions become rejects."""
    answers = {prediction.sample_id: prediction for prediction in found.predictions}
    joined, other_references = [], 0
    for question in gold:
        answer = answers.pop(question.sample_id, None)
        if answer is None:
            joined.append(question)
            continue
        other_references += bool(answer.references) and answer.references != question.references
        joined.append(
            replace(
                question,
                text=answer.text,
                missing=answer.missing,
                prompt_id=answer.prompt_id,
                finished=answer.finished,
                token_ids=answer.token_ids,
                logprob=answer.logprob,
                decoding=answer.decoding,
                dtype=answer.dtype,
                image_hash=answer.image_hash,
                tags={**answer.tags, **question.tags},
            )
        )
    strangers = tuple(
        Reject(
            sample_id=one,
            reason="not_asked",
            where=str(found.path),
            detail=f"the gold file has no question {one!r:.200}",
        )
        for one in answers
    )
    _require_sound(found.path, rows=len(found.predictions), rejects=strangers)
    warnings = [*found.warnings, *_reject_warnings(strangers)]
    unanswered = sum(one.missing for one in joined)
    if unanswered:
        warnings.append(
            f"{unanswered:,} of {len(joined):,} questions of the gold file have no answer: they count as wrong"
        )
    if other_references:
        warnings.append(f"{other_references:,} references differ from those of the gold file, which count")
    return replace(found, predictions=tuple(joined), rejects=(*found.rejects, *strangers), warnings=tuple(warnings))


def _require_sound(path: Path, *, rows: int, rejects: Sequence[Reject]) -> None:
    if not rows:
        raise DataError(
            "there are no rows to score",
            where=str(path),
            expected="one row per question",
            got="an empty file" if not path.stat().st_size else "none",
            fix="name the file that holds the answers",
        )
    if 2 * len(rejects) > rows:
        reasons = Counter(reject.reason for reject in rejects)
        raise DataError(
            "most rows cannot be scored",
            where=rejects[0].where,
            expected=f"more than half of the {rows:,} rows sound",
            got=f"{', '.join(f'{count:,} {reason}' for reason, count in reasons.most_common(4))}; {rejects[0].detail}",
            fix="correct the file, or say which columns to read with --map",
        )


def _reject_warnings(rejects: Iterable[Reject]) -> list[str]:
    """One sentence per reason, with an example."""
    counts = Counter(reject.reason for reject in rejects)
    examples = {reject.reason: reject for reject in reversed(list(rejects))}
    return [
        f"{count:,} rows not scored ({reason}), such as {examples[reason].where}: {examples[reason].detail}"
        for reason, count in counts.most_common()
    ]
