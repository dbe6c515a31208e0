"""A tiny SLAKE folder in the official layout, with as many rows and images as a test asks for."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WIDTH, HEIGHT = 24, 16


def row(qid: int, **changes: Any) -> dict[str, Any]:
    """One row with the twelve official keys; ``img_name`` follows ``img_id`` unless given."""
    values: dict[str, Any] = {
        "img_id": 1,
        "question": "Is the liver in view?",
        "answer": "Yes",
        "q_lang": "en",
        "location": "Abdomen",
        "modality": "CT",
        "answer_type": "CLOSED",
        "base_type": "vqa",
        "content_type": "Organ",
        "triple": ["vhead", "_", "_"],
        "qid": qid,
        **changes,
    }
    return {"img_name": f"xmlab{values['img_id']}/source.jpg", **values}


def write_table(root: Path, name: str, rows: Any, *, ascii_only: bool = False) -> Path:
    """A JSON list; ``ascii_only`` escapes all else, which is how a lone surrogate can stand in a file."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / name
    path.write_text(json.dumps(rows, ensure_ascii=ascii_only), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[tuple[str | None, str | None]]) -> Path:
    """Questions and answers about one and the same small picture, as the hub stores them."""
    picture = BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), "gray").save(picture, "PNG")
    image = {"bytes": picture.getvalue(), "path": None}
    values = [{"image": image, "question": question, "answer": answer} for question, answer in rows]
    fields = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": fields, "question": pa.string(), "answer": pa.string()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(values, schema=schema), path)
    return path


def write_image(root: Path, number: int, *, boxes: Any = (), images: str = "imgs") -> Path:
    """A gray ramp as source.jpg, and detection.json; returns the image's folder."""
    folder = root / images / f"xmlab{number}"
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 255, WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    Image.fromarray(np.stack([ramp, ramp, np.full_like(ramp, number % 256)], axis=-1)).save(folder / "source.jpg")
    (folder / "detection.json").write_text(json.dumps(list(boxes)), encoding="utf-8")
    return folder


def label_map(values: Sequence[int]) -> np.ndarray:
    """One vertical stripe per value, (HEIGHT, WIDTH) uint8."""
    stripes = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for column, value in enumerate(values):
        stripes[:, column] = value
    return stripes


def write_folder(
    root: Path, tables: Mapping[str, Sequence[Any]], *, images: Sequence[int] = (1,), folder: str = "imgs"
) -> Path:
    for name, rows in tables.items():
        write_table(root, name, list(rows))
    for number in images:
        write_image(root, number, images=folder)
    (root / folder).mkdir(parents=True, exist_ok=True)
    return root
