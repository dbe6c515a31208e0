"""Where a result comes from: code, packages, machine, files. Enough to make it again, or to see why it differs."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from radvqa.errors import DataError

_PACKAGE = Path(__file__).resolve().parents[1]


def collect_provenance(*, files: Sequence[Path], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Code version, packages, machine, file hashes and time, ready for ``write_json``.

    ``packages`` lists the declared dependencies, None for one that is not installed. For the rest see
    ``process_start``.

    Args:
        files: hashed with SHA-256.
        extra: put beside the other entries, e.g. seeds and the device.

    Raises:
        DataError: one of ``files`` is missing or cannot be read.
    """
    return {
        "radvqa": _version("radvqa"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": {"machine": os.cpu_count(), "usable": _usable_cores()},
        "packages": {name: _version(name) for name in core_dependencies()},
        "files": digest_files(files),
        **process_start(),
        **extra,
    }


@cache
def process_start() -> dict[str, Any]:
    """Time, command and code of this process as they were when first asked for; later edits on disk do not count.

    ``git`` is None unless radvqa runs from a checkout of its own repository.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "argv": list(sys.argv),
        "git": git_state(_PACKAGE),
    }


def digest_files(files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 in hex of each file, by its path.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    digests = {}
    for path in files:
        try:
            with path.open("rb") as file:
                digests[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(
                "a file cannot be read for its hash",
                where=str(path),
                got=error.strerror or str(error),
                fix="check the path and its rights",
            ) from error
    return digests


def core_dependencies() -> tuple[str, ...]:
    """Names of the packages that radvqa declares to need, extras left out; ``()`` if radvqa is not installed."""
    try:
        requirements = importlib.metadata.requires("radvqa") or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements if "extra ==" not in requirement)
    return tuple(name.group() for name in names if name is not None)


def git_state(package: Path) -> dict[str, Any] | None:
    """Commit, whether the code differs from it, and a hash of the differences; None outside a checkout.

    Only ``src/`` and ``pyproject.toml`` count: data and runs kept in the checkout change no code. The hash covers the
    diff of tracked files and path and content of untracked ones; it is None for a clean checkout. ``commit`` is None
    before the first commit, and the hash then covers all files.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    # An environment inside some other repository must not report that repository's commit.
    if top is None or Path(os.fsdecode(top).strip()) / "src" / "radvqa" != package:
        return None
    root = Path(os.fsdecode(top).strip())
    code = ("--", "src", "pyproject.toml")
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git(root, "diff", "--binary", "HEAD", *code) if commit else b""
    untracked = _git(
        root, "ls-files", "-z", "--others", "--exclude-standard", *(() if commit else ("--cached",)), *code
    )
    if changes is None or untracked is None:
        return None
    digest = hashlib.sha256(changes)
    names = sorted(name for name in untracked.split(b"\0") if name)
    for name in names:
        path = root / os.fsdecode(name)
        digest.update(name + b"\0" + hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    dirty = bool(changes or names)
    return {
        "commit": commit.decode().strip() if commit else None,
        "dirty": dirty,
        "diff_sha256": digest.hexdigest() if dirty else None,
    }


def cpu_model() -> str:
    """The processor's name as the system states it; empty where it does not."""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor()


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Output of a reading git command; None if git is absent or refuses."""
    # GIT_DIR and the like would point git at another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            env=environment,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
