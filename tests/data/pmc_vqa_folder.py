"""A tiny PMC-VQA folder in the official layouts of both versions."""

import csv
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FIGURE = "PMC1064097_F1.jpg"
CHOICES = {
    "Choice A": "A:Diffuse uptake",
    "Choice B": "B:Focal uptake",
    "Choice C": "C:No uptake",
    "Choice D": "D:Cannot determine",
}


def row(**changes: Any) -> dict[str, Any]:
    """One row of version 1."""
    return {
        "Figure_path": FIGURE,
        "Question": "What is the uptake pattern in the breast?",
        "Answer": "Focal uptake",
        **CHOICES,
        "Answer_label": "B",
        **changes,
    }


def second_row(**changes: Any) -> dict[str, Any]:
    """One row of version 2."""
    return {
        "index": "0",
        "Figure_path": FIGURE,
        "Caption": "Focal uptake in the left breast.",
        "Question": "What is the uptake pattern in the breast?",
        **{letter: f" {text} " for letter, text in CHOICES.items()},
        "Answer": "B",
        "split": "train",
        **changes,
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, list(columns or rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_images(folder: Path, names: Sequence[str] = (FIGURE,)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (12, 16), "gray").save(folder / name)


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows of version 1 as the hub's Parquet copies hold them: other names, the picture inside."""
    picture = BytesIO()
    Image.new("RGB", (12, 16), "gray").save(picture, "PNG")
    values = [
        {
            "image": {"bytes": picture.getvalue(), "path": None},
            "caption": "Focal uptake in the left breast.",
            **{key.lower().replace("_", " "): value for key, value in one.items() if key != "Figure_path"},
        }
        for one in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(values), path)
    return path
