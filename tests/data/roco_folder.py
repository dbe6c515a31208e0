"""Tiny folders in the layouts of ROCO version 1 and ROCOv2."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

CAPTIONS = ("ROCO_00001\t Axial CT of the pelvis.", "ROCO_00002\t Frontal radiograph.")
LICENCES = ("ROCO_ID,PMC_ID,CC", "ROCO_00001,PMC11_a.003.jpg,CC BY", "ROCO_00002,PMC22_b-g1.jpg,CC BY-NC")


def write_roco(
    root: Path,
    files: Mapping[str, Sequence[str]] | None = None,
    *,
    folder: str = "data/validation/radiology",
    images: Sequence[str] = ("ROCO_00001", "ROCO_00002"),
) -> Path:
    """One folder of a split and a kind; ``files`` by name without the ending, each a list of lines."""
    place = root / folder
    for name, lines in (files or {"captions": CAPTIONS, "licences": LICENCES}).items():
        write_lines(place / f"{name}.txt", lines)
    for name in images:
        write_picture(place / "images" / f"{name}.jpg")
    return root


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """Lone surrogates are written as bytes that are no UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
    return path


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 8), 99).save(path)
    return path
