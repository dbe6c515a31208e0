import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.errors import DataError, RunError
from radvqa.run.engine import Engine, LocalEngine, RayEngine


def square(number: int) -> int:
    return number * number


def process_of(_: int) -> int:
    return os.getpid()


def killed_at_50(number: int) -> int:
    if number == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refused_at_50(number: int) -> int:
    if number == 50:
        raise DataError("no good", where="row 50", fix="mend it")
    return number


def slow_at_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0)
    return number


KEPT: list[bytes] = []


def grown(number: int) -> int:
    """Keeps 400 MB at first, and takes longer than the second that lies between two checks of the memory."""
    if not KEPT:
        KEPT.append(bytearray(b"x") * 400_000_000)
    time.sleep(0.15)
    return number


class Opening:
    """A function over groups that knows how often its process opened one; group [13] is more than it can take."""

    opened = 0

    def __call__(self) -> Callable[[list[int]], list[tuple[int, int, int]]]:
        Opening.opened += 1
        return self.answered

    def answered(self, numbers: list[int]) -> list[tuple[int, int, int]]:
        if numbers == [13]:
            raise DataError("no good", where="group 13")
        return [(number, os.getpid(), Opening.opened) for number in numbers]


class Unreadable:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("x",)


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[RayEngine]:
    ray = pytest.importorskip("ray")
    # Ray leaves sockets open and forks; that is not ours to mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Workers of Ray cannot import the modules of tests.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield RayEngine(2)
        ray.shutdown()


@pytest.mark.parametrize("count", [0, 1, 32, 33, 1000])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    assert list(LocalEngine(2).map(square, range(count))) == [number * number for number in range(count)]


def test_slow_items_do_not_change_the_order() -> None:
    assert list(LocalEngine(2).map(slow_at_first, range(20), group=2)) == list(range(20))


@settings(deadline=None, max_examples=20)
@given(count=st.integers(0, 60), group=st.integers(1, 9), workers=st.integers(1, 3))
def test_neither_groups_nor_workers_change_the_results(count: int, group: int, workers: int) -> None:
    assert list(LocalEngine(workers).map(square, range(count), group=group)) == [n * n for n in range(count)]


def test_many_items_are_done_in_other_processes_and_few_in_this_one() -> None:
    engine = LocalEngine(2)
    assert os.getpid() not in set(engine.map(process_of, range(200)))
    assert set(engine.map(process_of, range(32))) == {os.getpid()}


def test_items_are_taken_as_results_are_and_not_before() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    results = LocalEngine(2).map(square, items(), group=8)
    assert [next(results) for _ in range(16)] == [number * number for number in range(16)]
    assert taken <= 16 + 2 * 2 * 8
    results.close()  # type: ignore[attr-defined]


def test_an_engine_works_again_after_its_results_were_left() -> None:
    engine = LocalEngine(2)
    results = engine.map(square, range(1000))
    assert next(results) == 0
    del results
    assert sum(engine.map(square, range(100))) == sum(n * n for n in range(100))


@pytest.mark.timeout(60)
def test_a_killed_worker_is_an_error_that_says_what_to_do() -> None:
    engine = LocalEngine(2)
    with pytest.raises(RunError, match="worker process died") as caught:
        list(engine.map(killed_at_50, range(100), group=10))
    assert "fewer workers" in str(caught.value.fix)
    assert list(engine.map(square, range(100))) == [n * n for n in range(100)], "the next map has new workers"


@pytest.mark.timeout(60)
def test_workers_that_grow_are_replaced_without_a_hang() -> None:
    engine = LocalEngine(2)
    list(engine.map(square, range(100)))  # memory is compared with that of the first tasks
    numbers = list(range(40))
    assert list(engine.map(grown, numbers, group=1)) == numbers


def test_what_the_function_raises_arrives_with_the_traceback_of_the_worker() -> None:
    with pytest.raises(DataError, match="no good") as caught:
        list(LocalEngine(2).map(refused_at_50, range(100), group=10))
    assert (caught.value.where, caught.value.fix) == ("row 50", "mend it")
    assert "in refused_at_50" in caught.value.__notes__[0]
    with pytest.raises(DataError, match="no good"):
        list(LocalEngine(2).map(refused_at_50, range(45, 55)))


@pytest.mark.parametrize("workers", [0, -1])
def test_less_than_one_worker_is_refused(workers: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LocalEngine(workers)
    with pytest.raises(ValueError, match="at least 1"):
        RayEngine(workers)


def test_a_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match="Ray is not installed") as caught:
        RayEngine(2)
    assert "radvqa[ray]" in str(caught.value.fix)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_ray_gives_the_results_of_worker_processes_in_the_same_order(ray_engine: Engine, count: int) -> None:
    local = list(LocalEngine(2).map(square, range(count)))
    assert list(ray_engine.map(square, range(count))) == local == [n * n for n in range(count)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_keeps_the_order_of_slow_items(ray_engine: Engine) -> None:
    assert list(ray_engine.map(slow_at_first, range(20), group=2)) == list(range(20))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
def test_errors_on_ray_are_those_of_worker_processes(ray_engine: Engine) -> None:
    with pytest.raises(RunError, match="worker process died") as died:
        list(ray_engine.map(killed_at_50, range(100), group=10))
    assert "fewer workers" in str(died.value.fix)
    with pytest.raises(DataError, match="no good") as caught:
        list(ray_engine.map(refused_at_50, range(100), group=10))
    with pytest.raises(RunError, match="Ray could not do its part"):
        list(ray_engine.map(square, [Unreadable()]))
    assert (caught.value.where, caught.value.fix) == ("row 50", "mend it")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
def test_a_function_that_is_costly_to_open_is_opened_once_by_each_worker(ray_engine: RayEngine) -> None:
    answers = list(ray_engine.answer(Opening(), range(100), workers=2, group=5))
    assert sorted(number for number, _, _ in answers) == list(range(100))
    assert {opened for _, _, opened in answers} == {1}
    assert os.getpid() not in {process for _, process, _ in answers}
    assert list(ray_engine.answer(Opening(), [], workers=2, group=5)) == []
    with pytest.raises(DataError, match="no good") as caught:
        list(ray_engine.answer(Opening(), range(20), workers=2, group=1))
    assert "in answered" in caught.value.__notes__[0]
    assert list(ray_engine.map(square, range(100))) == [n * n for n in range(100)], "in their order again"
    assert ray_engine.cores() == [2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_image_store_is_the_same_on_ray(ray_engine: Engine, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from radvqa.data.image_store import ImageStore

    paths = [tmp_path / f"{number}.png" for number in range(200)]
    for number, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 13), dtype=np.uint8)).save(path)
    local = ImageStore.build(paths, size=6, cache=tmp_path / "local", engine=LocalEngine(2))
    ray = ImageStore.build(paths, size=6, cache=tmp_path / "ray", engine=ray_engine)
    assert all(np.array_equal(local.pixels(path), ray.pixels(path)) for path in paths)
    assert local.digest(paths) == ray.digest(paths)
