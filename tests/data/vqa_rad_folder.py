"""A tiny VQA-RAD folder in the official layout, with as many rows and pictures as a test asks for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def row(qid: Any, **changes: Any) -> dict[str, Any]:
    """One row with the fourteen official keys; picture, case and link are its own unless given."""
    return {
        "qid": qid,
        "phrase_type": "freeform",
        "qid_linked_id": f"link-{qid}",
        "image_case_url": f"https://medpix.nlm.nih.gov/case?id={qid}",
        "image_name": f"synpic{qid}.jpg",
        "image_organ": "CHEST",
        "evaluation": "not evaluated",
        "question": "Is the heart enlarged?",
        "question_rephrase": "NULL",
        "question_relation": "NULL",
        "question_frame": "NULL",
        "question_type": "SIZE",
        "answer": "Yes",
        "answer_type": "CLOSED",
        **changes,
    }


def write_table(root: Path, rows: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "VQA_RAD Dataset Public.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_folder(root: Path, rows: Sequence[Any]) -> Path:
    """The table, and a small picture for every row."""
    write_table(root, list(rows))
    folder = root / "VQA_RAD Image Folder"
    folder.mkdir()
    for number, name in enumerate(sorted({values["image_name"] for values in rows})):
        Image.new("RGB", (16, 12), (number % 256, 90, 90)).save(folder / name)
    return root
