"""What a vision tower that does not learn makes of pictures: computed once, on disk, for all stages and runs."""

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, final

import torch
import transformers
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError
from radvqa.models.feature_segments import Row, Segments, crc32_of
from radvqa.models.vlm import Vlm

logger = logging.getLogger(__name__)

_LAYOUT = 1
_PICTURES_PER_SEGMENT = 64
_OPEN_SEGMENTS = 32
_HEADER_BYTES = 256


class FeaturesDoNotFit(NamedTuple):
    """The features of the pictures alone take more than the cache may."""

    needed_bytes: int
    most_bytes: int


@final
class FeatureStore:
    """A frozen tower's outputs before the projector, in the compute dtype, by the content of the picture files.

    On disk: a folder for all that the numbers depend on beside the picture file (``variant.json`` in it), so that stale
    features are never met. In it segments of up to 64 pictures, each written once: safetensors files with one tensor
    for each picture, named by the sha256 of the picture file; their CRC-32 in the metadata. Equal files share a row.

    Segments are mapped into memory, at most 32 at a time. Each row is checked at its first use in a process; what is
    damaged or gone is computed again.
    """

    def __init__(self, tower: "_Tower", segments: Segments, pictures: Mapping[str, Path]) -> None:
        self._tower = tower
        self._segments = segments
        self._pictures = pictures
        self._rows: dict[str, Row] = {}
        self._checked: set[str] = set()
        self._opened = lru_cache(maxsize=_OPEN_SEGMENTS)(segments.use)
        self._lock = threading.Lock()

    @staticmethod
    def build(
        vlm: Vlm,
        store: ImageStore,
        paths: Sequence[Path],
        *,
        cache: Path,
        most_bytes: int,
        seen: Callable[[int], None],
    ) -> "FeatureStore | FeaturesDoNotFit":
        """The features of ``paths``; those that ``cache`` does not hold are computed and added to it.

        Every picture goes through the tower alone, so that its features do not depend on what is cached already. What
        an interrupted build has written is used by the next one. Where ``most_bytes`` would be passed, other segments
        are removed first, the longest unused ones before others.

        Args:
            vlm: whose tower; it must not learn.
            store: holds all ``paths``.
            paths: picture files; repeated paths count once.
            cache: folder of all features of all towers; made if needed.
            most_bytes: what ``cache`` may take on disk.
            seen: told how many more of the distinct paths are there.

        Returns:
            The store, or how much it would need where that is more than ``most_bytes``: nothing is written then.

        Raises:
            ModelError: the tower learns, has adapters or dropout, or takes pictures of another size.
            RunError: ``cache`` is full or not writable.
            KeyError: ``store`` does not know a path.
        """
        tower = _Tower(vlm, store)
        variant = tower.variant()
        distinct = {path: store.sha256(path) for path in paths}
        pictures = {sha256: path for path, sha256 in distinct.items()}
        needed = len(pictures) * tower.bytes_per_picture
        if needed > most_bytes:
            return FeaturesDoNotFit(needed, most_bytes)
        segments = Segments(cache, variant)
        segments.make_folder()
        features = FeatureStore(tower, segments, pictures)
        features._rows = segments.make_room(
            segments.catalogue(pictures),
            pictures=len(pictures),
            bytes_per_picture=tower.bytes_per_picture,
            most_bytes=most_bytes,
        )
        uses = Counter(distinct.values())
        if there := sum(uses[sha256] for sha256 in features._rows):
            seen(there)
        features._compute_missing(lambda sha256: seen(uses[sha256]))
        return features

    def features(self, path: Path) -> Float[Tensor, "i d"]:
        """The tower's output for one picture, a view of the mapped file. Writing to it changes no file.

        What is damaged is computed again, with a logged warning.

        Raises:
            KeyError: the store was not built with this picture.
            ModelError: the row is damaged, and the tower is not the one of ``build`` any more.
            DataError: the row is damaged, and so is the picture file.
            RunError: the row is damaged, and the mended one cannot be written.
        """
        sha256 = self._tower.store.sha256(path)
        with self._lock:
            found = self._read(sha256)
            return self._mended(sha256) if found is None else found

    def _compute_missing(self, seen: Callable[[str], None]) -> None:
        fresh: dict[str, Tensor] = {}
        try:
            for sha256, path in self._pictures.items():
                if sha256 in self._rows:
                    continue
                fresh[sha256] = self._tower.see(path)
                if len(fresh) == _PICTURES_PER_SEGMENT:
                    self._write(fresh)
                seen(sha256)
        finally:
            self._write(fresh)

    def _write(self, fresh: dict[str, Tensor]) -> None:
        """Put features on disk and forget them here, also when that fails."""
        features = dict(fresh)
        fresh.clear()
        if features:
            self._rows |= self._segments.write(features)
            self._checked -= features.keys()

    def _read(self, sha256: str) -> Float[Tensor, "i d"] | None:
        """The features in a row, or None if they are not what was written."""
        row = self._rows[sha256]
        try:
            features: Tensor = self._opened(row.segment).get_tensor(sha256)
        except (OSError, ValueError, SafetensorError):
            return None
        if sha256 in self._checked:
            return features
        alike = (features.shape, features.dtype) == (self._tower.shape, self._tower.dtype)
        if not alike or crc32_of(features) != row.crc32:
            return None
        self._checked.add(sha256)
        return features

    def _mended(self, sha256: str) -> Float[Tensor, "i d"]:
        """The features of a damaged row. Its segment is replaced by one with what is intact in it and what was not."""
        segment = self._rows[sha256].segment
        logger.warning("cached features in %s are damaged or gone; computing them again", segment)
        found = {name: self._read(name) for name, row in self._rows.items() if row.segment == segment}
        with suppress(OSError):
            segment.unlink()
        self._tower.require_unchanged(self._segments.variant)
        whole = {
            name: self._tower.see(self._pictures[name]) if features is None else features.clone()
            for name, features in found.items()
        }
        mended = whole[sha256]
        self._write(whole)
        return mended


class _Tower:
    """A frozen tower and the pictures it is shown."""

    def __init__(self, vlm: Vlm, store: ImageStore) -> None:
        self.store = store
        self.dtype = vlm.compute_dtype
        self.shape = (vlm.tokens.image_tokens, int(vlm.base.config.vision_config.hidden_size))
        self._vlm = vlm

    @property
    def bytes_per_picture(self) -> int:
        """On disk, with its share of the header."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize + _HEADER_BYTES

    @torch.no_grad()
    def see(self, path: Path) -> Float[Tensor, "i d"]:
        """One picture, alone: companions would change the order of additions in bfloat16."""
        pixels = torch.from_numpy(self.store.pixels(path))[None]
        return self._vlm.see(pixels)[0].to(self.dtype).cpu().contiguous()

    def variant(self) -> dict[str, object]:
        """All that the features depend on, beside the bytes of the picture file.

        Raises:
            ModelError: the tower learns, or is more than its weights say.
        """
        self._require_frozen()
        tower, device = self._vlm.vision_encoder, self._vlm.device
        config = self._vlm.base.config.vision_config
        return {
            "layout": _LAYOUT,
            "tower": _digest(tower.state_dict()),
            "settings": [config.num_attention_heads, config.hidden_act, config.layer_norm_eps],
            "attention": config._attn_implementation,
            "pictures": dict(self.store.variant),
            "dtype": str(self.dtype).removeprefix("torch."),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": device.type,
            "processor": _processor(device),
        }

    def require_unchanged(self, variant: Mapping[str, object]) -> None:
        """Refuse to mend the features of one tower with those of another."""
        now = self.variant()
        if other := [name for name in now if now[name] != variant[name]]:
            raise ModelError(
                "cached features are damaged, and the vision tower is not what they were computed with",
                where=", ".join(other),
                expected=str(variant[other[0]]),
                got=str(now[other[0]]),
                fix="start again: they are computed at the start",
            )

    def _require_frozen(self) -> None:
        tower = self._vlm.vision_encoder
        for name, parameter in tower.named_parameters():
            if parameter.requires_grad:
                raise ModelError(
                    "features of a vision tower that learns cannot be kept",
                    where=name,
                    expected="no trainable parameter in the vision tower",
                    fix="give it the pixels of each batch",
                )
            if isinstance(parameter, DTensor):
                raise ModelError(
                    "features of a vision tower that is spread over processes cannot be computed",
                    where=name,
                    fix="start again: they are computed before the weights are spread",
                )
        if any(isinstance(module, BaseTunerLayer) for module in tower.modules()):
            raise ModelError(
                "features of a vision tower with adapters cannot be kept: its weights do not say all about it",
                fix="merge the adapters, or set features: computed",
            )
        if self._vlm.base.config.vision_config.attention_dropout:
            raise ModelError("features of a vision tower with dropout cannot be kept", fix="set features: computed")


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of tensors as they are in memory."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _processor(device: torch.device) -> str:
    """What decides the order of additions, which shows in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
