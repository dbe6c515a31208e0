"""The benchmark compares like with like: equal pictures, prompts, labels, order and losses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from radvqa.bench import comparison, engine
from radvqa.bench.comparison import Case, compare, peak_mib
from radvqa.bench.plain import collator, plain_processor
from radvqa.data.image_store import ImageStore
from radvqa.errors import TrainError
from radvqa.models.layout import IGNORE_INDEX
from radvqa.models.vlm import Vlm
from radvqa.recipe import Layout, Model
from radvqa.sample import VqaSample

# transformers 5.23 with NumPy 2, and PEFT 0.21 with transformers 5.23: the plain path is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

Samples = tuple[VqaSample, ...]


def case(cache: Path, stage: engine.Stage, layout: Layout = "per_question") -> Case:
    return Case(
        stage=stage,
        model=Model(checkpoint="tiny", layout=layout, dtype="float32"),
        batch_size=3 if layout == "per_question" else 1,
        plain_batch_size=3,
        updates=4,
        rounds=2,
        rate=1e-3,
        seed=0,
        cache=cache,
    )


def plain_batch(vlm: Vlm, samples: Samples) -> dict[str, Tensor]:
    processor = plain_processor(vlm.name, image_size=vlm.image_size, image_tokens=vlm.tokens.image_tokens)
    return collator(processor)(samples)


def test_both_paths_see_the_same_tokens_and_pictures(per_question: Vlm, samples: Samples, store: ImageStore) -> None:
    some = samples[:4]
    plain = plain_batch(per_question, some)
    ours = per_question.batch(per_question.rows(some, answers=True))
    # The stock tokenizer pads on the left: compared are the tokens that are not padding.
    for row in range(len(some)):
        theirs = plain["attention_mask"][row].bool()
        own = ours.valid[row]
        assert plain["input_ids"][row][theirs].tolist() == ours.input_ids[row][own].tolist()
        assert plain["labels"][row][theirs].tolist() == ours.labels[row][own].tolist()
        assert plain["token_type_ids"][row][theirs].tolist() == ours.suffix[row][own].long().tolist()
    assert (ours.labels != IGNORE_INDEX).any()
    for row, sample in enumerate(some):
        pixels = torch.from_numpy(store.pixels(sample.image)).permute(2, 0, 1).float() / 127.5 - 1
        torch.testing.assert_close(plain["pixel_values"][row], pixels, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stage", ["align", "adapt"])
def test_losses_are_equal_through_training(
    stage: engine.Stage, samples: Samples, store: ImageStore, tmp_path: Path
) -> None:
    found = compare(case(tmp_path, stage), samples, store, say=lambda _: None)
    assert len(found.plain_losses) == len(found.engine_losses) == 4
    assert found.loss_difference is not None
    assert found.loss_difference < 1e-4
    assert found.engine_losses[-1] != found.engine_losses[0]
    assert found.plain_questions == found.engine_questions == 12
    assert len(found.ratios) == 1
    assert found.ratio == pytest.approx(found.engine_speed / found.plain_speed)


def test_the_shared_image_layout_asks_the_same_questions(samples: Samples, store: ImageStore, tmp_path: Path) -> None:
    found = compare(case(tmp_path, "adapt", "shared_image"), samples, store, say=lambda _: None)
    assert found.plain_questions == found.engine_questions == 12
    assert found.loss_difference is None


def test_speeds_of_different_computations_are_refused(
    samples: Samples, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted: Callable[..., Samples] = lambda feed, samples, *, updates: list(reversed(samples))[:12]  # noqa: E731
    monkeypatch.setattr(comparison, "fed_samples", shifted)
    with pytest.raises(TrainError, match="do not compute the same loss"):
        compare(case(tmp_path, "adapt"), samples, store, say=lambda _: None)


def test_losses_that_part_in_float32_are_refused(samples: Samples, store: ImageStore, tmp_path: Path) -> None:
    found = compare(case(tmp_path, "align"), samples, store, say=lambda _: None)
    assert comparison.require_same_losses(found) == found.loss_difference
    apart = replace(found, engine_losses=[*found.engine_losses[:-1], 1.002 * found.plain_losses[-1]])
    with pytest.raises(TrainError, match="part in float32"):
        comparison.require_same_losses(apart)
    assert found.features_computed > 0 == found.features_found
    again = compare(case(tmp_path, "align"), samples, store, say=lambda _: None)
    assert (again.features_computed, again.features_found) == (0, found.features_computed)


def test_more_rounds_than_updates_are_refused(samples: Samples, store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="more rounds than updates"):
        compare(replace(case(tmp_path, "align"), rounds=9), samples, store, say=lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("route", ["plain", "engine"])
def test_memory_is_that_of_one_path_alone(
    route: comparison.Route, samples: Samples, store: ImageStore, tmp_path: Path
) -> None:
    assert 100 < peak_mib(case(tmp_path, "adapt"), samples, store, route=route) < 4000
