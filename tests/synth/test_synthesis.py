import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from form_endpoint import FormEndpoint
from PIL import Image

from radvqa.data import open_dataset
from radvqa.errors import DataError, ModelError, RecipeError, RunError
from radvqa.recipe import SynthRecipe, parse_synth_recipe
from radvqa.run.folder import SynthFolder
from radvqa.run.progress import Progress
from radvqa.synth import synthesis
from radvqa.synth.prompt import load_prompt
from radvqa.synth.review import open_review
from radvqa.synth.synthesis import read_pairs, synthesise
from radvqa.synth.vocabulary import vocabulary_digest

FINDINGS = ("pleural effusion", "pneumothorax", "consolidation", "fracture", "mass", "nodule", "cardiomegaly", "cyst")
SIDES = ("left", "right")
TIMELESS = ("account.json", "provenance.json", "command.txt", "report.html", "recipe.yaml")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The folder of an own data set of captions."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def write_captions(folder: Path, number: int) -> None:
    rows = [
        {"image": f"p{n}.png", "id": f"c{n}", "group": f"g{n}", "split": "train",
         "caption": f"Axial CT {n} shows a {FINDINGS[n % 8]} in the {SIDES[n % 2]} chest."}
        for n in range(number)
    ]  # fmt: skip
    for n in range(number):
        Image.new("L", (8, 8), n % 256).save(folder / f"p{n}.png")
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe_of(corpus: Path, output: Path, **changes: Any) -> SynthRecipe:
    values = {
        "name": "trial",
        "seed": 3,
        "output": str(output),
        "captions": {"adapter": "own", "root": str(corpus), "table": "captions.jsonl"},
        "generator": {"backend": "rules"},
        **changes,
    }
    return parse_synth_recipe(values, where="test")


def made(recipe: SynthRecipe) -> SynthFolder:
    try:
        return synthesise(recipe, command="test", progress=Progress(quiet=True))
    finally:
        SynthFolder(recipe.output / f"{recipe.name}_{recipe.digest()}", recipe).unlock()


def content_of(folder: Path) -> dict[str, str]:
    """SHA-256 of all files that hang on recipe, data and replies alone."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in TIMELESS and ".done" not in path.parts and path.name != ".lock"
    }


def test_rules_make_a_data_set_that_can_be_read(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 24)
    folder = made(recipe_of(corpus, tmp_path / "runs"))
    summary = json.loads(folder.file("summary.json").read_text())
    assert summary["captions"]["asked"] == 24
    assert summary["pairs"]["kept"] > 48
    assert abs(summary["yes_no"]["kept"]["yes_share"] - 0.5) <= 0.1
    reading = open_dataset("synthetic", {"root": str(folder.path)}).read("train")
    assert len(reading.samples) == summary["pairs"]["kept"]
    assert len({one.sample_id for one in reading.samples}) == len(reading.samples)
    assert {one.group_id for one in reading.samples} <= {f"own-group:g{n}" for n in range(24)}
    pairs, captions = read_pairs(folder)
    assert len(pairs) == summary["pairs"]["candidates"]
    assert all(pair.origin.caption_id in captions for pair in pairs)
    assert {(pair.origin.model, pair.origin.model_digest) for pair in pairs} == {("rules@1", vocabulary_digest())}
    assert all(
        pair.origin.caption_sha256 == hashlib.sha256(captions[pair.origin.caption_id].encode()).hexdigest()
        for pair in pairs
    )


def test_the_order_of_the_table_changes_nothing_but_the_order(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 24)
    one = made(recipe_of(corpus, tmp_path / "a"))
    table = corpus / "captions.jsonl"
    table.write_text("".join(reversed(table.read_text().splitlines(keepends=True))))
    other = made(recipe_of(corpus, tmp_path / "b"))
    lines = [sorted((f.path / "pairs" / "train.jsonl").read_text().splitlines()) for f in (one, other)]
    assert lines[0] == lines[1]


def test_a_reply_goes_to_its_caption_with_its_provenance(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 12)
    with FormEndpoint() as endpoint:
        generator = {"backend": "endpoint", "url": endpoint.url, "model": "stub"}
        folder = made(recipe_of(corpus, tmp_path / "runs", generator=generator))
    pairs, captions = read_pairs(folder)
    from_model = [pair for pair in pairs if pair.origin.backend == "endpoint"]
    assert from_model
    for pair in from_model:
        assert pair.origin.prompt == "slots@1"
        assert pair.origin.model == "stub"
        assert captions[pair.origin.caption_id].split()[2] in pair.origin.reply
        assert pair.origin.sampling["temperature"] == 0
        assert pair.origin.prompt_sha256 == load_prompt("slots@1").digest
        assert pair.verdicts
    assert endpoint.asked.total() == 12
    account = json.loads(folder.file("account.json").read_text())
    assert account["prompt_tokens"] == 1200


def test_other_screens_ask_nothing_again(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 12)
    with FormEndpoint() as endpoint:
        generator = {"backend": "endpoint", "url": endpoint.url, "model": "stub"}
        made(recipe_of(corpus, tmp_path / "runs", generator=generator))
        folder = made(
            recipe_of(corpus, tmp_path / "runs", generator=generator, screens={"longest_answer_words": 3}, name="other")
        )
    assert folder.recipe.name == "other"
    assert endpoint.asked.total() == 12


def test_failures_are_asked_again_and_nothing_else(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 12)
    with FormEndpoint() as endpoint:
        endpoint.fail = {f"Axial CT {n} shows a {FINDINGS[n % 8]} in the {SIDES[n % 2]} chest." for n in (3, 4)}
        generator = {"backend": "endpoint", "url": endpoint.url, "model": "stub", "attempts": 1}
        recipe = recipe_of(corpus, tmp_path / "runs", generator=generator)
        with pytest.raises(RunError, match="2 requests about 12 captions"):
            made(recipe)
        lenient = recipe.model_copy(update={"most_failed": 0.5})
        endpoint.fail = {caption for caption in endpoint.fail if " 3 " in caption}
        folder = made(lenient)
        assert endpoint.asked.total() == 12 + 2
        summary = json.loads(folder.file("summary.json").read_text())
        assert summary["captions"]["failed"] == {"server_error": 1}


def test_changed_captions_are_refused_while_unchanged_replies_stay(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 6)
    recipe = recipe_of(corpus, tmp_path / "runs")
    made(recipe)
    write_captions(corpus, 7)
    with pytest.raises(DataError, match="not those that this synthesis began with"):
        made(recipe)


def test_a_changed_prompt_is_asked_and_an_unchanged_one_is_not(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 6)
    prompt = tmp_path / "mine@1.md"
    shipped = Path(synthesis.__file__).parent / "prompts" / "slots@1.md"
    prompt.write_text(shipped.read_text().replace("id: slots", "id: mine"))
    with FormEndpoint() as endpoint:
        generator = {"backend": "endpoint", "url": endpoint.url, "model": "stub", "prompt": str(prompt)}
        recipe = recipe_of(corpus, tmp_path / "runs", generator=generator)
        made(recipe)
        made(recipe)
        assert endpoint.asked.total() == 6
        prompt.write_text(prompt.read_text().replace("You fill a form", "You complete a form"))
        folder = made(recipe)
        assert endpoint.asked.total() == 12
    pairs, _ = read_pairs(folder)
    digest = hashlib.sha256(prompt.read_bytes()).hexdigest()
    assert {pair.origin.prompt_sha256 for pair in pairs if pair.origin.backend == "endpoint"} == {digest}


def test_a_caption_that_says_nothing_is_not_asked_and_not_lost(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 6)
    table = corpus / "captions.jsonl"
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    lines[0]["caption"], lines[1]["caption"] = "Chest CT", "Replace this - DESCRIPTION OF THE IMAGE OR FINDINGS."
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with FormEndpoint() as endpoint:
        generator = {"backend": "endpoint", "url": endpoint.url, "model": "stub"}
        folder = made(recipe_of(corpus, tmp_path / "runs", generator=generator))
    summary = json.loads(folder.file("summary.json").read_text())
    assert endpoint.asked.total() == summary["captions"]["asked"] == 4
    assert summary["captions"]["rejected"] == {"placeholder_caption": 1, "short_caption": 1}


def test_a_finished_synthesis_asks_again_for_what_failed_until_readers_have_judged(
    corpus: Path, tmp_path: Path
) -> None:
    write_captions(corpus, 6)
    with FormEndpoint() as endpoint:
        endpoint.fail = {f"Axial CT 3 shows a {FINDINGS[3]} in the {SIDES[1]} chest."}
        generator = {"backend": "endpoint", "url": endpoint.url, "model": "stub", "attempts": 1}
        recipe = recipe_of(corpus, tmp_path / "runs", generator=generator, most_failed=0.5)
        made(recipe)
        endpoint.fail = set()
        folder = made(recipe)
        assert json.loads(folder.file("summary.json").read_text())["captions"]["failed"] == {}
        assert endpoint.asked.total() == 7
        made(recipe)
        assert endpoint.asked.total() == 7
    folder.file("report.html").unlink()
    made(recipe)
    assert folder.file("report.html").is_file()
    open_review(folder.path, *read_pairs(folder), size=20)
    folder.forget("synth")
    made(recipe)
    assert not folder.file("review/queue.json").exists()
    folder.file("review/decisions.jsonl").write_text("{}\n")
    folder.forget("synth")
    with pytest.raises(RunError, match="readers have judged"):
        made(recipe)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"screens": {"off": ["measurment"]}}, "did you mean 'measurement'"),
        ({"styles": ["fancy"]}, "no style called 'fancy'"),
        (
            {"generator": {"backend": "llama_cpp", "model": "absent.gguf"}, "questions": {"no": 1}},
            "not be asked anything",
        ),
        ({"generator": {"backend": "llama_cpp", "prompt": "slots@9"}}, "slots@9"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(
    corpus: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    write_captions(corpus, 2)
    with pytest.raises(RecipeError, match=told):
        made(recipe_of(corpus, tmp_path / "runs", **changes))
    assert not (tmp_path / "runs").exists()


def test_half_a_redo_does_not_pass_for_a_finished_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captions(corpus, 6)
    recipe = recipe_of(corpus, tmp_path / "runs")
    folder = made(recipe)
    monkeypatch.setattr(synthesis, "vocabulary_digest", lambda: "another")
    monkeypatch.setattr(synthesis, "summarise", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(recipe)
    with pytest.raises(RunError, match="not finished"):
        read_pairs(folder)


def test_a_data_set_without_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no caption to ask about"):
        made(
            recipe_of(
                tmp_path, tmp_path / "runs", captions={"adapter": "phantom", "count": {"train": 1, "val": 0, "test": 0}}
            )
        )


@pytest.mark.parametrize("kills", [1, 3])
def test_killed_anywhere_and_resumed(corpus: Path, tmp_path: Path, kills: int) -> None:
    write_captions(corpus, 150)
    with FormEndpoint(latency=0.01) as endpoint:
        generator = {"backend": "endpoint", "url": endpoint.url, "model": "stub", "concurrency": 4}
        whole = made(recipe_of(corpus, tmp_path / "whole", generator=generator))
        assert set(endpoint.asked.values()) == {1}
        endpoint.asked.clear()
        endpoint.answered.clear()
        recipe = recipe_of(corpus, tmp_path / "killed", generator=generator)
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe.resolved()))
        command = [sys.executable, "-m", "radvqa", "synth", str(file), "--quiet"]
        lost = 0
        for number in range(1, kills + 1):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
            wait_until(lambda target=number * 150 // (kills + 1): endpoint.answered.total() >= target, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            lost += 4
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        folder = next((tmp_path / "killed").glob("trial_*"))
        assert content_of(folder) == content_of(whole.path)
        # Only what was in flight at a kill, 4 at a time, may have been asked twice.
        assert endpoint.asked.total() - 150 <= lost
        assert len(endpoint.asked) == 150
        journal = next((tmp_path / "killed" / "replies").glob("*.jsonl")).read_text().splitlines()
        assert len({json.loads(line)["key"] for line in journal}) == len(journal) == 150


def wait_until(done: Any, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while not done():
        assert process.poll() is None, "the synthesis ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_dead_endpoint_stops_with_what_to_do(corpus: Path, tmp_path: Path) -> None:
    write_captions(corpus, 3)
    generator = {"backend": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "stub", "attempts": 1}
    with pytest.raises((ModelError, RunError)):
        made(recipe_of(corpus, tmp_path / "runs", generator=generator))
