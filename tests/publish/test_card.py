import hashlib
import json
import subprocess
import sys

import pytest
import yaml

from radvqa.errors import RunError
from radvqa.publish.ancestry import dataset_facts, origin_of, projector_facts, training_of_base
from radvqa.publish.card import base_licence, model_card
from radvqa.publish.manifest import base_label, kind_of_run, languages, training_manifest
from radvqa.publish.programs import plain_program
from radvqa.recipe import Dataset, Model
from radvqa.report.contents import read_summary

REVISION = "35e4f46485b4d07967e7e9935bc3786aad50687c"
SIZE = {"image_size": 56, "image_tokens": 16, "prompt_id": "paligemma-answer@1"}


@pytest.fixture
def manifest(trained):
    run, _ = trained("adapter", evaluated=True)
    return training_manifest(run, kind="adapter", **SIZE), read_summary(run.file("summary.json"))


def from_hub(manifest, **changes):
    name = "google/paligemma-3b-mix-448"
    base = {**manifest["base"], "checkpoint": name, "origin": name, "revision": REVISION}
    return {**manifest, "base": base, **changes}


def header(card):
    return yaml.safe_load(card.split("---\n")[1])


# --- the manifest ---------------------------------------------------------------------------------------------------


def test_the_manifest_tells_how_the_weights_came_about(trained):
    run, vlm = trained("adapter", layout="shared_image", aspect="pad")
    told = training_manifest(run, kind="adapter", **SIZE)
    assert told["base"] == {
        "checkpoint": "tiny", "revision": None, "weights": vlm.digest, "quantised_in_training": "none",
        "origin": "tiny", "trained": None, "projector": None,
    }  # fmt: skip
    assert (told["layout"], told["images"]["aspect"], told["images"]["size"]) == ("shared_image", "pad", 56)
    assert told["prompt"] == {"id": "paligemma-answer@1", "text": "answer {language} {question}"}
    assert told["data"]["files"] == {"phantom/questions.json": "ab" * 32}
    assert list(told["data"]["datasets"]) == ["phantom", "slake"]
    assert told["data"]["datasets"]["slake"]["licence"]
    align, adapt = told["stages"]
    assert (align["seed"], adapt["seed"]) == (run.recipe.seed, run.recipe.seed + 1)
    assert adapt["mixture"]["phantom"]["weight"]["end"] == 0.6
    assert adapt["loss_norm"] == "example"
    assert adapt["lora"]["rank"] == 2
    assert adapt["done"]["questions"] == 12
    assert told["packages"] == {"torch": "2.13"}
    json.dumps(told, allow_nan=False)


def test_the_manifest_holds_no_folder_and_no_time(trained, tmp_path):
    run, _ = trained("adapter")
    told = training_manifest(run, kind="adapter", **SIZE)
    assert told["data"]["datasets"]["slake"]["options"] == {"language": "en"}
    assert str(tmp_path) not in json.dumps(told)
    assert "/home" not in json.dumps(told)
    assert "seconds" not in json.dumps(told)


def test_paths_are_left_out_also_inside_of_lists_and_mappings():
    options = {"root": "x", "names": ["a/b"], "more": {"deep": [{"p": "/home/me"}]}, "sizes": [1, 2], "by": {"a": "b"}}
    told = dataset_facts(Dataset(adapter="slake", **options))
    assert told["options"] == {"sizes": [1, 2], "by": {"a": "b"}}


def test_a_projector_s_data_are_found_in_its_run_and_beside_a_copy(trained, tmp_path):
    earlier, _ = trained("projector")
    file = earlier.file("train/align/projector.safetensors")
    copy = earlier.path.parent / "copied.safetensors"
    copy.write_bytes(file.read_bytes())
    stranger = tmp_path / "elsewhere" / "other.safetensors"
    stranger.parent.mkdir()
    stranger.write_bytes(b"other")
    for path, datasets, everything in ((file, ["phantom"], True), (copy, ["phantom"], True), (stranger, [], False)):
        model = earlier.recipe.model.model_copy(update={"projector": path})
        found = projector_facts(earlier.recipe.model_copy(update={"model": model}), "sha256 0")
        assert (list(found["datasets"]), found["all"]) == (datasets, everything)
        assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert str(tmp_path) not in json.dumps(found)


def test_a_projector_that_has_changed_since_is_unknown(trained):
    earlier, _ = trained("projector")
    file = earlier.file("train/align/projector.safetensors")
    model = earlier.recipe.model.model_copy(update={"projector": file})
    found = projector_facts(earlier.recipe.model_copy(update={"model": model}), f"x, projector sha256 {'0' * 64}")
    assert (found["sha256"], found["datasets"], found["all"]) == ("0" * 64, {}, False)


def test_an_exported_base_tells_its_data_and_origin(tmp_path, manifest):
    folder = tmp_path / "merged"
    folder.mkdir()
    model = Model(checkpoint=str(folder))
    assert training_of_base(model) == {"run": None, "datasets": {}, "all": False}
    told = from_hub(manifest[0])
    (folder / "training_manifest.json").write_text(json.dumps(told))
    found = training_of_base(model)
    assert (found["run"], list(found["datasets"]), found["all"]) == (told["run"], ["phantom", "slake"], True)
    assert origin_of(model) == "google/paligemma-3b-mix-448"


def test_a_local_copy_of_paligemma_is_under_its_terms(tmp_path, tiny_folder):
    folder = tmp_path / "my-base"
    folder.mkdir()
    config = json.loads((tiny_folder / "config.json").read_text())
    for changes, expected in (({}, "tiny"), ({"num_hidden_layers": 18}, "paligemma")):
        changed = {**config, "text_config": {**config["text_config"], **changes}}
        (folder / "config.json").write_text(json.dumps(changed))
        assert origin_of(Model(checkpoint=str(folder))) == expected
    assert base_licence({"checkpoint": "my-base", "origin": "paligemma"}).identifier == "gemma"


def test_a_local_base_is_told_by_the_name_of_its_folder(tmp_path):
    assert base_label(Model(checkpoint=str(tmp_path / "my-base"))) == "my-base"
    assert base_label(Model(checkpoint="google/paligemma-3b-mix-448", revision=REVISION)).startswith("google/")
    assert base_label(Model(checkpoint="embedded")) == "embedded"


@pytest.mark.parametrize("kind", ["adapter", "projector", "checkpoint"])
def test_what_a_run_leaves_follows_from_its_stages(trained, kind):
    assert kind_of_run(trained(kind)[0].recipe) == kind


def test_a_run_that_is_not_trained_has_no_manifest(trained):
    run, _ = trained("adapter")
    run.file("train/adapt/stage.json").unlink()
    with pytest.raises(RunError, match="its training cannot be told"):
        training_manifest(run, kind="adapter", **SIZE)


def test_languages_are_those_of_the_questions(trained):
    run, _ = trained("adapter")
    assert languages(run) == ["en"]
    tricky = {"question": 'is "language": "xx" here?', "language": "zh"}
    run.file("samples/slake-train.jsonl").write_text(json.dumps(tricky) + "\n")
    run.file("samples/slake-train.rejects.jsonl").write_text('{"language": "fr"}\n')
    assert languages(run) == ["en", "zh"]


# --- the card -------------------------------------------------------------------------------------------------------


def test_the_head_is_what_the_hub_reads(manifest):
    from huggingface_hub import ModelCard

    told, summary = manifest
    card = ModelCard(model_card(from_hub(told), summary, languages=["en"]))
    data = card.data
    assert (data.base_model, data.library_name) == ("google/paligemma-3b-mix-448", "peft")
    assert data.to_dict()["base_model_relation"] == "adapter"
    assert (data.license, data.pipeline_tag, data.language) == ("gemma", "image-text-to-text", ["en"])
    assert data.datasets == ["phantom", "slake"]
    assert data.metrics == ["accuracy", "exact_match", "token_f1", "recall", "bleu_1", "rouge_l"]
    results = {(one.dataset_name, one.metric_type): one for one in data.eval_results}
    types = summary.reference.by_answer_type
    assert set(results) == {(f"phantom, {one} questions", metric) for one in types for metric in data.metrics}
    assert len(types) == 2
    for name, scores in types.items():
        estimate = scores.metrics["exact_match"]
        one = results[f"phantom, {name} questions", "exact_match"]
        assert one.metric_value == pytest.approx(100 * estimate.mean, abs=0.01)
        assert one.metric_name == (
            f"exact match in percent, 95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
        )
        assert (one.dataset_split, one.task_type) == ("val", "visual-question-answering")


def test_a_base_that_is_not_on_the_hub_is_not_linked(manifest):
    told, summary = manifest
    card = model_card(told, summary, languages=["en"])
    assert "base_model" not in header(card)
    assert "tiny_base()" in card
    assert "FOLDER BASE PICTURE QUESTION" in card


def test_what_was_learned_before_is_told_with_its_licence(manifest):
    told, summary = manifest
    slake = told["data"]["datasets"].pop("slake")
    projector = {"sha256": "0" * 64, "run": "1a2b", "datasets": {"slake": slake}, "all": True}
    base = {**told["base"], "checkpoint": "mine", "origin": None, "projector": projector}
    card = model_card({**told, "base": base}, summary, languages=["en"])
    assert "local folder named `mine`" in card
    assert "not on the hub" not in card
    assert "The projector that training started from had learned from slake before, in run `1a2b`." in card
    assert f"| slake | {slake['licence']} |" in card
    assert header(card)["datasets"] == ["phantom", "slake"]
    assert "unknown here" not in card
    base["trained"] = {"run": None, "datasets": {}, "all": False}
    card = model_card({**told, "base": base}, summary, languages=["en"])
    assert "The base had learned from data unknown here before." in card
    assert "| data unknown here" in card


def test_the_program_has_the_run_s_language_and_length(manifest):
    program = plain_program({**manifest[0], "languages": ["zh"], "max_new_tokens": 100})
    assert 'language = "zh"\nlongest = 100' in program
    assert "answer en" not in program
    assert "one of en, zh" in plain_program({**manifest[0], "languages": ["en", "zh"]})
    assert manifest[0]["max_new_tokens"] == 24


def test_before_the_evaluation_the_card_says_so(manifest):
    card = model_card(manifest[0], None, languages=[])
    assert "Not evaluated yet" in card
    assert "model-index" not in header(card)


def test_the_body_has_scores_floors_limits_and_licences(manifest):
    told, summary = manifest
    card = model_card(told, summary, languages=["en"])
    assert "never for clinical use" in card
    assert "question-only floor" in card
    estimate = summary.reference.overall.metrics["exact_match"]
    cell = f"{100 * estimate.mean:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    assert f"| model | all | {summary.reference.overall.samples} | {cell} |" in card
    assert "| question_only | all |" in card
    for name, facts in told["data"]["datasets"].items():
        assert f"| {name} | {facts['licence']} |" in card
    assert "| adapt | projector 544 | phantom, slake | 5 | 8 | 12 |" in card


@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_only_the_shared_image_layout_warns_of_generate(manifest, layout):
    told = {**manifest[0], "layout": layout}
    card = model_card(told, None, languages=["en"])
    assert ("Do not call plain `generate`" in card) == (layout == "shared_image")
    assert ("model.generate(" in card) == (layout == "per_question")


@pytest.mark.parametrize(
    ("checkpoint", "identifier", "words"),
    [
        ("google/paligemma-3b-mix-448", "gemma", "Gemma Terms of Use"),
        ("embedded", "other", "SmolLM2-135M-Instruct"),
        ("tiny", "apache-2.0", "knows nothing"),
        ("my-base", "other", "binds these weights"),
    ],
)
def test_the_licence_follows_the_base(checkpoint, identifier, words):
    licence = base_licence({"checkpoint": checkpoint})
    assert licence.identifier == identifier
    assert words in licence.sentence
    assert (licence.name is not None) == (identifier == "other")


@pytest.mark.parametrize("kind", ["adapter", "projector", "checkpoint"])
@pytest.mark.parametrize("aspect", ["squash", "pad"])
def test_the_program_names_the_hub_s_base_at_its_revision(manifest, kind, aspect):
    told = from_hub(manifest[0], kind=kind)
    told["images"] = {**told["images"], "aspect": aspect}
    program = plain_program(told)
    compile(program, "card", "exec")
    assert (REVISION in program) == (kind != "checkpoint")
    assert "folder, picture, question = sys.argv[1:]" in program
    assert ("Image.new" in program) == (aspect == "pad")
    assert "radvqa" not in program


def test_a_padded_picture_is_padded_as_in_training(manifest, tmp_path):
    import numpy as np
    from PIL import Image

    from radvqa.data.imaging import fit

    told = from_hub(manifest[0])
    told["images"] = {**told["images"], "aspect": "pad"}
    program = plain_program(told)
    lines = program[program.index("image = Image.open") : program.index("text = f")]
    picture = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (53, 91, 3), dtype=np.uint8)).save(picture)
    processor = type("P", (), {"image_processor": type("I", (), {"size": {"height": 56}})})
    names = {"Image": Image, "picture": picture, "processor": processor}
    exec(lines, names)
    assert np.array_equal(np.array(names["image"]), fit(Image.open(picture), 56, aspect="pad"))


def test_card_and_manifest_need_no_torch():
    code = "import sys, radvqa.publish.card; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the repository of a run ----------------------------------------------------------------------------------------


def test_the_card_is_renewed_after_the_evaluation_and_then_left_alone(trained, evaluate, tmp_path, samples):
    from radvqa.publish.repository import write_adapter_repository, write_card

    run, vlm = trained("adapter")
    folder = tmp_path / "adapter"
    write_adapter_repository(run, vlm, folder)
    assert "Not evaluated yet" in (folder / "README.md").read_text()
    assert not (folder / "eval_results.json").exists()
    evaluate(run, samples)
    write_card(run, folder)
    card = (folder / "README.md").read_text()
    assert "Not evaluated yet" not in card
    results = json.loads((folder / "eval_results.json").read_text())
    assert results["conditions"]["model"]["overall"]["samples"] == len(samples)
    assert results["model_minus_condition"]["question_only"]["exact_match"]["mean"] > 0
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_card(run, folder)
    assert times == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_adapter_in_the_run_keeps_the_folder_of_its_base(trained, tmp_path):
    from radvqa.publish.repository import write_adapter_repository

    run, vlm = trained("adapter")
    write_adapter_repository(run, vlm, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == vlm.name


def test_a_run_whose_parts_learned_whole_has_no_adapter(trained, tmp_path):
    from radvqa.publish.repository import write_adapter_repository

    run, vlm = trained("checkpoint")
    with pytest.raises(RunError, match="no adapter"):
        write_adapter_repository(run, vlm, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


# --- the processor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["processor_config.json", "preprocessor_config.json"])
def test_the_processor_is_paligemma_s(per_question, tmp_path, read):
    from transformers import AutoProcessor, PaliGemmaProcessor

    from radvqa.models.processor import write_processor

    before = len(per_question.tokenizer)
    write_processor(per_question, tmp_path)
    assert len(per_question.tokenizer) == before
    (other,) = {"processor_config.json", "preprocessor_config.json"} - {read}
    (tmp_path / other).unlink()
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, PaliGemmaProcessor)
    pictures = processor.image_processor
    assert (pictures.size["height"], pictures.size["width"], pictures.resample) == (56, 56, 3)
    assert (list(pictures.image_mean), list(pictures.image_std)) == ([0.5] * 3, [0.5] * 3)
    assert processor.image_seq_length == 16
