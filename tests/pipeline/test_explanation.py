"""A tiny run's answers explained end to end: bundles, list, panels, stages, resumption, a batch of own questions."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from radvqa import pipeline
from radvqa.errors import DataError, ModelError, RecipeError, RunError
from radvqa.explain.bundle_files import ARRAYS_FILE, case_folder, case_key, read_bundle, read_cases, write_cases
from radvqa.explain.cases import Given
from radvqa.explain.map_settings import MapSettings
from radvqa.pipeline import explanation, explanation_batch, stage_model
from radvqa.pipeline.explanation import explain_run, keep_answers
from radvqa.pipeline.explanation_batch import explain_batch
from radvqa.recipe import parse_recipe
from radvqa.records import read_records, write_records
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.sample import Reject

QUIET = Progress(quiet=True)
FEW = ("raw", "rollout")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A run with two stages whose answers are planted: right, wrong, wrong, empty, right, wrong, ..."""
    folder = tmp_path_factory.mktemp("explained")
    stage = {"datasets": ["phantom"], "updates": 1}
    values = {
        "name": "toy",
        "output": str(folder / "runs"),
        "model": {"checkpoint": "tiny", "dtype": "float32"},
        "datasets": {
            "phantom": {
                "adapter": "phantom",
                "count": {"train": 2, "val": 3},
                "size": 112,
                "root": str(folder / "data"),
                "questions_per_image": 2,
            }
        },
        "stages": [
            {"name": "align", **stage, "learning_rate": 0.1},
            {"name": "adapt", **stage, "lora": {"rank": 2, "targets": "attention"}, "learning_rate": 0.1},
        ],
        "evaluate": {"dataset": "phantom", "controls": [], "max_new_tokens": 3},
        "explain": {"samples": 3},
    }
    run = pipeline.run(parse_recipe(values, where="toy.yaml"), command="", until="evaluate", progress=QUIET)
    assert run is not None
    vlm = pipeline.train(run, progress=QUIET)
    planted = []
    for number, one in enumerate(pipeline.read_predictions(run)):
        text = ("" if number == 3 else one.references[0] if number % 3 == 0 else "zebra")[:8]
        ids = (*vlm.text_ids(text, "planted"), vlm.tokens.eos_id)
        planted.append(replace(one, text=text, token_ids=ids, references=(one.references[0][:8], "zebr")))
    write_records(run.file("predictions/val.jsonl"), planted)
    yield run
    run.unlock()


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model answers "Yes", but nothing to a question with "nothing" in it."""

    def answer(vlm: Any, sample: Any, pixels: Any, *, max_new_tokens: int) -> Given:
        text = "" if "nothing" in sample.question else "Yes"
        right = text in sample.answers if sample.answers else None
        return Given(text=text, token_ids=vlm.text_ids(text, "x"), correct=right)

    monkeypatch.setattr(explanation_batch, "generated", answer)
    monkeypatch.setattr(explanation, "generated", answer)


@pytest.fixture(scope="module")
def explained(evaluated: RunFolder) -> RunFolder:
    """All of its answers explained."""
    found = pipeline.explain(evaluated, every=True, methods=FEW, progress=QUIET)
    assert (found.made, found.kept, len(found.empty)) == (5, 0, 1)
    return evaluated


def lines_of(run: RunFolder, stage: str = "") -> dict[str, Any]:
    return {line.sample_id: line for line in read_cases(run.file(f"explain/stage-{stage}" if stage else "explain"))}


def untouched(folder: Path) -> dict[str, int]:
    return {path.name: (path / ARRAYS_FILE).stat().st_mtime_ns for path in folder.iterdir()}


def test_every_answer_with_a_token_has_its_case(explained: RunFolder) -> None:
    predictions = {one.sample_id: one for one in pipeline.read_predictions(explained)}
    lines = lines_of(explained)
    assert set(lines) == {name for name, one in predictions.items() if one.text}
    for name, line in lines.items():
        bundle = read_bundle(explained.file("explain") / line.folder)
        assert line.answer == predictions[name].text
        assert bundle.manifest.model["run"] == explained.path.name
        assert bundle.manifest.model["name"] == "tiny"
        assert bundle.manifest.model["stage"] == ""
        assert ("reference" in bundle.manifest.views) == (not line.correct)
        view = bundle.manifest.views["model"]
        answered = [token for token in view.tokens if token.part == "answer"]
        assert "".join(token.text for token in answered) == predictions[name].text
        for array in bundle.array_names:
            bundle.array(array)
        assert bundle.array("model/maps/raw").shape == (len(answered) + 1, 4, 4)
        assert bundle.pixels.shape[:2] == (112, 112)


def test_the_model_without_an_image_was_asked_too(explained: RunFolder) -> None:
    for line in lines_of(explained).values():
        view = read_bundle(explained.file("explain") / line.folder).manifest.views["model"]
        assert view.reliance == pytest.approx(sum(token.reliance or 0.0 for token in view.tokens), abs=1e-9)
        assert 0 < view.confidence <= 1
        assert line.reliance == view.reliance


def test_the_report_finds_its_panels(explained: RunFolder) -> None:
    entries = json.loads(explained.file("explain/index.json").read_text())
    assert 1 <= len(entries) <= 3  # those of the recipe, though all were explained
    for entry in entries:
        assert entry["panel"] == f"explain/{case_key(entry['sample_id'])}.png"
        with Image.open(explained.file(entry["panel"])) as panel:
            assert min(panel.size) > 100
        assert set(entry["methods"]) == {"raw attention", "rollout"}
        assert 0 < entry["methods"]["rollout"]["image_mass"] < 1
    assert explained.is_done("explain", pipeline._explained_from(explained))


def test_what_is_right_is_kept_and_what_changed_is_made_again(
    explained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = untouched(explained.file("explain/cases"))
    found = pipeline.explain(explained, every=True, methods=FEW, progress=QUIET)
    assert (found.made, found.kept) == (0, 5)
    assert untouched(explained.file("explain/cases")) == before
    # A damaged case, and one that is gone.
    first, second, *_ = sorted(before)
    (explained.file("explain/cases") / first / ARRAYS_FILE).write_bytes(b"")
    (explained.file("explain/cases") / second / "manifest.json").unlink()
    found = pipeline.explain(explained, every=True, methods=FEW, progress=QUIET)
    assert (found.made, found.kept) == (2, 3)
    # Fewer methods: what is there already has them.
    name = next(iter(lines_of(explained)))
    found = pipeline.explain(explained, sample_ids=[name], methods=("raw",), progress=QUIET)
    assert (found.made, found.kept) == (0, 1)
    assert set(lines_of(explained)[name].facts) == set(FEW)
    assert len(lines_of(explained)) == 5
    assert len(json.loads(explained.file("explain/index.json").read_text())) == 1
    # Another method, or another setting: made again with all that it had.
    for more in ({"methods": ("contrast",)}, {"methods": ("rollout",), "settings": MapSettings(alpha=0.8)}):
        found = pipeline.explain(explained, sample_ids=[name], progress=QUIET, **more)
        assert (found.made, found.kept) == (1, 0)
        assert set(lines_of(explained)[name].facts) == {*FEW, "contrast"}
    manifest = read_bundle(explained.file("explain") / lines_of(explained)[name].folder).manifest
    assert manifest.model["settings"]["alpha"] == 0.8
    pipeline.explain(explained, every=True, methods=FEW, progress=QUIET)
    assert len(lines_of(explained)) == 5


def test_finished_cases_outlive_a_stop_and_a_new_evaluation(explained: RunFolder) -> None:
    """Stopped before the list was written, evaluated again, and then only one case is asked for."""
    name, *others = lines_of(explained)
    before = untouched(explained.file("explain/cases"))
    explained.forget("explain")
    write_cases(explained.file("explain"), [])
    keep_answers(explained.file("explain"), pipeline.read_predictions(explained))
    (explained.file("explain/cases") / ".x.1.partial").mkdir()
    pipeline.explain(explained, sample_ids=[name], methods=FEW, progress=QUIET)
    assert untouched(explained.file("explain/cases")) == before
    assert set(lines_of(explained)) == {name, *others}


def test_only_cases_of_another_answer_or_other_weights_are_taken_away(explained: RunFolder) -> None:
    folder, cases = explained.file("explain"), explained.file("explain/cases")
    name, other, stale, damaged, _ = lines_of(explained)
    before = {key: (cases / key / "manifest.json").read_text() for key in untouched(cases)}
    (cases / case_key(damaged) / "manifest.json").write_text("{")
    predictions = [
        replace(one, text="else") if one.sample_id == stale else one for one in pipeline.read_predictions(explained)
    ]
    keep_answers(folder, predictions)
    assert stale not in lines_of(explained) and other in lines_of(explained)
    assert (cases / case_key(stale)).is_dir()
    changed = json.loads(before[case_key(other)])
    changed["model"]["weights"] = "other"
    (cases / case_key(other) / "manifest.json").write_text(json.dumps(changed))
    explain_run(
        explained, predictions, lambda: pipeline.train(explained, progress=QUIET), sample_ids=[name], methods=FEW,
        progress=QUIET,
    )  # fmt: skip
    assert set(untouched(cases)) == set(before) - {case_key(stale), case_key(other)}
    assert not set(lines_of(explained)) & {stale, other, damaged}
    (cases / case_key(damaged) / "manifest.json").write_text(before[case_key(damaged)])
    pipeline.explain(explained, every=True, methods=FEW, progress=QUIET)
    assert len(lines_of(explained)) == 5


def test_a_model_without_its_mask_is_not_explained(
    explained: RunFolder, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaks(_: Any) -> None:
        raise ModelError("the prefix mask leaks")

    monkeypatch.setattr(stage_model, "require_prefix_mask", leaks)
    name = next(iter(lines_of(explained)))
    for stage in ("", "base"):
        with pytest.raises(ModelError, match="leaks"):
            pipeline.explain(explained, sample_ids=[name], stage=stage, methods=FEW, progress=QUIET)
    with pytest.raises(ModelError, match="leaks"):
        batch(explained, [{"image": "a.png", "question": "?"}], pictures)
    assert len(lines_of(explained)) == 5


def test_a_foil_is_told_in_the_case(explained: RunFolder, answering: None) -> None:
    name = next(name for name, line in lines_of(explained).items() if line.correct is False)
    pipeline.explain(
        explained, sample_ids=[name], stage="base", methods=("chefer",), settings=MapSettings(foil="zebr"),
        progress=QUIET,
    )  # fmt: skip
    manifest = read_bundle(explained.file("explain/stage-base") / lines_of(explained, "base")[name].folder).manifest
    assert manifest.model["settings"] == {"foil": "zebr"}
    assert any("not for 'zebr'" in one for one in manifest.views["reference"].warnings)
    with pytest.raises(ModelError):
        pipeline.explain(
            explained, sample_ids=[name], stage="base", methods=("chefer",), settings=MapSettings(foil="<image>"),
            progress=QUIET,
        )  # fmt: skip


def test_a_stopped_start_goes_on(explained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in explained.file("explain/cases").iterdir():
        (path / "manifest.json").unlink()
    made: list[str] = []
    real = explanation.explain_case

    def stopping(vlm: Any, sample: Any, *rest: Any, **more: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(sample.sample_id)
        return real(vlm, sample, *rest, **more)

    monkeypatch.setattr(explanation, "explain_case", stopping)
    with pytest.raises(KeyboardInterrupt):
        pipeline.explain(explained, every=True, methods=FEW, progress=QUIET)
    assert not explained.is_done("explain", pipeline._explained_from(explained))
    monkeypatch.setattr(explanation, "explain_case", real)
    found = pipeline.explain(explained, every=True, methods=FEW, progress=QUIET)
    assert (found.made, found.kept) == (3, 2)
    assert not list(explained.path.rglob("*.partial"))


def test_earlier_stages_answer_by_their_own_weights(explained: RunFolder, answering: None) -> None:
    name = next(iter(lines_of(explained)))
    before = explained.file("explain/cases.jsonl").read_bytes()
    models, maps = {}, {}
    for stage in ("base", "align"):
        found = pipeline.explain(explained, sample_ids=[name], stage=stage, methods=("raw",), progress=QUIET)
        assert found.folder == explained.file(f"explain/stage-{stage}")
        bundle = read_bundle(found.folder / lines_of(explained, stage)[name].folder)
        assert bundle.manifest.model["stage"] == stage
        assert set(bundle.manifest.views) == {"model", "reference"}
        models[stage], maps[stage] = bundle.manifest.model["weights"], bundle.array("model/maps/raw")
        again = pipeline.explain(explained, sample_ids=[name], stage=stage, methods=("raw",), progress=QUIET)
        assert (again.made, again.kept) == (0, 1)
    finished = read_bundle(explained.file("explain") / lines_of(explained)[name].folder).manifest.model["weights"]
    assert len({finished, *models.values()}) == 3
    assert not np.array_equal(maps["base"], maps["align"])
    assert explained.file("explain/cases.jsonl").read_bytes() == before
    assert explained.is_done("explain", pipeline._explained_from(explained))


def test_wrong_names_are_told_and_take_nothing_away(explained: RunFolder) -> None:
    with pytest.raises(DataError, match="no evaluated sample is called 'nobody'"):
        pipeline.explain(explained, sample_ids=["nobody"], progress=QUIET)
    with pytest.raises(RecipeError, match="no such stage"):
        pipeline.explain(explained, stage="../x", progress=QUIET)
    assert explained.is_done("explain", pipeline._explained_from(explained))


# --- a file of questions -------------------------------------------------------------------------------------------


def batch(run: RunFolder, rows: list[Any], folder: Path) -> Any:
    questions = folder / "questions.jsonl"
    questions.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return explain_batch(
        run,
        lambda: pipeline.train(run, progress=QUIET),
        questions=questions,
        output=folder / "out",
        methods=FEW,
        progress=QUIET,
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a picture, one that is broken, and one outside."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    return tmp_path


def test_bad_rows_are_counted_and_stop_nothing(explained: RunFolder, pictures: Path, answering: None) -> None:
    hostile = "../../../../tmp/<script>alert(1)</script>\x00"
    rows = [
        {"image": "a.png", "question": "Is it there?", "answer": "Yes", "sample_id": hostile},
        {"image": "a.png", "question": "Is it there?", "answer": "No"},
        {"image": "a.png", "question": "Is it there?"},
        "{not json",
        "[1, 2]",
        {"image": "a.png", "question": ""},
        {"question": "Where is the picture?"},
        {"image": "absent.png", "question": "Where?"},
        {"image": "broken.png", "question": "Where?"},
        {"image": "a.png", "question": "Where?", "colour": "red"},
        {"image": "a.png", "question": 3},
        {"image": "a.png", "question": "Same name?", "sample_id": "questions-2"},
        {"image": "a.png", "question": "What is <image> here?"},
        {"image": "a.png", "question": "Is nothing there?"},
        "",
        {"image": "a.png", "question": "Is it there?", "sample_id": "last"},
    ]
    found = batch(explained, rows, pictures)
    reasons = {one.where.rpartition(" ")[2]: one.reason for one in found.rejects}
    assert reasons == {
        "4": "not_json",
        "5": "not_an_object",
        "6": "no_question",
        "7": "no_image",
        "8": "unreadable_image",
        "9": "unreadable_image",
        "10": "unknown_key",
        "11": "no_question",
        "12": "duplicate_sample_id",
        "13": "unusable_text",
        "14": "empty_answer",
    }
    assert read_records(pictures / "out" / "rejects.jsonl", Reject) == list(found.rejects)
    assert (found.cases.made, found.cases.right, found.cases.wrong) == (4, 1, 1)
    lines = read_cases(pictures / "out")
    assert [line.sample_id for line in lines] == [hostile, "questions-2", "questions-3", "last"]
    assert [line.correct for line in lines] == [True, False, None, None]
    for line in lines:
        manifest = read_bundle(case_folder(pictures / "out", line.key)).manifest
        assert set(manifest.views) == ({"model", "reference"} if line.correct is False else {"model"})
        assert (manifest.picture.width, manifest.picture.height) == (60, 40)
    inside = {path.name for path in pictures.iterdir()}
    assert inside == {"a.png", "broken.png", "questions.jsonl", "out"}


def test_a_batch_goes_on_where_it_stopped(
    explained: RunFolder, pictures: Path, answering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"image": "a.png", "question": f"Is it number {number}?"} for number in range(3)]
    assert batch(explained, rows[:2], pictures).cases.made == 2
    found = batch(explained, rows, pictures)
    assert (found.cases.made, found.cases.kept) == (1, 2)
    # Another picture under the same name is another case.
    Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save(pictures / "a.png")
    found = batch(explained, rows, pictures)
    assert (found.cases.made, found.cases.kept) == (3, 0)


def test_a_stopped_batch_keeps_its_list(
    explained: RunFolder, pictures: Path, answering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"image": "a.png", "question": f"Is it number {number}?"} for number in range(4)]
    batch(explained, rows[:3], pictures)
    monkeypatch.setattr(explanation_batch, "_SECONDS_BETWEEN_LISTS", -1.0)
    listed: list[int] = []
    real = explanation_batch.write_cases
    monkeypatch.setattr(
        explanation_batch, "write_cases", lambda where, lines: listed.append(len(lines)) or real(where, lines)
    )
    batch(explained, rows, pictures)
    assert listed == [3, 3, 3, 4, 4]
    # A row that is taken out takes its case along; what lies beside the cases stays.
    (pictures / "out" / "cases" / "unknown").mkdir()
    found = batch(explained, rows[1:], pictures)
    assert {one.name for one in (pictures / "out" / "cases").iterdir()} == {
        "unknown", *(case_key(f"questions-{number}") for number in (1, 2, 3)),
    }  # fmt: skip
    assert len(read_cases(found.cases.folder)) == 3


def test_a_batch_of_other_questions_goes_elsewhere(explained: RunFolder, pictures: Path, answering: None) -> None:
    batch(explained, [{"image": "a.png", "question": "?", "sample_id": "one"}], pictures)
    with pytest.raises(RunError, match="cases of other questions"):
        batch(explained, [{"image": "a.png", "question": "?", "sample_id": "two"}], pictures)
    assert [line.sample_id for line in read_cases(pictures / "out")] == ["one"]


def test_errors_of_the_model_are_no_fault_of_a_row(
    explained: RunFolder, pictures: Path, answering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise ModelError("attention was not recorded")

    monkeypatch.setattr(explanation_batch, "explain_case", failing)
    with pytest.raises(ModelError, match="not recorded"):
        batch(explained, [{"image": "a.png", "question": "?"}], pictures)


def test_a_byte_order_mark_is_no_text(explained: RunFolder, pictures: Path, answering: None) -> None:
    found = batch(explained, ["\ufeff" + json.dumps({"image": "a.png", "question": "?"})], pictures)
    assert (found.cases.made, found.rejects) == (1, ())


def test_an_answer_that_cannot_be_read_leaves_its_row_out(
    explained: RunFolder, pictures: Path, answering: None
) -> None:
    found = batch(explained, [{"image": "a.png", "question": "?", "answer": "<image>"}], pictures)
    assert [one.reason for one in found.rejects] == ["unusable_text"]


def test_a_batch_refuses_what_is_not_its_own(explained: RunFolder, pictures: Path) -> None:
    (pictures / "out").mkdir()
    (pictures / "out" / "thesis.docx").write_text("")
    with pytest.raises(RunError, match="holds something else"):
        batch(explained, [{"image": "a.png", "question": "?"}], pictures)
    with pytest.raises(DataError, match="holds no questions"):
        batch(explained, [""], pictures)
    with pytest.raises(DataError, match="cannot be read"):
        explain_batch(explained, lambda: None, questions=pictures / "no.jsonl", output=pictures / "o", progress=QUIET)
