"""What a frozen vision tower makes of pictures, computed by an engine: worker processes here, or a Ray cluster."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from radvqa.data.image_store import ImageStore
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vlm
from radvqa.recipe import Model
from radvqa.run.engine import Engine


def extract_features(
    model: Model, store: ImageStore, paths: Sequence[Path], *, engine: Engine, batch_size: int = 8
) -> Iterator[Float[Tensor, "i d"]]:
    """The frozen tower's output for each path in turn, before the projector, in the compute dtype; they stream.

    Every worker opens the checkpoint once and reads the pictures from the store; machines of a
    cluster must see the store's cache folder. The store must hold pictures of the model's size.

    Args:
        model: which checkpoint.
        store: holds all ``paths``.
        paths: what is to be seen.
        engine: where to compute. A worker takes the memory of one model.
        batch_size: pictures that go through the tower together.

    Raises:
        ModelError: the checkpoint cannot be opened, or takes pictures of another size.
        RunError: a worker died.
    """
    parts = (store.part(paths[first : first + batch_size]) for first in range(0, len(paths), batch_size))
    batches = (paths[first : first + batch_size] for first in range(0, len(paths), batch_size))
    see = partial(_seen, model.model_dump_json())
    for features in engine.map(see, zip(parts, batches, strict=True), group=1):
        yield from torch.from_numpy(features).view(_dtype_of(features))


def _seen(model: str, batch: tuple[ImageStore, Sequence[Path]]) -> np.ndarray:
    """The features of one batch; bfloat16 as its bits, for NumPy has no such type."""
    store, paths = batch
    vlm = _opened(model)
    pixels = torch.from_numpy(np.stack([store.pixels(path) for path in paths]))
    with torch.inference_mode():
        features = vlm.see(pixels).to(vlm.compute_dtype).cpu()
    found: np.ndarray = (features.view(torch.uint16) if features.dtype == torch.bfloat16 else features).numpy()
    return found


def _dtype_of(features: np.ndarray) -> torch.dtype:
    return torch.bfloat16 if features.dtype == np.uint16 else torch.float32


@lru_cache(maxsize=1)
def _opened(model: str) -> Vlm:
    """The checkpoint of this worker."""
    # Threads are the engine's to set; a single batch is computed in the caller's process, which keeps its own.
    return open_vlm(Model.model_validate_json(model).model_copy(update={"threads": None}), say=_nothing)


def _nothing(_: str) -> None:
    pass
