"""The model in this process: with a made-up runtime, and (slow) with the real one on the embedded model's weights."""

import dataclasses
import gc
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from radvqa.errors import ModelError
from radvqa.llm import Failure, Message, Outcome, Reply, Request, Sampling
from radvqa.llm import llama_cpp as module
from radvqa.llm.llama_cpp import LlamaCppModel, gguf_file

SCHEMA = {
    "type": "object",
    "properties": {"modality": {"enum": ["CT", "MRI"]}, "organ": {"type": "string", "maxLength": 20}},
    "required": ["modality", "organ"],
    "additionalProperties": False,
}


def asked(key: str, text: str = "Hello.", *, schema: dict[str, Any] | None = None) -> Request:
    system = Message(role="system", content="You name what a caption shows.")
    return Request(key=key, messages=(system, Message(role="user", content=text)), schema=schema)


def answer(text: str | None, *, reason: str = "stop") -> dict[str, Any]:
    return {
        "choices": [{"finish_reason": reason, "index": 0, "message": {"role": "assistant", "content": text}}],
        "usage": {"completion_tokens": 5, "prompt_tokens": 33, "total_tokens": 38},
    }


class Part:
    """Takes any attribute, as parameters do."""

    def __init__(self) -> None:
        self.__dict__["model"] = types.SimpleNamespace(path="")
        self.__dict__["cpuparams"] = types.SimpleNamespace(n_threads=0)
        self.__dict__["cpuparams_batch"] = types.SimpleNamespace(n_threads=0)


class Runtime(types.ModuleType):
    """In place of xllamacpp: gives the answers it was made with, and keeps what it was asked."""

    CommonParams = Part

    def __init__(self, *answers: Any) -> None:
        super().__init__("xllamacpp")
        self.answers, self.bodies, self.params = list(answers), [], Part()

    def Server(self, params: Any) -> Any:  # noqa: N802 - the runtime's name
        self.params = params
        assert Path(params.hostnames[0]).parent.is_dir()
        return types.SimpleNamespace(handle_chat_completions=self.handle)

    def handle(self, body: dict[str, Any]) -> Any:
        self.bodies.append(body)
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given


Opened = Callable[..., tuple[LlamaCppModel, Runtime]]


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "some-model.Q4.gguf"
    path.write_bytes(b"GGUF and weights")
    return path


@pytest.fixture
def opened(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    def open_one(*answers: Any, **settings: Any) -> tuple[LlamaCppModel, Runtime]:
        runtime = Runtime(*answers)
        monkeypatch.setitem(sys.modules, "xllamacpp", runtime)
        monkeypatch.setattr(module, "version", lambda _: "1.2.3")
        return LlamaCppModel(gguf, **{"sampling": Sampling()} | settings), runtime

    return open_one


def test_a_reply_carries_its_tokens_and_whether_it_was_cut(opened: Opened) -> None:
    model, _ = opened(answer("a"), answer("b", reason="length"))
    first, second = model.complete([asked("one"), asked("two")])
    assert isinstance(first, Reply) and isinstance(second, Reply)
    assert (first.key, first.text, first.finished) == ("one", "a", True)
    assert (first.prompt_tokens, first.completion_tokens, first.attempts) == (33, 5, 1)
    assert (second.key, second.text, second.finished) == ("two", "b", False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"error": {"code": 400, "message": "request (5031 tokens) exceeds the context"}}, "refused_request"),
        ({"error": {"code": 500, "message": "it exceeds something"}}, "model_error"),
        ({"error": {"message": "it exceeds something"}}, "model_error"),
        (ValueError("the schema exceeds grammar"), "refused_request"),
        (RuntimeError("the text exceeds JSON"), "refused_request"),
    ],
)
def test_what_llama_cpp_refuses_is_a_failure_and_the_next_is_asked(opened: Opened, given: Any, reason: str) -> None:
    model, _ = opened(given, answer("b"))
    failed, reply = model.complete([asked("one"), asked("two")])
    assert isinstance(failed, Failure) and isinstance(reply, Reply)
    assert (failed.key, failed.reason) == ("one", reason)
    assert "exceeds" in failed.detail


@pytest.mark.parametrize("text", [None, "", " \n "])
def test_a_reply_without_text_is_a_failure(opened: Opened, text: str | None) -> None:
    model, _ = opened(answer(text))
    (failed,) = model.complete([asked("one")])
    assert isinstance(failed, Failure)
    assert failed.reason == "empty_reply"


def test_the_request_holds_the_sampling_and_the_schema(opened: Opened) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, seed=7, max_tokens=60)
    model, runtime = opened(answer("a"), answer("b"), sampling=sampling)
    list(model.complete([asked("one"), asked("two", schema=SCHEMA)]))
    plain, held = runtime.bodies
    assert {name: plain[name] for name in ("temperature", "top_p", "seed", "max_tokens")} == dataclasses.asdict(
        sampling
    )
    assert [one["role"] for one in plain["messages"]] == ["system", "user"]
    assert plain["cache_prompt"] is False
    assert "response_format" not in plain
    assert held["response_format"]["json_schema"]["schema"] == SCHEMA


def test_one_slot_no_cache_and_no_open_door(opened: Opened) -> None:
    _, runtime = opened(context_tokens=512, threads=3)
    params: Any = runtime.params
    assert (params.n_ctx, params.n_parallel, params.cache_prompt, params.cache_ram_mib) == (512, 1, False, 0)
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 3
    (address,) = params.hostnames
    assert address.endswith(".sock"), "anything else would be a port"
    assert not Path(address).parent.exists()
    assert len(params.api_keys[0]) == 64
    assert not any((params.ui, params.endpoint_slots, params.endpoint_props, params.endpoint_metrics))


def test_the_identity_is_that_of_the_file(opened: Opened, gguf: Path) -> None:
    model, _ = opened(context_tokens=512)
    assert (model.identity.backend, model.identity.name) == ("llama_cpp", "some-model.Q4")
    assert model.identity.digest == hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert model.identity.facts == {"xllamacpp": "1.2.3", "context_tokens": "512"}


def test_the_digest_of_a_split_model_holds_all_its_files(opened: Opened, gguf: Path) -> None:
    parts = [gguf.with_name(f"big-0000{number}-of-00002.gguf") for number in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF")
    opened()
    digest = module.llama_cpp_identity(parts[0], sampling=Sampling(), context_tokens=512).digest
    parts[1].write_bytes(b"GGUF other weights")
    assert module.llama_cpp_identity(parts[0], sampling=Sampling(), context_tokens=512).digest != digest


def test_requests_are_drawn_one_by_one_and_none_after_closing(opened: Opened) -> None:
    model, _ = opened(answer("a"), answer("b"))
    drawn: list[str] = []

    def each() -> Iterator[Request]:
        for key in ("one", "two", "three"):
            drawn.append(key)
            yield asked(key)

    outcomes: Iterator[Outcome] = model.complete(each())
    next(outcomes)
    assert drawn == ["one"]
    model.close()
    with pytest.raises(ModelError, match="was closed"):
        next(outcomes)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(ModelError, match="cannot be read"):
        gguf_file(path)
    with pytest.raises(ModelError, match="cannot be read"):
        gguf_file(tmp_path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match="no GGUF file") as caught:
        gguf_file(path)
    assert "PK" in str(caught.value.got)


def test_a_missing_runtime_names_the_extra(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelError, match="runtime for GGUF files is not installed") as caught:
        LlamaCppModel(gguf, sampling=Sampling())
    assert "radvqa[llm]" in str(caught.value.fix)


def test_a_temporary_folder_with_a_long_path_is_told(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(module.tempfile, "tempdir", str(deep))
    with pytest.raises(ModelError, match="too long for a socket") as caught:
        opened()
    assert "TMPDIR" in str(caught.value.fix)


# The real runtime. A truncated file shows what it says of weights it cannot open, without any weights.


def require_runtime() -> None:
    """Without importing it: what is set before its first import must be set by radvqa."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed")


def test_a_truncated_file_is_refused(gguf: Path) -> None:
    require_runtime()
    with pytest.raises(ModelError, match="cannot open the model") as caught:
        LlamaCppModel(gguf, sampling=Sampling())
    assert caught.value.where == str(gguf)


@pytest.fixture
def cached(user_cache: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are downloaded once for a user."""
    require_runtime()
    user_cache(monkeypatch)


CAPTIONS = (
    "Axial CT of the chest shows a nodule in the right upper lobe.",
    "Sagittal MRI of the knee with a torn meniscus.",
    "Chest radiograph without effusion.",
    "Coronal CT of the abdomen with free fluid.",
)


def texts(model: LlamaCppModel, requests: list[Request]) -> dict[str, Any]:
    return {one.key: one.text if isinstance(one, Reply) else one.detail for one in model.complete(requests)}


def with_example(key: str, caption: str) -> Request:
    """A long beginning that all requests share: what is kept of it would be used again."""
    turns = (
        Message(role="system", content="You write one question about what an image caption tells, and use its words."),
        Message(role="user", content="Caption: Axial MRI of the brain shows a small lesion in the left frontal lobe."),
        Message(role="assistant", content="Where in the brain is the lesion? In the left frontal lobe."),
        Message(role="user", content=f"Caption: {caption}"),
    )
    return Request(key=key, messages=turns)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_replies_depend_on_nothing_but_their_request(cached: None, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, seed=5, max_tokens=48)
    requests = [with_example(f"r{number}", text) for number, text in enumerate(CAPTIONS)]
    replies = []
    for threads, ordered in ((1, requests), (2, requests[::-1])):
        model = LlamaCppModel("embedded", sampling=sampling, threads=threads)
        replies.append(texts(model, ordered))
        model.close()
    assert replies[0] == replies[1]


@pytest.mark.slow
def test_replies_follow_the_schema(cached: None) -> None:
    model = LlamaCppModel("embedded", sampling=Sampling(max_tokens=40), threads=1)
    requests = [asked(f"r{number}", text, schema=SCHEMA) for number, text in enumerate(CAPTIONS)]
    assert all(json.loads(text)["modality"] in ("CT", "MRI") for text in texts(model, requests).values())
    model.close()


@pytest.mark.slow
def test_the_seed_counts_where_replies_are_drawn(cached: None) -> None:
    drawn = []
    for seed in (1, 2):
        model = LlamaCppModel("embedded", sampling=Sampling(temperature=1.0, seed=seed, max_tokens=30), threads=1)
        drawn.append(texts(model, [asked("r", "Tell a story.")]))
        model.close()
    assert drawn[0] != drawn[1]


@pytest.mark.slow
def test_impossible_requests_are_failures(cached: None) -> None:
    model = LlamaCppModel("embedded", sampling=Sampling(max_tokens=500), context_tokens=256, threads=1)
    long, unknown, lone, cut, fine = model.complete(
        [
            asked("long", "word " * 5000),
            asked("unknown", schema={"type": "nonsense"}),
            asked("lone", "a lone surrogate \ud800"),
            asked("cut", "Tell a long story about a king and his seven sons."),
            asked("fine", schema=SCHEMA),
        ]
    )
    model.close()
    for failed in (long, unknown, lone):
        assert isinstance(failed, Failure)
        assert failed.reason == "refused_request"
    assert "256" in long.detail and "nonsense" in unknown.detail  # type: ignore[union-attr]
    assert isinstance(cut, Reply) and isinstance(fine, Reply)
    assert not cut.finished
    assert cut.prompt_tokens + cut.completion_tokens <= 257
    assert fine.finished


@pytest.mark.slow
def test_closing_frees_the_memory_and_the_threads(cached: None) -> None:
    def held() -> tuple[int, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000, len(list(Path("/proc/self/task").iterdir()))

    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is read from /proc")
    before = held()
    model = LlamaCppModel("embedded", sampling=Sampling(max_tokens=5), threads=2)
    texts(model, [asked("r")])
    during = held()
    model.close()
    gc.collect()
    after = held()
    assert during[0] > before[0] + 80
    assert after[0] < before[0] + 40
    assert after[1] <= before[1] + 1


@pytest.mark.slow
def test_it_is_quiet_and_no_port_is_open(cached: None) -> None:
    """In a process of its own, because the runtime writes past Python."""
    script = """
import os, pathlib
from radvqa.llm import Message, Request, Sampling
from radvqa.llm.llama_cpp import LlamaCppModel
model = LlamaCppModel("embedded", sampling=Sampling(max_tokens=5), threads=1)
list(model.complete([Request(key="r", messages=(Message(role="user", content="Hello."),))]))
mine = {os.readlink(one) for one in pathlib.Path("/proc/self/fd").iterdir() if one.is_symlink()}
assert any(one.startswith("socket:") for one in mine)
for family in ("tcp", "tcp6"):
    for line in pathlib.Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
        assert f"socket:[{line.split()[9]}]" not in mine, line
import sys
assert "torch" not in sys.modules
model.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
