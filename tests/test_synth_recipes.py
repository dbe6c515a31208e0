from pathlib import Path

import pytest

from radvqa.cli.listing import recipes
from radvqa.recipe import load_synth_recipe
from radvqa.synth.pair import Source
from radvqa.synth.prompt import load_prompt
from radvqa.synth.wording import STYLES

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "synthesis"
SHIPPED = sorted(FOLDER.glob("*.yaml"))


def test_there_are_some_and_they_are_listed() -> None:
    assert len(SHIPPED) >= 4
    assert all(row["about"] for row in recipes(FOLDER))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_can_be_asked(path: Path) -> None:
    recipe = load_synth_recipe(path)
    assert set(recipe.styles) <= set(STYLES)
    counts = {name: count for name, count in recipe.questions.items() if name != "no"}
    source = Source(caption_id="c", text="Axial CT of the chest shows a pleural effusion.")
    assert load_prompt(recipe.generator.prompt).messages(source, counts)
    if recipe.dialogues:
        assert load_prompt(recipe.generator.dialogue_prompt).messages(source, {"open": recipe.dialogues})
