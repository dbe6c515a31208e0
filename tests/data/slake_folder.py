"""A tiny SLAKE folder in the official layout, with as many rows and images as a test asks for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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


def write_table(root: Path, name: str, rows: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / name
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
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
