"""What a recipe may ask of its data: new splits by group, evaluated pictures kept out of training, few bad rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from radvqa.cli.check import check, problems
from radvqa.errors import DataError, RunError
from radvqa.pipeline import read_samples
from radvqa.recipe import Recipe, parse_recipe
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress


def picture(path: Path, seed: int, *, side: int = 96) -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((96, 96)), 9)
    smooth = 255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
    Image.fromarray(smooth.astype(np.uint8)).resize((side, side)).save(path)


def hospital(folder: Path, seeds: list[int], *, patients: int = 2, suffix: str = "png", side: int = 96) -> None:
    """Own data: a patient for every two pictures, one question for each."""
    folder.mkdir()
    lines = ["image,question,answer,patient,modality"]
    for seed in seeds:
        picture(folder / f"p{seed}.{suffix}", seed, side=side)
        lines.append(f"p{seed}.{suffix},What is seen in {seed}?,thing {seed},{folder.name} {seed // patients},CT")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def recipe(folder: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "toy",
        "output": str(folder / "runs"),
        "model": "tiny",
        "datasets": {
            "ours": {
                "adapter": "own",
                "root": str(folder / "ours"),
                "splits": {"fractions": {"train": 0.7, "val": 0.3}, "seed": 1},
            },
            "theirs": {"adapter": "own", "root": str(folder / "theirs")},
        },
        "stages": [{"name": "align", "datasets": ["theirs"], "updates": 1}],
        "evaluate": {"dataset": "ours"},
        **changes,
    }
    return parse_recipe(values, where="here")


def read(wanted: Recipe) -> tuple[RunFolder, dict[Any, Any]]:
    folder = RunFolder.create(wanted, command="test")
    try:
        return folder, read_samples(folder, progress=Progress(quiet=True))
    finally:
        folder.unlock()


def rejects(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.file(f"samples/{name}.rejects.jsonl").read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our data, and theirs: other pictures, but for a smaller JPEG copy of every picture of ours."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hospital(tmp_path / "ours", list(range(20)))
    hospital(tmp_path / "theirs", [*range(20), *range(100, 120)], suffix="jpg", side=80)
    return tmp_path


def test_new_splits_share_no_patient_and_are_written_with_their_hash(folder: Path) -> None:
    values = {"stages": [{"name": "align", "datasets": ["ours"], "updates": 1}]}
    run, samples = read(recipe(folder, **values))
    train, val = samples["ours", "train"], samples["ours", "val"]
    assert len(train) + len(val) == 20
    assert len(val) == 6
    assert not {one.group_id for one in train} & {one.group_id for one in val}
    told = json.loads(run.file("samples/splits.json").read_text())["ours"]
    assert {group for group, split in told["split_of_group"].items() if split == "val"} == {one.group_id for one in val}
    assert len(told["sha256"]) == 64


def test_the_same_splits_come_out_again_whatever_the_run_s_seed(folder: Path) -> None:
    values = {"stages": [{"name": "align", "datasets": ["ours"], "updates": 1}]}
    one, other = (read(recipe(folder, seed=seed, **values))[0] for seed in (0, 1))
    assert one.path != other.path
    assert one.file("samples/splits.json").read_bytes() == other.file("samples/splits.json").read_bytes()


def test_seen_pictures_are_allowed_unless_the_recipe_says_so(folder: Path) -> None:
    _, samples = read(recipe(folder))
    assert len(samples["theirs", "train"]) == 40


def test_a_run_refuses_training_pictures_that_are_evaluated_in_another_data_set(folder: Path) -> None:
    with pytest.raises(DataError, match="6 training images are evaluated ones") as caught:
        read(recipe(folder, evaluate={"dataset": "ours", "seen_pictures": "refuse"}))
    assert "their thumbnails correlate at" in str(caught.value.got)
    assert "seen_pictures to drop" in str(caught.value.fix)


def test_dropping_them_leaves_their_whole_groups_out_and_counts_them(folder: Path) -> None:
    run, samples = read(recipe(folder, evaluate={"dataset": "ours", "seen_pictures": "drop"}))
    evaluated = {one.image.stem for one in samples["ours", "val"]}
    kept = samples["theirs", "train"]
    assert not evaluated & {one.image.stem for one in kept}
    left_out = rejects(run, "theirs-train")
    assert {one["reason"] for one in left_out} == {"seen_in_evaluation"}
    assert len(left_out) + len(kept) == 40
    # The other picture of an evaluated patient goes too.
    assert len(left_out) == 2 * len({int(name.removeprefix("p")) // 2 for name in evaluated})
    index = json.loads(run.file("samples/index.json").read_text())
    assert index["theirs-train"]["rejects"] == {"seen_in_evaluation": len(left_out)}
    # A second start reads the same.
    again = read_samples(run, progress=Progress(quiet=True))
    assert {key: list(found) for key, found in again.items()} == {key: list(found) for key, found in samples.items()}


def test_a_picture_under_two_groups_is_dropped_from_both(folder: Path) -> None:
    table = folder / "theirs" / "table.csv"
    lines = [f"p{number}.jpg,And what in {number}?,thing,another {number},CT" for number in range(20)]
    table.write_text(table.read_text() + "\n".join(lines) + "\n")
    _, samples = read(recipe(folder, evaluate={"dataset": "ours", "seen_pictures": "drop"}))
    evaluated = {one.image.stem for one in samples["ours", "val"]}
    assert not evaluated & {one.image.stem for one in samples["theirs", "train"]}


def test_an_answer_that_nothing_can_match_is_left_out_before_training(folder: Path) -> None:
    table = folder / "ours" / "table.csv"
    table.write_text(table.read_text().replace("thing 4,", "-,").replace("thing 5,", "?,"))
    wanted = recipe(folder, stages=[{"name": "align", "datasets": ["ours"], "updates": 1}])
    run, samples = read(wanted)
    reasons = [one["reason"] for split in ("train", "val") for one in rejects(run, f"ours-{split}")]
    assert reasons == ["answer_without_word"] * 2
    assert sum(map(len, samples.values())) == 18
    assert problems(check(wanted)) == []


@pytest.mark.parametrize("change", ["changed", "added"])
def test_tables_of_one_name_in_two_folders_are_both_guarded(folder: Path, change: str) -> None:
    for split, seeds in (("train", range(4)), ("val", range(4, 6))):
        hospital(folder / split, list(seeds))
        (folder / split / "table.csv").rename(folder / split / "metadata.csv")
    (folder / "hub").mkdir()
    for split in ("train", "val"):
        (folder / split).rename(folder / "hub" / split)
    datasets = {"hub": {"adapter": "own", "root": str(folder / "hub")}}
    stages = [{"name": "align", "datasets": ["hub"], "updates": 1}]
    wanted = recipe(folder, datasets=datasets, stages=stages, evaluate={"dataset": "hub"})
    run, _ = read(wanted)
    table = folder / "hub" / "train" / "metadata.csv"
    if change == "changed":
        table.write_text(table.read_text().replace("thing 1", "thing else"))
    else:
        hospital(folder / "hub" / "test", [7])
        (folder / "hub" / "test" / "table.csv").rename(folder / "hub" / "test" / "metadata.csv")
    with pytest.raises(RunError, match="a data file has changed since this run read it") as caught:
        read_samples(run, progress=Progress(quiet=True))
    assert caught.value.where == f"hub/{'train' if change == 'changed' else 'test'}/metadata.csv"


def test_groups_of_the_same_id_are_refused_or_dropped(folder: Path) -> None:
    table = folder / "theirs" / "table.csv"
    table.write_text(table.read_text().replace("theirs ", "ours "))
    with pytest.raises(DataError, match="shares groups with a training split"):
        read(recipe(folder))
    _, samples = read(recipe(folder, evaluate={"dataset": "ours", "seen_pictures": "drop"}))
    assert not {one.group_id for one in samples["ours", "val"]} & {one.group_id for one in samples["theirs", "train"]}


def test_more_malformed_rows_than_allowed_stop_the_run(folder: Path) -> None:
    table = folder / "theirs" / "table.csv"
    lines = table.read_text().splitlines()
    lines[3] = "p2.jpg,,thing,theirs 1,CT"
    lines[7] = lines[7] + ",surplus"
    table.write_text("\n".join(lines) + "\n")
    run, samples = read(recipe(folder))
    assert len(samples["theirs", "train"]) == 38
    assert [one["reason"] for one in rejects(run, "theirs-train")] == ["empty_value", "wrong_columns"]
    strict = recipe(folder, most_malformed=0.01)
    with pytest.raises(DataError, match="2 of 40 rows of the train split of 'theirs' are malformed") as caught:
        read(strict)
    assert "row 3" in str(caught.value.where)
    assert [problem.what for problem in problems(check(strict))] == [caught.value.what]


def test_a_mistaken_tag_names_the_entry_of_the_recipe(folder: Path) -> None:
    splits = {"fractions": {"train": 0.7, "val": 0.3}, "stratify_by": "modallity"}
    datasets = {"ours": {"adapter": "own", "root": str(folder / "ours"), "splits": splits}}
    wanted = recipe(folder, datasets=datasets, stages=[{"name": "align", "datasets": ["ours"], "updates": 1}])
    with pytest.raises(DataError, match="no row has the tag 'modallity'") as caught:
        read(wanted)
    assert caught.value.where == "datasets.ours.splits"


def test_fractions_that_do_not_sum_to_one_are_named(folder: Path) -> None:
    from radvqa.errors import RecipeError

    with pytest.raises(RecipeError, match=r"datasets\.ours\.splits\.fractions: the fractions must"):
        recipe(folder, datasets={"ours": {"adapter": "own", "root": "x", "splits": {"fractions": {"train": 0.5}}}})
