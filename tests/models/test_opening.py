"""Checkpoints by hub name, fetched from a hub on the loopback address."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

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
