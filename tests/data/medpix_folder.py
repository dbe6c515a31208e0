"""A tiny MedPix 2.0 folder in the official layout, and tables of generated questions on it."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def description(image: str = "MPX1_synpic1", **changes: Any) -> dict[str, Any]:
    """One line of a table of descriptions; the keys of ``Description`` may be changed directly."""
    inner = {
        "ACR Codes": "8.-1",
        "Age": "73",
        "Caption": "A dilated bladder.",
        "Figure Part": None,
        "Modality": "CT - noncontrast",
        "Plane": "Axial",
        "Sex": "male",
    }
    inner.update({key: value for key, value in changes.items() if key in inner})
    outer = {
        "Type": "CT",
        "U_id": image.split("_", maxsplit=1)[0],
        "image": image,
        "Description": inner,
        "Location": "Genitourinary",
        "Location Category": "Abdomen",
    }
    return {**outer, **{key: value for key, value in changes.items() if key not in inner}}


def case(case_id: str = "MPX1", **changes: Any) -> dict[str, Any]:
    """One line of a table of cases."""
    return {
        "U_id": case_id,
        "TAC": [f"{case_id}_synpic1"],
        "MRI": [],
        "Case": {"Title": "Bladder Diverticulum", "Case Diagnosis": "Bladder Diverticulum", "Exam": "N/A"},
        "Topic": {"Title": "Bladder", "Disease Discussion": "Often obstruction.", "Category": "Diverticulum"},
        **changes,
    }


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_medpix(
    root: Path,
    tables: Mapping[str, Sequence[Any]],
    *,
    uid_list: Any = None,
    images: Sequence[str] = ("MPX1_synpic1",),
) -> Path:
    """``tables`` by their names without the ending, such as ``descriptions_train``."""
    for name, rows in tables.items():
        write_lines(root / "splitted_dataset" / f"{name}.jsonl", rows)
    if uid_list is not None:
        (root / "splitted_dataset" / "uid_list.json").write_text(json.dumps(uid_list), encoding="utf-8")
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name in images:
        Image.new("L", (12, 8), 99).save(root / "images" / f"{name}.png")
    return root


def question(**changes: Any) -> dict[str, Any]:
    """One row of the CSV of ShortQA."""
    return {
        "image_id": "sample/MPX1_synpic1.png",
        "case_id": "MPX1",
        "question": "What is shown?",
        "answer": "A bladder.",
        "ans_len": "2",
        "mode": "alignment",
        "split": "Train",
        "new_lines": "0",
        **changes,
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None) -> Path:
    """A CSV with the columns of ``rows[0]``; lone surrogates are written as bytes that are no UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns or list(rows[0]))
        writer.writerows(list(row.values()) for row in rows)
    return path


def picture(*, name: str | None = None, gray: int = 99) -> dict[str, Any]:
    """A picture as Parquet files of the hub hold it."""
    content = BytesIO()
    Image.new("L", (12, 8), gray).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": name}


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path
