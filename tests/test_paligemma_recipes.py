"""The recipes of the real model: sound, pinned, and with the settings that they say they have."""

import re
from pathlib import Path

import pytest

from radvqa.cli.check import check, problems
from radvqa.cli.listing import recipes
from radvqa.recipe import Anneal, Recipe, load_recipe

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "paligemma-3b-mix-448"
ALIGN, ADAPT = FOLDER / "align-slake.yaml", FOLDER / "adapt-roco-medpix.yaml"


@pytest.mark.parametrize("path", [ALIGN, ADAPT], ids=lambda path: path.stem)
def test_the_paper_s_settings(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.model.checkpoint == "google/paligemma-3b-mix-448"
    assert re.fullmatch("[0-9a-f]{40}", recipe.model.revision or "")
    assert recipe.model.dtype == "bfloat16"
    (stage,) = recipe.stages
    assert stage.batch_size == 96
    assert stage.micro_batch_size == 6
    assert (stage.betas, stage.weight_decay) == ((0.9, 0.999), 0.0)


def test_the_stages() -> None:
    (align,), (adapt,) = load_recipe(ALIGN).stages, load_recipe(ADAPT).stages
    assert (align.lora, align.full, align.epochs) == (None, (), 5)
    assert adapt.lora is not None
    assert (adapt.lora.rank, adapt.lora.alpha) == (8, 32)
    assert (adapt.learning_rate, adapt.schedule, adapt.warmup_updates) == (1e-5, "constant", 2)
    assert isinstance(adapt.mixture["medpix"].weight, Anneal)
    assert adapt.mixture["roco"].weight is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_every_share_of_medpix_is_one_key(share: float) -> None:
    recipe = load_recipe(ADAPT, [f"stages.adapt.mixture.medpix.weight={share:.2f}"])
    assert recipe.stages[0].mixture["medpix"].weight == share


def test_the_variants_in_the_comments_are_valid() -> None:
    text = ADAPT.read_text(encoding="utf-8")
    assert "--set stages.adapt.mixture.medpix.weight=0.10" in text
    (late,) = re.findall(r"weight: (\{shape: step.*?\})", text)
    step = load_recipe(ADAPT, [f"stages.adapt.mixture.medpix.weight={late}"]).stages[0].mixture["medpix"].weight
    assert isinstance(step, Anneal)
    assert load_recipe(ADAPT, ["model.projector=null"]).model.projector is None


def test_missing_data_are_told_and_costs_of_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = check(load_recipe(ADAPT))
    assert [one.what for one in problems(found)] == [
        "the projector to start from is not there",
        "ROCO-QA is not at this place",
        "the generated questions on MedPix are not at this place",
    ]
    told = {one.subject: one.fact for one in found}
    assert told["stage adapt, work"] == "unknown: a data set cannot be read"
    assert "GiB base weights" in told["disk, download"]


def test_they_are_listed() -> None:
    assert [Path(row["recipe"]).name for row in recipes(FOLDER)] == [ADAPT.name, ALIGN.name]
    assert all("PaliGemma 3B" in row["about"] for row in recipes(FOLDER))


def test_both_start_from_the_same_base() -> None:
    def base(recipe: Recipe) -> tuple[str, str | None, str]:
        return recipe.model.checkpoint, recipe.model.revision, recipe.model.layout

    assert base(load_recipe(ALIGN)) == base(load_recipe(ADAPT))
