"""Features of pictures in files that are each written once, in a folder of bounded size."""

import hashlib
import json
import logging
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from radvqa.records import unwritable, write_bytes, write_json

logger = logging.getLogger(__name__)

_ABANDONED_SECONDS = 24 * 3600


class Row(NamedTuple):
    """Where the features of one picture lie, and their checksum."""

    segment: Path
    crc32: int


class Segments:
    """The files of one variant, in the folder of all."""

    def __init__(self, cache: Path, variant: Mapping[str, object]) -> None:
        self.variant = variant
        self._cache = cache

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self.variant, sort_keys=True).encode("ascii")).hexdigest()

    @cached_property
    def _folder(self) -> Path:
        return self._cache / self._digest[:16]

    def make_folder(self) -> None:
        """Make the folder, and remove what killed processes have left unfinished long ago."""
        stated = self._folder / "variant.json"
        if not stated.is_file():
            own = self._folder / f"{uuid.uuid4().hex}.json"
            write_json(own, self.variant)
            try:
                own.replace(stated)
            except OSError as error:
                raise unwritable(stated, error) from error
        for path in self._cache.glob("*/.*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def catalogue(self, wanted: Collection[str]) -> dict[str, Row]:
        """The rows of these pictures that are there. Damaged segments are removed, with a warning."""
        rows: dict[str, Row] = {}
        for segment in sorted(self._folder.glob("*.safetensors")):
            try:
                listed = self._checksums(self.open(segment))
            except FileNotFoundError:
                continue  # another process needed the room
            except (OSError, ValueError, SafetensorError) as error:
                logger.warning("cached features in %s are damaged (%s); leaving them out", segment, error)
                with suppress(OSError):
                    segment.unlink()
                continue
            for sha256 in listed.keys() & wanted:
                rows.setdefault(sha256, Row(segment, listed[sha256]))
        return rows

    def make_room(
        self, rows: Mapping[str, Row], *, pictures: int, bytes_per_picture: int, most_bytes: int
    ) -> dict[str, Row]:
        """Remove segments until all ``pictures`` fit; the rows that are left of ``rows``.

        Segments without a row go first, the longest unused before others. Segments with rows are given up, those
        with the fewest first, only where their other pictures would take the room.
        """
        used = Counter(row.segment for row in rows.values())
        sizes = {path: _size(path) for path in self._cache.glob("*/*")}
        missing = (pictures - len(rows)) * bytes_per_picture
        for segment, count in reversed(used.most_common()):
            if sum(sizes.get(kept, 0) for kept in used) + missing <= most_bytes:
                break
            del used[segment]
            missing += count * bytes_per_picture
        excess = sum(sizes.values()) + missing - most_bytes
        for segment in sorted(self._cache.glob("*/*.safetensors"), key=_last_use):
            if excess <= 0:
                break
            if segment not in used:
                with suppress(OSError):
                    segment.unlink()
                    excess -= sizes.get(segment, 0)
        for segment in used:
            _touch(segment)
        return {sha256: row for sha256, row in rows.items() if row.segment in used}

    def write(self, features: Mapping[str, Float[Tensor, "i d"]]) -> dict[str, Row]:
        """A new segment, written in one atomic step. Raises ``RunError``."""
        segment = self._folder / f"{uuid.uuid4().hex}.safetensors"
        checksums = {sha256: crc32_of(tensor) for sha256, tensor in features.items()}
        metadata = {"variant": self._digest, "crc32": json.dumps(checksums)}
        write_bytes(segment, save(dict(features), metadata))
        return {sha256: Row(segment, crc32) for sha256, crc32 in checksums.items()}

    def open(self, segment: Path) -> Any:
        """A mapped segment. Raises ``OSError``, ``SafetensorError`` or ``ValueError``."""
        return safe_open(segment, framework="pt")

    def use(self, segment: Path) -> Any:
        """``open``, noted as use of the segment, so that another run does not take it for one that nobody needs."""
        _touch(segment)
        return self.open(segment)

    def _checksums(self, opened: Any) -> dict[str, int]:
        metadata = opened.metadata() or {}
        if metadata.get("variant") != self._digest:
            raise ValueError("it holds other features")
        checksums = json.loads(metadata.get("crc32", ""))
        if not isinstance(checksums, dict) or checksums.keys() != set(opened.keys()):
            raise ValueError("its checksums are not those of its tensors")
        return checksums


def crc32_of(features: Float[Tensor, "i d"]) -> int:
    """The checksum of features as they are in memory."""
    return zlib.crc32(features.reshape(-1).view(torch.uint8).numpy().data)


def _size(path: Path) -> int:
    """In bytes; 0 for what another process has removed."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _last_use(segment: Path) -> float:
    with suppress(OSError):
        return segment.stat().st_mtime
    return 0.0


def _touch(segment: Path) -> None:
    with suppress(OSError):
        segment.touch(exist_ok=True)
