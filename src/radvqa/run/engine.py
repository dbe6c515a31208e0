"""One function over many items in worker processes: of this machine, or of a Ray cluster, with equal results."""

import os
import pickle
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, TypeVar, final

from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor

from radvqa.errors import RunError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Groups in flight for each worker: one being done, one waiting so that no worker is idle."""

# Workers share the cores already; threads of theirs on top would slow each other down.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

_AGAIN = 2
"""Times that Ray does again what a dead worker was doing."""

_GROUPS_PER_TASK = 8
"""A task of Ray Data costs about 13 ms, whatever it does."""


class Engine(Protocol):
    """Maps a function over items, here or elsewhere."""

    def map(self, function: Callable[[T], R], items: Iterable[T], *, group: int = 32) -> Iterator[R]:
        """The results in the order of the items, as they come; few are held at any time.

        Args:
            function: must be picklable, so no lambda; so must items and results be.
            items: what to map it over.
            group: items that go to a worker together.

        Raises:
            RunError: a worker died, or the engine cannot be started.
            Exception: whatever ``function`` raises, with a note that holds the worker's traceback.
        """


@final
class LocalEngine:
    """Worker processes on this machine. They start with the first large map and end ten seconds after the last.

    Args:
        workers: how many; as many as this process may use cores, if None.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.workers = workers or int(cpu_count())

    def map(self, function: Callable[[T], R], items: Iterable[T], *, group: int = 32) -> Iterator[R]:
        """As ``Engine.map`` says. A single group is done in this process: starting others takes most of a second."""
        rest = iter(items)
        first = list(islice(rest, group + 1))
        if len(first) <= group:
            return map(function, first)
        return self._mapped(function, _groups(chain(first, rest), group))

    def _mapped(self, function: Callable[[T], R], groups: Iterator[list[T]]) -> Iterator[R]:
        # A worker that holds much more memory than at first (a model it has opened) is replaced by a new one, and loky
        # warns in a thread of its own: where warnings are errors, that thread would die and the results never come.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        pool = get_reusable_executor(max_workers=self.workers, timeout=10, env=_ONE_THREAD)
        in_flight: deque[Future[list[R] | _Raised]] = deque()
        try:
            for some in groups:
                in_flight.append(pool.submit(_done, function, some))
                if len(in_flight) == _AHEAD * self.workers:
                    yield from _results(in_flight.popleft().result())
            while in_flight:
                yield from _results(in_flight.popleft().result())
        except BrokenExecutor as error:
            raise _worker_died(f"{self.workers} worker processes on this machine", error) from error
        finally:
            for future in in_flight:
                future.cancel()


@final
class RayEngine:
    """Tasks of Ray Data (optional extra ``ray``), on a cluster or on a Ray that is started on this machine.

    All machines of a cluster must see the files that the function reads and writes under the same paths.

    Args:
        workers: tasks at a time; as many as the cluster, or this process, may use cores, if None.
        address: of a running cluster, as ``ray.init`` takes it (``auto`` for that of this machine); None starts one
            here, unless this process is connected already.

    Raises:
        RunError: Ray is not installed, or cannot be started.
    """

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.workers = workers
        self._ray = _started_ray(workers, address)

    def map(self, function: Callable[[T], R], items: Iterable[T], *, group: int = 32) -> Iterator[R]:
        """As ``Engine.map`` says, except that all items are listed first."""
        # As bytes, because Ray Data would turn items and results into Arrow columns of its own choice.
        rows = [{"group": pickle.dumps(some)} for some in _groups(iter(items), group)]
        if not rows:
            return
        context = self._ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        tasks = max(len(rows) // _GROUPS_PER_TASK, min(len(rows), _AHEAD * (self.workers or 1)))
        done = self._batches(
            rows,
            tasks,
            partial(_done_batch, function),
            compute=self._ray.data.TaskPoolStrategy(size=self.workers),
            max_retries=_AGAIN,
        )
        yield from self._unpacked(done)

    def answer(
        self,
        opened: Callable[[], Callable[[list[T]], list[R]]],
        items: Iterable[T],
        *,
        workers: int,
        group: int,
        cores: int = 1,
        gpus: float = 0,
    ) -> Iterator[R]:
        """The results in the order in which workers are done, for functions that are costly to open, such as a model.

        All items are listed first. Every worker is an actor of Ray Data that opens the function with its first group
        and keeps it until all items are done. A group whose worker died is done again, twice at most.

        Args:
            opened: gives the function, which takes a group and gives as many results as it likes; must be picklable.
            items: what to answer.
            workers: actors; those that find no room on the cluster wait for it.
            group: items that go to a worker together.
            cores: that each actor takes.
            gpus: that each actor takes.

        Raises:
            RunError: workers died too often, or Ray cannot do its part.
            Exception: whatever the function raises, with a note that holds the worker's traceback.
        """
        rows = [{"group": pickle.dumps(some)} for some in _groups(iter(items), group)]
        if not rows:
            return
        context = self._ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        pool = self._ray.data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=_AHEAD)
        done = self._batches(
            rows,
            len(rows),
            _Opened,
            fn_constructor_args=(opened,),
            compute=pool,
            num_cpus=cores,
            num_gpus=gpus,
            max_task_retries=_AGAIN,
        )
        yield from self._unpacked(done)

    def cores(self) -> list[int]:
        """CPU cores of every machine that Ray has, most first."""
        return self._each_machine("CPU")

    def gpus(self) -> list[int]:
        """GPUs of every machine that Ray has, most first."""
        return self._each_machine("GPU")

    def _each_machine(self, what: str) -> list[int]:
        machines = [machine["Resources"] for machine in self._ray.nodes() if machine["Alive"]]
        return sorted((int(one.get(what, 0)) for one in machines), reverse=True)

    def _batches(self, rows: list[dict[str, Any]], blocks: int, function: Any, **how: Any) -> Any:
        with warnings.catch_warnings():
            # Without a limit of retries Ray Data would try for ever what kills its worker each time. Ray < 2.64 takes
            # it, says that it will not always, and offers nothing else yet.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                function, batch_size=None, batch_format="numpy", **how
            )

    def _unpacked(self, done: Any) -> Iterator[Any]:
        try:
            for batch in done.iter_batches(batch_size=None, batch_format="numpy"):
                for content in batch["results"]:
                    yield from _results(pickle.loads(content))
        except self._ray.exceptions.RayError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> RunError:
        known = self._ray.exceptions
        died = (
            known.WorkerCrashedError,
            known.OutOfMemoryError,
            known.NodeDiedError,
            known.ActorDiedError,
            known.ActorUnavailableError,
        )
        if isinstance(error, died):
            return _worker_died("the workers of Ray", error)
        return RunError(
            "Ray could not do its part",
            expected="workers that have this version of radvqa and see the same files",
            got="\n".join(str(error).splitlines()[-5:]) or type(error).__name__,
            fix="install the same packages on every machine of the cluster; without Ray this works on one machine",
        )


@dataclass(frozen=True, slots=True)
class _Raised:
    """What the function raised in a worker."""

    error: Exception


def _groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while some := list(islice(items, size)):
        yield some


def _done(function: Callable[[T], R], items: list[T]) -> list[R] | _Raised:
    return _guarded(lambda some: [function(item) for item in some], items)


def _guarded(function: Callable[[list[T]], list[R]], items: list[T]) -> list[R] | _Raised:
    try:
        return function(items)
    except Exception as error:  # noqa: BLE001 - raised again where the results are awaited
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        return _Raised(error)


class _Opened:
    """An actor that opens its function with the first group: what that raises is then told like any other error."""

    def __init__(self, opened: Callable[[], Callable[[list[Any]], list[Any]]]) -> None:
        self._opened = opened
        self._function: Callable[[list[Any]], list[Any]] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"results": [pickle.dumps(_guarded(self._answered, pickle.loads(each))) for each in batch["group"]]}

    def _answered(self, items: list[Any]) -> list[Any]:
        if self._function is None:
            self._function = self._opened()
        return self._function(items)


def _done_batch(function: Callable[[Any], Any], batch: dict[str, Any]) -> dict[str, Any]:
    return {"results": [pickle.dumps(_done(function, pickle.loads(content))) for content in batch["group"]]}


def _results(outcome: list[R] | _Raised) -> Iterator[R]:
    if isinstance(outcome, _Raised):
        raise outcome.error
    yield from outcome


def _worker_died(where: str, error: Exception) -> RunError:
    return RunError(
        "a worker process died before it was done",
        where=where,
        expected="workers that run to the end",
        got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
        fix="most often memory ran out: close other programs or use fewer workers, then start again",
    )


def _started_ray(workers: int | None, address: str | None) -> Any:
    # Ray reads these when it is imported: it is to report nothing home, and errors are told by radvqa.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RunError(
            "Ray is not installed",
            expected="the optional extra `ray`",
            got=str(error),
            fix="pip install 'radvqa[ray]', or do without Ray",
        ) from error
    if not ray.is_initialized():
        local = {"num_cpus": workers or int(cpu_count()), "include_dashboard": False} if address is None else {}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="error", **local)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise RunError(
                "Ray cannot be started or reached",
                where=address or "this machine",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                fix="check the cluster's address; without one, check free memory and space in the temporary folder",
            ) from error
    return ray
