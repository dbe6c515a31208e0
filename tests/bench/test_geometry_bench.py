"""The full geometry: its counts on the meta device, and one update of each route at the tiny size."""

from pathlib import Path

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration

from radvqa.bench import geometry as bench
from radvqa.bench.engine import Stage, learn
from radvqa.errors import ModelError
from radvqa.models.geometry import geometry_of
from radvqa.models.lora import adapted_modules
from radvqa.models.vlm import Vlm, trainable_counts
from radvqa.recipe import Model

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


def test_paligemma_3b_has_the_published_counts(per_question: Vlm) -> None:
    found = geometry_of(Model(checkpoint=bench.PALIGEMMA, revision="0" * 40))
    assert found is not None
    with torch.device("meta"):
        network = PaliGemmaForConditionalGeneration(bench.configuration(found))
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_924_351_216
    assert found.parameters()["vision_encoder"] == 413_327_088
    assert found.parameters()["projector"] == 2_361_344
    vlm = Vlm(network, per_question.tokenizer, name="meta", compute_dtype=torch.bfloat16)
    learn(vlm, "adapt")
    assert adapted_modules(vlm) == {"vision_encoder": 27 * 4, "language_model": 18 * 4}
    learning = trainable_counts(vlm.network)
    assert learning["vision_encoder"] + learning["language_model"] == 3_833_856
    assert learning["projector"] == 2_361_344


@pytest.mark.parametrize("stage", ["align", "adapt"])
def test_both_routes_do_the_same_update(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "in_own_process", lambda work: work())
    monkeypatch.setattr(bench, "measured_speed", lambda dtype: 1e11)
    plain, engine = (
        bench.measure(route, stage, threads=None, folder=tmp_path, checkpoint="tiny") for route in ("plain", "engine")
    )
    assert engine.loss == pytest.approx(plain.loss, rel=2e-2)
    assert plain.learning == engine.learning
    assert plain.adapter_modules == engine.adapter_modules
    assert engine.counted_work == pytest.approx(engine.work, rel=0.15)
    assert engine.seconds > 0
    assert engine.utilisation == pytest.approx(engine.work / engine.seconds / 1e11)


def test_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    with pytest.raises(ModelError, match="CPUs only"):
        bench.measure("engine", "align", threads=None, folder=tmp_path)


def test_random_weights_are_neither_zero_nor_infinite() -> None:
    found = geometry_of(Model(checkpoint="tiny"))
    assert found is not None
    network = bench.random_network(found, dtype=torch.bfloat16)
    assert network.lm_head.weight is network.model.language_model.embed_tokens.weight
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.bfloat16, name
        assert parameter.isfinite().all(), name
        assert (parameter.abs() > 0).float().mean() > 0.9, name
