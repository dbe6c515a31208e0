from pathlib import Path
from typing import Any

import pytest

from radvqa.errors import RecipeError
from radvqa.recipe import load_synth_recipe, parse_synth_recipe

CAPTIONS = {"adapter": "medpix", "root": "somewhere"}


def recipe(**changes: Any) -> Any:
    return parse_synth_recipe({"name": "n", "captions": CAPTIONS, **changes}, where="test")


def test_yes_and_no_may_stand_without_quotes(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: n\ncaptions: {adapter: medpix, root: x}\nquestions: {yes: 2, no: 3, organ: 0}\n")
    assert dict(load_synth_recipe(file).questions) == {"yes": 2, "no": 3}
    assert dict(load_synth_recipe(file, ["questions.yes=4"]).questions)["yes"] == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"questions": {"colour": 1}}, "colour"),
        ({"questions": {"organ": 6}}, "0 to 5"),
        ({"questions": {}}, "nothing would be asked"),
        ({"dialogues": 1}, "2 to 4 turns"),
        ({"dialogues": 2, "generator": {"backend": "rules"}}, "need a language model"),
        ({"generator": {"backend": "endpoint", "model": "m"}}, "needs url"),
        ({"generator": {"backend": "endpoint", "url": "http://x"}}, "needs model"),
        ({"generator": {"backend": "offline_vllm", "model": "a/b"}}, "revision"),
        ({"generator": {"api_key_variable": "sk-123-456"}}, "never the key itself"),
        ({"generator": {"backnd": "rules"}}, "did you mean 'backend'"),
        ({"screens": {"of": []}}, "did you mean 'off'"),
        ({"styles": []}, "styles"),
        ({"stages": []}, "stages: unknown key"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe(**changes)


def test_what_is_only_speed_or_place_is_not_in_the_digest() -> None:
    endpoint = {"backend": "endpoint", "url": "http://a/v1", "model": "m"}
    one = recipe(generator=endpoint)
    other = recipe(
        output="elsewhere",
        most_failed=0.5,
        generator={**endpoint, "url": "http://b/v1", "concurrency": 99, "price_per_million_prompt_tokens": 1.0},
    )
    assert one.digest() == other.digest()
    assert one.digest() != recipe(generator={**endpoint, "temperature": 0.5}).digest()
    assert one.digest() != recipe(generator=endpoint, screens={"off": ["long_answer"]}).digest()
