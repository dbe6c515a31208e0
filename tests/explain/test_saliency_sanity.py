"""Sanity checks: what does not depend on the weights is flagged, and the weights are put back exactly."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from radvqa.data.image_store import ImageStore
from radvqa.explain import sanity
from radvqa.explain.sanity import (
    Checked,
    Likeness,
    Maps,
    blocks,
    cascade,
    likeness,
    summary_of,
    survives,
    weight_randomisation,
)
from radvqa.models.vlm import Vlm
from radvqa.sample import VqaSample


def weights_of(vlm: Vlm) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in vlm.network.named_parameters()}


def changed(vlm: Vlm, before: dict[str, Tensor]) -> set[str]:
    return {name for name, weight in vlm.network.named_parameters() if not torch.equal(weight, before[name])}


@pytest.fixture
def compute(per_question: Vlm, samples: tuple[VqaSample, ...], store: ImageStore) -> Callable[[], Maps]:
    """A map of what the model makes of the picture, and a planted one that never asks the model."""
    pixels = torch.from_numpy(store.pixels(samples[0].image))
    rows, columns = per_question.image_grid

    def maps() -> Maps:
        tokens = per_question.image_tokens(pixels[None])[0].float()
        bright = pixels.float().mean(-1).reshape(rows, -1, columns, 56 // columns).mean((1, 3))
        return {"model": tokens.norm(dim=-1).reshape(rows, columns).numpy(), "blind": bright.numpy()}

    return maps


def test_a_planted_map_that_never_asks_the_model_is_flagged(per_question: Vlm, compute: Callable[[], Maps]) -> None:
    original = compute()
    found = weight_randomisation(per_question, compute, original=original, language_blocks=2, seed=5)
    assert list(found["blind"]) == [block.name for block in blocks(per_question, language_blocks=2)]
    nothing = {name: likeness(grid, -grid) for name, grid in original.items()}
    methods = summary_of([Checked(blocks=found, wrong_question=nothing, wrong_image=nothing)])["methods"]
    assert methods["blind"]["survives_weights"] is True
    assert methods["model"]["survives_weights"] is False
    assert methods["blind"]["survives_image"] is False
    # The picture's tokens do not pass the decoder.
    assert found["model"][blocks(per_question, language_blocks=2)[1].name].spearman == pytest.approx(1.0)


def test_weights_are_put_back_exactly(open_tiny: Callable[..., Vlm]) -> None:
    vlm = open_tiny("shared_image", dtype="bfloat16")
    before = weights_of(vlm)
    seen: list[set[str]] = []
    with cascade(blocks(vlm, language_blocks=2), seed=1) as randomise_next:
        while randomise_next() is not None:
            seen.append(changed(vlm, before))
    assert all(one < other for one, other in pairwise(seen))
    assert not any("embed_tokens" in name for name in seen[-1])
    parts = {part for name in seen[-1] for part in name.split(".")}
    assert {"vision_tower", "multi_modal_projector", "layers"} <= parts
    assert changed(vlm, before) == set()


def test_weights_are_put_back_after_a_failure(per_question: Vlm) -> None:
    before = weights_of(per_question)

    def fail() -> Maps:
        assert changed(per_question, before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weight_randomisation(per_question, fail, original={"raw": np.eye(4)}, seed=0)
    assert changed(per_question, before) == set()


def test_weights_are_put_back_after_an_interrupt_in_the_middle_of_one(
    per_question: Vlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights_of(per_question)

    def half_done(weight: torch.nn.Parameter, key: int) -> None:
        with torch.no_grad():
            weight.view(-1)[: weight.numel() // 2 + 1] += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(sanity, "_shuffle", half_done)
    with pytest.raises(KeyboardInterrupt), cascade(blocks(per_question), seed=0) as randomise_next:
        randomise_next()
    assert changed(per_question, before) == set()


def test_a_check_without_any_defined_likeness_is_no_pass() -> None:
    nothing = Likeness(math.nan, math.nan)
    found = summary_of(
        [
            Checked(blocks={"a": {"all": nothing}}, wrong_question={"a": nothing}, wrong_image={"a": nothing}),
            Checked(
                blocks={"a": {"all": nothing}, "b": {"all": Likeness(0.1, 0.1)}},
                wrong_question={"a": nothing, "b": nothing},
                wrong_image={"a": nothing, "b": Likeness(0.2, 0.1)},
            ),
        ]
    )
    a, b = found["methods"]["a"], found["methods"]["b"]
    assert (a["questions"], b["questions"]) == (2, 1)
    assert (a["survives_weights"], a["survives_question"], a["survives_image"]) == (None, None, None)
    assert (b["survives_weights"], b["survives_question"], b["survives_image"]) == (False, None, False)


def test_the_decoder_goes_first_and_from_its_output_side(per_question: Vlm) -> None:
    names = [block.name for block in blocks(per_question, language_blocks=2)]
    assert names == ["decoder layers 2 to 3", "decoder layer 1", "projector", "vision tower"]


def test_likeness_is_of_ranks_and_of_structure() -> None:
    rng = np.random.default_rng(0)
    grid = rng.random((16, 16))
    assert likeness(grid, 3 * grid + 1) == pytest.approx((1.0, 1.0))
    assert likeness(grid, -grid).spearman == pytest.approx(-1.0)
    assert abs(likeness(grid, rng.random((16, 16))).spearman) < 0.2
    assert likeness(grid, rng.random((16, 16))).ssim < 0.3
    assert math.isnan(likeness(grid, np.ones((16, 16))).spearman)


def test_undefined_likeness_is_left_out() -> None:
    undefined = Likeness(math.nan, math.nan)
    assert survives([undefined, Likeness(0.95, 0.5)]) is True
    assert survives([Likeness(0.95, 1.0), Likeness(0.7, 1.0)]) is False
    assert survives([undefined]) is None
