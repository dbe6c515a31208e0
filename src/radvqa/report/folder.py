"""Which files of a run or evaluation folder hold what a page is made from."""

import json
from pathlib import Path

from radvqa.errors import RunError


def predictions_file(folder: Path) -> Path:
    """The model's answers on real images in a run or evaluation folder.

    That is ``predictions/<split>.jsonl`` with the split of ``summary.json``; without a summary the only file there that
    is not another condition of one beside it (``val_blank.jsonl`` beside ``val.jsonl``), or ``predictions.jsonl``.

    Raises:
        RunError: there is no such file, or several could be it.
    """
    split = _split(folder / "summary.json")
    if split is not None and (path := folder / "predictions" / f"{split}.jsonl").is_file():
        return path
    found = sorted([*folder.glob("predictions.jsonl"), *folder.glob("predictions/*.jsonl")])
    stems = {path.stem for path in found}
    found = [path for path in found if not any(path.stem.startswith(f"{stem}_") for stem in stems)]
    if len(found) == 1:
        return found[0]
    raise RunError(
        "it is unclear which answers of the folder are meant" if found else "the folder holds no answers",
        where=str(folder),
        expected="a run or evaluation folder with predictions/<split>.jsonl",
        got=", ".join(path.name for path in found) or "no such file",
        fix="name the file itself" if found else "evaluate first (`radvqa evaluate`), or name a file of predictions",
    )


def _split(path: Path) -> str | None:
    try:
        split = json.loads(path.read_text(encoding="utf-8"))["split"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return split if isinstance(split, str) else None
