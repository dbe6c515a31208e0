"""Explaining questions of a JSON Lines file by the model of a run: a folder of bundles, and what was left out."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from radvqa.data.dicom import hounsfield_of
from radvqa.data.imaging import fit, open_content, read_picture_file
from radvqa.errors import DataError, ModelError, RunError
from radvqa.explain.bundle import CaseLine, Manifest
from radvqa.explain.bundle_files import case_folder, case_key, kept_case, write_bundle, write_cases
from radvqa.explain.cases import ExplainedModel, case_line, explain_case, generated, made_from
from radvqa.explain.maps import MapSettings
from radvqa.models.vlm import Vlm
from radvqa.pipeline.explanation import FULL_METHODS, Explanations, answers_of
from radvqa.pipeline.stage_model import stage_weights
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
    explained becomes a reject with its reason and stops nothing. A case of the same weights, methods, question and
    picture is kept.

    Args:
        folder: the run whose finished model answers.
        open_trained: gives that model.
        questions: the file.
        output: folder, made if needed; it may hold what an earlier start left.
        methods: names in ``radvqa.explain.methods.METHODS``.
        progress: told what goes on.

    Raises:
        DataError: there is no such file, or it holds no rows.
        RunError: the output folder holds something else, or cannot be written.
    """
    rows = _rows(questions)
    _require_own(output)
    vlm = open_trained()
    recipe = folder.recipe
    model = ExplainedModel(
        name=vlm.name,
        weights=stage_weights(folder, vlm, len(recipe.stages)),
        run=folder.path.resolve().name,
        decoding=f"greedy, at most {recipe.evaluate.max_new_tokens} new tokens",
    )
    batch = _Batch(output, vlm, model, recipe, methods)
    listed = time.monotonic()
    with progress.track("explaining", len(rows), unit="questions") as tick:
        for number, line in rows:
            batch.add(
                line,
                where=f"{questions.name}, line {number}",
                default_id=f"{questions.stem}-{number}",
                beside=questions.parent,
            )
            tick(1)
            if time.monotonic() - listed > _SECONDS_BETWEEN_LISTS:
                batch.write()
                listed = time.monotonic()
    return batch.write()


class _RowError(Exception):
    def __init__(self, reason: str, detail: str, *, malformed: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.malformed = reason, detail, malformed


@final
class _Batch:
    def __init__(self, output: Path, vlm: Vlm, model: ExplainedModel, recipe: Recipe, methods: Sequence[str]) -> None:
        self.output, self.vlm, self.model, self.recipe, self.methods = output, vlm, model, recipe, tuple(methods)
        self.settings = MapSettings(alpha=recipe.explain.alpha)
        self.lines: dict[str, CaseLine] = {}
        self.rejects: list[Reject] = []
        self.made = self.kept = 0
        self.empty: list[str] = []

    def add(self, line: str, *, where: str, default_id: str, beside: Path) -> None:
        """Explain one row, or note why it cannot be."""
        sample_id = default_id
        try:
            row = _checked(line)
            sample_id = row.get("sample_id") or default_id
            if case_key(sample_id) in self.lines:
                raise _RowError("duplicate_sample_id", f"an earlier row is called {sample_id[:80]!r} too")
            manifest, is_new = self._case(_sample(row, sample_id, beside))
        except _RowError as error:
            self._reject(sample_id, error.reason, where, error.detail, malformed=error.malformed)
        except DataError as error:
            self._reject(sample_id, "unreadable_image", where, "; ".join(filter(None, (error.what, error.got))))
        except ModelError as error:
            self._reject(sample_id, "unusable_text", where, "; ".join(filter(None, (error.what, error.got))))
        else:
            self.made, self.kept = self.made + is_new, self.kept + (not is_new)
            self.lines[manifest.key] = case_line(manifest, group_id=manifest.image_id)

    def write(self) -> BatchExplanations:
        """Write the lists as they are now."""
        write_cases(self.output, list(self.lines.values()))
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
        content = read_picture_file(sample.image)
        digest = made_from(
            sample,
            image_sha256=hashlib.sha256(content).hexdigest(),
            answer=None,
            model=self.model,
            methods=self.methods,
            settings=self.settings,
            regions=(),
        )
        folder = case_folder(self.output, case_key(sample.sample_id))
        if (manifest := kept_case(folder, made_from=digest)) is not None:
            return manifest, False
        image = open_content(content, sample.image)[0]
        aspect = self.recipe.model.aspect
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
            methods=self.methods,
            settings=self.settings,
            aspect=aspect,
            image=image,
            values=hounsfield_of(sample.image, sample.image),
            made_from=digest,
        )
        return write_bundle(folder, manifest, arrays), True

    def _reject(self, sample_id: str, reason: str, where: str, detail: str, *, malformed: bool = True) -> None:
        self.rejects.append(Reject(sample_id=sample_id, reason=reason, where=where, detail=detail, malformed=malformed))


def _rows(questions: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers; bytes that are no UTF-8 are kept to be told."""
    try:
        text = questions.read_bytes().decode("utf-8", errors="surrogateescape")
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


def _sample(row: dict[str, str], sample_id: str, beside: Path) -> VqaSample:
    answer = row.get("answer")
    return VqaSample(
        sample_id=sample_id,
        image_id=row["image"],
        image=beside / row["image"],
        question=row["question"],
        answers=() if answer is None else (answer,),
        answer_type="closed" if (answer or "").strip().lower() in ("yes", "no") else "open",
        answer_type_stated=False,
        group_id=row["image"],
        split="test",
    )


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
