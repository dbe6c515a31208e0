"""``radvqa bench evaluate``: the same answers on every route, and the speeds of these."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from radvqa.bench import evaluation as module
from radvqa.bench.evaluation import AnswerCase, compare_answers
from radvqa.cli.bench import app
from radvqa.data.image_store import ImageStore
from radvqa.errors import ModelError
from radvqa.recipe import Layout, Model
from radvqa.sample import VqaSample

# transformers 5.23 with NumPy 2: the plain path is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Samples = tuple[VqaSample, ...]


def case(layout: Layout) -> AnswerCase:
    return AnswerCase(
        model=Model(checkpoint="tiny", layout=layout, dtype="float32"),
        batch_size=4 if layout == "per_question" else 2,
        plain_batch_size=3,
        max_new_tokens=5,
        rounds=2,
        singly=layout == "per_question",
        checked=4,
    )


@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_answers_are_equal_and_all_routes_are_timed(layout: Layout, samples: Samples, store: ImageStore) -> None:
    found = compare_answers(case(layout), samples, store, say=lambda _: None)
    assert found.float32_equal == 1.0
    assert found.equal == (1.0 if layout == "per_question" else None)
    assert len(found.ratios) == len(found.our_speeds) == len(found.batched_speeds) == 1
    assert len(found.single_speeds) == (layout == "per_question")
    assert found.ratio == found.our_speeds[0] / found.batched_speeds[0]
    assert (found.questions, found.images) == (15, 5)


def test_other_answers_end_the_benchmark(samples: Samples, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._our_answers

    def wrong(*given: Any) -> list[module.TokenIds]:
        return [(*one[:-1], 77) for one in real(*given)]

    monkeypatch.setattr(module, "_our_answers", wrong)
    with pytest.raises(ModelError, match="not give the same answer in float32"):
        compare_answers(case("per_question"), samples, store, say=lambda _: None)


def test_more_rounds_than_images_are_refused(samples: Samples, store: ImageStore) -> None:
    with pytest.raises(ModelError, match="more rounds than images"):
        compare_answers(replace(case("per_question"), rounds=6, checked=0), samples, store, say=lambda _: None)


def test_the_verb_prints_json(tmp_path: Path) -> None:
    words = (
        "evaluate", "--checkpoint", "tiny", "--set", "count={val: 4}", "--set", "size=112", "--rounds", "2",
        "--check", "2", "--no-singly", "--dtype", "float32", "--max-new-tokens", "3", "--images", "2",
        "--layout", "per_question", "--quiet", "--root", str(tmp_path), "--json",
    )  # fmt: skip
    done = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    assert (found["layout"], found["images"], found["equal"], found["float32_equal"]) == ("per_question", 2, 1.0, 1.0)
    assert found["ratio"] > 0
