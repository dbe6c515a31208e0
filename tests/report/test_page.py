import base64
import hashlib
import json
import math
import random
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from html_page import Page
from PIL import Image, ImageDraw

from radvqa.errors import DataError, RunError
from radvqa.evaluate.comparison import compare_conditions
from radvqa.evaluate.summary import summarise
from radvqa.html import thumbnail
from radvqa.records import write_json, write_records, write_text
from radvqa.report.page import spread, write_report
from radvqa.sample import Prediction, VqaSample

HOSTILE = '<script>alert("1")</script> & is this "CT"?'
KINDS = {  # content type: question, answers, answer type
    "Abnormality": ("Is there an abnormality in the picture?", ("Yes", "No"), "closed"),
    "Modality": ("Which modality is used to take this image?", ("CT", "MRI", "X-Ray"), "open"),
    "Organ": ("Which organ is the largest in the picture?", ("Liver", "Lung", "Brain"), "open"),
    "Plane": ("Is this a transverse plane?", ("Yes", "No"), "closed"),
    "Position": ("Where is the lesion?", ("Left Lung", "Right Lung", "Liver"), "open"),
}
CHANCE_RIGHT = {"": 0.68, "_blank": 0.42, "_shuffled": 0.46, "_majority": 0.34, "_question_only": 0.44}
NAMES = {"": "model", **{suffix: suffix[1:] for suffix in CHANCE_RIGHT if suffix}}
RECIPE = """name: demo-slake
seed: 17
model: {checkpoint: embedded, image_size: 224, layout: shared_image}
datasets:
  slake: {adapter: slake, root: data/slake}
stages:
- {name: align, datasets: [slake], epochs: 3, learning_rate: 0.001}
- {name: adapt, datasets: [slake], epochs: 2, lora: {rank: 8, alpha: 16.0}}
evaluate: {dataset: slake, split: val, max_new_tokens: 24}
"""


def draw_picture(path, seed, size=(360, 300)):
    choose = random.Random(seed)
    image = Image.new("L", size, 12)
    pen = ImageDraw.Draw(image)
    pen.ellipse((30, 25, size[0] - 30, size[1] - 25), fill=70 + choose.randrange(50), outline=200, width=5)
    for _ in range(7):
        x, y, r = choose.randrange(70, 270), choose.randrange(60, 230), choose.randrange(8, 42)
        pen.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.8), fill=choose.randrange(40, 235))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def make_samples(folder, images):
    samples = []
    for number in range(images):
        path = folder / "pictures" / f"xmlab{number}" / "source.png"
        draw_picture(path, number)
        for kind, (question, answers, answer_type) in KINDS.items():
            samples.append(
                VqaSample(
                    sample_id=f"slake-{number}-{kind.lower()}",
                    image_id=f"xmlab{number}",
                    image=path,
                    question=HOSTILE if kind == "Plane" else question,
                    answers=(random.Random(f"{number}{kind}").choice(answers),),
                    answer_type=answer_type,
                    group_id=f"xmlab{number}",
                    split="val",
                    tags={"content_type": kind, "modality": ("CT", "MRI", "X-Ray")[number % 3]},
                )
            )
    return samples


def answer(samples, suffix):
    choose = random.Random(f"answers{suffix}")
    predictions = []
    for number, sample in enumerate(samples):
        options = KINDS[sample.tags["content_type"]][1]
        right = choose.random() < CHANCE_RIGHT[suffix]
        text = sample.answers[0] if right else choose.choice([one for one in options if one != sample.answers[0]])
        predictions.append(
            Prediction(
                sample_id=sample.sample_id,
                group_id=sample.group_id,
                image_id=sample.image_id,
                question=sample.question,
                references=sample.answers,
                answer_type=sample.answer_type,
                text="" if not suffix and number == 7 else text,
                prompt_id="paligemma-answer-en@1",
                finished=bool(suffix) or number != 11,
                token_ids=(7, 8, 1),
                logprob=None if suffix in ("_majority", "_question_only") else -0.7,
                tags=sample.tags,
            )
        )
    return predictions


def write_stage(folder, *, updates, lora, watched):
    noise = random.Random(str(folder.name))
    lines, watch = [], []
    for update in range(1, updates + 1):
        decay = math.exp(-3 * update / updates)
        loss = 0.4 + 2.2 * decay + noise.gauss(0, 0.15)
        rate = 1e-3 * min(update / (0.05 * updates), 0.5 + 0.5 * math.cos(math.pi * update / updates))
        values = {
            "update": update,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": 0.6 + decay + abs(noise.gauss(0, 0.2)),
        }
        lines.append(json.dumps({**values, "questions": 48, "seconds": 2.1}))
        if watched and update % (updates // 6) == 0:
            for condition, gain in (("real", 0.5), ("blank", 0.2)):
                accuracy = 0.2 + gain * (1 - decay)
                point = {"update": update, "condition": condition, "overall": accuracy, "questions": 60}
                watch.append(json.dumps({**point, "content_type": {"Modality": accuracy}}))
    write_text(folder / "metrics.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "watch.jsonl", "".join(line + "\n" for line in watch))
    write_json(
        folder / "stage.json",
        {
            "stage": folder.name,
            "updates": updates,
            "questions": 48 * updates,
            "seconds": 2.1 * updates,
            "trainable": {"vision_encoder": 73728 * lora, "projector": 886464, "language_model": 460800 * lora},
            "adapter_modules": {"vision_encoder": 48 * lora, "language_model": 120 * lora},
            "layout": "shared_image",
        },
    )


def write_summary(folder, predictions, **changes):
    values = {
        "split": "val",
        "dataset": "slake",
        "condition": "model",
        "limit": None,
        "layout": "shared_image",
        "prompt_id": "paligemma-answer-en@1",
        "conditions": {name: summarise(members) for name, members in predictions.items()},
        "comparisons": compare_conditions(predictions, reference="model"),
        **changes,
    }
    write_json(folder / "summary.json", values)
    return values


def make_run(folder, *, images=12, updates=60, panel_size=(600, 260)):
    samples = make_samples(folder.parent, images)
    predictions = {NAMES[suffix]: answer(samples, suffix) for suffix in CHANCE_RIGHT}
    write_summary(folder, predictions)
    write_records(folder / "samples" / "slake-val.jsonl", samples)
    for suffix in CHANCE_RIGHT:
        write_records(folder / "predictions" / f"val{suffix}.jsonl", predictions[NAMES[suffix]])
    write_json(
        folder / "samples" / "index.json",
        {
            "slake-train": {
                "samples": 4919,
                "images": 450,
                "groups": 450,
                "rejects": {"missing_image": 3, "empty_answer": 1200},
            },
            "slake-val": {"samples": len(samples), "images": images, "groups": images, "rejects": {}},
        },
    )
    write_text(folder / "recipe.yaml", RECIPE)
    write_text(folder / "command.txt", "radvqa run recipes/slake-embedded.yaml --set seed=17\n")
    write_json(
        folder / "provenance.json",
        {
            "version": "0.1.0",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "packages": {"torch": "2.13.0", "transformers": "5.23.1", "peft": "0.21.0"},
            "threads": 2,
            "compute_dtype": "bfloat16",
            "seeds": {"recipe": 17},
            "files": {"predictions/val.jsonl": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        },
    )
    write_stage(folder / "train" / "adapt", updates=updates, lora=1, watched=True)
    write_stage(folder / "train" / "align", updates=updates, lora=0, watched=False)
    entries = []
    for number, prediction in enumerate(predictions["model"][2:4]):
        draw_picture(folder / "explain" / f"{prediction.sample_id}.png", 100 + number, panel_size)
        entries.append(
            {
                "sample_id": prediction.sample_id,
                "image_id": prediction.image_id,
                "question": prediction.question,
                "reference": prediction.references[0],
                "answer": prediction.text,
                "correct": prediction.text == prediction.references[0],
                "panel": f"explain/{prediction.sample_id}.png",
                "methods": {
                    "raw attention": {"image_mass": 0.314, "sink_mass": 0.52, "specificity": 0.087},
                    "rollout": {"image_mass": 0.601, "sink_mass": 0.22, "specificity": None},
                },
            }
        )
    write_json(folder / "explain" / "index.json", entries)
    return predictions


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "demo-slake_1a2b3c4d"
    make_run(folder)
    return folder


@pytest.fixture(scope="module")
def text(run):
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def small_run(folder, **changes):
    """A summary and predictions only, and cheap to render."""
    samples = make_samples(folder / "outside", 2)
    predictions = {"model": answer(samples, ""), "question_only": answer(samples, "_question_only")}
    run = folder / "run"
    write_summary(run, predictions, **changes)
    write_records(run / "samples" / "slake-val.jsonl", samples)
    write_records(run / "predictions" / "val.jsonl", predictions["model"])
    return run


def cell(estimate, show):
    return f"{show(estimate['mean'])}|{show(estimate['low'])} to {show(estimate['high'])}"


def as_percent(share):
    return f"{100 * share:.1f}"


def as_points(share):
    return f"{100 * share:+.1f}".replace("-", "−")


def test_nothing_is_loaded_from_elsewhere_and_one_script_runs(text, page):
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"url\(|@import", text)


def test_every_link_leads_somewhere(page):
    ids = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 20
    assert set(links) <= ids


def test_questions_are_escaped(text, page):
    assert text.lower().count("<script") == 1
    assert "&lt;script&gt;alert(" in text
    assert f"Attention maps for the question: {HOSTILE}" in [attributes.get("alt") for _, attributes in page.tags]


def test_pictures_have_alternative_texts_and_headers_a_scope(page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1 + 2 + 2 + 12 + 1 + 12  # bars, stages, panels, examples, slices, pictures of the answers
    assert all(attributes["alt"].strip() for attributes in images)
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")


def test_the_warning_is_at_the_top_and_at_the_bottom(text):
    assert text.startswith("<!DOCTYPE html>")
    assert text.count("Research tool. Not for clinical use.") == 2
    assert text.index("Not for clinical use.") < text.index('id="verdict"')
    assert text.rindex("Not for clinical use.") > text.index("<footer>")


LABELS = {
    "model": "Model",
    "blank": "Model, blank images",
    "shuffled": "Model, shuffled images",
    "question_only": "Question-only floor",
    "majority": "Majority floor",
}


@pytest.mark.parametrize("name", LABELS)
def test_scores_are_those_of_the_summary(run, page, name):
    scores = json.loads((run / "summary.json").read_text())["conditions"][name]
    parts = [scores["overall"], scores["by_answer_type"]["closed"], scores["by_answer_type"]["open"]]
    expected = [cell(part["metrics"][metric], as_percent) for metric in ("accuracy", "token_f1") for part in parts]
    assert page.row("scores", LABELS[name]) == expected
    counts = [str(scores["overall"][key]) for key in ("samples", "empty", "unfinished")]
    assert page.row("counts", LABELS[name])[:3] == counts


@pytest.mark.parametrize("name", [name for name in LABELS if name != "model"])
def test_differences_are_those_of_the_summary(run, page, name):
    comparison = json.loads((run / "summary.json").read_text())["comparisons"][name]
    parts = [comparison["overall"], comparison["by_answer_type"]["closed"], comparison["by_answer_type"]["open"]]
    expected = [cell(part["accuracy"], as_points) for part in parts]
    expected.append(cell(comparison["overall"]["token_f1"], as_points))
    assert page.row("differences", LABELS[name])[:-2] == expected
    adjusted = comparison["p"]["accuracy"]["adjusted"]
    assert page.row("differences", LABELS[name])[-2] == ("< 0.001" if adjusted < 0.001 else f"{adjusted:.3f}")


@pytest.mark.parametrize(("tag", "value"), [("modality", "MRI"), ("content_type", "Organ")])
def test_slices_show_model_floor_and_blank(run, page, tag, value):
    conditions = json.loads((run / "summary.json").read_text())["conditions"]
    members = conditions["model"]["by_tag"][tag][value]
    scores = [
        cell(conditions[name]["by_tag"][tag][value]["metrics"]["accuracy"], as_percent)
        for name in ("model", "question_only", "blank")
    ]
    scores.append(cell(members["metrics"]["token_f1"], as_percent))
    assert page.row("slices", value) == [str(members["samples"]), str(members["groups"]), *scores]


def test_the_headline_is_the_score_of_the_summary(run, text):
    overall = json.loads((run / "summary.json").read_text())["conditions"]["model"]["overall"]
    assert f"in {as_percent(overall['metrics']['accuracy']['mean'])} % of cases" in text
    assert "Without a usable answer: 1 (empty 1); cut at the token limit: 1" in text


def test_stages_come_in_the_order_of_the_recipe_with_their_counts(text, page):
    assert 0 < text.index("Stage align") < text.index("Stage adapt")
    rows = [row for row in page.tables["training"] if row[0] == "language model"]
    assert rows == [["language model", "frozen", "none"], ["language model", "460,800", "120"]]
    assert "60 updates on 2,880 questions in 2 min" in text


def test_learning_curves_are_embedded_and_written(run, text):
    for stage in ("align", "adapt"):
        png = (run / "train" / stage / "curves.png").read_bytes()
        assert base64.b64encode(png).decode() in text
        assert Image.open(BytesIO(png)).width > 1000


def test_rejected_rows_are_shown_plainly(page):
    assert page.row("data", "slake-train") == ["4,919", "450", "450", "missing image: 3, empty answer: 1,200"]
    assert page.row("data", "slake-val")[-1] == "none"


def test_panels_are_embedded_with_their_numbers(run, text, page):
    for panel in (run / "explain").glob("*.png"):
        assert base64.b64encode(panel.read_bytes()).decode() in text
    assert page.row("explanations", "raw attention") == ["31.4", "52.0", "0.087"]
    assert page.row("explanations", "rollout") == ["60.1", "22.0", "n/a"]


def test_provenance_is_flattened(page):
    assert page.row("provenance", "packages.torch") == ["2.13.0"]
    assert page.row("provenance", "dirty") == ["no"]
    assert page.row("provenance", "seeds.recipe") == ["17"]


def test_the_same_files_give_the_same_page(run, text):
    assert write_report(run).read_text(encoding="utf-8") == text


def test_a_summary_alone_is_enough(tmp_path):
    write_summary(tmp_path, {"model": answer(make_samples(tmp_path / "outside", 2), "")})
    text = write_report(tmp_path).read_text(encoding="utf-8")
    Page(text)
    for note in (
        "No other condition was evaluated",
        "holds no training stage",
        "No explanations were made",
        "holds no predictions",
        "holds no samples index",
        "command was not recorded",
        "holds no recipe",
        "No provenance was recorded",
        "question-only floor was not evaluated",
        "neither blank nor shuffled images were evaluated",
    ):
        assert note in text
    assert f"<h1>{tmp_path.name}</h1>" in text


def test_a_missing_summary_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="no summary") as caught:
        write_report(tmp_path)
    assert "radvqa run" in str(caught.value.fix)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "where"),
    [("{", "whole file"), ('{"split": "val"}', "dataset"), ('{"split": 3}', "split")],
)
def test_a_damaged_summary_is_named(tmp_path, content, where):
    write_text(tmp_path / "summary.json", content)
    with pytest.raises(RunError) as caught:
        write_report(tmp_path)
    assert where in str(caught.value.where)


def test_a_summary_without_its_reference_is_an_error(tmp_path):
    with pytest.raises(RunError, match="lacks the scores"):
        write_report(small_run(tmp_path, condition="other"))


def test_a_damaged_metrics_line_is_named(tmp_path):
    run = small_run(tmp_path)
    write_text(run / "train" / "align" / "metrics.jsonl", '{"update": 1, "loss": "low"}\n')
    with pytest.raises(DataError, match="line 1, field loss"):
        write_report(run)


def test_undefined_numbers_are_not_available(tmp_path):
    one_group = answer(make_samples(tmp_path / "outside", 1), "")
    run = tmp_path / "run"
    values = write_summary(run, {"model": one_group, "question_only": one_group})
    assert values["conditions"]["model"]["overall"]["metrics"]["accuracy"]["low"] is None
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.row("scores", "Model")[0].endswith("|n/a")
    assert page.row("differences", "Question-only floor")[-1] == "n/a"


def test_missing_pictures_leave_a_note_without_the_path(tmp_path):
    run = small_run(tmp_path)
    for path in (tmp_path / "outside").rglob("*.png"):
        path.unlink()
    text = write_report(run).read_text(encoding="utf-8")
    assert "The picture source.png cannot be shown: image file not found." in text
    assert str(tmp_path) not in text


def test_a_panel_is_only_taken_from_the_run_folder(tmp_path):
    run = small_run(tmp_path)
    write_text(tmp_path / "secret.png", "SECRET")
    entry = {"sample_id": "a", "image_id": "i", "question": "?", "reference": "Yes", "answer": "", "correct": False}
    panels = ["../secret.png", "explain/gone.png"]
    write_json(run / "explain" / "index.json", [{**entry, "panel": panel} for panel in panels])
    text = write_report(run).read_text(encoding="utf-8")
    assert base64.b64encode(b"SECRET").decode() not in text
    assert "The panel ../secret.png cannot be shown" in text
    assert "The panel explain/gone.png cannot be shown: No such file or directory." in text


def test_a_limit_is_told(tmp_path):
    text = write_report(small_run(tmp_path, limit=2)).read_text(encoding="utf-8")
    assert "Only the first 2 images of the split were evaluated." in text


def test_an_unfinished_stage_is_told(tmp_path):
    run = small_run(tmp_path)
    (run / "train" / "align").mkdir(parents=True)
    text = write_report(run).read_text(encoding="utf-8")
    assert "the stage may not have finished" in text
    assert "No updates were recorded" in text


def test_thumbnails_are_small_jpegs(tmp_path):
    draw_picture(tmp_path / "large.png", 1, (1000, 500))
    uri = thumbnail(tmp_path / "large.png", side=256).uri
    kind, _, content = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(content))).size == (256, 128)


def test_examples_take_turns_over_content_types_and_images(tmp_path):
    predictions = answer(make_samples(tmp_path, 8), "")
    chosen = spread(predictions, 5)
    assert sorted(one.tags["content_type"] for one in chosen) == sorted(KINDS)
    assert len({one.image_id for one in chosen}) == 5
    assert spread(predictions[::-1], 5) == chosen
    assert len(spread(predictions, 1000)) == len(predictions)
    assert spread([], 5) == []


def test_the_report_needs_no_torch():
    code = "import sys, radvqa.report.page; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_template_is_part_of_the_package():
    import radvqa.report

    assert (Path(radvqa.report.__file__).parent / "report.html").is_file()
