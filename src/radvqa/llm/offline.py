"""Batches for very many captions: copies of a language model on a Ray cluster (optional extra ``ray``)."""

import importlib.metadata
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, final

from radvqa.errors import ModelError, RunError
from radvqa.llm import Failure, ModelIdentity, Outcome, Reply, Request, Sampling, TextModel
from radvqa.llm.llama_cpp import Gguf, LlamaCppModel, gguf_file, llama_cpp_identity
from radvqa.run.engine import RayEngine
from radvqa.run.provenance import digest_files


class Offline(Protocol):
    """What workers open: a model by its settings. It is sent to them, so it must be picklable."""

    @property
    def group(self) -> int:
        """Requests that a worker best takes at a time."""

    @property
    def gpus(self) -> int:
        """GPUs that a worker holds; 0 for a model on the CPU."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model the workers open; it is the same in every process."""

    def open(self, *, threads: int) -> TextModel:
        """The model, in the process of a worker. ``threads``: CPU threads that it may use.

        Raises:
            ModelError: it cannot be opened, or is another than ``identity`` says.
        """


@final
class OfflineModel:
    """Answers requests through Ray Data, with one model in every worker.

    Requests are drawn ``window`` at a time, and outcomes come group by group as workers are done with them. A group
    whose worker dies is asked again by another; no outcome is lost or comes twice. Workers open their model anew for
    every window, which is why it is large: memory for 20,000 requests of 2,000 characters is about 40 MB.

    Args:
        offline: what the workers open.
        workers: model copies; None takes as many as the cluster has GPUs or, for a model on the CPU, cores.
        group: requests that go to a worker together; what suits the model, if None.
        window: requests that are drawn together.
        address: of a running cluster, as ``RayEngine`` takes it; None starts Ray on this machine.

    Raises:
        RunError: Ray is not installed, or cannot be started.
        ModelError: no machine of the cluster has the GPUs that a worker needs.
    """

    def __init__(
        self,
        offline: Offline,
        *,
        workers: int | None = None,
        group: int | None = None,
        window: int = 20_000,
        address: str | None = None,
    ) -> None:
        for name, value in (("workers", workers), ("group", group), ("window", window)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._offline = offline
        self._group = group or offline.group
        self._window = window
        # Ray warns on stderr, past Python, about arguments of every actor that may be restarted; Ray Data keeps them.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        self._engine = RayEngine(address=address)
        self._workers, self._threads = _shares(self._engine, workers, offline.gpus)

    @property
    def identity(self) -> ModelIdentity:
        """That of the model which the workers open."""
        return self._offline.identity

    def complete(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        """One outcome for every request, in the order in which workers are done.

        Raises:
            ModelError: the model cannot be opened, workers died again and again, or Ray cannot do its part.
        """
        rest = iter(requests)
        while window := list(islice(rest, self._window)):
            yield from self._answered(window)

    def close(self) -> None:
        """Nothing to free: workers end with their window, and Ray with this process."""

    def _answered(self, window: list[Request]) -> Iterator[Outcome]:
        waiting = {request.key for request in window}
        try:
            for outcome in self._engine.answer(
                partial(_opened, self._offline, self._threads),
                window,
                workers=self._workers,
                group=self._group,
                cores=self._threads,
                gpus=self._offline.gpus,
            ):
                if outcome.key in waiting:
                    waiting.remove(outcome.key)
                    yield outcome
        except RunError as error:
            raise ModelError(
                error.what, where=error.where, expected=error.expected, got=error.got, fix=error.fix
            ) from error
        if waiting:
            raise ModelError(
                "requests came back from the workers without an outcome",
                where=self.identity.name,
                expected=f"{len(window):,} outcomes",
                got=f"{len(window) - len(waiting):,}",
                fix="start again: what was answered stands",
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineLlamaCpp:
    """``LlamaCppModel`` in every worker, with the same replies. All machines need the file under the same path."""

    gguf: Gguf
    sampling: Sampling
    identity: ModelIdentity
    context_tokens: int = 2048
    wheels: Path | None = None
    group: int = 8
    gpus: int = 0

    @classmethod
    def prepared(
        cls,
        gguf: Gguf,
        *,
        sampling: Sampling,
        context_tokens: int = 2048,
        wheels: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> "OfflineLlamaCpp":
        """The settings, with the identity of the file as it is on this machine.

        Raises:
            ModelError: as ``LlamaCppModel``, except that the model is not loaded here.
        """
        path = gguf_file(gguf, wheels=wheels, say=say).resolve()
        return cls(
            gguf="embedded" if gguf == "embedded" else path,
            sampling=sampling,
            identity=llama_cpp_identity(path, sampling=sampling, context_tokens=context_tokens),
            context_tokens=context_tokens,
            wheels=wheels and wheels.resolve(),
        )

    def open(self, *, threads: int) -> TextModel:
        """The model, after a look that the file here is the one of the identity."""
        model = LlamaCppModel(
            self.gguf,
            sampling=self.sampling,
            context_tokens=self.context_tokens,
            threads=threads,
            wheels=self.wheels,
        )
        _require_identity(self.identity, model.identity)
        return model


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineVllm:
    """vLLM's offline engine in every worker (optional extra ``vllm``), on GPUs.

    ``model`` is a folder that all machines see under the same path, or a hub name with its ``revision``. vLLM batches
    what it is given, so that a reply can depend on the requests beside it: runs are alike, not equal.
    """

    model: str
    sampling: Sampling
    identity: ModelIdentity
    revision: str | None = None
    context_tokens: int = 2048
    group: int = 512
    gpus: int = 1

    @classmethod
    def prepared(
        cls,
        model: str,
        *,
        sampling: Sampling,
        revision: str | None = None,
        context_tokens: int = 2048,
        gpus: int = 1,
    ) -> "OfflineVllm":
        """The settings, with the digest of the weights where ``model`` is a folder on this machine.

        Raises:
            ModelError: the folder has no weights.
            DataError: they cannot be read.
        """
        folder = Path(model).expanduser()
        digest = _weights_digest(folder) if folder.is_dir() else ""
        facts = {"context_tokens": str(context_tokens)} | ({"revision": revision} if revision else {})
        return cls(
            model=str(folder.resolve()) if folder.is_dir() else model,
            sampling=sampling,
            identity=ModelIdentity(
                backend="vllm",
                name=folder.resolve().name if folder.is_dir() else f"{model}@{revision}" if revision else model,
                digest=digest,
                sampling=sampling,
                facts=facts | _installed("vllm"),
            ),
            revision=revision,
            context_tokens=context_tokens,
            gpus=gpus,
        )

    def open(self, *, threads: int) -> TextModel:
        """The model in this process. ``threads`` is left to vLLM."""
        if self.identity.digest:
            _require_identity(self.identity, replace(self.identity, digest=_weights_digest(Path(self.model))))
        return _VllmModel(self)


@final
class _VllmModel:
    """Answers all requests that it is given as one batch."""

    def __init__(self, settings: OfflineVllm) -> None:
        try:
            import vllm
            from vllm.sampling_params import StructuredOutputsParams
        except ImportError as error:
            raise ModelError(
                "vLLM is not installed on a worker",
                expected="the optional extra `vllm`, version 0.12 or later",
                got=str(error),
                fix="pip install 'radvqa[vllm]' on every machine of the cluster",
            ) from error
        self._settings = settings
        self._new_params = vllm.SamplingParams
        self._held_to = StructuredOutputsParams
        try:
            self._engine = vllm.LLM(
                model=settings.model,
                revision=settings.revision,
                seed=settings.sampling.seed,
                max_model_len=settings.context_tokens,
                tensor_parallel_size=settings.gpus,
                disable_log_stats=True,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(
                "vLLM cannot open the model",
                where=settings.model,
                got="\n".join(str(error).splitlines()[-3:]) or type(error).__name__,
                fix="check the name, its revision and the memory of the GPU; try a smaller context_tokens",
            ) from error

    @property
    def identity(self) -> ModelIdentity:
        return self._settings.identity

    def complete(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        batch = list(requests)
        try:
            outcomes = self._batch(batch)
        except ValueError as error:
            # One prompt that is too long, or one schema without a grammar, and vLLM refuses all of them.
            half = len(batch) // 2
            outcomes = (
                [*self.complete(batch[:half]), *self.complete(batch[half:])] if half else [_refused(batch, error)]
            )
        yield from outcomes

    def close(self) -> None:
        self._engine = None

    def _batch(self, batch: Sequence[Request]) -> list[Outcome]:
        start = time.monotonic()
        answers = self._engine.chat(
            [[{"role": one.role, "content": one.content} for one in request.messages] for request in batch],
            sampling_params=[self._params(request) for request in batch],
            use_tqdm=False,
        )
        each = (time.monotonic() - start) / len(batch)
        return [_vllm_outcome(request.key, answer, each) for request, answer in zip(batch, answers, strict=True)]

    def _params(self, request: Request) -> Any:
        sampling = self._settings.sampling
        return self._new_params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=sampling.max_tokens,
            structured_outputs=None if request.schema is None else self._held_to(json=dict(request.schema)),
        )


def _refused(batch: list[Request], error: ValueError) -> Failure:
    return Failure(key=batch[0].key, reason="refused_request", detail=str(error)[:300], attempts=1, seconds=0.0)


def _vllm_outcome(key: str, answer: Any, seconds: float) -> Outcome:
    reply = answer.outputs[0]
    if not reply.text.strip():
        detail = f"{len(reply.token_ids)} tokens without text"
        return Failure(key=key, reason="empty_reply", detail=detail, attempts=1, seconds=seconds)
    return Reply(
        key=key,
        text=reply.text,
        finished=reply.finish_reason != "length",
        prompt_tokens=len(answer.prompt_token_ids),
        completion_tokens=len(reply.token_ids),
        seconds=seconds,
    )


def _opened(offline: Offline, threads: int) -> Callable[[list[Request]], list[Outcome]]:
    model = offline.open(threads=threads)
    return lambda requests: list(model.complete(requests))


def _require_identity(expected: ModelIdentity, got: ModelIdentity) -> None:
    if got != expected:
        raise ModelError(
            "a worker has another model or runtime than the process that started it",
            where=expected.name,
            expected=f"sha256 {expected.digest}, {dict(expected.facts)}",
            got=f"sha256 {got.digest}, {dict(got.facts)}",
            fix="put the same files and the same packages on every machine of the cluster",
        )


def _shares(engine: RayEngine, workers: int | None, gpus: int) -> tuple[int, int]:
    """How many workers, and how many cores each: an equal share, but not more than one machine has."""
    cores = engine.cores()
    if not gpus:
        number = workers or sum(cores)
        return number, max(1, min(sum(cores) // number, cores[0]))
    places = [each // gpus for each in engine.gpus()]
    if not sum(places):
        raise ModelError(
            "no machine that Ray has can hold a worker",
            expected=f"{gpus} GPUs on one machine",
            got=f"at most {max(engine.gpus(), default=0)}",
            fix="give the address of a cluster with GPUs, or use offline_llama_cpp, which needs none",
        )
    return workers or sum(places), 1


def _weights_digest(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError("the model folder has no weights", where=str(folder), expected="*.safetensors")
    return sha256("".join(digest_files(files).values()).encode("ascii")).hexdigest()


def _installed(package: str) -> dict[str, str]:
    try:
        return {package: importlib.metadata.version(package)}
    except importlib.metadata.PackageNotFoundError:
        return {}
