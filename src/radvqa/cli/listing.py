"""What ``radvqa list`` and ``radvqa show`` tell, as plain values; the verbs print them as a table or as JSON."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from radvqa.data import adapter_class, adapter_names
from radvqa.errors import RunError
from radvqa.run.folder import RunFolder, list_runs

REPORT = "report.html"
SUMMARY = "summary.json"

MODELS: tuple[Mapping[str, str], ...] = (
    {
        "checkpoint": "embedded",
        "what": "DINOv2-small and SmolLM2-135M from Python packages in PaliGemma's classes; 112 or 224 px",
    },
    {"checkpoint": "tiny", "what": "random weights of the same make, for tests: it knows nothing"},
    {
        "checkpoint": "google/paligemma-3b-mix-448",
        "what": "or another PaliGemma of the hub; needs revision: <commit> and a hub login under the Gemma terms",
    },
    {"checkpoint": "FOLDER", "what": "a PaliGemma checkpoint in a local folder"},
)


def datasets() -> list[dict[str, str]]:
    """Name, options, licence and home page of each data set, built in or brought by an installed package.

    Raises:
        RecipeError: the adapter of a package cannot be imported.
    """
    return [_dataset(name) for name in adapter_names()]


def recipes(folder: Path) -> list[dict[str, str]]:
    """Name and first comment line of each recipe in a folder.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(
            "no folder of recipes here",
            where=str(folder),
            fix="go to the folder that holds recipes/, or name it with --folder",
        )
    return [{"recipe": str(path), "about": _first_comment(path)} for path in sorted(folder.glob("*.yaml"))]


def runs(output: Path) -> list[dict[str, str]]:
    """Path, start and finished steps of each run under ``output``. Raises ``RunError`` if there is no such folder."""
    return [
        {
            "run": str(entry.path),
            "started": entry.started,
            "done": f"problem: {entry.problem}" if entry.problem else ", ".join(entry.done),
        }
        for entry in list_runs(output)
    ]


def models() -> list[dict[str, str]]:
    """What ``model.checkpoint`` may be."""
    return [dict(model) for model in MODELS]


def metrics() -> list[dict[str, str]]:
    """Name and meaning of each metric."""
    from radvqa.evaluate.metrics import METRICS

    return [{"metric": name, "what": what} for name, what in METRICS.items()]


def protocols() -> list[dict[str, str]]:
    """Name, title and quoted numbers of each published protocol."""
    from radvqa.evaluate.protocols import PROTOCOLS

    return [
        {"protocol": name, "title": protocol.title, "headline": ", ".join(protocol.headline)}
        for name, protocol in PROTOCOLS.items()
    ]


def prompts() -> list[dict[str, str]]:
    """Name, use, purpose and slots of each prompt of synthesis and of the judge."""
    from radvqa.evaluate.judge_prompt import judge_prompt_names, load_judge_prompt
    from radvqa.synth.prompt import load_prompt, prompt_names

    found = [load_prompt(name) for name in prompt_names()]
    judges = [load_judge_prompt(name) for name in judge_prompt_names()]
    return [
        *({"prompt": one.name, "for": "synth", "purpose": one.purpose, "slots": ", ".join(one.slots)} for one in found),
        *({"prompt": one.name, "for": "judge", "purpose": one.purpose, "slots": "verdict"} for one in judges),
    ]


def describe_run(run: RunFolder) -> dict[str, Any]:
    """Recipe, starts, finished steps, report and headline numbers of a run."""
    report = run.file(REPORT)
    return {
        "run": str(run.path),
        "name": run.recipe.name,
        "digest": run.digest,
        "commands": list(run.commands()),
        "done": list(run.done_steps()),
        "report": str(report) if report.is_file() else None,
        "summary": headline(run),
        "recipe": run.recipe.resolved(),
    }


def headline(run: RunFolder) -> dict[str, dict[str, Any]] | None:
    """Condition to metric to mean and confidence limits, over all samples; None before the run is evaluated.

    Raises:
        RunError: the summary is damaged.
    """
    path = run.file(SUMMARY)
    if not path.is_file():
        return None
    try:
        conditions = json.loads(path.read_text(encoding="utf-8"))["conditions"]
        return {name: dict(summary["overall"]["metrics"]) for name, summary in conditions.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(
            "the summary of the run is damaged",
            where=str(path),
            expected="conditions with their overall metrics",
            got=f"{type(error).__name__}: {error}",
            fix=f"make it again with `radvqa evaluate {run.path}`",
        ) from error


def score_rows(summary: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """The headline metric of each condition as rows of a table; every metric of a run scored before there was one."""
    from radvqa.evaluate.metrics import HEADLINE

    return [
        {"condition": condition, "metric": metric, "score (interval)": _estimate(estimate)}
        for condition, metrics in summary.items()
        for metric, estimate in metrics.items()
        if metric == HEADLINE or HEADLINE not in metrics
    ]


def _estimate(estimate: Mapping[str, float | None]) -> str:
    mean, low, high = (
        "undefined" if value is None else f"{value:.3f}" for value in map(estimate.get, ("mean", "low", "high"))
    )
    return f"{mean} ({low} to {high})"


def _dataset(name: str) -> dict[str, str]:
    adapter = adapter_class(name, where="installed packages")
    return {
        "adapter": name,
        "what": _first_line(adapter.__doc__),
        "options": ", ".join(map(_option, list(inspect.signature(adapter).parameters.values()))) or "none",
        "licence": adapter.licence,
        "homepage": adapter.homepage or "none",
    }


def _option(parameter: inspect.Parameter) -> str:
    kind = inspect.formatannotation(parameter.annotation).replace("collections.abc.", "").replace("typing.", "")
    given = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
    return f"{parameter.name}: {kind}{given}"


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.strip("# ")
    return ""


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def show_recipe(recipe: Mapping[str, Any]) -> str:
    """A resolved recipe as YAML."""
    return yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=100)
