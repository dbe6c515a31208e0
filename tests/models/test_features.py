from pathlib import Path

import pytest
import torch

from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError
from radvqa.models.features import extract_features
from radvqa.models.vlm import Vlm
from radvqa.recipe import Model
from radvqa.run.engine import LocalEngine
from radvqa.sample import VqaSample


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch_size", [2, 8])
def test_features_of_an_engine_are_those_of_the_tower(
    store: ImageStore, samples: tuple[VqaSample, ...], open_tiny, dtype: str, batch_size: int
) -> None:
    vlm: Vlm = open_tiny(dtype=dtype)
    paths = list(dict.fromkeys(sample.image for sample in samples))
    model = Model(checkpoint="tiny", dtype=dtype)
    found = list(extract_features(model, store, paths, engine=LocalEngine(2), batch_size=batch_size))
    assert len(found) == len(paths) == 5
    for path, features in zip(paths, found, strict=True):
        with torch.no_grad():
            alone = vlm.see(torch.from_numpy(store.pixels(path))[None])[0].to(vlm.compute_dtype)
        assert features.dtype == vlm.compute_dtype
        torch.testing.assert_close(features, alone, rtol=2e-2 if dtype == "bfloat16" else 1e-5, atol=1e-2)


def test_pictures_of_another_size_are_refused(samples: tuple[VqaSample, ...], tmp_path: Path) -> None:
    paths = [samples[0].image]
    store = ImageStore.build(paths, size=28, cache=tmp_path)
    with pytest.raises(ModelError, match="wrong size"):
        list(extract_features(Model(checkpoint="tiny"), store, paths, engine=LocalEngine(1)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_features_on_ray_are_those_of_worker_processes(store: ImageStore, samples: tuple[VqaSample, ...]) -> None:
    ray = pytest.importorskip("ray")
    from radvqa.run.engine import RayEngine

    paths = list(dict.fromkeys(sample.image for sample in samples))
    model = Model(checkpoint="tiny", dtype="float32")
    try:
        remote = list(extract_features(model, store, paths, engine=RayEngine(2), batch_size=2))
    finally:
        ray.shutdown()
    local = list(extract_features(model, store, paths, engine=LocalEngine(2), batch_size=2))
    for one, other in zip(remote, local, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
