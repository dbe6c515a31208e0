"""``radvqa serve``: what it says, that it is light, and one real server."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from radvqa.cli.app import app
from radvqa.errors import RunError

create_app = pytest.importorskip("radvqa.serve.app", reason="needs the optional packages of radvqa[serve]").create_app


def told(*arguments):
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_run_without_cases_says_how_to_make_them(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    code, output = told(tmp_path)
    assert code == 2
    assert "no explained cases" in output and f"radvqa explain {tmp_path}" in output


def test_an_empty_list_is_no_case(tmp_path):
    (tmp_path / "explain").mkdir()
    (tmp_path / "explain" / "cases.jsonl").write_text("")
    with pytest.raises(RunError, match="no explained cases"):
        create_app([tmp_path])


def test_folders_that_are_none(tmp_path, run):
    for name in ("nothing", "file"):
        (tmp_path / "file").write_text("")
        code, output = told(run, tmp_path / name)
        assert (code, "no explained cases" in output) == (2, True)
    assert told()[0] == 2


def test_a_damaged_list_is_told_at_the_start(tmp_path):
    (tmp_path / "cases.jsonl").write_text('{"key": "../../x"}\n')
    code, output = told(tmp_path)
    assert code == 2 and "not a valid record" in output


def test_a_run_that_is_named_twice_is_shown_once(run):
    assert len(create_app([run, run, run / "explain" / ".."]).state.cases.series) == 3


def test_no_torch_unless_a_model_is_asked_for():
    code = """
import sys
import radvqa.cli.app, radvqa.serve.app, radvqa.serve.live_model
assert not {"torch", "transformers"} & set(sys.modules), "torch was loaded"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_optional_packages(monkeypatch):
    import importlib

    monkeypatch.delitem(sys.modules, "radvqa.serve.app")
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(RunError, match=r"radvqa\[serve\]"):
        importlib.import_module("radvqa.serve.app")


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_the_address_that_is_said_can_be_opened(run, host, monkeypatch):
    import uvicorn

    from radvqa.web.serving import serve

    said = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_arguments, **_settings: None)
    serve(create_app([run], host=host), host=host, port=0, name="page", say=said.append)
    name = re.match(r"page at http://(.+):\d+/", said[0])[1]
    assert (name == host) is (host == "127.0.0.1")
    assert socket.getaddrinfo(name, None)


def test_it_serves_until_ctrl_c(run):
    import httpx2

    process = subprocess.Popen(
        [sys.executable, "-m", "radvqa", "serve", str(run), "--port", "0", "--token"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error::ResourceWarning"},
    )
    try:
        first = process.stderr.readline()
        address, token = re.fullmatch(r"page at (http://127\.0\.0\.1:\d+)/\?token=(\S{32})\n", first).groups()
        with httpx2.Client(base_url=address) as http:
            assert http.get("/").status_code == 401
            assert http.get("/", params={"token": token}).status_code == 303
            assert len(http.get("/api/cases").json()["cases"]) == 19
            assert "server" not in http.get("/").headers
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert process.returncode == 0
    assert "slake_0123456789ab: 12 cases" in said and "not for clinical use" in said
    assert "Traceback" not in said
