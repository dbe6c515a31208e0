"""A folder with what a run learned, as it may be passed on: weights, processor, manifest, model card.

::

    adapter_config.json, adapter_model.safetensors   LoRA and projector as PEFT reads them, or
    projector.safetensors                            the projector alone, or
    config.json, model*.safetensors                  a complete checkpoint
    tokenizer*.json, processor_config.json, …        for ``AutoProcessor.from_pretrained``
    training_manifest.json                           how the weights came about
    README.md                                        the model card
    eval_results.json                                scores with limits, once the run is evaluated
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save

from radvqa.errors import RunError
from radvqa.models.layout import PROMPT_ID
from radvqa.models.processor import write_processor
from radvqa.models.vlm import Vlm
from radvqa.publish.card import evaluation_results, model_card
from radvqa.publish.manifest import MANIFEST_FILE, Kind, kind_of_run, languages, training_manifest
from radvqa.records import read_json, unwritable, write_bytes, write_json, write_text
from radvqa.report.contents import read_summary
from radvqa.run.folder import RunFolder

CARD_FILE = "README.md"
RESULTS_FILE = "eval_results.json"
PROJECTOR_FILE = "projector.safetensors"


def write_adapter_repository(run: RunFolder, vlm: Vlm, folder: Path) -> None:
    """Write what ``vlm`` learned in a trained run, without its base, into a new folder. It appears whole or not at all.

    Raises:
        RunError: the folder holds something, the disk is full, the run's files are missing, or the run has no adapter
            but a checkpoint of its own (``full``).
    """
    kind = kind_of_run(run.recipe)
    if kind == "checkpoint":
        raise RunError(
            "this run has no adapter: whole parts of the network learned",
            where=str(run.path),
            fix=f"radvqa export {run.path} FOLDER",
        )
    with building(folder) as unfinished:
        write_learned(vlm, unfinished)
        write_about(run, vlm, unfinished, kind=kind)


def write_learned(vlm: Vlm, folder: Path) -> None:
    """Write adapter and projector as PEFT does, or the projector alone where there are no adapters."""
    if hasattr(vlm.network, "peft_config"):
        # Embeddings never learn here; without saying so, PEFT asks the hub whether the vocabulary has grown.
        vlm.network.save_pretrained(folder, save_embedding_layers=False)
        return
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in vlm.projector.state_dict().items()}
    write_bytes(folder / PROJECTOR_FILE, save(state))


def write_about(run: RunFolder, vlm: Vlm, folder: Path, *, kind: Kind) -> None:
    """Write processor, manifest and card beside the weights in ``folder``."""
    write_processor(vlm, folder)
    manifest = training_manifest(
        run, kind=kind, image_size=vlm.image_size, image_tokens=vlm.tokens.image_tokens, prompt_id=PROMPT_ID
    )
    write_json(folder / MANIFEST_FILE, manifest)
    write_card(run, folder)


def write_card(run: RunFolder, folder: Path) -> None:
    """Write the model card and the results beside weights; again after an evaluation. Equal files stay untouched.

    Raises:
        RunError: the folder has no manifest, or the summary of the run is damaged.
    """
    manifest = read_json(folder / MANIFEST_FILE, dict[str, Any])
    if manifest is None:
        raise RunError(
            "a folder of published weights has no manifest",
            where=str(folder / MANIFEST_FILE),
            fix=f"delete the folder and train again: radvqa train {run.path}",
        )
    recipe = run.recipe
    evaluated = run.is_done("evaluate", {})
    summary = read_summary(run.file("summary.json")) if evaluated else None
    watched = any(
        stage.watch is not None and recipe.watched_split(stage.watch) == recipe.evaluated for stage in recipe.stages
    )
    files = {CARD_FILE: model_card(manifest, summary, languages=languages(run), watched=watched)}
    if summary is not None:
        results = evaluation_results(summary)
        files[RESULTS_FILE] = json.dumps(results, ensure_ascii=False, indent=2) + "\n"
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """An unfinished folder that takes the place of ``folder`` when the block ends, and is removed when it fails.

    Raises:
        RunError: ``folder`` is there and holds something, or cannot be written.
    """
    require_empty(folder)
    folder = folder.resolve()
    unfinished = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        _make_readable(unfinished)
        unfinished.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _make_readable(folder: Path) -> None:
    """Give files the rights that new files of the user have: safetensors writes its own for the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def require_empty(folder: Path) -> None:
    """Refuse a place where something is already, and the folder one is in. Raises ``RunError``."""
    if folder.resolve() == Path.cwd():
        raise RunError(
            "the folder you are in cannot be replaced",
            where=str(folder),
            expected="a new or empty folder elsewhere",
            fix="name a new folder, such as ./exported",
        )
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise RunError(
            "there is something at this place already",
            where=str(folder),
            expected="a new or empty folder",
            got="a folder with files" if folder.is_dir() else "a file",
            fix="name another folder, or move this one away",
        )
