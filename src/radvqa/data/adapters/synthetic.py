"""What ``radvqa synth`` wrote, read back as questions like those of any other data set."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from pydantic import TypeAdapter, ValidationError

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.tables import Row, RowError, items_of, read_json_lines, shown
from radvqa.errors import DataError
from radvqa.sample import SPLITS, Reject, Split, VqaSample

PAIRS = "pairs"
"""Folder of the tables inside the folder of a synthesis."""

REJECTED = "rejected_pairs.jsonl"
SUMMARY = "summary.json"
DECISIONS = "review/decisions.jsonl"

Dialogues = Literal["join", "leave", "drop"]
Review = Literal["apply", "ignore", "accepted"]
Screens = Literal["apply", "ignore"]

_SAMPLE = TypeAdapter(VqaSample)
_WEIGHT = {"accept": 0, "edit": 1, "reject": 2}


@final
class SyntheticDataset(DatasetAdapter):
    """The folder of a synthesis: pairs that a rule or language model wrote from captions, and that passed the screens.

    * A pair keeps split and group of its caption; ``synthetic`` is true.
    * A later turn of a dialogue is asked with the earlier turns in front of it (``dialogues: join``), as it stands
      (``leave``), or not at all (``drop``: a reject ``later_turn``). Where an earlier turn is left out, the later ones
      are rejects ``broken_dialogue``.
    * What reviewers rejected is a reject ``reviewer_rejected``, and what they edited is read as edited
      (``review: apply``); ``accepted`` reads only what a reviewer accepted or edited, ``ignore`` what the screens kept.
    * ``screens: ignore`` reads what the screens removed as well, for comparisons; ``size`` draws so many pairs of a
      split by a hash of their ids, the rest are rejects ``not_drawn``.
    * Licence, citation and homepage of an opened folder are those of the captions it was made from.
    """

    licence: ClassVar[str] = "that of the captions, and the terms of the model that wrote the questions"
    citation: ClassVar[str] = ""
    homepage: ClassVar[str] = ""

    def __init__(
        self,
        root: str,
        *,
        dialogues: Dialogues = "join",
        review: Review = "apply",
        screens: Screens = "apply",
        size: int | None = None,
    ) -> None:
        """Open the folder ``root``.

        Args:
            root: the folder that was written.
            dialogues: what becomes of later turns.
            review: whether decisions of reviewers count.
            screens: whether pairs that a screen removed are left out.
            size: at most so many pairs of a split, a later turn of a dialogue counting as one.

        Raises:
            DataError: it is no finished synthesis, or the decisions of reviewers cannot be read.
        """
        self.root = Path(root).expanduser()
        source = _source(self.root)
        # They differ from folder to folder, unlike those of other adapters.
        vars(self).update({name: str(source.get(name, "")) for name in ("licence", "citation", "homepage")})
        self._dialogues = dialogues
        self._review = review
        self._screens = screens
        self._size = size
        self._decided = {} if review == "ignore" else _decisions(self.root / DECISIONS)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with pairs and a summary of the synthesis."""
        try:
            return (root / PAIRS).is_dir() and (root / SUMMARY).is_file()
        except (OSError, ValueError):  # no right to look, or no possible name
            return False

    def splits(self) -> tuple[Split, ...]:
        """The splits that pairs were written for."""
        return tuple(split for split in SPLITS if self._table(split).is_file())

    def sources(self) -> tuple[Path, ...]:
        """The tables of pairs, and the decisions where they count."""
        tables = [self._table(split) for split in self.splits()]
        if self._screens == "ignore":
            tables.append(self.root / REJECTED)
        decisions = self.root / DECISIONS
        return (*tables, decisions) if self._review != "ignore" and decisions.is_file() else tuple(tables)

    def rows(self, split: Split) -> Iterator[Item]:
        """The pairs of one split in the order of their captions.

        Raises:
            DataError: the split is not there, or its table cannot be read.
        """
        if split not in self.splits():
            raise DataError(
                f"this synthesis has no split {split!r}",
                where=str(self.root),
                expected=", ".join(self.splits()),
                got=repr(split),
                fix="choose a split that is there, or add it to splits in the recipe of the synthesis",
            )
        earlier: dict[str, list[VqaSample]] = defaultdict(list)
        items = items_of(self._table_rows(split), lambda row: self._items(row, earlier))
        if self._size is None:
            yield from items
            return
        found = list(items)
        names = [one.sample_id for one in found if isinstance(one, VqaSample)]
        drawn = set(sorted(names, key=_drawing_order)[: self._size])
        for one in found:
            if isinstance(one, VqaSample) and one.sample_id not in drawn:
                detail = f"size: {self._size} draws other pairs"
                yield Reject(sample_id=one.sample_id, reason="not_drawn", where=str(self.root), detail=detail)
            else:
                yield one

    def _table_rows(self, split: Split) -> Iterator[Row]:
        if self._screens == "apply":
            yield from read_json_lines(self._table(split))
            return
        rows = list(read_json_lines(self._table(split)))
        rows += [row for row in read_json_lines(self.root / REJECTED) if _fields(row).get("split", split) == split]
        # Each turn of a dialogue behind the one before, wherever it was written.
        yield from sorted(rows, key=_turn_of)

    def _items(self, row: Row, earlier: dict[str, list[VqaSample]]) -> Iterator[Item]:
        sample = _sample(row)
        decided = self._decided.get(sample.sample_id)
        if decided is not None and decided["verdict"] == "reject":
            detail = f"rejected by a reviewer: {', '.join(decided.get('reasons', ())) or 'no reason given'}"
            yield Reject(sample_id=sample.sample_id, reason="reviewer_rejected", where=row.where, detail=detail)
            return
        if decided is None and self._review == "accepted":
            detail = "no reviewer has accepted it, and only accepted pairs were asked for"
            yield Reject(sample_id=sample.sample_id, reason="not_reviewed", where=row.where, detail=detail)
            return
        if decided is not None and decided["verdict"] == "edit":
            sample = replace(sample, question=str(decided["question"]), answers=(str(decided["answer"]),))
        yield from self._turn(sample, row, earlier)

    def _turn(self, sample: VqaSample, row: Row, earlier: dict[str, list[VqaSample]]) -> Iterator[Item]:
        if not sample.dialogue_id:
            yield sample
            return
        said = earlier[sample.dialogue_id]
        if sample.turn > 1 and self._dialogues == "drop":
            detail = f"turn {sample.turn} of a dialogue; only first turns were asked for"
            yield Reject(sample_id=sample.sample_id, reason="later_turn", where=row.where, detail=detail)
        elif sample.turn != len(said) + 1:
            detail = f"turn {sample.turn} of a dialogue of which an earlier turn is not read"
            yield Reject(sample_id=sample.sample_id, reason="broken_dialogue", where=row.where, detail=detail)
        else:
            before = history([one.question for one in said], [one.answers[0] for one in said])
            said.append(sample)
            yield replace(sample, question=before + sample.question) if self._dialogues == "join" else sample

    def _table(self, split: Split) -> Path:
        return self.root / PAIRS / f"{split}.jsonl"


ADAPTER = SyntheticDataset


def history(questions: Sequence[str], answers: Sequence[str]) -> str:
    """The earlier turns of a dialogue as they stand in front of the next question; empty before the first."""
    return "".join(f"{question} {answer}. " for question, answer in zip(questions, answers, strict=True))


def _drawing_order(sample_id: str) -> bytes:
    return hashlib.sha256(sample_id.encode()).digest()


def _fields(row: Row) -> dict[str, Any]:
    """What is under ``sample``; empty where it is no object, which reading the row tells."""
    fields = row.values.get("sample")
    return fields if isinstance(fields, dict) else {}


def _turn_of(row: Row) -> int:
    turn = _fields(row).get("turn")
    return turn if isinstance(turn, int) else 0


def _sample(row: Row) -> VqaSample:
    fields = _fields(row)
    if not fields:
        raise RowError("missing_key", f"'sample' should hold the question, got {shown(row.values.get('sample'))}")
    try:
        # In JSON mode, where the strict mode takes a list for a tuple but no number for text.
        sample: VqaSample = _SAMPLE.validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "sample"
        raise RowError("not_a_record", f"{name}: {first['msg']}, got {shown(first['input'])}") from error
    return sample


def _source(root: Path) -> dict[str, Any]:
    path = root / SUMMARY
    try:
        summary = json.loads(path.read_bytes())
        source = summary["captions"]["source"]
        if isinstance(source, dict) and (root / PAIRS).is_dir():
            return source
        problem = "no pairs or no source of the captions"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
    raise DataError(
        "this is no folder of a finished synthesis",
        where=str(path),
        expected="a folder that `radvqa synth` wrote to its end",
        got=problem,
        fix="run `radvqa synth RECIPE` again; it goes on where it stopped",
    )


def _decisions(path: Path) -> dict[str, dict[str, Any]]:
    """What holds for each pair that was reviewed: one reader's rejection counts more than another's acceptance.

    Of two edits the later one counts. A last line that a kill cut off is not there yet.
    """
    if not path.is_file():
        return {}
    by_reader: dict[tuple[str, str], dict[str, Any]] = {}
    rows = list(read_json_lines(path))
    if rows and rows[-1].broken is not None and not path.read_bytes().endswith(b"\n"):
        rows.pop()
    for row in rows:
        decision = dict(row.values)
        if decision.get("verdict") not in (*_WEIGHT, "withdraw") or not {"sample_id", "reader"} <= decision.keys():
            raise DataError(
                "a decision of a reviewer cannot be read",
                where=row.where,
                expected="sample_id, reader, and a verdict accept, edit, reject or withdraw",
                got=shown(row.values),
                fix="take this line out of the file, or open the review again with `radvqa synth review`",
            )
        key = str(decision["sample_id"]), str(decision["reader"])
        by_reader.pop(key, None)
        if decision["verdict"] != "withdraw":
            by_reader[key] = decision
    holding: dict[str, dict[str, Any]] = {}
    for (sample_id, _), decision in by_reader.items():
        before = holding.get(sample_id)
        if before is None or _WEIGHT[decision["verdict"]] >= _WEIGHT[before["verdict"]]:
            holding[sample_id] = decision
    return holding
