"""What a record looks like in each export format, and how it is found again. Writing and reading share this file.

========== ========================= =============================================================================
format     table of a split          one row
========== ========================= =============================================================================
hub        data/train-*.parquet      every field of the record as a column, the picture's bytes in ``image``
llava      train.json (a list)       ``id``, ``image``, ``conversations`` (Liu et al., LLaVA, NeurIPS 2023)
messages   train.jsonl               ``messages`` with ``role`` and ``content`` parts, ``images``
paligemma  train.jsonl               ``image``, ``prefix``, ``suffix`` (as big_vision's PaliGemma data sets)
========== ========================= =============================================================================

In the last three, ``radvqa`` holds the whole record beside what the format knows.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from radvqa.data.prompt import CAPTION_QUESTION, caption_prefix, question_prefix
from radvqa.data.tables import RowError, shown
from radvqa.sample import CaptionedImage, Split, VqaSample

Format = Literal["hub", "llava", "messages", "paligemma"]
FORMATS: tuple[Format, ...] = get_args(Format)
Record = VqaSample | CaptionedImage
Kind = Literal["vqa", "caption"]

MANIFEST = "radvqa-export.json"
MANIFEST_LAYOUT = 1
"""Raise it when a folder written from now on cannot be read by older code."""

PLACEHOLDER = "<image>"
"""What stands for the picture in the turns of ``llava``; programs that read them replace it wherever it is."""

HUB_SPLITS: Mapping[Split, str] = {"train": "train", "val": "validation", "test": "test"}
"""The hub's names of the splits; it knows no ``val``."""

_KINDS: Mapping[Kind, TypeAdapter[Any]] = {"vqa": TypeAdapter(VqaSample), "caption": TypeAdapter(CaptionedImage)}
_PAIRS = ("tags", "withheld")
_PAIR_LIST = pa.list_(pa.struct({"key": pa.string(), "value": pa.string()}))
_COLUMNS: Mapping[str, pa.DataType] = {
    "kind": pa.string(),
    "sample_id": pa.string(),
    "image_id": pa.string(),
    "group_id": pa.string(),
    "split": pa.string(),
    "language": pa.string(),
    "question": pa.string(),
    "answers": pa.list_(pa.string()),
    "answer_type": pa.string(),
    "answer_type_stated": pa.bool_(),
    "choices": pa.list_(pa.string()),
    "link_id": pa.string(),
    "dialogue_id": pa.string(),
    "turn": pa.int64(),
    "synthetic": pa.bool_(),
    "text": pa.string(),
    "tags": _PAIR_LIST,
    "withheld": _PAIR_LIST,
}


def kind_of(record: Record) -> Kind:
    """``vqa`` or ``caption``."""
    return "vqa" if isinstance(record, VqaSample) else "caption"


def table_name(split: Split, layout: Format) -> str:
    """The name of a split's table; for ``hub``, what its shards begin with."""
    if layout == "hub":
        return f"data/{HUB_SPLITS[split]}"
    return f"{split}.json" if layout == "llava" else f"{split}.jsonl"


def hub_schema() -> pa.Schema:
    """The columns of a hub table, with the mark by which the ``datasets`` library shows ``image`` as a picture."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    return pa.schema({"image": image, **_COLUMNS}, metadata={"huggingface": json.dumps(features)})


def hub_row(record: Record) -> dict[str, Any]:
    """The columns of one record but for ``image``; a field that its kind lacks is null."""
    values = {name: value for name, value in _fields(record).items() if name in _COLUMNS}
    for name in _PAIRS:
        if name in values:
            # The datasets library knows no mapping with free keys.
            values[name] = [{"key": key, "value": value} for key, value in values[name].items()]
    return values


def hub_record(values: Mapping[str, Any], *, image: Path) -> Record:
    """The record in one row of a hub table. Raises ``RowError`` if there is none."""
    fields = {name: value for name, value in values.items() if name in _COLUMNS and value is not None}
    for name in _PAIRS:
        if name in fields:
            fields[name] = _mapping(fields[name], name)
    return _record(fields, image=image)


def row_of(record: Record, *, layout: Format, image: str) -> dict[str, Any]:
    """One row of a ``llava``, ``messages`` or ``paligemma`` table; ``image`` is relative to the folder."""
    fields = _fields(record)
    question, answer = _asked(record)
    if layout == "llava":
        turns = [{"from": "human", "value": f"{PLACEHOLDER}\n{question}"}, {"from": "gpt", "value": answer}]
        return {"id": record.sample_id, "image": image, "conversations": turns, "radvqa": fields}
    if layout == "messages":
        asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        answered = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        return {"messages": [asked, answered], "images": [image], "radvqa": fields}
    if layout == "paligemma":
        if isinstance(record, VqaSample):
            prefix = question_prefix(record.question, record.language)
        else:
            prefix = caption_prefix(record.language)
        return {"image": image, "prefix": prefix, "suffix": answer, "radvqa": fields}
    raise ValueError(f"{layout} has no rows of text")


def placeholder_side(record: Record) -> Literal["question", "answer"] | None:
    """Which side of a record holds ``PLACEHOLDER`` as text, so that ``llava`` would show its picture twice."""
    question, answer = _asked(record)
    if PLACEHOLDER in question:
        return "question"
    return "answer" if PLACEHOLDER in answer else None


def image_name(values: Mapping[str, Any], *, layout: Format) -> str:
    """The relative path of the picture in a row that ``row_of`` made. Raises ``RowError`` if there is none."""
    name = values.get("image")
    if layout == "messages":
        images = values.get("images")
        name = images[0] if isinstance(images, list) and len(images) == 1 else images
    if not isinstance(name, str):
        raise RowError("wrong_type", f"the row should name one image file, got {shown(name)}")
    return name


def record_of(values: Mapping[str, Any], *, layout: Format, image: Path) -> Record:
    """The record in one row that ``row_of`` made.

    Raises:
        RowError: there is none, or what the format shows is no longer what the record says.
    """
    fields = values.get("radvqa")
    if not isinstance(fields, Mapping):
        raise RowError("missing_key", f"'radvqa' should hold the record, got {shown(fields)}")
    record = _record(fields, image=image)
    expected = row_of(record, layout=layout, image=image_name(values, layout=layout))
    for name, value in expected.items():
        if name != "radvqa" and values.get(name) != value:
            detail = f"{name} should be {shown(value)} as the key radvqa says, got {shown(values.get(name))}"
            raise RowError("fields_disagree", f"{detail}; change both or neither")
    return record


def _asked(record: Record) -> tuple[str, str]:
    """Question, and the answer that is trained on."""
    if isinstance(record, VqaSample):
        return record.question, record.answers[0] if record.answers else ""
    return CAPTION_QUESTION, record.text


def _fields(record: Record) -> dict[str, Any]:
    """Every field but the path of the picture, as plain values."""
    values = {"kind": kind_of(record), **dataclasses.asdict(record)}
    del values["image"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _record(fields: Mapping[str, Any], *, image: Path) -> Record:
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RowError("unknown_value", f"kind should be one of {', '.join(_KINDS)}, got {shown(kind)}")
    try:
        # In JSON mode, where the strict mode takes a list for a tuple but no number for text.
        line = json.dumps({**fields, "image": ""}, ensure_ascii=False)
        record = _KINDS[cast(Kind, kind)].validate_json(line.encode(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the record"
        raise RowError("not_a_record", f"{name}: {first['msg']}, got {shown(first['input'])}") from error
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
        raise RowError("not_a_record", f"the record cannot be read: {error}") from error
    return cast(Record, dataclasses.replace(record, image=image))


def _mapping(pairs: Any, name: str) -> dict[str, Any]:
    try:
        found = {pair["key"]: pair["value"] for pair in pairs}
    except (TypeError, KeyError) as error:
        raise RowError("wrong_type", f"{name} should be a list of key and value, got {shown(pairs)}") from error
    if len(found) != len(pairs):
        raise RowError("repeated_key", f"{name} has a key twice: {shown(pairs)}")
    return found
