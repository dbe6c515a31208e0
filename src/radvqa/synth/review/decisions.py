"""What readers decided: a file that only grows, one line per decision, safe against kills and shared by servers."""

import fcntl
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, final, get_args

from pydantic import TypeAdapter, ValidationError

from radvqa.errors import DataError, RecipeError, RunError

Judgement = Literal["accept", "edit", "reject"]
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)
Choice = Literal["accept", "edit", "reject", "withdraw"]
Fault = Literal[
    "wrong_answer",
    "not_visible",
    "needs_history",
    "leaks_answer",
    "badly_worded",
    "not_a_question",
    "wrong_image",
    "other",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

LONGEST_TEXT = 2000
"""Characters of a note, question or answer."""
LONGEST_SECONDS = 86_400.0

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_READER = re.compile(r"\w[\w.-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One verdict of one reader about one pair.

    ``verdict``: ``accept``, ``edit`` (right once the question or answer is put as given here), ``reject`` (with one or
    more ``reasons``; ``other`` needs a note), or ``withdraw``, which takes back the reader's verdict about the pair.
    ``question`` and ``answer`` are both as they should be, ``""`` unless the verdict is ``edit``. ``seconds`` is how
    long the pair was looked at. ``time`` is in UTC; ``sequence`` counts the lines of the file from 1; None and 0 before
    the decision is written.
    """

    sample_id: str
    reader: str
    verdict: Choice
    reasons: tuple[Fault, ...] = ()
    note: str = ""
    question: str = ""
    answer: str = ""
    seconds: float = 0.0
    time: datetime | None = None
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLog:
    """All decisions in their order. ``unfinished`` is 1 where a kill left half a line at the end, else 0."""

    decisions: tuple[Decision, ...] = ()
    unfinished: int = 0


@final
class DecisionFile:
    """The file ``decisions.jsonl``. Several processes may append to it; nothing that was written is ever changed.

    ``cut`` counts the unfinished last lines that this object has removed: what a killed process had begun to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut = 0

    def read(self) -> DecisionLog:
        """Every whole line; half a line at the end is counted and left alone.

        Raises:
            DataError: a line is no valid decision; names the line.
            RunError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                content = file.read()
        except FileNotFoundError:
            return DecisionLog()
        except OSError as error:
            raise RunError(
                "the decisions of the review cannot be read",
                where=str(self.path),
                expected="a file you may read",
                got=error.strerror or str(error),
                fix="check the file's permissions and the disk",
            ) from error
        finished = not content or content.endswith(b"\n")
        return DecisionLog(decisions=tuple(_parsed(content, self.path)), unfinished=int(not finished))

    def append(self, decision: Decision) -> Decision:
        """The decision as it was written: with its sequence and the time. It is on the disk when this returns.

        What equals the reader's last decision in all else is that one, sent again because the answer to it was lost: no
        new line is written.

        Raises:
            DataError: the decision is incomplete or contradicts itself, or an earlier line is no valid decision.
            RunError: the disk is full or the folder cannot be written; the file is then as it was.
        """
        if fault := decision_fault(decision):
            raise DataError("this is not a whole decision", where=decision.sample_id, got=fault, fix="decide again")
        with self._locked() as descriptor:
            length, earlier = self._cut_unfinished(descriptor)
            own = next((one for one in reversed(earlier) if one.reader == decision.reader), None)
            if own is not None and replace(own, sequence=decision.sequence, time=decision.time) == decision:
                os.fsync(descriptor)  # what wrote it may have been killed before its own
                return own
            now = datetime.now(UTC).replace(microsecond=0)
            written = replace(decision, sequence=len(earlier) + 1, time=now)
            values = asdict(written) | {"time": now.isoformat()}
            try:
                _write_all(descriptor, json.dumps(values, ensure_ascii=True).encode() + b"\n")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, length)
                raise
        return written

    def mend(self) -> int:
        """Remove half a line that a killed process left at the end, and return how many there were: 0 or 1.

        Raises:
            DataError, RunError: as ``append``.
        """
        before = self.cut
        if self.path.is_file():
            with self._locked() as descriptor:
                self._cut_unfinished(descriptor)
        return self.cut - before

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The open file, with other processes and threads kept out."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if new:
                    _sync_folder(self.path.parent)
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RunError(
                "the decision cannot be saved",
                where=str(self.path),
                expected="a writable folder with free space",
                got=error.strerror or str(error),
                fix="free some space or mend the folder's permissions; every decision saved before is intact",
            ) from error

    def _cut_unfinished(self, descriptor: int) -> tuple[int, list[Decision]]:
        """Length of the file and what stands in it, after half a line at its end was removed."""
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            content = file.read()
        length = content.rfind(b"\n") + 1
        if length < len(content):
            os.ftruncate(descriptor, length)
            self.cut += 1
        return length, list(_parsed(content, self.path))


def standing(decisions: Iterable[Decision]) -> Mapping[str, Mapping[str, Decision]]:
    """What stands of each pair: by sample id and reader, the last decision unless it was withdrawn."""
    found: dict[str, dict[str, Decision]] = {}
    for decision in decisions:
        readers = found.setdefault(decision.sample_id, {})
        readers.pop(decision.reader, None)
        if decision.verdict != "withdraw":
            readers[decision.reader] = decision
    return {sample_id: readers for sample_id, readers in found.items() if readers}


def reader_name(given: str) -> str:
    """The name as decisions carry it: without outer spaces and in lower case, so that one person is one reader.

    Raises:
        RecipeError: it is empty, longer than 40 characters, or holds something else than letters, digits, ``.-_``.
    """
    name = unicodedata.normalize("NFC", given).strip().casefold()
    if not _READER.fullmatch(name):
        raise RecipeError(
            "not a name for a reader",
            where="reader",
            expected="1 to 40 letters, digits, dots, dashes or underscores, such as dr-ito",
            got=repr(given[:60]),
            fix="choose initials or a short name without spaces",
        )
    return name


def decision_fault(decision: Decision) -> str:
    """What is wrong with a decision in itself, or ``""``."""
    edited = decision.question.strip() and decision.answer.strip()
    texts = (decision.note, decision.question, decision.answer)
    checks = (
        (not decision.sample_id or not decision.reader, "no pair or no reader"),
        (decision.verdict == "reject" and not decision.reasons, "a rejection without a reason"),
        (decision.verdict != "reject" and bool(decision.reasons), "reasons without a rejection"),
        (len(set(decision.reasons)) < len(decision.reasons), "a reason given twice"),
        ("other" in decision.reasons and not decision.note.strip(), "the reason 'other' without a note"),
        (decision.verdict == "edit" and not edited, "an edit without its question or answer"),
        (decision.verdict != "edit" and bool(decision.question or decision.answer), "an edited text without an edit"),
        (max(map(len, texts)) > LONGEST_TEXT, f"a text of more than {LONGEST_TEXT} characters"),
        (any(map(_HALF_A_PAIR.search, texts)), "a text with half a surrogate pair, which JSON cannot hold"),
        (not math.isfinite(decision.seconds), "seconds that are no number"),
        (not 0 <= decision.seconds <= LONGEST_SECONDS, f"seconds outside 0 to {LONGEST_SECONDS:.0f}"),
    )
    return next((text for wrong, text in checks if wrong), "")


_ADAPTER = TypeAdapter(Decision)


def _parsed(content: bytes, path: Path) -> Iterator[Decision]:
    """The decisions of the whole lines; what stands behind the last line end is left out."""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            decision = _ADAPTER.validate_json(line)
            fault = decision_fault(decision)
            if not fault and decision.sequence != number:
                fault = f"sequence {decision.sequence}: lines are missing, doubled or in another order"
            if not fault and (decision.time is None or decision.time.tzinfo is None):
                fault = "no time, or one without its zone"
        except ValidationError as error:
            first = error.errors()[0]
            fault = f"{'.'.join(map(str, first['loc'])) or 'whole line'}: {first['msg']}"
        if fault:
            raise DataError(
                "not a valid decision",
                where=f"{path}, line {number}",
                expected=f"the decision with sequence {number}",
                got=fault,
                fix="restore the file from a copy; it is only ever appended to, so an older copy is a beginning of it",
            )
        yield decision


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
