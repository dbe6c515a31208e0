"""What is shown: one series of explained cases per run and stage, read anew when its list changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from radvqa.errors import RadvqaError, RunError
from radvqa.explain.bundle import CaseLine
from radvqa.explain.bundle_files import CASES_FILE, MANIFEST_FILE, Bundle, case_folder, read_bundle, read_cases
from radvqa.explain.failures import Failure, find_failures, notes_on
from radvqa.run.folder import RECIPE_FILE

EXPLAINED = "explain"
STAGE = "stage-"
_BASE = "base"
_MODEL_FACTS = ("name", "run", "stage", "weights", "dtype", "decoding", "layers", "heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The cases of a series at one moment. ``failures`` are sorted; ``of_case`` has those of each key."""

    lines: tuple[CaseLine, ...]
    places: Mapping[str, int]
    failures: tuple[Failure, ...]
    of_case: Mapping[str, tuple[Failure, ...]]
    notes: tuple[str, ...]
    stamp: str

    def line(self, key: str) -> CaseLine | None:
        """The case of that key."""
        place = self.places.get(key)
        return None if place is None else self.lines[place]


@final
class Series:
    """The explained cases of one run and stage, or of one folder of bundles.

    ``run`` and ``stage`` are names, never paths; ``source`` is the folder that was given and stays on this side.
    ``model`` is the name of the first case that can be read, ``""`` where none can.
    """

    def __init__(self, number: int, *, source: Path, explained: Path, stage: str) -> None:
        self.id = f"s{number}"
        self.source, self.explained = source, explained
        self.run, self.stage = source.resolve().name, stage
        self._listing: Listing | None = None
        lines = self.listing().lines
        if not lines:
            raise _no_cases(source, explained, "an empty list")
        self.model = self._named_model(lines)

    @property
    def is_run(self) -> bool:
        """Whether the source is a run folder, whose model can be loaded."""
        return (self.source / RECIPE_FILE).is_file()

    @property
    def name(self) -> str:
        """Run and stage in words."""
        return f"{self.run}, {self.stage}" if self.stage else self.run

    def facts(self) -> dict[str, str]:
        """What the page knows of the series."""
        return {"id": self.id, "run": self.run, "stage": self.stage, "model": self.model}

    def listing(self) -> Listing:
        """The cases that are there now.

        Raises:
            DataError: a line of the list is not valid.
            RunError: a line leads to another folder.
        """
        stamp = stamp_of(self.explained / CASES_FILE)
        if self._listing is None or self._listing.stamp != stamp:
            self._listing = _read(self.explained, stamp)
        return self._listing

    def bundle(self, key: str) -> Bundle:
        """The case of that key. Raises ``RunError`` if it is missing or damaged."""
        return read_bundle(case_folder(self.explained, key))

    def stamp(self, key: str) -> str:
        """What changes with the files of a case, without reading them; ``""`` for a case that is not listed."""
        if self.listing().line(key) is None:
            return ""
        return stamp_of(case_folder(self.explained, key) / MANIFEST_FILE)

    def shares(self, other: "Series", key: str) -> bool:
        """Whether both have that case on one picture. Samples of two data sets may share a name."""
        own, theirs = self.listing().line(key), other.listing().line(key)
        return own is not None and theirs is not None and own.image_id == theirs.image_id

    def _named_model(self, lines: Sequence[CaseLine]) -> str:
        for line in lines:
            try:
                return str(self.bundle(line.key).manifest.model.get("name", ""))
            except RadvqaError:
                continue  # told when that case is opened; the others can be looked at
        return ""


def open_series(sources: Sequence[Path]) -> list[Series]:
    """The series of runs and of folders of bundles: each run's finished model first, then its stages.

    Raises:
        RunError: a source is no such folder or has no explained cases yet.
        DataError: a list of cases is not valid.
    """
    found: list[Series] = []
    for source in dict.fromkeys(path.resolve() for path in sources):
        for explained, stage in _explained(source):
            found.append(Series(len(found), source=source, explained=explained, stage=stage))
    return found


def shown_model(facts: Mapping[str, object]) -> dict[str, object]:
    """What a page may know of the model: no folders of this machine."""
    return {name: facts[name] for name in _MODEL_FACTS if name in facts}


def _explained(source: Path) -> list[tuple[Path, str]]:
    explained = source / EXPLAINED
    found = [(folder, "") for folder in (source, explained) if (folder / CASES_FILE).is_file()]
    stages = [path for path in explained.glob(f"{STAGE}*") if (path / CASES_FILE).is_file()]
    order = sorted(stages, key=lambda path: (path.name != STAGE + _BASE, path.name))
    found += [(path, path.name.removeprefix(STAGE)) for path in order]
    if not found:
        raise _no_cases(source, explained, _what_is(source))
    return found


def _what_is(source: Path) -> str:
    if (source / RECIPE_FILE).is_file():
        return "a run without them"
    return "another folder" if source.is_dir() else "a file" if source.exists() else "no such folder"


def _no_cases(source: Path, explained: Path, got: str) -> RunError:
    run = (source / RECIPE_FILE).is_file()
    return RunError(
        "there are no explained cases to show",
        where=str(source),
        expected=f"{explained.name}/{CASES_FILE} of a run, or {CASES_FILE} of a folder that was explained into",
        got=got,
        fix=f"radvqa explain {source}" if run else "name a run (`radvqa list runs`), and explain it first",
    )


def _read(explained: Path, stamp: str) -> Listing:
    lines = tuple(read_cases(explained))
    failures = tuple(find_failures(lines))
    of_case: dict[str, tuple[Failure, ...]] = {}
    for failure in failures:
        of_case[failure.key] = (*of_case.get(failure.key, ()), failure)
    return Listing(
        lines=lines,
        places={line.key: place for place, line in enumerate(lines)},
        failures=failures,
        of_case=of_case,
        notes=tuple(notes_on(lines)),
        stamp=stamp,
    )


def stamp_of(path: Path) -> str:
    """What changes when a file does; ``none`` where there is no file."""
    try:
        facts = path.stat()
    except OSError:
        return "none"
    return f"{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}"
