"""Run folders as training and evaluation leave them, made in milliseconds: random weights, invented answers."""

import pytest

from radvqa.evaluate.comparison import compare_conditions
from radvqa.evaluate.summary import summarise
from radvqa.recipe import parse_recipe
from radvqa.records import write_json, write_records
from radvqa.run.folder import RunFolder
from radvqa.sample import Prediction

ALIGN = {"name": "align", "datasets": ["phantom"], "updates": 3}
LORA = {"rank": 2, "alpha": 4}
ADAPT = {
    "name": "adapt", "updates": 5, "lora": LORA,
    "mixture": {"phantom": {"weight": {"shape": "linear", "start": 0.2, "end": 0.6}}, "slake": {}},
}  # fmt: skip
STAGES = {
    "adapter": [ALIGN, ADAPT],
    "projector": [ALIGN],
    "checkpoint": [{"name": "whole", "datasets": ["phantom"], "updates": 2, "full": ["language_model"]}],
}
FILES = {"phantom/questions.json": "ab" * 32}


def predictions(samples, right):
    return [
        Prediction(
            sample_id=one.sample_id, group_id=one.group_id, question=one.question,
            text=one.answers[0] if number % right else "nothing", references=one.answers, finished=True,
            answer_type=one.answer_type, prompt_id="p", tags=dict(one.tags), image_id=one.image_id,
            logprob=-1.0, token_ids=(1,),
        )
        for number, one in enumerate(samples)
    ]  # fmt: skip


@pytest.fixture
def evaluate():
    """Write the summary of invented answers into a run: ``evaluate(run, samples)``."""

    def written(run, samples):
        found = {"model": predictions(samples, 4), "question_only": predictions(samples, 2)}
        write_json(
            run.file("summary.json"),
            {
                "dataset": "phantom", "split": "val", "limit": None, "layout": run.recipe.model.layout,
                "prompt_id": "p", "condition": "model",
                "conditions": {name: summarise(some, slices=[]) for name, some in found.items()},
                "comparisons": compare_conditions(found, reference="model"),
            },
        )  # fmt: skip
        run.mark_done("evaluate", {})

    return written


@pytest.fixture
def trained(tmp_path, tiny_folder, samples, evaluate):
    """A trained run: ``trained("adapter", layout="shared_image", evaluated=True)``."""
    import torch

    from radvqa.models.opening import open_vlm
    from radvqa.train.parts import prepare
    from radvqa.train.weights import save_weights

    def made(kind, *, layout="per_question", dtype="float32", checkpoint="tiny", evaluated=False, **model):
        recipe = parse_recipe(
            {
                "name": f"{kind}-run", "output": str(tmp_path / "runs"),
                "model": {"checkpoint": checkpoint, "layout": layout, "dtype": dtype, **model},
                "datasets": {
                    "phantom": {"adapter": "phantom", "root": str(tmp_path / "private")},
                    "slake": {"adapter": "slake", "root": str(tmp_path / "private"), "language": "en"},
                },
                "stages": STAGES[kind], "evaluate": {"dataset": "phantom"},
            },
            where="test",
        )  # fmt: skip
        run = RunFolder.create(recipe, command="radvqa run r.yaml")
        run.unlock()
        vlm = open_vlm(recipe.model, say=lambda _: None)
        torch.manual_seed(5)
        for stage in recipe.stages:
            prepare(vlm, stage, seed=1)
            with torch.no_grad():
                for parameter in vlm.network.parameters():
                    if parameter.requires_grad:
                        parameter.add_((2.0 if kind == "projector" else 0.3) * torch.randn_like(parameter))
            folder = run.file(f"train/{stage.name}")
            folder.mkdir(parents=True)
            save_weights(vlm, folder)
            counts = {"vision_encoder": 0, "projector": 544, "language_model": 0}
            done = {"updates": stage.updates, "questions": 12, "seconds": 3.5, "trainable": counts}
            write_json(folder / "stage.json", done)
            run.mark_done(f"train/{stage.name}", {})
        write_json(
            run.file("provenance.json"),
            {
                "radvqa": "0.1.0", "python": "3.12", "packages": {"torch": "2.13"}, "git": None, "argv": ["/home/me"],
                "weights": vlm.digest, "compute_dtype": dtype, "files": {str(tmp_path / "private"): "cd"},
            },
        )  # fmt: skip
        write_records(run.file("samples/phantom-train.jsonl"), samples)
        write_json(run.file("samples/index.json"), {"phantom-train": {"samples": len(samples)}})
        run.mark_done("samples", FILES)
        if evaluated:
            evaluate(run, samples)
        return run, vlm

    return made
