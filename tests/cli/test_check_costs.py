"""What ``radvqa check`` tells of work, memory and disk."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from radvqa.cli import check_costs, check_disk
from radvqa.cli.check import check, problems
from radvqa.cli.check_costs import stage_work
from radvqa.cli.check_sizes import StageSize, Texts
from radvqa.cli.machine import place_of
from radvqa.errors import RunError
from radvqa.models.geometry import geometry_of
from radvqa.recipe import Recipe, parse_recipe

PALIGEMMA = {"checkpoint": "google/paligemma-3b-mix-448", "revision": "1f1f1f1", "dtype": "bfloat16"}
LORA = {"rank": 8}


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slake = _load(Path(__file__).parents[1] / "data" / "slake_folder.py")


@pytest.fixture(autouse=True)
def no_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_costs, "memory_here", lambda: (16 * 2**30, "this machine"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tables = {
        "train.json": [slake.row(number, img_id=1 + number % 2) for number in range(96)],
        "validate.json": [slake.row(200, img_id=3)],
    }
    return slake.write_folder(tmp_path / "Slake1.0", tables, images=[1, 2, 3])


def recipe_of(root: Path, *stages: dict[str, Any], model: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    data = {"adapter": "slake", "root": str(root)}
    values = {
        "name": "toy",
        "output": str(root.parent / "runs"),
        "model": model or PALIGEMMA,
        "datasets": {"slake": data, "again": data},
        "stages": [
            {"name": f"s{number}", "epochs": 1, "datasets": ["slake"], **one} for number, one in enumerate(stages)
        ],
        "evaluate": {"dataset": "slake"},
        **changes,
    }
    return parse_recipe(values, where="toy.yaml")


def told(recipe: Recipe) -> dict[str, str]:
    return {finding.subject: finding.fact for finding in check(recipe)}


def work_of(recipe: Recipe, texts: dict[str, Texts]) -> float:
    geometry = geometry_of(recipe.model)
    assert geometry is not None
    return stage_work(recipe, geometry, StageSize(stage=recipe.stages[0], texts=texts))


def texts(rows: int = 96, pictures: int = 12) -> Texts:
    return Texts(rows=rows, questions=rows, pictures=pictures, text=20, answers=4, longest_text=40, longest_answers=10)


def test_work_memory_and_disk_are_told(root: Path) -> None:
    found = told(recipe_of(root, {"batch_size": 6}, {"batch_size": 6, "micro_batch_size": 2, "lora": LORA}))
    # 96 rows of 8.8 TFLOP, and the tower sees two pictures once.
    assert found["stage s0, work"].startswith("0.844")
    assert "PFLOP; --measure" in found["stage s0, work"]
    assert "for 6 rows at a time: weights 5.5 (bfloat16), 2,361,344 learning 0.0" in found["stage s0, memory"]
    assert "for 2 rows at a time: weights 5.5 (bfloat16), 6,195,200 learning" in found["stage s1, memory"]
    assert found["training, work"].endswith("--measure tells how long it takes here")
    assert "2 MiB pictures at the model's size and 4 MiB vision features" in found["disk, caches"]
    assert "10.9 GiB base weights" in found["disk, download"]
    assert problems(check(recipe_of(root, {}))) == []


def test_hours_are_told_for_hardware_that_is_known(root: Path) -> None:
    found = told(recipe_of(root, {"epochs": 100, "batch_size": 96, "micro_batch_size": 6}))["stage s0, work"]
    work = float(found.split()[0]) * 1e15
    (minutes,) = (float(part.split()[0]) for part in found.split(": ")[1].split(", ") if "A100" in part)
    assert 0.7 < work / 100e12 / 60 / minutes < 1.3
    # 9,600 rows of 8.8 TFLOP.
    assert work == pytest.approx(84e15, rel=0.02)
    assert minutes == 14
    assert found.endswith("a third of the peak is assumed, for training alone, without evaluation and looks")


def test_too_much_memory_is_a_fact_with_advice(root: Path) -> None:
    (found,) = [fact for subject, fact in told(recipe_of(root, {"batch_size": 96})).items() if "memory" in subject]
    assert "more than the 16.0 GiB of this machine; less with gradient_checkpointing: true or a smaller micro" in found
    assert problems(check(recipe_of(root, {"batch_size": 96}))) == []
    one = told(recipe_of(root, {"batch_size": 96, "micro_batch_size": "auto", "gradient_checkpointing": True}))
    assert "for 1 rows at a time, the least of auto" in one["stage s0, memory"]
    assert "more than" not in one["stage s0, memory"]


def test_too_little_disk_is_a_problem(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_disk, "place_of", lambda folder: (1, 2**30))
    (problem,) = problems(check(recipe_of(root, {})))
    assert isinstance(problem, RunError)
    assert problem.what == "the disk has too little room for this run"
    assert problem.expected is not None
    # What goes into the output folder and the caches lies on the same file system and counts with the download.
    assert "base weights, and the above" in problem.expected


def test_what_was_downloaded_needs_no_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_disk, "place_of", lambda folder: (1, 2**30))
    monkeypatch.setattr(check_disk, "_folder_bytes", lambda folder: 12 * 2**30)
    assert problems(check(recipe_of(root, {}))) == []


def test_an_unknown_checkpoint_says_so(root: Path) -> None:
    found = told(recipe_of(root, {}, model={"checkpoint": "someone/else", "revision": "1f1f1f1"}))
    assert found["costs"] == "unknown: they are told when the checkpoint's config.json is here"
    assert "stage s0, work" not in found


def test_a_branch_is_no_revision(root: Path) -> None:
    (problem,) = problems(check(recipe_of(root, {}, model={**PALIGEMMA, "revision": "main"})))
    assert problem.what == "the revision is no commit: a branch or tag may point elsewhere tomorrow"


def test_a_projector_must_be_there(root: Path) -> None:
    recipe = recipe_of(root, {}, model={**PALIGEMMA, "projector": str(root / "projector.safetensors")})
    (problem,) = problems(check(recipe))
    assert problem.what == "the projector to start from is not there"
    (root / "projector.safetensors").write_bytes(b"")
    assert problems(check(recipe)) == []


def test_a_mixture_costs_what_its_shares_are_over_time(root: Path) -> None:
    short = texts()
    long = Texts(rows=96, questions=96, pictures=12, text=2000, answers=4, longest_text=2000, longest_answers=10)

    def mixed(weight: Any) -> float:
        mixture = {"slake": {}, "again": {"weight": weight}}
        stage = {
            "name": "s",
            "updates": 200,
            "datasets": [],
            "epochs": None,
            "mixture": mixture,
            "features": "computed",
        }
        return work_of(recipe_of(root, stage), {"slake": short, "again": long})

    nothing, quarter, half = mixed(0.0), mixed(0.25), mixed(0.5)
    assert nothing < quarter < half
    assert mixed({"start": 0.0, "end": 0.5}) == pytest.approx(quarter, rel=1e-3)
    assert mixed({"shape": "step", "start": 0.0, "end": 1.0, "after": 0.5}) == pytest.approx(half, rel=5e-3)


def test_the_passes_over_each_source_are_told(root: Path) -> None:
    mixture = {"slake": {}, "again": {"weight": 0.25}}
    found = told(recipe_of(root, {"epochs": 4, "datasets": [], "mixture": mixture}))
    assert found["stage s0"].endswith("; passes over each source: slake 6.0, again 2.0")


def test_pictures_in_the_cache_make_no_room_and_evaluated_ones_count(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(check_disk, "_folder_bytes", lambda folder: looked.append(folder.name) or 0)
    monkeypatch.setattr(check_disk, "picture_bytes", lambda vision: 2**20)
    # Two pictures are trained on, one is evaluated.
    assert "3 MiB pictures" in told(recipe_of(root, {}))["disk, caches"]
    assert looked[0] == "features"


def test_sources_are_filtered_as_the_run_does(root: Path) -> None:
    stage = {"datasets": [], "mixture": {"slake": {"only": {"modality": ["none such"]}}}}
    (problem,) = problems(check(recipe_of(root, stage)))
    assert problem.what == "no sample is left to train on"
    assert problem.got == "96 without the wanted tags"


def test_the_tower_is_paid_once_where_its_output_is_kept(root: Path) -> None:
    kept, computed = (
        work_of(recipe_of(root, {"updates": 100, "epochs": None, "features": how}), {"slake": texts()})
        for how in ("cached", "computed")
    )
    assert 1.05 * kept < computed
    augmented = work_of(recipe_of(root, {"updates": 100, "epochs": None, "augment": True}), {"slake": texts()})
    assert augmented == computed


def test_rows_are_images_in_the_shared_image_layout(root: Path) -> None:
    shared = recipe_of(root, {"questions_per_image": 10}, model={**PALIGEMMA, "layout": "shared_image"})
    alone = recipe_of(root, {})
    found = check(shared)
    assert {one.subject: one.fact for one in found}["stage s0"].startswith("1 updates of 8 images")
    assert told(alone)["stage s0"].startswith("12 updates of 8 questions")


def test_lengths_follow_the_texts(root: Path) -> None:
    recipe = recipe_of(root, {}, model={"checkpoint": "tiny"})
    from radvqa.data import open_entry

    samples = open_entry(recipe.datasets["slake"], name="slake").read("train").samples
    found = Texts.of(samples, recipe.model, most_questions=None)
    assert (found.rows, found.questions, found.pictures) == (96, 96, 2)
    longest = max(len(one.question) + len(one.answers[0]) for one in samples)
    # Bytes, `answer en `, the newline and the end token as far as they are counted, and bos.
    assert found.longest_text == 1 + longest + 3 + 1


@pytest.mark.slow
def test_the_speed_of_this_machine_is_measured(root: Path) -> None:
    findings = check(recipe_of(root, {}, model={"checkpoint": "tiny", "threads": 1}), measure=True)
    assert problems(findings) == []
    found = {one.subject: one.fact for one in findings}
    assert float(found["speed"].split()[-2]) > 0.001
    assert "here at half of that speed" in found["stage s0, work"]


def test_a_speed_that_cannot_be_measured_is_a_problem(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_costs.sys, "executable", "/bin/false")
    (problem,) = problems(check(recipe_of(root, {}), measure=True))
    assert problem.what == "the speed of this machine cannot be measured"


def test_the_place_of_a_folder_that_is_not_there_is_its_parents(tmp_path: Path) -> None:
    assert place_of(tmp_path / "a" / "b")[0] == place_of(tmp_path)[0]
