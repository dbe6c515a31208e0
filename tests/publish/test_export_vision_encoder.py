"""What a run with another vision encoder learned, passed on."""

import json
import subprocess
import warnings

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from radvqa.errors import ModelError
from radvqa.pipeline import open_model
from radvqa.publish import loader_check, plain_loader
from radvqa.publish.export import export


@pytest.fixture
def tower(tmp_path):
    config = SiglipVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=14,
        vision_use_head=False,
    )  # fmt: skip
    torch.manual_seed(2)
    SiglipVisionModel(config).save_pretrained(tmp_path / "private" / "other-tower")
    return tmp_path / "private" / "other-tower"


@pytest.mark.parametrize("merge", [False, True])
def test_it_loads_elsewhere_and_names_both_parts(trained, tower, tmp_path, monkeypatch, merge):
    def run_here(exchange):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return subprocess.CompletedProcess([], 0, json.dumps(plain_loader.measure(str(exchange))), "")

    monkeypatch.setattr(loader_check, "plain_process", run_here)
    run, _ = trained("adapter", vision_encoder=str(tower))
    found = export(run, tmp_path / "out", merge=merge)
    assert found.check is not None
    assert found.check.passed
    base = json.loads((tmp_path / "out" / "training_manifest.json").read_text())["base"]
    assert base["checkpoint"] == "tiny with the vision encoder of other-tower"
    assert base["language_model"] == {"checkpoint": "tiny", "revision": None}
    assert base["vision_encoder"] == {"checkpoint": "other-tower", "revision": None}
    assert "vision encoder sha256" in base["weights"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the vision encoder is that of other-tower, with its own licence" in card
    assert ("vision_encoder: other-tower" in card) == (not merge)
    for path in (tmp_path / "out").glob("*.*"):
        if path.suffix in (".json", ".md"):
            assert str(tower.parent) not in path.read_text(), path.name


def test_adapters_on_another_vision_encoder_are_evaluated(trained, tower, tmp_path):
    run, _ = trained("adapter", vision_encoder=str(tower))
    export(run, tmp_path / "out", merge=False)
    settings = {"revision": None, "base": None, "layout": None, "dtype": "float32", "image_size": 224, "threads": None}
    with pytest.raises(ModelError, match="the vision encoder of this base is a folder that is not here"):
        open_model(str(tmp_path / "out"), **settings, say=lambda _: None)
    path = tmp_path / "out" / "training_manifest.json"
    manifest = json.loads(path.read_text())
    manifest["base"]["vision_encoder"]["checkpoint"] = str(tower)
    path.write_text(json.dumps(manifest))
    opened = open_model(str(tmp_path / "out"), **settings, say=lambda _: None)
    assert opened.weights.startswith(manifest["base"]["weights"])
    assert opened.vlm.vision_encoder.config.hidden_size == 24
