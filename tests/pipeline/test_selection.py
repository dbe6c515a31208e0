import json
from dataclasses import replace

import pytest

from radvqa.errors import DataError
from radvqa.pipeline.selection import first_images, held_out_groups, stage_rows
from radvqa.recipe import parse_recipe
from radvqa.records import RecordFile, write_records
from radvqa.sample import VqaSample


@pytest.fixture
def corpora(samples, tmp_path):
    """Two data sets that share patients, with a tag and a number."""
    found = {}
    for name, patients in (("a", range(20)), ("b", range(10, 40))):
        some = [
            replace(
                samples[patient % len(samples)],
                sample_id=f"{name}-{patient}-{turn}",
                image_id=f"{name}-{patient}",
                group_id=f"p{patient}",
                tags={"modality": "CT" if patient % 2 else "MRI", "quality": f"{patient / 40}"},
            )
            for patient in patients
            for turn in range(2)
        ]
        write_records(tmp_path / f"{name}.jsonl", some)
        found[name, "train"] = RecordFile(tmp_path / f"{name}.jsonl", VqaSample)
    return found


def recipe(*stages, **changes):
    entries = {name: {"adapter": "phantom"} for name in ("a", "b", "other")}
    return parse_recipe(
        {"name": "toy", "datasets": entries, "evaluate": {"dataset": "other"}, "stages": list(stages), "seed": 3}
        | changes,
        where="toy",
    )


ALIGN = {"name": "align", "datasets": ["a"], "updates": 1}
WATCH = {"every": 1, "held_out": 0.2, "keep": "best", "images": 6}
ADAPT = {"name": "adapt", "mixture": {"a": {}, "b": {"weight": 0.5}}, "updates": 1, "watch": WATCH}


def groups_of(rows):
    return {int(question.sample_id.split("-")[1]) for row in rows for question in row.questions}


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_held_out_groups_are_trained_on_by_no_source_of_no_stage(vlm, corpora, tmp_path, seed):
    toy = recipe(ALIGN, ADAPT, seed=seed)
    held = {int(group[1:]) for group in held_out_groups(toy, corpora)}
    assert len(held) == 8
    watched_groups = set()
    for stage in toy.stages:
        rows, watched = stage_rows(toy, vlm, stage, corpora, folder=tmp_path)
        for some in rows.values():
            assert not groups_of(some) & held
        watched_groups |= {int(sample.group_id[1:]) for sample in watched}
        selection = json.loads((tmp_path / "selection.json").read_text())
        assert all(one["kept"] + one["held_out"] == one["samples"] for one in selection.values())
    assert watched_groups
    assert watched_groups <= held


def test_looks_are_at_all_sources(per_question, corpora):
    toy = recipe(ADAPT)
    _, watched = stage_rows(toy, per_question, toy.stages[0], corpora, folder=None)
    assert {sample.image_id[0] for sample in watched} == {"a", "b"}
    assert len({sample.image_id for sample in watched}) == 6


def test_sources_are_filtered_by_tags(per_question, corpora, tmp_path):
    mixture = {"a": {"only": {"modality": ["CT"]}}, "b": {"weight": 0.5, "at_least": {"quality": 0.6}}}
    toy = recipe({**ALIGN, "datasets": [], "mixture": mixture})
    rows, _ = stage_rows(toy, per_question, toy.stages[0], corpora, folder=tmp_path)
    assert groups_of(rows["a"]) == set(range(1, 20, 2))
    assert groups_of(rows["b"]) == set(range(24, 40))
    assert json.loads((tmp_path / "selection.json").read_text())["b"]["without_wanted_tags"] == 28


def test_nothing_left_to_train_on_or_to_look_at_is_an_error(per_question, corpora):
    none = recipe({**ALIGN, "datasets": [], "mixture": {"a": {"only": {"modality": ["US"]}}}})
    with pytest.raises(DataError, match="no sample is left to train on"):
        stage_rows(none, per_question, none.stages[0], corpora, folder=None)


def test_nothing_to_look_at_is_an_error(per_question, corpora):
    (group,) = held_out_groups(recipe({**ADAPT, "watch": {**WATCH, "held_out": 0.001}}), corpora)
    other = "MRI" if int(group[1:]) % 2 else "CT"
    mixture = {"a": {"only": {"modality": [other]}}, "b": {"weight": 0.5, "only": {"modality": [other]}}}
    toy = recipe({**ADAPT, "mixture": mixture, "watch": {**WATCH, "held_out": 0.001}})
    with pytest.raises(DataError, match="there is nothing to look at"):
        stage_rows(toy, per_question, toy.stages[0], corpora, folder=None)


def test_first_images(samples):
    assert first_images(samples, None) == list(samples)
    assert len({sample.image_id for sample in first_images(samples, 2)}) == 2
