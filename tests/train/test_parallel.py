"""Two processes on this machine train what one trains."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from radvqa.errors import TrainError
from radvqa.recipe import load_recipe
from radvqa.train.parallel import Processes

RECIPE: dict[str, Any] = {
    "name": "pair",
    "seed": 3,
    "model": {"checkpoint": "tiny", "dtype": "float32", "threads": 1},
    "trackers": [],
    "stages": [
        {"name": "align", "datasets": ["small"], "updates": 3, "batch_size": 4},
        {
            "name": "adapt",
            "mixture": {"large": {}, "small": {"weight": {"shape": "linear", "start": 0.0, "end": 0.6}}},
            "updates": 8, "batch_size": 8, "micro_batch_size": 2, "lora": {"rank": 2}, "checkpoint_every": 3,
            "watch": {"every": 4, "images": 2, "held_out": 0.2, "keep": "best"},
        },
    ],
    "evaluate": {"dataset": "small", "max_new_tokens": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    entries = {
        name: {
            "adapter": "phantom", "count": {"train": images, "val": 2, "test": 0}, "size": 112,
            "questions_per_image": 3, "seed": images, "root": str(root / name),
        }
        for name, images in (("small", 5), ("large", 12))
    }  # fmt: skip
    path = root / "pair.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "datasets": entries}))
    return path


def trained(recipe: Path, output: Path, *, processes: int, sharding: str = "none", **environment: str) -> Path:
    changes = ["--set", f"output={output}", "--set", f"sharding={sharding}"]
    launcher = [sys.executable, "-m"]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher += ["torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}", "-m"]
    command = [*launcher, "radvqa", "train", str(recipe), *changes, "--quiet"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return output / f"pair_{load_recipe(recipe, [f'sharding={sharding}']).digest()}"


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(recipe, tmp_path_factory.mktemp("alone"), processes=1)


def updates(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train" / stage / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_two_processes_train_as_one(recipe: Path, alone: Path, tmp_path: Path, sharding: str) -> None:
    from safetensors.torch import load_file

    together = trained(recipe, tmp_path, processes=2, sharding=sharding)
    for stage in ("align", "adapt"):
        one, two = updates(alone, stage), updates(together, stage)
        assert [line["update"] for line in two] == [line["update"] for line in one]
        for first, second in zip(one, two, strict=True):
            assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
            assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
            assert second["learning_rate"] == first["learning_rate"]
            for name, source in first["sources"].items():
                other = second["sources"][name]
                assert {**other, "loss": None} == {**source, "loss": None}
                assert other["loss"] == (None if source["loss"] is None else pytest.approx(source["loss"], rel=1e-5))
    told = json.loads((together / "train/adapt/stage.json").read_text())
    assert told["processes"] == 2
    # Loadable in plain PEFT, with the weights of the single process.
    first, second = (
        load_file(folder / "train/adapt/adapter/adapter_model.safetensors") for folder in (alone, together)
    )
    assert first.keys() == second.keys()
    assert all(abs(first[name] - second[name]).mean() < 1e-5 for name in first)
    assert any(tensor.any() for name, tensor in second.items() if "lora_B" in name)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    assert [Processes(rank, 2).share(4) for rank in (0, 1)] == [slice(0, None, 2), slice(1, None, 2)]
    with pytest.raises(TrainError, match="cannot be shared evenly") as caught:
        Processes(0, 2).share(5)
    assert "multiple of 2" in caught.value.expected
