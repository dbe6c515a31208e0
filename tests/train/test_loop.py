import json
from dataclasses import asdict, replace

import pytest
import torch

from radvqa.errors import TrainError
from radvqa.models.rows import SampleRows
from radvqa.recipe import Lora, Stage
from radvqa.run.progress import Progress
from radvqa.train import loop, loss, step
from radvqa.train.checkpoint import trainable_parameters
from radvqa.train.feed import Feed
from radvqa.train.history import SourceRecord, UpdateRecord
from radvqa.train.loop import train
from radvqa.train.mixture import Plan, shares
from radvqa.train.parts import prepare
from radvqa.train.pictures import StoredPictures
from radvqa.train.step import Settings, Step

SETTINGS = Settings(
    updates=6,
    micro_batch_size=4,
    projector_rate=1e-2,
    language_rate=5e-3,
    vision_rate=2e-3,
    schedule="cosine",
    warmup_updates=2,
    decay=0.2,
    weight_decay=0.0,
    betas=(0.9, 0.99),
    max_grad_norm=1.0,
    stop_grad_norm=1e4,
    loss_norm="example",
    checkpoint_every=2,
    keep_checkpoints=2,
    watch_every=0,
    keep="last",
    patience=None,
    gradient_checkpointing=False,
    sharding="none",
    trackers=(),
    seed=3,
)
DROPPING = Lora(rank=2, alpha=4, dropout=0.3)


@pytest.fixture
def start(open_tiny, sample_file, store, tmp_path):
    """Train the tiny checkpoint in ``tmp_path / name``, as a new process would."""

    def started(name="stage", *, lora=DROPPING, projector=True, watch=lambda _: [], layout="per_question", **changes):
        vlm = open_tiny(layout)
        stage = Stage(name="s", datasets=("d",), updates=1)
        prepare(vlm, stage.model_copy(update={"lora": lora, "projector": projector}), seed=1)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        settings = replace(SETTINGS, **changes)
        rows = SampleRows(vlm, [sample_file])
        plan = Plan(shares([None], settings.updates), sizes=[len(rows)], most=[None], batch_size=4, seed=1)
        feed = Feed({"d": rows}, plan, seed=1)
        history = train(
            vlm, feed, StoredPictures(store), settings, folder=folder, progress=Progress(quiet=True), watch=watch
        )
        weights = {name: one.detach().clone() for name, one in trainable_parameters(vlm.network).items()}
        return history.updates, weights, folder

    return started


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(records):
    return [asdict(replace(record, seconds=0.0)) for record in records]


def test_every_update_is_recorded(start):
    records, _, folder = start()
    stored = lines(folder / "metrics.jsonl")
    assert stored == [asdict(record) for record in records]
    source = records[5].sources["d"]
    assert source == SourceRecord(weight=1.0, rows=4, questions=4, loss=source.loss, seen=24, epoch=24 / 15)
    assert all(record.sources["d"].loss == pytest.approx(record.loss) for record in records)
    assert isinstance(records[0], UpdateRecord)
    assert [record.update for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(record.questions == 4 and record.seconds > 0 and record.grad_norm > 0 for record in records)
    rates = [record.learning_rate for record in records]
    assert rates[:2] == pytest.approx([5e-3, 1e-2])
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rates[-1] > 0
    assert [path.name for path in sorted((folder / "state").iterdir())] == [
        "update-00000004.safetensors",
        "update-00000006.safetensors",
    ]


def test_the_loss_falls(start):
    records, _, _ = start(lora=Lora(rank=4), updates=30, projector_rate=0.02, language_rate=0.02, checkpoint_every=100)
    losses = [record.loss for record in records]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_micro_batches_train_the_same(start):
    """Without dropout, whose masks follow the passes."""
    still = Lora(rank=2, alpha=4)
    whole, weights, _ = start("whole", lora=still)
    parts, other, _ = start("parts", lora=still, micro_batch_size=1)
    assert [one.loss for one in whole] == pytest.approx([one.loss for one in parts], abs=1e-4)
    assert [one.grad_norm for one in whole] == pytest.approx([one.grad_norm for one in parts], rel=1e-3)
    # Adam turns gradients near zero into full steps of either sign, so single weights may part by two rates an update.
    for name, weight in weights.items():
        assert float((weight - other[name]).abs().mean()) < 1e-4, name


def test_environment_variables_of_accelerate_change_nothing(start, monkeypatch):
    records, weights, _ = start("plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    others, other, _ = start("told")
    assert timeless(others) == timeless(records)
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_token_norm_weighs_long_answers_more(start):
    by_example, _, _ = start("example", lora=None)
    by_token, _, _ = start("token", lora=None, loss_norm="token")
    assert abs(by_example[0].loss - by_token[0].loss) > 1e-3


def test_the_same_seed_trains_the_same_bit_by_bit(start):
    first, weights, _ = start("a")
    second, others, _ = start("b")
    assert timeless(first) == timeless(second)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    third, _, _ = start("c", seed=4)  # other dropout masks
    assert timeless(first) != timeless(third)


@pytest.mark.parametrize("last", [1, 2, 3, 5])
def test_going_on_equals_never_stopping(start, monkeypatch, last):
    records, weights, folder = start("whole")
    original = Step.run

    def stops(self, update):
        if update == last + 1:
            raise KeyboardInterrupt
        return original(self, update)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "run", stops)
        with pytest.raises(KeyboardInterrupt):
            start("stopped")
    assert len(lines(folder.parent / "stopped" / "metrics.jsonl")) == last
    again, others, stopped = start("stopped")
    assert timeless(again) == timeless(records)
    assert [line["update"] for line in lines(stopped / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_line_cut_short_by_a_kill_is_written_again(start):
    records, _, folder = start()
    (folder / "state" / "update-00000006.safetensors").unlink()
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    again, _, _ = start()
    assert timeless(again) == timeless(records)
    assert len(lines(path)) == 6


def test_watching_is_written_and_changes_nothing(start):
    plain, weights, _ = start("plain")

    def look(update):
        torch.rand(3)  # whatever it draws
        return [{"update": update, "condition": "real", "overall": 0.25}]

    watched, others, folder = start("watched", watch=look, watch_every=4)
    assert [line["update"] for line in lines(folder / "watch.jsonl")] == [4, 6]
    assert timeless(plain) == timeless(watched)
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_out_of_bounds_names_update_and_images(start, monkeypatch, value):
    original = loss.question_losses
    calls = []

    def broken(*arguments, **others):
        calls.append(1)
        return original(*arguments, **others) * (value if len(calls) == 3 else 1.0)

    monkeypatch.setattr(loss, "question_losses", broken)
    with pytest.raises(TrainError, match="training went out of bounds at update 3") as caught:
        start()
    assert "phantom-train-00000" in caught.value.where
    assert caught.value.got.startswith("loss ")
    assert "lower the learning rate" in caught.value.fix


def test_a_gradient_out_of_bounds_stops_as_well(start, monkeypatch):
    monkeypatch.setattr(step, "_clipped", lambda *_: float("nan"))
    with pytest.raises(TrainError, match="out of bounds at update 1") as caught:
        start()
    assert caught.value.got == "gradient norm nan"


def test_nothing_that_learns_is_an_error(start):
    with pytest.raises(TrainError, match="nothing learns in this stage"):
        start(lora=None, projector=False)


def test_rounded_weights_are_not_trained(per_question):
    per_question.projector.to(torch.bfloat16).requires_grad_(True)
    with pytest.raises(TrainError, match="a trainable weight is not float32") as caught:
        loop.require_float32(trainable_parameters(per_question.network))
    assert "multi_modal_projector" in caught.value.where


def test_every_part_has_a_rate_of_its_own(open_tiny):
    vlm = open_tiny()
    prepare(vlm, Stage(name="s", datasets=("d",), updates=1, lora=DROPPING), seed=1)
    groups = loop._groups(trainable_parameters(vlm.network), SETTINGS)
    assert [(group["lr"], len(group["params"])) for group in groups] == [(1e-2, 2), (5e-3, 2 * 12), (2e-3, 2 * 8)]


def test_shared_image_rows_count_their_questions(start):
    records, _, _ = start(layout="shared_image", updates=2)
    assert [record.questions for record in records] == [12, 12]
