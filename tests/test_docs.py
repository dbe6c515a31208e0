import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from radvqa.recipe import parse_experiment, parse_recipe, parse_synth_recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    path = ROOT / "scripts" / "make_docs"
    spec = importlib.util.spec_from_loader("make_docs", SourceFileLoader("make_docs", str(path)))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("cli.md", "cli_page"),
        ("recipes.md", "recipes_page"),
        ("synthesis_recipes.md", "synthesis_recipes_page"),
        ("experiment_recipes.md", "experiment_recipes_page"),
        ("protocols.md", "protocols_page"),
    ],
)
def test_generated_pages_are_fresh(make_docs: ModuleType, name: str, page: str) -> None:
    expected = getattr(make_docs, page)()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == expected, (
        f"run scripts/make_docs: docs/{name} is stale"
    )


def test_the_example_recipe_is_valid(make_docs: ModuleType) -> None:
    assert make_docs.EXAMPLE in make_docs.recipes_page()
    parse_recipe(yaml.safe_load(make_docs.EXAMPLE), where="docs/recipes.md")


def test_the_example_of_a_synthesis_is_valid(make_docs: ModuleType) -> None:
    assert make_docs.SYNTHESIS_EXAMPLE in make_docs.synthesis_recipes_page()
    parse_synth_recipe(yaml.safe_load(make_docs.SYNTHESIS_EXAMPLE), where="docs/synthesis_recipes.md")


def test_the_example_of_an_experiment_is_valid(make_docs: ModuleType) -> None:
    assert make_docs.EXPERIMENT_EXAMPLE in make_docs.experiment_recipes_page()
    parse_experiment(yaml.safe_load(make_docs.EXPERIMENT_EXAMPLE), where="docs/experiment_recipes.md")


@pytest.mark.parametrize("page", ["recipes_page", "synthesis_recipes_page"])
def test_every_recipe_key_says_what_it_means(make_docs: ModuleType, page: str) -> None:
    rows = [line for line in getattr(make_docs, page)().splitlines() if line.startswith("| `")]
    empty = [row for row in rows if row.endswith("|  |")]
    assert len(rows) > 30
    assert not empty
