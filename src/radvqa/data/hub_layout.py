"""Folders as the Hugging Face hub lays them out: Parquet files that carry their split in the name."""

import re
from collections.abc import Mapping
from pathlib import Path

from radvqa.data.tables import parquet_columns
from radvqa.sample import SPLITS, Split

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
            found.setdefault(_split_in(file.stem) or _split_in(file.parent.name) or default, []).append(file)
    return {split: tuple(found[split]) for split in SPLITS if split in found}


def _split_in(name: str) -> Split | None:
    words = re.split(r"[^A-Za-z]+", name)
    return next((split for word in reversed(words) if (split := split_named(word)) is not None), None)
