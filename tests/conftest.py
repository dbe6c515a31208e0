"""One thread, a cache of their own and no hub for all tests; the tiny checkpoint and a few phantoms for those that ask.

Nothing here loads torch before a test asks for a model, so the light tests stay light.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from radvqa.data.adapters.phantom import PhantomDataset
from radvqa.data.image_store import ImageStore
from radvqa.records import RecordFile, write_records
from radvqa.sample import VqaSample

if TYPE_CHECKING:
    from radvqa.models.vlm import Vlm

# Before torch is loaded here or in a child process: threads of competing processes slow each other down.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

USER_CACHE = os.environ.get("XDG_CACHE_HOME")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the user's caches."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def user_cache() -> Callable[[pytest.MonkeyPatch], None]:
    """Undo ``own_cache`` inside a patch: the embedded base is built once per user, not once per test run."""

    def restore(patch: pytest.MonkeyPatch) -> None:
        if USER_CACHE is None:
            patch.delenv("XDG_CACHE_HOME")
        else:
            patch.setenv("XDG_CACHE_HOME", USER_CACHE)

    return restore


@pytest.fixture(scope="session")
def tiny_folder(own_cache: Path) -> Path:
    """The tiny checkpoint."""
    from radvqa.models.tiny import tiny_base

    return tiny_base()


@pytest.fixture
def open_tiny(tiny_folder: Path) -> "Callable[..., Vlm]":
    """Open the tiny checkpoint afresh: ``open_tiny("shared_image", dtype="bfloat16")``."""
    from radvqa.models.opening import open_vlm
    from radvqa.recipe import Model

    def opened(layout: str = "per_question", *, dtype: str = "float32") -> "Vlm":
        return open_vlm(Model(checkpoint="tiny", layout=layout, dtype=dtype), say=lambda _: None)

    return opened


@pytest.fixture
def per_question(open_tiny: "Callable[..., Vlm]") -> "Vlm":
    """The tiny checkpoint in PaliGemma's own layout."""
    return open_tiny("per_question")


@pytest.fixture
def shared_image(open_tiny: "Callable[..., Vlm]") -> "Vlm":
    """The tiny checkpoint with all questions of an image in one row."""
    return open_tiny("shared_image")


@pytest.fixture(params=["per_question", "shared_image"])
def vlm(request: pytest.FixtureRequest, open_tiny: "Callable[..., Vlm]") -> "Vlm":
    """The tiny checkpoint, once in each layout."""
    return open_tiny(request.param)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> PhantomDataset:
    """A small phantom corpus: 5 + 4 images with three questions each."""
    root = tmp_path_factory.mktemp("phantoms")
    return PhantomDataset(count={"train": 5, "val": 4}, size=112, questions_per_image=3, root=str(root))


@pytest.fixture(scope="session")
def samples(phantom: PhantomDataset) -> tuple[VqaSample, ...]:
    """The training questions of the small phantom corpus, image by image."""
    return phantom.read("train").samples


@pytest.fixture(scope="session")
def sample_file(samples: tuple[VqaSample, ...], tmp_path_factory: pytest.TempPathFactory) -> RecordFile[VqaSample]:
    """The same questions as a run keeps them."""
    path = tmp_path_factory.mktemp("samples") / "phantom-train.jsonl"
    write_records(path, samples)
    return RecordFile(path, VqaSample)


@pytest.fixture(scope="session")
def store(phantom: PhantomDataset, tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """All pictures of the small phantom corpus at the size of the tiny checkpoint."""
    paths = [one.image for split in ("train", "val") for one in phantom.read(split).samples]
    return ImageStore.build(paths, size=56, cache=tmp_path_factory.mktemp("pictures"))
