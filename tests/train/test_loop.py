import json
import os
import signal
from dataclasses import asdict, replace

import pytest
import torch

from radvqa.errors import TrainError
from radvqa.models.rows import SampleRows
from radvqa.recipe import Lora, Stage
from radvqa.run.progress import Progress
from radvqa.run.stopping import Stopped, stoppable
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
        stage = stage.model_copy(update={"lora": lora, "projector": projector})
        prepare(vlm, stage, seed=1)
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


def test_every_part_has_a_rate_of_its_own(open_tiny):
    vlm = open_tiny()
    prepare(vlm, Stage(name="s", datasets=("d",), updates=1, lora=DROPPING), seed=1)
    groups = loop._groups(trainable_parameters(vlm.network), SETTINGS)
    assert [(group["lr"], len(group["params"])) for group in groups] == [(1e-2, 2), (5e-3, 2 * 12), (2e-3, 2 * 8)]


def test_shared_image_rows_count_their_questions(start):
    records, _, _ = start(layout="shared_image", updates=2)
    assert [record.questions for record in records] == [12, 12]


def looks(scores):
    """A watch that sees these shares of right answers, in turn."""

    def look(update):
        return [{"update": update, "condition": "real", "overall": scores[update]}]

    return look


def test_the_weights_of_the_best_look_are_kept(start, monkeypatch):
    scores = {1: 0.1, 2: 0.6, 3: 0.2, 4: 0.6, 5: 0.3, 6: 0.4}
    kept = {}
    original = loop.save_best

    def remembering(folder, update, parameters, **others):
        kept[update] = {name: one.detach().clone() for name, one in parameters.items()}
        original(folder, update, parameters, **others)

    monkeypatch.setattr(loop, "save_best", remembering)
    _, weights, _ = start("best", watch=looks(scores), watch_every=1, keep="best")
    _, last, _ = start("last", watch=looks(scores), watch_every=1)
    assert sorted(kept) == [1, 2]
    assert all(torch.equal(weights[name], kept[2][name]) for name in weights)
    assert not all(torch.equal(weights[name], last[name]) for name in weights)


def test_a_stage_without_a_better_look_stops_early_and_stays_stopped(start):
    scores = {1: 0.5, 2: 0.4, 3: 0.5, 4: 0.9, 5: 0.1, 6: 0.1}
    records, _, folder = start("early", watch=looks(scores), watch_every=1, patience=2)
    assert [record.update for record in records] == [1, 2, 3]
    again, _, _ = start("early", watch=looks(scores), watch_every=1, patience=2)
    assert [record.update for record in again] == [1, 2, 3]
    assert len(lines(folder / "metrics.jsonl")) == 3


@pytest.mark.parametrize("last", [2, 3, 5])
def test_a_killed_stage_that_keeps_its_best_look_ends_the_same(start, monkeypatch, last):
    scores = {1: 0.3, 2: 0.4, 3: 0.9, 4: 0.5, 5: 0.6, 6: 0.7}
    options = {"watch": looks(scores), "watch_every": 1, "keep": "best"}
    _, weights, _ = start("whole", **options)
    original = Step.run

    def stops(self, update):
        if update == last + 1:
            raise KeyboardInterrupt
        return original(self, update)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "run", stops)
        with pytest.raises(KeyboardInterrupt):
            start("stopped", **options)
    _, others, _ = start("stopped", **options)
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_sigterm_saves_the_last_whole_update_and_ends(start, monkeypatch):
    original = loss.question_losses
    calls = []

    def interrupted(*arguments, **others):
        calls.append(1)
        if len(calls) == 7:  # in the fourth update, between its two micro-batches
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **others)

    with monkeypatch.context() as patch, stoppable():
        patch.setattr(loss, "question_losses", interrupted)
        with pytest.raises(Stopped) as caught:
            start("stopped", micro_batch_size=2, checkpoint_every=100)
    assert caught.value.code == 0
    assert len(calls) == 7
    again, others, folder = start("stopped", micro_batch_size=2, checkpoint_every=100)
    assert [line["update"] for line in lines(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    undisturbed, expected, _ = start("parts", micro_batch_size=2, checkpoint_every=100)
    assert timeless(again) == timeless(undisturbed)
    assert all(torch.equal(expected[name], others[name]) for name in expected)


def test_exploding_gradients_stop_with_the_samples(start):
    with pytest.raises(TrainError, match="out of bounds at update 1") as caught:
        start(stop_grad_norm=1e-6)
    assert "phantom-train-00000" in caught.value.where
    assert "stop_grad_norm" in caught.value.expected


def test_full_memory_is_told_and_the_last_checkpoint_stays(start, monkeypatch):
    original = loss.question_losses
    calls = []

    def full(*arguments, **others):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return original(*arguments, **others)

    monkeypatch.setattr(loss, "question_losses", full)
    with pytest.raises(TrainError, match="memory") as caught:
        start("full")
    assert "micro_batch_size" in caught.value.fix
    monkeypatch.undo()
    records, _, folder = start("full")
    assert len(records) == 6
    assert (folder / "state" / "update-00000006.safetensors").is_file()


def test_tensorboard_gets_every_source(start):
    from tensorboardX.proto.event_pb2 import Event

    _, _, folder = start(trackers=("tensorboard",))
    (file,) = (folder / "trackers" / "radvqa").glob("events.*")
    tags = set()
    content = file.read_bytes()
    at = 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + length])
        tags |= {value.tag for value in event.summary.value}
        at += 16 + length
    assert {"train/loss", "mix/d/weight", "examples_seen/d", "epoch/d", "loss/d"} <= tags


@pytest.mark.parametrize(("name", "what"), [("tensorbord", "no such tracker"), ("wandb", "is not installed")])
def test_a_tracker_that_cannot_work_is_refused(start, name, what):
    with pytest.raises(TrainError, match=what):
        start(trackers=(name,))
