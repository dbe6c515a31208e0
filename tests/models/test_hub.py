"""Checkpoints that the hub keeps back, asked for on the loopback address."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_opening import NAME, OPENING, REVISION, Hub, HubRequest, opened


class Refusal(HubRequest):
    """Answers as the hub does for a gated repository: 401 to strangers, 403 to users who did not accept its licence."""

    status = 401

    def _answer(self, *, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self._send(self.status, b"{}", body=body, code="GatedRepo")


class RefusalOfUsers(Refusal):
    status = 403


@pytest.mark.parametrize("handler", [Refusal, pytest.param(RefusalOfUsers, marks=pytest.mark.slow)])
def test_a_gated_checkpoint_says_what_to_do(tiny_folder: Path, tmp_path: Path, handler: type[Refusal]) -> None:
    with Hub(tiny_folder) as hub:
        hub.RequestHandlerClass = handler
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        done = opened(hub, NAME, tmp_path)
        hub.shutdown()
    assert hub.asked
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the checkpoint cannot be loaded" in done.stderr
    assert "gated repo" in done.stderr
    assert "hf auth login" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_hub_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Nothing listens at the address; the message is ours and comes without a traceback."""
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", OPENING, NAME, REVISION],
        env=environment, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the checkpoint cannot be loaded" in done.stderr
