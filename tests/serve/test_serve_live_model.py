"""A real model behind the page: the tiny checkpoint before its first stage."""

import numpy as np
import pytest

from radvqa.errors import ModelError, RadvqaError, RunError
from radvqa.pipeline import stage_model
from radvqa.recipe import parse_recipe
from radvqa.run.folder import RunFolder
from radvqa.serve.live_model import asked_sample, open_live
from radvqa.serve.series import open_series


@pytest.fixture
def series(planted, tmp_path, tiny_folder):
    recipe = parse_recipe(
        {
            "name": "asked",
            "output": str(tmp_path),
            "model": {"checkpoint": "tiny"},
            "datasets": {"phantom": {"adapter": "phantom"}},
            "stages": [{"name": "align", "datasets": ["phantom"], "updates": 1}],
            "evaluate": {"dataset": "phantom", "split": "val", "max_new_tokens": 4},
        },
        where="test",
    )
    folder = RunFolder.create(recipe, command="test")
    folder.unlock()
    planted.planted_cases(folder.path / "explain" / "stage-base", 2, layers=1, heads=1)
    return open_series([folder.path])[0]


def test_a_question_to_a_real_model(series):
    answering = open_live(series)
    case = series.bundle(series.listing().lines[1].key)
    manifest, arrays = answering(case, "Where is it?", "on the left")
    assert manifest.question == "Where is it?" and manifest.references == ()
    assert manifest.views["typed"].text == "on the left"
    assert manifest.views["typed"].correct is None
    assert manifest.picture.unit == "HU" and np.array_equal(arrays["image/values"], case.array("image/values"))
    assert [one.label for one in manifest.outlines] == [one.label for one in case.manifest.outlines]
    assert not any(one.asked for one in manifest.outlines)
    rows, columns = manifest.grid
    for record in manifest.views["typed"].maps:
        grids = arrays[f"typed/maps/{record.method}"]
        assert grids.shape == (len(record.tokens) + 1, rows, columns)
    assert str(series.source) not in str(manifest)
    with pytest.raises(RadvqaError, match=r"mark|token"):
        answering(case, "What is <image>?", None)


def test_a_model_without_its_mask_is_not_asked(series, monkeypatch):
    def leaks(_):
        raise ModelError("the prefix mask leaks")

    monkeypatch.setattr(stage_model, "require_prefix_mask", leaks)
    with pytest.raises(ModelError, match="leaks"):
        open_live(series)


def test_references_stay_with_their_question(series, tmp_path):
    manifest = series.bundle(series.listing().lines[0].key).manifest
    assert asked_sample(manifest, manifest.question.upper(), tmp_path).answers == manifest.references
    assert asked_sample(manifest, "Something else?", tmp_path).answers == ()


def test_cases_without_a_run_have_no_model(planted, tmp_path):
    planted.planted_cases(tmp_path / "batch", 1, layers=1, heads=1)
    with pytest.raises(RunError, match="not in a run"):
        open_live(open_series([tmp_path / "batch"])[0])
