"""Experiments as recipes: what a cell becomes, and which mistakes are told."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from radvqa.errors import RecipeError
from radvqa.recipe import Experiment, cell_recipe, load_experiment, load_recipe, parse_experiment

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "experiments"


def values(**changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "question": "Does it help?",
        "seeds": [1, 2],
        "recipe": {
            "model": "tiny",
            "datasets": {"phantom": {"adapter": "phantom"}, "other": {"adapter": "phantom"}},
            "stages": [
                {"name": "align", "datasets": ["phantom"], "updates": 3},
                {"name": "adapt", "datasets": ["phantom"], "updates": 4, "lora": {"rank": 2}},
            ],
            "evaluate": {"dataset": "phantom"},
        },
        "cells": {"both": {}, "one": {"drop": ["align"], "set": {"stages.adapt.updates": 7}}},
        "reference": "one",
        **changes,
    }


def parse(**changes: Any) -> Experiment:
    return parse_experiment(values(**changes), where="toy.yaml")


def test_a_cell_is_the_base_without_dropped_stages_and_with_its_changes() -> None:
    recipe = cell_recipe(parse(), "one", 2)
    assert (recipe.name, recipe.seed) == ("toy-one", 2)
    assert [(stage.name, stage.updates) for stage in recipe.stages] == [("adapt", 7)]
    assert [stage.name for stage in cell_recipe(parse(), "both", 1).stages] == ["align", "adapt"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages.adapt.updates", 9),
        ("stages.1.lora.alpha", 3.5),
        ("stages.adapt.watch", {"every": 2}),
        ("evaluate.controls", ["blank"]),
        ("datasets.phantom.size", 64),
    ],
)
def test_a_dotted_key_has_the_digest_of_the_same_set(tmp_path: Path, key: str, value: Any) -> None:
    # The folders of runs that were started by `radvqa run --set` must be found.
    file = tmp_path / "base.yaml"
    file.write_text(yaml.safe_dump({**values()["recipe"], "name": "toy-both", "seed": 5}), encoding="utf-8")
    by_hand = load_recipe(file, [f"{key}={yaml.safe_dump(value, default_flow_style=True)}".removesuffix("...\n")])
    cells = {"both": {"set": {key: value}}, "plain": {}}
    experiment = parse(cells=cells, reference="plain", seeds=[5])
    assert cell_recipe(experiment, "both", 5).digest() == by_hand.digest()
    assert cell_recipe(experiment, "plain", 5).digest() != by_hand.digest()


def test_cells_do_not_change_each_other_or_the_base() -> None:
    given = values()
    before = copy.deepcopy(given)
    experiment = parse_experiment(given, where="toy.yaml")
    first = cell_recipe(experiment, "both", 1).digest()
    cell_recipe(experiment, "one", 1)
    assert given == before
    assert cell_recipe(experiment, "both", 1).digest() == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "bot"}, "did you mean 'both'"),
        ({"seeds": [1, 1]}, "a seed is named twice"),
        ({"seeds": []}, "seeds"),
        ({"sede": 1}, "unknown key"),
        ({"margin": 1.5}, "margin"),
        ({"cells": {"both": {}}}, "cells"),
        ({"cells": {"both": {}, "one": {}}}, "two cells have the same recipe"),
        ({"cells": {"both": {}, "one": {"drop": ["algn"]}}}, "drops a stage that is not there"),
        ({"cells": {"both": {}, "one": {"set": {"stages.adpt.updates": 3}}}}, "set cannot reach 'stages.adpt.updates'"),
        ({"cells": {"both": {}, "one": {"set": {"stages.adapt.update": 3}}}}, "unknown key .did you mean 'updates'"),
        ({"cells": {"both": {}, "one": {"drop": ["align", "adapt"]}}}, "cell one"),
        ({"trend": {"label": "share", "at": {"both": 0, "two": 1}}}, "no cell is called 'two'"),
        ({"trend": {"label": "share", "at": {"both": 1, "one": 1}}}, "different numbers"),
        ({"evaluate_on": [{"dataset": "pantom"}]}, "no data set is called 'pantom'"),
        ({"evaluate_on": [{"dataset": "phantom"}]}, "evaluated twice"),
        ({"recipe": {**values()["recipe"], "seed": 3}}, "seed has no place here"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(**changes)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiments_are_valid(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name.replace("-", "_") == path.stem
    assert experiment.margin is not None
