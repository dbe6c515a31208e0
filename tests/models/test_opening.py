"""Checkpoints by hub name, fetched from a hub on the loopback address; what a recipe asks of a checkpoint."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from radvqa.errors import ModelError

if TYPE_CHECKING:
    from radvqa.models.vlm import Vlm

NAME = "some-lab/paligemma-tiny"
REVISION = "35e4f46485b4d07967e7e9935bc3786aad50687c"
OPENING = """
import json, sys, torch
from radvqa.errors import ModelError
from radvqa.models.opening import open_vlm
from radvqa.recipe import Model
from radvqa.models.lora import attach_lora
try:
    vlm = open_vlm(Model(checkpoint=sys.argv[1], revision=sys.argv[2], dtype="float32"), say=lambda _: None)
except ModelError as error:
    sys.exit(str(error))
attach_lora(vlm, rank=2, alpha=4, dropout=0, targets="attention", parts=["language_model"], seed=0,
            base_name=vlm.name, revision=vlm.revision)
config = vlm.network.peft_config["default"]
print(json.dumps([vlm.image_grid, config.base_model_name_or_path, config.revision,
                  float(vlm.language_model.embed_tokens.weight.double().sum())]))
"""


class Hub(ThreadingHTTPServer):
    """One repository at one revision, by the addresses that huggingface_hub asks for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubRequest(BaseHTTPRequestHandler):
    """Answers HEAD and GET as the hub does."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        resolved = f"/{NAME}/resolve/{REVISION}/"
        if path.startswith(resolved) and (content := self.server.files.get(path.removeprefix(resolved))) is not None:
            self._send(200, content, body=body)
        elif path in (f"/api/models/{NAME}/revision/{REVISION}", f"/api/models/{NAME}"):
            listing = {"id": NAME, "sha": REVISION, "siblings": [{"rfilename": name} for name in self.server.files]}
            self._send(200, json.dumps(listing).encode(), body=body)
        elif path.startswith((f"/{NAME}/", f"/api/models/{NAME}/")):
            code = "RevisionNotFound" if REVISION not in path else "EntryNotFound"
            self._send(404, b"{}", body=body, code=code)
        else:
            self._send(404, b"{}", body=body, code="RepoNotFound")

    def _send(self, status: int, content: bytes, *, body: bool, code: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[Hub]:
    with Hub(tiny_folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def opened(hub: Hub, name: str, cache: Path, *, revision: str = REVISION) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its address once, when it is loaded."""
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment["HF_HUB_OFFLINE"] = "0"
    return subprocess.run(
        [sys.executable, "-c", OPENING, name, revision],
        env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


def test_a_checkpoint_is_fetched_by_name_at_its_revision(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    done = opened(hub, NAME, tmp_path)
    assert done.returncode == 0, done.stderr
    grid, base, revision, total = json.loads(done.stdout)
    (embedding,) = (
        tensor for name, tensor in load_file(tiny_folder / "model.safetensors").items() if "embed_tokens" in name
    )
    assert total == float(embedding.double().sum())
    assert grid == [4, 4]
    assert (base, revision) == (NAME, REVISION)
    assert f"GET /{NAME}/resolve/{REVISION}/model.safetensors" in hub.asked
    assert not [one for one in hub.asked if "/resolve/" in one and REVISION not in one]

    fetched = len([one for one in hub.asked if one.startswith("GET") and "safetensors" in one])
    assert opened(hub, NAME, tmp_path).returncode == 0
    assert len([one for one in hub.asked if one.startswith("GET") and "safetensors" in one]) == fetched


@pytest.mark.parametrize(("name", "revision"), [("some-lab/other", REVISION), (NAME, "0" * 40)])
def test_a_checkpoint_that_is_not_there_is_told(hub: Hub, tmp_path: Path, name: str, revision: str) -> None:
    done = opened(hub, name, tmp_path, revision=revision)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the checkpoint cannot be loaded" in done.stderr
    assert name in done.stderr
    assert "check the name and revision" in done.stderr


# --- what a recipe asks for -------------------------------------------------------------------------------------


@pytest.fixture
def opened_with(tiny_folder: Path) -> "Callable[..., Vlm]":
    """Open the tiny checkpoint with these values of the recipe's model section."""
    from radvqa.models.opening import open_vlm
    from radvqa.recipe import Model

    def opening(say: Callable[[str], None] = lambda _: None, **values: Any) -> "Vlm":
        return open_vlm(Model(**({"checkpoint": "tiny", "dtype": "float32"} | values)), say=say)

    return opening


@pytest.mark.parametrize("place", ["", "text_config", "vision_config"])
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_a_checkpoint_that_asks_for_flash_attention_does_not_get_it(
    tiny_folder: Path, tmp_path: Path, place: str, key: str
) -> None:
    from radvqa.models.checkpoint_loading import load_network

    folder = shutil.copytree(tiny_folder, tmp_path / "copy")
    values = json.loads((folder / "config.json").read_text())
    (values[place] if place else values)[key] = "flash_attention_2"
    (folder / "config.json").write_text(json.dumps(values))
    config = load_network(str(folder))[0].config
    assert {one._attn_implementation for one in (config, config.text_config, config.vision_config)} == {"sdpa"}


def test_another_release_of_transformers_is_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from radvqa.models import checkpoint_loading

    for release in ("5.9.0", "5.24.0", "4.57.6"):
        monkeypatch.setattr(checkpoint_loading, "transformers", SimpleNamespace(__version__=release))
        with pytest.raises(ModelError, match="release of transformers is not tested") as caught:
            checkpoint_loading.load_network(str(tiny_folder))
        assert caught.value.got == release


def test_weights_of_another_shape_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from radvqa.models.checkpoint_loading import load_network

    folder = shutil.copytree(tiny_folder, tmp_path / "copy")
    state = load_file(folder / "model.safetensors")
    name = next(one for one in state if one.endswith("multi_modal_projector.linear.weight"))
    save_file(state | {name: state[name][:, :-1].contiguous()}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the checkpoint cannot be loaded"):
        load_network(str(folder))


def projector_file(folder: Path, **changes: Any) -> Path:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(2)
    state = {"linear.weight": torch.randn(32, 16, generator=generator), "linear.bias": torch.zeros(32)} | changes
    file = folder / "projector.safetensors"
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, file)
    return file


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_projector_is_put_in(opened_with: "Callable[..., Vlm]", tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file

    file = projector_file(tmp_path)
    plain, vlm = opened_with(dtype=dtype), opened_with(dtype=dtype, projector=file)
    state = vlm.projector.state_dict()
    for name, tensor in load_file(file).items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor)
    assert vlm.digest == f"{plain.digest}, projector sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert not any(parameter.requires_grad for parameter in vlm.network.parameters())


@pytest.mark.parametrize("change", ["shape", "lacks", "more", "cut", "missing"])
def test_a_projector_that_does_not_fit_is_refused(
    opened_with: "Callable[..., Vlm]", tmp_path: Path, change: str
) -> None:
    import torch

    changes = {
        "shape": {"linear.weight": torch.zeros(32, 17)},
        "lacks": {"linear.bias": None},
        "more": {"other.bias": torch.zeros(3)},
    }
    file = projector_file(tmp_path, **changes.get(change, {}))
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    if change == "missing":
        file.unlink()
    what = "cannot be read" if change in ("cut", "missing") else "of another model"
    with pytest.raises(ModelError, match=f"the projector file .*{what}|the projector file is {what}") as caught:
        opened_with(projector=file)
    assert caught.value.where == str(file)
    if change == "shape":
        assert caught.value.expected == "linear.bias 32, linear.weight 32 x 16"
        assert caught.value.got == "linear.bias 32, linear.weight 32 x 17"


@pytest.mark.parametrize(
    "error", [ImportError("no such package"), RuntimeError("no CUDA\nmore"), OSError("libcuda.so")]
)
def test_four_bits_without_bitsandbytes_are_refused(
    opened_with: "Callable[..., Vlm]", monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from radvqa.models import checkpoint_loading

    def missing(name: str) -> None:
        assert name == "bitsandbytes"
        raise error

    monkeypatch.setattr(checkpoint_loading, "import_module", missing)
    with pytest.raises(ModelError, match="weights in four bits need bitsandbytes") as caught:
        opened_with(quantise="nf4")
    assert caught.value.where == "model.quantise"
    assert caught.value.got == str(error).split("\n")[0]
    assert "radvqa[quant]" in (caught.value.fix or "")


def test_four_bits_in_other_modules_are_refused(opened_with: "Callable[..., Vlm]") -> None:
    from torch import nn

    from radvqa.models.checkpoint_loading import require_four_bit_layers

    class Linear4bit(nn.Module):
        """Named like the module of bitsandbytes."""

    network = opened_with().network
    with pytest.raises(ModelError, match="four bits did not reach") as caught:
        require_four_bit_layers(network)
    assert caught.value.got == "0, 0 of them elsewhere"
    for layer in network.model.language_model.layers:
        for place in (layer.self_attn, layer.mlp):
            for name, module in list(place.named_children()):
                if isinstance(module, nn.Linear):
                    setattr(place, name, Linear4bit())
    require_four_bit_layers(network)
    network.model.multi_modal_projector.linear = Linear4bit()
    with pytest.raises(ModelError, match="four bits did not reach") as caught:
        require_four_bit_layers(network)
    assert caught.value.where == "model.multi_modal_projector.linear"


def test_four_bits_train_and_answer(tmp_path: Path) -> None:
    """Where bitsandbytes is installed."""
    pytest.importorskip("bitsandbytes")
    import torch

    from radvqa.models.layout import Question, Row
    from radvqa.models.lora import attach_lora
    from radvqa.models.opening import open_vlm
    from radvqa.models.vlm import Vision
    from radvqa.recipe import Model

    folder = wider_tiny_base(tmp_path / "base")
    vlm = open_vlm(Model(checkpoint=str(folder), dtype="float32", quantise="nf4"), say=lambda _: None)
    with pytest.raises(ModelError, match="weights in four bits cannot learn"):
        vlm.unfreeze(["language_model"])
    attach_lora(
        vlm, rank=2, alpha=4, dropout=0, targets="all-linear", parts=("vision_encoder", "language_model"),
        base_name=vlm.name, revision=None, seed=0,
    )  # fmt: skip
    vision = Vision(torch.tensor([0]), pixels=torch.zeros(1, 56, 56, 3, dtype=torch.uint8))
    batch = vlm.batch([Row(Path("a.png"), (Question("q", (70, 71, 14), (72, vlm.tokens.eos_id)),))])
    vlm.network.train()
    vlm.supervised_logits(batch, vision).square().mean().backward()
    learning = [parameter for parameter in vlm.network.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in learning} == {torch.float32}
    assert all(parameter.grad is not None for parameter in learning)
    vlm.network.eval()
    prompts = vlm.batch([Row(Path("a.png"), (Question("q", (70, 71, 14), ()),))])
    assert len(vlm.answer(prompts, vision, max_new_tokens=2)) == 1


def wider_tiny_base(folder: Path) -> Path:
    """Four bits come in blocks of 64 weights, which the tiny checkpoint's rows do not fill."""
    import torch
    from transformers import AutoConfig, PaliGemmaForConditionalGeneration

    from radvqa.models.tiny import write_tiny_base

    write_tiny_base(folder)
    config = AutoConfig.from_pretrained(folder)
    config.projection_dim = config.vision_config.projection_dim = config.text_config.hidden_size = 128
    config.text_config.intermediate_size = 256
    config.text_config.head_dim = 32
    torch.manual_seed(0)
    PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_a_checkpoint_adapted_in_another_layout_is_refused(tiny_folder, tmp_path):
    from radvqa.models.opening import open_vlm
    from radvqa.recipe import Model

    folder = tmp_path / "merged"
    shutil.copytree(tiny_folder, folder)
    (folder / "training_manifest.json").write_text(json.dumps({"layout": "shared_image"}))
    with pytest.raises(ModelError, match="adapted in another layout") as caught:
        open_vlm(Model(checkpoint=str(folder)), say=lambda _: None)
    assert "model.layout: shared_image" in caught.value.fix
    assert open_vlm(Model(checkpoint=str(folder), layout="shared_image"), say=lambda _: None).layout == "shared_image"
