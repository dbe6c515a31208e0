import io
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from radvqa.errors import RunError, TrainError
from radvqa.models.rows import SampleRows
from radvqa.models.vlm import part_of, trainable_counts
from radvqa.recipe import Lora, Stage
from radvqa.run.progress import Progress
from radvqa.train.parallel import ALONE
from radvqa.train.parts import prepare
from radvqa.train.pictures import AugmentedPictures, FrozenFeatures, StoredPictures
from radvqa.train.stages import Features, _pictures, run_stage
from radvqa.train.weights import PROJECTOR_FILE, load_weights

LORA = Lora(rank=2, alpha=4)
ALIGN = Stage(name="align", datasets=("d",), updates=3, batch_size=4, learning_rate=1e-2)
ADAPT = Stage(name="adapt", datasets=("d",), lora=LORA, updates=3, batch_size=4, learning_rate=1e-2)


@pytest.fixture
def run(sample_file, store, tmp_path):
    def started(vlm, stage):
        folder = tmp_path / stage.name
        run_stage(
            vlm, stage, {"d": SampleRows(vlm, [sample_file])}, store,
            folder=folder, seed=1, progress=Progress(quiet=True), watch=lambda _: [],
            features=Features(cache=tmp_path / "features", most_bytes=1 << 30),
        )  # fmt: skip
        return folder

    return started


def state(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_align_moves_the_projector_and_nothing_else(vlm, run):
    before = state(vlm.network)
    folder = run(vlm, ALIGN)
    after = state(vlm.network)
    assert moved(before, after) == {
        "model.multi_modal_projector.linear.weight",
        "model.multi_modal_projector.linear.bias",
    }
    saved = load_file(folder / PROJECTOR_FILE)
    assert saved.keys() == {"linear.weight", "linear.bias"}
    assert all(torch.equal(saved[name], after[f"model.multi_modal_projector.{name}"]) for name in saved)


def test_adapt_moves_adapters_and_projector_and_saves_both(vlm, run):
    prepare(vlm, ADAPT, seed=1)
    before = state(vlm.network)
    folder = run(vlm, ADAPT)
    after = state(vlm.network)
    names = moved(before, after)
    projector = {name for name in names if "multi_modal_projector.modules_to_save" in name}
    assert len(projector) == 2
    assert all(".lora_" in name for name in names - projector)
    assert {name for name in before if ".lora_B" in name} <= names
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert len([name for name in saved if ".lora_" in name]) == 2 * (8 + 12)
    for part in ("weight", "bias"):
        (name,) = (name for name in saved if name.endswith(f"multi_modal_projector.linear.{part}"))
        (own,) = (name for name in projector if name.endswith(part))
        assert torch.equal(saved[name], after[own])
        assert not torch.equal(saved[name], before[own])


def test_adapt_starts_from_the_aligned_projector(per_question, run):
    run(per_question, ALIGN)
    aligned = per_question.projector.linear.weight.detach().clone()
    prepare(per_question, ADAPT, seed=1)
    copy = per_question.projector.modules_to_save["default"]
    assert torch.equal(copy.linear.weight, aligned)
    assert copy.linear.weight.requires_grad


def test_a_stage_tells_what_it_did(per_question, run):
    told = json.loads((run(per_question, ADAPT) / "stage.json").read_text())
    assert told["stage"] == "adapt"
    assert told["updates"] == 3
    assert told["questions"] == 12
    assert told["layout"] == "per_question"
    assert told["adapter_modules"] == {"vision_encoder": 8, "language_model": 12}
    assert told["trainable"] == dict(trainable_counts(per_question.network))
    assert told["trainable"]["projector"] == 16 * 32 + 32
    assert told["seconds"] > 0


def test_without_projector_only_adapters_learn(per_question):
    prepare(per_question, ADAPT.model_copy(update={"projector": False}), seed=1)
    counts = trainable_counts(per_question.network)
    assert counts["projector"] == 0
    assert counts["vision_encoder"] > 0 < counts["language_model"]


def test_what_a_stage_left_can_be_loaded(open_tiny, run, samples, store):
    vlm = open_tiny()
    folders = [run(vlm, stage) for stage in (ALIGN, ADAPT)]
    again = open_tiny()
    for stage, folder in zip((ALIGN, ADAPT), folders, strict=True):
        load_weights(again, stage, folder, seed=77)
    batch = vlm.batch(vlm.rows(samples, answers=True))
    vision = StoredPictures(store).vision(batch.rows, update=1)
    with torch.no_grad():
        assert torch.equal(vlm.supervised_logits(batch, vision), again.supervised_logits(batch, vision))


def test_missing_weights_are_named(per_question, tmp_path):
    for stage, file in ((ALIGN, PROJECTOR_FILE), (ADAPT, "adapter/adapter_model.safetensors")):
        with pytest.raises(TrainError, match="weights of a finished stage are missing") as caught:
            load_weights(per_question, stage, tmp_path, seed=1)
        assert caught.value.where == str(tmp_path / file)


def test_an_adapter_of_another_shape_is_refused(open_tiny, run):
    folder = run(open_tiny(), ADAPT)
    wide = ADAPT.model_copy(update={"lora": Lora(rank=2, alpha=4, parts=("language_model",))})
    with pytest.raises(TrainError, match="no place for"):
        load_weights(open_tiny(), wide, folder, seed=1)
    vlm = open_tiny()
    prepare(vlm, ADAPT, seed=1)
    for other in ({"rank": 4}, {"targets": "all-linear"}, {"parts": ("language_model",)}, {"dropout": 0.1}):
        with pytest.raises(TrainError, match="another shape"):
            prepare(vlm, ADAPT.model_copy(update={"lora": LORA.model_copy(update=other)}), seed=1)
    prepare(vlm, ADAPT.model_copy(update={"lora": LORA.model_copy()}), seed=1)
    with pytest.raises(TrainError, match="a stage without lora follows one with it"):
        prepare(vlm, ALIGN, seed=1)


@pytest.mark.parametrize("lost", ["lora_B", "multi_modal_projector"])
def test_an_adapter_file_that_lacks_weights_is_refused(open_tiny, run, lost):
    folder = run(open_tiny(), ADAPT)
    file = folder / "adapter" / "adapter_model.safetensors"
    state = load_file(file)
    del state[next(name for name in state if lost in name)]
    save_file(state, file)
    with pytest.raises(TrainError, match="lacks weights of this stage") as caught:
        load_weights(open_tiny(), ADAPT, folder, seed=1)
    assert lost in caught.value.got


def test_an_adapter_file_of_another_width_is_refused(open_tiny, run):
    folder = run(open_tiny(), ADAPT)
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor[:1].contiguous() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(TrainError, match="another shape than this model"):
        load_weights(open_tiny(), ADAPT, folder, seed=1)


@pytest.mark.parametrize("changed", ["base", "pictures"])
def test_a_stage_goes_on_from_what_it_began_with_only(open_tiny, run, changed):
    folder = run(open_tiny(), ALIGN)
    noted = json.loads((folder / "made_from.json").read_text())
    (folder / "made_from.json").write_text(json.dumps({**noted, changed: "sha256 0"}))
    with pytest.raises(RunError, match=f"the {changed} of this stage changed"):
        run(open_tiny(), ALIGN)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"lora": None}, FrozenFeatures),
        ({"lora": None, "augment": True}, AugmentedPictures),
        ({"lora": LORA}, StoredPictures),
        ({"lora": LORA, "augment": True}, AugmentedPictures),
        ({"lora": Lora(parts=("language_model",))}, FrozenFeatures),
        ({"features": "computed"}, StoredPictures),
        ({"full": ("vision_encoder",)}, StoredPictures),
        ({"full": ("language_model",)}, FrozenFeatures),
    ],
)
def test_features_are_cached_only_while_the_tower_is_frozen(  # noqa: PLR0917 - fixtures
    per_question, sample_file, store, tmp_path, changes, kind
):
    stage = ALIGN.model_copy(update=changes)
    prepare(per_question, stage, seed=1)
    found = pictures_of(per_question, stage, sample_file, store, tmp_path, most_bytes=1 << 30)
    assert type(found) is kind


def pictures_of(vlm, stage, sample_file, store, folder, *, most_bytes, said=None):
    progress = Progress(stream=said) if said is not None else Progress(quiet=True)
    return _pictures(
        vlm, stage, SampleRows(vlm, [sample_file]).images, store, seed=1, progress=progress,
        features=Features(cache=folder, most_bytes=most_bytes), processes=ALONE,
    )  # fmt: skip


def test_features_that_do_not_fit_are_computed_at_every_use_and_that_is_said(
    per_question, sample_file, store, tmp_path
):
    prepare(per_question, ALIGN, seed=1)
    said = io.StringIO()
    found = pictures_of(per_question, ALIGN, sample_file, store, tmp_path, most_bytes=100, said=said)
    assert type(found) is StoredPictures
    assert "more than feature_cache_gib allows" in said.getvalue()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("parts", [("vision_encoder",), ("language_model",), ("vision_encoder", "language_model")])
def test_whole_parts_learn_and_come_back(open_tiny, run, parts, dtype):
    stage = ALIGN.model_copy(update={"full": parts, "lora_learning_rate": 1e-3})
    vlm = open_tiny(dtype=dtype)
    before = state(vlm.network)
    folder = run(vlm, stage)
    names = moved(before, state(vlm.network))
    assert {part_of(name) for name in names} == {"projector", *parts}
    again = open_tiny(dtype=dtype)
    load_weights(again, stage, folder, seed=9)
    assert not moved(state(vlm.network), state(again.network))


def test_a_wish_for_parts_that_the_stage_does_not_have_is_refused(per_question, monkeypatch):
    monkeypatch.setattr(type(per_question), "unfreeze", lambda *_: None)
    with pytest.raises(TrainError, match="other parameters learn than the stage says"):
        prepare(per_question, ALIGN.model_copy(update={"full": ("language_model",)}), seed=1)


def test_the_micro_batch_size_is_measured_once_and_kept(open_tiny, run, tmp_path):
    stage = ADAPT.model_copy(update={"micro_batch_size": "auto"})
    folder = run(open_tiny(), stage)
    assert json.loads((folder / "stage.json").read_text())["micro_batch_size"] == 4
    (folder / "micro_batch.json").write_text("2")
    (folder / "stage.json").unlink()
    run(open_tiny(), stage)
    assert json.loads((folder / "stage.json").read_text())["micro_batch_size"] == 2
