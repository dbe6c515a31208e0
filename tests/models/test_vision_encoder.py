"""Another SigLIP tower in front of the tiny checkpoint's language model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError
from radvqa.evaluate.predict import predict
from radvqa.models.embedded import calibration_features
from radvqa.models.geometry import geometry_of
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vision, Vlm
from radvqa.recipe import Model
from radvqa.sample import VqaSample


def tower_config(*, width: int, image: int, patch: int, **more: Any) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image,
        patch_size=patch,
        **more,
    )


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tower alone with 9 tokens of width 24, and a whole SigLIP with a pooling head, 16 tokens of width 40."""
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(1)
    SiglipVisionModel(tower_config(width=24, image=42, patch=14, vision_use_head=False)).save_pretrained(
        folder / "alone"
    )
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = tower_config(width=40, image=32, patch=8).to_dict()
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder / "whole")
    return {"alone": folder / "alone", "whole": folder / "whole"}


def opened(tower: Path | str, **more: Any) -> Vlm:
    return open_vlm(Model(checkpoint="tiny", vision_encoder=str(tower), dtype="float32", **more), say=lambda _: None)


@pytest.mark.parametrize(("name", "sizes"), [("alone", (9, 24, 42)), ("whole", (16, 40, 32))])
def test_sizes_follow_the_tower_and_the_language_model_stays(
    towers: dict[str, Path], open_tiny: Callable[..., Vlm], name: str, sizes: tuple[int, int, int]
) -> None:
    tokens, width, size = sizes
    vlm, tiny = opened(towers[name]), open_tiny()
    assert (vlm.tokens.image_tokens, vlm.image_size) == (tokens, size)
    assert vlm.see(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape == (1, tokens, width)
    for key, value in tiny.language_model.state_dict().items():
        assert torch.equal(vlm.language_model.state_dict()[key], value), key
    stored = SiglipVisionModel.from_pretrained(towers[name], vision_use_head=False).state_dict()
    assert stored.keys() == vlm.vision_encoder.state_dict().keys()
    for key, value in vlm.vision_encoder.state_dict().items():
        assert torch.equal(stored[key], value), key


def test_the_projector_starts_on_the_scale_of_the_text_embeddings(towers: dict[str, Path]) -> None:
    vlm = opened(towers["alone"])
    with torch.no_grad():
        image = vlm.projector(calibration_features(vlm.base, vlm.image_size))
    table = vlm.language_model.embed_tokens.weight
    kept = [row for row in range(len(table)) if row not in (vlm.tokens.image_id, vlm.tokens.bos_id)]
    text = table[kept] * table.shape[1] ** 0.5
    torch.testing.assert_close(image.mean(dim=0), text.mean(dim=0), atol=1e-4, rtol=0)
    torch.testing.assert_close(image.std(dim=0), text.std(dim=0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_it_learns_and_answers(
    towers: dict[str, Path], samples: tuple[VqaSample, ...], tmp_path: Path, layout: str
) -> None:
    vlm = opened(towers["whole"], layout=layout)
    store = ImageStore.build([one.image for one in samples], size=vlm.image_size, cache=tmp_path)
    batch = vlm.batch(vlm.rows(samples[:3], answers=True))
    image = torch.from_numpy(np.stack([store.pixels(samples[0].image)]))
    vision = Vision(torch.zeros(len(batch.rows), dtype=torch.long), pixels=image)
    vlm.projector.requires_grad_(True)
    before = vlm.projector.linear.weight.detach().clone()
    loss = torch.nn.functional.cross_entropy(vlm.supervised_logits(batch, vision), batch.targets)
    loss.backward()
    torch.optim.SGD(vlm.projector.parameters(), lr=0.1).step()
    assert not torch.equal(before, vlm.projector.linear.weight)
    again = torch.nn.functional.cross_entropy(vlm.supervised_logits(batch, vision), batch.targets)
    assert again.item() < loss.item()
    found = predict(vlm, samples[:3], store, condition="model", max_new_tokens=3, batch_size=2, seed=0)
    assert len(found) == 3


def test_it_is_made_once_and_reloads_the_same(towers: dict[str, Path]) -> None:
    told: list[str] = []
    model = Model(checkpoint="tiny", vision_encoder=str(towers["alone"]), dtype="float32")
    first = open_vlm(model, say=lambda _: None)
    second = open_vlm(model, say=told.append)
    assert not [line for line in told if line.startswith("vision encoder")]
    assert first.name == second.name
    for key, value in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key


def test_the_digest_names_both_and_follows_the_tower(towers: dict[str, Path], open_tiny: Callable[..., Vlm]) -> None:
    one, other = opened(towers["alone"]), opened(towers["whole"])
    assert one.digest != other.digest
    assert one.digest.startswith(f"{open_tiny().digest}, vision encoder sha256 ")
    note = json.loads((Path(one.name) / "vision_encoder.json").read_text())
    assert note["vision_encoder"] == str(towers["alone"])


def test_sizes_are_known_without_torch(towers: dict[str, Path]) -> None:
    for name, tower in towers.items():
        vlm = opened(tower)
        geometry = geometry_of(Model(checkpoint="tiny", vision_encoder=str(tower)))
        assert geometry is not None
        counted = sum(parameter.numel() for parameter in vlm.vision_encoder.parameters())
        assert geometry.parameters()["vision_encoder"] == counted, name
        assert geometry.parameters()["projector"] == sum(one.numel() for one in vlm.projector.parameters())


def test_what_cannot_be_a_tower_is_refused(towers: dict[str, Path], tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not there"):
        opened(tmp_path / "nothing")
    with pytest.raises(ModelError, match="needs a commit"):
        opened("google/siglip-base-patch16-224")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"}))
    with pytest.raises(ModelError, match="kind of vision encoder"):
        opened(tmp_path / "clip")
    coloured = tmp_path / "coloured"
    SiglipVisionModel.from_pretrained(towers["alone"]).save_pretrained(coloured)
    facts = {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.5] * 3}
    (coloured / "preprocessor_config.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="normalised otherwise"):
        opened(coloured)
    assert opened(tiny_folder).tokens.image_tokens == 16  # that of another PaliGemma checkpoint
