"""The run folder: one recipe, everything made from it, and what is finished.

::

    runs/<name>_<digest>/
      recipe.yaml     the resolved recipe: every default written out; its first line names the version of radvqa
      command.txt     one line per start: time and command
      .done/          one mark per finished step, with the digests of what the step was made from
      .lock           held while a process works in the folder; freed by the system when that process ends
"""

import fcntl
import importlib.metadata
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar, Generic, Self, TypeVar, cast, final

import yaml

from radvqa.errors import RadvqaError, RecipeError, RunError
from radvqa.recipe import Recipe, StoredRecipe, SynthRecipe, parse_recipe, parse_synth_recipe, parse_yaml
from radvqa.records import unwritable, write_json, write_text

RECIPE_FILE = "recipe.yaml"
COMMAND_FILE = "command.txt"
_DONE, _LOCK = ".done", ".lock"
_VERSION_LINE = "# radvqa "

R = TypeVar("R", bound=StoredRecipe)

# Open lock files of this process by folder. A lock lives as long as its open file, so the files are kept here.
_LOCKS: dict[Path, BinaryIO] = {}


class RecipeFolder(ABC, Generic[R]):
    """A folder that belongs to exactly one recipe. Make it with ``create`` or ``open``.

    ``of_captions``: whether its recipes are those of a synthesis.
    """

    of_captions: ClassVar[bool]

    @final
    def __init__(self, path: Path, recipe: R) -> None:
        self.path = path
        self.recipe = recipe

    @staticmethod
    @abstractmethod
    def parse(values: Mapping[str, Any], *, where: str) -> R:
        """The recipe from plain values. Raises ``RecipeError``."""

    @classmethod
    def create(cls, recipe: R, *, command: str) -> Self:
        """The locked folder ``<output>/<name>_<digest>``, made now or re-opened after an earlier start.

        The name holds no date, so the same command after a kill finds its folder and goes on there; a changed recipe
        or another version of radvqa has another digest and thereby another folder.

        Args:
            recipe: what the folder is for.
            command: as typed; noted with the time in ``command.txt``.

        Raises:
            RunError: the output folder is full, read-only or no folder; another process works in the run folder; the
                folder holds another recipe or something that is no run.
        """
        path = recipe.output / f"{recipe.name}_{recipe.digest()}"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        run = cls(path, recipe)
        run.lock()
        if (path / RECIPE_FILE).is_file():
            cls._require_same_recipe(path, recipe)
        elif strangers := [entry.name for entry in path.iterdir() if entry.name != _LOCK]:
            raise RunError(
                "the folder for this run holds something else",
                where=str(path),
                expected=f"{RECIPE_FILE}, or an empty folder",
                got=", ".join(sorted(strangers)[:5]),
                fix="move it away, or choose another folder with --set output=DIR",
            )
        else:
            resolved = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True, width=120)
            write_text(path / RECIPE_FILE, f"{_VERSION_LINE}{importlib.metadata.version('radvqa')}\n{resolved}")
        run.note_command(command)
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run in an existing folder, for reading; call ``lock`` before writing.

        Raises:
            RunError: it is no run folder, or its recipe cannot be read.
        """
        if not (path / RECIPE_FILE).is_file():
            raise RunError(
                "not a run folder",
                where=str(path),
                expected=f"a folder with {RECIPE_FILE}",
                got="a folder without it" if path.is_dir() else "a file" if path.exists() else "no such folder",
                fix="see `radvqa list runs`",
            )
        if _asks_about_captions(path / RECIPE_FILE) != cls.of_captions:
            synthesis = "a synthesis: look at its report.html, or `radvqa synth review` it"
            raise RunError(
                f"this folder belongs to {'a run' if cls.of_captions else 'a synthesis'}",
                where=str(path),
                expected="the folder of a synthesis" if cls.of_captions else "the folder of a run",
                got="a run: see `radvqa show`" if cls.of_captions else synthesis,
                fix="name another folder; see `radvqa list runs`",
            )
        return cls(path, cls._stored_recipe(path))

    @property
    def digest(self) -> str:
        """The digest in the folder's name, which is that of the recipe under the version that made the folder."""
        return self.path.resolve().name.rpartition("_")[2]

    def require_same_version(self) -> None:
        """Refuse to go on with training that another version of radvqa began.

        Raises:
            RunError: the folder was made by another version.
        """
        first = (self.path / RECIPE_FILE).read_text(encoding="utf-8").partition("\n")[0]
        made_by, installed = first.removeprefix(_VERSION_LINE), importlib.metadata.version("radvqa")
        if first.startswith(_VERSION_LINE) and made_by != installed:
            raise RunError(
                "another version of radvqa began this training",
                where=str(self.path),
                expected=f"radvqa {installed}",
                got=f"radvqa {made_by}",
                fix=f"install that version to go on, or start anew with `radvqa run {self.path / RECIPE_FILE}`",
            )

    def file(self, name: str) -> Path:
        """The path of a file in the folder, e.g. ``predictions/val.jsonl``; it need not exist."""
        return self.path / _inside(name)

    def lock(self) -> None:
        """Keep other processes out until this one ends, however it ends, and clear away half-written files.

        Raises:
            RunError: another process holds the lock, or the folder cannot be written.
        """
        key = self.path.resolve()
        if key in _LOCKS:
            return
        lock_path = self.path / _LOCK
        try:
            # Unbuffered: on a full disk a buffer would fail a second time when the file is closed.
            file = cast(BinaryIO, lock_path.open("a+b", buffering=0))
        except OSError as error:
            raise unwritable(lock_path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().decode().strip()
            file.close()
            raise RunError(
                "another process works in this run folder",
                where=str(self.path),
                got=f"process {holder}" if holder else None,
                fix="wait until it ends, or stop it; its work is kept",
            ) from error
        except OSError as error:
            file.close()
            raise unwritable(lock_path, error) from error
        _LOCKS[key] = file
        try:
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            _remove_partials(self.path)
        except OSError as error:
            self.unlock()
            raise unwritable(self.path, error) from error

    def unlock(self) -> None:
        """Let other processes in again before this one ends."""
        file = _LOCKS.pop(self.path.resolve(), None)
        if file is not None:
            file.close()

    def note_command(self, command: str) -> None:
        """Add a line with the time and ``command`` to ``command.txt``. Raises ``RunError`` if it cannot be written."""
        path = self.path / COMMAND_FILE
        line = f"{_now()}  {' '.join(command.splitlines())}\n"
        write_text(path, (path.read_text(encoding="utf-8") if path.is_file() else "") + line)

    def commands(self) -> tuple[str, ...]:
        """The lines of ``command.txt``, oldest first."""
        path = self.path / COMMAND_FILE
        return tuple(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()

    def mark_done(self, step: str, inputs: Mapping[str, str]) -> None:
        """Note that ``step`` is complete and was made from ``inputs`` (name to digest).

        Write the results of the step first: the mark vouches for them. Raises ``RunError`` if it cannot be written.
        """
        write_json(self._mark(step), {"step": step, "inputs": dict(inputs), "time": _now()})

    def is_done(self, step: str, inputs: Mapping[str, str]) -> bool:
        """Whether ``step`` is complete and was made from just these ``inputs``.

        Raises:
            RunError: the mark is damaged.
        """
        path = self._mark(step)
        return path.is_file() and _read_mark(path)["inputs"] == dict(inputs)

    def inputs_of(self, step: str) -> dict[str, str]:
        """What a finished ``step`` was made from (name to digest); empty if it is not finished.

        Raises:
            RunError: the mark is damaged.
        """
        path = self._mark(step)
        return dict(_read_mark(path)["inputs"]) if path.is_file() else {}

    def forget(self, step: str) -> None:
        """Take the done mark of ``step`` away, so that it is done again."""
        path = self._mark(step)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error

    def done_steps(self) -> tuple[str, ...]:
        """Names of the finished steps in the order they were finished.

        Raises:
            RunError: a mark is damaged.
        """
        marks = [_read_mark(path) for path in (self.path / _DONE).rglob("[!.]*.json")]
        return tuple(mark["step"] for mark in sorted(marks, key=lambda mark: (mark["time"], mark["step"])))

    def _mark(self, step: str) -> Path:
        inside = _inside(step)
        return self.path / _DONE / inside.with_name(f"{inside.name}.json")

    @classmethod
    def _stored_recipe(cls, path: Path) -> R:
        stored = path / RECIPE_FILE
        try:
            values = parse_yaml(stored.read_text(encoding="utf-8"), where=str(stored))
            if not isinstance(values, dict):
                raise RecipeError("recipe is not a mapping", where=str(stored))
            return cls.parse(values, where=str(stored))
        except (RecipeError, UnicodeDecodeError) as error:
            raise RunError(
                "the recipe kept in the run folder cannot be read",
                where=str(stored),
                got=" ".join(str(error).split()),
                fix="put back the recipe that was written there, or move the folder away and run the recipe again",
            ) from error

    @classmethod
    def _require_same_recipe(cls, path: Path, recipe: R) -> None:
        stored = cls._stored_recipe(path).digest()
        if stored != recipe.digest():
            raise RunError(
                "the run folder holds another recipe than its name says",
                where=str(path / RECIPE_FILE),
                expected=f"digest {recipe.digest()}",
                got=f"digest {stored}",
                fix="put back the recipe that was written there, or move the folder away; it must not be edited",
            )


@final
class RunFolder(RecipeFolder[Recipe]):
    """The folder of a run: training, evaluation, explanation."""

    of_captions: ClassVar[bool] = False

    @staticmethod
    def parse(values: Mapping[str, Any], *, where: str) -> Recipe:
        """The recipe of a run. Raises ``RecipeError``."""
        return parse_recipe(values, where=where)


@final
class SynthFolder(RecipeFolder[SynthRecipe]):
    """The folder of a synthesis."""

    of_captions: ClassVar[bool] = True

    @staticmethod
    def parse(values: Mapping[str, Any], *, where: str) -> SynthRecipe:
        """The recipe of a synthesis. Raises ``RecipeError``."""
        return parse_synth_recipe(values, where=where)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """One line of ``radvqa list runs``. ``problem`` says why a run cannot be read; its other fields are then empty."""

    path: Path
    name: str = ""
    started: str = ""
    done: tuple[str, ...] = ()
    problem: str | None = None


def list_runs(output: Path) -> list[RunEntry]:
    """The runs under ``output``, the latest started first; damaged ones, named with their problem, at the end.

    Raises:
        RunError: there is no such folder.
    """
    if not output.is_dir():
        raise RunError(
            "no folder of runs here",
            where=str(output),
            got="a file" if output.exists() else "no such folder",
            fix="make a run first (`radvqa run RECIPE`), or name the folder with --folder",
        )
    entries = [_entry(path.parent) for path in sorted(output.glob(f"*/{RECIPE_FILE}"))]
    return sorted(entries, key=lambda entry: entry.started, reverse=True)


def open_folder(path: Path) -> RunFolder | SynthFolder:
    """The run or synthesis in a folder, whichever its recipe is of. Raises ``RunError`` like ``RecipeFolder.open``."""
    try:
        return SynthFolder.open(path) if _asks_about_captions(path / RECIPE_FILE) else RunFolder.open(path)
    except OSError as error:
        raise RunError("the recipe of a folder cannot be read", where=str(path), got=error.strerror) from error


def _asks_about_captions(recipe: Path) -> bool:
    """Whether the stored recipe is that of a synthesis: the key ``captions`` is in no other."""
    return recipe.is_file() and b"\ncaptions:" in recipe.read_bytes()


def _entry(path: Path) -> RunEntry:
    try:
        run = open_folder(path)
        done = run.done_steps()
    except RadvqaError as error:
        return RunEntry(path=path, problem=error.what)
    first = run.commands()[:1]
    return RunEntry(path=path, name=run.recipe.name, started=first[0].split()[0] if first else "", done=done)


def _read_mark(path: Path) -> dict[str, Any]:
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
        if {"step", "inputs", "time"} <= mark.keys() and isinstance(mark["inputs"], dict):
            return dict(mark)
        got = ", ".join(mark)
    except (ValueError, AttributeError) as error:
        got = str(error)
    raise RunError(
        "a done mark is damaged", where=str(path), expected="step, inputs and time", got=got, fix="delete this file"
    )


def _inside(name: str) -> PurePosixPath:
    relative = PurePosixPath(name)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"{name!r} is no path inside a run folder")
    return relative


def _remove_partials(folder: Path) -> None:
    """Remove what a killed process left half-written. Only safe under the lock."""
    for leftover in list(folder.rglob(".*.partial")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
