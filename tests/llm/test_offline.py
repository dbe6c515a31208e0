"""Many requests through workers of Ray: a model made up here, a made-up vLLM, and (slow) real weights."""

import importlib.util
import os
import signal
import sys
import types
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from radvqa.errors import ModelError, RunError
from radvqa.llm import Failure, Message, ModelIdentity, Outcome, Reply, Request, Sampling, TextModel
from radvqa.llm.offline import Offline, OfflineLlamaCpp, OfflineModel, OfflineVllm

SAMPLING = Sampling(max_tokens=40)
IDENTITY = ModelIdentity(backend="fake", name="backwards", digest="", sampling=SAMPLING)


def asked(key: str, text: str | None = None, *, schema: dict[str, Any] | None = None) -> Request:
    return Request(key=key, messages=(Message(role="user", content=text or f"say {key}"),), schema=schema)


@dataclass(frozen=True, kw_only=True)
class Backwards:
    """Opens a model that says the words backwards, and does what a request tells it to do first."""

    folder: Path
    group: int = 4
    gpus: int = 0
    identity: ModelIdentity = IDENTITY

    def open(self, *, threads: int) -> TextModel:
        return Spoken(self.folder)


@dataclass(frozen=True, kw_only=True)
class Unopenable(Backwards):
    """Finds no weights."""

    def open(self, *, threads: int) -> TextModel:
        raise ModelError("no weights on this machine", where="worker 7")


class Spoken:
    """Says the words of a request backwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def identity(self) -> ModelIdentity:
        raise NotImplementedError

    def complete(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        for request in requests:
            text = request.messages[-1].content
            died = self.folder / "died"
            if text == "die always" or (text == "die once" and not died.exists()):
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            (self.folder / str(os.getpid())).touch()
            if text == "refuse":
                yield Failure(key=request.key, reason="refused_request", detail=text, attempts=1, seconds=0)
            else:
                yield said(request.key, text[::-1])

    def close(self) -> None:
        raise NotImplementedError


def said(key: str, text: str) -> Reply:
    return Reply(key=key, text=text, finished=True, prompt_tokens=1, completion_tokens=1, seconds=0.0)


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    # Ray leaves sockets open and forks; that is not ours to mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        # Workers of Ray cannot import the modules of tests.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield
        ray.shutdown()


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
def test_every_request_has_its_outcome_once_though_a_worker_dies(on_ray: None, tmp_path: Path) -> None:
    texts = {f"r{number}": f"caption {number}" for number in range(30)} | {"r5": "refuse", "r17": "die once"}
    requests = [asked(key, text) for key, text in texts.items()]
    drawn: list[str] = []

    def each() -> Iterator[Request]:
        for request in requests:
            drawn.append(request.key)
            yield request

    model = OfflineModel(Backwards(folder=tmp_path), workers=2, window=20)
    outcomes = model.complete(each())
    first = next(outcomes)
    assert len(drawn) == 20, "no more than one window is drawn ahead"
    got = [first, *outcomes]
    alone = list(Spoken(tmp_path).complete(requests))
    assert sorted(got, key=lambda one: one.key) == sorted(alone, key=lambda one: one.key)
    seen = {path.name for path in tmp_path.iterdir()}
    assert "died" in seen
    assert len(seen - {"died", str(os.getpid())}) >= 2, "more than one process answered"


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore")
def test_what_makes_asking_useless_is_an_error_and_ray_stays_usable(on_ray: None, tmp_path: Path) -> None:
    requests = [asked(f"r{number}") for number in range(12)]
    with pytest.raises(ModelError, match="no machine that Ray has can hold a worker"):
        OfflineModel(replace(Backwards(folder=tmp_path), gpus=1))
    with pytest.raises(ModelError, match="no weights on this machine") as unopened:
        list(OfflineModel(Unopenable(folder=tmp_path), workers=2).complete(requests))
    assert unopened.value.where == "worker 7"
    outcomes = OfflineModel(Backwards(folder=tmp_path), workers=1, group=1).complete(requests)
    next(outcomes)
    outcomes.close()
    again = OfflineModel(Backwards(folder=tmp_path), workers=2).complete(requests)
    assert {one.key for one in again} == {one.key for one in requests}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore")
def test_a_request_that_kills_every_worker_is_an_error(on_ray: None, tmp_path: Path) -> None:
    requests = [asked("r", "die always"), *(asked(f"r{number}") for number in range(12))]
    with pytest.raises(ModelError, match="worker process died") as died:
        list(OfflineModel(Backwards(folder=tmp_path), workers=2).complete(requests))
    assert "fewer workers" in str(died.value.fix)


@pytest.mark.parametrize("bad", [{"workers": 0}, {"group": 0}, {"window": 0}])
def test_less_than_one_is_refused(bad: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        OfflineModel(Backwards(folder=tmp_path), **bad)


def test_a_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match="Ray is not installed") as caught:
        OfflineModel(Backwards(folder=tmp_path))
    assert "radvqa[ray]" in str(caught.value.fix)


class Engine:
    """In place of Ray: answers in this process, then loses or doubles outcomes."""

    def __init__(self, machines: list[int], gpus: list[int], *, lose: int = 0, double: int = 0) -> None:
        self.machines, self.cards, self.lose, self.double = machines, gpus, lose, double
        self.asked: list[dict[str, Any]] = []

    def cores(self) -> list[int]:
        return self.machines

    def gpus(self) -> list[int]:
        return self.cards

    def answer(self, opened: Any, items: list[Request], **how: Any) -> list[Outcome]:
        self.asked.append(how)
        outcomes = opened()(items)
        return outcomes[self.lose :] + outcomes[: self.double]


def with_engine(monkeypatch: pytest.MonkeyPatch, engine: Engine, offline: Offline, **how: Any) -> OfflineModel:
    monkeypatch.setattr("radvqa.llm.offline.RayEngine", lambda **_: engine)
    return OfflineModel(offline, **how)


def test_doubled_outcomes_come_once_and_lost_ones_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    requests = [asked(f"r{number}") for number in range(5)]
    doubling = with_engine(monkeypatch, Engine([2], [0], double=3), Backwards(folder=tmp_path))
    assert [one.key for one in doubling.complete(requests)] == ["r0", "r1", "r2", "r3", "r4"]
    losing = with_engine(monkeypatch, Engine([2], [0], lose=2), Backwards(folder=tmp_path))
    with pytest.raises(ModelError, match="without an outcome") as caught:
        list(losing.complete(requests))
    assert (caught.value.expected, caught.value.got) == ("5 outcomes", "3")


@pytest.mark.parametrize(
    ("machines", "workers", "expected"),
    [
        ([2], None, (2, 1)),
        ([2], 1, (1, 2)),
        ([8, 8, 4], 3, (3, 6)),
        ([8, 4], 1, (1, 8)),  # no single machine has 12 cores
        ([2], 9, (9, 1)),
    ],
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, machines: list[int], workers: int | None, expected: tuple[int, int]
) -> None:
    engine = Engine(machines, [0])
    model = with_engine(monkeypatch, engine, Backwards(folder=Path("/nowhere"), gpus=0), workers=workers)
    assert list(model.complete([])) == [] == engine.asked
    model = with_engine(monkeypatch, engine, Unopenable(folder=Path("/nowhere")), workers=workers)
    with pytest.raises(ModelError):
        list(model.complete([asked("r")]))
    (how,) = engine.asked
    assert (how["workers"], how["cores"]) == expected


@pytest.mark.parametrize(
    ("cards", "gpus", "workers", "expected"), [([4, 1], 1, None, 5), ([4, 1], 2, None, 2), ([4, 1], 1, 2, 2)]
)
def test_workers_share_the_gpus(
    monkeypatch: pytest.MonkeyPatch, cards: list[int], gpus: int, workers: int | None, expected: int
) -> None:
    engine = Engine([8, 8], cards)
    model = with_engine(monkeypatch, engine, Unopenable(folder=Path("/nowhere"), gpus=gpus), workers=workers)
    with pytest.raises(ModelError):
        list(model.complete([asked("r")]))
    (how,) = engine.asked
    assert (how["workers"], how["cores"], how["group"], how["gpus"]) == (expected, 1, 4, gpus)


# vLLM


class FakeParams:
    def __init__(self, **values: Any) -> None:
        self.values = values


class FakeLlm:
    """As vLLM answers, from its documentation: in order; a batch with one impossible prompt is refused as a whole."""

    opened: dict[str, Any]
    batches: list[int]

    def __init__(self, **settings: Any) -> None:
        if settings["model"] == "nobody/nothing":
            raise OSError("nobody/nothing is not a model")
        type(self).opened, type(self).batches = settings, []

    def chat(self, messages: list[Any], *, sampling_params: list[FakeParams], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.batches.append(len(messages))
        if any("too long" in one[-1]["content"] for one in messages):
            raise ValueError("The decoder prompt (length 9000) is longer than the maximum model length of 2048.")
        return [self.one(each, params) for each, params in zip(messages, sampling_params, strict=True)]

    def one(self, messages: list[dict[str, str]], params: FakeParams) -> Any:
        held_to = params.values["structured_outputs"]
        text = "" if "silence" in messages[-1]["content"] else f"{messages[-1]['content']} {held_to and held_to.values}"
        ids = list(range(params.values["max_tokens"]))
        cut = "length" if "story" in text else "stop"
        return types.SimpleNamespace(
            prompt_token_ids=[1, 2, 3],
            outputs=[types.SimpleNamespace(text=text, token_ids=ids, finish_reason=cut)],
        )


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[FakeLlm]:
    package, params = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")
    package.LLM, package.SamplingParams = FakeLlm, FakeParams  # type: ignore[attr-defined]
    params.StructuredOutputsParams = FakeParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return FakeLlm


def test_vllm_answers_a_group_as_one_batch(vllm: type[FakeLlm]) -> None:
    offline = OfflineVllm.prepared("some/model", sampling=SAMPLING, revision="abc", gpus=2)
    model = offline.open(threads=1)
    schema = {"type": "object"}
    first, second, third = model.complete(
        [asked("a", "hello", schema=schema), asked("b", "story"), asked("c", "silence")]
    )
    assert vllm.batches == [3]
    assert isinstance(first, Reply) and isinstance(second, Reply) and isinstance(third, Failure)
    assert (first.key, first.text, first.finished) == ("a", "hello {'json': {'type': 'object'}}", True)
    assert (first.prompt_tokens, first.completion_tokens) == (3, 40)
    assert (second.text, second.finished) == ("story None", False)
    assert (third.key, third.reason) == ("c", "empty_reply")
    assert vllm.opened["model"] == "some/model"
    assert (vllm.opened["revision"], vllm.opened["max_model_len"]) == ("abc", 2048)
    assert vllm.opened["tensor_parallel_size"] == 2
    assert model.identity.facts["revision"] == "abc"


def test_vllm_refusing_one_request_does_not_cost_the_others(vllm: type[FakeLlm]) -> None:
    model = OfflineVllm.prepared("some/model", sampling=SAMPLING, revision="abc").open(threads=1)
    requests = [asked(f"r{number}") for number in range(100)]
    requests[37] = asked("b", "too long")
    outcomes = list(model.complete(requests))
    assert len(vllm.batches) < 20, "halved until it is alone, not asked one by one"
    assert [one.key for one in outcomes] == [one.key for one in requests]
    assert [type(one) for one in outcomes].count(Reply) == 99
    refused = outcomes[37]
    assert isinstance(refused, Failure)
    assert (refused.key, refused.reason) == ("b", "refused_request")
    assert "9000" in refused.detail


def test_vllm_that_cannot_open_is_an_error(vllm: type[FakeLlm]) -> None:
    with pytest.raises(ModelError, match="vLLM cannot open the model") as caught:
        OfflineVllm.prepared("nobody/nothing", sampling=SAMPLING, revision="abc").open(threads=1)
    assert "is not a model" in str(caught.value.got)


def test_a_missing_vllm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match="vLLM is not installed") as caught:
        OfflineVllm.prepared("some/model", sampling=SAMPLING, revision="abc").open(threads=1)
    assert "radvqa[vllm]" in str(caught.value.fix)


def test_vllm_folders_are_known_by_their_weights(vllm: type[FakeLlm], tmp_path: Path) -> None:
    folder = tmp_path / "qwen"
    folder.mkdir()
    with pytest.raises(ModelError, match="has no weights"):
        OfflineVllm.prepared(str(folder), sampling=SAMPLING)
    (folder / "model.safetensors").write_bytes(b"one")
    offline = OfflineVllm.prepared(str(folder), sampling=SAMPLING)
    assert (offline.identity.name, len(offline.identity.digest)) == ("qwen", 64)
    offline.open(threads=1)
    (folder / "model.safetensors").write_bytes(b"two")
    with pytest.raises(ModelError, match="another model"):
        offline.open(threads=1)


# Real weights


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_workers_reply_as_one_llama_cpp_does(on_ray: None, user_cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed")
    from radvqa.llm.llama_cpp import LlamaCppModel

    user_cache(monkeypatch)
    schema = {"type": "object", "properties": {"organ": {"type": "string", "maxLength": 30}}, "required": ["organ"]}
    texts = ("CT of the chest with a nodule.", "Fracture of the left wrist.", "word " * 3000, "A normal brain.")
    requests = [asked(f"r{number}", text, schema=schema) for number, text in enumerate(texts * 3)]
    alone = LlamaCppModel("embedded", sampling=SAMPLING, threads=1)
    expected = {one.key: replace(one, seconds=0.0) for one in alone.complete(requests)}
    alone.close()
    model = OfflineModel(OfflineLlamaCpp.prepared("embedded", sampling=SAMPLING), workers=2, group=2)
    assert model.identity == alone.identity
    assert {one.key: replace(one, seconds=0.0) for one in model.complete(requests)} == expected
    assert {type(one) for one in expected.values()} == {Reply, Failure}
