"""What the tower is given for a batch of rows: pixels, augmented pixels, or the features of a frozen tower."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from skimage.transform import AffineTransform, warp
from torch import Tensor

from radvqa.data.image_store import ImageStore
from radvqa.models.features import FeatureStore
from radvqa.models.layout import Row
from radvqa.models.vlm import Vision


def distinct_images(rows: Sequence[Row]) -> tuple[list[Path], Tensor]:
    """The distinct image paths of the rows in order of appearance, and which one each row uses."""
    paths = list(dict.fromkeys(row.image for row in rows))
    return paths, torch.tensor([paths.index(row.image) for row in rows])


class StoredPictures:
    """Pixels from the image store; each distinct image of a batch goes through the tower once."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def vision(self, rows: Sequence[Row], *, update: int) -> Vision:
        """The rows' pixels. ``update`` plays no part here."""
        paths, row_image = distinct_images(rows)
        return Vision(row_image, pixels=torch.from_numpy(np.stack([self._store.pixels(path) for path in paths])))


class AugmentedPictures:
    """Pixels under small random shifts, zooms, rotations and contrast changes, a function of seed, update and image."""

    def __init__(self, store: ImageStore, *, seed: int) -> None:
        self._store = store
        self._seed = seed

    def vision(self, rows: Sequence[Row], *, update: int) -> Vision:
        """The rows' pixels, changed anew at every update."""
        paths, row_image = distinct_images(rows)
        changed = [augment(self._store.pixels(path), self._generator(path, update)) for path in paths]
        return Vision(row_image, pixels=torch.from_numpy(np.stack(changed)))

    def _generator(self, path: Path, update: int) -> np.random.Generator:
        """Keyed by the picture's bytes, so that a moved data folder changes nothing."""
        return np.random.default_rng((self._seed, update, int(self._store.sha256(path)[:16], 16)))


class FrozenFeatures:
    """What a tower that does not learn makes of the pictures, from the cache."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def vision(self, rows: Sequence[Row], *, update: int) -> Vision:
        """The rows' features. ``update`` plays no part here."""
        paths, row_image = distinct_images(rows)
        return Vision(row_image, features=torch.stack([self._store.features(path) for path in paths]))


Pictures = StoredPictures | AugmentedPictures | FrozenFeatures


def augment(pixels: UInt8[np.ndarray, "y x 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "y x 3"]:
    """The picture turned by up to 8°, zoomed and shifted by up to 8 %, with other brightness and contrast.

    Never mirrored: left and right are asked for.
    """
    side = pixels.shape[0]
    centre = (side - 1) / 2
    zoom = np.exp(rng.uniform(-0.08, 0.08, size=2))
    around = AffineTransform(translation=(-centre, -centre))
    change = AffineTransform(
        scale=zoom, rotation=np.deg2rad(rng.uniform(-8, 8)), translation=rng.uniform(-0.06, 0.06, size=2) * side
    )
    back = AffineTransform(translation=(centre, centre))
    moved = warp(pixels, (around + change + back).inverse, order=1, mode="constant", preserve_range=True)
    contrast, brightness = np.exp(rng.uniform(-0.15, 0.15)), rng.uniform(-12, 12)
    changed: UInt8[np.ndarray, "y x 3"] = np.clip((moved - 128) * contrast + 128 + brightness, 0, 255).astype(np.uint8)
    return changed
