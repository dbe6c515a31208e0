"""Folders as the Hugging Face hub lays them out: Parquet files that carry their split in the name."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from radvqa.data.adapter import Item
from radvqa.data.answers import inferred_answer_type
from radvqa.data.image_cache import embedded_image
from radvqa.data.tables import Row, parquet_columns
from radvqa.sample import SPLITS, Defect, Split, VqaSample

SPLIT_SPELLINGS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "vaild": "val",  # as adishourya/ROCO-QA spells it
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def split_named(text: str) -> Split | None:
    """The split that one of the many spellings of the field means, or None."""
    return SPLIT_SPELLINGS.get(text.strip().lower())


def parquet_splits(root: Path, *, columns: frozenset[str], default: Split = "train") -> dict[Split, tuple[Path, ...]]:
    """The Parquet files under ``root`` that have all of ``columns``, by the split in their names.

    ``root`` is one file, or a folder with files such as ``data/train-00000-of-00002.parquet``, ``name.train.parquet``
    or ``validation/0000.parquet``. A file for which neither its name nor its folder tells a split counts as
    ``default``; with none that fit, the result is empty.
    """
    if root.is_file():
        files = [root] if root.suffix.lower() == ".parquet" else []
    elif root.is_dir():
        files = sorted([*root.glob("*.parquet"), *root.glob("*/*.parquet")])
    else:
        files = []
    found: dict[Split, list[Path]] = {}
    for file in files:
        if columns <= set(parquet_columns(file)):
            found.setdefault(split_in_name(file, root) or default, []).append(file)
    return {split: tuple(found[split]) for split in SPLITS if split in found}


def split_in_name(path: Path, root: Path) -> Split | None:
    """The split that the last telling word of a file's name says, else its folder's, if that lies below ``root``."""
    words = re.split(r"[^A-Za-z]+", path.stem)
    folder = re.split(r"[^A-Za-z]+", path.parent.name) if path.parent not in (root, root.parent) else []
    return next((split for word in (*reversed(words), *folder) if (split := split_named(word)) is not None), None)


def hub_question(row: Row, split: Split, *, dataset: str) -> Iterator[Item]:
    """The question of a row with image, question and answer alone, as the hub has many: the group is the picture.

    Ids begin with ``dataset``; the picture's is from its bytes, the question's from file and row. Raises ``RowError``.
    """
    question, raw_answer = " ".join(row.text("question").split()), row.text("answer")
    answer = " ".join(raw_answer.split())
    image = embedded_image(row, "image")
    sample_id, image_id = f"{dataset}-{row.name}", f"{dataset}-{image.stem[:16]}"
    if answer != raw_answer:
        detail = f"white space around or inside the answer {raw_answer!r} was collapsed"
        yield Defect(subject=sample_id, reason="white_space_in_answer", where=row.where, detail=detail)
    yield VqaSample(
        sample_id=sample_id,
        image_id=image_id,
        image=image,
        question=question,
        answers=(answer,),
        answer_type=inferred_answer_type(answer),
        answer_type_stated=False,
        group_id=image_id,
        split=split,
    )
