import errno
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from radvqa.cli.check import Finding, check, problems
from radvqa.recipe import Recipe, parse_recipe

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slake = _load(Path(__file__).parents[1] / "data" / "slake_folder.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tables = {
        "train.json": [slake.row(number, img_id=1 + number % 2) for number in range(10)] + [slake.row(90, q_lang="zh")],
        "validate.json": [slake.row(20, img_id=3)],
    }
    return slake.write_folder(tmp_path / "Slake1.0", tables, images=[1, 2, 3])


def make_recipe(root: Path, **changes: Any) -> Recipe:
    values = {
        "name": "toy",
        "output": str(root.parent / "runs"),
        "model": {"checkpoint": "tiny"},
        "datasets": {"slake": {"adapter": "slake", "root": str(root)}},
        "stages": [{"name": "align", "datasets": ["slake"], "epochs": 2, "batch_size": 8}],
        "evaluate": {"dataset": "slake"},
        **changes,
    }
    return parse_recipe(values, where="toy.yaml")


def facts(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject: finding.fact for finding in findings}


def whats(recipe: Recipe) -> list[str]:
    return [problem.what for problem in problems(check(recipe))]


def test_a_sound_recipe_has_facts_and_no_problem(root: Path) -> None:
    findings = check(make_recipe(root))
    assert problems(findings) == []
    told = facts(findings)
    expected = "10 questions, 2 images; left out: 1 other_language; licence CC BY 4.0"
    assert told["data set slake, train"].startswith(expected)
    assert told["data set slake, val"].startswith("1 questions, 1 images; licence")
    assert told["stage align"] == "2 updates of 8 questions; learns projector"
    assert "writable" in told["output"]
    assert not (root.parent / "runs").exists()


def test_rows_are_images_in_the_shared_image_layout(root: Path) -> None:
    recipe = make_recipe(root, model={"checkpoint": "tiny", "layout": "shared_image"})
    assert facts(check(recipe))["stage align"].startswith("1 updates of 8 images")


def test_all_problems_are_told_at_once(root: Path) -> None:
    slake.write_table(root, "validate.json", [slake.row(20, img_id=77)])
    (root.parent / "runs").write_text("")
    recipe = make_recipe(
        root,
        model={"checkpoint": "tiny", "wheels": "no-such-folder"},
        datasets={"slake": {"adapter": "slake", "root": str(root)}, "lost": {"adapter": "slake", "root": "lost"}},
        stages=[{"name": "align", "datasets": ["slake", "lost"], "epochs": 1}],
    )
    assert whats(recipe) == [
        "the folder with the weight wheels is not there",
        "SLAKE is not at this place",
        "the val split of 'slake' has no usable question",
        "cannot write to the output folder",
    ]


def test_groups_in_training_and_evaluation_are_a_leak(root: Path) -> None:
    slake.write_table(root, "validate.json", [slake.row(20, img_id=1), slake.row(21, img_id=3)])
    (problem,) = problems(check(make_recipe(root)))
    assert problem.what == "evaluated groups are trained on"
    assert problem.got == "xmlab1"


def test_a_leak_over_two_languages_is_found(root: Path) -> None:
    slake.write_table(root, "validate.json", [slake.row(20, img_id=1, q_lang="zh"), slake.row(21, img_id=3)])
    datasets = {
        "en": {"adapter": "slake", "root": str(root)},
        "zh": {"adapter": "slake", "root": str(root), "language": "zh"},
    }
    stages = [{"name": "align", "datasets": ["en"], "epochs": 1}]
    assert whats(make_recipe(root, datasets=datasets, stages=stages, evaluate={"dataset": "zh"})) == [
        "evaluated groups are trained on"
    ]
    assert whats(make_recipe(root, datasets=datasets, stages=stages, evaluate={"dataset": "en"})) == []


def test_evaluating_the_training_split_is_a_leak(root: Path) -> None:
    evaluate = {"dataset": "slake", "split": "train"}
    assert whats(make_recipe(root, evaluate=evaluate)) == ["evaluated groups are trained on"]
    phantom = {
        "datasets": {"phantom": {"adapter": "phantom"}},
        "stages": [{"name": "align", "datasets": ["phantom"], "epochs": 1}],
    }
    assert whats(make_recipe(root, **phantom, evaluate={"dataset": "phantom", "split": "train"})) == [
        "evaluated groups are trained on"
    ]


def test_the_phantom_corpus_is_not_generated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from radvqa.data.adapters.phantom import PhantomDataset

    def never(self: PhantomDataset, folder: Path) -> None:
        raise AssertionError("generated")

    monkeypatch.setattr(PhantomDataset, "_generate", never)
    recipe = make_recipe(
        root,
        datasets={"phantom": {"adapter": "phantom", "count": {"train": 40}, "questions_per_image": 5}},
        stages=[{"name": "align", "datasets": ["phantom"], "epochs": 1, "batch_size": 8}],
        evaluate={"dataset": "phantom"},
    )
    findings = check(recipe)
    told = facts(findings)
    assert told["data set phantom, train"].startswith("40 images, at most 200 questions")
    assert told["stage align"].startswith("at most 25 updates of 8 questions")
    assert [problem.what for problem in problems(findings)] == ["the val split of 'phantom' has no images"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"adapter": "slak"}, "no data set adapter is called 'slak'"),
        ({"adapter": "slake"}, "needs the option 'root'"),
        ({"adapter": "slake", "root": "x", "langage": "en"}, "has no option 'langage'"),
        ({"adapter": "nowhere.to.be.found"}, "cannot be imported"),
        ({"adapter": "phantom", "size": 1}, "out of range"),
        ({"adapter": "phantom", "count": 5}, "an option of the data set 'phantom' has a wrong value"),
        ({"adapter": "slake", "root": 5}, "an option of the data set 'slake' has a wrong value"),
    ],
)
def test_bad_entries_are_named(root: Path, entry: dict[str, Any], message: str) -> None:
    (what,) = whats(make_recipe(root, datasets={"slake": entry}))
    assert message in what


OWN = """
from pathlib import Path
from radvqa.data.adapter import DatasetAdapter
from radvqa.sample import VqaSample

class Own(DatasetAdapter):
    licence = citation = homepage = "own"

    def splits(self):
        return "train", "val"

    def rows(self, split):
        yield VqaSample(sample_id="a", image_id="a", image=Path("lost.png"), question="q", answers=("yes",),
                        answer_type="closed", group_id=split, split=split)

    def sources(self):
        return ()

ADAPTER = Own
"""


def test_images_of_an_own_data_set_must_exist(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = root.parent / "hospital"
    package.mkdir()
    (package / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(root.parent)
    monkeypatch.chdir(root.parent)
    recipe = make_recipe(root, datasets={"slake": {"adapter": "hospital.own"}})
    found = problems(check(recipe))
    assert [one.what for one in found] == [
        f"the {split} split of 'slake' has no usable question" for split in ("train", "val")
    ]
    assert [one.got for one in found] == ["1 missing_image", "1 missing_image"]
    (root.parent / "lost.png").write_text("")
    assert whats(recipe) == []


def test_unknown_samples_to_explain_are_named(root: Path) -> None:
    (problem,) = problems(check(make_recipe(root, explain={"sample_ids": ["slake-20", "slake-99"]})))
    assert problem.got == "slake-99"
    assert problem.expected == "ids such as slake-20"


def test_a_checkpoint_folder_needs_a_config(root: Path) -> None:
    assert whats(make_recipe(root, model={"checkpoint": str(root)})) == ["the checkpoint folder has no config.json"]
    assert whats(make_recipe(root, model={"checkpoint": "./absent"})) == ["the checkpoint folder is not there"]
    assert whats(make_recipe(root, model={"checkpoint": "google/paligemma", "revision": "1f" * 20})) == []


def test_a_full_disk_is_a_problem(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    (problem,) = problems(check(make_recipe(root)))
    assert problem.got == "No space left on device"


@pytest.mark.skipif(not REAL.is_dir(), reason="the SLAKE data set is not here")
def test_real_slake_is_sound() -> None:
    findings = check(make_recipe(REAL, output="runs"))
    assert problems(findings) == []
    told = facts(findings)
    # Some copies lack images; English training rows are 4919 in all, one of them published without an answer.
    usable, *left_out = re.findall(r"(\d+) (?:questions|empty_answer|missing_image)", told["data set slake, train"])
    assert int(usable) + sum(map(int, left_out)) == 4919
    assert told["leaks"] == "no group of slake, val, is trained on"
