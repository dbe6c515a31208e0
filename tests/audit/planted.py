"""A clean little data set in memory, into which tests plant what the audit must find."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from scipy import ndimage

from radvqa.audit import AuditReport, audit
from radvqa.audit.finding import Finding
from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.run.engine import LocalEngine
from radvqa.run.progress import Progress
from radvqa.sample import SPLITS, CaptionedImage, Defect, Split, VqaSample


class Planted(DatasetAdapter):
    licence: ClassVar[str] = "CC0"
    citation: ClassVar[str] = "nobody, 2026"
    homepage: ClassVar[str] = "here"

    def __init__(self, items: Sequence[Item], *, beside: Sequence[Defect] = ()) -> None:
        self.items, self.beside = items, beside

    def splits(self) -> tuple[Split, ...]:
        return tuple(split for split in SPLITS if any(True for _ in self.rows(split)))

    def rows(self, split: Split) -> Iterator[Item]:
        for item in self.items:
            if getattr(item, "split", "train") == split:
                yield item

    def sources(self) -> tuple[Path, ...]:
        return ()

    def defects(self) -> Iterator[Defect]:
        return iter(self.beside)


def picture(folder: Path, name: str, *, seed: int, size: int = 96) -> Path:
    """A smooth random picture that is like no other; the same seed gives the same pixels."""
    path = folder / f"{name}.png"
    if not path.exists():
        smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), size / 10)
        smooth = 255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
        Image.fromarray(smooth.astype(np.uint8)).save(path)
    return path


def question(folder: Path, number: int, **changes: Any) -> VqaSample:
    """An open question about an image of its own, unlike all others."""
    sample = VqaSample(
        sample_id=f"s{number}",
        image_id=f"i{number}",
        image=picture(folder, f"i{number}", seed=number),
        question=f"Which sign number {number} is seen?",
        answers=(f"sign of type {chr(97 + number % 26)}{number}x",),
        answer_type="open",
        group_id=f"g{number}",
        split="train",
    )
    return replace(sample, **changes)


def caption(folder: Path, number: int, **changes: Any) -> CaptionedImage:
    record = CaptionedImage(
        sample_id=f"c{number}",
        image_id=f"i{number}",
        image=picture(folder, f"i{number}", seed=number),
        text=f"Axial scan with a lesion of kind {number} in the left lobe.",
        group_id=f"g{number}",
        split="train",
    )
    return replace(record, **changes)


def report(**datasets: Sequence[Item] | Planted) -> AuditReport:
    adapters = {name: one if isinstance(one, Planted) else Planted(one) for name, one in datasets.items()}
    return audit(
        [(name, "planted", adapter) for name, adapter in adapters.items()],
        progress=Progress(quiet=True),
        engine=LocalEngine(1),
    )


def findings(**datasets: Sequence[Item] | Planted) -> Mapping[str, Finding]:
    found = report(**datasets).findings
    assert len({(one.check, one.dataset, one.title) for one in found}) == len(found)
    return {one.check: one for one in found}
