import importlib.metadata
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from radvqa.errors import RecipeError
from radvqa.recipe import Recipe, load_recipe, parse_recipe


def values(**changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "datasets": {"phantom": {"adapter": "phantom", "size": 64}},
        "stages": [{"name": "align", "datasets": ["phantom"], "epochs": 1}],
        "evaluate": {"dataset": "phantom"},
        **changes,
    }


def stage(**changes: Any) -> dict[str, Any]:
    return {"name": "align", "datasets": ["phantom"], "epochs": 1, **changes}


def parse(**changes: Any) -> Recipe:
    return parse_recipe(values(**changes), where="toy.yaml")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(values()), encoding="utf-8")
    return path


def test_defaults_are_filled_in_and_options_are_kept() -> None:
    recipe = parse()
    assert recipe.stages[0].learning_rate == 1e-3
    assert recipe.datasets["phantom"].options == {"size": 64}
    assert recipe.output == Path("runs")


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().seed = 3


def test_the_resolved_recipe_reads_back_the_same() -> None:
    recipe = parse(stages=[stage(lora={"rank": 4}, learning_rate=3e-5)], model={"threads": 2})
    again = parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.resolved())), where="again")
    assert again == recipe
    assert again.digest() == recipe.digest()


def test_the_digest_follows_what_changes_results_and_nothing_else() -> None:
    digest = parse().digest()
    assert len(digest) == 8
    assert parse(output="elsewhere").digest() == digest
    assert parse(model={"wheels": "elsewhere"}).digest() == digest
    assert parse(model={"threads": 1}).digest() != digest
    assert parse(stages=[stage(learning_rate=0.001)]).digest() == digest
    assert parse(seed=1).digest() != digest
    assert parse(datasets={"phantom": {"adapter": "phantom", "size": 65}}).digest() != digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": 3}, "sead: unknown key (did you mean 'seed'?)"),
        ({"stages": [stage(learning_rte=1)]}, "stages.0.learning_rte: unknown key (did you mean 'learning_rate'?)"),
        ({"stages": [stage(lora={"rnk": 4})]}, "stages.0.lora.rnk: unknown key (did you mean 'rank'?)"),
        ({"model": {"checkpont": "embedded"}}, "model.checkpont: unknown key (did you mean 'checkpoint'?)"),
        ({"evaluate": {"dataset": "phantm"}}, "no data set is called 'phantm' (did you mean 'phantom'?)"),
        ({"stages": [stage(datasets=["slake"])]}, "stages.align: no data set is called 'slake' (known: phantom)"),
        ({"stages": [stage(updates=3)]}, "give exactly one of epochs and updates"),
        ({"stages": [stage(epochs=None)]}, "give exactly one of epochs and updates"),
        ({"stages": [stage(projector=False)]}, "nothing would learn"),
        ({"stages": [stage(), stage()]}, "stages need different names"),
        ({"stages": []}, "stages: "),
        ({"stages": [stage(batch_size=0)]}, "stages.0.batch_size: "),
        ({"stages": [stage(warmup=1.0)]}, "stages.0.warmup: "),
        ({"evaluate": {}}, "evaluate.dataset: this key is required"),
        ({"evaluate": {"dataset": "phantom", "split": "Vaild"}}, "evaluate.split: "),
        ({"name": "../up"}, "name: "),
        ({"name": ".."}, "name: "),
        ({"model": {"checkpoint": "google/paligemma-3b-mix-448"}}, "needs revision: <commit>"),
        ({"seed": 2**32}, "seed: "),
        ({"seed": True}, "seed: true and false have no place here, got true"),
        ({"stages": [stage(epochs=True)]}, "stages.0.epochs: true and false"),
        ({"stages": [stage(learning_rate=float("inf"))]}, "stages.0.learning_rate: "),
        ({"stages": [stage(learning_rate=float("nan"))]}, "stages.0.learning_rate: "),
        ({"name": "a" * 101}, "name: "),
        ({"datasets": {"phantom": {"adapter": "phantom", "size": float("nan")}}}, "datasets.phantom: size: an option"),
        (
            {"datasets": {"phantom": {"adapter": "phantom", "from": date(2026, 1, 1)}}},
            "datasets.phantom: from: an option",
        ),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(**changes)
    assert message in str(caught.value)
    assert caught.value.where == "toy.yaml"


def test_a_key_that_is_no_text_is_named() -> None:
    with pytest.raises(RecipeError, match="5: "):
        parse_recipe({**values(), 5: 3}, where="toy.yaml")


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(RecipeError) as caught:
        parse(sead=3, stages=[stage(batch_sise=2)], evaluate={"dataset": "phantom", "splt": "val"})
    for key in ("sead", "stages.0.batch_sise", "evaluate.splt"):
        assert f"{key}: unknown key" in str(caught.value)


def test_overrides_reach_every_level(path: Path) -> None:
    recipe = load_recipe(
        path,
        ["seed=3", "stages.0.epochs=2.5", "stages.align.batch_size=2", "model.threads=1", "datasets.phantom.size=32"],
    )
    assert (recipe.seed, recipe.stages[0].epochs, recipe.stages[0].batch_size) == (3, 2.5, 2)
    assert recipe.model.threads == 1
    assert recipe.datasets["phantom"].options == {"size": 32}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set needs key=value"),
        ("=3", "--set needs key=value"),
        ("sed=3", "did you mean 'seed'?"),
        ("stages.7.epochs=1", "cannot reach 'stages.7.epochs'"),
        ("stages.9=1", "cannot reach 'stages.9'"),
        ("name.first=1", "cannot reach 'name.first'"),
        ("stages.0.datasets.x.y=1", "cannot reach 'stages.0.datasets.x.y'"),
        ("seed=[", "not valid YAML"),
        ("seed=2026-13-45", "not valid YAML"),
        ("seed=.inf", "seed: "),
        ("seed=9" + 5000 * "9", "not valid YAML"),
        ("model={threads: 1, threads: 2}", "the key 'threads' is there twice"),
    ],
)
def test_bad_overrides_are_named(path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [override])
    assert message in str(caught.value)


def test_a_missing_recipe_names_a_near_one(path: Path) -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'toy\.yaml'") as caught:
        load_recipe(path.with_name("toyy.yaml"))
    assert "recipe not found" in str(caught.value)


def test_a_missing_recipe_without_neighbours_names_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="recipe not found") as caught:
        load_recipe(tmp_path / "absent" / "toy.yaml")
    assert "known" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"- 1\n", "not a mapping"),
        (b"a: [", "not valid YAML"),
        (b"", "mapping"),
        (b"name: \xff\n", "cannot be read"),
        (b"a: \x00", "not valid YAML"),
        (b"a: !!int ''", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
    ],
)
def test_files_that_are_no_recipe(path: Path, text: bytes, message: str) -> None:
    path.write_bytes(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_folder_in_place_of_a_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)


def test_a_key_given_twice_is_told_with_its_line(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "name: other\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="the key 'name' is there twice") as caught:
        load_recipe(path)
    line = len(path.read_text(encoding="utf-8").splitlines())
    assert caught.value.where == f"{path}, line {line}, column 1"


def test_yaml_merges_are_no_repeated_keys(path: Path) -> None:
    path.write_text(
        "name: toy\ndatasets: {phantom: {adapter: phantom}}\nevaluate: {dataset: phantom}\n"
        "stages:\n  - &first {name: a, datasets: [phantom], epochs: 1}\n  - {<<: *first, name: b}\n",
        encoding="utf-8",
    )
    assert [stage.name for stage in load_recipe(path).stages] == ["a", "b"]


def test_another_version_has_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = parse().digest()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    assert parse().digest() != digest


@pytest.mark.parametrize(
    ("checkpoint", "is_hub_name"),
    [("google/paligemma", True), ("./google/paligemma", False), ("/a/b", False), ("mine", False), ("a/b/c", False)],
)
def test_hub_names_are_known_by_their_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str, is_hub_name: bool
) -> None:
    (tmp_path / "google" / "paligemma").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    recipe = parse(model={"checkpoint": checkpoint, "revision": "1f"})
    assert recipe.model.is_hub_name == is_hub_name
    if is_hub_name:
        with pytest.raises(RecipeError, match=r"write '\./google/paligemma'"):
            parse(model={"checkpoint": checkpoint})
    else:
        assert parse(model={"checkpoint": checkpoint}).model.checkpoint == checkpoint


def test_a_checkpoint_alone_stands_for_the_model_section() -> None:
    assert parse(model="tiny") == parse(model={"checkpoint": "tiny"})
    with pytest.raises(RecipeError, match="needs revision"):
        parse(model="google/paligemma-3b-mix-448")


@pytest.mark.parametrize(("epochs", "updates"), [(1, 2), (3, 7), (0.01, 1), (6, 14)])
def test_passes_become_updates(epochs: float, updates: int) -> None:
    """Of seven rows in batches of three."""
    assert parse(stages=[stage(epochs=epochs, batch_size=3)]).stages[0].length_in_updates(7) == updates


def test_a_length_in_updates_stays() -> None:
    assert parse(stages=[stage(epochs=None, updates=5)]).stages[0].length_in_updates(7) == 5
