"""Memory and disk of this machine, found without torch."""

import os
import shutil
import subprocess
from pathlib import Path

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_here() -> tuple[int, str]:
    """Bytes of the memory a model would be in, and whose it is: the first GPU's, else this machine's."""
    gpu = _gpu_memory()
    return (gpu, "the GPU here") if gpu else (_main_memory(), "this machine")


def _gpu_memory() -> int | None:
    """Of the first GPU that NVIDIA's driver tells of; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.split()
        return int(told[0]) * 2**20
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def _main_memory() -> int:
    """What is built in, or less where this process is in a container with a limit."""
    built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _CGROUP_LIMITS:
        try:
            return min(built_in, int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return built_in


def place_of(folder: Path) -> tuple[int, int]:
    """Number of the file system that a folder is or will be on, and its free bytes."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return existing.stat().st_dev, shutil.disk_usage(existing).free
