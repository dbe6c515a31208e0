import json
import subprocess
import sys
from pathlib import Path

import pytest

from radvqa.errors import ModelError
from radvqa.models.geometry import geometry_of, parse_geometry, read_geometry
from radvqa.models.vlm import Vlm, part_of
from radvqa.recipe import Model

BOTH = ("vision_encoder", "language_model")


def paligemma(image: int = 448) -> Model:
    return Model(checkpoint=f"google/paligemma-3b-mix-{image}", revision="1f")


def test_the_published_sizes_of_paligemma() -> None:
    geometry = geometry_of(paligemma())
    assert geometry is not None
    assert geometry.vision.tokens == 1024
    sizes = geometry.parameters()
    assert sum(sizes.values()) == 2_924_351_216
    assert sizes["vision_encoder"] == 413_327_088
    assert sizes["projector"] == 2_361_344
    adapters = geometry.lora_parameters(rank=8, targets="attention", parts=BOTH)
    assert adapters == {"vision_encoder": 1_990_656, "language_model": 1_843_200}
    # 14,179,072 with the projector's own adapter, which radvqa does not make: that learns as a whole.
    assert sum(geometry.lora_parameters(rank=8, targets="all-linear", parts=BOTH).values()) == 14_179_072 - 8 * 3200


def test_resolutions_differ_by_their_positions_alone() -> None:
    sizes = [geometry.parameters() for image in (224, 448, 896) if (geometry := geometry_of(paligemma(image)))]
    assert [size["vision_encoder"] - sizes[0]["vision_encoder"] for size in sizes] == [0, 768 * 1152, 3840 * 1152]
    assert len({size["language_model"] for size in sizes}) == 1


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_the_tiny_network_has_what_is_counted(per_question: Vlm, targets: str) -> None:
    from radvqa.models.lora import attach_lora

    geometry = geometry_of(Model(checkpoint="tiny"))
    assert geometry == parse_geometry(per_question.base.config.to_dict())
    assert geometry is not None
    counted: dict[str, int] = {}
    for name, parameter in per_question.network.named_parameters():
        counted[part_of(name)] = counted.get(part_of(name), 0) + parameter.numel()
    assert counted == geometry.parameters()
    attach_lora(
        per_question, rank=3, alpha=1, dropout=0, targets=targets, parts=BOTH, base_name="b", revision=None, seed=0
    )
    adapters: dict[str, int] = {}
    for name, parameter in per_question.network.named_parameters():
        if ".lora_" in name:
            adapters[part_of(name)] = adapters.get(part_of(name), 0) + parameter.numel()
    assert adapters == geometry.lora_parameters(rank=3, targets=targets, parts=BOTH)


def test_the_embedded_base_is_as_its_builder_says() -> None:
    from radvqa.models.embedded import VISION_LAYERS, siglip_config

    for image in (112, 224):
        geometry = geometry_of(Model(checkpoint="embedded", image_size=image))
        assert geometry is not None
        built = siglip_config(image, layers=VISION_LAYERS)
        tower = geometry.vision
        assert (tower.layers, tower.width, tower.mlp) == (
            built.num_hidden_layers,
            built.hidden_size,
            built.intermediate_size,
        )
        assert (tower.heads, tower.patch, tower.image) == (built.num_attention_heads, built.patch_size, image)
        assert geometry.parameters()["language_model"] == 134_516_160


def test_a_folder_is_read(tiny_folder: Path) -> None:
    assert geometry_of(Model(checkpoint=str(tiny_folder))) == geometry_of(Model(checkpoint="tiny"))


def test_an_unknown_hub_name_has_no_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert geometry_of(Model(checkpoint="someone/paligemma", revision="1f")) is None
    assert geometry_of(Model(checkpoint=str(tmp_path))) is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"vision_config": {"hidden_size": 4}, "text_config": {}}'])
def test_a_configuration_without_sizes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="does not tell its sizes"):
        read_geometry(tmp_path / "config.json")


def test_a_real_configuration_may_leave_out_the_head_width() -> None:
    """As those of the hub do."""
    text = {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "vocab_size": 257216,
    }
    vision = {
        "hidden_size": 1152,
        "image_size": 448,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    }
    config = json.loads(json.dumps({"text_config": text, "vision_config": vision}))
    assert parse_geometry(config) == geometry_of(paligemma())


def test_sizes_and_costs_are_told_without_torch() -> None:
    code = "import sys, radvqa.models.cost, radvqa.cli.check; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
