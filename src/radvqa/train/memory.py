"""Memory: how many rows fit into a forward and backward pass, and what to say when they did not."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped, unused-ignore]
import torch

from radvqa.errors import TrainError

USED_SHARE = 0.8
"""Of the free memory; the rest is for what grows later: longer rows, fragments, other processes."""

_SIGNS = ("can't allocate memory", "out of memory", "not enough memory")
"""In the messages of torch's CPU allocator and of older CUDA calls, which are plain RuntimeErrors."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or NumPy could not allocate memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def out_of_memory(
    error: BaseException, *, doing: str, micro_batch_size: int, gradient_checkpointing: bool
) -> TrainError | None:
    """What to tell the user when memory ran out; None for any other error.

    Args:
        error: what was raised.
        doing: what was tried, such as ``update 12``.
        micro_batch_size: rows of the pass.
        gradient_checkpointing: whether the stage already saves memory that way.
    """
    if not is_out_of_memory(error):
        return None
    fixes = []
    if micro_batch_size > 1:
        fixes.append(f"micro_batch_size: {micro_batch_size // 2} or auto: the same results")
    if not gradient_checkpointing:
        fixes.append("gradient_checkpointing: true: the same results")
    fixes.append("fewer questions_per_image in the shared-image layout, or model.dtype: bfloat16")
    return TrainError(
        f"memory ran out at {doing}",
        expected=f"room for a forward and backward pass of {micro_batch_size} rows",
        got=(str(error).splitlines() or [type(error).__name__])[0],
        fix="; ".join(fixes) + " (a changed recipe is a run of its own); the last checkpoint of this one is intact",
    )


def fitting_micro_batch(measure: Callable[[int], int], rows: int, free: int) -> int:
    """The largest of 1, 2, 4, … and ``rows`` whose peak fits into four fifths of the free memory.

    The size is doubled as long as a straight line through the last two peaks says that the next one fits, and each
    step is measured, so that nothing much larger than what fits is ever run.

    Args:
        measure: peak of a pass of so many rows, in bytes beyond what is held before; the longest rows, so that
            every later pass fits as well.
        rows: rows of an update.
        free: bytes.

    Raises:
        TrainError: not even one row fits.
    """
    budget = USED_SHARE * free
    size, peak = 1, _measured(measure, 1)
    if peak is None or peak > budget:
        raise TrainError(
            "not even one row fits into memory",
            expected=f"at most {budget / 2**20:,.0f} MiB, {USED_SHARE:.0%} of what is free",
            got="memory ran out" if peak is None else f"{peak / 2**20:,.0f} MiB",
            fix="gradient_checkpointing: true, fewer questions_per_image, model.dtype: bfloat16, or a larger machine",
        )
    per_row = 0.0
    while size < rows:
        larger = min(2 * size, rows)
        if peak + per_row * (larger - size) > budget:
            return size
        larger_peak = _measured(measure, larger)
        if larger_peak is None or larger_peak > budget:
            return size
        per_row = (larger_peak - peak) / (larger - size)
        size, peak = larger, larger_peak
    return size


def _measured(measure: Callable[[int], int], size: int) -> int | None:
    """The peak, or None when memory ran out."""
    try:
        return measure(size)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that ``work`` holds at one time, beyond those that are there before.

    On a GPU the allocator counts. On a CPU every allocation of torch is recorded and added up, which unlike the size of
    the process does not depend on what its heap still holds from earlier work; buffers inside of kernels are left out.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with (
        _quiet_profiler(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        work()
    recorder = profile.profiler
    assert recorder is not None
    assert recorder.kineto_results is not None
    changes = [(one.start_ns(), one.nbytes()) for one in recorder.kineto_results.events() if one.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(changes, key=lambda one: one[0]):
        held += change
        most = max(most, held)
    return most


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """The profiler's library writes its start and stop to the terminal."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = before or "6"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def free_bytes(device: torch.device) -> int:
    """Memory that tensors can still take: of the GPU, or of the machine and the process's control groups (Linux)."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    machine: int = psutil.virtual_memory().available
    return min([machine, *_left_in_control_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _left_in_control_groups(membership: Path, mount: Path) -> Iterator[int]:
    """Bytes left below the limit of each memory control group the process is in, parents included; versions 1 and 2.

    Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the Linux kernel. Cached file pages that
    were not used lately count as free: the kernel drops them before it kills.
    """
    try:
        lines = membership.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, place = line.split(":", 2)
        if number == "0":
            root, names = mount, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = mount / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / place.lstrip("/")
        # Inside a container the group's own folder is often mounted as the root, and the stated path does not exist.
        for folder in [one for one in (group, *group.parents) if one == root or root in one.parents]:
            left = _left(folder, *names)
            if left is not None:
                yield left


def _left(folder: Path, limit: str, used: str, reclaimable: str) -> int | None:
    """Bytes below the group's limit, None where there is no limit."""
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        if not most.isdigit():
            return None
        taken = int((folder / used).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    return max(0, int(most) - taken + int(stat.get(reclaimable, 0)))
