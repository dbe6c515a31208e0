"""Explaining questions of a JSON Lines file by the model of a run: a folder of bundles, and what was left out."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from radvqa.data.dicom import hounsfield_of
from radvqa.data.imaging import fit, open_content, read_picture_file
from radvqa.errors import DataError, ModelError, RadvqaError, RunError
from radvqa.explain.asked import answer_ids
from radvqa.explain.bundle import CaseLine, Manifest
from radvqa.explain.bundle_files import case_folder, case_key, read_bundle, read_cases, write_bundle, write_cases
from radvqa.explain.cases import ExplainedModel, case_line, explain_case, generated, kept_case, made_from
from radvqa.explain.map_settings import MapSettings
from radvqa.models.vlm import Vlm
from radvqa.pipeline.explanation import FULL_METHODS, Explanations, answers_of
from radvqa.pipeline.stage_model import explained_model
from radvqa.recipe import Recipe
from radvqa.records import write_records
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.sample import Reject, VqaSample

REJECTS_FILE = "rejects.jsonl"

_KEYS = {"image": True, "question": True, "answer": False, "sample_id": False}
"""Keys of a row and whether it needs them; all are texts."""

_SECONDS_BETWEEN_LISTS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchExplanations:
    """What came of a file: the cases, and the rows left out with their reasons (also in ``rejects.jsonl``)."""

    cases: Explanations
    rejects: tuple[Reject, ...]


def explain_batch(
    folder: RunFolder,
    open_trained: Callable[[], Vlm],
    *,
    questions: Path,
    output: Path,
    methods: Sequence[str] = FULL_METHODS,
    progress: Progress,
) -> BatchExplanations:
    """Answer and explain every row of ``questions``, and write ``cases.jsonl``, bundles and ``rejects.jsonl``.

    A row is ``{"image", "question", "answer"?, "sample_id"?}``; the image's path counts from the file's folder. With
    an answer the model's own is right or wrong, and a wrong one is explained together with it. A row that cannot be
    explained becomes a reject with its reason and stops nothing. A case of the same weights, question, picture and
    settings that holds these methods is kept. Cases of rows that were taken out of the file are removed.

    Args:
        folder: the run whose finished model answers.
        open_trained: gives that model.
        questions: the file.
        output: folder, made if needed; it may hold what an earlier start left.
        methods: names in ``radvqa.explain.methods.METHODS``.
        progress: told what goes on.

    Raises:
        DataError: there is no such file, or it holds no rows.
        RunError: the output folder holds something else or the cases of other questions, or cannot be written.
        ModelError: the model cannot be explained.
    """
    rows = [_Row.of(questions, number, line) for number, line in _lines(questions)]
    keys = {case_key(row.sample_id) for row in rows}
    _require_own(output)
    before = read_cases(output)
    _require_same_questions(output, before, keys)
    vlm = open_trained()
    model = explained_model(folder, vlm, len(folder.recipe.stages))
    batch = _Batch(output, vlm, model, folder.recipe, methods, before=[line for line in before if line.key in keys])
    listed = time.monotonic()
    with progress.track("explaining", len(rows), unit="questions") as tick:
        for row in rows:
            batch.add(row)
            tick(1)
            if time.monotonic() - listed > _SECONDS_BETWEEN_LISTS:
                batch.write()
                listed = time.monotonic()
    found = batch.write()
    removed = _remove_others(output, keys)
    if removed:
        progress.say(f"removed {removed} cases of rows that the file no longer has")
    return found


class _RowError(Exception):
    def __init__(self, reason: str, detail: str, *, malformed: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.malformed = reason, detail, malformed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A line of the file: its texts, or why it cannot be read. ``where`` and ``sample_id`` are there in any case."""

    where: str
    sample_id: str
    beside: Path
    texts: dict[str, str] | None = None
    error: _RowError | None = None

    @staticmethod
    def of(questions: Path, number: int, line: str) -> "_Row":
        where, name, beside = f"{questions.name}, line {number}", f"{questions.stem}-{number}", questions.parent
        try:
            texts = _checked(line)
        except _RowError as error:
            return _Row(where=where, sample_id=name, beside=beside, error=error)
        return _Row(where=where, sample_id=texts.get("sample_id") or name, beside=beside, texts=texts)

    def sample(self) -> VqaSample:
        """The row as a sample. Raises ``_RowError`` if it could not be read."""
        if self.texts is None:
            raise self.error or _RowError("not_json", "")
        answer = self.texts.get("answer")
        return VqaSample(
            sample_id=self.sample_id,
            image_id=self.texts["image"],
            image=self.beside / self.texts["image"],
            question=self.texts["question"],
            answers=() if answer is None else (answer,),
            answer_type="closed" if (answer or "").strip().lower() in ("yes", "no") else "open",
            answer_type_stated=False,
            group_id=self.texts["image"],
            split="test",
        )


@final
class _Batch:
    """``before``: cases of an earlier start, listed until their row has its turn."""

    def __init__(
        self,
        output: Path,
        vlm: Vlm,
        model: ExplainedModel,
        recipe: Recipe,
        methods: Sequence[str],
        *,
        before: Sequence[CaseLine],
    ) -> None:
        self.output, self.vlm, self.model, self.recipe, self.methods = output, vlm, model, recipe, tuple(methods)
        self.settings = MapSettings(alpha=recipe.explain.alpha)
        self.before = {line.key: line for line in before}
        self.lines: dict[str, CaseLine] = {}
        self.rejects: list[Reject] = []
        self.made = self.kept = 0
        self.empty: list[str] = []

    def add(self, row: _Row) -> None:
        """Explain one row, or note why it cannot be."""
        key = case_key(row.sample_id)
        try:
            if row.error is None and key in self.lines:
                raise _RowError("duplicate_sample_id", f"an earlier row is called {row.sample_id[:80]!r} too")
            manifest, is_new = self._case(row.sample())
        except _RowError as error:
            self.rejects.append(
                Reject(
                    sample_id=row.sample_id,
                    reason=error.reason,
                    where=row.where,
                    detail=error.detail,
                    malformed=error.malformed,
                )
            )
        else:
            self.made, self.kept = self.made + is_new, self.kept + (not is_new)
            self.lines[key] = case_line(manifest, group_id=manifest.image_id)
        self.before.pop(key, None)

    def write(self) -> BatchExplanations:
        """Write the lists as they are now."""
        write_cases(self.output, [*self.lines.values(), *self.before.values()])
        write_records(self.output / REJECTS_FILE, self.rejects)
        verdicts = [line.correct for line in self.lines.values()]
        return BatchExplanations(
            cases=Explanations(
                folder=self.output,
                made=self.made,
                kept=self.kept,
                right=verdicts.count(True),
                wrong=verdicts.count(False),
                empty=tuple(self.empty),
            ),
            rejects=tuple(self.rejects),
        )

    def _case(self, sample: VqaSample) -> tuple[Manifest, bool]:
        # Every other error of model or disk is no fault of the row, and stops the batch.
        with _left_out("unusable_text", DataError, ModelError):
            self.vlm.question(sample, answer=False)
            for text in sample.answers:
                answer_ids(self.vlm, text, where=sample.sample_id)
        with _left_out("unreadable_image", DataError):
            content = read_picture_file(sample.image)
        digest = made_from(
            sample,
            image_sha256=hashlib.sha256(content).hexdigest(),
            answer=None,
            model=self.model,
            regions=(),
        )
        folder = case_folder(self.output, case_key(sample.sample_id))
        manifest, methods = kept_case(folder, made_from=digest, methods=self.methods, settings=self.settings)
        if manifest is not None:
            return manifest, False
        aspect = self.recipe.model.aspect
        with _left_out("unreadable_image", DataError):
            image = open_content(content, sample.image)[0]
            values = hounsfield_of(sample.image, sample.image)
            pixels = fit(image, self.vlm.image_size, aspect=aspect)
        given = generated(self.vlm, sample, pixels, max_new_tokens=self.recipe.evaluate.max_new_tokens)
        if not given.token_ids or not given.text:
            self.empty.append(sample.sample_id)
            raise _RowError(
                "empty_answer", "the model's answer is empty: there is no token to explain", malformed=False
            )
        manifest, arrays = explain_case(
            self.vlm,
            sample,
            pixels,
            answers=answers_of(self.vlm, sample, given),
            model=self.model,
            methods=methods,
            settings=self.settings,
            aspect=aspect,
            image=image,
            values=values,
            made_from=digest,
        )
        return write_bundle(folder, manifest, arrays), True


@contextmanager
def _left_out(reason: str, *errors: type[RadvqaError]) -> Iterator[None]:
    """These errors leave the row out."""
    try:
        yield
    except errors as error:
        raise _RowError(reason, "; ".join(filter(None, (error.what, error.got)))) from error


def _lines(questions: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers; bytes that are no UTF-8 are kept to be told."""
    try:
        # Some editors begin a file with a byte order mark, which is no part of its first line.
        text = questions.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(
            "the questions cannot be read",
            where=str(questions),
            expected='JSON Lines of {"image", "question", "answer"?, "sample_id"?}',
            got=error.strerror or str(error),
            fix="check the path after --input",
        ) from error
    rows = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not rows:
        raise DataError("the file holds no questions", where=str(questions), fix="write one JSON object per line")
    return rows


def _checked(line: str) -> dict[str, str]:
    try:
        line.encode("utf-8")
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _RowError("not_json", f"the line is no JSON in UTF-8: {str(error)[:80]}") from error
    if not isinstance(row, dict):
        raise _RowError("not_an_object", f"expected an object, got {type(row).__name__}")
    if unknown := sorted(row.keys() - _KEYS.keys()):
        raise _RowError("unknown_key", f"expected {', '.join(_KEYS)}, got {unknown[0][:80]!r}")
    texts: dict[str, str] = {}
    for key, is_needed in _KEYS.items():
        value = row.get(key)
        if value is None and not is_needed:
            continue
        if not isinstance(value, str) or not value.strip():
            raise _RowError(f"no_{key}", f"{key} should be a text, got {str(value)[:40]!r}")
        texts[key] = value
    return texts


def _require_own(output: Path) -> None:
    """Refuse a folder with other things than an earlier start of a batch has left."""
    own = {"cases", "cases.jsonl", REJECTS_FILE}
    strangers: Iterator[str] = (entry.name for entry in output.iterdir()) if output.is_dir() else iter(())
    if other := sorted(name for name in strangers if name not in own and not name.startswith(".")):
        raise RunError(
            "the output folder holds something else",
            where=str(output),
            expected="a new folder, or one of an earlier start",
            got=", ".join(other[:5]),
            fix="choose another folder after --output",
        )


def _require_same_questions(output: Path, before: Sequence[CaseLine], keys: set[str]) -> None:
    """Refuse a folder whose cases are all of another file, since they would be removed."""
    if before and not any(line.key in keys for line in before):
        raise RunError(
            "the output folder holds cases of other questions",
            where=str(output),
            expected="a new folder, or one of an earlier start with this file",
            got=f"{len(before)} cases, the first called {before[0].sample_id[:80]!r}",
            fix="choose another folder after --output",
        )


def _remove_others(output: Path, keys: set[str]) -> int:
    """Take away cases whose row the file no longer has; how many."""
    count = 0
    for folder in sorted(case_folder(output, "x").parent.glob("*")):
        if folder.name in keys or not folder.is_dir():
            continue
        try:
            read_bundle(folder)
        except RunError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        count += 1
    return count
