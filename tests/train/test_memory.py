"""Memory that is too small: what is said, and how the micro-batch is fitted to what is free."""

import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from radvqa.errors import TrainError
from radvqa.train.memory import _left_in_control_groups, fitting_micro_batch, free_bytes, out_of_memory, peak_of
from radvqa.train.pictures import StoredPictures

CPU = torch.device("cpu")


# --- what is said -----------------------------------------------------------------------------------------------


def raised(work):
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.empty(2**55),  # the real message of the CPU allocator
        lambda: __import__("numpy").empty(2**55),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: out of memory")),
    ],
    ids=["torch on CPU", "numpy", "torch on GPU", "older CUDA call"],
)
def test_memory_that_ran_out_is_told(work):
    told = out_of_memory(raised(work), doing="update 12", micro_batch_size=8, gradient_checkpointing=False)
    assert isinstance(told, TrainError)
    assert told.what == "memory ran out at update 12"
    assert "8 rows" in told.expected
    assert "micro_batch_size: 4" in told.fix
    assert "gradient_checkpointing: true" in told.fix
    assert "the last checkpoint of this one is intact" in told.fix


def test_no_advice_that_was_taken_already():
    error = torch.OutOfMemoryError("CUDA out of memory")
    told = out_of_memory(error, doing="update 1", micro_batch_size=1, gradient_checkpointing=True)
    assert "micro_batch_size" not in told.fix
    assert "gradient_checkpointing" not in told.fix


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("x")])
def test_other_errors_are_left_alone(error):
    assert out_of_memory(error, doing="", micro_batch_size=1, gradient_checkpointing=False) is None


# --- the size that fits -----------------------------------------------------------------------------------------


class Machine:
    """Passes that take ``fixed + per_row * rows`` bytes, and at least ``floor``."""

    def __init__(self, *, fixed=0, per_row=10, floor=0, breaks_at=10**9):
        self.fixed, self.per_row, self.floor, self.breaks_at = fixed, per_row, floor, breaks_at
        self.ran = []

    def __call__(self, rows):
        self.ran.append(rows)
        peak = self.bytes(rows)
        if peak > self.breaks_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return peak

    def bytes(self, rows):
        return max(self.floor, self.fixed + self.per_row * rows)


@pytest.mark.parametrize(
    ("rows", "free", "size"),
    [(64, 10_000, 64), (64, 1000, 64), (64, 799, 32), (64, 100, 8), (64, 99, 4), (64, 13, 1), (1, 10_000, 1),
     (6, 75, 6), (6, 74, 4), (6, 10_000, 6), (3, 30, 2)],
)  # fmt: skip
def test_the_largest_size_that_fits_is_found(rows, free, size):
    machine = Machine()
    assert fitting_micro_batch(machine, rows, free) == size
    assert machine.bytes(size) <= 0.8 * free


@pytest.mark.parametrize("fixed", [0, 50, 300])
@pytest.mark.parametrize("floor", [0, 200, 350])
@pytest.mark.parametrize("free", [500, 1000, 3000, 10**6])
def test_what_is_taken_fits_and_twice_of_it_would_not(fixed, floor, free):
    machine = Machine(fixed=fixed, floor=floor)
    size = fitting_micro_batch(machine, 128, free)
    assert machine.bytes(size) <= 0.8 * free
    assert size == 128 or machine.bytes(2 * size) > 0.8 * free


def test_nothing_far_too_large_is_run():
    """On a CPU the kernel would kill the process: what is sure not to fit is not tried."""
    machine = Machine(fixed=5)
    assert fitting_micro_batch(machine, 1024, 200) == 8
    assert machine.ran == [1, 2, 4, 8]


def test_a_size_that_breaks_is_given_up():
    machine = Machine(breaks_at=50)
    assert fitting_micro_batch(machine, 64, 10**9) == 4
    assert machine.ran == [1, 2, 4, 8]


@pytest.mark.parametrize("machine", [Machine(fixed=100), Machine(breaks_at=5)])
def test_not_even_one_row_is_told(machine):
    with pytest.raises(TrainError, match="not even one row fits") as caught:
        fitting_micro_batch(machine, 8, 100)
    assert "gradient_checkpointing: true" in caught.value.fix


def test_an_error_in_the_measured_pass_is_not_swallowed():
    def broken(_):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        fitting_micro_batch(broken, 8, 100)


# --- what is measured -------------------------------------------------------------------------------------------


def test_the_peak_is_the_most_that_is_held_at_one_time(capfd):
    def work():
        first = torch.ones(1000, 250)  # 1 MB
        second = first + 1  # 2 MB are held
        del first
        return second * 2  # and again

    before = torch.ones(10_000_000)  # is no part of it
    assert peak_of(work, CPU) == pytest.approx(2_000_000, abs=100)  # scalars take a few bytes
    assert peak_of(work, CPU) == pytest.approx(2_000_000, abs=100)
    assert capfd.readouterr() == ("", "")
    assert "KINETO_LOG_LEVEL" not in os.environ
    del before


def test_a_pass_of_the_model_takes_memory_by_the_row(per_question, store, samples):
    per_question.projector.requires_grad_(True)
    rows = sorted(per_question.rows(samples, answers=True), key=lambda one: -len(one.questions[0].prompt))
    rows = [rows[0]] * 8

    def passed(some):
        batch = per_question.batch(some)
        logits = per_question.supervised_logits(batch, StoredPictures(store).vision(some, update=1))
        functional.cross_entropy(logits, batch.targets).backward()
        per_question.projector.zero_grad()

    def measure(size):
        return peak_of(lambda: passed(rows[:size]), CPU)

    per_question.network.train()
    one, two, four = measure(1), measure(2), measure(4)
    assert measure(2) == two
    assert two - one > 100_000
    assert four - two == pytest.approx(2 * (two - one), rel=0.1)
    per_question.checkpoint_gradients(on=True)
    assert measure(4) < 0.7 * four
    per_question.checkpoint_gradients(on=False)
    assert fitting_micro_batch(measure, 8, int((four + 1) / 0.8)) == 4


# --- what is free -----------------------------------------------------------------------------------------------


def test_free_memory_is_that_of_the_machine_or_less():
    import psutil

    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total


def group(folder: Path, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_the_tightest_control_group_counts(tmp_path):
    stat = "anon 5\ninactive_file 30\n"
    group(tmp_path / "cgroup", {})
    group(tmp_path / "cgroup/job", {"memory.max": "1000\n", "memory.current": "400\n", "memory.stat": stat})
    group(tmp_path / "cgroup/job/step", {"memory.max": "max\n", "memory.current": "300\n", "memory.stat": stat})
    (tmp_path / "self").write_text("0::/job/step\n")
    assert list(_left_in_control_groups(tmp_path / "self", tmp_path / "cgroup")) == [630]


def test_a_control_group_that_is_the_root_of_a_container_counts(tmp_path):
    group(tmp_path, {"memory.max": "1000", "memory.current": "900", "memory.stat": "inactive_file 50\n"})
    (tmp_path / "self").write_text("0::/docker/0123\n")
    assert list(_left_in_control_groups(tmp_path / "self", tmp_path)) == [150]


def test_control_groups_of_version_1_count(tmp_path):
    files = {"memory.limit_in_bytes": "500", "memory.usage_in_bytes": "600", "memory.stat": "total_inactive_file 40\n"}
    group(tmp_path / "memory/job", files)
    (tmp_path / "self").write_text("9:name=systemd:/\n4:cpu,memory:/job\n1:cpu:/\n")
    assert list(_left_in_control_groups(tmp_path / "self", tmp_path)) == [0]


def test_without_control_groups_the_machine_counts(tmp_path):
    assert list(_left_in_control_groups(tmp_path / "none", tmp_path)) == []
