"""``radvqa bench train`` as typed, on the tiny checkpoint."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from radvqa.cli.bench import app
from radvqa.errors import RecipeError

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

TINY = (
    "train", "--checkpoint", "tiny", "--set", "count={train: 6}", "--set", "size=112", "--batch-size", "3",
    "--images", "1", "--steps", "4", "--rounds", "2", "--check", "2", "--no-memory", "--dtype", "float32", "--quiet",
)  # fmt: skip


def test_all_settings_are_in_the_json(tmp_path: Path) -> None:
    settings = [word for one in ("align", "adapt", "align-shared") for word in ("--setting", one)]
    done = CliRunner().invoke(app, [*TINY, *settings, "--root", str(tmp_path), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(one["stage"], one["layout"]) for one in found] == [
        ("align", "per_question"),
        ("adapt", "per_question"),
        ("align", "shared_image"),
    ]
    assert all(one["loss_difference"] < 1e-4 for one in found[:2])
    assert all(one["float32_loss_difference"] < 1e-4 for one in found[:2])
    assert found[2]["loss_difference"] is None
    assert found[2]["float32_loss_difference"] is None
    assert all(one["ratio"] > 0 for one in found)


def test_the_table_has_a_line_for_the_setting(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*TINY, "--setting", "align", "--root", str(tmp_path)], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["setting", "plain", "engine", "ratio"]
    assert lines[1].startswith("align ")
    assert lines[1].split()[3].endswith("x")
    assert lines[3].startswith("align: features of ")


def test_settings_in_bfloat16_follow_each_other_in_one_process(tmp_path: Path) -> None:
    words = [word if word != "float32" else "bfloat16" for word in TINY]
    settings = ("--setting", "align", "--setting", "adapt", "--root", str(tmp_path), "--json")
    done = CliRunner().invoke(app, [*words, *settings], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert [one["dtype"] for one in found] == ["bfloat16", "bfloat16"]
    assert all(one["float32_loss_difference"] < 1e-4 < one["loss_difference"] < 5e-2 for one in found)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(RecipeError, match="no such choice"):
        CliRunner().invoke(app, [*TINY, "--setting", "alien"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--checkpoint", "google/paligemma-3b-mix-448"), "there is no checkpoint here"),
        (("--checkpoint", "/nope"), "there is no checkpoint here"),
        (("--set", "count={a"), "not valid YAML"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(words: tuple[str, str], what: str) -> None:
    with pytest.raises(RecipeError, match=what) as caught:
        CliRunner().invoke(app, [*TINY, *words], catch_exceptions=False)
    assert caught.value.expected
    assert caught.value.fix
