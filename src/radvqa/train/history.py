"""What a stage tells of its training: a line for every update and every look."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from radvqa.records import unwritable, write_text

LOOKED_AT = "real"
"""The condition of a look whose accuracy decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """One source in one update.

    ``weight``: its planned share. ``loss``: mean in nats over its questions or tokens, None without rows. ``seen`` and
    ``epoch``: rows drawn and passes over the source when the update is done.
    """

    weight: float
    rows: int
    questions: int
    loss: float | None
    seen: int
    epoch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """One line of ``metrics.jsonl``. ``loss`` in nats, before the update; ``grad_norm`` before clipping."""

    update: int
    loss: float
    learning_rate: float
    grad_norm: float
    questions: int
    seconds: float
    sources: Mapping[str, SourceRecord]


@final
class History:
    """The lines of ``metrics.jsonl`` and ``watch.jsonl`` in a stage's folder.

    Lines behind the update ``last`` (written after the checkpoint, perhaps cut short by a kill) are removed.
    A process that does not ``write`` only remembers.
    """

    def __init__(self, folder: Path, *, last: int, write: bool = True) -> None:
        self._folder = folder
        self._write = write
        self.updates = [
            UpdateRecord(**{**line, "sources": {name: SourceRecord(**one) for name, one in line["sources"].items()}})
            for line in self._kept("metrics.jsonl", last)
        ]
        self.looks = self._kept("watch.jsonl", last)

    def add(self, record: UpdateRecord) -> None:
        """Note an update."""
        self.updates.append(record)
        self._append("metrics.jsonl", asdict(record))

    def look(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Note what was seen at an update, one line for each condition."""
        for line in lines:
            self.looks.append(dict(line))
            self._append("watch.jsonl", line)

    def best(self, *, until: int | None = None) -> int | None:
        """The update of the look with the highest accuracy on real images, the earliest of equals.

        ``until`` an update, or of all looks.
        """
        looks = {update: score for update, score in self._looks().items() if until is None or update <= until}
        return max(looks, key=lambda update: (looks[update], -update)) if looks else None

    def would_be_best(self, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a new look is better than all before."""
        now = [line["overall"] for line in lines if line["condition"] == LOOKED_AT]
        return bool(now) and now[0] > max(self._looks().values(), default=-1.0)

    def without_a_better_one(self) -> int:
        """How many looks there were since the best one."""
        best = self.best()
        return 0 if best is None else sum(update > best for update in self._looks())

    def recent_loss(self, window: int = 20) -> float:
        """Mean over the last updates."""
        last = [record.loss for record in self.updates[-window:]]
        return sum(last) / len(last)

    def _looks(self) -> dict[int, float]:
        return {line["update"]: line["overall"] for line in self.looks if line["condition"] == LOOKED_AT}

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        if not self._write:
            return
        path = self._folder / name
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(path, error) from error

    def _kept(self, name: str, last: int) -> list[dict[str, Any]]:
        path = self._folder / name
        if not path.is_file():
            return []
        kept = []
        for text in path.read_text(encoding="utf-8").split("\n"):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                break
            if line["update"] > last:
                break
            kept.append(line)
        if self._write:
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept
