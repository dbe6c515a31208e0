import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from radvqa.errors import ModelError, RunError
from radvqa.models.layout import Row
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vision
from radvqa.publish import export as exporting
from radvqa.publish import loader_check, plain_loader
from radvqa.publish.export import export
from radvqa.publish.loader_check import BFLOAT16_BOUND, FLOAT32_BOUND, LoaderCheck, require_loadable, take_probe
from radvqa.publish.manifest import MANIFEST_FILE
from radvqa.publish.merging import LowRankUpdate
from radvqa.recipe import Model

WEIGHTS = {
    "adapter": {"adapter_config.json", "adapter_model.safetensors"},
    "projector": {"projector.safetensors"},
    "checkpoint": {"config.json", "generation_config.json", "model.safetensors"},
}
ABOUT = {
    "README.md", "training_manifest.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json",
    "preprocessor_config.json",
}  # fmt: skip


@pytest.fixture
def without_process(monkeypatch):
    """The loader's program in this process, which has torch already: seconds less, but radvqa is imported as well."""

    def run(exchange):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return subprocess.CompletedProcess([], 0, json.dumps(plain_loader.measure(str(exchange))), "")
            except SystemExit as error:
                return subprocess.CompletedProcess([], 1, "", str(error))

    monkeypatch.setattr(loader_check, "plain_process", run)


def names(folder):
    return {path.name for path in folder.iterdir()}


def answers(vlm, samples, store):
    """Texts and logits of the answers to questions, each alone in its row."""
    import numpy as np

    texts, logits = [], []
    for sample in samples:
        vision = Vision(torch.tensor([0]), pixels=torch.from_numpy(np.array(store.pixels(sample.image)))[None])
        asked = vlm.batch([Row(sample.image, (vlm.question(sample, answer=False),))])
        texts.append(vlm.answer(asked, vision, max_new_tokens=24)[0].text)
        told = vlm.batch([Row(sample.image, (vlm.question(sample, answer=True),))])
        with torch.no_grad():
            logits.append(vlm.supervised_logits(told, vision))
    return texts, torch.cat(logits)


CASES = [
    ("adapter", "per_question", False),
    ("adapter", "per_question", True),
    ("adapter", "shared_image", False),
    ("adapter", "shared_image", True),
    ("projector", "per_question", False),
    ("projector", "shared_image", True),
    ("checkpoint", "per_question", False),
]


@pytest.mark.parametrize(("kind", "layout", "merge"), CASES)
def test_an_export_gives_the_model_s_logits(trained, tmp_path, without_process, kind, layout, merge):  # noqa: PLR0917
    run, _ = trained(kind, layout=layout, evaluated=True)
    folder = tmp_path / "out" / "mine"
    found = export(run, folder, merge=merge)
    written = "checkpoint" if merge else kind
    assert (found.kind, found.folder, found.dtype) == (written, folder, "float32")
    assert names(folder) == WEIGHTS[written] | ABOUT | {"eval_results.json"}
    assert found.check.bound == FLOAT32_BOUND
    assert found.check.difference <= 1e-5 * found.check.scale
    assert found.check.scale > 1
    assert names(folder.parent) == {"mine"}


def test_an_export_loads_in_a_process_without_radvqa(trained, tmp_path):
    run, _ = trained("adapter", layout="shared_image")
    found = export(run, tmp_path / "out", merge=False)
    assert found.check.difference <= 1e-5 * found.check.scale


@pytest.mark.parametrize("kind", ["adapter", "projector", "checkpoint"])
def test_radvqa_takes_a_merged_checkpoint_as_its_base(trained, tmp_path, samples, store, kind):
    run, vlm = trained(kind)
    export(run, tmp_path / "merged", merge=True, check=False)
    merged = open_vlm(Model(checkpoint=str(tmp_path / "merged"), dtype="float32"), say=lambda _: None)
    base = open_vlm(Model(checkpoint="tiny", dtype="float32"), say=lambda _: None)
    (texts, logits), (own_texts, own), (_, before) = (answers(one, samples[:2], store) for one in (merged, vlm, base))
    assert texts == own_texts
    torch.testing.assert_close(logits, own, atol=1e-5 * float(own.abs().max()), rtol=0)
    assert (own - before).abs().max() > 1e-2  # else nothing was learned that could be lost


def test_a_learned_weight_that_is_not_merged_is_found(trained, tmp_path, monkeypatch, without_process):
    run, _ = trained("adapter")
    whole = exporting.what_was_learned

    def half(vlm, **options):
        learned = whole(vlm, **options)
        for name in [name for name in learned.updates if "vision_tower" in name]:
            del learned.updates[name]
        return learned

    monkeypatch.setattr(exporting, "what_was_learned", half)
    with pytest.raises(ModelError, match="other logits in plain transformers"):
        export(run, tmp_path / "merged", merge=True)
    assert names(tmp_path) == {"runs"}


def test_the_sum_is_rounded_once():
    torch.manual_seed(0)
    weight = torch.randn(6, 5).bfloat16()
    update = LowRankUpdate(torch.randn(2, 5), torch.randn(6, 2), 0.5)
    exact = weight.double() + 0.5 * (update.up.double() @ update.down.double())
    assert torch.equal(update.added_to(weight), exact.bfloat16())


@pytest.mark.parametrize(("dtype", "expected"), [("base", torch.float32), ("bfloat16", torch.bfloat16)])
def test_weights_are_stored_as_the_base_s_or_as_asked_for(trained, tmp_path, dtype, expected):
    run, _ = trained("adapter")
    found = export(run, tmp_path / "merged", merge=True, dtype=dtype, check=False)
    assert {tensor.dtype for tensor in load_file(tmp_path / "merged" / "model.safetensors").values()} == {expected}
    assert found.dtype == str(expected).removeprefix("torch.")
    assert found.check is None


@pytest.mark.parametrize("merge", [False, True])
def test_bfloat16_is_within_its_bound(trained, tmp_path, without_process, merge):
    run, _ = trained("adapter", dtype="bfloat16")
    found = export(run, tmp_path / "out", merge=merge, dtype="bfloat16" if merge else "base")
    assert found.check.bound == BFLOAT16_BOUND
    assert merge == (found.check.difference > 0)
    assert found.check.passed


@pytest.mark.parametrize("difference", [float("nan"), float("inf"), 0.11])
def test_what_is_no_number_or_out_of_bounds_does_not_pass(difference):
    assert not LoaderCheck(difference=difference, scale=10.0, bound=0.01).passed
    assert LoaderCheck(difference=0.1, scale=10.0, bound=0.01).passed


# --- adapters of another module tree ----------------------------------------------------------------------------


@pytest.fixture
def adapter(trained, tmp_path, without_process):
    """An exported adapter, the probe of its model and the folder of its base."""
    run, vlm = trained("adapter")
    export(run, tmp_path / "out", merge=False, check=False)
    return tmp_path / "out", take_probe(vlm), vlm.name


def checked(adapter):
    folder, probe, base = adapter
    return require_loadable(folder, probe, kind="adapter", base=base, revision=None)


def test_the_pattern_reaches_both_module_trees(adapter):
    pattern = json.loads((adapter[0] / "adapter_config.json").read_text())["target_modules"]
    for tower in ("model.vision_tower.", "model.vision_tower.vision_model."):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            assert re.fullmatch(pattern, f"{tower}encoder.layers.26.self_attn.{name}")
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert re.fullmatch(pattern, f"model.language_model.layers.17.self_attn.{name}")
    assert not re.fullmatch(pattern, "model.multi_modal_projector.linear")


def test_a_pattern_for_the_old_tree_alone_is_refused(adapter):
    """PEFT takes it without a word, and the vision half of the adapter is lost."""
    path = adapter[0] / "adapter_config.json"
    text = path.read_text()
    config = json.loads(text)
    old = config["target_modules"].replace(r"(?:vision_model\.)?", r"vision_model\.")
    assert old != config["target_modules"]
    path.write_text(json.dumps({**config, "target_modules": old}))
    with pytest.raises(ModelError, match="do not load in plain transformers") as caught:
        checked(adapter)
    assert "reaches 12 modules, adapter_model.safetensors has weights for 20" in caught.value.got


def test_keys_of_the_old_tree_are_read(adapter):
    """As transformers 4.52 to 5.5 had them; PEFT renames them."""
    path = adapter[0] / "adapter_model.safetensors"
    renamed = {
        name.replace("vision_tower.encoder", "vision_tower.vision_model.encoder"): tensor
        for name, tensor in load_file(path).items()
    }
    assert len(renamed.keys() - load_file(path).keys()) == 16
    save_file(renamed, path, metadata={"format": "pt"})
    assert checked(adapter).passed


def test_another_processor_is_found(adapter):
    path = adapter[0] / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="do not load") as caught:
        checked(adapter)
    assert "other tokens than those trained on" in caught.value.got


# --- refusals and what is left out --------------------------------------------------------------------------------


def test_nothing_of_this_machine_is_told(trained, tmp_path):
    run, _ = trained("adapter", evaluated=True)
    export(run, tmp_path / "out", merge=False, check=False)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path.parent).encode() not in path.read_bytes(), path.name
        assert b"/home" not in path.read_bytes(), path.name


def test_a_folder_with_something_in_it_is_left_alone(trained, tmp_path):
    run, _ = trained("projector")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="there is something at this place already"):
        export(run, tmp_path / "out", merge=False, check=False)
    assert names(tmp_path / "out") == {"mine.txt"}
    (tmp_path / "out" / "mine.txt").unlink()
    export(run, tmp_path / "out", merge=False, check=False)
    assert "projector.safetensors" in names(tmp_path / "out")


def test_the_folder_one_is_in_is_not_replaced(trained, tmp_path, monkeypatch):
    run, _ = trained("projector")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", "../here", "../here/x/.."):
        with pytest.raises(RunError, match="the folder you are in"):
            export(run, Path(name), merge=False, check=False)


def test_files_have_the_rights_of_new_files(trained, tmp_path):
    run, _ = trained("adapter")
    before = os.umask(0o027)
    try:
        export(run, tmp_path / "out", merge=False, check=False)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


def test_room_is_looked_for_before_anything_is_written(trained, tmp_path, monkeypatch):
    run, _ = trained("adapter")
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(RunError, match="the disk has no room"):
        export(run, tmp_path / "deep" / "out", merge=True)
    assert names(tmp_path) == {"runs"}


def test_an_adapter_has_no_dtype_to_choose(trained, tmp_path):
    run, _ = trained("adapter")
    with pytest.raises(RunError, match="no dtype to choose"):
        export(run, tmp_path / "out", merge=False, dtype="bfloat16")


def test_a_failure_leaves_nothing(trained, tmp_path, monkeypatch):
    run, _ = trained("adapter")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "merged_network", full)
    with pytest.raises(RunError, match="cannot write"):
        export(run, tmp_path / "out", merge=True, check=False)
    assert names(tmp_path) == {"runs"}


# --- the program of the card ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "layout", "merge"), CASES)
def test_the_program_of_the_card_gives_the_model_s_answer(  # noqa: PLR0917
    trained, tmp_path, samples, store, monkeypatch, capsys, kind, layout, merge
):
    run, vlm = trained(kind, layout=layout)
    folder = tmp_path / "out"
    written = export(run, folder, merge=merge, check=False).kind
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    texts, _ = answers(vlm, samples[:6], store)
    # With an untrained decoder every answer may be empty; the logits of these are compared above.
    number = next((number for number, text in enumerate(texts) if text), 0)
    assert texts[number] or kind == "projector"
    base = [] if written == "checkpoint" else [vlm.name]
    arguments = ["ask.py", str(folder), *base, str(samples[number].image), samples[number].question]
    monkeypatch.setattr(sys, "argv", arguments)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(program, "card", "exec"), {})
    assert capsys.readouterr().out.strip() == texts[number]


def test_the_manifest_tells_the_kind_that_was_written(trained, tmp_path):
    run, _ = trained("adapter")
    for merge, kind in ((False, "adapter"), (True, "checkpoint")):
        export(run, tmp_path / kind, merge=merge, check=False)
        assert json.loads((tmp_path / kind / MANIFEST_FILE).read_text())["kind"] == kind
