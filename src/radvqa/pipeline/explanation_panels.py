"""Panels of explained cases and their list ``explain/index.json``, which the report of a run shows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from radvqa.explain.bundle_files import case_folder, read_bundle, read_cases
from radvqa.explain.export import write_panel
from radvqa.records import write_json
from radvqa.report.contents import Explained

PANEL_METHODS: Final[Mapping[str, str]] = {"raw attention": "raw", "rollout": "rollout"}

_TOLD: Final = ("image_mass", "sink_mass", "self_mass", "entropy", "specificity")


def write_index(explained: Path, sample_ids: Sequence[str]) -> None:
    """Write ``index.json`` and a panel of each of these cases for the report; panels of other cases are removed."""
    entries, panels = [], set()
    lines = {line.sample_id: line for line in read_cases(explained)}
    for line in [lines[one] for one in sample_ids if one in lines]:
        bundle = read_bundle(case_folder(explained, line.key))
        record = {one.method: one for one in bundle.manifest.views["model"].maps}
        named = {heading: method for heading, method in PANEL_METHODS.items() if method in record}
        named = named or {method: method for method in list(record)[:2]}
        panel = explained / f"{line.key}.png"
        panels.add(panel.name)
        write_panel(bundle, panel, methods=named, token=0)
        entry = Explained(
            sample_id=line.sample_id,
            image_id=line.image_id,
            question=line.question,
            reference=line.references[0] if line.references else "",
            answer=line.answer,
            correct=line.correct,
            panel=f"{explained.name}/{panel.name}",
            methods={
                heading: {name: getattr(record[method].tokens[0], name) for name in _TOLD}
                for heading, method in named.items()
            },
        )
        entries.append(asdict(entry))
    for line in lines.values():
        if f"{line.key}.png" not in panels:
            (explained / f"{line.key}.png").unlink(missing_ok=True)
    write_json(explained / "index.json", entries)
