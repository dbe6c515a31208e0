"""``training_manifest.json``: how published weights came about, read from the files of the run. No torch here.

Folders of the user's machine are left out: what is published may leave it.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from radvqa.data.prompt import question_prefix
from radvqa.errors import RunError
from radvqa.publish.ancestry import (
    MANIFEST_FILE,
    base_label,
    dataset_facts,
    origin_of,
    projector_facts,
    training_of_base,
    vision_encoder_label,
)
from radvqa.recipe import Recipe
from radvqa.records import read_json
from radvqa.run.folder import RunFolder

__all__ = ["MANIFEST_FILE", "Kind", "base_label", "kind_of_run", "languages", "training_manifest"]

Kind = Literal["adapter", "projector", "checkpoint"]
"""A PEFT adapter, the projector alone, or a complete checkpoint."""


def kind_of_run(recipe: Recipe) -> Kind:
    """What the stages of a recipe leave."""
    if any(stage.full for stage in recipe.stages):
        return "checkpoint"
    return "adapter" if any(stage.lora for stage in recipe.stages) else "projector"


def training_manifest(
    run: RunFolder, *, kind: Kind, image_size: int, image_tokens: int, prompt_id: str
) -> dict[str, Any]:
    """Base, data, stages, layout, prompt, picture conversion, seeds and packages of a trained run.

    ``kind``: what is published. ``image_size`` in pixels. The same run gives the same manifest whenever it is asked.

    Raises:
        RunError: a file that training writes is not there or is damaged.
    """
    recipe = run.recipe
    provenance = _required(run, "provenance.json")
    stages = recipe.resolved()["stages"]
    return {
        "format": 1,
        "name": recipe.name,
        "run": run.digest,
        "kind": kind,
        "base": {
            "checkpoint": base_label(recipe.model),
            # A commit that alone leads to the base; with another vision encoder none does.
            "revision": recipe.model.revision if recipe.model.vision_encoder is None else None,
            **_vision_encoder(recipe),
            "weights": provenance.get("weights"),
            "quantised_in_training": recipe.model.quantise,
            "origin": origin_of(recipe.model),
            "trained": training_of_base(recipe.model),
            "projector": projector_facts(recipe, str(provenance.get("weights"))),
        },
        "compute_dtype": provenance.get("compute_dtype"),
        "layout": recipe.model.layout,
        "prompt": {"id": prompt_id, "text": question_prefix("{question}", "{language}")},
        "languages": languages(run),
        "max_new_tokens": recipe.evaluate.max_new_tokens,
        "images": {
            "size": image_size,
            "tokens": image_tokens,
            "aspect": recipe.model.aspect,
            "conversion": "RGB, bicubic (Pillow), (x/255 - 0.5)/0.5; 16- and 32-bit grey is windowed to 8 bits first",
        },
        "seed": recipe.seed,
        "data": {
            "datasets": {name: dataset_facts(recipe.datasets[name]) for name in recipe.trained_on},
            "files": run.inputs_of("samples"),
            "samples": read_json(run.file("samples/index.json"), dict[str, Any]) or {},
        },
        "stages": [
            {
                **settings,
                "seed": recipe.seed + index,
                "done": _without_times(_required(run, f"train/{settings['name']}/stage.json")),
            }
            for index, settings in enumerate(stages)
        ],
        "radvqa": provenance.get("radvqa"),
        "python": provenance.get("python"),
        "packages": provenance.get("packages"),
        "code": provenance.get("git"),
    }


def _vision_encoder(recipe: Recipe) -> dict[str, Any]:
    """The two parts of a base whose vision encoder was changed; nothing for others."""
    model = recipe.model
    if model.vision_encoder is None:
        return {}
    return {
        "language_model": {"checkpoint": base_label(model.model_copy(update={"vision_encoder": None})),
                           "revision": model.revision},
        "vision_encoder": {"checkpoint": vision_encoder_label(model), "revision": model.vision_revision},
    }  # fmt: skip


def languages(run: RunFolder) -> list[str]:
    """Languages of the questions that the run has read, from its sample files."""
    found: set[str] = set()
    for path in sorted(run.file("samples").glob("*.jsonl")):
        if path.name.endswith((".rejects.jsonl", ".defects.jsonl")):
            continue
        with path.open("rb") as file:
            # A quotation mark inside a question is escaped, so the pattern fits the field alone.
            for line in file:
                found.update(match.decode() for match in re.findall(rb'"language": "([a-z-]+)"', line))
    return sorted(found)


def _without_times(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stage.items() if "seconds" not in name}


def _required(run: RunFolder, name: str) -> dict[str, Any]:
    content = read_json(run.file(name), dict[str, Any])
    if content is None:
        raise RunError(
            "a file of the run is missing, so its training cannot be told",
            where=str(run.file(name)),
            fix=f"train the run to its end: radvqa train {run.path}",
        )
    return content
