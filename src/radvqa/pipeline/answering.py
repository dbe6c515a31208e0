"""Answers that outlive a kill: each batch goes into a journal, and the next start asks only what is left."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from radvqa.data.image_store import ImageStore
from radvqa.evaluate.predict import Condition, predictions
from radvqa.models.layout import PROMPT_ID
from radvqa.models.vlm import Vlm
from radvqa.records import unwritable
from radvqa.run.journal import Journal
from radvqa.run.progress import Progress
from radvqa.sample import Prediction, VqaSample

_MADE_FROM = "made from"
_PREDICTION = TypeAdapter(Prediction)


def answered(
    path: Path,
    vlm: Vlm,
    samples: Sequence[VqaSample],
    store: ImageStore,
    *,
    condition: Condition,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    made_from: str,
    progress: Progress,
) -> list[Prediction]:
    """One prediction per sample, in their order; those that the journal ``path`` holds are not asked for again.

    ``made_from``: says which weights and data the answers belong to. A journal of others, of other settings, of
    pictures in another size or aspect, or of samples with other tags or links is started anew. It is left in place.

    Raises:
        DataError: ``shuffled`` with a single image.
        RunError: the journal cannot be written, or another process writes it.
    """
    settings = [made_from, PROMPT_ID, vlm.layout, str(vlm.compute_dtype), condition, max_new_tokens, batch_size, seed]
    # What a journal keeps is whole predictions, so all that goes from a sample into its prediction counts.
    kept = [[one.image_id, one.link_id, one.dialogue_id, one.turn, dict(one.tags)] for one in samples]
    with _journal(path, digest_of([*settings, dict(store.variant), *kept])) as journal:
        known = frozenset(sample.sample_id for sample in samples if _key(sample.sample_id) in journal)
        if known:
            progress.say(f"{condition} images: {len(known):,} of {len(samples):,} answers are there already")
        with progress.track(f"answers, {condition} images", len(samples), done=len(known), unit="questions") as tick:
            for some in predictions(
                vlm,
                samples,
                store,
                condition=condition,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                seed=seed,
                known=known,
            ):
                for one in some:
                    journal.append(_key(one.sample_id), {"prediction": asdict(one)})
                tick(sum(one.sample_id not in known for one in some))
        return [_PREDICTION.validate_python(journal[_key(sample.sample_id)]["prediction"]) for sample in samples]


def digest_of(values: Iterable[Any]) -> str:
    """SHA-256 in hex of plain values."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, default=str).encode("ascii") + b"\n")
    return digest.hexdigest()


def digest_of_questions(samples: Sequence[VqaSample], store: ImageStore) -> str:
    """SHA-256 in hex of what is asked and of what counts as right: ids, texts, references and picture files."""
    return digest_of(
        [one.sample_id, one.group_id, one.question, one.language, one.answers, one.answer_type, store.sha256(one.image)]
        for one in samples
    )


def _journal(path: Path, made_from: str) -> Journal:
    journal = Journal(path)
    if _MADE_FROM in journal and journal[_MADE_FROM]["digest"] == made_from:
        return journal
    if len(journal):
        journal.close()
        try:
            path.unlink()
        except OSError as error:
            raise unwritable(path, error) from error
        journal = Journal(path)
    journal.append(_MADE_FROM, {"digest": made_from})
    return journal


def _key(sample_id: str) -> str:
    return f"answer {sample_id}"
