"""The quickstart recipe on the tiny checkpoint, from the recipe to the report, and its adapter without radvqa."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from radvqa.recipe import load_recipe
from radvqa.records import read_records
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, VqaSample

ROOT = Path(__file__).resolve().parents[1]
LAYOUTS = ("per_question", "shared_image")
CONDITIONS = ("", "_blank", "_shuffled", "_majority", "_question_only", "_always_yes", "_always_no")


@pytest.fixture(scope="module")
def base(tiny_folder, tmp_path_factory):
    """The tiny checkpoint with transformers' processor beside it, as a published checkpoint has it."""
    from transformers import AutoTokenizer, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder = tmp_path_factory.mktemp("base") / "tiny"
    shutil.copytree(tiny_folder, folder)
    pictures = SiglipImageProcessorPil(
        size={"height": 56, "width": 56}, resample=3, do_convert_rgb=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    pictures.image_seq_length = 16
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run_quickstart(base):
    """Run the quickstart recipe, made small, under an output folder."""
    from radvqa import pipeline

    def run(output, layout, *changes, until="report"):
        recipe = load_recipe(
            ROOT / "recipes" / "quickstart.yaml",
            [
                f"output={output}",
                f"model.layout={layout}",
                f"model.checkpoint={base}",
                "model.dtype=float32",
                "model.threads=1",
                "datasets.phantom.count={train: 12, val: 5, test: 0}",
                "datasets.phantom.size=112",
                "datasets.phantom.questions_per_image=3",
                "stages.align.updates=4",
                "stages.align.learning_rate=0.01",
                "stages.adapt.updates=40",
                "stages.adapt.lora.dropout=0.1",
                "stages.adapt.learning_rate=0.02",
                "stages.adapt.lora_learning_rate=0.02",
                "stages.adapt.watch.every=20",
                "evaluate.max_new_tokens=8",
                "explain.samples=3",
                *changes,
            ],
        )
        folder = pipeline.run(recipe, command="radvqa run quickstart.yaml", until=until, progress=Progress(quiet=True))
        folder.unlock()
        return folder

    return run


@pytest.fixture(scope="module", params=LAYOUTS)
def finished(request, run_quickstart, tmp_path_factory):
    """A finished run in each layout."""
    return run_quickstart(tmp_path_factory.mktemp("runs"), request.param)


def contents(folder):
    """Bytes and time of change of every file but those that note each start; the report's figures without the time."""
    noted, drawn_anew = {"command.txt", ".lock", "report.html"}, {"curves.png"}
    return {
        str(path.relative_to(folder.path)): (path.read_bytes(), path.name in drawn_anew or path.stat().st_mtime_ns)
        for path in folder.path.rglob("*")
        if path.is_file() and path.name not in noted
    }


def test_a_run_leaves_everything_a_reader_needs(finished):
    files = set(contents(finished))
    assert {
        "recipe.yaml",
        "provenance.json",
        "summary.json",
        "samples/phantom-train.jsonl",
        "samples/phantom-val.jsonl",
        "samples/index.json",
        "train/align/metrics.jsonl",
        "train/align/projector.safetensors",
        "train/adapt/metrics.jsonl",
        "train/adapt/watch.jsonl",
        "train/adapt/adapter/adapter_model.safetensors",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter/tokenizer.json",
        "explain/index.json",
        *(f"predictions/val{name}.jsonl" for name in CONDITIONS),
    } <= files
    assert finished.file("report.html").stat().st_size > 10_000
    assert set(finished.done_steps()) == {"samples", "train/align", "train/adapt", "evaluate", "explain"}
    assert not [name for name in files if "/state/" in name or "partial" in name]
    assert len(finished.file("train/adapt/metrics.jsonl").read_text().splitlines()) == 40
    assert len(finished.file("train/adapt/watch.jsonl").read_text().splitlines()) == 4  # real and blank, twice


def test_predictions_have_their_fields(finished):
    asked = read_records(finished.file("samples/phantom-val.jsonl"), VqaSample)
    fields = {field.name for field in dataclasses.fields(Prediction)}
    for name in CONDITIONS:
        path = finished.file(f"predictions/val{name}.jsonl")
        assert all(json.loads(line).keys() == fields for line in path.read_text().splitlines())
        found = read_records(path, Prediction)
        assert [one.sample_id for one in found] == [one.sample_id for one in asked]
        assert [(one.references, one.group_id) for one in found] == [(one.answers, one.group_id) for one in asked]
    for one in read_records(finished.file("predictions/val.jsonl"), Prediction):
        assert 1 <= len(one.token_ids) <= 8
        assert one.finished or len(one.token_ids) == 8
        assert one.logprob < 0
        assert "answer en" not in one.text
        assert not one.text.startswith(one.question[:6])


def test_the_summary_holds_all_conditions(finished):
    summary = json.loads(finished.file("summary.json").read_text())
    assert set(summary["conditions"]) == {"model", *(name.removeprefix("_") for name in CONDITIONS if name)}
    assert summary["layout"] == finished.recipe.model.layout
    assert (summary["dataset"], summary["split"], summary["condition"]) == ("phantom", "val", "model")


def test_cases_have_panels(finished):
    cases = json.loads(finished.file("explain/index.json").read_text())
    answered = [one for one in read_records(finished.file("predictions/val.jsonl"), Prediction) if one.text]
    assert len(answered) >= 3  # else this test is about nothing
    assert 1 <= len(cases) <= 3
    for case in cases:
        assert finished.file(case["panel"]).is_file()
        assert case["answer"]


def test_training_moved_the_projector_in_both_stages(finished, base):
    start = load_file(base / "model.safetensors")
    (name,) = (one for one in start if one.endswith("multi_modal_projector.linear.weight"))
    aligned = load_file(finished.file("train/align/projector.safetensors"))["linear.weight"]
    adapter = load_file(finished.file("adapter/adapter_model.safetensors"))
    (saved,) = (tensor for one, tensor in adapter.items() if one.endswith("multi_modal_projector.linear.weight"))
    assert (aligned - start[name]).abs().max() > 1e-3
    assert (saved - aligned).abs().max() > 1e-3


def test_a_second_start_does_nothing_anew(finished, run_quickstart, monkeypatch):
    from radvqa import pipeline

    before = contents(finished)
    report = finished.file("report.html").read_text()

    def again(*_, **__):
        raise AssertionError("a finished step was done again")

    monkeypatch.setattr(pipeline.training, "run_stage", again)
    monkeypatch.setattr(pipeline.answering, "predictions", again)
    monkeypatch.setattr(pipeline.evaluation, "summarise", again)
    monkeypatch.setattr(pipeline, "explain_run", again)
    folder = run_quickstart(finished.recipe.output, finished.recipe.model.layout)
    assert folder.path == finished.path
    assert contents(folder) == before
    assert len(folder.commands()) >= 2
    starts = r"\n?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  radvqa run quickstart\.yaml"
    assert re.sub(starts, "", folder.file("report.html").read_text()) == re.sub(starts, "", report)


def test_the_same_recipe_elsewhere_gives_the_same_results(finished, run_quickstart, tmp_path):
    other = run_quickstart(tmp_path, finished.recipe.model.layout)
    assert other.path != finished.path
    assert other.path.name == finished.path.name
    same = [
        "summary.json",
        "adapter/adapter_model.safetensors",
        *(f"predictions/val{name}.jsonl" for name in CONDITIONS),
    ]
    for name in same:
        assert other.file(name).read_bytes() == finished.file(name).read_bytes(), name


def test_another_seed_gives_other_weights(run_quickstart, tmp_path):
    folders = [
        run_quickstart(tmp_path, "per_question", f"seed={seed}", "stages.adapt.updates=2", until="train")
        for seed in (1, 2)
    ]
    first, second = (folder.file("adapter/adapter_model.safetensors").read_bytes() for folder in folders)
    assert first != second


# --- without radvqa ---------------------------------------------------------------------------------------------

LOGITS = """
# Behind the documented program: teacher-forced logits of a given answer, and a look at what was imported.
import os
inputs = processor(images=Image.open(picture).convert("RGB"), text=f"<image>answer en {question}",
                   suffix=os.environ["ANSWER"], return_tensors="pt")
labels = inputs.pop("labels")
if os.environ["LAYOUT"] == "shared_image":
    types = inputs.pop("token_type_ids")[0]
    n = len(types)
    allowed = torch.ones(n, n).tril().bool()
    allowed[:, types == 0] = True
    allowed[types == 0] = types == 0
    shared = processor.image_seq_length + 1
    allowed[:shared, shared:] = False
    inputs["attention_mask"] = torch.zeros(n, n).masked_fill(~allowed, torch.finfo(torch.float32).min)[None, None]
with torch.no_grad():
    logits = model(**inputs).logits[0]
torch.save(logits[:-1][labels[0, 1:] != -100], os.environ["TARGET"])
loaded = [name for name in sys.modules if name.split(".")[0] == "radvqa"]
assert not loaded, loaded
"""


def plain_script(layout):
    """The program that docs/plain_transformers.md shows for a layout."""
    page = (ROOT / "docs" / "plain_transformers.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(programs) == 2
    return programs[LAYOUTS.index(layout)]


def test_the_documented_program_gives_the_run_s_answers_and_logits(finished, tmp_path):
    """As docs/plain_transformers.md says it, word for word, for the answer that is least like the others."""
    import torch

    from radvqa import pipeline
    from radvqa.data.image_store import ImageStore
    from radvqa.train.pictures import StoredPictures

    predictions = read_records(finished.file("predictions/val.jsonl"), Prediction)
    answered = [one for one in predictions if one.finished and one.text]
    assert answered
    rarest = min(answered, key=lambda one: sum(one.text == other.text for other in predictions))
    samples = read_records(finished.file("samples/phantom-val.jsonl"), VqaSample)
    (sample,) = (one for one in samples if one.sample_id == rarest.sample_id)
    layout, target = finished.recipe.model.layout, tmp_path / "logits.pt"
    plain = subprocess.run(
        [
            sys.executable, "-c", plain_script(layout) + LOGITS,
            str(finished.path), str(sample.image), sample.question,
        ],
        env={**os.environ, "LAYOUT": layout, "ANSWER": sample.answers[0], "TARGET": str(target)},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.strip() == rarest.text

    vlm = pipeline.train(finished, progress=Progress(quiet=True))
    finished.unlock()
    batch = vlm.batch(vlm.rows([sample], answers=True))
    store = ImageStore.build([sample.image], size=56, cache=tmp_path)
    with torch.no_grad():
        ours = vlm.supervised_logits(batch, StoredPictures(store).vision(batch.rows, update=0))
    torch.testing.assert_close(ours, torch.load(target), atol=1e-5, rtol=0)
